"""AdapterSoup: the weighted average of the source adapters' parameters (method.md, "AdapterSoup").

    P = sum_t w_t P_t

Letters: L layers, T source tasks.
"""

import jax.numpy as jnp

from scalearn_jax.combiners.base import Combiner, without_parameters
from scalearn_jax.errors import InputError
from scalearn_jax.models import bank as banks
from scalearn_jax.typing import Params


def average(*, weights: tuple[float, ...] = (), non_linearity: str = "relu") -> Combiner:
    """Makes the parameter average; nothing in it is learned but the target's head.

    Args:
      weights: T weights in bank order, divided by their sum; empty for equal weights.
      non_linearity: of the sources.

    Returns:
      The combiner.

    Raises:
      InputError: (at ``bind``) the number of weights is not the number of sources.

    Example:
      >>> average(weights=(0.5, 0.5)).init(None, None)
      {}
    """

    def bind(bank: Params) -> Params:
        num_sources = banks.shape(bank).num_sources
        if weights and len(weights) != num_sources:
            raise InputError(
                f"AdapterSoup got {len(weights)} weights for {num_sources} sources; pass one weight a source,"
                " in bank order."
            )
        given = weights or (1.0,) * num_sources
        return banks.mean(bank, jnp.asarray([weight / sum(given) for weight in given]))

    return without_parameters(bind, non_linearity=non_linearity)
