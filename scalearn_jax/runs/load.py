"""Run folders: what a finished run leaves behind, and how to read it back.

    run.json           resolved config, task row, backbone and sources with hashes, versions, counts
    results.json       metrics of every seed, mean and sd
    metrics.jsonl      one line an event, appended during training; the same run gives the same file
    timing.jsonl       how fast it went, and where it was taken up again
    seed-S.safetensors what seed S has trained, and drawn for good (ProPETL's masks), by path name
    frozen.safetensors what is frozen but not the backbone's: the source bank, and the pooler of a pooled head

With the backbone (kept by reference and hash) a folder is enough to evaluate, predict or reuse the adapter.
"""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax import methods, tree
from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io import hub_folder as hub
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import pretrained
from scalearn_jax.runs import run_json
from scalearn_jax.runs.provenance import choose_seed
from scalearn_jax.runs.sources import NO_TRUST, Trust
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, ready for use."""

    folder: Path  # where it is
    info: dict[str, Any]  # the content of ``run.json``
    spec: ModelSpec  # the model
    task: Task  # the task row
    members: dict[int, Params]  # all parameters of each seed, backbone included


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A finished run whose description is read and checked, and whose weights are not read yet."""

    name: str  # the folder or hub id that it was asked for by
    folder: Path  # where it is
    info: dict[str, Any]  # the content of ``run.json``

    def load(
        self,
        *,
        backbone: str | None = None,
        seed: int | None = None,
        trust: Trust = NO_TRUST,
        headless: bool = False,
    ) -> Run:
        """Reads the weights of the run, of one seed or of all, and its backbone; see ``load_run``."""
        folder, info = self.folder, self.info
        spec, task = run_json.read_spec(folder, info, trust.combiner)
        if not (spec.heads or headless):
            raise InputError(
                f"{self.name} holds no head, so it answers nothing; train one with `scalearn transfer --method soup"
                f" --sources {self.name}`, or import it with `--head FOLDER`."
            )
        run_json.check_settings(folder, info)
        trained, kept = run_json.load_leaves(folder, info)
        if seed is not None:
            trained = {seed: trained[choose_seed(folder, info, seed)[0]]}
        if "backbone" not in methods.get(info["method"]).trainable:
            recorded = info["backbone"]
            where, revision = (backbone, None) if backbone else (recorded["path"], recorded["revision"])
            weights, _, found = pretrained.load_hashed_backbone(where, revision, allow_pickle=trust.allow_pickle)
            if found != recorded["hash"]:
                raise InputError(
                    f"backbone {where} has content {found[:12]}, the run {self.name} was trained on"
                    f" {recorded['hash'][:12]}; pass the right one with --backbone."
                )
            kept = tree.flatten({"backbone": weights}) | kept
        expected = run_json.expected_shapes(spec, "backbone", "adapters", "transfer", "heads")
        members = {}
        for own, leaves in trained.items():
            whole = kept | leaves
            without = {name: leaf for name, leaf in whole.items() if "backbone/pooler/" not in name}
            run_json.check_leaves(folder, whole if spec.backbone.has_pooler else without, expected)
            empty: Params = {"adapters": {}, "transfer": {}, "heads": {}}
            members[own] = empty | tree.unflatten(whole)
        return Run(folder, info, spec, task, members)


def open_run(name: str) -> RunFolder:
    """Finds a run folder, here or on the hub, and reads its description.

    Args:
      name: the folder, or ``OWNER/NAME[@REVISION]`` of the hub.

    Raises:
      InputError: no run folder, or a damaged description.
    """
    name = hub.check_name(name, "run")
    folder, _ = hub.source_folder(name, flag="RUN")
    info = run_json.read_info(folder)
    run_json.refuse_joint(folder, info)
    return RunFolder(name, folder, info)


def load_run(
    path: str,
    *,
    backbone: str | None = None,
    allow_pickle: bool = False,
    headless: bool = False,
    combiner: Any = None,
) -> Run:
    """Reads a run folder and its backbone.

    Args:
      path: the folder, or ``OWNER/NAME[@REVISION]`` of the hub.
      backbone: where the backbone lies now, if not where it lay in training.
      allow_pickle: whether to read a backbone without safetensors; the run's own files cannot allow it.
      headless: whether the run may be without a head, which some imported ones are.
      combiner: the user's own, of a run that was made with one; see ``combiners.own``.

    Raises:
      InputError: damaged folder, a backbone with other weights, or no head where one is needed.

    Example:
      >>> load_run("runs/rte").members[0]["transfer"]["omega"].shape  # doctest: +SKIP
      (12, 8, 768)
    """
    return open_run(path).load(backbone=backbone, trust=Trust(allow_pickle, combiner=combiner), headless=headless)
