"""One pass over examples of several tasks: each row meets its own task's adapter, each sequence its own task's head.

Rows are packed within a task, so a row needs one adapter, looked up in a bank of all. How the rows are multiplied was
measured on 2 shared cores, for 8 tasks and 32 rows of 128 tokens, d = 768, w = 384; milliseconds and memory of a site:

    one adapter for all rows                 82    8 MB   what no mixed batch can beat
    row by row, each reading its adapter     74    3 MB   a scan; chosen on CPUs, whose cores share out each product
    gathered [R d w], one batched product   136   76 MB   chosen elsewhere: a scan would leave most of a chip idle
    every adapter on all rows, then chosen  587   20 MB   K times the work
    jax.lax.ragged_dot over sorted rows     769  116 MB   on CPUs that is the same, made of masks

A step whose rows are all of one task, as most of a long question are, takes the first of these.

The last layer sees nothing but the sequences' first tokens, and the heads no more: there every task's parameters are
applied to all, and one result of each is chosen, which costs less than to copy parameters for each sequence.

Letters: K tasks, N sequences, R rows, S row length, L layers, d hidden size, w adapter width, C outputs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scalearn_jax import model, tree
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models import encoder
from scalearn_jax.models.adapter import non_linearity, norm_after
from scalearn_jax.models.heads import Head, HeadSpec
from scalearn_jax.models.layers import affine, half_kernels
from scalearn_jax.runs.plain_adapter import PlainAdapter
from scalearn_jax.runs.serving.folders import Served
from scalearn_jax.train.compile import compile_forward, keep_programs
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.sharding import make_mesh, replicate
from scalearn_jax.typing import Array, Batch, Params


class Rows(NamedTuple):
    """Sequences to answer, laid out in rows; the fields are those of ``Batch``, but for the last."""

    tokens: Array
    token_types: Array
    segments: Array
    positions: Array
    example_at: Array
    row_tasks: Array  # Int[R], whose sequences a row holds


def rows_of(batch: Batch, tasks: np.ndarray) -> Rows:
    """Marks each row of a batch with the one task that its single sequences are of.

    ``tasks`` Int[n] are those of the sequences; n <= N, the others are fillers.
    """
    row_tasks = np.full(len(batch.tokens), tasks[0], np.int32)  # also of rows that hold nothing
    row_tasks[batch.example_at[: len(tasks), 0]] = tasks
    shared = (batch.tokens, batch.token_types, batch.segments, batch.positions, batch.example_at)
    return Rows(*shared, row_tasks=row_tasks)


@dataclasses.dataclass(frozen=True)
class MixedSpec:
    """Everything static about a model of several tasks; hashable."""

    model: ModelSpec  # sizes of the encoder, type and layout of the computation; its combiner and heads do not count
    non_linearities: tuple[str, ...]  # phi of each of the K adapters
    num_outputs: int  # C, of the widest head
    normed: tuple[bool, ...]  # which of the adapters have a norm after their up-projection


def stack(parts: Sequence[PlainAdapter]) -> Params:
    """Stacks the adapters and heads of K tasks; narrower ones are padded, an adapter with dead units.

    Returns:
      ``{"adapters", "heads"}``: ``down`` kernel Float[L K d w] and so on, ``out`` kernel Float[K d C] and so on.
    """
    widest = max(part.head["out"]["bias"].size for part in parts)

    def padded(leaf: np.ndarray) -> np.ndarray:
        return np.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, widest - leaf.shape[-1])])

    heads = [part.head | {"out": jax.tree.map(padded, part.head["out"])} for part in parts]
    adapters = [part.adapter for part in parts]
    if any("norm" in one for one in adapters):  # what stands for one that is not there is never used
        blank = dict.fromkeys(("scale", "bias"), np.zeros_like(adapters[0]["up"]["bias"]))
        adapters = [{"norm": blank} | one for one in adapters]
    return {
        "adapters": banks.stack(adapters),
        "heads": tree.stack(heads),
    }


def apply(params: Params, rows: Rows, *, spec: MixedSpec) -> Array:
    """Computes the logits of sequences of any of the tasks.

    Args:
      params: ``backbone``, and ``adapters`` and ``heads`` of ``stack``.
      rows: the sequences.
      spec: the model.

    Returns:
      Float[N C], in float32 or wider; of a narrower head the first columns count.
    """
    backbone, bank, sizes = params["backbone"], params["adapters"], spec.model
    tasks = rows.row_tasks[rows.example_at[:, 0]]  # [N]
    with sizes.precision():
        if sizes.dtype == "mixed":
            backbone, bank = half_kernels(backbone), half_kernels(bank)
        site = {"layer": np.arange(sizes.backbone.num_layers)}  # the bank is read where it lies: no copy a layer
        update, update_first = _updates(bank, spec, rows.row_tasks, tasks)
        adapted = encoder.Adapted(backbone, site, update, update_first=update_first)
        first = encoder.encode_first(adapted, rows, sizes.backbone, sizes.compute)
        first = first.astype(jnp.promote_types(first.dtype, jnp.float32))
        head = Head(HeadSpec(num_outputs=spec.num_outputs), sizes.backbone.hidden_size)
        return _chosen(jax.vmap(lambda own: head.apply({"params": own}, first))(params["heads"]), tasks)


def _chosen(every: Array, tasks: Array) -> Array:
    """Takes of what every task makes of N sequences, [K N ...], each one's own."""
    return every[tasks, jnp.arange(len(tasks))]


def _updates(bank: Params, spec: MixedSpec, row_tasks: Array, tasks: Array) -> tuple[encoder.Update, ...]:
    """Makes the site functions of a bank, for rows and for first tokens; a site holds the number of its layer."""
    phis = spec.non_linearities
    looked_up = adapter_of(bank, phis, spec.normed)

    def update(site: Params, z: Array) -> Array:
        own = partial(looked_up, site["layer"])
        if len(phis) == 1:
            return own(0, z)

        def several(z: Array) -> Array:
            return jax.lax.platform_dependent(row_tasks, z, cpu=row_by_row(own), default=at_once(own))

        return jax.lax.cond((row_tasks == row_tasks[0]).all(), partial(own, row_tasks[0]), several, z)

    def update_first(site: Params, z: Array) -> Array:
        own = partial(looked_up, site["layer"])
        if len(phis) == 1:
            return own(0, z)
        return _chosen(jax.vmap(own, in_axes=(0, None))(jnp.arange(len(phis)), z), tasks)

    return update, update_first


def adapter_of(
    bank: Params, phis: tuple[str, ...], normed: tuple[bool, ...] = ()
) -> Callable[[Any, Any, Array], Array]:
    """Makes the function (number of the layer, of the task, z Float[... d]) -> the update of their adapter.

    ``bank`` holds ``down`` kernel Float[L K d w] and so on, ``phis`` are the non-linearities of the K tasks; ``normed``
    says, where the bank has norms, which of them counts.
    """
    names = tuple(dict.fromkeys(phis))
    functions, numbers = [non_linearity(name) for name in names], np.array([names.index(phi) for phi in phis])

    def looked_up(layer: Any, task: Any, z: Array) -> Array:
        own = jax.tree.map(lambda leaf: leaf[layer, task], bank)
        h = jax.lax.switch(jnp.asarray(numbers)[task], functions, affine(own["down"], z))
        u = affine(own["up"], h)
        return jnp.where(jnp.array(normed)[task], norm_after(own["norm"], u), u) if "norm" in own else u

    return looked_up


def row_by_row(adapter: Callable[[Any, Array], Array]) -> Callable[[Array, Array], Array]:
    """Makes (tasks of the rows, z Float[R S d]) -> updates: one row after another."""
    return lambda row_tasks, z: jax.lax.map(lambda row: adapter(*row), (row_tasks, z))


def at_once(adapter: Callable[[Any, Array], Array]) -> Callable[[Array, Array], Array]:
    """Makes the same function as ``row_by_row``: all rows together."""
    return jax.vmap(adapter)


def assemble(served: Sequence[Served], dtype: str | None = None) -> tuple[Callable[[Params, Rows], Array], Params]:
    """Makes one model of what is served, compiled for all devices of the process.

    Args:
      served: one of any kind, or several that are adapters.
      dtype: type of the computation; by default theirs, float32 where they differ.

    Returns:
      The compiled forward pass, (params, rows on the host) -> Float[N C], see ``apply``; and its parameters.
    """
    dtypes = {one.spec.dtype for one in served}
    dtype = dtype or (dtypes.pop() if len(dtypes) == 1 else "float32")
    with own_settings(dtype):
        forward, params = _assemble(served, dtype)
    return own_settings(dtype)(forward), params


def _assemble(served: Sequence[Served], dtype: str) -> tuple[Callable[[Params, Rows], Array], Params]:
    mesh, first, layers = make_mesh(), served[0], {one.spec.layers for one in served}
    if first.plain_adapter is None:
        spec = dataclasses.replace(first.spec, dtype=dtype)
        return _compile_single(spec, first.task.name, mesh), replicate(first.params, mesh)
    parts = [one.plain_adapter for one in served]
    sizes = ModelSpec(parts[0].backbone, dtype=dtype, layers=first.spec.layers if len(layers) == 1 else "loop")
    widest = max(part.head_spec.num_outputs for part in parts)
    phis, normed = zip(*((part.non_linearity, "norm" in part.adapter) for part in parts), strict=True)
    forward = _compile_mixed(MixedSpec(sizes, phis, widest, normed), mesh)
    backbone = encoder.unstack(first.params) if sizes.layers == "loop" else first.params
    return forward, replicate({"backbone": backbone, **stack(parts)}, mesh)


@keep_programs
def _compile_mixed(spec: MixedSpec, mesh: Mesh) -> Callable:
    return compile_forward(partial(apply, spec=spec), mesh)


@keep_programs
def _compile_single(spec: ModelSpec, task: str, mesh: Mesh) -> Callable:
    """Compiles a model of any kind; its head scores each sequence by itself, also where several are to choose from."""
    spec = dataclasses.replace(spec, heads=((task, dataclasses.replace(spec.head(task), num_choices=1)),))

    def answer(params: Params, rows: Rows) -> Array:
        return model.predict(params, model.features(params, rows, spec=spec), spec=spec, task=task)

    return compile_forward(answer, mesh)
