"""The training step: what learns, what stays, and what members share."""

import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import methods, model, tree
from scalearn_jax.train import sharding
from scalearn_jax.train import state as states
from scalearn_jax.train.compile import compile_train_step
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.step import make_loss, make_train_step, skip_faults
from tests.support import tiny

TRAINED = ("single", "scalearn", "scalearn-uniform++", "fusion", "soup", "full")


class Run(NamedTuple):
    """A method trained for a few steps by members with their own data: what it began with, and what came out."""

    first: Any  # the trainable half
    state: Any
    before: Any  # the frozen half
    after: Any
    metrics: Any


def repeated(params, count):
    """Stacks a tree with itself, once for each member."""
    return jax.tree.map(lambda leaf: np.stack([leaf] * count), params)


def train(method_name, *groups, spec=None, num_devices=1):
    """Compiles the step of a method once for each number of members; returns a ``Run`` for each group of seeds."""
    method = methods.get(method_name)
    spec = spec or tiny.spec(method.combiner, layers="scan")
    trainable, frozen = tree.partition(tiny.params(spec), methods.is_trainable(method))
    before = jax.tree.map(np.array, frozen)
    tx = make_optimizer(learning_rate=0.01, num_steps=10, trainable=method.trainable)
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    loss = chex.assert_max_traces(make_loss(spec, "demo", "classification"), n=len(set(map(len, groups))))
    step = compile_train_step(make_train_step(loss, tx), mesh)
    create = jax.jit(jax.vmap(lambda one, key: states.create(one, tx, key)))
    frozen, runs = sharding.replicate(frozen, mesh), []
    for seeds in groups:
        first = repeated(trainable, len(seeds))
        state = sharding.replicate(create(first, jnp.stack([jax.random.key(seed) for seed in seeds])), mesh)
        for number in range(3):
            each = [tiny.batch(seed=10 * seed + number) for seed in seeds]
            state, metrics = step(state, frozen, jax.tree.map(lambda *leaves: np.stack(leaves), *each))
        runs.append(Run(first, state, before, frozen, metrics))
    return runs


@functools.cache
def trained(name):
    """The run of a single member."""
    return train(name, (0,))[0]


@pytest.mark.parametrize("name", TRAINED)
def test_only_the_trainable_half_moves(name):
    """And equal shapes are traced once, see ``train``."""
    run = trained(name)
    chex.assert_trees_all_equal(run.before, run.after)  # frozen leaves are bit-identical
    moved = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), run.first, run.state.trainable)
    assert all(jax.tree.leaves(moved)), tree.flatten(moved)
    assert np.isfinite(run.metrics["loss"]).all() and (np.asarray(run.metrics["grad_norm"]) > 0).all()
    assert run.state.step.tolist() == [3]


def test_state_holds_nothing_frozen():
    _, state, _, frozen, _ = trained("scalearn-uniform++")
    assert set(tree.paths(state.trainable)).isdisjoint(tree.paths(frozen))
    transfer = tree.num_parameters(state.trainable["transfer"])
    assert transfer == tiny.NUM_SOURCES
    moments = 2 * tree.num_parameters(state.trainable)
    counters = 8  # counts of the optimiser groups
    assert moments <= tree.num_parameters(state.opt_state) <= moments + counters


@pytest.mark.slow
def test_members_equal_separate_runs():
    backbone = dataclasses.replace(tiny.BACKBONE, hidden_dropout=0.1, attention_dropout=0.1)
    spec = tiny.spec("scalearn", backbone=backbone, layers="scan")  # with every dropout on
    together, *apart = train("scalearn", (3, 5, 8), (3,), (5,), (8,), spec=spec)
    for index, alone in enumerate(apart):
        expected = tree.index(alone.state.trainable, 0)
        # one Adam step moves 0.01 whatever the gradient's size, so rounding may show in tiny gradients
        chex.assert_trees_all_close(tree.index(together.state.trainable, index), expected, atol=2e-5)
    omega = together.state.trainable["transfer"]["omega"]
    assert not np.allclose(omega[0], omega[1], atol=1e-4)


@pytest.mark.slow
def test_sharded_equals_single_device():
    [single] = train("scalearn", (0, 1))
    chex.clear_trace_counter()  # each mesh has its own program
    [sharded] = train("scalearn", (0, 1), num_devices=4)
    single, sharded = single.state.trainable, sharded.state.trainable
    chex.assert_trees_all_close(jax.tree.map(np.asarray, single), jax.tree.map(np.asarray, sharded), atol=2e-5)


def test_penalty_starts_with_the_second_step_and_stays_out_of_the_loss():
    plain, penalised = (tiny.spec("scalearn", options={"dropout": 0.0, "penalty_weight": w}) for w in (0.0, 5.0))
    params, batch, key = tiny.params(plain), tiny.batch(), jax.random.key(0)
    nothing = jax.tree.map(lambda leaf: None, params)

    def first_steps(spec):
        loss = make_loss(spec, "demo", "classification")
        values, metrics = jax.vmap(lambda step: loss(params, nothing, batch, key, step))(jnp.arange(2))
        return values, metrics["loss"]

    (_, (_, loss)), (values, reported) = jax.jit(lambda: (first_steps(plain), first_steps(penalised)))()
    omega = params["transfer"]["omega"]
    penalty = 5.0 * float(((1 - omega.mean(-1)) ** 2).sum()) / tiny.NUM_SOURCES
    assert values[0] == loss and reported.tolist() == [loss, loss]
    assert float(values[1]) == pytest.approx(float(loss) + penalty, rel=1e-5)


def test_fillers_of_a_short_batch_count_nothing():
    spec = tiny.spec("scalearn")
    params, batch = tiny.params(spec), tiny.batch()
    short = batch._replace(example_mask=np.array([True, True, False, False]))
    nonsense = short._replace(labels=np.where(short.example_mask, short.labels, 2 - short.labels).astype(np.int32))
    loss = make_loss(spec, "demo", "classification")
    nothing = jax.tree.map(lambda leaf: None, params)
    forward = jax.jit(lambda b: (loss(params, nothing, b, None, 0)[0], model.apply(params, b, spec=spec, task="demo")))
    (first, logits), (second, _) = forward(short), forward(nonsense)
    each = -jax.nn.log_softmax(logits)[jnp.arange(4), batch.labels]
    assert first == second and float(first) == pytest.approx(float(each[:2].mean()), rel=1e-6)


def faulty(when, limit):
    """A step whose loss is not finite at some steps, on two numbers; returns the states after each of eight."""

    def loss_fn(trainable, frozen, batch, key, step, part=None):
        loss = (trainable["heads"]["x"] ** 2).sum() * jnp.where(jnp.isin(step, jnp.array(when)), jnp.inf, 1.0)
        return loss, {"loss": loss}

    tx = make_optimizer(learning_rate=0.1, num_steps=8, trainable=("head",), clip_norm=1.0)
    step, batch = jax.jit(skip_faults(make_train_step(loss_fn, tx), limit)), tiny.batch()
    state = states.create({"heads": {"x": jnp.array([1.0, 2.0])}}, tx, jax.random.key(0))
    found = [state]
    for _ in range(8):
        found.append(step(found[-1], {}, batch)[0])
    return found


def test_a_fault_changes_nothing_but_the_count():
    after = faulty([2, 3, 6], limit=3)
    for at in range(8):
        before, now = after[at], after[at + 1]
        same = (before.trainable["heads"]["x"] == now.trainable["heads"]["x"]).all()
        assert bool(same) == (at in (2, 3, 6))
        if at in (2, 3, 6):
            chex.assert_trees_all_equal(before.opt_state, now.opt_state)
        assert int(now.step) == at + 1
    faults = after[-1].faults
    assert (int(faults.skipped), int(faults.in_a_row), int(faults.step)) == (3, 0, 6)
    assert np.isfinite(after[-1].trainable["heads"]["x"]).all()


def test_after_too_many_faults_in_a_row_nothing_changes_any_more():
    after = faulty([2, 3, 4], limit=3)
    for now in after[5:]:
        chex.assert_trees_all_equal(now.trainable, after[2].trainable)
        chex.assert_trees_all_equal(now.faults, after[5].faults)
    faults = after[-1].faults
    assert (int(faults.skipped), int(faults.in_a_row), int(faults.step)) == (3, 3, 4)
    assert not np.isfinite(faults.gradient_norms["heads"]) and np.isfinite(faults.parameter_norms["heads"])


def test_without_a_limit_faults_never_end_a_run():
    after = faulty(list(range(7)), limit=0)
    assert int(after[-1].faults.skipped) == 7 and not np.array_equal(
        after[-1].trainable["heads"]["x"], after[0].trainable["heads"]["x"]
    )
