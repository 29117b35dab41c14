"""ScaLearn: learn only how to scale the source adapters' outputs (arXiv 2310.01217, section 3).

    update = sum_t omega_t * up_t,   up_t = phi(z D_t + b_t) U_t + c_t

Letters: L layers, T source tasks, d hidden size, r bottleneck, w width of omega (d or 1).

=====================  ==================  =========
variant                omega               shared
=====================  ==================  =========
ScaLearn               [L T d] vectors     no
ScaLearnUniform        [L T 1] scalars     no
ScaLearn++             [T d]   vectors     yes
ScaLearnUniform++      [T 1]   scalars     yes
=====================  ==================  =========
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scalearn_jax.combiners.base import ADAPTER, SOURCES, Combiner, adapter, no_penalty, of_module
from scalearn_jax.errors import unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.models.dropout import mask as dropout_mask
from scalearn_jax.typing import Array, Params

VARIANTS = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")  # their rows of ``COMBINERS``
NORMALISE = {
    "none": lambda omega: omega,
    "mean": lambda omega: omega / omega.sum(-2, keepdims=True),
    "softmax": lambda omega: jax.nn.softmax(omega, axis=-2),
}


class ScaLearn(nn.Module):
    """Scales the sources of a bank by omega; the four published variants are its first two switches.

    Attributes:
      uniform: one scalar a source instead of a vector of size d.
      shared: one omega for all layers (the "++" variants).
      dropout: rate of the dropout on omega itself; one mask a layer and step, also where omega is shared.
      init_scale: omega starts at N(init_scale / T, 0.001).
      normalise: ``"none"``, ``"mean"`` (divide by the sum over sources) or ``"softmax"`` over sources.
      compose: ``"folded"`` binds one adapter of width T*r; ``"reference"`` keeps the published form.
    """

    uniform: bool = False
    shared: bool = False
    dropout: float = 0.0
    init_scale: float = 2.0
    normalise: str = "none"
    compose: str = "folded"

    @nn.compact
    def __call__(self, bank: Params, keys: DropoutKeys = NO_DROPOUT) -> Params:
        num_layers, num_sources, hidden_size, _ = banks.shape(bank)
        size = (num_sources, 1 if self.uniform else hidden_size)
        size = size if self.shared else (num_layers, *size)
        center = self.init_scale / num_sources
        omega = self.param("omega", lambda key: center + 0.001 * jax.random.normal(key, size, jnp.float32))
        omega = effective_omega(omega, num_layers, self.normalise)  # [L, T, d or 1]
        if keys.scales is not None and self.dropout > 0:
            omega = omega * dropout_mask(keys.scales, omega.shape, self.dropout).astype(omega.dtype)
        return scale(bank, omega, self.compose)


def scale(bank: Params, omega: Array, compose: str = "folded") -> Params:
    """Makes the site of a bank scaled by omega Float[L T d] or Float[L T 1]; see ``ScaLearn``."""
    return banks.widen(bank, omega) if compose == "folded" else {"bank": bank, "omega": omega}


def update_of(compose: str, non_linearity: str) -> tuple[Callable[[Params, Array], Array], tuple[str, ...]]:
    """Returns the site function of what ``scale`` makes, and the keys of its site.

    Raises:
      InputError: unknown ``compose``.
    """
    forms = {"folded": adapter(non_linearity), "reference": lambda site, z: scaled_sum(site, z, non_linearity)}
    if compose not in forms:
        raise unknown("compose", compose, forms)
    return forms[compose], ADAPTER if compose == "folded" else SOURCES


def effective_omega(omega: Array, num_layers: int, normalise: str = "none") -> Array:
    """Repeats a shared omega over the layers and normalises it over the sources.

    Returns:
      Float[L T w], the factors applied in each layer, of omega Float[L T w] or shared Float[T w].

    Raises:
      InputError: unknown ``normalise``.

    Example:
      >>> effective_omega(jnp.ones((4, 1)), 2, "mean")[0, 0].tolist()
      [0.25]
    """
    if normalise not in NORMALISE:
        raise unknown("normalise", normalise, NORMALISE)
    omega = NORMALISE[normalise](omega)
    return omega if omega.ndim == 3 else jnp.broadcast_to(omega[None], (num_layers, *omega.shape))


def scaled_sum(site: Params, z: Array, non_linearity: str = "relu") -> Array:
    """Computes the published form: evaluates every source and sums, sum_t omega_t * up_t.

    The site of one layer holds ``bank`` [T d r] and so on, and ``omega`` Float[T d] or Float[T 1].
    """
    omega = site["omega"].astype(z.dtype)
    updates = source_updates(site["bank"], z, non_linearity)  # [..., T, d]
    return (updates * jnp.expand_dims(omega, range(z.ndim - 1))).sum(-2)


def source_updates(bank: Params, z: Array, non_linearity: str = "relu") -> Array:
    """Evaluates every source of one layer on the same input, up_t = phi(z D_t + b_t) U_t + c_t; Float[... T d]."""
    return jax.vmap(lambda one: bottleneck(one, z, non_linearity), out_axes=-2)(bank)


def omega_norms(omega: Array, num_layers: int, normalise: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """Measures the scales as they act: root of the mean square, and mean, over the hidden dimensions; both Float[L T].

    Example:
      >>> [norm.tolist() for norm in omega_norms(np.array([[3.0, -3.0], [1.0, 1.0]]), 1)]
      [[[3.0, 1.0]], [[0.0, 1.0]]]
    """
    acting = np.asarray(effective_omega(jnp.asarray(omega), num_layers, normalise), float)
    return np.sqrt((acting**2).mean(-1)), acting.mean(-1)


def distance_from_one(omega: Array) -> Array:
    """Computes the published penalty before its weight (method.md, "Penalties").

    Per layer and source the squared distance of the mean factor from 1, divided by T. For a shared omega the
    release sums over dimensions instead of averaging and does not divide; reproduced as it is.

    Example:
      >>> float(distance_from_one(jnp.ones((2, 3, 5))))
      0.0
    """
    if omega.ndim == 3:
        return ((1 - omega.mean(-1)) ** 2).sum() / omega.shape[1]
    return ((1 - omega.sum(-1)) ** 2).sum()


def scalearn(
    *,
    uniform: bool = False,
    shared: bool = False,
    dropout: float = 0.3,
    init_scale: float = 2.0,
    normalise: str = "none",
    penalty_weight: float = 0.0,
    compose: str = "folded",
    non_linearity: str = "relu",
) -> Combiner:
    """Makes one of the four ScaLearn variants; see ``ScaLearn`` for the options.

    Args:
      penalty_weight: factor lambda of the penalty that pulls each source's mean factor to 1.
      non_linearity: phi of the source adapters.

    Returns:
      The combiner.

    Raises:
      InputError: unknown ``normalise`` or ``compose``.

    Example:
      >>> shape = banks.BankShape(12, 8, 768, 48)
      >>> scalearn(shared=True).init(jax.random.key(0), shape)["omega"].shape
      (8, 768)
    """
    if normalise not in NORMALISE:
        raise unknown("normalise", normalise, NORMALISE)
    apply, site = update_of(compose, non_linearity)

    def penalty(transfer: Params) -> Array:
        return penalty_weight * distance_from_one(transfer["omega"])

    return of_module(
        ScaLearn(uniform, shared, dropout, init_scale, normalise, compose),
        apply=apply,
        penalty=penalty if penalty_weight else no_penalty,
        site=site,
    )
