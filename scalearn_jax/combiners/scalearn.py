"""ScaLearn: learn only how to scale the source adapters' outputs (arXiv 2310.01217, section 3).

    update = sum_t omega_t * up_t,   up_t = phi(z D_t + b_t) U_t + c_t

Letters: B rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.

=====================  ==================  =========
variant                omega               shared
=====================  ==================  =========
ScaLearn               [L T d] vectors     no
ScaLearnUniform        [L T 1] scalars     no
ScaLearn++             [T d]   vectors     yes
ScaLearnUniform++      [T 1]   scalars     yes
=====================  ==================  =========
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.combiners.base import Combiner, adapter, of_module
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.dropout import mask as dropout_mask
from scalearn_jax.typing import Array, Params

NORMALISE = {
    "none": lambda omega: omega,
    "mean": lambda omega: omega / omega.sum(-2, keepdims=True),
    "softmax": lambda omega: jax.nn.softmax(omega, axis=-2),
}


class ScaLearn(nn.Module):
    """The scaling combiner; the four published variants are its two switches.

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
    def parameters(self, shape: banks.BankShape) -> Array:
        """Declares omega: [L T d], [L T 1], [T d] or [T 1]."""
        width = 1 if self.uniform else shape.hidden_size
        size = (shape.num_sources, width) if self.shared else (shape.num_layers, shape.num_sources, width)
        if self.has_variable("params", "omega"):
            check_omega(self.get_variable("params", "omega").shape, size)
        center = self.init_scale / shape.num_sources
        return self.param("omega", lambda key: center + 0.001 * jax.random.normal(key, size))

    def bind(self, bank: Params, key=None, mask: Array | None = None) -> Params:
        """Folds omega, after its dropout, into the bank; see ``Combiner.bind``."""
        shape = banks.shape(bank)
        omega = effective_omega(self.parameters(shape), shape.num_layers, self.normalise)  # [L, T, d or 1]
        if mask is None and key is not None and self.dropout > 0:
            mask = dropout_mask(key, omega.shape, self.dropout)
        if mask is not None:
            omega = omega * mask.astype(omega.dtype)
        return banks.widen(bank, omega) if self.compose == "folded" else {"bank": bank, "omega": omega}


def check_omega(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Checks omega's shape against the bank's.

    Raises:
      InputError: they differ; the message names the number of sources on both sides.
    """
    if found != expected:
        raise InputError(
            f"omega covers {found[-2] if len(found) > 1 else '?'} source tasks with shape {found}, the bank holds"
            f" {expected[-2]} and needs {expected}; pass the bank that omega was trained on, sources in its order."
        )


def effective_omega(omega: Array, num_layers: int, normalise: str = "none") -> Array:
    """Repeats a shared omega over the layers and normalises it over the sources.

    Args:
      omega: Float[L T w] or shared Float[T w].
      num_layers: L.
      normalise: see ``ScaLearn``.

    Returns:
      Float[L T w], the factors applied in each layer.

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
    """The published form: evaluates every source and sums, sum_t omega_t * up_t.

    Args:
      site: ``bank`` of one layer, [T d r] and so on, and ``omega`` Float[T d] or Float[T 1].
      z: Float[B S d].
      non_linearity: phi.

    Returns:
      Float[B S d].
    """
    omega = site["omega"].astype(z.dtype)
    return (source_updates(site["bank"], z, non_linearity) * omega[None, None]).sum(2)


def source_updates(bank: Params, z: Array, non_linearity: str = "relu") -> Array:
    """Evaluates every source adapter on the same input, up_t = phi(z D_t + b_t) U_t + c_t.

    Args:
      bank: of one layer, ``down`` kernel Float[T d r] and so on.
      z: Float[B S d].
      non_linearity: phi.

    Returns:
      Float[B S T d].
    """
    return jax.vmap(lambda one: bottleneck(one, z, non_linearity), out_axes=2)(bank)


def distance_from_one(omega: Array) -> Array:
    """The published penalty before its weight (method.md, "Penalties").

    Per layer and source the squared distance of the mean factor from 1, divided by T. For a shared omega the
    release sums over dimensions instead of averaging and does not divide; reproduced as it is.

    Args:
      omega: Float[L T w] or shared Float[T w].

    Returns:
      A scalar.

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
    functions = {
        "folded": adapter(non_linearity),
        "reference": lambda site, z: scaled_sum(site, z, non_linearity),
    }
    if normalise not in NORMALISE:
        raise unknown("normalise", normalise, NORMALISE)
    if compose not in functions:
        raise unknown("compose", compose, functions)
    module = ScaLearn(uniform, shared, dropout, init_scale, normalise, compose)
    penalty = (lambda transfer: penalty_weight * distance_from_one(transfer["omega"])) if penalty_weight else None
    return of_module(module, apply=functions[compose], penalty=penalty)
