"""Linear maps and layer norms: the modules that declare them and the functions that apply them.

Letters: i inputs, o outputs, d hidden size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax import tree
from scalearn_jax.typing import Array, Params


class Affine(nn.Module):
    """Declares a kernel Float[i o], N(0, 0.02), and a bias Float[o], 0, and hands them over."""

    features_in: int
    features_out: int

    @nn.compact
    def __call__(self) -> Params:
        kernel_init = nn.initializers.normal(0.02, jnp.float32)
        return {
            "kernel": self.param("kernel", kernel_init, (self.features_in, self.features_out)),
            "bias": self.param("bias", nn.initializers.zeros, (self.features_out,), jnp.float32),
        }


def affine(params: Params, x: Array) -> Array:
    """Computes x W + b, Float[... i] to Float[... o], in the type of ``x``.

    Example:
      >>> affine({"kernel": jnp.eye(2), "bias": jnp.ones(2)}, jnp.zeros((1, 2))).tolist()
      [[1.0, 1.0]]
    """
    return matmul(x, params["kernel"]) + row(params["bias"], x)


def row(vector: Array, like: Array) -> Array:
    """Gives a vector the rank and type of ``like``, so that rank promotion may stay an error."""
    return vector.astype(like.dtype).reshape((1,) * (like.ndim - 1) + vector.shape)


def matmul(x: Array, kernel: Array) -> Array:
    """Computes x W, Float[... i] to Float[... o], in the type of ``x``.

    A kernel stored in half precision beside float32 activations gives a mixed product, forward and backward:
    half-precision inputs, float32 sums and outputs. That is what matrix units do natively.
    """
    mixed = kernel.dtype.itemsize < 4 <= x.dtype.itemsize
    rows = x.reshape(-1, x.shape[-1])  # flat, or XLA's CPU compiler transposes 3-d gradients at a tenth of the speed
    product = _mixed_matmul(rows, kernel) if mixed else rows @ kernel.astype(x.dtype)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def _mixed_matmul(x: Array, kernel: Array) -> Array:
    return _contract(x.astype(kernel.dtype), kernel, 1, 0, x.dtype)


def _forward(x, kernel):
    half = x.astype(kernel.dtype)
    return _contract(half, kernel, 1, 0, x.dtype), (half, kernel)


def _backward(residuals, gradient):
    half, kernel = residuals  # [n, i], [i, o]
    wide, gradient = gradient.dtype, gradient.astype(kernel.dtype)
    to_x = _contract(gradient, kernel, 1, 1, wide)
    to_kernel = _contract(half, gradient, 0, 0, wide)
    return to_x, to_kernel.astype(kernel.dtype)


_mixed_matmul.defvjp(_forward, _backward)


def _contract(a, b, a_axis: int, b_axis: int, dtype) -> Array:
    return jax.lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=dtype)


def half_kernels(params: Params, *, tables: bool = False) -> Params:
    """Stores every kernel of a tree in bfloat16, for mixed products; all other leaves stay.

    Args:
      params: a tree, with ``None`` where the other half of a partition holds a leaf.
      tables: embedding tables as well.

    Example:
      >>> half_kernels({"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)})["kernel"].dtype
      dtype(bfloat16)
    """
    names = ("kernel", "embedding") if tables else ("kernel",)

    def convert(path: str, leaf: Array) -> Array:
        return leaf.astype(jnp.bfloat16) if path.split("/")[-1] in names else leaf

    return tree.map_with_path(convert, params)


def cast_frozen(frozen: Params, dtype: str) -> Params:
    """Keeps what is frozen in a type: ``"bfloat16"`` for kernels and embedding tables, or as it is."""
    return half_kernels(frozen, tables=True) if dtype == "bfloat16" else frozen


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normalise(x: Array, eps: float) -> Array:
    """Computes (x - mean) / sqrt(variance + eps) over the last axis, in float32 at least.

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
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        y = normalise(x, self.epsilon)
        return (y * row(scale, y) + row(bias, y)).astype(self.dtype or x.dtype)
