"""The training step, written for one run on one device; ``parallel.py`` maps it over both.

Letters: B examples, C outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from scalearn_jax import model, tree
from scalearn_jax.losses import LOSSES, masked_mean
from scalearn_jax.models.dropout import dropout_keys
from scalearn_jax.train.state import Faults, TrainState, group_norms
from scalearn_jax.typing import Array, Batch, Key, Params


def make_loss(spec: model.ModelSpec, task: str, kind: str, forward: Callable = model.apply) -> Callable:
    """Builds the loss of a task.

    Args:
      spec: the model.
      task: which head.
      kind: a key of ``LOSSES``.
      forward: the forward pass, called like ``model.apply``.

    Returns:
      ``loss_fn(trainable, frozen, batch, key, step, part=None) -> (objective, metrics)``. The objective adds the
      combiner's penalty to the reported loss; as published, the penalty starts with the second step. ``part`` numbers
      the parts of an accumulated step; their dropout masks differ, but for ScaLearn's.
    """

    def loss_fn(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array, part: Array | None = None):
        params, keys = tree.combine(trainable, frozen), dropout_keys(key, spec.backbone.num_layers, part)
        logits = forward(params, batch, spec=spec, task=task, keys=keys)
        loss = masked_mean(LOSSES[kind](logits, batch.labels), batch.example_mask)
        return penalised(loss, params, spec, step), {"loss": loss}

    return loss_fn


def penalised(loss: Array, params: Params, spec: model.ModelSpec, step: Array) -> Array:
    """Adds the combiner's penalty, from the second step on."""
    penalty = spec.combiner_functions.penalty(params["transfer"])
    return loss + jnp.where(step > 0, penalty, 0.0).astype(loss.dtype)


def make_train_step(
    loss_fn: Callable, tx: optax.GradientTransformation, *, num_parts: int = 1, limit: int = 0
) -> Callable:
    """Builds the training step.

    Only ``state.trainable`` is differentiated, so the frozen half costs no gradient and comes back from no
    step. A step with a loss or gradient that is not finite changes neither parameters nor optimiser; it is counted in
    ``state.faults``.

    Args:
      loss_fn: (trainable, frozen, batch, key, step[, part]) -> (objective, metrics).
      tx: the optimiser.
      num_parts: above 1, a batch has a leading axis of that many parts, whose gradients are accumulated; the update
        is that of all their examples together.
      limit: after so many faults in a row nothing changes any more, whatever comes; 0 for no limit.

    Returns:
      ``step(state, frozen, batch) -> (state, metrics)``; metrics gain ``grad_norm``, the global norm before
      clipping, ``skipped``, the faults so far, and ``gave_up``, whether their limit is reached.
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    of_step = _accumulated(gradient) if num_parts > 1 else gradient

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        (objective, metrics), grads = of_step(state.trainable, frozen, batch, key, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        changed = optax.apply_updates(state.trainable, updates), opt_state
        grad_norm = optax.tree.norm(grads)
        is_fault = ~(jnp.isfinite(objective) & jnp.isfinite(grad_norm))
        stuck = gave_up(state.faults, limit)
        trainable, opt_state = _where(is_fault | stuck, (state.trainable, state.opt_state), changed)
        faults = _where(stuck, state.faults, _counted(state, grads, is_fault))
        metrics |= {"grad_norm": grad_norm, "skipped": faults.skipped, "gave_up": gave_up(faults, limit)}
        return TrainState(state.step + 1, trainable, opt_state, state.key, faults), metrics

    return step


def gave_up(faults: Faults, limit: int) -> Array:
    """Whether so many faults came in a row that nothing changes any more; never for a limit of 0."""
    return faults.in_a_row >= limit if limit else jnp.zeros_like(faults.in_a_row, bool)


def _counted(state: TrainState, grads: Params, is_fault: Array) -> Faults:
    """Takes a step into the faults."""
    before, norms = state.faults, (group_norms(grads), group_norms(state.trainable))
    fault = Faults(before.skipped + 1, before.in_a_row + 1, state.step, *norms)
    return _where(is_fault, fault, before._replace(in_a_row=jnp.zeros_like(before.in_a_row)))


def _where(condition: Array, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _accumulated(gradient: Callable) -> Callable:
    """Adds up the parts of a batch, each by its share of the examples, with the memory of one."""

    def of_step(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array):
        counts = batch.example_mask.sum(-1)  # [parts]
        shares = counts / jnp.maximum(counts.sum(), 1)
        part_of = lambda number: gradient(trainable, frozen, tree.index(batch, number), key, step, number)  # noqa: E731

        def add(total, number):
            scaled = jax.tree.map(lambda x: x * shares[number].astype(x.dtype), part_of(number))
            return jax.tree.map(jnp.add, total, scaled), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part_of, 0))
        return jax.lax.scan(add, zeros, jnp.arange(len(shares)))[0]

    return of_step


def make_predict_step(spec: model.ModelSpec, task: str) -> Callable:
    """Builds ``predict(trainable, frozen, batch) -> logits Float[B C]``, without dropout."""

    def predict(trainable: Params, frozen: Params, batch: Batch) -> Array:
        return model.apply(tree.combine(trainable, frozen), batch, spec=spec, task=task)

    return predict
