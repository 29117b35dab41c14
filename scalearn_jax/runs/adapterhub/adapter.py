"""Single bottleneck adapters of AdapterHub.

Letters: L layers, d hidden size, r bottleneck.

The files are those of ``adapters`` 1.x and of the older adapter-transformers, distinguished from PEFT's by
content, since both name their configuration ``adapter_config.json``.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError, shortened, unknown
from scalearn_jax.io.files import fraction, whole, write_json
from scalearn_jax.io.model_folder import read_settings
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models.adapter import NON_LINEARITIES
from scalearn_jax.models.backbones import BACKBONES, MAX_HIDDEN_SIZE, MAX_LAYERS
from scalearn_jax.runs.adapterhub.common import (
    MAX_NAME,
    LayerTensors,
    check_name,
    check_owner,
    check_tensor,
    describe_origin,
    of_layers,
    weights,
)
from scalearn_jax.typing import Params

# What makes an adapter the Pfeiffer one of this package; another value means other maths.
LAYOUT = {
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
    "inv_adapter": None,
    "is_parallel": False,
    "ln_after": False,
    "ln_before": False,
    "mh_adapter": False,
    "original_ln_after": True,
    "original_ln_before": True,
    "output_adapter": True,
    "phm_layer": False,
    "residual_before_ln": True,
    "scaling": 1.0,
    "use_gating": False,
}
# Further keys of the schema, without effect on such an adapter as it is written; the dropouts act in training alone.
UNUSED = {
    "dropout": 0.0,
    "factorized_phm_W": True,
    "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter_reduction_factor": None,
    "learn_phm": True,
    "leave_out": [],
    "phm_bias": True,
    "phm_c_init": "normal",
    "phm_dim": 4,
    "phm_init_range": 0.0001,
    "phm_rank": 1,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "stochastic_depth": 0.0,
}
# What `adapters` calls its other methods -> their names; a union joins several.
METHODS = {
    "lora": "a LoRA",
    "mtl_lora": "an MTL-LoRA",
    "prefix_tuning": "a prefix tuning",
    "prompt_tuning": "a prompt tuning",
    "reft": "a ReFT",
    "union": "a ConfigUnion",
}
# A key of a bottleneck's config that is set -> the name of such an adapter.
BOTTLENECKS = {
    "phm_layer": "a Compacter",
    "is_parallel": "a parallel",
    "inv_adapter": "an invertible (MAD-X)",
    "mh_adapter": "a Houlsby (double_seq_bn)",
}
NORM = {"norm/scale": "adapter_norm_after.weight", "norm/bias": "adapter_norm_after.bias"}  # with ``ln_after``
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
      The adapter, ``down`` kernel Float[L d r] and so on as numpy arrays, with dead units in layers that are narrower
      and nothing but those in layers that have no adapter; with ``ln_after`` also its ``norm``. And a dict with
      ``name``, ``non_linearity``, ``reduction_factor``, ``leave_out``, ``hidden_size``, ``model_type`` and
      ``model_name``.

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
    factor, absent = content["config"].get("reduction_factor"), content["config"]["leave_out"]
    has_norm = any(key.lower() == "ln_after" and value for key, value in content["config"].items())
    names = LEAVES | (NORM if has_norm else {})
    described |= {"non_linearity": non_linearity, "reduction_factor": factor, "leave_out": absent}
    what = f"{folder}: the tensors are not those of one adapter {name!r}"
    found = of_layers(tensors, _PLACE, name, names.values(), what, absent)
    leaves = _padded(found, names, absent, hidden_size, isinstance(factor, dict), folder)
    adapter: Params = {}
    for path, leaf in names.items():
        part, kind = path.split("/")
        array = np.ascontiguousarray(leaves[leaf].swapaxes(1, 2)) if kind == "kernel" else leaves[leaf]
        adapter.setdefault(part, {})[kind] = array
    return adapter, described


def _padded(
    found: LayerTensors, names: dict[str, str], absent: Collection[int], hidden_size: int, by_layer: bool, folder: Path
) -> dict[str, np.ndarray]:
    """Stacks the tensors of all layers, leaf -> Float[L ...], with zeros up to the widest and where a layer has none.

    Only with a reduction factor ``by_layer`` may widths differ.
    """

    def shapes(width: int) -> dict[str, tuple[int, ...]]:
        down, up = {"down/kernel": (width, hidden_size), "down/bias": (width,)}, {"up/kernel": (hidden_size, width)}
        vectors = {path: (hidden_size,) for path in ("up/bias", *NORM)}
        return {names[path]: shape for path, shape in (down | up | vectors).items() if path in names}

    widths = {layer: max(tensor.size, 1) for (layer, leaf), tensor in found.items() if leaf == LEAVES["down/bias"]}
    if not by_layer:
        widths = dict.fromkeys(widths, widths[min(widths)])
    num_layers = len(widths) + len(absent)
    leaves = {leaf: np.zeros((num_layers, *shape), np.float32) for leaf, shape in shapes(max(widths.values())).items()}
    for (layer, leaf), tensor in found.items():
        check_tensor(tensor, shapes(widths[layer])[leaf], f"{folder}: {leaf} of layer {layer}")
        leaves[leaf][(layer, *map(slice, tensor.shape))] = tensor
    return leaves


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    content = read_settings(folder, path.name)
    if "peft_type" in content:
        raise InputError(
            f"{path} is a PEFT adapter ({content['peft_type']}); expected a bottleneck adapter as AdapterHub saves it."
        )
    if not isinstance(content.get("config"), dict) or not {"name", "hidden_size"} <= content.keys():
        raise InputError(f"{path} lacks 'config', 'name' or 'hidden_size'; expected an AdapterHub adapter_config.json.")
    settings = {key.lower(): value for key, value in content["config"].items()}  # 1.x wrote LN_after, MH_Adapter
    if settings.get("architecture") is not None:
        raise InputError(
            f"{path} is {_method(settings)} adapter; expected a bottleneck adapter of the Pfeiffer layout (seq_bn)."
        )
    kind = next((f" (it is {name} adapter)" for key, name in BOTTLENECKS.items() if settings.get(key)), "")
    for key, value in content["config"].items():
        is_norm = key.lower() == "ln_after" and value is True
        if key.lower() in LAYOUT and value != LAYOUT[key.lower()] and not is_norm:
            raise InputError(
                f"{path}: {key} is {value!r}, expected {LAYOUT[key.lower()]!r}{kind}; only the Pfeiffer layout (seq_bn:"
                " one plain bottleneck after the feed-forward sublayer) can be read."
            )
    for key in ("dropout", "stochastic_depth"):
        fraction(settings.get(key) or 0, f"{path}: {key}")
    absent = settings.get("leave_out") or []
    if not isinstance(absent, list) or len(set(map(str, absent))) < len(absent):
        raise InputError(f"{path}: leave_out must list different layers, got {str(absent)[:60]}; restore the file.")
    for layer in absent:
        whole(layer, 0, MAX_LAYERS - 1, f"{path}: a layer of leave_out")
    check_owner(content, path)
    check_name(content["name"], path)
    factor = content["config"].get("reduction_factor")
    is_number = type(factor) in (int, float) and 0 < factor <= MAX_HIDDEN_SIZE
    if not is_number and factor is not None and not isinstance(factor, dict):  # a dict has one a layer
        raise InputError(
            f"{path}: reduction_factor must be above 0 and at most {MAX_HIDDEN_SIZE}, got {factor!r}; restore it."
        )
    return content | {"config": content["config"] | {"leave_out": absent}}


def _method(settings: dict[str, Any]) -> str:
    """Names what a configuration that is of no bottleneck adapter is of."""
    architecture = str(settings["architecture"])
    if architecture == "lora":
        variants = {"an (IA)^3": settings.get("composition_mode") == "scale", "a DoRA": settings.get("use_dora")}
        variants["a VeRA"] = settings.get("vera_d") is not None
        return next((name for name, holds in variants.items() if holds), METHODS["lora"])
    return METHODS.get(architecture, f"a {shortened(architecture)!r}")


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
    details = LAYOUT | UNUSED | {"non_linearity": config.get("non_linearity", "relu"), "ln_after": "norm" in adapter}
    details["reduction_factor"] = reduction_factor(hidden_size, width, preferred=config.get("reduction_factor"))
    content = {"config": dict(sorted(details.items())), "hidden_size": hidden_size, **described}
    tensors = {}
    for path, leaf in (LEAVES | (NORM if "norm" in adapter else {})).items():
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
