"""What a combiner is: three pure functions and a penalty.

Letters: B rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from scalearn_jax.models.bank import BankShape
from scalearn_jax.models.bottleneck import bottleneck
from scalearn_jax.typing import Array, Params


class Combiner(NamedTuple):
    """A rule that joins a bank of source adapters into one update.

    Attributes:
      init: (key, BankShape) -> transfer parameters; may be empty.
      bind: (transfer, bank, *, key=None, mask=None) -> site with leading axis L. ``key`` switches the
        combiner's own dropout on; ``mask`` replays a given one instead.
      apply: (site of one layer, z Float[B S d]) -> update Float[B S d]; ``None`` when there is no adapter.
      penalty: transfer -> scalar added to the loss.
    """

    init: Callable
    bind: Callable
    apply: Callable | None
    penalty: Callable = lambda transfer: jnp.float32(0.0)


def of_module(module: nn.Module, *, apply: Callable, penalty: Callable | None = None) -> Combiner:
    """Makes a combiner of a linen module with methods ``parameters(shape)`` and ``bind(bank, key, mask)``.

    Args:
      module: declares the transfer parameters in ``parameters``.
      apply: the site function.
      penalty: transfer -> scalar; ``None`` for none.

    Returns:
      The combiner; its ``init`` and ``bind`` are the module's, made pure.
    """

    def init(key, shape: BankShape) -> Params:
        return module.init(key, shape, method="parameters").get("params", {})

    def bind(transfer: Params, bank: Params, *, key=None, mask=None) -> Params:
        return module.apply({"params": transfer}, bank, key=key, mask=mask, method="bind")

    combiner = Combiner(init, bind, apply)
    return combiner if penalty is None else combiner._replace(penalty=penalty)


def without_parameters(bind: Callable, *, non_linearity: str = "relu") -> Combiner:
    """Makes a combiner with nothing to learn from ``bind(bank) -> one adapter per layer``."""
    return Combiner(
        init=lambda key, shape: {},
        bind=lambda transfer, bank, *, key=None, mask=None: bind(bank),
        apply=adapter(non_linearity),
    )


def adapter(non_linearity: str) -> Callable[[Params, Array], Array]:
    """Returns the site function of an ordinary bottleneck adapter."""
    return lambda site, z: bottleneck(site, z, non_linearity)
