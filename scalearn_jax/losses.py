"""Losses: logits and labels to one loss an example (method.md, "Losses").

Letters: B examples, C outputs, K choices.
"""

import jax.numpy as jnp
import optax

from scalearn_jax.typing import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Computes -log softmax(logits)[label], of Float[B C] (or Float[B K], one score a choice) and Int[B]; Float[B].

    Example:
      >>> cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4).tolist()
      [0.6930999755859375]
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_error(logits: Array, labels: Array) -> Array:
    """Computes (logit - label)^2 of a single output, Float[B 1] and Float[B]; Float[B].

    Example:
      >>> squared_error(jnp.array([[3.0]]), jnp.array([1.0])).tolist()
      [4.0]
    """
    return (logits[:, 0] - labels.astype(logits.dtype)) ** 2


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Computes the binary cross-entropy of Float[B C] with zeros and ones Float[B C], mean over labels; Float[B].

    Example:
      >>> binary_cross_entropy(jnp.zeros((1, 2)), jnp.ones((1, 2))).round(4).tolist()
      [0.6930999755859375]
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean(-1)


LOSSES = {
    "classification": cross_entropy,
    "choice": cross_entropy,
    "regression": squared_error,
    "multilabel": binary_cross_entropy,
}


def masked_mean(values: Array, mask: Array) -> Array:
    """Averages Float[B] over the real examples Bool[B] of a batch; 0 for a batch without any.

    Example:
      >>> float(masked_mean(jnp.array([1.0, 9.0]), jnp.array([True, False])))
      1.0
    """
    weights = mask.astype(values.dtype)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1)
