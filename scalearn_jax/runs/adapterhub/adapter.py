"""Single bottleneck adapters of AdapterHub.

Letters: L layers, d hidden size, r bottleneck.

The files are those of ``adapters`` 1.x and of the older adapter-transformers, distinguished from PEFT's by
content, since both name their configuration ``adapter_config.json``.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError, unknown
from scalearn_jax.io.files import write_json
from scalearn_jax.io.model_folder import read_settings
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models.adapter import NON_LINEARITIES
from scalearn_jax.models.backbones import BACKBONES, MAX_HIDDEN_SIZE
from scalearn_jax.runs.adapterhub.common import (
    MAX_NAME,
    check_name,
    check_owner,
    describe_origin,
    of_layers,
    stacked,
    weights,
)
from scalearn_jax.typing import Params

# What makes an adapter the Pfeiffer one of this package; another value means other maths.
LAYOUT = {
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
    "dropout": 0.0,
    "inv_adapter": None,
    "is_parallel": False,
    "leave_out": [],
    "ln_after": False,
    "ln_before": False,
    "mh_adapter": False,
    "original_ln_after": True,
    "original_ln_before": True,
    "output_adapter": True,
    "phm_layer": False,
    "residual_before_ln": True,
    "scaling": 1.0,
    "stochastic_depth": 0.0,
    "use_gating": False,
}
# Further keys of the schema, without effect on such an adapter.
UNUSED = {
    "factorized_phm_W": True,
    "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "learn_phm": True,
    "phm_bias": True,
    "phm_c_init": "normal",
    "phm_dim": 4,
    "phm_init_range": 0.0001,
    "phm_rank": 1,
    "shared_W_phm": False,
    "shared_phm_rule": True,
}
LEAVES = {
    "down/kernel": "adapter_down.0.weight",
    "down/bias": "adapter_down.0.bias",
    "up/kernel": "adapter_up.weight",
    "up/bias": "adapter_up.bias",
}
_PLACE = "(?:adapters|layer_text_task_adapters)"  # the latter in adapter-transformers 1.x
# Files without a version used other names for the two forms of GELU.
UNVERSIONED = {"gelu": "gelu_new", "gelu_orig": "gelu"}


def load(folder: str | Path, *, allow_pickle: bool = False) -> tuple[Params, dict[str, Any]]:
    """Reads one adapter.

    Args:
      folder: holds ``adapter_config.json`` and ``adapter.safetensors``.
      allow_pickle: whether to read ``pytorch_adapter.bin`` where there are no safetensors.

    Returns:
      The adapter, ``down`` kernel Float[L d r] and so on as numpy arrays, and a dict with ``name``,
      ``non_linearity``, ``reduction_factor``, ``hidden_size``, ``model_type`` and ``model_name``.

    Raises:
      InputError: another format (PEFT), a pickle that is not allowed, another layout than Pfeiffer's, or damaged files.

    Example:
      >>> adapter, config = load("adapters/rte")  # doctest: +SKIP
      >>> adapter["down"]["kernel"].shape, config["non_linearity"]  # doctest: +SKIP
      ((12, 768, 48), 'relu')
    """
    folder = Path(folder)
    content = _read_config(folder)
    tensors = weights(folder, "adapter.safetensors", pickle="pytorch_adapter.bin", allow_pickle=allow_pickle)
    name, hidden_size = content["name"], content["hidden_size"]
    non_linearity = str(content["config"].get("non_linearity", "relu"))[:MAX_NAME].lower()
    if "version" not in content:
        non_linearity = UNVERSIONED.get(non_linearity, non_linearity)
    if non_linearity not in NON_LINEARITIES:
        raise unknown("non_linearity", non_linearity, NON_LINEARITIES, where=str(folder / "adapter_config.json"))
    described = {key: content.get(key) for key in ("name", "hidden_size", "model_type", "model_name")}
    described |= {"non_linearity": non_linearity, "reduction_factor": content["config"].get("reduction_factor")}
    what = f"{folder}: the tensors are not those of one adapter {name!r}"
    found = of_layers(tensors, _PLACE, name, LEAVES.values(), what)
    width = max(found[0, LEAVES["down/bias"]].size, 1)
    shapes = {"down/kernel": (width, hidden_size), "down/bias": (width,)}
    shapes |= {"up/kernel": (hidden_size, width), "up/bias": (hidden_size,)}
    leaves = stacked(found, {LEAVES[path]: shape for path, shape in shapes.items()}, folder)
    adapter: Params = {"down": {}, "up": {}}
    for path, leaf in LEAVES.items():
        part, kind = path.split("/")
        adapter[part][kind] = np.ascontiguousarray(leaves[leaf].swapaxes(1, 2)) if kind == "kernel" else leaves[leaf]
    return adapter, described


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    content = read_settings(folder, path.name)
    if "peft_type" in content:
        raise InputError(
            f"{path} is a PEFT adapter ({content['peft_type']}); expected a bottleneck adapter as AdapterHub saves it."
        )
    if not isinstance(content.get("config"), dict) or not {"name", "hidden_size"} <= content.keys():
        raise InputError(f"{path} lacks 'config', 'name' or 'hidden_size'; expected an AdapterHub adapter_config.json.")
    for key, value in content["config"].items():
        key_now = key.lower()  # 1.x wrote LN_after, MH_Adapter and so on
        if key_now in LAYOUT and value != LAYOUT[key_now]:
            raise InputError(
                f"{path}: {key} is {value!r}, expected {LAYOUT[key_now]!r}; only the Pfeiffer layout (seq_bn: one plain"
                " bottleneck after the feed-forward sublayer) can be read."
            )
    check_owner(content, path)
    check_name(content["name"], path)
    factor = content["config"].get("reduction_factor")
    is_number = type(factor) in (int, float) and 0 < factor <= MAX_HIDDEN_SIZE
    if not is_number and factor is not None and not isinstance(factor, dict):  # a dict has one a layer
        raise InputError(
            f"{path}: reduction_factor must be above 0 and at most {MAX_HIDDEN_SIZE}, got {factor!r}; restore it."
        )
    return content


def save(adapter: Params, folder: str | Path, *, name: str, config: dict[str, Any]) -> None:
    """Writes one adapter so that ``adapters`` loads it with ``use_safetensors=True``; undoes ``load``.

    Args:
      adapter: one adapter, ``down`` kernel Float[L d r] and so on.
      folder: where to; created if missing.
      name: the adapter's name; without dots, which separate the parts of tensor names.
      config: ``model_type`` (a key of ``BACKBONES``); optionally ``non_linearity`` and ``model_name``. The
        sizes are taken from the adapter, and ``reduction_factor`` from the config where it fits them.

    Raises:
      InputError: unknown ``model_type``, or a name that the format cannot hold.
    """
    described, family = describe_origin(name, config), config["model_type"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    _, hidden_size, width = adapter["down"]["kernel"].shape
    details = LAYOUT | UNUSED | {"non_linearity": config.get("non_linearity", "relu")}
    details["reduction_factor"] = reduction_factor(hidden_size, width, preferred=config.get("reduction_factor"))
    content = {"config": dict(sorted(details.items())), "hidden_size": hidden_size, **described}
    tensors = {}
    for path, leaf in LEAVES.items():
        part, kind = path.split("/")
        for layer, array in enumerate(np.asarray(adapter[part][kind], np.float32)):
            key = f"{BACKBONES[family].prefix}.encoder.layer.{layer}.output.adapters.{name}.{leaf}"
            tensors[key] = array.T if kind == "kernel" else array
    save_tensors(Path(folder) / "adapter.safetensors", tensors)
    write_json(Path(folder) / "adapter_config.json", content)


def reduction_factor(hidden_size: int, width: int, *, preferred: float | None = None) -> int | float:
    """Finds the factor from which the other library computes exactly this width, int(hidden_size // factor).

    The plain quotient is not always it: 768 / 240 = 3.2, but ``768 // 3.2`` is 239. ``preferred`` is kept if it
    gives the width.

    Example:
      >>> reduction_factor(768, 48), int(768 // reduction_factor(768, 240))
      (16, 240)
    """
    if isinstance(preferred, int | float) and preferred > 0 and hidden_size // preferred == width:
        return preferred
    if hidden_size % width == 0:
        return hidden_size // width
    factor = hidden_size / width
    factor = factor if int(hidden_size // factor) == width else math.nextafter(factor, 0.0)
    assert int(hidden_size // factor) == width, (hidden_size, width, factor)
    return factor
