"""The bank: T source adapters stacked on a task axis.

Letters: L layers, T source tasks, d hidden size, r bottleneck.

One adapter is ``{"down": {"kernel": [L d r], "bias": [L r]}, "up": {"kernel": [L r d], "bias": [L d]}}``, and where it
has a norm after the up-projection also ``{"norm": {"scale": [L d], "bias": [L d]}}``. A bank has the task axis after
the layer axis, ``[L T d r]`` and so on. The layer axis leads so that a loop or a scan over layers can slice it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.models.adapter import Adapter
from scalearn_jax.typing import Array, Key, Params

NOT_LINEAR = "with a layer norm after their up-projection (ln_after) are not linear there"


class BankShape(NamedTuple):
    """The four sizes of a bank: L, T, d, r."""

    num_layers: int
    num_sources: int
    hidden_size: int
    bottleneck: int


def init(key: Key, shape: BankShape, *, norm: bool = False) -> Params:
    """Draws a bank of fresh adapters, kernels N(0, 0.02), biases 0 and, where they have a ``norm``, its scale 1.

    Example:
      >>> bank = init(jax.random.key(0), BankShape(2, 1, 8, 4))
      >>> bank["down"]["kernel"].shape
      (2, 1, 8, 4)
    """
    keys = jax.random.split(key, (shape.num_layers, shape.num_sources))
    bank = jax.vmap(jax.vmap(lambda key: Adapter(shape.hidden_size, shape.bottleneck).init(key)["params"]))(keys)
    size = (*keys.shape, shape.hidden_size)
    return bank | ({"norm": {"scale": jnp.ones(size), "bias": jnp.zeros(size)}} if norm else {})


def zeros(shape: BankShape) -> Params:
    """Makes a bank of zeros; without sources it holds no numbers, but has its sizes.

    Example:
      >>> shape(zeros(BankShape(2, 0, 8, 4)))
      BankShape(num_layers=2, num_sources=0, hidden_size=8, bottleneck=4)
    """
    *lead, d, r = shape
    return {
        "down": {"kernel": jnp.zeros((*lead, d, r), jnp.float32), "bias": jnp.zeros((*lead, r), jnp.float32)},
        "up": {"kernel": jnp.zeros((*lead, r, d), jnp.float32), "bias": jnp.zeros((*lead, d), jnp.float32)},
    }


def shape(bank: Params) -> BankShape:
    """Reads the four sizes off a bank.

    Example:
      >>> shape(init(jax.random.key(0), BankShape(2, 3, 8, 4)))
      BankShape(num_layers=2, num_sources=3, hidden_size=8, bottleneck=4)
    """
    return BankShape(*bank["down"]["kernel"].shape)


def stack(adapters: Sequence[Params]) -> Params:
    """Stacks single adapters, trees without the task axis, into a bank as wide as the widest.

    Narrower ones are padded with dead units: zero rows in the up kernel, which add exactly nothing.

    Raises:
      InputError: no adapter, or two of different hidden size or depth.

    Example:
      >>> narrow, wide = (select(init(jax.random.key(0), BankShape(2, 1, 8, r)), 0) for r in (2, 4))
      >>> shape(stack([narrow, wide])).bottleneck
      4
    """
    if not adapters:
        raise InputError("a bank needs at least one adapter, got none; pass at least one source.")
    kernels = [adapter["down"]["kernel"] for adapter in adapters]
    sizes = sorted({(kernel.shape[0], kernel.shape[1]) for kernel in kernels})
    if len(sizes) > 1:
        raise InputError(f"adapters of one bank must share (layers, hidden size); got {sizes}.")
    width = max(kernel.shape[2] for kernel in kernels)

    def pad(adapter: Params) -> Params:
        down, up = adapter["down"], adapter["up"]
        missing = (0, width - down["kernel"].shape[2])
        return {
            "down": {
                "kernel": jnp.pad(down["kernel"], ((0, 0), (0, 0), missing)),
                "bias": jnp.pad(down["bias"], ((0, 0), missing)),
            },
            "up": {"kernel": jnp.pad(up["kernel"], ((0, 0), missing, (0, 0))), "bias": jnp.asarray(up["bias"])},
            **({"norm": jax.tree.map(jnp.asarray, adapter["norm"])} if "norm" in adapter else {}),
        }

    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *map(pad, adapters))


def select(bank: Params, source: int) -> Params:
    """Takes one adapter out of a bank.

    Example:
      >>> select(init(jax.random.key(0), BankShape(2, 3, 8, 4)), 1)["up"]["bias"].shape
      (2, 8)
    """
    return jax.tree.map(lambda leaf: leaf[:, source], bank)


def shuffle(seed: int, adapter: Params) -> Params:
    """Puts the numbers of each layer of each part of an adapter in a random order: its sizes stay, what it does not.

    Example:
      >>> adapter = select(init(jax.random.key(0), BankShape(2, 1, 8, 4)), 0)
      >>> before, after = (np.sort(one["up"]["kernel"][0], axis=None) for one in (adapter, shuffle(0, adapter)))
      >>> bool((before == after).all()), bool((adapter["up"]["kernel"] == shuffle(0, adapter)["up"]["kernel"]).all())
      (True, False)
    """
    generator = np.random.default_rng(seed)

    def reorder(leaf: Array) -> Array:
        return jnp.asarray(generator.permuted(np.reshape(leaf, (len(leaf), -1)), axis=1).reshape(leaf.shape))

    return jax.tree.map(reorder, adapter)


def mean(bank: Params, weights: Array) -> Params:
    """Averages the parameters of a bank to one adapter, P = sum_t w_t P_t; the caller normalises the weights Float[T].

    Example:
      >>> bank = init(jax.random.key(0), BankShape(2, 3, 8, 4))
      >>> mean(bank, jnp.array([0.5, 0.25, 0.25]))["down"]["kernel"].shape
      (2, 8, 4)
    """

    def average(leaf: Array) -> Array:
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        return jnp.einsum("lt...,t->l...", leaf.astype(dtype), weights.astype(dtype), precision="highest")

    return jax.tree.map(average, bank)


def mask(bank: Params, kept: Array) -> Params:
    """Silences the sources that Bool[T] does not keep: zeros in what comes last, so up_t = 0 whatever scales it.

    The choice is data, not structure, so one compiled program serves every choice.

    Example:
      >>> bank = init(jax.random.key(0), BankShape(2, 3, 8, 4))
      >>> mask(bank, jnp.array([True, False, True]))["up"]["kernel"].any((0, 2, 3)).tolist()
      [True, False, True]
    """

    def silence(leaf: Array) -> Array:
        return jnp.where(kept.reshape(1, -1, *(1,) * (leaf.ndim - 2)), leaf, 0)

    return bank | {part: jax.tree.map(silence, bank[part]) for part in ("up", "norm") if part in bank}


def widen(bank: Params, omega: Array) -> Params:
    """Folds a scaled sum of adapters into one adapter of bottleneck T*r.

    sum_t w_t * (h_t U_t + c_t) = [h_1 .. h_T] [w_t * U_t] + sum_t w_t * c_t, since omega does not depend on
    the token. Omega is Float[L T d], or Float[L T 1] for scalars. These scale the bottleneck units instead of the up
    kernel, so that the gradient of omega needs no matrix product of its own.

    Returns:
      A site with leading axis L: ``down`` [L d T*r], ``up`` [L T*r d], and ``scale`` [L T*r] for scalars.

    Raises:
      InputError: omega covers another number of layers or sources than the bank, or its adapters have a norm after the
        up-projection, which is not linear.

    Example:
      >>> bank = init(jax.random.key(0), BankShape(2, 3, 8, 4))
      >>> widen(bank, jnp.ones((2, 3, 8)))["up"]["kernel"].shape
      (2, 12, 8)
    """
    num_layers, num_sources, hidden_size, bottleneck = shape(bank)
    if omega.shape not in ((num_layers, num_sources, hidden_size), (num_layers, num_sources, 1)):
        raise InputError(
            f"omega has shape {omega.shape}, the bank holds {num_layers} layers, {num_sources} sources and hidden"
            f" size {hidden_size}; pass omega as [L T d] or [L T 1]."
        )
    if "norm" in bank:
        raise InputError(f"sources {NOT_LINEAR}, so no sum of them is one adapter; compose them as reference.")
    width = num_sources * bottleneck
    up = bank["up"]["kernel"]
    site = {
        "down": {
            "kernel": bank["down"]["kernel"].transpose(0, 2, 1, 3).reshape(num_layers, hidden_size, width),
            "bias": bank["down"]["bias"].reshape(num_layers, width),
        },
        "up": {"bias": (omega * bank["up"]["bias"]).sum(1)},
    }
    if omega.shape[-1] == 1:
        site["scale"] = jnp.repeat(omega[..., 0], bottleneck, axis=1)  # [L, T*r]
    else:
        up = up * omega[:, :, None, :]  # [L, T, r, d]
    site["up"]["kernel"] = up.reshape(num_layers, width, hidden_size)
    return site
