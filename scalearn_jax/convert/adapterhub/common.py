"""What the readers and writers of all AdapterHub folders share."""

from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.convert.files import inside
from scalearn_jax.convert.safetensors_io import load_tensors
from scalearn_jax.convert.torch_pickle import load_bin
from scalearn_jax.errors import InputError, unknown
from scalearn_jax.models.backbones import BACKBONES

VERSION = "adapters.1.3.0"
MAX_NAME = 200  # characters of an adapter's name


def check_name(name: Any, path: Path) -> None:
    """Checks a name that a file gives: it may be anyone's.

    Raises:
      InputError: no text, too long, or of characters that cannot be shown.
    """
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= MAX_NAME:
        raise InputError(
            f"{path}: name must be 1 to {MAX_NAME} printable characters, got {str(name)[:60]!r}; rename it."
        )


def origin(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Says whose weights a folder holds, in the words of its configuration file.

    Args:
      name: of the adapter, head or fusion; without dots, which separate the parts of tensor names.
      config: ``model_type``, a key of ``BACKBONES``, and optionally ``model_name``.

    Raises:
      InputError: unknown ``model_type``, or a name that the format cannot hold.
    """
    if not name or "." in name:
        raise InputError(f"adapter name {name!r} cannot be written: it must not be empty or contain a dot.")
    family = config.get("model_type")
    if family not in BACKBONES:
        raise unknown("model_type", family, BACKBONES)
    return {
        "model_class": BACKBONES[family].model_class,
        "model_name": config.get("model_name"),
        "model_type": family,
        "name": name,
        "version": VERSION,
    }


def weights(folder: Path, *names: str, pickle: str, allow_pickle: bool) -> dict[str, np.ndarray]:
    """Reads the first file of tensors there is; a pickle only where it is allowed.

    Raises:
      InputError: there is none that may be read.
    """
    for name in names:
        if (folder / name).exists():
            return load_tensors(inside(folder, name))
    if not (folder / pickle).exists():
        raise InputError(f"{folder} holds no {names[0]}; expected an AdapterHub folder.")
    if not allow_pickle:
        raise InputError(
            f"{folder} holds only {pickle}; pickles can run code and are not read. Save it again with"
            " use_safetensors=True, or pass --allow-pickle, which builds its tensors and runs nothing."
        )
    return load_bin(inside(folder, pickle))


def check_dtype(tensor: np.ndarray, what: str) -> None:
    """Checks that a tensor holds floating-point numbers.

    Raises:
      InputError: it does not.
    """
    if tensor.dtype.kind in "biuc":
        raise InputError(f"{what} is {tensor.dtype}, expected floating-point numbers.")
