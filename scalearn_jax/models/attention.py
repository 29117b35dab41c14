"""Masked multi-head attention as a plain function.

Letters: R rows, S row length, H heads, d hidden size.
"""

import chex
import jax
import jax.numpy as jnp

from scalearn_jax.models.dropout import dropout
from scalearn_jax.typing import Array, Key


def by_heads(x: Array, num_heads: int) -> Array:
    """Splits the features of every head, Float[... d] to Float[... H d/H]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def attention(query, keys, values, visible, *, key: Key | None = None, dropout_rate: float = 0.0) -> Array:
    """Computes masked multi-head attention, softmax(Q K^T / sqrt(d/H)) V.

    Args:
      query: Float[R S H d/H]; ``keys`` and ``values`` likewise.
      visible: Bool[R S S], True where a query may see a key.
      key: key for dropout on the probabilities, ``None`` for none.
      dropout_rate: its rate.

    Returns:
      Float[R S H d/H]. The softmax runs in float32 at least.
    """
    shape = query.shape  # R, S, H, d/H
    chex.assert_equal_shape([query, keys, values])
    chex.assert_shape(visible, (shape[0], shape[1], shape[1]))
    query, keys, values = (_by_head(x) for x in (query / shape[-1] ** 0.5, keys, values))  # [R*H, S, d/H]
    scores = jnp.einsum("bqd,bkd->bqk", query, keys).reshape(shape[0], shape[2], shape[1], shape[1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = jnp.where(visible[:, None], scores, jnp.finfo(scores.dtype).min)
    # exp(x - max) / sum: dividing the context, not the weights, spares passes over the largest array of a layer.
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))  # [R, H, S, S]
    total = powers.sum(-1).reshape(-1, shape[1], 1)
    weights = dropout(key, powers, dropout_rate).astype(values.dtype).reshape(-1, shape[1], shape[1])
    context = (jnp.einsum("bqk,bkd->bqd", weights, values) / total).astype(values.dtype)
    return context.reshape(shape[0], shape[2], *shape[1::2]).swapaxes(1, 2)


def _by_head(x: Array) -> Array:
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def visibility(segments: Array) -> Array:
    """Marks the keys that a query sees: those of its own sequence.

    Args:
      segments: Int[R S]; 0 is padding.

    Returns:
      Bool[R S S], query by key.

    Example:
      >>> visibility(jnp.array([[1, 2, 0]]))[0].astype(int).tolist()
      [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    """
    return (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
