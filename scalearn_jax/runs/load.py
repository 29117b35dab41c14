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
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scalearn_jax import methods, tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import pretrained
from scalearn_jax.runs import run_json as run_info
from scalearn_jax.typing import Params


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
    revision = None if override else recorded["revision"]
    weights, _, found = pretrained.load_hashed_backbone(where, revision, allow_pickle=allow_pickle)
    if found != recorded["hash"]:
        raise InputError(
            f"backbone {where} has content {found[:12]}, the run {path} was trained on {recorded['hash'][:12]};"
            " pass the right one with --backbone."
        )
    return weights
