"""Where the step meets the machine: members by ``vmap``, devices by ``jit`` over a mesh.

Letters: M members (seeds trained together), B examples, R rows.
"""

from collections.abc import Callable

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


def compile_train_step(step: Callable) -> Callable:
    """Maps a step over members and compiles it, giving the old state's memory to the new one.

    Args:
      step: (state, frozen, batch) -> (state, metrics) of one member.

    Returns:
      The same for M members at once: state and batch have a leading member axis, the frozen half is shared.
    """
    return jax.jit(jax.vmap(step, in_axes=(0, None, 0)), donate_argnums=0)


def compile_predict_step(predict: Callable) -> Callable:
    """Maps a prediction over members that share one batch, and compiles it; logits are Float[M B C]."""
    return jax.jit(jax.vmap(predict, in_axes=(0, None, None)))


def replicate(tree: Params, mesh: Mesh) -> Params:
    """Puts a copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Batch, mesh: Mesh, *, members: bool = True) -> Batch:
    """Spreads a batch's rows and examples over the ``data`` axis.

    A leaf whose length the mesh does not divide (a few packed rows on many devices) is replicated instead;
    the result is the same.

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
