"""Folders opened for prediction: finished runs, and AdapterHub's adapters with their heads, over one backbone."""

import dataclasses
import os.path
from pathlib import Path
from typing import Any

from scalearn_jax import methods, tree
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs import plain_adapter as portable
from scalearn_jax.runs import provenance
from scalearn_jax.runs import run_json as run_info
from scalearn_jax.runs.foreign_head import Head, find_task, read_head
from scalearn_jax.runs.load import Run, RunFolder, choose_seed
from scalearn_jax.runs.plain_adapter import PlainAdapter
from scalearn_jax.runs.serving.questions import PAIR, PlainTask
from scalearn_jax.runs.sources import (
    NO_TRUST,
    Source,
    Trust,
    check_base_models,
    check_sources,
    is_hub_id,
    load_source,
)
from scalearn_jax.typing import Params


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
    portable: PlainAdapter | None
    path: str
    revision: str | None
    hash: str


def open_folders(
    *folders: str,
    backbone: str | None = None,
    seed: int | None = None,
    trust: Trust = NO_TRUST,
) -> list[Served]:
    """Opens folders that share a backbone, of which one copy is kept, the first's.

    Args:
      *folders: each a run folder or a folder of AdapterHub, told apart by their files; or ``OWNER/NAME[@REVISION]``.
      backbone: where the backbone lies now; by default where the first folder says.
      seed: which seed of a run; by default its first.
      trust: what to read and not to check.

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
        folder = os.path.expanduser(folder)
        one = _open(folder, backbone, seed, trust, served[0] if served else None)
        if one.portable is None and len(folders) > 1:
            raise InputError(
                f"{folder}: its method cannot be served together with others, only alone; those that can are one"
                f" adapter in each layer: {', '.join(portable.foldable())}."
            )
        if one.task.name in (other.task.name for other in served):
            raise InputError(f"{folder} is the second folder for task {one.task.name}; pass one for each task.")
        served.append(one)
    return served


def _open(folder: str, backbone: str | None, seed: int | None, trust: Trust, beside: Served | None) -> Served:
    where, _ = hub.source_folder(folder, flag="RUN", allow_pickle=trust.allow_pickle)
    if (where / "adapter_config.json").exists():
        return _of_adapterhub(str(where), backbone, trust, beside)
    found = RunFolder(folder, where, run_info.read_info(where))
    seed = choose_seed(where, found.info["seeds"], seed)
    return _of_run(found.load(backbone=backbone, seed=seed, trust=trust), backbone, beside)


def _of_run(run: Run, backbone: str | None, beside: Served | None) -> Served:
    [seed], origin = run.members, run.info["backbone"]
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
        portable=portable.to_plain_adapter(run, seed) if folds else None,
        path=backbone or origin["path"],
        revision=None if backbone else origin["revision"],
        hash=origin["hash"],
    )


def _as_trained(run: Run, seed: int) -> Params:
    """The parameters of a seed, the frozen ones in the type that they had in training."""
    trainable, frozen = tree.partition(run.members[seed], methods.is_trainable(methods.get(run.info["method"])))
    return tree.combine(trainable, cast_frozen(frozen, run.info["config"].get("frozen_dtype", "float32")))


def _kept(own: Params, beside: Served | None) -> Params:
    """The backbone to keep, without its pooler, of which heads have copies."""
    return beside.params if beside else {name: leaf for name, leaf in own.items() if name != "pooler"}


def _of_adapterhub(folder: str, backbone: str | None, trust: Trust, beside: Served | None) -> Served:
    source = load_source(folder, allow_pickle=trust.allow_pickle)
    if not (Path(folder) / "head_config.json").exists():
        raise InputError(f"{folder} holds an adapter without a head (no head_config.json); save it with its head.")
    content = provenance.read_provenance(folder) or {"task": None, "backbone": None}
    path, revision = _place(source, backbone, content["backbone"], beside)
    if beside:
        weights, sizes, found = beside.params, beside.spec.backbone, beside.hash
    else:
        weights, sizes, found = pretrained.load_hashed_backbone(path, revision, allow_pickle=trust.allow_pickle)
    check_sources([source], sizes, found)
    if not trust.any_base_model:
        check_base_models([source], path)
    head = read_head(Path(folder), sizes, trust)
    task, origin = _task(head, sizes, content["task"]), {"path": path, "revision": revision, "hash": found}
    sizes = dataclasses.replace(sizes, has_pooler=False)
    one = PlainAdapter(task, source.adapter, source.non_linearity, head.params, head.spec, sizes, origin)
    return Served(task, one.spec, _kept(weights, beside), one, **origin)


def _place(
    source: Source, backbone: str | None, recorded: dict[str, Any] | None, beside: Served | None
) -> tuple[str, str | None]:
    """Finds where the backbone of a folder lies."""
    if backbone:
        return backbone, None
    if beside:
        return beside.path, beside.revision
    if recorded and recorded["revision"]:
        return recorded["name"], recorded["revision"]
    if recorded is None and is_hub_id(source.base_model):
        return source.base_model, None
    name = f", which is {recorded['name']}" if recorded else ""
    raise InputError(f"{source.path} does not say where its backbone lies{name}; pass --backbone.")


def _task(head: Head, backbone: BackboneSpec, noted: Task | None) -> Task:
    """The row of what answers: as noted, or a plain one over one text or two, unless it chooses."""
    task = find_task(head, head.file.name, backbone, noted=noted)
    if noted or task.choices:
        return task
    return PlainTask(task.name, task.kind, (*task.texts, PAIR), task.labels, max_length=task.max_length)
