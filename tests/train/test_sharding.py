"""The mesh: what its axes may be, where parameters lie, what devices say to each other, and that results stay."""

import dataclasses
import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import methods, model, tree
from scalearn_jax.combiners.base import by_group
from scalearn_jax.data.batches import ROW_FIELDS
from scalearn_jax.errors import InputError
from scalearn_jax.models import encoder
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train import sharding
from scalearn_jax.train import state as states
from scalearn_jax.train.compile import compile_train_step, forward
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.sharding import check_mesh
from scalearn_jax.train.step import make_loss, make_train_step, skip_faults
from tests.support import tiny

# eight heads, and every dropout on
BACKBONE = dataclasses.replace(tiny.BACKBONE, num_heads=8, hidden_dropout=0.1, attention_dropout=0.1)
LENGTHS = (5, 3, 7, 4, 8, 2, 6, 1)


@dataclasses.dataclass
class Training:
    """A method on a mesh, ready to step."""

    step: object
    state: object
    frozen: object
    num_trainable: int


def prepare(name, mesh, backbone=BACKBONE, num_sources=4, bottleneck=8, head=None):
    method = methods.get(name)
    options = dict(method.options) | ({"dropout": 0.1} if name == "fusion" else {})
    spec = tiny.spec(
        method.combiner,
        options=options,
        backbone=backbone,
        num_sources=1 if name == "single" else num_sources,
        bottleneck=bottleneck,
        heads=(("demo", head or HeadSpec(num_outputs=3)),),
    )
    trainable, frozen = tree.partition(tiny.params(spec), methods.is_trainable(method))
    tx = make_optimizer(learning_rate=method.learning_rate, num_steps=50, trainable=method.trainable)
    loss = make_loss(spec, "demo", "classification", forward(mesh))
    state = jax.vmap(lambda one, key: states.create(one, tx, key))(tree.stack([trainable]), jax.random.key(7)[None])
    return Training(
        compile_train_step(skip_faults(make_train_step(loss, tx)), mesh),
        sharding.replicate(state, mesh),
        sharding.place_frozen(frozen, mesh, backbone.num_heads),
        tree.num_parameters(trainable),
    )


def batch(step, padding=0):
    """Eight rows, and filler rows such as a mesh may ask for."""
    one = tiny.batch(LENGTHS, seed=step)
    padded = {name: np.pad(getattr(one, name), ((0, padding), (0, 0))) for name in ROW_FIELDS}
    return jax.tree.map(lambda leaf: leaf[None], one._replace(**padded))


def train(name, mesh, num_steps=50, padding=0, backbone=BACKBONE):
    """Returns the losses and the last trainable tree."""
    run, losses = prepare(name, mesh, backbone), []
    for number in range(num_steps):
        run.state, metrics = run.step(run.state, run.frozen, batch(number, padding))
        losses.append(metrics["loss"])
    return np.asarray(jnp.stack(losses))[:, 0], jax.tree.map(np.asarray, run.state.trainable)


@functools.cache
def one_device(name):
    return train(name, sharding.make_mesh(devices=jax.devices()[:1]))


# Every shape, and every kind of site. Padding: filler rows, to a multiple of ``data``.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, text, padding",
    [
        ("scalearn", "data=8", 8),
        ("scalearn", "data=1,model=8", 0),
        ("scalearn-uniform++", "data=4,model=2", 0),
        ("single", "data=8", 0),
        ("fusion", "data=2,model=4", 8),
    ],
)
def test_a_mesh_equals_one_device_over_fifty_steps(name, text, padding):
    losses, trained = one_device(name)
    found, other = train(name, sharding.make_mesh(text), padding=padding)
    np.testing.assert_allclose(found, losses, atol=1e-5, rtol=1e-5)
    for path, leaf in tree.flatten(trained).items():
        np.testing.assert_allclose(tree.flatten(other)[path], leaf, atol=1e-4, err_msg=path)


@pytest.mark.slow
def test_a_mesh_shares_out_relative_positions_with_rows_and_heads():
    backbone = dataclasses.replace(BACKBONE, family="mpnet", type_vocab_size=0)
    one, many = sharding.make_mesh(devices=jax.devices()[:1]), sharding.make_mesh("data=2,model=4")
    (losses, trained), (found, other) = (train("scalearn", mesh, 3, backbone=backbone) for mesh in (one, many))
    np.testing.assert_allclose(found, losses, atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(other, trained, atol=1e-4)


@pytest.mark.parametrize("combiner", ["scalearn", "compacter"])
def test_binding_a_copy_for_each_group_of_rows_changes_nothing(combiner):
    spec = tiny.spec(combiner)
    params = tiny.params(spec)

    def loss(transfer, groups):
        all_params, combiner = params | {"transfer": transfer}, by_group(spec.combiner_functions, groups)
        logits = model.apply(all_params, tiny.batch(), spec=spec, task="demo", combiner=combiner)
        return (logits**2).sum()

    one, two = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(params["transfer"], groups) for groups in (1, 2))
    chex.assert_trees_all_close(one, two, rtol=1e-5, atol=1e-5)


COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "u16": 2, "pred": 1, "s8": 1, "u8": 1}


def collectives(program):
    """Lists (operation, bytes) of a compiled program; what a collective gives has the size of what it takes or more."""
    found = re.findall(rf"= (\(.*?\)|\S+) ({COLLECTIVES})(?:-start)?\(", program)
    sizes = lambda shapes: re.findall(r"(\w+)\[([\d,]*)\]", shapes)  # noqa: E731
    size = lambda kind, shape: BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)  # noqa: E731
    return [(operation, sum(size(*one) for one in sizes(shapes))) for shapes, operation in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scalearn", "scalearn-uniform++", "single", "fusion"])
def test_devices_exchange_features_and_gradients_only(name):
    """The head's gradient, by far the largest part for ScaLearn, is computed everywhere and never sent."""
    mesh = sharding.make_mesh("data=8")
    backbone = dataclasses.replace(BACKBONE, hidden_size=64, intermediate_size=128, num_heads=4)
    run = prepare(name, mesh, backbone=backbone, bottleneck=16)
    found = collectives(run.step.lower(run.state, run.frozen, batch(0)).compile().as_text())
    features = 4 * len(LENGTHS) * backbone.hidden_size
    below_the_head = 4 * (run.num_trainable - tree.num_parameters(run.state.trainable["heads"]))
    if name in ("single", "fusion"):  # every device has all first tokens, hence the last of two layers' gradient whole
        below_the_head //= 2
    assert {operation for operation, _ in found} == {"all-reduce"}
    assert sum(size for _, size in found) == 2 * features + below_the_head  # what is attended to, and the residual
    assert sum(size for _, size in found) <= 1.1 * 4 * run.num_trainable


def test_collectives_are_read_off_a_program():
    program = "%a = (f32[2,3]{1,0}, f32[4]{0}) all-reduce(%b, %c)\n%d = bf16[8]{0} all-gather-start(%e), x=1"
    assert collectives(program) == [("all-reduce", 40), ("all-gather", 16)]


def lies(name, mesh, **changes):
    """How each frozen leaf lies: path -> axes."""
    frozen = prepare(name, mesh, **changes).frozen
    return {path: tuple(leaf.sharding.spec) for path, leaf in tree.flatten(frozen).items()}


def test_frozen_parameters_lie_as_the_table_says():
    where = lies("scalearn", sharding.make_mesh("data=2,model=4"))
    layer = "backbone/layers/"
    assert where[layer + "query/kernel"] == where[layer + "intermediate/kernel"] == (None, None, "model")
    assert where[layer + "value/bias"] == where[layer + "attention_output/kernel"] == (None, "model")
    assert where[layer + "output/kernel"] == where["adapters/up/kernel"] == (None, "model")
    whole = [path for path, axes in where.items() if not axes]
    assert {path.split("/")[1] for path in whole} == {"embeddings", "layers"}
    assert {path.split("/")[2] for path in whole if "/layers/" in path} == {
        "attention_norm",
        "attention_output",
        "output",
        "output_norm",
    }
    assert all("bias" in path or "norm" in path or "embeddings" in path for path in whole)


@pytest.mark.slow
def test_layers_held_one_by_one_lie_like_stacked_ones():
    mesh = sharding.make_mesh("data=2,model=4")
    stacked = encoder.init(jax.random.key(0), BACKBONE)
    placed = sharding.place_frozen({"backbone": encoder.unstack(stacked)}, mesh, BACKBONE.num_heads)
    one_by_one = {path: tuple(leaf.sharding.spec) for path, leaf in tree.flatten(placed).items()}
    for path, axes in lies("scalearn", mesh).items():
        if path.startswith("backbone/layers/"):
            assert one_by_one[path.replace("layers/", "layers/1/")] == axes[1:]


def test_what_an_axis_does_not_divide_lies_otherwise():
    backbone = dataclasses.replace(BACKBONE, num_heads=2)
    where = lies("scalearn", sharding.make_mesh("data=2,model=4"), backbone=backbone, num_sources=3)
    assert where["backbone/layers/query/kernel"] == ()  # no half heads
    assert where["backbone/layers/output/kernel"] == (None, "model")
    assert where["adapters/down/kernel"] == (None, None, None, "model")  # by bottleneck units, not by sources
    assert where["adapters/up/bias"] == ()


@pytest.mark.parametrize(
    "text, words",
    [
        ("data=3", "asks for 3 devices, this run has 8; data=8,model=1 fits"),
        ("data=8,model=2", "asks for 16 devices, this run has 8; data=4,model=2 fits"),
        ("batch=8", "'batch=8' is no axis"),
        ("data=x", "'data=x' is no axis"),
        ("data=0", "'data=0' is no axis"),
        ("data=4,data=2", "'data=2' is no axis"),
        ("", "'' is no axis"),
    ],
)
def test_a_bad_mesh_is_told_in_one_line(text, words):
    with pytest.raises(InputError, match=words):
        sharding.make_mesh(text)


def test_the_default_mesh_shares_out_the_examples():
    assert dict(sharding.make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(sharding.make_mesh("model=2,data=4").shape) == {"data": 4, "model": 2}


def test_a_mesh_must_fit_batch_and_backbone():
    backbone = BackboneSpec("bert", 30, 12, 2, 3, 18, 64, 2, 0, 0, 1e-12)
    fits = lambda text, batch_size=32: check_mesh(text, sharding.make_mesh(text), batch_size, backbone)  # noqa: E731
    fits("data=4,model=2")  # 2 divides the width, not the heads
    fits(None, 9)
    with pytest.raises(InputError, match="data=8 does not divide --batch-size 12; pass one of 1, 2, 3, 4, 6, 12"):
        fits("data=8", 12)
    with pytest.raises(InputError, match="neither the 3 attention heads .1, 3 do. nor .* width 18 .1, 2, 3, 6, 9, 18"):
        fits("data=2,model=4")
