"""Prediction heads of AdapterHub: two layers over the first token, and static heads of transformers' own classes.

Letters: d hidden size, C outputs.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalearn_jax.errors import InputError, is_printable, unknown
from scalearn_jax.io.files import fraction, whole, write_json
from scalearn_jax.io.model_folder import read_settings
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs.adapterhub.common import MAX_NAME, check_name, check_tensor, describe_origin, of_one, weights
from scalearn_jax.typing import Params

MAX_CHOICES = 1000
# A task's kind -> their name of it; a regression is a classification with one output to them.
HEAD_TYPES = {
    "classification": "classification",
    "regression": "classification",
    "multilabel": "multilabel_classification",
    "choice": "multiple_choice",
}
# Class of transformers -> how its static head names the layers of ours; without a dense one it is on the pooler.
_POOLED, _DENSE = {"out": "classifier"}, {"dense": "classifier.dense", "out": "classifier.out_proj"}
_OWNERS = dict.fromkeys(("Bert", "Ernie"), _POOLED)
_OWNERS |= dict.fromkeys(("Roberta", "XLMRoberta", "Camembert", "Data2VecText"), _DENSE)
STATIC = {f"{owner}ForSequenceClassification": layers for owner, layers in _OWNERS.items()}


class HeadFile(NamedTuple):
    """The description of a head in its file."""

    name: str | None  # the head's name; a static one has none
    kind: str  # what it predicts, as ``Task.kind``
    labels: tuple[str, ...]  # their names in the order of their ids; empty where the file names none


def load_head(folder: str | Path, *, allow_pickle: bool = False) -> tuple[Params, HeadSpec]:
    """Reads the prediction head saved beside an adapter.

    Args:
      folder: holds ``head_config.json`` and ``model_head.safetensors`` (or ``head.safetensors``).
      allow_pickle: whether to read ``pytorch_model_head.bin`` where there are no safetensors.

    Returns:
      ``{"dense", "out"}`` with kernels Float[d d] and Float[d C], and the head's spec. Without ``dense`` it is of kind
      ``"pooled"``, the static head of a class such as BERT's, and stands on the backbone's pooler.

    Raises:
      InputError: no file of weights that may be read, or another head than dense, tanh, out on the first token.

    Example:
      >>> head, spec = load_head("adapters/rte")  # doctest: +SKIP
      >>> head["out"]["kernel"].shape  # doctest: +SKIP
      (768, 2)
    """
    folder = Path(folder)
    config, name, static = _read_config(folder)
    files = ("model_head.safetensors", "head.safetensors")
    tensors = weights(folder, *files, pickle="pytorch_model_head.bin", allow_pickle=allow_pickle)
    if name is not None:
        tensors = of_one(tensors, "heads", name)
    modules = static or {"dense": f"heads.{name}.1", "out": f"heads.{name}.4"}
    names = sorted(f"{module}.{kind}" for module in modules.values() for kind in ("weight", "bias"))
    if sorted(tensors) != names:
        raise InputError(f"{folder}: the head holds {sorted(tensors)}, expected {names}.")
    num_outputs = tensors[f"{modules['out']}.bias"].size
    hidden_size = (tensors[f"{modules['out']}.weight"].shape or (0,))[-1]
    head = {}
    for part, module in modules.items():
        weight, bias = (tensors[f"{module}.{kind}"] for kind in ("weight", "bias"))
        size = num_outputs if part == "out" else hidden_size
        check_tensor(weight, (size, hidden_size), f"{folder}: {module}.weight of the head")
        check_tensor(bias, (size,), f"{folder}: {module}.bias of the head")
        kernel = np.ascontiguousarray(np.asarray(weight, np.float32).T)
        head[part] = {"kernel": kernel, "bias": np.asarray(bias, np.float32)}
    where = folder / "head_config.json"
    dropout = fraction(config.get("dropout_prob") or 0.0, f"{where}: dropout_prob")
    choices = config.get("num_choices", 1) if config.get("head_type") == "multiple_choice" else 1
    choices = whole(choices, 1, MAX_CHOICES, f"{where}: num_choices")
    kind = "two_layer" if "dense" in head else "pooled"
    return head, HeadSpec(kind, num_outputs=num_outputs, num_choices=choices, dropout=dropout)


def describe_head(folder: str | Path) -> HeadFile:
    """Reads what a head predicts, from its ``head_config.json``."""
    path = Path(folder) / "head_config.json"
    config, name, _ = _read_config(Path(folder))
    theirs = config.get("head_type", "classification")
    kinds = {theirs: kind for kind, theirs in HEAD_TYPES.items() if kind != "regression"}
    if not isinstance(theirs, str) or theirs not in kinds:
        raise unknown("head_type", theirs, kinds, where=str(path))
    kind = "regression" if theirs == "classification" and config.get("num_labels") == 1 else kinds[theirs]
    ids = config.get("label2id") or {}
    if not isinstance(ids, dict) or not all(isinstance(name, str) and is_printable(name) for name in ids):
        raise InputError(f"{path}: label2id must map printable names to ids; restore the file.")
    numbers = list(ids.values())
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
        raise InputError(f"{path}: the ids of label2id must be 0 to {len(numbers) - 1}, got {str(numbers)[:60]}.")
    return HeadFile(name, kind, tuple(sorted(ids, key=ids.get)))


def _read_config(folder: Path) -> tuple[dict[str, Any], str | None, dict[str, str] | None]:
    """Reads the configuration and name of a head; of a static one its labels, no name, and its layers' names."""
    path = folder / "head_config.json"
    content = read_settings(folder, path.name)
    config, name, owner = content.get("config", {}), content.get("name"), content.get("model_class")
    if config is None and isinstance(owner, str) and "For" in owner:
        if owner not in STATIC:
            raise InputError(
                f"{path} is of the static head of {owner[:MAX_NAME]}; expected one of AdapterHub's own heads, or of"
                f" {', '.join(STATIC)}."
            )
        return {key: content.get(key) for key in ("label2id", "num_labels")}, None, STATIC[owner]
    if not isinstance(config, dict):
        raise InputError(f"{path}: config must be names and values, got a {type(config).__name__}; restore the file.")
    for key, value in {"layers": 2, "activation_function": "tanh", "use_pooler": False}.items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: {key} is {config[key]!r}, expected {value!r}.")
    check_name(name, path)
    return config, name, None


def save_head(
    head: Params,
    folder: str | Path,
    *,
    name: str,
    kind: str,
    labels: tuple[str, ...] = (),
    num_choices: int = 1,
    config: dict[str, Any],
) -> None:
    """Writes a two-layer head so that ``adapters`` loads it beside the adapter; undoes ``load_head``.

    Args:
      head: ``{"dense", "out"}`` with kernels Float[d d] and Float[d C].
      folder: where to; created if missing.
      name: the head's name, that of its adapter; without dots.
      kind: what it predicts, as ``Task.kind``.
      labels: their names in the order of their ids.
      num_choices: K of a choice task.
      config: ``model_type`` (a key of ``BACKBONES``); optionally ``model_name`` and ``dropout``.

    Raises:
      InputError: unknown ``model_type`` or kind, or a name that the format cannot hold.
    """
    described = describe_origin(name, config)
    if kind not in HEAD_TYPES:
        raise unknown("kind", kind, HEAD_TYPES)
    hidden_size, num_outputs = np.shape(head["out"]["kernel"])
    size = {"num_choices": num_choices} if kind == "choice" else {"num_labels": num_outputs, "bias": True}
    details = {
        "activation_function": "tanh",
        "dropout_prob": config.get("dropout"),
        "head_type": HEAD_TYPES[kind],
        "label2id": {label: number for number, label in enumerate(labels)} or None,
        "layers": 2,
        "use_pooler": False,
        **size,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    tensors = {}
    for ours, place in (("dense", 1), ("out", 4)):
        tensors[f"heads.{name}.{place}.weight"] = np.asarray(head[ours]["kernel"], np.float32).T
        tensors[f"heads.{name}.{place}.bias"] = np.asarray(head[ours]["bias"], np.float32)
    save_tensors(Path(folder) / "model_head.safetensors", tensors)
    write_json(
        Path(folder) / "head_config.json",
        {"config": dict(sorted(details.items())), "hidden_size": hidden_size, **described},
    )
