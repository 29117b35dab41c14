"""The text of ``--mesh``: what it may say, and what fits a batch and a backbone. Needs no device."""

import re

from jax.sharding import Mesh

from scalearn_jax.errors import InputError
from scalearn_jax.models.backbones import BackboneSpec

AXES = ("data", "model")


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of a mesh's axes; needs no device.

    Raises:
      InputError: an unknown axis, an axis twice, or a size that is no positive number.

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


def check_mesh(text: str | None, mesh: Mesh, batch_size: int, backbone: BackboneSpec) -> None:
    """Checks that a batch and a backbone can be shared out over a mesh.

    Args:
      text: what ``mesh`` was made from; nothing is wrong with the default.
      mesh: the mesh.
      batch_size: B.
      backbone: sizes of the encoder.

    Raises:
      InputError: ``data`` does not divide B, or ``model`` divides neither the heads nor the feed-forward width.
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
