"""What a combiner is: three pure functions and a penalty.

Letters: B or R rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.bank import BankShape
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


def bind_by_group(
    bind: Callable, apply: Callable | None, transfer: Params, groups: int
) -> tuple[Params, Callable | None]:
    """Binds a copy of the transfer parameters for each group of rows, so that devices only exchange their gradients.

    Where an ordinary adapter is made of far fewer parameters, one copy would have devices add up the gradient of the
    adapter that they share, before it becomes the parameters'. With a copy each, they add up that of the parameters.

    Args:
      bind: transfer -> site.
      apply: (site of one layer, z Float[R S d]) -> update.
      transfer: the parameters.
      groups: how many; must divide R.

    Returns:
      (site, apply) with the same values and gradients. Other sites than ordinary adapters are bound once.
    """
    if groups == 1 or not transfer or not set(jax.eval_shape(bind, transfer)) <= {"down", "up", "scale"}:
        return bind(transfer), apply
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (groups, *leaf.shape)), transfer)

    def by_group(site: Params, z: Array) -> Array:
        if z.shape[1] == 1:  # the last layer, at first tokens only: every device computes all of them
            return apply(site["whole"], z)
        return jax.vmap(apply)(site["copies"], z.reshape(groups, -1, *z.shape[1:])).reshape(z.shape)

    return {"whole": bind(transfer), "copies": jax.vmap(bind, out_axes=1)(copies)}, by_group
