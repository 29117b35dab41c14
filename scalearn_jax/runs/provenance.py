"""The description of a folder made for others, in ``scalearn.json`` beside the weights.

Other libraries ignore the file; this one reads in it the task and the backbone that the weights are for. It names no
place on the machine that wrote it.

    format       1
    kind         "adapter", "fusion" or "fold"
    method       a key of METHODS
    seed         of the run
    task         the task row
    backbone     name (a hub id, or the last part of a path), revision, content hash
    sources      name, place (a hub id with its commit, or null) and hash of each source adapter, in bank order
    imported     where on the hub the run was imported from; null for other runs
    parameters   numbers of trainable parameters: transfer, head, trainable
    scores       {"dev": metrics, "test": metrics} of the seed, and in "se" the standard errors of the second
    examples     {"dev": {"used", "available"}, "test": ...}, how many these were measured on and how many there are; of
                 runs that recorded it
    most         {"dev": N, "test": N}, examples that these were measured on at most; null for all
    scales       {source: [scale, its standard deviation or null]}, means over the layers; only of scales solved for
    fold         what was checked and lost; only of a fold
    omega        Float[L T], the scales as they act, mean over hidden dimensions; only of a fold of ScaLearn
    versions, command
"""

import contextlib
import math
import os.path
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, masked, printable
from scalearn_jax.io.files import read_json, write_json
from scalearn_jax.io.hub import is_commit, is_id
from scalearn_jax.io.model_folder import read_settings
from scalearn_jax.io.terminal import format_score
from scalearn_jax.train.agreement import processes

FILE, FORMAT = "scalearn.json", 1
SURE = 1.96  # standard deviations to each side, of an interval of 95 %
_LIMITS = ("max_dev_samples", "max_eval_samples")  # of a run's config: how many examples its scores are measured on
# An absolute path, or one from a home folder, as a word of a text.
PLACE = re.compile(r"""(?<![^\s=,'"])(?:~?/|~[\w.-]+/|[A-Za-z]:[\\/])[^\s'",]*[^\s'",/]""")


def versions() -> dict[str, str]:
    """Lists the versions a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("scalearn-jax", "jax", "jaxlib", "flax", "optax", "transformers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def command() -> str:
    """The command line of this process, as recorded in ``run.json``; tokens and passwords are masked.

    Empty in a notebook, where it is that of the kernel.
    """
    program = Path(sys.argv[0]).name
    return "" if program.endswith("kernel_launcher.py") else masked(" ".join([program, *sys.argv[1:]]))


def describe_run(kind: str, folder: Path, info: dict[str, Any], task: Task, seed: int, **more: Any) -> dict[str, Any]:
    """Builds the content of ``scalearn.json`` for one seed of a run.

    Args:
      kind: ``"adapter"``, ``"fusion"`` or ``"fold"``.
      folder: the run's, with its ``results.json``.
      info: the content of its ``run.json``.
      task: its task.
      seed: which of its seeds.
      **more: further parts, such as ``fold``.
    """
    imported = info.get("imported")
    origin = imported.get("from") if isinstance(imported, dict) else None
    is_public = isinstance(origin, str) and public_place({"path": origin})
    most = [limit if type(limit) is int else None for limit in map(info["config"].get, _LIMITS)]
    sources = [
        {"name": source["name"], "place": public_place(source), "hash": source["hash"]} for source in info["sources"]
    ]
    return {
        "format": FORMAT,
        "kind": kind,
        "method": info["method"],
        "seed": seed,
        "task": task.to_dict(),
        "backbone": public_backbone(info["backbone"]),
        "sources": sources,
        "parameters": info["parameters"],
        "imported": origin if is_public else None,
        "scores": seed_scores(folder, seed),
        "most": {"dev": most[0] or most[1], "test": most[1]},
        **_examples(folder),
        **_scales(folder),
        **more,
        "versions": versions(),
        "command": without_places(command()),
    }


def without_places(text: str) -> str:
    """Takes the folders of this machine out of a text; the last part of each path stays."""
    return PLACE.sub(lambda path: re.split(r"[\\/]", path[0].rstrip("\\/"))[-1], text)


def public_backbone(backbone: dict[str, Any]) -> dict[str, Any]:
    """Names a backbone without the place where it lies."""
    path, revision = backbone["path"], backbone["revision"]
    name = path if revision else os.path.basename(os.path.normpath(path))
    return {"name": name, "revision": revision, "hash": backbone["hash"]}


def base_model(backbone: dict[str, Any]) -> str | None:
    """The name of a backbone that others can load it by: its id on the hub, if it has one."""
    return backbone["path"] if backbone["revision"] else None


def public_place(source: dict[str, Any]) -> str | None:
    """Where others find a source: on the hub, or nowhere."""
    repo, _, commit = source["path"].partition("@")
    return source["path"] if is_id(repo) and is_commit(commit) else None


def seed_scores(folder: Path, seed: int) -> dict[str, Any]:
    """Reads the scores of a run's seed on development and test data; those that its folder holds."""
    path = folder / "results.json"
    results = read_json(path).get("seeds") if path.exists() else {}
    entry = results.get(str(seed)) if isinstance(results, dict) else None
    entry = entry if isinstance(entry, dict) else {}
    return {part: entry[part] for part in ("dev", "test", "se") if isinstance(entry.get(part), dict)}


def _examples(folder: Path) -> dict[str, Any]:
    """How many examples a run was scored on, and how many there are, where it has recorded that."""
    path = folder / "results.json"
    examples = read_json(path).get("examples") if path.exists() else None
    kept = {split: examples.get(split) for split in ("dev", "test")} if isinstance(examples, dict) else {}
    return {"examples": kept} if kept else {}


def choose_seed(folder: Path, info: dict[str, Any], seed: int | None = None) -> tuple[int, str]:
    """Chooses the seed of a run to use: the one asked for, or the best on development data.

    The best has the largest main metric; the first of equals, and where no scores are kept.

    Args:
      folder: the run's, with its ``results.json``.
      info: the content of its ``run.json``.
      seed: the one asked for.

    Returns:
      The seed, and a line that says why, for ``report_choice``; an empty one where there was nothing to choose.

    Raises:
      InputError: the run does not hold that seed.
    """
    seeds = info["seeds"]
    if seed is not None and seed not in seeds:
        raise InputError(f"--seed {seed}: the run {folder} holds seeds {sorted(seeds)}.")
    if seed is not None or len(seeds) == 1:
        return (seeds[0] if seed is None else seed), ""
    names = info["task"].get("metrics")
    metric = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    scores = {own: seed_scores(folder, own).get("dev", {}).get(metric) for own in seeds}
    known = {own: value for own, value in scores.items() if isinstance(value, float) and math.isfinite(value)}
    best = max(known, key=known.get, default=seeds[0])
    why = f"the first of {len(seeds)}, since no development scores are kept"
    if known:
        why = f"the best of {len(seeds)} on development data ({printable(metric)} {format_score(metric, known[best])})"
    return best, f"{folder}: took seed {best}, {why}"


def report_choice(why: str) -> None:
    """Reports which of several seeds was taken, once it was of use: an error stays the only line."""
    if why and processes.is_writer:
        print(f"scalearn: {why}", file=sys.stderr)


def write_provenance(folder: Path, content: dict[str, Any]) -> None:
    """Writes ``scalearn.json``."""
    write_json(folder / FILE, content)


def _scales(folder: Path) -> dict[str, Any]:
    """The scales that a run has solved for, each with how sure it is where that is known."""
    path = folder / "results.json"
    solved = read_json(path).get("solve") if path.exists() else None
    parts = [solved.get(name) for name in ("omega", "deviation")] if isinstance(solved, dict) else []
    omega, spread = (part if isinstance(part, dict) else {} for part in parts or ({}, {}))
    return {"scales": {name: [scale, spread.get(name)] for name, scale in omega.items()}} if omega else {}


def read_provenance(folder: str | Path) -> dict[str, Any] | None:
    """Reads ``scalearn.json``, with ``task`` and ``backbone`` checked; ``None`` where there is no such file."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    content = read_settings(Path(folder), FILE)
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has format {content.get('format')!r}, expected {FORMAT}.")
    backbone, task = content.get("backbone"), content.get("task")
    fields = {"name": str, "revision": str | None, "hash": str}
    if not isinstance(backbone, dict) or not all(isinstance(backbone.get(key, 0), fields[key]) for key in fields):
        raise InputError(f"{path}: backbone must hold name, revision and hash; restore the file.")
    if not isinstance(task, dict):
        raise InputError(f"{path}: task must be a task row, got a {type(task).__name__}; restore the file.")
    return content | {"task": Task.from_dict(task, where=f"{path}, task")}
