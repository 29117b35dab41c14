"""Several runs in one program: members that differ in seed, learning rate or target share one frozen copy.

Runs on one task share its head and loss. Runs on several get heads padded to the widest; what a member is asked for
comes with it, as data, and hides the rest. A padded output has a logit of -1e30 and no gradient, so a member trains as
it would alone.

Letters: M members, B examples, C outputs of the widest head, T source tasks.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax import model, tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.losses import masked_mean
from scalearn_jax.models.dropout import dropout_keys
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.parallel import MEMBERS, replicate
from scalearn_jax.train.step import make_loss, penalised
from scalearn_jax.typing import Array, Batch, FeatureBatch, Key, Params

TARGET = "target"  # the head's name where runs differ in theirs
_HIDDEN = -1e30


class Joint(NamedTuple):
    """How several runs become one program.

    Attributes:
      loss: of one member, see ``make_loss``.
      frozen: the frozen half, with what differs between members.
      enter: (run, its trainable trees [M ...]) -> trees of the program.
      leave: undoes ``enter``.
      labelled: (run, batch) -> batch with the program's labels.
    """

    loss: Callable
    frozen: Params
    enter: Callable[[Setup, Params], Params]
    leave: Callable[[Setup, Params], Params]
    labelled: Callable[[Setup, Batch | FeatureBatch], Batch | FeatureBatch]


def key(setup: Setup) -> tuple:
    """What runs must agree in to share a program: the length of their rows, and the model but for a head's outputs."""
    head = dataclasses.replace(setup.spec.head(setup.task.name), num_outputs=0)
    return setup.task.max_length, dataclasses.replace(setup.spec, heads=()), head


def join(setups: Sequence[Setup], forward: Callable) -> Joint:
    """Makes one program of some runs that agree in method, shapes and frozen half.

    Args:
      setups: the runs.
      forward: see ``make_loss``.

    Returns:
      The program.
    """
    first = setups[0]
    if all(setup.task == first.task for setup in setups):
        loss, same = make_loss(first.spec, first.task.name, first.task.kind, forward), lambda _, given: given
        return Joint(loss, first.frozen, same, same, same)
    width = max(setup.task.num_outputs for setup in setups)
    spec = dataclasses.replace(first.spec, heads=((TARGET, _head(first, num_outputs=width)),))
    constants = [_constants(setup, first) for setup in setups]
    members = jax.tree.map(lambda *leaves: np.concatenate(leaves), *constants)
    return Joint(
        _loss(spec, forward, reordered=any(_order(setup, first) != _order(first, first) for setup in setups)),
        first.frozen
        | {"heads": {TARGET: first.frozen["heads"][first.task.name]}, MEMBERS: replicate(members, first.mesh)},
        lambda setup, trainable: _padded(trainable, setup.task, width),
        lambda setup, trainable: _cut(trainable, setup.task),
        lambda setup, batch: batch._replace(labels=_labels(batch.labels, setup.task, width)),
    )


def _head(setup: Setup, **changes):
    return dataclasses.replace(setup.spec.head(setup.task.name), **changes)


# ---------------------------------------------------------------- trees


def _padded(trainable: Params, task: Task, width: int) -> Params:
    missing = width - task.num_outputs
    head = trainable["heads"][task.name]
    out = jax.tree.map(lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, missing)]), head["out"])
    return trainable | {"heads": {TARGET: head | {"out": out}}}


def _cut(trainable: Params, task: Task) -> Params:
    head = trainable["heads"][TARGET]
    out = jax.tree.map(lambda leaf: leaf[..., : task.num_outputs], head["out"])
    return trainable | {"heads": {task.name: head | {"out": out}}}


# ---------------------------------------------------------------- what members are asked for


def _constants(setup: Setup, first: Setup) -> Params:
    """The kind of loss, the outputs that count, and the order of the sources, for every member of a run."""
    task, num_members = setup.task, len(setup.config.seeds)
    counted = task.num_choices if task.kind == "choice" else task.num_outputs
    one = {"kind": _KINDS.index(task.kind), "counted": counted, "order": _order(setup, first)}
    return {name: np.array([value] * num_members, np.int32) for name, value in one.items()}


def _order(setup: Setup, first: Setup) -> list[int]:
    """Places of a run's sources in the bank of the first run; a target's own adapter stands last in its own."""
    names = [source.name for source in first.sources]
    return [names.index(source.name) for source in setup.sources]


def _labels(labels: Array, task: Task, width: int) -> np.ndarray:
    """Brings labels of every kind to Float32[... B C]; a class or a number stands in the first column."""
    wide = labels if task.kind == "multilabel" else labels[..., None]
    missing = width - wide.shape[-1]
    return np.pad(wide.astype(np.float32), [(0, 0)] * (wide.ndim - 1) + [(0, missing)])


# ---------------------------------------------------------------- losses


def _cross_entropy(logits: Array, labels: Array, counted: Array) -> Array:
    chosen = labels[:, :1].astype(jnp.int32).clip(0, logits.shape[-1] - 1)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[:, 0]


def _squared_error(logits: Array, labels: Array, counted: Array) -> Array:
    return (logits[:, 0] - labels[:, 0].astype(logits.dtype)) ** 2


def _binary_cross_entropy(logits: Array, labels: Array, counted: Array) -> Array:
    each = jax.nn.softplus(logits) - logits * labels.astype(logits.dtype)
    return jnp.where(_counts(logits, counted), each, 0).sum(-1) / counted.astype(logits.dtype)


_LOSSES = {
    "classification": _cross_entropy,
    "choice": _cross_entropy,
    "regression": _squared_error,
    "multilabel": _binary_cross_entropy,
}
_KINDS = list(_LOSSES)


def _counts(logits: Array, counted: Array) -> Array:
    return (jnp.arange(logits.shape[-1]) < counted)[None]


def _loss(spec: model.ModelSpec, forward: Callable, *, reordered: bool) -> Callable:
    """``make_loss`` for members that bring their kind, outputs and order of sources."""

    def loss_fn(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array, part: Array | None = None):
        mine, frozen = frozen[MEMBERS], {name: leaf for name, leaf in frozen.items() if name != MEMBERS}
        if reordered:
            frozen |= {"adapters": jax.tree.map(lambda leaf: leaf[:, mine["order"]], frozen["adapters"])}
        params = tree.combine(trainable, frozen)
        keys = dropout_keys(key, spec.backbone.num_layers, part)
        logits = forward(params, batch, spec=spec, task=TARGET, keys=keys)
        logits = jnp.where(_counts(logits, mine["counted"]), logits, _HIDDEN)
        each = jnp.stack([loss(logits, batch.labels, mine["counted"]) for loss in _LOSSES.values()])
        loss = masked_mean(each[mine["kind"]], batch.example_mask)
        return penalised(loss, params, spec, step), {"loss": loss}

    return loss_fn
