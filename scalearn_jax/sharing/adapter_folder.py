"""Adapters with their heads as folders for the ``adapters`` library, read back as they are written."""

import dataclasses
from pathlib import Path
from typing import Any

from scalearn_jax import tree
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import safe_name
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.plain_adapter import PlainAdapter
from scalearn_jax.typing import Params


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
