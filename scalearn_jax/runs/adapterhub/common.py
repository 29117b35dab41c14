"""What the readers and writers of all AdapterHub folders share."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError, shortened
from scalearn_jax.io.files import whole
from scalearn_jax.io.model_folder import inside, read_settings
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.io.torch_pickle import load_bin
from scalearn_jax.models.backbones import BACKBONES, MAX_HIDDEN_SIZE, unknown_family

VERSION = "adapters.1.3.0"
MAX_NAME = 200  # characters of an adapter's name
MAX_SOURCES = 1000  # adapters that one layer combines


def is_name(name: Any) -> bool:
    """Whether something can be an adapter's name."""
    return isinstance(name, str) and name.isprintable() and 1 <= len(name) <= MAX_NAME


def check_name(name: Any, path: Path) -> None:
    """Checks a name in a file, which may come from anyone."""
    if not is_name(name):
        raise InputError(
            f"{path}: name must be 1 to {MAX_NAME} printable characters, got {str(name)[:60]!r}; rename it."
        )


def check_owner(content: dict[str, Any], path: Path) -> None:
    """Checks the size, family and name of the encoder that the weights of a file are for."""
    whole(content.get("hidden_size"), 1, MAX_HIDDEN_SIZE, f"{path}: hidden_size")
    for key in ("model_type", "model_name"):
        if not isinstance(content.get(key), str | None):
            raise InputError(f"{path}: {key} must be text, got a {type(content[key]).__name__}; restore the file.")


def read_combination(folder: Path, file: str, layout: Mapping[str, Any], only: str) -> dict[str, Any]:
    """Reads the configuration of layers that combine adapters, and checks it.

    Args:
      folder: the folder.
      file: its name.
      layout: keys of its ``config`` -> the one value that means the maths of this package.
      only: what can be read, for the error.

    Returns:
      The content, with ``adapter_names`` as a tuple in the order of the layers.
    """
    path = folder / file
    content = read_settings(folder, file)
    if not isinstance(content.get("config"), dict) or not {"name", "hidden_size"} <= content.keys():
        raise InputError(f"{path} lacks 'config', 'name' or 'hidden_size'; expected {only}.")
    for key, value in layout.items():
        if content["config"].get(key, value) != value:
            found = content["config"][key]
            raise InputError(f"{path}: {key} is {str(found)[:60]!r}, expected {value!r}; only {only} can be read.")
    check_owner(content, path)
    check_name(content["name"], path)
    names = content.get("adapter_names") or content["name"].split(",")  # older files have no list
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_SOURCES or len(set(map(str, names))) < len(names):
        raise InputError(f"{path}: adapter_names must list different names, got {str(names)[:60]}; restore the file.")
    for name in names:
        check_name(name, path)
    return content | {"adapter_names": tuple(names)}


def check_adapter_name(name: str) -> None:
    """Checks a name for an adapter, head or fusion to write; dots separate the parts of tensor names."""
    if not is_name(name) or "." in name:
        raise InputError(
            f"adapter name {shortened(name)!r} cannot be written: expected 1 to {MAX_NAME} printable characters, and no"
            " dot."
        )


def describe_origin(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Describes whose weights a folder holds, from ``model_type`` and ``model_name`` of a config."""
    check_adapter_name(name)
    family = config.get("model_type")
    if family not in BACKBONES:
        raise unknown_family(family, "")
    return {
        "model_class": BACKBONES[family].model_class,
        "model_name": config.get("model_name"),
        "model_type": family,
        "name": name,
        "version": VERSION,
    }


def weights(folder: Path, *names: str, pickle: str, allow_pickle: bool) -> dict[str, np.ndarray]:
    """Reads the first file of tensors there is; a pickle only where it is allowed."""
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


def of_one(tensors: Mapping[str, np.ndarray], place: str, name: str) -> dict[str, np.ndarray]:
    """Leaves out what belongs to others whose names begin with this one: ``adapters`` saves them into the same file."""
    after = {key: key.partition(f"{place}.{name}")[2] for key in tensors}
    return {key: tensor for key, tensor in tensors.items() if after[key][:1] in ("", ".")}


LayerTensors = dict[tuple[int, str], np.ndarray]  # (layer, name within it) -> tensor


def of_layers(
    tensors: Mapping[str, np.ndarray],
    place: str,
    name: str,
    leaves: Collection[str],
    what: str,
    absent: Collection[int] = (),
) -> LayerTensors:
    """Takes tensors called ``PREFIX.encoder.layer.0.output.PLACE.NAME.LEAF`` apart.

    The name is matched whole: that of a fusion may begin another's. ``place`` is a regular expression, ``leaves`` are
    those that every layer must have that is not ``absent``, and ``what`` names the tensors in the error, if some are
    missing or unexpected.
    """
    pattern = re.compile(rf"(?:\w+\.)?encoder\.layer\.(\d{{1,9}})\.output\.{place}\.{re.escape(name)}\.(.+)")
    places = {key: (int(match[1]), match[2]) for key in tensors if (match := pattern.fullmatch(key))}
    found = {at: tensors[key] for key, at in places.items()}
    num_layers = len({layer for layer, _ in found}) + len(absent)
    expected = {(layer, leaf) for layer in range(num_layers) if layer not in absent for leaf in leaves}
    if not found or len(found) != len(tensors) or found.keys() != expected:
        missing = sorted(f"{layer}.{leaf}" for layer, leaf in expected - found.keys())
        others = sorted(key for key in tensors if places.get(key) not in expected)
        raise InputError(
            f"{what} in every layer{f' but {list(absent)}' if absent else ''}; missing: {missing[:5] or 'none'},"
            f" unexpected: {others[:5] or 'none'}."
        )
    return found


def stacked(found: LayerTensors, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> dict[str, np.ndarray]:
    """Stacks the tensors of all layers in float32, leaf -> Float[L ...], and checks their shapes."""
    for (layer, leaf), tensor in found.items():
        check_tensor(tensor, shapes[leaf], f"{folder}: {leaf} of layer {layer}")
    num_layers = len(found) // len(shapes)
    return {leaf: np.stack([np.asarray(found[i, leaf], np.float32) for i in range(num_layers)]) for leaf in shapes}


def layers_of_stacks(tensors: Mapping[str, np.ndarray], what: str) -> LayerTensors:
    """Takes tensors apart that are stacked over the layers already."""
    sizes = {len(tensor) if tensor.ndim else 0 for tensor in tensors.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"{what} in every layer; found tensors for {sorted(sizes)} layers.")
    return {(i, leaf): layer for leaf, tensor in tensors.items() for i, layer in enumerate(tensor)}


def check_tensor(tensor: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    """Checks that a tensor has a shape, and holds floating-point numbers."""
    if tensor.shape != shape:
        raise InputError(f"{what} has shape {tensor.shape}, expected {shape}.")
    if tensor.dtype.kind in "biuc":
        raise InputError(f"{what} is {tensor.dtype}, expected floating-point numbers.")
