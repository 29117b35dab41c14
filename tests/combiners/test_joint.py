"""Laws of the joint combiners: what a task's adapter is, what tasks share, and how many parameters there are."""

import dataclasses
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import combiners, methods, model, tree
from scalearn_jax.data.mixture import joint_batch
from scalearn_jax.models import bank as banks
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train.step import make_loss
from tests.support import tiny

TASKS = ("a", "b/c", "d")
KINDS = ("classification", "regression", "choice")
HEADS = (HeadSpec(num_outputs=3), HeadSpec(num_outputs=1), HeadSpec("own_pooled", 1, 2))
OWN = ("propetl-m", "hyperformer", "hyperformer++")
_apply = jax.jit(model.apply, static_argnames=("spec", "task"))


def joint_spec(combiner, tasks=TASKS, **changes):
    heads = dict(zip(TASKS, HEADS, strict=True))
    heads = tuple((task, dataclasses.replace(heads[task], dropout=0.0)) for task in tasks)
    return tiny.spec(combiner, heads=heads, options={"tasks": tasks} if combiner in OWN else {}, **changes)


@cache
def params_of(combiner, tasks=TASKS):
    return tiny.params(joint_spec(combiner, tasks))


def batch_of(number, spec):
    batch = tiny.batch()
    if spec.heads[number][1].num_choices > 1:  # two sequences an example
        batch = batch._replace(labels=batch.labels[:2] % 2, example_mask=batch.example_mask[:2])
        batch = batch._replace(example_id=batch.example_id[:2])
    return batch


@pytest.mark.parametrize("combiner", [*OWN, "single", "none"])
def test_a_task_by_its_number_is_the_task_by_its_name(combiner):
    """Also in a batch that is filled up to the choices and outputs of other tasks, in value and loss."""
    spec, params = joint_spec(combiner), params_of(combiner)
    halves = tree.partition(params, lambda path: True)
    for number, (task, head) in enumerate(spec.heads):
        own = batch_of(number, spec)
        filled = joint_batch(own, number, 2, spec.num_logits)
        expected = _apply(params, own, spec=spec, task=task)
        found = _apply(params, filled, spec=spec, task=None)
        chex.assert_trees_all_close(found[:, : head.num_logits], expected, rtol=1e-5, atol=1e-5)
        assert not np.asarray(found[:, head.num_logits :]).any()
        alone = make_loss(spec, task, KINDS[number])(*halves, own, jax.random.key(0), 0)[0]
        joint = jax.jit(make_loss(spec, None, KINDS))(*halves, filled, jax.random.key(0), 0)[0]
        np.testing.assert_allclose(joint, alone, rtol=1e-5)


@pytest.mark.parametrize("combiner", OWN)
def test_the_adapter_of_a_task_is_an_ordinary_one(combiner):
    spec, params, batch = joint_spec(combiner), params_of(combiner), tiny.batch()
    for number, task in enumerate(TASKS[:2]):
        site = model.adapt(params, spec=spec, task=number).site
        phi = spec.combiner_functions.apply.keywords["name"]
        alone = dataclasses.replace(spec, combiner="single", combiner_options=(), num_sources=1, non_linearity=phi)
        alone = alone.with_options(norm_after=True) if "norm" in site else alone
        bank = jax.tree.map(lambda leaf: leaf[:, None], site)
        shapes = jax.eval_shape(lambda alone=alone: model.init(jax.random.key(0), alone))["adapters"]
        chex.assert_trees_all_equal_shapes(bank, shapes)
        found = _apply(params | {"transfer": {}, "adapters": bank}, batch, spec=alone, task=task)
        chex.assert_trees_all_close(found, _apply(params, batch, spec=spec, task=task), rtol=1e-5, atol=1e-5)
        assert (np.asarray(site["down"]["kernel"][0]) != np.asarray(site["down"]["kernel"][1])).any()


@pytest.mark.parametrize("combiner", OWN)
def test_permuted_tasks_permute_what_is_theirs(combiner):
    spec, params, order = joint_spec(combiner), params_of(combiner), (2, 0, 1)
    permuted = joint_spec(combiner, tuple(TASKS[number] for number in order))
    for place, number in enumerate(order):
        batch = joint_batch(batch_of(number, spec), number, 2, spec.num_logits)
        expected = _apply(params, batch, spec=spec, task=None)
        found = _apply(params, batch._replace(task=np.int32(place)), spec=permuted, task=None)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_propetl_with_masks_of_ones_is_the_shared_adapter():
    """Where the scores of the layers keep all, one adapter serves every layer and task."""
    spec, params, batch = joint_spec("propetl-m"), params_of("propetl-m"), tiny.batch()
    keeps_all = spec.with_options(sparsity=1.0)
    shared = params["transfer"]["adapter"]
    bank = jax.tree.map(lambda leaf: jnp.stack([leaf[None]] * spec.backbone.num_layers), shared)
    single = dataclasses.replace(spec, combiner="single", combiner_options=(), num_sources=1)
    expected = _apply(params | {"transfer": {}, "adapters": bank}, batch, spec=single, task="a")
    chex.assert_trees_all_close(_apply(params, batch, spec=keeps_all, task="a"), expected, rtol=1e-6)
    assert (np.asarray(_apply(params, batch, spec=spec, task="a")) != np.asarray(expected)).any()


def test_masks_of_tasks_and_layers_join_by_or_and_pass_their_gradient():
    """By hand: of two entries one is kept, and the gradient of the OR reaches a score where the other mask is 0."""
    combiner = combiners.make("propetl-m", sparsity=0.5)
    one = {"kernel": jnp.array([[2.0, 3.0]]), "bias": jnp.zeros(2)}  # d = 1, r = 2
    transfer = {
        "adapter": {"down": one, "up": {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.zeros(1)}},
        "scores": {"down": jnp.array([[[0.1, -0.4]]]), "up": jnp.array([[[0.3], [0.2]]])},
        "own": {"scores": {"down": jnp.array([[-0.5, 0.2]]), "up": jnp.array([[0.4], [0.1]])}},
    }
    bank = banks.zeros(banks.BankShape(1, 0, 1, 2))
    site = combiner.bind(transfer, bank)
    assert site["down"]["kernel"].tolist() == [[[2.0, 3.0]]] and site["up"]["kernel"].tolist() == [[[1.0], [0.0]]]
    grads = jax.grad(lambda transfer: combiner.bind(transfer, bank)["down"]["kernel"].sum())(transfer)
    assert grads["own"]["scores"]["down"].tolist() == [[-2.0, 0.0]]  # sign times kernel, where the layer keeps nothing
    assert grads["scores"]["down"].tolist() == [[[0.0, -3.0]]]


COUNTS = {  # JOINT methods at the size of roberta-base, eight tasks: published, and of scores those of each own layer
    "hyperformer": 59_420_544,
    "hyperformer++": 5_095_024,
    "propetl": 74_544 + 1_474_560,
    "adapter": 894_528,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name):
    row, shape = methods.JOINT[name], banks.BankShape(12, 0, 768, 48)
    if name == "adapter":
        found = jax.eval_shape(lambda: banks.init(jax.random.key(0), shape._replace(num_sources=1)))
    else:
        combiner = combiners.make(row.combiner, tasks=tuple("abcdefgh"))
        found = jax.eval_shape(lambda: combiner.init(jax.random.key(0), shape))
    assert tree.num_parameters(found) == COUNTS[name]


def test_first_numbers_are_drawn_as_in_the_release():
    """Task embeddings N(0, 1), layer embeddings and generators N(0, 0.02), biases 0; scores uniform by fan-in."""
    shape = banks.BankShape(3, 0, 64, 16)
    made = combiners.make("hyperformer++", tasks=("a", "b")).init(jax.random.key(0), shape)
    own = np.stack([made["tasks"][task]["embedding"] for task in "ab"])
    assert abs(own.std() - 1) < 0.1 and abs(own[0] - own[1]).max() > 0.5
    for leaf in (made["layer_embedding"], made["down_kernel"]["kernel"], made["norm_scale"]["kernel"]):
        assert abs(float(leaf.std()) / 0.02 - 1) < 0.1
    assert not made["norm_scale"]["bias"].any()
    scores = combiners.make("propetl-m", tasks=("a",)).init(jax.random.key(0), shape)
    for part, bound in (("down", 64**-0.5), ("up", 16**-0.5)):
        for leaf in (scores["scores"][part], scores["tasks"]["a"]["scores"][part]):
            assert 0.95 * bound < float(abs(leaf).max()) <= bound
