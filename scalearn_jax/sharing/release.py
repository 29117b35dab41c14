"""ScaLearn layers as the published implementation saves them.

Letters: L layers, T source tasks, d hidden size.

It writes ``scalearn_config.json`` and ``pytorch_model_scalearn.bin``. The latter is empty for the variants that share
omega between the layers, a defect: only a copy as safetensors, with one array ``omega``, then holds what was learned.
"""

from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.runs.adapterhub.common import (
    check_tensor,
    layers_of_stacks,
    of_layers,
    read_combination,
    stacked,
    weights,
)
from scalearn_jax.typing import Params

LAYOUT = {"learn_omega": True, "query_before_ln": False, "residual": True}
_PLACE = "scalearn_layer"
_ONLY = "a ScaLearn layer with learned omega, as the published implementation saves it,"
# (omega_shape, per_layer, normalised by) -> method; their per_layer is true where all layers share one omega
METHOD_OF = {
    ("vector", False, None): "scalearn",
    ("scalar", False, None): "scalearn-uniform",
    ("vector", True, None): "scalearn++",
    ("scalar", True, None): "scalearn-uniform++",
    ("vector", False, "take_mean"): "scalearn-mean",
    ("vector", False, "take_softmax"): "scalearn-softmax",
}


def load_scalearn(folder: str | Path, *, allow_pickle: bool = False) -> tuple[Params, dict[str, Any]]:
    """Reads the omegas of a saved ScaLearn layer.

    Args:
      folder: holds ``scalearn_config.json`` and ``transfer.safetensors``.
      allow_pickle: whether to read ``pytorch_model_scalearn.bin`` where there are no safetensors.

    Returns:
      ``{"omega"}``, Float[L T d] and so on, see ``combiners.scalearn``. And a dict with ``method`` (a key of
      ``METHODS``), ``name``, ``adapter_names`` in the order of omega, ``hidden_size``, ``model_type`` and
      ``model_name``.

    Raises:
      InputError: another layout, a pickle that is not allowed, an empty file, or damaged files.

    Example:
      >>> transfer, config = load_scalearn("reference/transfer/scalearn")  # doctest: +SKIP
      >>> transfer["omega"].shape, config["method"]  # doctest: +SKIP
      ((12, 8, 768), 'scalearn')
    """
    folder = Path(folder)
    content = read_combination(folder, "scalearn_config.json", LAYOUT, _ONLY)
    method = _method(content["config"], folder / "scalearn_config.json")
    pickle = "pytorch_model_scalearn.bin"
    tensors = weights(folder, "transfer.safetensors", pickle=pickle, allow_pickle=allow_pickle)
    if not tensors:
        raise InputError(
            f"{folder / pickle} is empty, as the published implementation leaves it where layers share omega"
            f" ({method}); put transfer.safetensors with the learned omega beside it, or train it again."
        )
    shape = len(content["adapter_names"]), 1 if "uniform" in method else content["hidden_size"]
    what = f"{folder}: the tensors are not the omega of one layer {content['name']!r}"
    if tensors.keys() == {"omega"} and method.endswith("++"):
        check_tensor(tensors["omega"], shape, f"{folder}: omega")
        omega = np.asarray(tensors["omega"], np.float32)
    else:
        if tensors.keys() == {"omega"}:
            by_layer = layers_of_stacks(tensors, what)
        else:
            by_layer = of_layers(tensors, _PLACE, content["name"], ("omega",), what)
        omega = stacked(by_layer, {"omega": shape}, folder)["omega"]
    keys = ("name", "adapter_names", "hidden_size", "model_type", "model_name")
    return {"omega": omega}, {"method": method} | {key: content.get(key) for key in keys}


def _method(config: dict[str, Any], path: Path) -> str:
    shared = bool(config.get("per_layer"))
    switches = [name for name in ("take_mean", "take_softmax") if config.get(name) and not shared]  # else they are idle
    key = str(config.get("omega_shape"))[:60], shared, switches[0] if switches else None
    if key not in METHOD_OF or len(switches) > 1:
        raise InputError(
            f"{path}: omega_shape {key[0]!r}, per_layer {shared} and {switches or 'no normalisation'} together are none"
            f" of the published variants; expected one of {', '.join(METHOD_OF.values())}."
        )
    return METHOD_OF[key]
