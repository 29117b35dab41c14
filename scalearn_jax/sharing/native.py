"""Run folders for other machines: one seed, and no place on this one."""

import dataclasses
import os.path
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError
from scalearn_jax.io.files import read_json
from scalearn_jax.runs import load as runs
from scalearn_jax.runs import provenance
from scalearn_jax.sharing import run_folder


def contents(folder: Path, seed: int | None) -> run_folder.Contents:
    """Takes one seed out of a run folder, and every place on this machine out of its ``run.json``.

    Args:
      folder: the run.
      seed: which of its seeds; ``None`` for the first.

    Raises:
      InputError: a damaged run, or no such seed.
    """
    whole, *_ = run_folder.read(folder)
    seed, path = runs.choose_seed(folder, whole.trained, seed), folder / "results.json"
    return dataclasses.replace(
        whole,
        info=without_places(whole.info, seed),
        trained={seed: whole.trained[seed]},
        results=one_seed(read_json(path), seed) if path.exists() else None,
    )


def without_places(info: dict[str, Any], seed: int) -> dict[str, Any]:
    """``run.json`` of one seed, without what leads to places on this machine."""
    backbone = provenance.public_backbone(info["backbone"])
    sources = [one | {"path": provenance.public_place(one) or one["name"]} for one in info["sources"]]
    config = {name: _last_part(value) for name, value in info["config"].items()}
    changes = {"backbone": backbone["name"], "revision": backbone["revision"], "data_dir": None, "coordinator": None}
    changes |= {"sources": [one["path"] for one in sources], "seeds": [seed]}
    public = {
        "backbone": {"path": backbone["name"], "revision": backbone["revision"], "hash": backbone["hash"]},
        "config": config | {name: value for name, value in changes.items() if name in config},
        "data_dir": None,
        "sources": sources,
        "seeds": [seed],
        "command": provenance.without_places(str(info.get("command", ""))),
    }
    return info | public | {name: _last_part(info[name]) for name in ("soup", "imported") if name in info}


def _last_part(value: Any) -> Any:
    """Cuts every text in a value that is a path from the root, from home or from here down to its last part."""
    if isinstance(value, dict):
        return {name: _last_part(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_last_part(one) for one in value]
    is_place = isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../")))
    return os.path.basename(os.path.normpath(value)) if is_place else value


def one_seed(results: dict[str, Any], seed: int) -> dict[str, Any]:
    """``results.json`` of one seed: its test scores are the means.

    Example:
      >>> entry = {"dev": {"accuracy": 0.6}, "test": {"accuracy": 0.5}}
      >>> one_seed({"seeds": {"3": entry, "4": {}}}, 3)["sd"]
      {'accuracy': 0.0}
    """
    seeds = results.get("seeds")
    entry = seeds.get(str(seed)) if isinstance(seeds, dict) else None
    scores = entry.get("test") if isinstance(entry, dict) else None
    if not isinstance(scores, dict):
        raise InputError(f"results.json holds no scores of seed {seed}; restore the file.")
    return results | {"seeds": {str(seed): entry}, "mean": scores, "sd": dict.fromkeys(scores, 0.0)}
