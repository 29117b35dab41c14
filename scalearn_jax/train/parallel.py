"""Where the step meets the machines: members by ``vmap``, devices by ``jit`` over a mesh.

A mesh has two axes. ``data`` shares out the rows of a batch; ``model`` shares out the frozen parameters, as the table
``_FROZEN`` says. What learns, and all that has one entry an example, lies whole on every device: so the only traffic of
a data-parallel step is the features of the first tokens and the gradients of what learns below the head.

Letters: M members (seeds trained together), B examples, R rows, L layers, T source tasks, d hidden size, r bottleneck,
f feed-forward width.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scalearn_jax import model, tree
from scalearn_jax.combiners.base import by_group
from scalearn_jax.data.batches import ROW_FIELDS
from scalearn_jax.errors import InputError
from scalearn_jax.models.dropout import DropoutKeys
from scalearn_jax.train import compiler
from scalearn_jax.train.feed import Lot
from scalearn_jax.train.sharding import AXES, parse_mesh
from scalearn_jax.typing import Batch, FeatureBatch, Params

# Path of a frozen leaf -> how it may lie, best first; whole where no axis can be divided.
_FROZEN = {
    r"backbone/layers/(query|key|value)/kernel": [PartitionSpec(None, None, "model")],  # [L, d, heads]
    r"backbone/layers/(query|key|value)/bias": [PartitionSpec(None, "model")],
    r"backbone/layers/attention_output/kernel": [PartitionSpec(None, "model")],  # [L, heads, d]
    r"backbone/layers/intermediate/kernel": [PartitionSpec(None, None, "model")],  # [L, d, f]
    r"backbone/layers/intermediate/bias": [PartitionSpec(None, "model")],
    r"backbone/layers/output/kernel": [PartitionSpec(None, "model")],  # [L, f, d]
    r"adapters/down/kernel": [PartitionSpec(None, "model"), PartitionSpec(None, None, None, "model")],  # [L, T, d, r]
    r"adapters/down/bias": [PartitionSpec(None, "model"), PartitionSpec(None, None, "model")],
    r"adapters/up/kernel": [PartitionSpec(None, "model"), PartitionSpec(None, None, "model")],  # [L, T, r, d]
    r"adapters/up/bias": [PartitionSpec(None, "model")],
}
MEMBERS = "members"  # entry of the frozen half that has a leading member axis: constants that members differ in
_OF_HEADS = re.compile(r"backbone/layers/(query|key|value|attention_output)/")


def make_mesh(text: str | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the axes ``data`` and ``model``.

    Axis types are automatic: linen's embedding refuses explicit ones.

    Args:
      text: sizes, for instance ``"data=4,model=2"``; an axis left out has size 1. ``None``: all devices on ``data``.
      devices: the devices; by default all, of every process.

    Returns:
      The mesh.

    Raises:
      InputError: the text is malformed, or its sizes do not multiply to the number of devices.

    Example:
      >>> dict(make_mesh("data=1", jax.devices()[:1]).shape)
      {'data': 1, 'model': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": len(devices), "model": 1} if text is None else parse_mesh(text)
    if sizes["data"] * sizes["model"] != len(devices):
        model = sizes["model"] if len(devices) % sizes["model"] == 0 else 1
        raise InputError(
            f"--mesh {text} asks for {sizes['data'] * sizes['model']} devices, this run has {len(devices)};"
            f" data={len(devices) // model},model={model} fits."
        )
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=types, devices=devices)


def forward(mesh: Mesh) -> Callable:
    """Returns ``model.apply`` as a training step over a mesh should call it; see ``combiners.base.by_group``."""

    def apply(params: Params, batch: Batch, *, spec: model.ModelSpec, task: str, keys: DropoutKeys) -> jax.Array:
        combiner = by_group(spec.combiner_functions, mesh.shape["data"])
        return model.apply(params, batch, spec=spec, task=task, keys=keys, combiner=combiner)

    return apply


class Compiled(NamedTuple):
    """A compiled step that takes its batch from the host: call it, or ``lower`` it to look at its program.

    Attributes:
      jitted: (carried, frozen, batch on the devices) -> results.
      place: spreads a batch over the devices.
    """

    jitted: Callable
    place: Callable[[Batch], Batch]

    def __call__(self, carried: Any, frozen: Params, batch: Batch) -> Any:
        return self.jitted(carried, frozen, self.place(batch))

    def lower(self, carried: Any, frozen: Params, batch: Batch) -> jax.stages.Lowered:
        """Lowers the step for arguments of these shapes."""
        return self.jitted.lower(carried, frozen, self.place(batch))


def compile_train_step(step: Callable, mesh: Mesh) -> Compiled:
    """Maps a step over members and compiles it for a mesh, giving the old state's memory to the new one.

    Every device holds the whole state; what it computes follows from its share of the batch.

    Args:
      step: (state, frozen, batch) -> (state, metrics) of one member.
      mesh: the devices.

    Returns:
      The same for M members at once: state and batch have a leading member axis, the frozen half is shared. The
      batch comes from the host and is spread over the mesh; state and frozen half must lie there, see ``replicate``
      and ``place_frozen``. Its ``lower`` takes the same and returns the program, as that of ``jax.jit`` does.
    """
    return _compiled(_of_members(step), mesh, donate_argnums=0)


def _compiled(function: Callable, mesh: Mesh, **options) -> Compiled:
    return Compiled(_jit(function, mesh, **options), functools.partial(shard_batch, mesh=mesh))


def compile_lots(step: Callable, mesh: Mesh) -> Callable:
    """Compiles ``compile_train_step`` for lots of one step and of several, whose batches lie on the mesh already.

    Returns:
      ``(state, frozen, lot) -> (state, metrics)``; the metrics are those of the lot's last step. See ``place``.
    """
    members = _of_members(step)

    def several(state, frozen, batches):
        state, metrics = jax.lax.scan(lambda state, batch: members(state, frozen, batch), state, batches)
        return state, jax.tree.map(lambda leaf: leaf[-1], metrics)

    one, many = (_jit(function, mesh, donate_argnums=0) for function in (members, several))
    return lambda state, frozen, lot: (one if lot.num_steps == 1 else many)(state, frozen, lot.batch)


def _of_members(one: Callable) -> Callable:
    """Maps a step over members, which share the frozen half but for its entry ``MEMBERS``."""

    def step(state, frozen, batch):
        axes = {name: 0 if name == MEMBERS else None for name in frozen}
        return jax.vmap(one, in_axes=(0, axes, 0))(state, frozen, batch)

    return step


def place(lot: Lot, mesh: Mesh) -> Lot:
    """Puts the batches of a lot on a mesh; see ``shard_batch``."""
    return lot._replace(batch=shard_batch(lot.batch, mesh))


def _jit(function: Callable, mesh: Mesh, **options) -> Callable:
    """Compiles a function whose results every device shall hold whole."""
    return jax.jit(function, out_shardings=_whole(mesh), compiler_options=compiler.options(), **options)


def compile_predict_step(predict: Callable, mesh: Mesh) -> Compiled:
    """Maps a prediction over members that share one batch, and compiles it; logits are Float[M B C]."""
    return _compiled(jax.vmap(predict, in_axes=(0, None, None)), mesh)


def compile_forward(forward: Callable, mesh: Mesh) -> Callable:
    """Compiles (params, batch) -> results for parameters on a mesh and batches from the host; see ``shard_batch``."""
    jitted = _jit(forward, mesh)
    return lambda params, batch: jitted(params, shard_batch(batch, mesh))


def replicate(params: Params, mesh: Mesh) -> Params:
    """Puts a copy of every leaf on every device of a mesh, also of one that spans several processes.

    Nothing is sent: every process must hold the same values.
    """
    return jax.tree.map(lambda leaf: _place(leaf, _whole(mesh)), params)


def place_frozen(frozen: Params, mesh: Mesh, num_heads: int) -> Params:
    """Spreads frozen parameters over the ``model`` axis, with a copy for each entry of ``data``.

    Args:
      frozen: ``backbone`` and ``adapters``, whole on every process.
      mesh: the mesh.
      num_heads: attention heads; a device gets whole ones or all.

    Returns:
      The same tree on the mesh.
    """
    place = lambda path, leaf: _place(leaf, NamedSharding(mesh, _partition(path, leaf.shape, mesh, num_heads)))  # noqa: E731
    return tree.map_with_path(place, frozen)


def gather(params: Params, mesh: Mesh) -> Params:
    """Brings spread parameters back whole to every process; all processes must call it."""
    return params if mesh.shape["model"] == 1 else jax.jit(lambda leaves: leaves, out_shardings=_whole(mesh))(params)


def _partition(path: str, shape: tuple[int, ...], mesh: Mesh, num_heads: int) -> PartitionSpec:
    """Looks up how a frozen leaf lies: by the first of its rows in ``_FROZEN`` whose axis the mesh divides."""
    size, alone = mesh.shape["model"], re.match(r"backbone/layers/\d+/", path)  # a layer by itself has no axis L
    path, shape = (re.sub(r"\d+/", "", path, count=1), (0, *shape)) if alone else (path, shape)
    choices = next((specs for pattern, specs in _FROZEN.items() if re.fullmatch(pattern, path)), [])
    if _OF_HEADS.match(path) and num_heads % size:
        return PartitionSpec()
    found = next((spec for spec in choices if shape[len(spec) - 1] % size == 0), PartitionSpec())
    return PartitionSpec(*found[1:]) if alone else found


def _whole(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Puts what every process holds on a mesh, each device's part by its own process."""
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place(jax.random.key_data(leaf), sharding), impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def divisible(num_rows, mesh: Mesh):
    """Rounds row counts up to what the ``data`` axis of a mesh shares evenly.

    Example:
      >>> divisible(5, make_mesh(devices=jax.devices()[:1]))
      5
    """
    num_devices = mesh.shape["data"]
    return -(-num_rows // num_devices) * num_devices


def shard_batch(batch: Batch | FeatureBatch, mesh: Mesh) -> Batch | FeatureBatch:
    """Spreads a batch's rows over the ``data`` axis; all else, which has an entry an example, lies whole everywhere.

    Rows whose number the mesh does not divide are replicated, too; the result is the same. ``divisible`` sees to it
    that they are not.

    Args:
      batch: numpy leaves, rows [... R S] with any leading axes; the same on every process, which hands over the rows
        of its own devices.
      mesh: the mesh.

    Returns:
      The batch as global arrays.
    """

    def put(name, leaf):
        divides = name in ROW_FIELDS and leaf.shape[-2] % mesh.shape["data"] == 0
        spec = PartitionSpec(*(None,) * (leaf.ndim - 2), "data") if divides else PartitionSpec()
        return _place(leaf, NamedSharding(mesh, spec))

    return type(batch)(**{name: put(name, leaf) for name, leaf in batch._asdict().items()})
