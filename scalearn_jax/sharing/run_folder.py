"""Run folders that no training wrote: read whole, written, and read back."""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax.data.task import Task
from scalearn_jax.io.files import write_json
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.runs import run_json as run_info
from scalearn_jax.sharing.adapter_folder import check_same
from scalearn_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Contents:
    """A run folder without its backbone.

    Attributes:
      info: the content of ``run.json``.
      trained: seed -> trainable parameters by path name.
      kept: what is frozen but not the backbone's, by path name.
      results: the content of ``results.json``; ``None`` where there is none.
    """

    info: dict[str, Any]
    trained: dict[int, dict[str, Array]]
    kept: dict[str, Array]
    results: dict[str, Any] | None = None


def read_run_folder(folder: Path) -> tuple[Contents, ModelSpec, Task]:
    """Reads a run folder, and checks that its weights are those of the model it describes.

    Raises:
      InputError: they are not, or the folder is damaged.
    """
    info = run_info.read_info(folder)
    spec, task = run_info.read_spec(folder, info)
    run_info.check_settings(folder, info)
    trained, kept = run_info.load_leaves(folder, info)
    for leaves in trained.values():
        _check(folder, spec, leaves, kept)
    return Contents(info, trained, kept), spec, task


def _check(folder: Path, spec: ModelSpec, leaves: dict[str, Array], kept: dict[str, Array]) -> None:
    """Checks one seed; of the backbone there is all where it was trained, else at most a pooler."""
    groups, whole = ["adapters", "transfer", "heads"], kept | leaves
    if any(name.startswith("backbone/") for name in leaves):
        groups.append("backbone")
    else:
        whole = {name: leaf for name, leaf in whole.items() if not name.startswith("backbone/pooler/")}
    run_info.check_leaves(folder, whole, run_info.expected_shapes(spec, *groups))


def write_run_folder(folder: Path, contents: Contents) -> None:
    """Fills a run folder and reads it back.

    Raises:
      InputError: something reads otherwise than it was written.
    """
    for seed, leaves in contents.trained.items():
        save_tensors(folder / f"seed-{seed}.safetensors", leaves)
    if contents.kept:
        save_tensors(folder / "frozen.safetensors", contents.kept)
    if contents.results:
        write_json(folder / "results.json", contents.results)
    write_json(folder / "run.json", contents.info)
    found, *_ = read_run_folder(folder)
    check_same(folder, (contents.trained, contents.kept), (found.trained, found.kept))
