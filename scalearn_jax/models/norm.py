"""Layer normalisation with a derivative that keeps little.

Letters: d hidden size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.models.layers import row
from scalearn_jax.typing import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normalise(x: Array, eps: float) -> Array:
    """Computes (x - mean) / sqrt(variance + eps) over the last axis, in float32 at least.

    Args:
      x: Float[... d].
      eps: added to the variance.

    Returns:
      Float[... d], in float32 or wider.

    Example:
      >>> normalise(jnp.array([[1.0, 3.0]]), 0.0).tolist()
      [[-1.0, 1.0]]
    """
    return _normalise(x, eps)[0]


def _normalise(x: Array, eps: float) -> tuple[Array, Array]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = x - x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + eps)
    return centred * inverse, inverse


@normalise.defjvp
def _derivative(eps: float, primals, tangents):
    """dy = (dx - mean(dx) - y mean(y dx)) / sigma: only y and one number a position are kept for the backward pass."""
    (x,), (dx,) = primals, tangents
    y, inverse = _normalise(x, eps)
    dx = dx.astype(y.dtype)
    return y, inverse * (dx - dx.mean(-1, keepdims=True) - y * (y * dx).mean(-1, keepdims=True))


class LayerNorm(nn.Module):
    """Layer norm with a learned scale and bias, statistics in float32 at least."""

    epsilon: float
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        y = normalise(x, self.epsilon)
        return (y * row(scale, y) + row(bias, y)).astype(self.dtype or x.dtype)
