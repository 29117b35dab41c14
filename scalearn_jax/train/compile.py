"""From one member on one device to all of them: members by ``vmap``, devices by ``jit`` over a mesh.

Letters: M members (seeds trained together), B examples, C outputs, K steps of a dispatch.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from scalearn_jax import model
from scalearn_jax.combiners import COMBINERS
from scalearn_jax.combiners.base import by_group
from scalearn_jax.models.dropout import DropoutKeys
from scalearn_jax.train.feed import Dispatch
from scalearn_jax.train.sharding import shard_batch, whole
from scalearn_jax.train.state import SHARED
from scalearn_jax.typing import Batch, Params

# XLA hands groups of products, reductions and elementwise operations to a library on CPUs. Products alone are faster:
# its exponentials and reductions are slower than XLA's own code (measured in experiments/PERFORMANCE.md).
_CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


_KEPT = 4  # programs of a kind


class Compiled(NamedTuple):
    """A compiled step that takes its batch from the host: call it, or ``lower`` it to look at its program."""

    jitted: Callable  # (carried, frozen, batch on the devices) -> results
    place: Callable[[Batch], Batch]  # spreads a batch over the devices

    def __call__(self, carried: Any, frozen: Params, batch: Batch) -> Any:
        return self.jitted(carried, frozen, self.place(batch))

    def lower(self, carried: Any, frozen: Params, batch: Batch) -> jax.stages.Lowered:
        """Lowers the step for arguments of these shapes."""
        return self.jitted.lower(carried, frozen, self.place(batch))


def forward(mesh: Mesh) -> Callable:
    """Returns ``model.apply`` as a training step over a mesh should call it; see ``combiners.base.by_group``."""

    def apply(params: Params, batch: Batch, *, spec: model.ModelSpec, task: str | None, keys: DropoutKeys) -> jax.Array:
        combiner = by_group(spec.combiner_functions, mesh.shape["data"])
        return model.apply(params, batch, spec=spec, task=task, keys=keys, combiner=combiner)

    return apply


def keep_programs(make: Callable) -> Callable:
    """Lets ``make`` return the program that equal arguments gave before; of each kind the last few are kept.

    So runs that differ in data alone compile once, and a study of many holds no more than these. Where a combiner has
    been registered anew since, programs are made anew, too.

    Example:
      >>> make = keep_programs(lambda spec: object())
      >>> make(1) is make(1)
      True
    """
    kept = functools.lru_cache(maxsize=_KEPT)(lambda rows, *args, **options: make(*args, **options))

    @functools.wraps(make)
    def program(*args: Any, **options: Any) -> Any:
        return kept(tuple(COMBINERS.items()), *args, **options)

    program.cache_clear = kept.cache_clear
    return program


def over_members(function: Callable, batch_axis: int | None) -> Callable:
    """Maps (carried, frozen, batch) -> results over M members, which share the frozen backbone and bank.

    All else that is frozen, such as masks that each member has drawn, has a leading member axis like what is carried.
    """

    @functools.wraps(function)
    def members(carried: Any, frozen: Params, batch: Batch) -> Any:
        axes = {group: None if group in SHARED else 0 for group in frozen}
        return jax.vmap(function, in_axes=(0, axes, batch_axis))(carried, frozen, batch)

    return members


def compile_train_step(step: Callable, mesh: Mesh) -> Compiled:
    """Maps a step over M members and compiles it for a mesh, giving the old state's memory to the new one.

    State and batch have a leading member axis; of the frozen half see ``over_members``. The batch comes from the host;
    state and frozen half must lie on the mesh, see ``replicate`` and ``place_frozen``. Every device holds the whole
    state; what it computes follows from its share of the batch.
    """
    members = over_members(step, 0)
    return Compiled(jit_over(members, mesh, donate_argnums=0), functools.partial(shard_batch, mesh=mesh))


@keep_programs
def compile_dispatches(step: Callable, mesh: Mesh) -> Callable:
    """Compiles ``(state, frozen, dispatch) -> (state, metrics)`` for dispatches on the mesh, see ``feed.place``.

    As ``compile_train_step``, for one step and for several; the metrics are those of the dispatch's last step.
    """
    members = over_members(step, 0)

    def several(state, frozen, batches):
        state, metrics = jax.lax.scan(lambda state, batch: members(state, frozen, batch), state, batches)
        return state, jax.tree.map(lambda leaf: leaf[-1], metrics)

    one, many = (jit_over(function, mesh, donate_argnums=0) for function in (members, several))

    def run(state, frozen, dispatch: Dispatch):
        return (one if dispatch.num_steps == 1 else many)(state, frozen, dispatch.batch)

    return run


def compile_predict_step(predict: Callable, mesh: Mesh) -> Compiled:
    """Maps a prediction over members that share one batch, and compiles it; logits are Float[M B C]."""
    members = over_members(predict, None)
    return Compiled(jit_over(members, mesh), functools.partial(shard_batch, mesh=mesh))


def compile_forward(forward: Callable, mesh: Mesh, **options: Any) -> Callable:
    """Compiles (params, batch) -> results for parameters on a mesh and batches from the host; see ``shard_batch``."""
    jitted = jit_over(forward, mesh, **options)
    return lambda params, batch: jitted(params, shard_batch(batch, mesh))


def jit_over(function: Callable, mesh: Mesh, **options: Any) -> Callable:
    """``jax.jit`` for a mesh; every device holds the results whole, unless ``out_shardings`` says more."""
    return jax.jit(function, **{"out_shardings": whole(mesh)} | options, compiler_options=_compiler_options())


@functools.cache
def _compiler_options() -> dict[str, str]:
    """``compiler_options`` for ``jax.jit`` on the default platform; empty where it knows none of ours."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except Exception:  # another version of XLA: its errors have no common type, and its defaults are right as well
        return {}
    return _CPU
