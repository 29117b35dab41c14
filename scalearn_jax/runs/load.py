"""Run folders: what a finished run leaves behind, and how to read it back.

    run.json           resolved config, task row, backbone and sources with hashes, versions, counts
    results.json       metrics of every seed, mean and sd
    metrics.jsonl      one line an event, appended during training; the same run gives the same file
    timing.jsonl       how fast it went, and where it was taken up again
    seed-S.safetensors the trainable parameters of seed S, by path name
    frozen.safetensors what is frozen but not the backbone's: the source bank, and the pooler of a pooled head

With the backbone (kept by reference and hash) a folder is enough to evaluate, predict or reuse the adapter.
"""

import dataclasses
import os.path
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scalearn_jax import methods, tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.io.hub import split_revision
from scalearn_jax.io.model_folder import inside, read_settings
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import bank as banks
from scalearn_jax.models import pretrained as hf
from scalearn_jax.models.backbones import BackboneSpec, spec_from_config
from scalearn_jax.runs import adapterhub, provenance
from scalearn_jax.runs import run_json as run_info
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Source:
    """One source adapter and where it came from.

    Attributes:
      name: its task.
      path: its folder, or ``OWNER/NAME@COMMIT`` of the hub.
      adapter: the tree, [L d r] and so on.
      non_linearity: its phi.
      backbone_hash: content hash of the backbone it was trained on; ``None`` where the format keeps none.
      family: the backbone's model family; ``None`` where the format keeps none.
      info: the content of ``run.json``; ``None`` where there is none.
      base_model: the name that the file gives the backbone; ``None`` where it gives none.
    """

    name: str
    path: str
    adapter: Params
    non_linearity: str
    backbone_hash: str | None
    family: str | None = None
    info: dict[str, Any] | None = None
    base_model: str | None = None

    @property
    def hash(self) -> str:
        """Content hash of the adapter."""
        return tree.content_hash(self.adapter)


def load_source(path: str, *, allow_pickle: bool = False) -> Source:
    """Reads a source adapter from a stage-1 run folder or an AdapterHub folder.

    Args:
      path: the folder, or ``OWNER/NAME[@REVISION]`` of the hub.
      allow_pickle: whether to read an AdapterHub folder without safetensors.

    Raises:
      InputError: the folder is neither, or is damaged; or the hub cannot give it.
    """
    folder, path = hub.source_folder(path, flag="--sources", allow_pickle=allow_pickle)
    if (folder / "adapter_config.json").exists():
        adapter, config = adapterhub.load(folder, allow_pickle=allow_pickle)
        noted = provenance.read(folder)
        return Source(
            name=noted["task"].name if noted else config["name"],
            path=path,
            adapter=adapter,
            non_linearity=config["non_linearity"],
            backbone_hash=noted["backbone"]["hash"] if noted else None,
            family=config["model_type"],
            base_model=config["model_name"],
        )
    if not (folder / "run.json").exists():
        raise InputError(
            f"--sources {path}: neither a run folder (run.json) nor an AdapterHub folder (adapter_config.json);"
            f" {_instead(folder)}."
        )
    info = run_info.read_info(folder)
    if info["method"] != "single":
        raise InputError(
            f"--sources {path}: holds a {info['method']!r} run, expected a single adapter, which `scalearn fold` makes"
            " of most runs."
        )
    spec, task = run_info.read_spec(folder, info)
    weights = load_tensors(inside(folder, f"seed-{info['seeds'][0]}.safetensors"))
    bank = {name: leaf for name, leaf in weights.items() if name.startswith("adapters/")}
    run_info.check_leaves(folder, bank, spec, "adapters")
    adapter = banks.select(tree.unflatten(bank)["adapters"], 0)
    return Source(task.name, path, adapter, spec.non_linearity, info["backbone"]["hash"], info=info)


def _instead(folder: Path) -> str:
    """What to do about a folder that holds no adapter."""
    if any((folder / name).exists() for name in ("adapter_fusion_config.json", "adapter_setup.json")):
        return "it holds an AdapterFusion or ScaLearn layer, which joins adapters; pass those, or `scalearn import` it"
    return "pass a folder written by `scalearn train-adapter`"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, ready for use.

    Attributes:
      folder: where it lies.
      info: the content of ``run.json``.
      spec: the model.
      task: the task row.
      members: all parameters of each seed, backbone included.
    """

    folder: Path
    info: dict[str, Any]
    spec: ModelSpec
    task: Task
    members: dict[int, Params]


def load_run(path: str, *, backbone: str | None = None, allow_pickle: bool = False, headless: bool = False) -> Run:
    """Reads a run folder and its backbone.

    Args:
      path: the folder, or ``OWNER/NAME[@REVISION]`` of the hub.
      backbone: where the backbone lies now, if not where it lay in training.
      allow_pickle: whether to read a backbone without safetensors; what the run's own files say of it does not count.
      headless: whether the run may be without a head, which some imported ones are.

    Returns:
      The run.

    Raises:
      InputError: damaged folder, a backbone with other weights, or no head where one is needed.
    """
    folder, _ = hub.source_folder(path, flag="RUN", allow_pickle=allow_pickle)
    info = run_info.read_info(folder)
    spec, task = run_info.read_spec(folder, info)
    if not (spec.heads or headless):
        raise InputError(
            f"{path} holds no head, so it answers nothing; train one with `scalearn transfer --method soup --sources"
            f" {path}`, or import it with `--head FOLDER`."
        )
    run_info.check_settings(folder, info)
    trained, kept = run_info.load_leaves(folder, info)
    shared = {}
    if "backbone" not in methods.get(info["method"]).trainable:
        shared = tree.flatten({"backbone": _checked_backbone(path, info, backbone, allow_pickle)})
    groups, pooled = ("adapters", "transfer", "heads"), spec.backbone.has_pooler
    for leaves in trained.values():
        whole = {name: x for name, x in (shared | kept | leaves).items() if pooled or "backbone/pooler/" not in name}
        run_info.check_leaves(folder, whole, spec, "backbone", *groups)
    empty: Params = {group: {} for group in groups}
    members = {seed: empty | tree.unflatten(shared | kept | leaves) for seed, leaves in trained.items()}
    return Run(folder, info, spec, task, members)


def choose_seed(folder: Path, seeds: Collection[int], seed: int | None) -> int:
    """Returns the seed that is asked for, or a run's first.

    Raises:
      InputError: the run has no such seed.

    Example:
      >>> choose_seed(Path("run"), {3: {}, 0: {}}, None)
      3
    """
    chosen = next(iter(seeds)) if seed is None else seed
    if chosen not in seeds:
        raise InputError(f"--seed {chosen}: the run {folder} holds seeds {sorted(seeds)}.")
    return chosen


def only_seed(run: Run, seed: int | None) -> Run:
    """Drops all seeds of a run but one, by default its first.

    Raises:
      InputError: the run has no such seed.
    """
    chosen = choose_seed(run.folder, run.members, seed)
    return dataclasses.replace(run, members={chosen: run.members[chosen]})


def _checked_backbone(path: str, info: dict[str, Any], override: str | None, allow_pickle: bool) -> Params:
    recorded = info["backbone"]
    where = override or recorded["path"]
    weights, _, found = load_backbone(where, None if override else recorded["revision"], allow_pickle=allow_pickle)
    if found != recorded["hash"]:
        raise InputError(
            f"backbone {where} has content {found[:12]}, the run {path} was trained on {recorded['hash'][:12]};"
            " pass the right one with --backbone."
        )
    return weights


def locate_backbone(path: str, revision: str | None) -> dict[str, str | None]:
    """Pins where a backbone lies: an absolute folder, or a hub id with the commit that was read."""
    where = hf.folder(path, revision)
    if os.path.isdir(os.path.expanduser(path)):
        return {"path": str(where.resolve()), "revision": None}
    return {"path": split_revision(path)[0], "revision": where.name}


def load_backbone(
    path: str, revision: str | None = None, *, allow_pickle: bool = False
) -> tuple[Params, BackboneSpec, str]:
    """Reads a backbone with its content hash; the pooler does not count, since many copies lack it."""
    weights, spec = hf.load_backbone(path, revision=revision, allow_pickle=allow_pickle)
    return weights, spec, tree.content_hash({name: leaf for name, leaf in weights.items() if name != "pooler"})


def backbone_spec(path: str, revision: str | None = None) -> BackboneSpec:
    """Reads the sizes of a backbone without its weights.

    Raises:
      InputError: no folder, or a ``config.json`` that describes no known encoder.
    """
    where = hf.folder(path, revision)
    return spec_from_config(read_settings(where, "config.json"), where=str(where / "config.json"))
