"""The optimiser against its equations in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scalearn_jax import tree
from scalearn_jax.train import optim

PARAMS = {
    "transfer": {"omega": jnp.array([0.5, -2.0, 3.0])},
    "heads": {"t": {"out": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.3])}}},
}
# 1 - 0.999^t keeps four digits in float32; steps are 0.02 to 0.05. The conformance runs compare in float64.
ROUNDING = 5e-6


def gradients(step):
    return jax.tree.map(lambda leaf: jnp.cos(leaf * (step + 1)), PARAMS)


def run(tx, num_steps=5):
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(num_steps):
        updates, state = tx.update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(path, value, *, rate, num_steps, decay, rates=None, clip_norm=np.inf, optax_form=False):
    """Five steps at given rates, by default those of a linear decay, on gradients scaled to a largest global norm."""
    m = v = np.zeros_like(value)
    for step in range(5):
        grads = {name: np.asarray(leaf, float) for name, leaf in tree.flatten(gradients(step)).items()}
        norm = np.sqrt(sum((g * g).sum() for g in grads.values()))
        g = grads[path] * min(1.0, clip_norm / (norm + 1e-6))
        m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, step + 1
        lr = rate * (num_steps - step) / num_steps if rates is None else rates[step]
        if optax_form:
            value = value - lr * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * value)
        else:
            value = value - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
            value = value - lr * decay * value
    return value


def assert_by_hand(params, decay, **options):
    """Checks what five of eight steps at rate 0.02 have made of all parameters; biases do not decay."""
    for path, start in tree.flatten(PARAMS).items():
        own = 0.0 if path.endswith("bias") else decay
        expected = by_hand(path, np.asarray(start, float), rate=0.02, num_steps=8, decay=own, **options)
        np.testing.assert_allclose(tree.flatten(params)[path], expected, atol=ROUNDING, err_msg=path)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_published_adamw_is_its_equations(decay):
    tx = optim.make_optimizer(
        learning_rate=0.02, num_steps=8, trainable=("transfer", "head"), weight_decay=decay, clip_norm=None
    )
    assert_by_hand(run(tx), decay)


@pytest.mark.parametrize("form", optim.OPTIMIZERS)
def test_every_option_together_is_its_equations(form):
    """Warm-up over two of eight steps, decay, and gradients of norm 1.2 to 2.0 clipped to 1.7."""
    norms = [float(optax.tree.norm(gradients(step))) for step in range(5)]
    assert min(norms) < 1.7 < max(norms)
    rates = [0.0, 0.01, 0.02, 0.02 * 5 / 6, 0.02 * 4 / 6]
    tx = optim.make_optimizer(
        learning_rate=0.02,
        num_steps=8,
        trainable=("transfer", "head"),
        optimizer=form,
        warmup_steps=2,
        weight_decay=0.3,
        clip_norm=1.7,
    )
    assert_by_hand(run(tx), 0.3, rates=rates, clip_norm=1.7, optax_form=form == "optax")


def test_what_is_frozen_stays():
    tx = optim.make_optimizer(learning_rate=0.05, num_steps=8, trainable=("transfer",), clip_norm=None)
    params = run(tx)
    chex.assert_trees_all_equal(params["heads"], PARAMS["heads"])
    expected = by_hand(
        "transfer/omega", np.asarray(PARAMS["transfer"]["omega"], float), rate=0.05, num_steps=8, decay=0
    )
    np.testing.assert_allclose(params["transfer"]["omega"], expected, atol=ROUNDING)


def test_optax_form_differs_only_in_epsilon_and_decay_order():
    options = dict(learning_rate=0.02, num_steps=8, trainable=("transfer", "head"))
    published, plain = (run(optim.make_optimizer(optimizer=name, **options)) for name in ("published", "optax"))
    chex.assert_trees_all_close(published, plain, rtol=1e-5)


def test_warm_up_rises_then_falls_to_zero():
    schedule = optim.linear_decay(1.0, 10, warmup_steps=2)
    np.testing.assert_allclose([schedule(k) for k in (0, 1, 2, 6, 10)], [0, 0.5, 1, 0.5, 0], atol=1e-7)


def test_clipping_has_the_published_denominator():
    grads = {"a": jnp.array([3.0, 4.0])}
    clipped, _ = optim.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    np.testing.assert_allclose(clipped["a"], np.array([3.0, 4.0]) / (5 + 1e-6), rtol=1e-7)
    small, _ = optim.clip_by_global_norm(10.0).update(grads, optax.EmptyState())
    chex.assert_trees_all_equal(small, grads)


def test_one_of_ones_own_sees_all_trainable_groups_together():
    own = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    found = run(optim.make_optimizer(learning_rate=9.0, num_steps=9, trainable=("transfer", "head"), optimizer=own))
    chex.assert_trees_all_close(found, run(own))
    found = run(optim.make_optimizer(learning_rate=9.0, num_steps=9, trainable=("transfer",), optimizer=own))
    chex.assert_trees_all_equal(found["heads"], PARAMS["heads"])


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'optax'"):
        optim.make_optimizer(learning_rate=1.0, num_steps=1, trainable=("head",), optimizer="optx")


@pytest.mark.parametrize(
    ("path", "decays"),
    [
        ("transfer/omega", True),
        ("backbone/layers/query/kernel", True),
        ("heads/t/out/bias", False),
        ("heads/my:norms/out/kernel", True),
        ("backbone/layers/output_norm/scale", False),
        ("backbone/embeddings/norm/bias", False),
    ],
)
def test_weight_decay_skips_biases_and_norms(path, decays):
    assert optim.decays(path) is decays


JOINT = {
    "transfer": {"rule": jnp.array([1.0, 2.0]), "tasks": {"a": {"x": jnp.array([-0.0, 3.0])}, "b": {"x": jnp.ones(2)}}},
    "heads": {"a": {"bias": jnp.array([0.5])}, "b": {"bias": jnp.array([0.25])}},
}


@pytest.mark.parametrize("optimizer", optim.OPTIMIZERS)
def test_a_step_on_a_task_leaves_all_that_is_of_others_to_the_bit(optimizer):
    """Value, moments and step count; and after its own steps a leaf is as if there had been no others."""
    settings = dict(learning_rate=0.1, num_steps=10, trainable=("transfer", "head"), clip_norm=None)
    tx = optim.make_optimizer(**settings, optimizer=optimizer, tasks=("a", "b"))
    alone = optim.make_optimizer(**settings, optimizer=optimizer)
    update = jax.jit(lambda grads, state, params, task: tx.update(grads, state, params, task=task))
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.7), JOINT)
    params, state = JOINT, tx.init(JOINT)
    for step, task in enumerate([1, 0, 1]):
        updates, changed = update(grads, state, params, task)
        after = optax.apply_updates(params, updates)
        other = "ba"[task]
        for path, leaf in tree.flatten(after).items():
            same = np.asarray(leaf).tobytes() == np.asarray(tree.flatten(params)[path]).tobytes()
            assert same == (f"/{other}/" in path), (step, path)
        for path, leaf in tree.flatten(changed).items():
            if f"inner_states/{other}/" in path:
                assert np.asarray(leaf).tobytes() == np.asarray(tree.flatten(state)[path]).tobytes(), path
        params, state = after, changed

    own = {"transfer": JOINT["transfer"]["tasks"]["a"], "heads": JOINT["heads"]["a"]}  # its one step was the second
    first = alone.init(own)
    moved = jax.tree.map(lambda leaf: leaf, alone.update(jax.tree.map(jnp.zeros_like, own), first, own)[1])
    expected, _ = alone.update(jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.7), own), _at_rate(moved, first), own)
    found = {"transfer": params["transfer"]["tasks"]["a"], "heads": params["heads"]["a"]}
    chex.assert_trees_all_close(found, optax.apply_updates(own, expected), rtol=1e-6)


def _at_rate(moved, first):
    """The state whose schedule has moved on, and nothing else."""
    kept = jax.tree.map(lambda leaf: leaf, first)
    states = {name: state for name, state in kept.inner_states.items()}
    for name, state in states.items():
        inner = state.inner_state
        if hasattr(inner, "step"):
            states[name] = state._replace(inner_state=inner._replace(step=moved.inner_states[name].inner_state.step))
    return kept._replace(inner_states=states)


def test_scores_learn_at_their_own_rate_and_never_decay():
    params = {"transfer": {"scores": {"down": jnp.ones(2)}, "adapter": {"kernel": jnp.ones(2)}}}
    settings = dict(learning_rate=0.1, num_steps=10, trainable=("transfer",), clip_norm=None)
    grads = jax.tree.map(jnp.ones_like, params)
    found = {}
    for factors in ((), (("/scores/", 10.0),)):
        tx = optim.make_optimizer(**settings, factors=factors)
        found[factors] = tx.update(grads, tx.init(params), params)[0]["transfer"]
    slow, fast = found.values()
    chex.assert_trees_all_equal(fast["adapter"], slow["adapter"])
    chex.assert_trees_all_close(fast["scores"], jax.tree.map(lambda leaf: 10 * leaf, slow["scores"]), rtol=1e-6)
    assert optim.decays("transfer/adapter/kernel") and not optim.decays("transfer/tasks/a/scores/down")
