"""The forward pass of what is served, compiled for all devices of the process, and its parameters on them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache

from jax.sharding import Mesh

from scalearn_jax import model
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import encoder
from scalearn_jax.runs.serving import mixed
from scalearn_jax.runs.serving.folders import Served
from scalearn_jax.runs.serving.mixed import MixedSpec, Rows
from scalearn_jax.train import sharding
from scalearn_jax.train.compile import compile_forward
from scalearn_jax.typing import Array, Params


def assemble(served: Sequence[Served], dtype: str | None = None) -> tuple[Callable[[Params, Rows], Array], Params]:
    """Makes one model of what is served.

    Args:
      served: one of any kind, or several that are adapters.
      dtype: type of the computation; by default theirs, float32 where they differ.

    Returns:
      The compiled forward pass, (params, rows on the host) -> Float[N C], see ``mixed.apply``; and its parameters.
    """
    mesh, first = sharding.make_mesh(), served[0]
    spec = dataclasses.replace(first.spec, dtype=dtype or _common([one.spec.dtype for one in served], "float32"))
    if first.portable is None:
        return _single(spec, first.task.name, mesh), sharding.replicate(first.params, mesh)
    parts = [one.portable for one in served]
    sizes = ModelSpec(parts[0].backbone, dtype=spec.dtype, layers=_common([one.spec.layers for one in served], "loop"))
    widest = max(part.head_spec.num_outputs for part in parts)
    forward = _several(MixedSpec(sizes, tuple(part.non_linearity for part in parts), widest), mesh)
    backbone = encoder.unstack(first.params) if sizes.layers == "loop" else first.params
    return forward, sharding.replicate({"backbone": backbone, **mixed.stack(parts)}, mesh)


def _common(values: Sequence[str], otherwise: str) -> str:
    return values[0] if len(set(values)) == 1 else otherwise


@cache
def _several(spec: MixedSpec, mesh: Mesh) -> Callable:
    def answer(params: Params, rows: Rows) -> Array:
        return mixed.apply(params, rows, spec=spec)

    return compile_forward(answer, mesh)


@cache
def _single(spec: ModelSpec, task: str, mesh: Mesh) -> Callable:
    """Compiles a model of any kind; its head scores each sequence by itself, also where several are to choose from."""
    spec = dataclasses.replace(spec, heads=((task, dataclasses.replace(spec.head(task), num_choices=1)),))

    def answer(params: Params, rows: Rows) -> Array:
        first = model.features(params, rows, spec=spec)
        return model.predict(params, first, spec=spec, task=task)

    return compile_forward(answer, mesh)
