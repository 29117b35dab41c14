"""The head of an adapter from elsewhere, and the task row that fits it."""

import dataclasses
import re
from pathlib import Path

from scalearn_jax.data import tasks
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.io.files import safe_name
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.models.heads import HeadSpec
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.adapterhub import HeadFile
from scalearn_jax.runs.plain_adapter import two_layers
from scalearn_jax.runs.sources import NO_TRUST, Trust
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Head:
    """A head as read."""

    folder: Path  # where it is
    params: Params  # ``{"dense", "out"}``
    spec: HeadSpec  # its shape
    file: HeadFile  # the description in its file


def read_head(folder: Path, backbone: BackboneSpec, pooler: Params | None, trust: Trust = NO_TRUST) -> Head:
    """Reads a head for a backbone, and checks its size; one that stands on the backbone's pooler gets a copy of it."""
    params, spec = adapterhub.load_head(folder, allow_pickle=trust.allow_pickle)
    hidden_size = params["out"]["kernel"].shape[0]
    if hidden_size != backbone.hidden_size:
        raise InputError(
            f"the head in {folder} has hidden size {hidden_size}, the backbone {backbone.hidden_size}; use a head"
            " trained on this backbone."
        )
    if spec.kind == "pooled":
        if pooler is None:
            raise InputError(
                f"the static head in {folder} stands on the backbone's pooler, and this backbone has none; use the very"
                " checkpoint that it was trained on."
            )
        params, spec = two_layers(params, {"pooler": pooler}), dataclasses.replace(spec, kind="two_layer")
    return Head(folder, params, spec, adapterhub.describe_head(folder))


def find_task(
    head: Head | None,
    name: str,
    backbone: BackboneSpec,
    *,
    task: str | None = None,
    data_dir: str | None = None,
    noted: Task | None = None,
    columns: tuple[str, ...] = ("text",),
) -> Task:
    """Finds the task row for a head: that of a known task, or what the folder notes, or a plain one.

    Args:
      head: the head, if there is one.
      name: of a plain row.
      backbone: its sizes bound the length of texts.
      task: name of a known task, if given.
      data_dir: where to look for it.
      noted: the row in the folder itself, if there is one.
      columns: of the texts of a plain row.
    """
    if task:
        row = tasks.get(task, data_dir=data_dir)
    elif noted:
        row = noted
    elif head is None or head.file.kind == "regression":  # nothing is known of the answers, or they have no names
        row = Task(safe_name(name), "regression", columns)
    elif head.file.kind == "choice":
        choices = tuple(f"choice{number + 1}" for number in range(head.spec.num_choices))
        row = Task(safe_name(name), "choice", columns, choices=choices, labels=head.file.labels)
    else:
        labels = head.file.labels or tuple(str(number) for number in range(head.spec.num_outputs))
        row = Task(safe_name(name), head.file.kind, columns, labels)
    if head:
        check_fit(row, head)
    return dataclasses.replace(row, max_length=min(row.max_length, backbone.max_length))


def check_fit(task: Task, head: Head) -> None:
    """Checks that a head answers a task: the kind and number of answers, and that its labels have the same order."""
    spec, labels = head.spec, head.file.labels
    found = (head.file.kind, spec.num_outputs, spec.num_choices)
    wanted = (task.kind, task.num_outputs, task.num_choices)
    if found != wanted:
        sizes = ["{} of {} outputs and {} choices".format(*one) for one in (found, wanted)]
        raise InputError(
            f"the head in {head.folder} is a {sizes[0]}, task {task.name!r} a {sizes[1]}; import it with its --task."
        )
    ours, theirs = ([re.sub(r"\W|_", "", label.casefold()) for label in names] for names in (task.labels, labels))
    if sorted(ours) == sorted(theirs) and ours != theirs:
        raise InputError(
            f"the head in {head.folder} has labels in the order {list(labels)}, task {task.name!r} {list(task.labels)};"
            " import it with a --task whose labels have the head's order."
        )
