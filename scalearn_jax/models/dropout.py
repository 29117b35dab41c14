"""Inverted dropout as a plain function."""

import jax
import jax.numpy as jnp

from scalearn_jax.typing import Array, Key

_LEVELS = 1 << 16


def dropout(key: Key | None, x: Array, rate: float) -> Array:
    """Zeroes entries with probability ``rate`` and divides the kept ones by 1 - rate.

    The mask is drawn from 16 random bits an entry, which halves the cost of the generator; the rate is then
    a multiple of 2^-16 (0.1 becomes 0.100006) and the scale uses that exact value.

    Args:
      key: typed PRNG key; ``None`` means no dropout.
      x: values of any shape.
      rate: probability of dropping an entry, in [0, 1).

    Returns:
      An array like ``x``.

    Example:
      >>> dropout(None, jnp.ones(2), 0.5).tolist()
      [1.0, 1.0]
    """
    return x if key is None or rate == 0.0 else x * mask(key, x.shape, rate).astype(x.dtype)


def mask(key: Key, shape: tuple[int, ...], rate: float) -> Array:
    """Draws a multiplicative dropout mask: 0, or 1 / (1 - rate).

    Example:
      >>> float(mask(jax.random.key(0), (4, 4), 0.5).max())
      2.0
    """
    dropped = round(rate * _LEVELS)
    keep = jax.random.bits(key, shape, jnp.uint16) >= dropped
    return jnp.where(keep, _LEVELS / (_LEVELS - dropped), 0.0)
