"""AdapterFusion layers of AdapterHub.

Letters: L layers, d hidden size.

A fusion is named after its adapters, with commas between them, and the name stands in every tensor's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models.backbones import BACKBONES
from scalearn_jax.runs.adapterhub.common import (
    describe_origin,
    layers_of_stacks,
    of_layers,
    of_one,
    read_combination,
    stacked,
    weights,
)
from scalearn_jax.typing import Params

# What makes a fusion that of this package; another value means other maths.
LAYOUT = {
    "key": True,
    "query": True,
    "query_before_ln": False,
    "residual_before": False,
    "temperature": False,
    "value_before_softmax": True,
}
_PLACE = "adapter_fusion_layer"
# (ours, our kind, theirs)
LEAVES = (
    ("query", "kernel", "query.weight"),
    ("query", "bias", "query.bias"),
    ("key", "kernel", "key.weight"),
    ("key", "bias", "key.bias"),
    ("value", "kernel", "value.weight"),
)


def load_fusion(folder: str | Path, *, allow_pickle: bool = False) -> tuple[Params, dict[str, Any]]:
    """Reads the fusion layers over some adapters.

    Args:
      folder: holds ``adapter_fusion_config.json`` and ``model_adapter_fusion.safetensors``, or in place of the latter
        ``transfer.safetensors`` with the layers stacked.
      allow_pickle: whether to read ``pytorch_model_adapter_fusion.bin`` where there are no safetensors.

    Returns:
      ``{"query", "key", "value"}`` with kernels Float[L d d] and, but for the value, biases Float[L d], as numpy
      arrays; no value where the config has none. And a dict with ``name``, ``adapter_names`` in order,
      ``hidden_size``, ``model_type`` and ``model_name``.

    Raises:
      InputError: another layout, a pickle that is not allowed, or damaged files.

    Example:
      >>> transfer, config = load_fusion("adapters/mnli,rte")  # doctest: +SKIP
      >>> transfer["key"]["kernel"].shape, config["adapter_names"]  # doctest: +SKIP
      ((12, 768, 768), ('mnli', 'rte'))
    """
    folder = Path(folder)
    only = "AdapterFusion with query and key after the layer norm, as AdapterHub saves it,"
    content = read_combination(folder, "adapter_fusion_config.json", LAYOUT, only)
    files = "model_adapter_fusion.safetensors", "transfer.safetensors"
    tensors = weights(folder, *files, pickle="pytorch_model_adapter_fusion.bin", allow_pickle=allow_pickle)
    leaves = [row for row in LEAVES if row[0] != "value" or content["config"].get("value", True)]
    name, size = content["name"], content["hidden_size"]
    tensors = of_one(tensors, _PLACE, name)
    names = {theirs for *_, theirs in leaves}
    what = f"{folder}: the tensors are not those of one fusion {name!r}"
    is_stacked = tensors.keys() == names
    by_layer = layers_of_stacks(tensors, what) if is_stacked else of_layers(tensors, _PLACE, name, names, what)
    shapes = {theirs: (size, size) if kind == "kernel" else (size,) for _, kind, theirs in leaves}
    found = stacked(by_layer, shapes, folder)
    transfer: Params = {}
    for part, kind, theirs in leaves:
        array = np.ascontiguousarray(found[theirs].swapaxes(1, 2)) if kind == "kernel" else found[theirs]
        transfer.setdefault(part, {})[kind] = array
    keys = ("name", "adapter_names", "hidden_size", "model_type", "model_name")
    return transfer, {key: content.get(key) for key in keys}


def save_fusion(transfer: Params, folder: str | Path, *, names: Sequence[str], config: dict[str, Any]) -> None:
    """Writes fusion layers so that ``adapters`` loads them beside their adapters; undoes ``load_fusion``.

    Args:
      transfer: ``query``, ``key`` and optionally ``value``, kernels Float[L d d].
      folder: where to; created if missing.
      names: of the adapters, in the order of the bank; without dots and commas.
      config: ``model_type`` (a key of ``BACKBONES``) and optionally ``model_name``.

    Raises:
      InputError: unknown ``model_type``, or a name that the format cannot hold.
    """
    if wrong := [name for name in names if "," in name]:
        raise InputError(f"adapter name {wrong[0]!r} cannot be written: a comma parts the names of a fusion.")
    name = ",".join(names)
    described, has_value = describe_origin(name, config), "value" in transfer
    details = LAYOUT | {"dropout_prob": None, "regularization": has_value}
    details |= {"value": has_value, "value_initialized": has_value}
    content = {"adapter_names": list(names), "config": dict(sorted(details.items()))}
    Path(folder).mkdir(parents=True, exist_ok=True)
    prefix = BACKBONES[config["model_type"]].prefix
    tensors = {
        f"{prefix}.encoder.layer.{layer}.output.{_PLACE}.{name}.{theirs}": array.T if kind == "kernel" else array
        for part, kind, theirs in LEAVES
        if part in transfer
        for layer, array in enumerate(np.asarray(transfer[part][kind], np.float32))
    }
    save_tensors(Path(folder) / "model_adapter_fusion.safetensors", tensors)
    hidden_size = np.shape(transfer["query"]["kernel"])[-1]
    write_json(Path(folder) / "adapter_fusion_config.json", content | {"hidden_size": hidden_size} | described)
