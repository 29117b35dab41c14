"""The training step, written for one run on one device; ``parallel.py`` maps it over both.

Letters: B examples, C outputs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from scalearn_jax import model, tree
from scalearn_jax.losses import LOSSES, masked_mean
from scalearn_jax.train.state import TrainState
from scalearn_jax.typing import Array, Batch, Key, Params


def make_loss(spec: model.ModelSpec, task: str, kind: str, forward: Callable = model.apply) -> Callable:
    """Builds the loss of a task.

    Args:
      spec: the model.
      task: which head.
      kind: a key of ``LOSSES``.
      forward: the forward pass, called like ``model.apply``.

    Returns:
      ``loss_fn(trainable, frozen, batch, key, step) -> (objective, metrics)``. The objective adds the
      combiner's penalty to the reported loss; as published, the penalty starts with the second step.
    """

    def loss_fn(trainable: Params, frozen: Params, batch: Batch, key: Key, step: Array):
        params = tree.combine(trainable, frozen)
        logits = forward(params, batch, spec=spec, task=task, key=key)
        loss = masked_mean(LOSSES[kind](logits, batch.labels), batch.example_mask)
        penalty = spec.make_combiner.penalty(params["transfer"])
        return loss + jnp.where(step > 0, penalty, 0.0).astype(loss.dtype), {"loss": loss}

    return loss_fn


def make_train_step(loss_fn: Callable, tx: optax.GradientTransformation) -> Callable:
    """Builds the training step.

    Only ``state.trainable`` is differentiated, so the frozen half costs no gradient and comes back from no
    step.

    Args:
      loss_fn: (trainable, frozen, batch, key, step) -> (objective, metrics).
      tx: the optimiser.

    Returns:
      ``step(state, frozen, batch) -> (state, metrics)``; metrics gain ``grad_norm``, the global norm before
      clipping.
    """

    def step(state: TrainState, frozen: Params, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (_, metrics), grads = gradient(state.trainable, frozen, batch, key, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, trainable, opt_state, state.key), metrics

    return step


def make_predict_step(spec: model.ModelSpec, task: str) -> Callable:
    """Builds ``predict(trainable, frozen, batch) -> logits Float[B C]``, without dropout."""

    def predict(trainable: Params, frozen: Params, batch: Batch) -> Array:
        return model.apply(tree.combine(trainable, frozen), batch, spec=spec, task=task)

    return predict
