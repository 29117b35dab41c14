"""Inverted dropout whose mask is recomputed, not stored.

A mask entry is a hash of its place and the key: a handful of integer operations that the compiler fuses into whatever
uses the mask, forward and backward. (JAX's own generator takes longer than the layer around it on a CPU, and autodiff
keeps one float an entry of every mask.) Rows lead, so an entry's place, and with it the mask, does not depend on how
many rows follow or on which device holds them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scalearn_jax.typing import Array, Key


class DropoutKeys(NamedTuple):
    """What each part of a forward pass draws its dropout masks from; ``None`` for no dropout.

    Attributes:
      scales: for what a combiner learns: one mask a step, whatever the number of rows.
      scores: Key[L], for what a combiner computes of each token.
      encoder: for the backbone's own dropout.
      head: for that of the head.
    """

    scales: Key | None = None
    scores: Key | None = None
    encoder: Key | None = None
    head: Key | None = None


NO_DROPOUT = DropoutKeys()


def dropout_keys(key: Key | None, num_layers: int, part: Array | None = None) -> DropoutKeys:
    """Splits the key of a training step; ``None`` for no dropout.

    ``part`` numbers a part of an accumulated step. Parts differ in all masks but those of ``scales``, of which a step
    has one.

    Example:
      >>> first, second = (dropout_keys(jax.random.key(0), 2, part) for part in (0, 1))
      >>> bool(first.scales == second.scales), bool(first.head == second.head)
      (True, False)
    """
    if key is None:
        return NO_DROPOUT
    encode_key, head = jax.random.split(key)
    scales, encoder = jax.random.split(encode_key)
    scores = jax.random.split(scales, num_layers)
    if part is not None:
        scores = jax.vmap(jax.random.fold_in, (0, None))(scores, part)
        encoder, head = jax.random.fold_in(encoder, part), jax.random.fold_in(head, part)
    return DropoutKeys(scales, scores, encoder, head)


def dropout(key: Key | None, x: Array, rate: float) -> Array:
    """Zeroes entries with probability ``rate``, in [0, 1), and divides the kept ones by 1 - rate; no key, no dropout.

    Example:
      >>> dropout(None, jnp.ones(2), 0.5).tolist()
      [1.0, 1.0]
    """
    return x if key is None or rate == 0.0 else _dropped(key, x, rate)


@functools.partial(jax.checkpoint, static_argnums=2)  # the backward pass draws the mask again
def _dropped(key: Key, x: Array, rate: float) -> Array:
    return x * mask(key, x.shape, rate).astype(x.dtype)


def mask(key: Key, shape: tuple[int, ...], rate: float) -> Array:
    """Draws a multiplicative dropout mask, Float32: 0 with probability ``rate``, rounded to 2^-32, or 1 / (1 - rate).

    Example:
      >>> float(mask(jax.random.key(0), (4, 4), 0.5).max())
      2.0
    """
    return jnp.where(_bits(key, shape) >= jnp.uint32(round(rate * 2**32)), 1 / (1 - rate), 0.0)


def _bits(key: Key, shape: tuple[int, ...]) -> Array:
    """Hashes every entry's place with both words of the key to 32 random bits.

    The rounds are those of lowbias32 (github.com/skeeto/hash-prospector), the second word entering between them.
    """
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    words = jax.random.key_data(key)
    bits = place ^ words[0].reshape((1,) * len(shape))
    bits = (bits ^ bits >> 16) * jnp.uint32(0x21F0AAAD)
    bits ^= words[-1].reshape((1,) * len(shape))
    bits = (bits ^ bits >> 15) * jnp.uint32(0x735A2D97)
    return bits ^ bits >> 15
