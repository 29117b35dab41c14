"""The training step, written for one run on one device; ``compile.py`` maps it over both.

Letters: B examples, C outputs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from scalearn_jax import model, tree
from scalearn_jax.losses import LOSSES, masked_mean
from scalearn_jax.models.dropout import dropout_keys
from scalearn_jax.train.state import Faults, TrainState, group_norms
from scalearn_jax.typing import Array, Batch, JointBatch, Key, Params


def make_loss(
    spec: model.ModelSpec, task: str | None, kind: str | tuple[str, ...], forward: Callable = model.apply
) -> Callable:
    """Builds the loss of a task.

    Args:
      spec: the model.
      task: which head; ``None`` for that of a joint batch's task.
      kind: a key of ``LOSSES``; for task ``None`` one for each task of the model.
      forward: the forward pass, called like ``model.apply``.

    Returns:
      ``loss_fn(trainable, frozen, batch, key, step, part=None) -> (objective, metrics)``. The objective adds the
      combiner's penalty to the reported loss; as published, the penalty starts with the second step. ``part`` numbers
      the parts of an accumulated step; their dropout masks differ, but for ScaLearn's.
    """

    def loss_fn(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array, part: Array | None = None):
        params, keys = tree.combine(trainable, frozen), dropout_keys(key, spec.backbone.num_layers, part)
        logits = forward(params, batch, spec=spec, task=task, keys=keys)
        losses = LOSSES[kind](logits, batch.labels) if task else _losses_of_task(spec, kind, logits, batch)  # [B]
        chex.assert_equal_shape([losses, batch.example_mask])
        loss = masked_mean(losses, batch.example_mask)
        penalty = jnp.where(step > 0, spec.combiner_functions.penalty(params["transfer"]), 0.0)
        return loss + penalty.astype(loss.dtype), {"loss": loss}

    return loss_fn


def _losses_of_task(spec: model.ModelSpec, kinds: Sequence[str], logits: Array, batch: JointBatch) -> Array:
    """The losses Float[B] of a joint batch, of logits Float[B W] that are filled up, as its labels are."""

    def of_kind(kind: str, size: int) -> Callable[[Array, Array], Array]:
        def losses(logits: Array, labels: Array) -> Array:
            one = labels[:, :size] if kind == "multilabel" else labels[:, 0]
            return LOSSES[kind](logits[:, :size], one if kind in ("multilabel", "regression") else one.astype(int))

        return losses

    each = [of_kind(kind, head.num_logits) for kind, (_, head) in zip(kinds, spec.heads, strict=True)]
    return jax.lax.switch(batch.task, each, logits, batch.labels)


def make_train_step(loss_fn: Callable, tx: optax.GradientTransformation, *, num_parts: int = 1) -> Callable:
    """Builds the training step; runs wrap it in ``skip_faults``.

    Only ``state.trainable`` is differentiated, so the frozen half costs no gradient and no step returns it.

    Args:
      loss_fn: (trainable, frozen, batch, key, step[, part]) -> (objective, metrics).
      tx: the optimiser; it gets the ``task`` of joint batches.
      num_parts: above 1, a batch has a leading axis of that many parts, whose gradients are accumulated; the update
        is that of all their examples together.

    Returns:
      ``step(state, frozen, batch) -> (state, metrics)``; metrics gain ``objective``, ``grad_norm``, the global norm
      before clipping, and ``group_norms``, that of each group.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    gradient = _accumulated(gradient) if num_parts > 1 else gradient

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(state.key, state.step)
        (objective, metrics), grads = gradient(state.trainable, frozen, batch, key, state.step)
        task = {"task": batch.task.reshape(-1)[0]} if isinstance(batch, JointBatch) else {}  # of all parts the same
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable, **task)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics |= {"objective": objective, "grad_norm": optax.tree.norm(grads), "group_norms": group_norms(grads)}
        return state._replace(step=state.step + 1, trainable=trainable, opt_state=opt_state), metrics

    return step


def skip_faults(step: Callable, limit: int = 0) -> Callable:
    """Lets a step whose loss or gradient is not finite change nothing but ``state.faults``.

    Like ``optax.apply_if_finite``; but that one applies updates again after its limit, and has no loss to look at.

    Args:
      step: from ``make_train_step``.
      limit: after so many faults in a row nothing changes any more, whatever comes; 0 for no limit.

    Returns:
      ``step(state, frozen, batch) -> (state, metrics)``; of the metrics that ``make_train_step`` adds ``grad_norm``
      stays, and they gain ``skipped``, the faults so far, and ``gave_up``, whether their limit is reached.
    """

    @functools.wraps(step)  # programs and traces go under its name
    def guarded(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        changed, metrics = step(state, frozen, batch)
        objective, norms, before = metrics.pop("objective"), metrics.pop("group_norms"), state.faults
        is_fault = ~(jnp.isfinite(objective) & jnp.isfinite(metrics["grad_norm"]))
        stuck = gave_up(before, limit)
        trainable = _where(is_fault | stuck, state.trainable, changed.trainable)
        opt_state = _where(is_fault | stuck, state.opt_state, changed.opt_state)
        fault = Faults(before.skipped + 1, before.in_a_row + 1, state.step, norms, group_norms(state.trainable))
        faults = _where(is_fault, fault, before._replace(in_a_row=jnp.zeros_like(before.in_a_row)))
        faults = _where(stuck, before, faults)
        metrics |= {"skipped": faults.skipped, "gave_up": gave_up(faults, limit)}
        return changed._replace(trainable=trainable, opt_state=opt_state, faults=faults), metrics

    return guarded


def gave_up(faults: Faults, limit: int) -> Array:
    """Whether so many faults came in a row that nothing changes any more; never for a limit of 0."""
    return faults.in_a_row >= limit if limit else jnp.zeros_like(faults.in_a_row, bool)


def _where(condition: Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _accumulated(gradient: Callable) -> Callable:
    """Adds up the parts of a batch, each by its share of the examples, with the memory of one."""

    def of_step(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array):
        counts = batch.example_mask.sum(-1)  # [parts]
        shares = counts / jnp.maximum(counts.sum(), 1)

        def of_part(number):
            return gradient(trainable, frozen, tree.index(batch, number), key, step, number)

        def add(total, number):
            scaled = jax.tree.map(lambda x: x * shares[number].astype(x.dtype), of_part(number))
            return jax.tree.map(jnp.add, total, scaled), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, 0))
        return jax.lax.scan(add, zeros, jnp.arange(len(shares)))[0]

    return of_step


def make_predict_step(spec: model.ModelSpec, task: str | None) -> Callable:
    """Builds ``predict(trainable, frozen, batch) -> logits Float[B C]``, without dropout; see ``model.apply``."""

    def predict(trainable: Params, frozen: Params, batch: Batch) -> Array:
        return model.apply(tree.combine(trainable, frozen), batch, spec=spec, task=task)

    return predict
