"""``scalearn import``: adapters, layers and runs from elsewhere become run folders."""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax import methods, model, tree
from scalearn_jax.config import ImportConfig, takes
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io.atomic_folder import atomic_folder, check_out
from scalearn_jax.io.files import read_json
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec, same_adapters
from scalearn_jax.runs import provenance, run_json
from scalearn_jax.runs.foreign_head import Head, find_task, read_head
from scalearn_jax.runs.sources import Trust, check_base_model, check_base_models, check_sources, is_hub_id
from scalearn_jax.sharing.folders import Contents, read_run_folder, write_run_folder
from scalearn_jax.sharing.recognise import FORMATS, HEAD, Found, file_hashes, read_foreign, recognise
from scalearn_jax.train.jax_settings import own_settings
from scalearn_jax.train.state import count_parameters
from scalearn_jax.typing import Params

SEED = 0  # what is imported has one member, and no seed of its own


@takes(ImportConfig, "src", "out")
@own_settings()
def import_source(config: ImportConfig) -> Path:
    """Makes a run folder of an adapter, of fusion or ScaLearn layers, or of another machine's run.

    Returns:
      The run folder, on which every command for finished runs works.

    Raises:
      InputError: an unknown format, damaged files, or parts that do not fit each other; nothing is written.

    Example:
      >>> import_source(ImportConfig(src="adapters/rte", out="runs/rte", backbone="roberta-base"))  # doctest: +SKIP
      PosixPath('runs/rte')
    """
    check_out(config.out)
    source, place = hub.source_folder(config.src, flag="SRC", allow_pickle=config.allow_pickle)
    kind = recognise(source)
    origin = source.resolve().name if place == config.src else place
    found = read_foreign(config, source, kind) if kind != "run" else None
    contents = _contents(config, found, origin) if found else _own_run(config, source)
    with atomic_folder(config.out) as folder:
        write_run_folder(folder.path, contents)
    for one in found.bank if found else ():
        provenance.report_choice(one.why)
    return Path(config.out)


def _contents(config: ImportConfig, found: Found, origin: str) -> Contents:
    """Joins what was found with its backbone, head and task to the contents of a run folder."""
    place, backbone, pooler = _load_backbone(config, found)
    head = _load_head(config, found, backbone, pooler)
    name = (head.file.name if head else None) or found.described["name"]
    noted = found.noted["task"] if found.noted and config.head in (None, "none") else None  # else another head's
    task = find_task(
        head, name, backbone, task=config.task, data_dir=config.data_dir, noted=noted, columns=config.columns
    )
    spec = make_spec(found, backbone, head, task)
    params = {
        "adapters": banks.stack([source.adapter for source in found.bank]),
        "transfer": found.transfer,
        "heads": {task.name: head.params} if head else {},
    }
    trainable, frozen = tree.partition(params, methods.is_trainable(methods.get(found.method)))
    info = {
        "format": run_json.FORMAT,
        "kind": "transfer" if found.transfer else "adapter",
        "method": found.method,
        "config": {"max_train_samples": None, "max_eval_samples": None, "seeds": [SEED]},
        "task": task.to_dict(),
        "backbone": place,
        "data_dir": config.data_dir and str(Path(config.data_dir).resolve()),
        "spec": run_json.spec_to_dict(spec),
        "sources": [{"name": one.name, "path": one.path, "hash": one.hash} for one in found.bank if found.transfer],
        "seeds": [SEED],
        "parameters": count_parameters(tree.stack([trainable])),
        "imported": describe_import(found, head, origin),
        "versions": provenance.versions(),
        "command": provenance.command(),
    }
    return Contents(info, {SEED: tree.flatten(trainable)}, tree.flatten(frozen))


def _load_backbone(config: ImportConfig, found: Found) -> tuple[dict[str, str | None], BackboneSpec, Params | None]:
    """Reads the backbone, and checks that all that was found is for it; see ``_read_backbone``."""
    named, noted = found.described["model_name"], found.noted["backbone"] if found.noted else {}
    path, revision = config.backbone or (named if is_hub_id(named) else None), config.revision
    if path is None:
        raise InputError(f"{found.folder} names no base model on the hub; pass its folder or hub id with --backbone.")
    if not config.any_base_model:
        if "hash" not in noted:
            check_base_model(str(found.folder), named, path)
        check_base_models(found.bank, path)
    if config.backbone is None and noted.get("name") == path:
        revision = revision or noted["revision"]
    place, spec, pooler = _read_backbone(config, path, revision, noted.get("hash"), f"{found.folder}")
    family, hidden_size = found.described["model_type"], found.described["hidden_size"]
    if not same_adapters(family or spec.family, spec.family) or hidden_size != spec.hidden_size:
        raise InputError(
            f"{found.folder} is for a {family or 'any'} backbone of hidden size {hidden_size}, {path} is a"
            f" {spec.family} one of {spec.hidden_size}; pass the right one with --backbone."
        )
    check_sources(found.bank, spec, place["hash"])
    return place, spec, pooler


def _read_backbone(
    config: ImportConfig, path: str, revision: str | None, expected: str | None, owner: str
) -> tuple[dict[str, str | None], BackboneSpec, Params | None]:
    """Reads a backbone at one commit, and checks its content where that is known.

    Returns its part of ``run.json``, its sizes, and its pooler where it has one.
    """
    place = pretrained.locate_backbone(path, revision)
    weights, spec, found = pretrained.load_hashed_backbone(
        place["path"], place["revision"], allow_pickle=config.allow_pickle
    )
    if expected not in (None, found):
        raise InputError(
            f"{owner} was trained on backbone {expected[:12]}, {path} has content {found[:12]}; pass the right one with"
            " --backbone."
        )
    return place | {"hash": found}, spec, weights.get("pooler")


def _load_head(config: ImportConfig, found: Found, backbone: BackboneSpec, pooler: Params | None) -> Head | None:
    """Reads the head that is asked for, or the one beside what was found."""
    own = config.head is None
    if config.head == "none" or own and not (found.folder / HEAD.settings).exists():
        return None
    folder = found.folder
    if not own:
        folder, _ = hub.source_folder(config.head, flag="--head", allow_pickle=config.allow_pickle)
    try:
        return read_head(folder, backbone, pooler, Trust(config.allow_pickle))
    except InputError as error:
        if own:
            raise InputError(f"{error} Pass --head none to import without it.") from error
        raise


def make_spec(found: Found, backbone: BackboneSpec, head: Head | None, task: Task) -> model.ModelSpec:
    """Describes what was found as a model in float32, and checks its number of layers."""
    depths = {len(leaf) for leaf in tree.flatten(found.transfer).values()} if "++" not in found.method else set()
    if depths - {backbone.num_layers}:
        raise InputError(
            f"{found.folder} has {max(depths)} layers, the backbone {backbone.num_layers}; pass the right --backbone."
        )
    row = methods.get(found.method)
    options = row.options | ({"dropout": backbone.attention_dropout} if row.combiner == "fusion" else {})
    return model.ModelSpec(
        backbone=dataclasses.replace(backbone, has_pooler=False),
        combiner=row.combiner,
        combiner_options=tuple(sorted(options.items())),
        heads=((task.name, head.spec),) if head else (),
        num_sources=len(found.bank),
        bottleneck=max(source.adapter["down"]["kernel"].shape[2] for source in found.bank),
        non_linearity=found.bank[0].non_linearity,
    )


def describe_import(found: Found, head: Head | None, origin: str) -> dict[str, Any]:
    """Describes what was read and where it came from, and keeps the settings that a run folder has no other place for.

    ``origin`` is the name of the folder, or ``OWNER/NAME@COMMIT``.
    """
    row, factor = FORMATS[found.kind], found.described.get("reduction_factor")
    files = file_hashes(found.folder, row)
    if head:
        prefix = "" if head.folder == found.folder else "head/"
        files |= {f"{prefix}{name}": digest for name, digest in file_hashes(head.folder, HEAD).items()}
    return {
        "from": origin,
        "format": row.about,
        "files": files,
        "name": found.described["name"],
        "model_name": found.described["model_name"],
        "reduction_factor": factor if isinstance(factor, int | float) else None,  # else one a layer, all the same
    }


def _own_run(config: ImportConfig, source: Path) -> Contents:
    """Reads a run folder of this library whole; ``--backbone`` gives where the backbone lies now."""
    given = [name for name in ("sources", "head", "task") if getattr(config, name)]
    if given:
        raise InputError(f"--{given[0]}: {source} is a run folder, which has its own; leave it out.")
    contents, *_ = read_run_folder(source)
    info, path = dict(contents.info), source / "results.json"
    if config.backbone:
        expected = info["backbone"]["hash"]
        info["backbone"], *_ = _read_backbone(config, config.backbone, config.revision, expected, str(source))
    if config.data_dir:
        info["data_dir"] = str(Path(config.data_dir).resolve())
    return dataclasses.replace(contents, info=info, results=read_json(path) if path.exists() else None)
