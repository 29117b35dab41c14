"""Where the step meets the machine: members by ``vmap``, devices by ``jit`` over a mesh.

Letters: M members (seeds trained together), B examples, R rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scalearn_jax.typing import Batch, Params


def make_mesh(devices=None) -> Mesh:
    """Makes a mesh with one axis, ``data``, over the given devices (default: all).

    Axis types are automatic: linen's embedding refuses explicit ones.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


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
      batch comes from the host and is spread over the mesh; state and frozen half must lie there, see ``replicate``.
    """
    compiled = jax.jit(jax.vmap(step, in_axes=(0, None, 0)), donate_argnums=0, out_shardings=_whole(mesh))
    return Compiled(compiled, lambda batch: shard_batch(batch, mesh))


def compile_predict_step(predict: Callable, mesh: Mesh) -> Compiled:
    """Maps a prediction over members that share one batch, and compiles it; logits are Float[M B C]."""
    compiled = jax.jit(jax.vmap(predict, in_axes=(0, None, None)), out_shardings=_whole(mesh))
    return Compiled(compiled, lambda batch: shard_batch(batch, mesh, members=False))


def replicate(tree: Params, mesh: Mesh) -> Params:
    """Puts a copy of every leaf on every device."""
    return jax.device_put(tree, _whole(mesh))


def _whole(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def divisible(num_rows, mesh: Mesh):
    """Rounds row counts up to what the devices of a mesh share evenly.

    Example:
      >>> divisible(5, make_mesh(jax.devices()[:1]))
      5
    """
    num_devices = mesh.shape["data"]
    return -(-num_rows // num_devices) * num_devices


def shard_batch(batch: Batch, mesh: Mesh, *, members: bool = True) -> Batch:
    """Spreads a batch's rows and examples over the ``data`` axis.

    A leaf whose length the mesh does not divide is replicated instead; the result is the same. ``divisible`` sees to
    it that rows, the bulk, are not.

    Args:
      batch: numpy leaves, [M R ...] with ``members``, else [R ...].
      mesh: the mesh.
      members: whether there is a leading member axis.

    Returns:
      The batch as global arrays.
    """
    axis = 1 if members else 0

    def place(leaf):
        divides = np.shape(leaf)[axis] % mesh.shape["data"] == 0
        spec = PartitionSpec(*(None,) * axis, "data") if divides else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, batch)
