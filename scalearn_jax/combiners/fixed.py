"""Combiners with nothing to learn: one adapter, constant factors, the average of the parameters, or no adapter.

Letters: L layers, T source tasks.
"""

import jax.numpy as jnp
import numpy as np

from scalearn_jax.combiners.base import Combiner, adapter, without_parameters
from scalearn_jax.combiners.scalearn import scale, update_of
from scalearn_jax.errors import InputError
from scalearn_jax.models import bank as banks
from scalearn_jax.typing import Params


def single(*, non_linearity: str = "relu") -> Combiner:
    """Makes the identity on a bank that holds one adapter: source-task training and its baseline.

    Raises:
      InputError: (at ``bind``) the bank holds more than one adapter.

    Example:
      >>> single().init(None, None)
      {}
    """

    def bind(constants: Params, bank: Params) -> Params:
        num_sources = banks.shape(bank).num_sources
        if num_sources != 1:
            raise InputError(f"combiner 'single' takes a bank of one adapter, got {num_sources}; select one source.")
        return banks.select(bank, 0)

    return without_parameters(bind, apply=adapter(non_linearity))


def fixed(*, coefficients: tuple[float, ...] = (), compose: str = "folded", non_linearity: str = "relu") -> Combiner:
    """Makes the sum with constant factors, update = sum_t c_t up_t (method.md, "Probing").

    Args:
      coefficients: T factors in bank order; left out where they come as data, see ``Combiner.constants``.
      compose: ``"folded"``, or ``"reference"`` for sources that cannot be folded; see ``ScaLearn``.
      non_linearity: of the sources.

    Raises:
      InputError: unknown ``compose``; or (at ``bind``) the number of factors is not the number of sources.

    Example:
      >>> fixed(coefficients=(0.7, 0.1)).init(None, None)
      {}
    """

    def bind(constants: Params, bank: Params) -> Params:
        num_layers, num_sources, _, _ = banks.shape(bank)
        factors = constants.get("coefficients", ())
        if len(factors) != num_sources:
            raise InputError(
                f"got {len(factors)} coefficients for {num_sources} sources; pass one a source, in bank order."
            )
        omega = jnp.asarray(factors, bank["up"]["bias"].dtype)[None, :, None]
        return scale(bank, jnp.broadcast_to(omega, (num_layers, num_sources, 1)), compose)

    apply, site = update_of(compose, non_linearity)
    constants = {"coefficients": np.asarray(coefficients, float)} if coefficients else {}
    return without_parameters(bind, apply=apply, site=site, constants=constants)


def average(*, weights: tuple[float, ...] = (), non_linearity: str = "relu") -> Combiner:
    """Makes AdapterSoup, the weighted average of the sources' parameters, P = sum_t w_t P_t (method.md, "AdapterSoup").

    Args:
      weights: T weights in bank order, divided by their sum; empty for equal weights, and where they come as data,
        see ``Combiner.constants``.
      non_linearity: of the sources.

    Raises:
      InputError: (at ``bind``) the number of weights is not the number of sources.

    Example:
      >>> average(weights=(0.5, 0.5)).init(None, None)
      {}
    """

    def bind(constants: Params, bank: Params) -> Params:
        num_sources = banks.shape(bank).num_sources
        shares = constants.get("weights", np.full(num_sources, 1 / num_sources))
        if len(shares) != num_sources:
            raise InputError(
                f"AdapterSoup got {len(shares)} weights for {num_sources} sources; pass one weight a source,"
                " in bank order."
            )
        return banks.mean(bank, jnp.asarray(shares))

    constants = {"weights": np.array([weight / sum(weights) for weight in weights])} if weights else {}
    return without_parameters(bind, apply=adapter(non_linearity), constants=constants)


def none(*, non_linearity: str = "relu") -> Combiner:
    """Makes the combiner of a backbone without adapters: full fine-tuning, or a head alone."""
    return without_parameters(lambda constants, bank: {}, apply=None, site=())
