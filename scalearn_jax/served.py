"""Folders opened for prediction: finished runs, and AdapterHub's adapters with their heads, over one backbone."""

import dataclasses
import os.path
import re
from pathlib import Path
from typing import Any

from scalearn_jax import methods, portable, provenance, runs, tree
from scalearn_jax.checks import check_sources
from scalearn_jax.convert import adapterhub, hub
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.model import ModelSpec
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.portable import Portable
from scalearn_jax.prepare import kept_frozen
from scalearn_jax.queries import PAIR
from scalearn_jax.typing import Params

_LENGTH = 128  # tokens of a text, where a folder does not say for how many it was trained


@dataclasses.dataclass(frozen=True)
class Served:
    """What one folder answers with.

    Attributes:
      task: what it answers.
      spec: the model as it is, its type and layout in particular.
      params: all parameters; of a portable one, those of its backbone.
      portable: it as one adapter with a head, which may be served with others; ``None`` for what is none.
      path: where its backbone lies, a folder or a hub id.
      revision: of a hub id.
      hash: content hash of the backbone.
    """

    task: Task
    spec: ModelSpec
    params: Params
    portable: Portable | None
    path: str
    revision: str | None
    hash: str


def open_folders(
    *folders: str, backbone: str | None = None, seed: int | None = None, allow_pickle: bool = False
) -> list[Served]:
    """Opens folders that share a backbone, of which one copy is kept, the first's.

    Args:
      *folders: each a run folder or a folder of AdapterHub, told apart by content; or ``OWNER/NAME[@REVISION]``.
      backbone: where the backbone lies now; by default where the first folder says.
      seed: which seed of a run; by default its first.
      allow_pickle: whether to read weights without safetensors.

    Returns:
      What each answers with, in their order.

    Raises:
      InputError: none, or neither kind of folder, or a damaged one; different backbones; two of one task; or, of
        several, a run that is no ordinary adapter in each layer.
    """
    if not folders:
        raise InputError("no folder to serve; pass one run folder or more.")
    served: list[Served] = []
    for folder in folders:
        one = _open(os.path.expanduser(folder), backbone, seed, allow_pickle, served[0] if served else None)
        if one.portable is None and len(folders) > 1:
            raise InputError(
                f"{folder}: its method cannot be served together with others, only alone; those that can are one"
                f" adapter in each layer: {', '.join(portable.foldable())}."
            )
        if one.task.name in (other.task.name for other in served):
            raise InputError(f"{folder} is the second folder for task {one.task.name}; pass one for each task.")
        served.append(one)
    return served


def _open(folder: str, backbone: str | None, seed: int | None, allow_pickle: bool, beside: Served | None) -> Served:
    where, _ = hub.source_folder(folder, flag="RUN", allow_pickle=allow_pickle)
    if (where / "adapter_config.json").exists():
        return _of_adapterhub(str(where), backbone, allow_pickle, beside)
    run = runs.load_run(folder, backbone=backbone, allow_pickle=allow_pickle)
    return _of_run(run, backbone, next(iter(run.members)) if seed is None else seed, beside)


def _of_run(run: runs.Run, backbone: str | None, seed: int, beside: Served | None) -> Served:
    run, origin = runs.only_seed(run, seed), run.info["backbone"]
    if beside and beside.hash != origin["hash"]:
        raise InputError(
            f"{run.folder} was trained on the backbone {origin['hash'][:12]}, the run for {beside.task.name} on"
            f" {beside.hash[:12]}; pass runs over one backbone."
        )
    folds = run.info["method"] in portable.foldable()
    params = _as_trained(run, seed)
    return Served(
        task=run.task,
        spec=run.spec,
        params=_kept(params["backbone"], beside) if folds else params,
        portable=portable.of_run(run, seed) if folds else None,
        path=backbone or origin["path"],
        revision=None if backbone else origin["revision"],
        hash=origin["hash"],
    )


def _as_trained(run: runs.Run, seed: int) -> Params:
    """The parameters of a seed, the frozen ones in the type that they had in training."""
    trainable, frozen = tree.partition(run.members[seed], methods.is_trainable(methods.get(run.info["method"])))
    return tree.combine(trainable, kept_frozen(frozen, run.info["config"].get("frozen_dtype", "float32")))


def _kept(own: Params, beside: Served | None) -> Params:
    """The backbone to keep, without its pooler, of which heads have copies."""
    return beside.params if beside else {name: leaf for name, leaf in own.items() if name != "pooler"}


def _of_adapterhub(folder: str, backbone: str | None, allow_pickle: bool, beside: Served | None) -> Served:
    adapter, config = adapterhub.load(folder, allow_pickle=allow_pickle)
    if not (Path(folder) / "head_config.json").exists():
        raise InputError(f"{folder} holds an adapter without a head (no head_config.json); save it with its head.")
    head, head_spec = adapterhub.load_head(folder, allow_pickle=allow_pickle)
    content = provenance.read(folder) or {"task": None, "backbone": None}
    path, revision = _place(folder, backbone, content["backbone"], beside)
    if beside:
        weights, sizes, found = beside.params, beside.spec.backbone, beside.hash
    else:
        weights, sizes, found = runs.load_backbone(path, revision, allow_pickle=allow_pickle)
    recorded = content["backbone"]["hash"] if content["backbone"] else None
    source = runs.Source(config["name"], folder, adapter, config["non_linearity"], recorded, config["model_type"])
    check_sources([source], sizes, found)
    task = content["task"] or _plain_task(folder, head_spec, sizes)
    _check_fits(folder, task, head, head_spec, sizes)
    sizes = dataclasses.replace(sizes, has_pooler=False)
    origin = {"path": path, "revision": revision, "hash": found}
    one = Portable(task, adapter, config["non_linearity"], head, head_spec, sizes, origin)
    return Served(task, one.spec, _kept(weights, beside), one, **origin)


def _place(
    folder: str, backbone: str | None, recorded: dict[str, Any] | None, beside: Served | None
) -> tuple[str, str | None]:
    """Finds where the backbone of a folder lies."""
    if backbone:
        return backbone, None
    if beside:
        return beside.path, beside.revision
    if recorded and recorded["revision"]:
        return recorded["name"], recorded["revision"]
    name = f", which is {recorded['name']}" if recorded else ""
    raise InputError(f"{folder} does not say where its backbone lies{name}; pass --backbone.")


def _plain_task(folder: str, head: HeadSpec, backbone: BackboneSpec) -> Task:
    """A row for an adapter of which no more is known than its files say: one text or two, unless it chooses."""
    name, kind, labels = adapterhub.describe_head(folder)
    labels = labels if labels or kind in ("regression", "choice") else tuple(map(str, range(head.num_outputs)))
    choices = tuple(f"choice{number}" for number in range(1, head.num_choices + 1)) if kind == "choice" else ()
    return Task(
        name=re.sub(r"[^\w+-]+", "-", name),
        kind=kind,
        texts=("text",) if choices else ("text", PAIR),
        labels=() if kind == "regression" else labels,
        choices=choices,
        max_length=min(_LENGTH, backbone.max_length),
    )


def _check_fits(folder: str, task: Task, head: Params, spec: HeadSpec, backbone: BackboneSpec) -> None:
    """Checks that the parts of a folder that anyone may have written fit each other and the backbone."""
    found = (spec.num_outputs, spec.num_choices, head["dense"]["bias"].size)
    expected = (task.num_outputs, task.num_choices, backbone.hidden_size)
    if found != expected:
        raise InputError(
            f"{folder}: its head has {found[0]} outputs, {found[1]} choices and hidden size {found[2]}; the task"
            f" {task.name} over this backbone needs {expected[0]}, {expected[1]} and {expected[2]}."
        )
    if task.max_length > backbone.max_length:
        raise InputError(
            f"{folder}: texts of {task.max_length} tokens exceed the backbone's {backbone.max_length} positions."
        )
