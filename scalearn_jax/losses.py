"""Losses: logits and labels to one loss an example (method.md, "Losses").

Letters: B examples, C outputs, K choices.
"""

import jax.numpy as jnp
import optax

from scalearn_jax.typing import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy, -log softmax(logits)[label].

    Args:
      logits: Float[B C] (or Float[B K], one score a choice).
      labels: Int[B].

    Returns:
      Float[B].

    Example:
      >>> cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4).tolist()
      [0.6930999755859375]
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_error(logits: Array, labels: Array) -> Array:
    """Squared error of a single output, (logit - label)^2.

    Args:
      logits: Float[B 1].
      labels: Float[B].

    Returns:
      Float[B].

    Example:
      >>> squared_error(jnp.array([[3.0]]), jnp.array([1.0])).tolist()
      [4.0]
    """
    return (logits[:, 0] - labels.astype(logits.dtype)) ** 2


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the labels of the binary cross-entropy with logits.

    Args:
      logits: Float[B C].
      labels: Float[B C], zeros and ones.

    Returns:
      Float[B].

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
    """Averages over the real examples of a batch.

    Args:
      values: Float[B].
      mask: Bool[B].

    Returns:
      A scalar; 0 for a batch without real examples.

    Example:
      >>> float(masked_mean(jnp.array([1.0, 9.0]), jnp.array([True, False])))
      1.0
    """
    weights = mask.astype(values.dtype)
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1)
