"""Masked multi-head attention as a plain function.

Letters: R rows, S row length, H heads, d hidden size, b buckets of relative positions.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.models.dropout import dropout
from scalearn_jax.typing import Array, Key

FAR = 128  # tokens apart, from where on all relative positions are one bucket


def by_heads(x: Array, num_heads: int) -> Array:
    """Splits the features of every head, Float[... d] to Float[... H d/H]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def attention(query, keys, values, visible, bias=None, *, key: Key | None = None, dropout_rate: float = 0.0) -> Array:
    """Computes masked multi-head attention, softmax(Q K^T / sqrt(d/H) + bias) V.

    Args:
      query: Float[R S H d/H]; ``keys`` and ``values`` likewise.
      visible: Bool[R S S], True where a query may see a key.
      bias: Float[R H S S], see ``relative_bias``; ``None`` for none.
      key: key for dropout on the probabilities, ``None`` for none.
      dropout_rate: its rate.

    Returns:
      Float[R S H d/H]. The softmax runs in float32 at least.
    """
    shape = query.shape  # R, S, H, d/H
    chex.assert_equal_shape([query, keys, values])
    chex.assert_shape(visible, (shape[0], shape[1], shape[1]))
    apart = (query / shape[-1] ** 0.5, keys, values)
    query, keys, values = (x.swapaxes(1, 2).reshape(-1, shape[1], shape[3]) for x in apart)  # [R*H, S, d/H]
    scores = jnp.einsum("bqd,bkd->bqk", query, keys).reshape(shape[0], shape[2], shape[1], shape[1])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores if bias is None else scores + bias
    scores = jnp.where(visible[:, None], scores, jnp.finfo(scores.dtype).min)
    # exp(x - max) / sum: dividing the context, not the weights, spares passes over the largest array of a layer.
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))  # [R, H, S, S]
    total = powers.sum(-1).reshape(-1, shape[1], 1)
    weights = dropout(key, powers, dropout_rate).astype(values.dtype).reshape(-1, shape[1], shape[1])
    context = (jnp.einsum("bqk,bkd->bqd", weights, values) / total).astype(values.dtype)
    return context.reshape(shape[0], shape[2], *shape[1::2]).swapaxes(1, 2)


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


def relative_bias(table: Array, positions: Array) -> Array:
    """Looks up what each head adds to its scores for the distance from query to key.

        bias_hqk = table_ch,   c = bucket(p_k - p_q)

    Args:
      table: Float[b H].
      positions: Int[R S], of each token in its own sequence, so that packing changes nothing.

    Returns:
      Float[R H S S], query by key.
    """
    distance = positions[:, None, :] - positions[:, :, None]  # [R, S, S]
    by_distance = table[relative_bucket(np.arange(-FAR, FAR + 1), len(table))]  # [2*FAR+1, H]
    return by_distance.T[:, jnp.clip(distance, -FAR, FAR) + FAR].swapaxes(0, 1)


def relative_bucket(distance: np.ndarray, num_buckets: int) -> np.ndarray:
    """Sorts relative positions into buckets, as T5 does and, after it, MPNet.

    The first half of the buckets is for keys before the query or at it, the second for those after it. Half of a half
    holds one distance each; the rest grows wider with the logarithm of the distance up to ``FAR``.

    Example:
      >>> relative_bucket(np.array([0, -1, 1, -7, -8, -11, -12, -128, 500]), 32).tolist()
      [0, 1, 17, 7, 8, 8, 9, 15, 31]
    """
    half, exact, far = num_buckets // 2, num_buckets // 4, np.abs(distance)
    wide = np.log2(np.maximum(far, exact) / exact) / np.log2(FAR / exact)  # log2 is exact at the edges 16, 32, 64, 128
    bucket = np.where(far < exact, far, np.minimum(exact + (wide * (half - exact)).astype(int), half - 1))
    return np.where(distance > 0, half, 0) + bucket
