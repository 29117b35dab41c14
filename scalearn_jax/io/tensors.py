"""Safetensors files: the only place that reads or writes them.

Our own files name each tensor by its path in the parameter tree, for instance ``"adapters/down/kernel"``.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import POINTER, is_pointer, whole_file
from scalearn_jax.typing import Array, Params


def save_tensors(path: str | Path, tensors: Mapping[str, Array]) -> None:
    """Writes name -> array; the file appears complete or not at all."""
    from safetensors.numpy import save_file

    # safetensors writes the buffer of a transposed view as it lies, without an error: every array is made
    # contiguous first. (np.ascontiguousarray would turn a scalar into a vector.)
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with whole_file(Path(path)) as temporary:
        save_file(contiguous, str(temporary))


def load_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads name -> array, in the file's dtypes."""
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; expected a safetensors file.")
    try:
        return load_file(str(path))
    except MemoryError:
        raise
    except Exception as error:  # also KeyError and TypeError, of types that numpy lacks
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> InputError:
    reason = POINTER if is_pointer(path) else f"{type(error).__name__}: {str(error)[:200]}"
    return InputError(f"{path} is not a complete safetensors file ({reason}); copy or download it again.")


def tensor_names(path: str | Path) -> list[str]:
    """Lists the names in a file without reading its arrays."""
    from safetensors import safe_open

    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; expected a safetensors file.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            return list(file.keys())
    except Exception as error:  # see load_tensors
        raise _damaged(path, error) from error


def save_tree(path: str | Path, params: Params) -> None:
    """Writes a parameter tree, each leaf under its path; empty subtrees and ``None`` gaps leave no trace."""
    save_tensors(path, tree.flatten(params))


def load_tree(path: str | Path) -> Params:
    """Reads a safetensors file as a parameter tree."""
    return tree.unflatten(load_tensors(path))
