"""The combiners: how a bank of source adapters becomes one update.

To add one, write a file beside these and give it a row here; the tests that run over ``COMBINERS`` pick it up. A row is
called with the method's options, and with ``non_linearity``, that of the sources, where there are some.
"""

from collections.abc import Callable
from functools import partial

from scalearn_jax.combiners.base import Combiner, OwnCombiner, of_module, own
from scalearn_jax.combiners.baselines import compacter, ia3, propetl
from scalearn_jax.combiners.fixed import average, fixed, none, single
from scalearn_jax.combiners.fusion import fusion
from scalearn_jax.combiners.hyperformer import hyperformer
from scalearn_jax.combiners.scalearn import scalearn
from scalearn_jax.errors import unknown

COMBINERS: dict[str, Callable[..., Combiner]] = {
    "scalearn": scalearn,
    "scalearn-uniform": partial(scalearn, uniform=True),
    "scalearn++": partial(scalearn, shared=True),
    "scalearn-uniform++": partial(scalearn, uniform=True, shared=True, dropout=0.0),
    "fusion": fusion,
    "average": average,
    "single": single,
    "fixed": fixed,
    "none": none,
    "compacter": compacter,
    "ia3": ia3,
    "propetl": propetl,
    "propetl-m": partial(propetl, sparsity=0.3, masks="joint"),
    "hyperformer": hyperformer,
    "hyperformer++": partial(hyperformer, shared=True),
}
# Those that can do with sources that have a norm after their up-projection, by ``compose="reference"``.
UNFOLDED = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++", "fusion", "fixed")


def make(name: str | OwnCombiner, **options) -> Combiner:
    """Makes a combiner by its name.

    Args:
      name: a key of ``COMBINERS``, or what ``own`` makes of another.
      **options: keyword arguments of that combiner.

    Returns:
      The combiner.

    Raises:
      InputError: unknown name.

    Example:
      >>> make("average", weights=(0.5, 0.5)).init(None, None)
      {}
    """
    if isinstance(name, OwnCombiner):
        return name(**options)
    if name not in COMBINERS:
        raise unknown("combiner", name, COMBINERS)
    return COMBINERS[name](**options)


__all__ = ["COMBINERS", "Combiner", "OwnCombiner", "make", "of_module", "own"]
