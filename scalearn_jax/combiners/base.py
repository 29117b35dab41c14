"""What a combiner is: three pure functions, a penalty, and the keys of its site.

Letters: N sequences, R rows, S row length, L layers, T source tasks, d hidden size, r bottleneck.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from scalearn_jax import tree
from scalearn_jax.errors import InputError, format_value
from scalearn_jax.models import bank as banks
from scalearn_jax.models.adapter import bottleneck
from scalearn_jax.models.dropout import NO_DROPOUT, DropoutKeys
from scalearn_jax.typing import Array, Key, Params

# What a site holds. The encoder itself reads the vectors; all else is for the combiner's own ``apply``.
ADAPTER = ("down", "up", "scale", "norm")  # an ordinary bottleneck adapter
VECTORS = ("key_scale", "value_scale", "ffn_scale", "inner_scale")  # (IA)^3
SOURCES = ("bank", "omega")  # every source by itself
ATTENTION = ("bank", "wide", "query", "key", "value", "dropout_key")  # AdapterFusion


def no_penalty(transfer: Params) -> Array:
    """Returns 0, the penalty of most combiners."""
    return jnp.float32(0.0)


class Combiner(NamedTuple):
    """A rule that joins a bank of source adapters into one update.

    Attributes:
      init: (key, BankShape) -> transfer parameters; may be empty.
      bind: (transfer, bank, *, keys=NO_DROPOUT) -> site with leading axis L.
      apply: (site of one layer, z Float[R S d]) -> update Float[R S d]; ``None`` where there is no adapter.
      penalty: transfer -> scalar added to the loss.
      site: the keys that the site may have.
      apply_first: what stands for ``apply`` where only first tokens are left, Float[N 1 d], if that differs.
      constants: those of its options that are numbers, by name: ``bind`` takes them from ``transfer`` where that has
        them, so that they are data and one program serves combiners that differ in nothing else.
    """

    init: Callable
    bind: Callable
    apply: Callable | None
    penalty: Callable = no_penalty
    site: tuple[str, ...] = ADAPTER
    apply_first: Callable | None = None
    constants: dict[str, np.ndarray] = {}


@dataclasses.dataclass(frozen=True)
class OwnCombiner:
    """A combiner that is passed as an object; it stands in a ``ModelSpec`` where others have their name.

    Attributes:
      name: where others can import it from, ``module:name``, as ``run.json`` says it.
      make: what makes it.
      options: which of a row's options it takes.
    """

    name: str
    make: Callable[..., Combiner]
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def __call__(self, **options) -> Combiner:
        combiner = self.make(**{name: value for name, value in options.items() if name in self.options})
        if not isinstance(combiner, Combiner):
            raise InputError(
                f"combiner {self.name} made a {type(combiner).__name__}, expected a Combiner; see combiners.of_module."
            )
        return combiner


def own(given: Any) -> OwnCombiner:
    """Takes a combiner that a user passes: a ``Combiner``, or better a function at the top of a module that makes one.

    Equal functions share compiled programs. The function may have the argument ``non_linearity``, the sources'.

    Raises:
      InputError: neither, or a function that needs other arguments.

    Example:
      >>> from scalearn_jax.combiners.fixed import average
      >>> str(own(average))
      'scalearn_jax.combiners.fixed:average'
    """
    if isinstance(given, OwnCombiner):
        return given
    if isinstance(given, Combiner):
        return OwnCombiner("a Combiner without a name", lambda: given)
    if not isinstance(given, Hashable) or not callable(given) or isinstance(given, nn.Module | type):
        raise InputError(
            f"combiner: expected a function that makes a Combiner, or a Combiner, got {format_value(given)}; see"
            " combiners.of_module."
        )
    name, parameters = place_of(given), inspect.signature(given).parameters.values()
    lacking = [one.name for one in parameters if one.default is one.empty and one.kind not in (2, 4)]
    if needed := [one for one in lacking if one != "non_linearity"]:
        raise InputError(f"combiner {name} needs {', '.join(needed)}; pass functools.partial({name}, ...) with values.")
    return OwnCombiner(name, given, tuple(one.name for one in parameters if one.name == "non_linearity"))


def place_of(function: Callable) -> str:
    """Where a function can be imported from, ``module:name``.

    Example:
      >>> place_of(functools.partial(no_penalty))
      'scalearn_jax.combiners.base:no_penalty'
    """
    function = function.func if isinstance(function, functools.partial) else function
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def of_module(
    module: nn.Module, *, apply: Callable | None, penalty: Callable = no_penalty, site: tuple[str, ...] = ADAPTER
) -> Combiner:
    """Makes a combiner of a linen module that maps a bank, and the keys of its dropout, to a site.

    Args:
      module: called as ``module(bank)`` or ``module(bank, keys)``; its parameters are the transfer parameters.
      apply, penalty, site: see ``Combiner``.
    """

    def init(key: Key, shape: banks.BankShape) -> Params:
        return module.lazy_init(key, jax.eval_shape(lambda: banks.zeros(shape)))["params"]

    def bind(transfer: Params, bank: Params, *, keys: DropoutKeys = NO_DROPOUT) -> Params:
        try:
            return module.apply({"params": transfer}, bank, keys)
        except ScopeParamShapeError:
            expected = tree.flatten(jax.eval_shape(lambda: init(jax.random.key(0), banks.shape(bank))))
            found = tree.flatten(transfer)
            wrong = [
                f"{path} has shape {found[path].shape}, not {leaf.shape}"
                for path, leaf in expected.items()
                if found[path].shape != leaf.shape
            ]
            raise InputError(
                f"the transfer parameters do not fit a bank of {banks.shape(bank).num_sources} sources"
                f" ({', '.join(wrong)}); pass the bank that they were trained on, sources in its order."
            ) from None

    return Combiner(init, bind, apply, penalty, site)


def without_parameters(
    bind: Callable[[Params, Params], Params],
    *,
    apply: Callable | None,
    site: tuple[str, ...] = ADAPTER,
    constants: dict[str, np.ndarray] | None = None,
) -> Combiner:
    """Makes a combiner with nothing to learn of ``bind(constants, bank) -> site``; for the others see ``Combiner``."""
    own = constants or {}

    def bind_given(transfer: Params, bank: Params, *, keys: DropoutKeys = NO_DROPOUT) -> Params:
        return bind(own | transfer, bank)

    return Combiner(lambda key, shape: {}, bind_given, apply, site=site, constants=own)


def per_task(one: Combiner, tasks: tuple[str, ...]) -> Combiner:
    """Lets a combiner keep what it calls ``own`` of its transfer parameters once a task, ``{"tasks": {task: own}}``.

    Its ``bind`` stays that of one task: ``of_task`` makes the parameters that it takes.
    """
    if not tasks:
        return one

    def init(key: Key, shape: banks.BankShape) -> Params:
        transfer = one.init(key, shape)
        drawn = {task: one.init(jax.random.fold_in(key, number), shape) for number, task in enumerate(tasks, 1)}
        del transfer["own"]
        return transfer | {"tasks": {task: transfer["own"] for task, transfer in drawn.items()}}

    return one._replace(init=init)


def of_task(transfer: Params, tasks: Sequence[str], number: int | Array | None) -> Params:
    """Takes the transfer parameters of a task out of those that ``per_task`` draws; others stay as they are.

    Args:
      transfer: the parameters.
      tasks: all tasks, in order.
      number: which of them, a number or, as data, Int[].

    Example:
      >>> of_task({"tasks": {"a": {"own": 1}, "b": {"own": 2}}, "rule": 3}, ("a", "b"), 1)
      {'rule': 3, 'own': {'own': 2}}
    """
    if "tasks" not in transfer:
        return transfer
    parts = [transfer["tasks"][task] for task in tasks]
    own = parts[number] if isinstance(number, int) else jax.tree.map(lambda *leaves: jnp.stack(leaves)[number], *parts)
    return {name: part for name, part in transfer.items() if name != "tasks"} | {"own": own}


def adapter(non_linearity: str) -> Callable[[Params, Array], Array]:
    """Returns the site function of an ordinary bottleneck adapter."""
    return functools.partial(bottleneck, name=non_linearity)


def adapter_phi(combiner: Combiner) -> str | None:
    """Returns the non-linearity of a combiner whose site and ``apply`` are an adapter's; ``None`` for any other.

    Example:
      >>> adapter_phi(of_module(nn.Module(), apply=adapter("gelu")))
      'gelu'
    """
    is_adapter = isinstance(combiner.apply, functools.partial) and combiner.apply.func is bottleneck
    return combiner.apply.keywords["name"] if is_adapter and set(combiner.site) <= set(ADAPTER) else None


def by_group(combiner: Combiner, num_groups: int) -> Combiner:
    """Binds a copy of the transfer parameters for each group of rows, so that devices exchange their gradients only.

    Where an ordinary adapter is made of far fewer parameters, one copy would have devices add up the gradient of the
    adapter that they share, before it becomes the parameters'. With a copy each, they add up that of the parameters.

    Args:
      combiner: any.
      num_groups: devices that share out the rows.

    Returns:
      A combiner of the same values and gradients. Other sites than ordinary adapters are bound once.
    """
    if num_groups == 1 or combiner.site != ADAPTER:
        return combiner

    def bind(transfer: Params, bank: Params, *, keys: DropoutKeys = NO_DROPOUT) -> Params:
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (num_groups, *leaf.shape)), transfer)
        whole = combiner.bind(transfer, bank, keys=keys)
        if not transfer or not set(whole) <= set(ADAPTER):
            return whole
        return {
            "whole": whole,
            "copies": jax.vmap(lambda own: combiner.bind(own, bank, keys=keys), out_axes=1)(copies),
        }

    def apply(site: Params, z: Array) -> Array:
        if "copies" not in site or z.shape[0] % num_groups:
            return apply_first(site, z)
        groups = z.reshape(num_groups, -1, *z.shape[1:])
        return jax.vmap(combiner.apply)(site["copies"], groups).reshape(z.shape)

    def apply_first(site: Params, z: Array) -> Array:  # every device computes all first tokens
        return combiner.apply(site["whole"] if "copies" in site else site, z)

    return combiner._replace(bind=bind, apply=apply, site=("whole", "copies"), apply_first=apply_first)
