"""Where parameters and rows lie: the mesh of devices, and what is spread over it.

A mesh has two axes. ``data`` shares out the rows of a batch; ``model`` shares out the frozen parameters, as the table
``_FROZEN`` says. What learns, and all that has one entry an example, lies whole on every device: so the only traffic of
a data-parallel step is the features of the first tokens and the gradients of what learns below the head.

Letters: M members (seeds trained together), B examples, R rows, S row length, L layers, T source tasks, d hidden size,
r bottleneck, f feed-forward width.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scalearn_jax import tree
from scalearn_jax.data.batches import ROW_FIELDS
from scalearn_jax.errors import InputError
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.typing import Batch, FeatureBatch, Params

AXES = ("data", "model")
# Path of a frozen leaf -> how it may lie, best first; whole where no axis can be divided.
_FROZEN = {
    r"backbone/layers/(query|key|value|intermediate)/kernel": [PartitionSpec(None, None, "model")],  # [L, d, width]
    r"backbone/layers/(query|key|value|intermediate)/bias": [PartitionSpec(None, "model")],
    r"backbone/layers/(attention_output|output)/kernel": [PartitionSpec(None, "model")],  # [L, width, d]
    r"adapters/down/kernel": [PartitionSpec(None, "model"), PartitionSpec(None, None, None, "model")],  # [L, T, d, r]
    r"adapters/down/bias": [PartitionSpec(None, "model"), PartitionSpec(None, None, "model")],
    r"adapters/up/kernel": [PartitionSpec(None, "model"), PartitionSpec(None, None, "model")],  # [L, T, r, d]
    r"adapters/up/bias": [PartitionSpec(None, "model")],
}
_OF_HEADS = re.compile(r"backbone/layers/(query|key|value|attention_output)/")


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of a mesh's axes; needs no device.

    Example:
      >>> parse_mesh("model=2")
      {'data': 1, 'model': 2}
    """
    sizes = {}
    for part in text.split(","):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in AXES or axis in sizes or not re.fullmatch(r"[1-9][0-9]{0,5}", size):
            raise InputError(
                f"--mesh {text}: {part.strip()!r} is no axis; write it like data=4,model=2, each axis once."
            )
        sizes[axis] = int(size)
    return {axis: sizes.get(axis, 1) for axis in AXES}


def make_mesh(text: str | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of all devices of every process, or of those given, with the axes ``data`` and ``model``.

    The text holds their sizes, for instance ``"data=4,model=2"``; an axis left out has size 1. Without a text, all
    devices are on ``data``. Axis types are automatic: linen's embedding refuses explicit ones.
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


def check_mesh(text: str | None, mesh: Mesh, batch_size: int, backbone: BackboneSpec) -> None:
    """Checks that a batch and a backbone can be shared out over the mesh made from ``text``.

    ``data`` must divide the batch, except in the default mesh; ``model`` the heads or the feed-forward width.
    """
    data, model = (mesh.shape[axis] for axis in AXES)
    if text is not None and batch_size % data:
        raise InputError(
            f"--mesh {text}: data={data} does not divide --batch-size {batch_size};"
            f" pass one of {_divisors(batch_size)}, or a batch size that is a multiple of {data}."
        )
    heads, width = backbone.num_heads, backbone.intermediate_size
    if heads % model and width % model:
        raise InputError(
            f"--mesh {text}: model={model} divides neither the {heads} attention heads ({_divisors(heads)} do) nor the"
            f" feed-forward width {width} ({_divisors(width)} do)."
        )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def whole(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(params: Params, mesh: Mesh) -> Params:
    """Puts a copy of every leaf on every device of a mesh, also of one that spans several processes.

    Nothing is sent: every process must hold the same values.
    """
    return jax.tree.map(lambda leaf: _place(leaf, whole(mesh)), params)


def gather(params: Params, mesh: Mesh) -> Params:
    """Brings spread parameters back whole to every process; all processes must call it."""
    return params if mesh.shape["model"] == 1 else jax.jit(lambda leaves: leaves, out_shardings=whole(mesh))(params)


def place_frozen(frozen: Params, mesh: Mesh, num_heads: int) -> Params:
    """Spreads frozen parameters over the ``model`` axis, with a copy for each entry of ``data``.

    ``frozen`` holds ``backbone`` and ``adapters``, whole on every process. A leaf lies as the first of its rows in
    ``_FROZEN`` whose axis the mesh divides; of attention heads a device gets whole ones or all.
    """

    size = mesh.shape["model"]

    def place(path: str, leaf: Any) -> jax.Array:
        shape, alone = leaf.shape, re.match(r"backbone/layers/\d+/", path)  # a layer by itself has no axis L
        path, shape = (re.sub(r"\d+/", "", path, count=1), (0, *shape)) if alone else (path, shape)
        choices = next((specs for pattern, specs in _FROZEN.items() if re.fullmatch(pattern, path)), [])
        if _OF_HEADS.match(path) and num_heads % size:
            choices = []
        found = next((spec for spec in choices if shape[len(spec) - 1] % size == 0), PartitionSpec())
        return _place(leaf, NamedSharding(mesh, PartitionSpec(*found[1:]) if alone else found))

    return tree.map_with_path(place, frozen)


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
    """Rounds row counts up to what the ``data`` axis of a mesh shares evenly."""
    num_devices = mesh.shape["data"]
    return -(-num_rows // num_devices) * num_devices


def shard_batch(batch: Batch | FeatureBatch, mesh: Mesh) -> Batch | FeatureBatch:
    """Spreads a batch's rows over the ``data`` axis; all else, which has an entry an example, lies whole everywhere.

    The leaves are numpy, rows [... R S] with any leading axes, and equal on every process, which hands over the rows of
    its own devices. Rows whose number the mesh does not divide are replicated, too, with the same result; ``divisible``
    avoids that.
    """

    def put(name, leaf):
        divides = name in ROW_FIELDS and leaf.shape[-2] % mesh.shape["data"] == 0
        spec = PartitionSpec(*(None,) * (leaf.ndim - 2), "data") if divides else PartitionSpec()
        return _place(leaf, NamedSharding(mesh, spec))

    return type(batch)(**{name: put(name, leaf) for name, leaf in batch._asdict().items()})
