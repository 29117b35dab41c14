"""Pretrained backbones from Hugging Face checkpoints, and back.

Letters: L layers, d hidden size, f feed-forward width.

The checkpoint stores the kernel of a linear map as [out, in] and each layer on its own; our tree stores
[in, out] with a leading layer axis. The tables below have BERT's names; the row of a family says which of its
own differ behind the prefix.
"""

import dataclasses
import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalearn_jax import tree
from scalearn_jax.errors import InputError
from scalearn_jax.io.hub import split_revision
from scalearn_jax.io.model_folder import folder, read_checkpoint, read_settings
from scalearn_jax.models.backbones import BACKBONES, BackboneSpec, spec_from_config
from scalearn_jax.typing import Array, Params

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
HEADS = (
    *("cls.", "lm_head.", "classifier.", "qa_outputs.", "sequence_summary."),
    *("discriminator_predictions.", "generator_predictions.", "generator_lm_head.", "splinter_qass."),
)
OLD_SPELLING = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# our path -> (their module, [out, in] of the map); d and f are the sizes of the backbone
LINEAR = {
    "query": ("attention.self.query", "dd"),
    "key": ("attention.self.key", "dd"),
    "value": ("attention.self.value", "dd"),
    "attention_output": ("attention.output.dense", "dd"),
    "intermediate": ("intermediate.dense", "fd"),
    "output": ("output.dense", "df"),
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "output_norm": "output.LayerNorm"}


class Weight(NamedTuple):
    """One leaf of our tree and where a checkpoint keeps it.

    Attributes:
      path: path in the backbone tree.
      name: tensor name without prefix; ``{}`` stands for the layer.
      shape: of the tensor in the checkpoint.
    """

    path: str
    name: str
    shape: tuple[int, ...]


def weights(spec: BackboneSpec) -> list[Weight]:
    """Lists every leaf of a backbone with its tensor name and shape in a checkpoint.

    Example:
      >>> spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 64, 2, 0, 0, 1e-12)
      >>> weights(spec)[0]
      Weight(path='embeddings/word/embedding', name='embeddings.word_embeddings.weight', shape=(30, 8))
    """
    sizes, family = {"d": spec.hidden_size, "f": spec.intermediate_size}, BACKBONES[spec.family]
    tables = {"word": spec.vocab_size, "position": spec.max_positions, "token_type": spec.type_vocab_size}
    rows = [
        Weight(f"embeddings/{table}/embedding", f"embeddings.{table}_embeddings.weight", (rows, sizes["d"]))
        for table, rows in tables.items()
        if rows
    ]
    if spec.relative_buckets:
        shape = (spec.relative_buckets, spec.num_heads)
        rows.append(Weight("relative/embedding", "encoder.relative_attention_bias.weight", shape))
    rows += _norm("embeddings/norm", "embeddings.LayerNorm", sizes["d"])
    for ours, (theirs, (out, into)) in LINEAR.items():
        module = f"encoder.layer.{{}}.{family.modules.get(theirs, theirs)}"
        rows += _linear(f"layers/{ours}", module, (sizes[out], sizes[into]))
    for ours, theirs in NORMS.items():
        rows += _norm(f"layers/{ours}", f"encoder.layer.{{}}.{family.modules.get(theirs, theirs)}", sizes["d"])
    return rows + (_linear("pooler", "pooler.dense", (sizes["d"],) * 2) if spec.has_pooler else [])


def _linear(path: str, module: str, shape: tuple[int, int]) -> list[Weight]:
    return [Weight(f"{path}/kernel", f"{module}.weight", shape), Weight(f"{path}/bias", f"{module}.bias", shape[:1])]


def _norm(path: str, module: str, size: int) -> list[Weight]:
    return [Weight(f"{path}/scale", f"{module}.weight", (size,)), Weight(f"{path}/bias", f"{module}.bias", (size,))]


def load_backbone(
    path_or_id: str | Path, *, revision: str | None = None, allow_pickle: bool = False
) -> tuple[Params, BackboneSpec]:
    """Reads a backbone of one of ``BACKBONES``.

    Args:
      path_or_id: a folder with ``config.json`` and ``model.safetensors`` (or a sharded index), or a hub id.
      revision: branch, tag or commit on the hub.
      allow_pickle: whether to read ``pytorch_model.bin`` where there are no safetensors.

    Returns:
      The backbone tree as float32 numpy arrays, and its spec.

    Raises:
      InputError: nothing found there, a damaged file, or tensors missing, left over or of a wrong shape.

    Example:
      >>> params, spec = load_backbone("roberta-base")  # doctest: +SKIP
      >>> params["layers"]["query"]["kernel"].shape  # doctest: +SKIP
      (12, 768, 768)
    """
    where = folder(path_or_id, revision, allow_pickle=allow_pickle)
    config = read_settings(where, "config.json")
    spec = spec_from_config(config, where=str(where / "config.json"))
    prefix = BACKBONES[spec.family].prefix
    checkpoint = read_checkpoint(where, allow_pickle=allow_pickle)
    tensors = {_plain_name(name, prefix): tensor for name, tensor in checkpoint.items()}
    if spec.family == "ernie":
        tensors = _without_task_types(tensors, bool(config.get("use_task_id")), where)
    spec = dataclasses.replace(spec, has_pooler="pooler.dense.weight" in tensors)
    return from_tensors(tensors, spec, where=str(where)), spec


def _without_task_types(tensors: dict[str, np.ndarray], used: bool, where: Path) -> dict[str, np.ndarray]:
    """Adds the embedding of ERNIE's task type 0, which every token has, to the token types; no other type is used."""
    tasks, types = (f"embeddings.{table}_type_embeddings.weight" for table in ("task", "token"))
    found, rest = tensors.get(tasks), {name: tensor for name, tensor in tensors.items() if name != tasks}
    if not used or types not in tensors:
        return rest
    if found is None or found.size == 0 or found.shape[1:] != tensors[types].shape[1:]:
        raise InputError(f"{where}: use_task_id is set, but {tasks} is missing or does not fit; restore the folder.")
    return rest | {types: np.float32(tensors[types]) + np.float32(found[0])}


def from_tensors(tensors: Mapping[str, np.ndarray], spec: BackboneSpec, *, where: str = "checkpoint") -> Params:
    """Builds the backbone tree from tensors named without prefix; half-precision ones are widened.

    Raises:
      InputError: tensors missing, left over, or of a wrong shape or dtype.
    """
    _check(tensors, spec, where)
    leaves = {}
    for path, name, _ in weights(spec):
        names = [name.format(layer) for layer in range(spec.num_layers)] if "{}" in name else [name]
        arrays = [_convert(path, np.asarray(tensors[name], np.float32)) for name in names]
        leaves[path] = np.stack(arrays) if "{}" in name else arrays[0]
    return tree.unflatten(leaves)


def to_tensors(params: Params, spec: BackboneSpec) -> dict[str, Array]:
    """Names the leaves of a backbone as a checkpoint without prefix does; undoes ``from_tensors``."""
    leaves, tensors = tree.flatten(params), {}
    for path, name, _ in weights(spec):
        if "{}" in name:
            tensors |= {name.format(layer): _convert(path, leaf) for layer, leaf in enumerate(leaves[path])}
        else:
            tensors[name] = _convert(path, leaves[path])
    return tensors


def _convert(path: str, array: Array) -> Array:
    return array.T if path.endswith("/kernel") else array


def _check(tensors: Mapping[str, np.ndarray], spec: BackboneSpec, where: str) -> None:
    expected = {
        name.format(layer): shape
        for _, name, shape in weights(spec)
        for layer in range(spec.num_layers if "{}" in name else 1)
    }
    found = {name for name in tensors if name not in BUFFERS and not name.startswith(HEADS)}
    wrong = [
        f"{name} {tensors[name].dtype}{list(tensors[name].shape)} (expected float{list(shape)})"
        for name, shape in expected.items()
        if name in found and (tensors[name].shape != shape or tensors[name].dtype.kind in "biuc")
    ]
    problems = {
        "missing": sorted(expected.keys() - found),
        "unexpected": sorted(found - expected.keys()),
        "of another size than config.json says": wrong,
    }
    for problem, names in problems.items():
        if names:
            raise InputError(
                f"{where}: {len(names)} tensors {problem}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''};"
                f" expected the weights of a {spec.family} encoder with {spec.num_layers} layers."
            )


def _plain_name(name: str, prefix: str) -> str:
    name = name.removeprefix(f"{prefix}.")
    for old, new in OLD_SPELLING.items():  # as in bert-base-uncased, converted from TensorFlow
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def locate_backbone(path: str, revision: str | None) -> dict[str, str | None]:
    """Pins where a backbone lies: an absolute folder, or a hub id with the commit that was read."""
    where = folder(path, revision)
    if os.path.isdir(os.path.expanduser(path)):
        return {"path": str(where.resolve()), "revision": None}
    return {"path": split_revision(path)[0], "revision": where.name}


def load_hashed_backbone(
    path: str, revision: str | None = None, *, allow_pickle: bool = False
) -> tuple[Params, BackboneSpec, str]:
    """Reads a backbone with its content hash; the pooler does not count, since many copies lack it."""
    weights, spec = load_backbone(path, revision=revision, allow_pickle=allow_pickle)
    return weights, spec, tree.content_hash({name: leaf for name, leaf in weights.items() if name != "pooler"})


def backbone_spec(path: str, revision: str | None = None) -> BackboneSpec:
    """Reads the sizes of a backbone without its weights.

    Raises:
      InputError: no folder, or a ``config.json`` that describes no known encoder.
    """
    where = folder(path, revision)
    return spec_from_config(read_settings(where, "config.json"), where=str(where / "config.json"))
