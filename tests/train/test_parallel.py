"""The mesh: what its axes may be, where parameters lie, what devices say to each other, and that results stay."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import methods, tree
from scalearn_jax.errors import InputError
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.train import parallel
from scalearn_jax.train import state as states
from scalearn_jax.train.optim import make_optimizer
from scalearn_jax.train.step import make_loss, make_train_step
from tests import tiny

METHODS = ("scalearn", "scalearn-uniform++", "single", "fusion")
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


def prepare(name, mesh, backbone=BACKBONE, num_sources=4, bottleneck=8, head=None, layers="scan"):
    method = methods.get(name)
    options = dict(method.options) | ({"dropout": 0.1} if name == "fusion" else {})
    spec = tiny.spec(
        method.combiner,
        options=options,
        backbone=backbone,
        num_sources=1 if name == "single" else num_sources,
        layers=layers,
        bottleneck=bottleneck,
        heads=(("demo", head or HeadSpec(num_outputs=3)),),
    )
    trainable, frozen = tree.partition(tiny.params(spec), methods.is_trainable(method))
    tx = make_optimizer(learning_rate=method.learning_rate, num_steps=50, trainable=method.trainable)
    loss = make_loss(spec, "demo", "classification", parallel.forward(mesh))
    state = jax.vmap(lambda one, key: states.create(one, tx, key))(tree.stack([trainable]), jax.random.key(7)[None])
    return Training(
        parallel.compile_train_step(make_train_step(loss, tx), mesh),
        parallel.replicate(state, mesh),
        parallel.place_frozen(frozen, mesh, backbone.num_heads),
        tree.num_parameters(trainable),
    )


def batch(step, padding=0):
    """Eight rows, and filler rows such as a mesh may ask for."""
    one = tiny.batch(LENGTHS, seed=step)
    padded = {name: np.pad(getattr(one, name), ((0, padding), (0, 0))) for name in parallel.ROW_FIELDS}
    return jax.tree.map(lambda leaf: leaf[None], one._replace(**padded))


def train(name, mesh, num_steps=50, padding=0):
    """Returns the losses and the last trainable tree."""
    run, losses = prepare(name, mesh), []
    for number in range(num_steps):
        run.state, metrics = run.step(run.state, run.frozen, batch(number, padding))
        losses.append(metrics["loss"])
    return np.asarray(jnp.stack(losses))[:, 0], jax.tree.map(np.asarray, run.state.trainable)


@pytest.mark.parametrize("name", METHODS)
def test_meshes_equal_one_device_over_fifty_steps(name):
    losses, trained = train(name, parallel.make_mesh(devices=jax.devices()[:1]))
    for text, padding in (("data=8", 0), ("data=8", 8), ("data=4,model=2", 0), ("data=2,model=4", 0), ("model=8", 0)):
        found, other = train(name, parallel.make_mesh(text), padding=padding)
        np.testing.assert_allclose(found, losses, atol=1e-5, rtol=1e-5, err_msg=text)
        for path, leaf in tree.flatten(trained["transfer"]).items():
            np.testing.assert_allclose(tree.flatten(other["transfer"])[path], leaf, atol=1e-4, err_msg=f"{text} {path}")
