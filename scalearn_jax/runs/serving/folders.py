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
from scalearn_jax.models.layers import cast_frozen
from scalearn_jax.runs import run_json
from scalearn_jax.runs.foreign_head import find_task, read_head
from scalearn_jax.runs.load import Run, RunFolder
from scalearn_jax.runs.plain_adapter import PlainAdapter, foldable, is_plain, to_plain_adapter
from scalearn_jax.runs.provenance import choose_seed, read_provenance
from scalearn_jax.runs.serving.questions import PAIR, PlainTask
from scalearn_jax.runs.sources import NO_TRUST, Source, Trust, check_base_models, check_sources, is_hub_id, read_source
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Served:
    """One opened folder."""

    task: Task  # what it answers
    spec: ModelSpec  # the model as it is, its type and layout in particular
    params: Params  # all parameters; of a plain adapter, those of its backbone
    # it as one adapter with a head, which may be served with others; ``None`` where it is none
    plain_adapter: PlainAdapter | None
    path: str  # of its backbone, a folder or a hub id
    revision: str | None  # of a hub id
    hash: str  # content hash of the backbone
    pooler: Params | None  # of the backbone, which heads of later folders may stand on; ``None`` where it has none
    why: str = ""  # why its seed was chosen, see ``provenance.choose_seed``


def open_folders(
    *names: str, backbone: str | None = None, seed: int | None = None, trust: Trust = NO_TRUST
) -> list[Served]:
    """Opens folders that share a backbone, of which one copy is kept, the first's.

    Args:
      *names: each a run folder or a folder of AdapterHub, told apart by their files; or ``OWNER/NAME[@REVISION]``.
      backbone: where the backbone lies now; by default where the first folder names it.
      seed: which seed of a run; by default its best on development data.
      trust: what to read and not to check.

    Raises:
      InputError: none, or neither kind of folder, or a damaged one; different backbones; two of one task; or, of
        several, a run that is no ordinary adapter in each layer.
    """
    if not names:
        raise InputError("no folder to serve; pass one run folder or more.")
    served: list[Served] = []
    for name in (os.path.expanduser(hub.check_name(name, "folder to serve")) for name in names):
        first = served[0] if served else None
        folder, _ = hub.source_folder(name, flag="RUN", allow_pickle=trust.allow_pickle)
        if (folder / "adapter_config.json").exists():
            one = _open_adapter(folder, backbone, trust, first)
        else:
            one = _open_run(RunFolder(name, folder, run_json.read_info(folder)), backbone, seed, trust, first)
        if one.plain_adapter is None and len(names) > 1:
            raise InputError(
                f"{name}: its method cannot be served together with others, only alone; those that can are one"
                f" adapter in each layer: {', '.join(foldable())}."
            )
        if one.task.name in (other.task.name for other in served):
            raise InputError(f"{name} is the second folder for task {one.task.name}; pass one for each task.")
        served.append(one)
    return served


def _open_run(found: RunFolder, backbone: str | None, seed: int | None, trust: Trust, first: Served | None) -> Served:
    origin = found.info["backbone"]
    seed, why = choose_seed(found.folder, found.info, seed)
    run = found.load(backbone=backbone, seed=seed, trust=trust)
    if first and first.hash != origin["hash"]:
        raise InputError(
            f"{run.folder} was trained on the backbone {origin['hash'][:12]}, the run for {first.task.name} on"
            f" {first.hash[:12]}; pass runs over one backbone."
        )
    return dataclasses.replace(serve(run, seed, backbone, first), why=why)


def serve(run: Run, seed: int, backbone: str | None = None, first: Served | None = None) -> Served:
    """Makes ready to answer one seed of a run that is read; for the arguments see ``open_folders``."""
    origin, method = run.info["backbone"], methods.get(run.info["method"])
    trainable, frozen = tree.partition(run.members[seed], methods.is_trainable(method))
    params = tree.combine(trainable, cast_frozen(frozen, run.info["config"].get("frozen_dtype", "float32")))
    folds = is_plain(run.spec)
    return Served(
        task=run.task,
        spec=run.spec,
        params=_shared_backbone(params["backbone"], first) if folds else params,
        plain_adapter=to_plain_adapter(run, seed) if folds else None,
        path=backbone or origin["path"],
        revision=None if backbone else origin["revision"],
        hash=origin["hash"],
        pooler=run.members[seed]["backbone"].get("pooler"),
    )


def _open_adapter(folder: Path, backbone: str | None, trust: Trust, first: Served | None) -> Served:
    source = read_source(folder, str(folder), allow_pickle=trust.allow_pickle)
    if not (folder / "head_config.json").exists():
        raise InputError(f"{folder} holds an adapter without a head (no head_config.json); save it with its head.")
    noted = read_provenance(folder) or {"task": None, "backbone": None}
    path, revision = _locate_backbone(source, backbone, noted["backbone"], first)
    if first:
        weights, sizes, found, pooler = first.params, first.spec.backbone, first.hash, first.pooler
    else:
        weights, sizes, found = pretrained.load_hashed_backbone(path, revision, allow_pickle=trust.allow_pickle)
        pooler = weights.get("pooler")
    check_sources([source], sizes, found)
    if not trust.any_base_model:
        check_base_models([source], path)
    head = read_head(folder, sizes, pooler, trust)
    task = find_task(head, head.file.name or source.name, sizes, noted=noted["task"])
    if not (noted["task"] or task.choices):  # whether it takes one text or two is not known
        task = PlainTask(task.name, task.kind, (*task.texts, PAIR), task.labels, max_length=task.max_length)
    origin = {"path": path, "revision": revision, "hash": found}
    sizes = dataclasses.replace(sizes, has_pooler=False)
    one = PlainAdapter(task, source.adapter, source.non_linearity, head.params, head.spec, sizes, origin)
    return Served(task, one.spec, _shared_backbone(weights, first), one, path, revision, found, pooler)


def _shared_backbone(own: Params, first: Served | None) -> Params:
    """The one backbone to keep, without its pooler, of which heads have copies."""
    return first.params if first else {name: leaf for name, leaf in own.items() if name != "pooler"}


def _locate_backbone(
    source: Source, backbone: str | None, noted: dict[str, Any] | None, first: Served | None
) -> tuple[str, str | None]:
    """Finds where the backbone of an adapter lies: path and revision."""
    if backbone:
        return backbone, None
    if first:
        return first.path, first.revision
    if noted and noted["revision"]:
        return noted["name"], noted["revision"]
    if noted is None and is_hub_id(source.base_model):
        return source.base_model, None
    name = f", which is {noted['name']}" if noted else ""
    raise InputError(f"{source.path} does not say where its backbone lies{name}; pass --backbone.")
