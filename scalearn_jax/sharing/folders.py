"""Folders that sharing writes and reads back: adapters with their heads as AdapterHub has them, and whole runs."""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax import tree
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import safe_name, write_json
from scalearn_jax.io.tensors import save_tensors
from scalearn_jax.model import ModelSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub, run_json
from scalearn_jax.runs.plain_adapter import PlainAdapter
from scalearn_jax.typing import Array, Params


def plain_name(name: str) -> str:
    """A name that can be an adapter's and a folder's: without slashes, dots and commas."""
    return safe_name(name).replace(".", "-")


def save_adapter_folder(one: PlainAdapter, folder: Path, *, name: str, config: dict[str, Any]) -> PlainAdapter:
    """Writes an adapter, and its head if it has one.

    ``name`` is that of both, ``config`` has ``model_type``, and optionally ``model_name`` and ``reduction_factor``; see
    ``adapterhub.save``. Returns what the files hold.
    """
    adapterhub.save(one.adapter, folder, name=name, config=config | {"non_linearity": one.non_linearity})
    adapter, described = adapterhub.load(folder)
    check_same(folder, one.adapter, adapter)
    found = dataclasses.replace(one, adapter=adapter, non_linearity=described["non_linearity"])
    if one.head:
        save_task_head(one.head, one.head_spec, one.task, folder, name=name, config=config)
        head, spec = adapterhub.load_head(folder)
        found = dataclasses.replace(found, head=head, head_spec=spec)
    return found


def save_task_head(
    head: Params, spec: HeadSpec, task: Task, folder: Path, *, name: str, config: dict[str, Any]
) -> None:
    """Writes the head of a task; see ``save_adapter_folder``."""
    adapterhub.save_head(
        head,
        folder,
        name=name,
        kind=task.kind,
        labels=() if task.kind == "regression" else task.labels,
        num_choices=spec.num_choices,
        config=config | {"dropout": spec.dropout},
    )
    check_same(folder, head, adapterhub.load_head(folder)[0])


def check_same(folder: Path, written: Any, found: Any) -> None:
    """Checks that what was read back is what was written, bit for bit."""
    if tree.content_hash(written) != tree.content_hash(found):
        raise InputError(f"what was written to {folder} reads back otherwise; is the disk sound? Nothing is kept.")


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
