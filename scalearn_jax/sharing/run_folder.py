"""Run folders that no training wrote: read whole, written, and read back."""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax.data.task import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.runs import run_json
from scalearn_jax.sharing.adapter_folder import check_same
from scalearn_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Contents:
    """A run folder without its backbone."""

    info: dict[str, Any]  # the content of ``run.json``
    trained: dict[int, dict[str, Array]]  # seed -> trainable parameters by path name
    kept: dict[str, Array]  # what is frozen but not the backbone's, by path name
    results: dict[str, Any] | None = None  # the content of ``results.json``; ``None`` where there is none


def read_run_folder(folder: Path) -> tuple[Contents, ModelSpec, Task]:
    """Reads a run folder, and checks that its weights are those of the model it describes."""
    info = run_json.read_info(folder)
    spec, task = run_json.read_spec(folder, info)
    run_json.check_settings(folder, info)
    trained, kept = run_json.load_leaves(folder, info)
    for leaves in trained.values():  # of the backbone all where it was trained, else at most a pooler
        groups, whole = ["adapters", "transfer", "heads"], kept | leaves
        if any(name.startswith("backbone/") for name in leaves):
            groups.append("backbone")
        else:
            whole = {name: leaf for name, leaf in whole.items() if not name.startswith("backbone/pooler/")}
        run_json.check_leaves(folder, whole, run_json.expected_shapes(spec, *groups))
    return Contents(info, trained, kept), spec, task


def write_run_folder(folder: Path, contents: Contents) -> None:
    """Fills a run folder, reads it back, and checks that both are the same."""
    for seed, leaves in contents.trained.items():
        save_tensors(folder / f"seed-{seed}.safetensors", leaves)
    if contents.kept:
        save_tensors(folder / "frozen.safetensors", contents.kept)
    if contents.results:
        write_json(folder / "results.json", contents.results)
    write_json(folder / "run.json", contents.info)
    found, *_ = read_run_folder(folder)
    check_same(folder, (contents.trained, contents.kept), (found.trained, found.kept))
