"""A task's files, split as published.

A tenth of the official training set (seed 42, stratified by label) is the development set, and the official
validation set is the test set (arXiv 2310.01217, section 4). A data set that brings a test file of its own, or one
called ``dev``, may keep its files as they are; see ``_roles``.
"""

import dataclasses
import math
import os.path
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalearn_jax.data import builtin, derive, split_files
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.memory import as_table
from scalearn_jax.data.rows import (
    Table,
    as_dataset,
    check_columns,
    check_texts,
    columns,
    concatenate,
    read_table,
    to_arrow,
)
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, format_value

if TYPE_CHECKING:  # it takes more than a second to import
    from datasets import Dataset

_NO_LABEL = {"-1", "-1.0", "", "None", "nan"}  # what stands where a label is not known
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Splits:
    """Three tables of equal columns, which stay in Arrow until they are tokens; iterates over them."""

    train: "Dataset"
    dev: "Dataset"
    test: "Dataset"
    available: tuple[int, int, int]  # rows of each in the data, before it was cut
    origins: tuple[str, str, str]  # where each comes from, for instance "from train.csv"

    def __iter__(self) -> Iterator["Dataset"]:
        return iter((self.train, self.dev, self.test))


def load_splits(
    task: Task,
    *,
    data_dir: str | Path | Mapping[str, Any] | None = None,
    max_train_samples: int | None = None,
    sample_seed: int | None = None,
    max_eval_samples: int | None = None,
    max_dev_samples: int | None = None,
) -> Splits:
    """Loads a task and splits it.

    Args:
      task: the row.
      data_dir: folder that holds ``task.name``, its last part, or the files themselves, each split as a file or
        numbered files, see ``rows.FILE_TYPES``, laid out as on the hub or beside each other, or as
        ``DatasetDict.save_to_disk`` writes it; a dictionary of sets in memory by split, see ``as_table``; ``None``
        for the hub. Of a user's own, ``dev`` is the development set, and ``validation`` the test set where there is no
        ``test``; what is lacking, a tenth of the training set, is held out.
      max_train_samples: the first k rows of the training split, taken after the development set is held out.
      sample_seed: draws these k rows at random instead; the same for every method and machine.
      max_eval_samples: the first k rows of development and test set.
      max_dev_samples: the first k rows of the development set; wins there.

    Example:
      >>> from scalearn_jax.data import tasks
      >>> [len(table) for table in load_splits(tasks.get("builtin/sentiment"), max_train_samples=32)]
      [32, 200, 400]
    """
    tables, origins = {}, {}
    for split, table, where in _load(task, data_dir):
        if split == "test":
            _check_labelled(task, table, where)
        tables[split] = to_arrow(examples(task, table, where), task.fields)
        origins[split] = f"from {Path(where).name}"
    roles = _roles(task, origins)
    if "" in roles:
        tables["train"], tables[""] = _hold_out(task, tables["train"], ("development", "test")[roles.index("") - 1])
        origins[""] = origins["train"].replace("from", "held out of", 1)
    splits = [tables[role] for role in roles]
    caps = (max_dev_samples or max_eval_samples, max_eval_samples)
    available, train = tuple(map(len, splits)), splits[0]
    if sample_seed is not None and max_train_samples is not None:
        rows = np.random.default_rng(sample_seed).permutation(len(train))[:max_train_samples]
        splits[0] = as_dataset(train.with_format("arrow")[:].take(rows))
    ends = (max_train_samples, *(_whole_questions(table, cap) for table, cap in zip(splits[1:], caps, strict=True)))
    cut = (table.select(range(len(table))[:end]) for table, end in zip(splits, ends, strict=True))
    return Splits(*cut, available=available, origins=tuple(origins[role] for role in roles))


def _roles(task: Task, origins: Mapping[str, str]) -> tuple[str, str, str]:
    """Says which of a data set's splits are training, development and test set; ``""`` is held out of training."""
    if "dev" in origins and "test" in origins and "validation" in origins:
        known = " and ".join(origins[split].removeprefix("from ") for split in ("dev", "validation"))
        raise InputError(f"task {task.name}: {known} may both be its development set, beside a test set; keep one.")
    if "test" in origins:
        return "train", "dev" if "dev" in origins else "validation", "test"
    if "dev" in origins:
        return "train", "dev", "validation" if "validation" in origins else ""
    return "train", "validation" if task.split_rule == "validation" else "", "validation"


def _check_labelled(task: Task, table: Table, where: str) -> None:
    """Checks that a test set has labels; those of a hidden one are all -1, empty or not there."""
    name, values = task.label_column, table.get(task.label_column, ())
    unknown = _NO_LABEL - {*task.labels, *(f"{label}.0" for label in task.labels)}
    is_plain = bool(table) and task.kind != "multilabel" and task.label_columns == (name,)
    if not is_plain or not {str(value) for value in values} <= unknown:
        return
    found = f"all labels are {format_value(values[0])}" if values else f"there is no column {name!r}"
    raise InputError(
        f"task {task.name}: {where} has no labels ({found}); remove it, or leave it out with `split_rule: published` in"
        " task.yaml: then the validation set is the test set, and a tenth of the training set the development set."
    )


def _whole_questions(table: "Dataset", end: int | None) -> int | None:
    """Moves the end of a cut back to where a question ends, unless nothing would be left.

    A shuffled development set (MultiRC's) scatters the examples of a question; there it moves little.
    """
    if "question_number" not in table.column_names or end is None or end >= len(table):
        return end
    numbers = table[: end + 1]["question_number"]
    return next((cut for cut in range(end, 0, -1) if numbers[cut - 1] != numbers[cut]), end)


def _hold_out(task: Task, train: "Dataset", name: str) -> "list[Dataset]":
    """Splits a training set into training and development (or test) rows, as published, both in shuffled order."""
    stratify = task.stratify and task.kind in ("classification", "choice")
    labels = labels_of(task, train.select_columns(task.label_column)[:][task.label_column]) if stratify else None
    try:
        halves = split_rows(len(train), labels)
    except InputError as error:
        raise InputError(
            f"task {task.name}: no {name} set can be held out of the training file: {error}"
            f" Bring a {'test' if name == 'development' else name} file too, or set stratify: false in task.yaml."
        ) from error
    table = train.with_format("arrow")[:]
    return [as_dataset(table.take(rows)) for rows in halves]  # select() would look up each row at each read


def split_rows(count: int, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Splits row numbers as ``Dataset.train_test_split(test_size=0.1, seed=42, stratify_by_column=...)`` does.

    Stratified, that method reads the labels one at a time, 11 s of processor time for 67,349 rows; the function it
    hands them to takes 0.02 s.

    Args:
      count: n.
      labels: Int[n], whose proportions both halves keep; ``None`` for a plain shuffle.

    Returns:
      (training, development) row numbers, both shuffled; a tenth of n (rounded up) in the second.

    Example:
      >>> train, dev = split_rows(20, np.arange(20) % 2)
      >>> len(train), sorted((dev % 2).tolist())
      (18, [0, 1])
    """
    from datasets.utils.stratify import stratified_shuffle_split_generate_indices

    generator, num_dev = np.random.default_rng(42), math.ceil(0.1 * count)
    if num_dev >= count:
        raise InputError(f"needs two rows or more, got {count}.")
    if labels is None:
        rows = generator.permutation(count)
        return rows[num_dev:], rows[:num_dev]
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2 or num_dev < len(classes):
        raise InputError(
            f"{num_dev} held-out rows must hold each of {len(classes)} labels, and each label must occur twice;"
            f" label {classes[counts.argmin()]} occurs {counts.min()} times."
        )
    return next(stratified_shuffle_split_generate_indices(labels, count - num_dev, num_dev, generator))


def examples(task: Task, table: Table, where: str, *, labels: bool = True) -> Table:
    """Checks a file's columns, and labels if it has them, and turns its rows into examples.

    Where the task derives nothing, these are the very table.
    """
    if task.kind == "multilabel" and task.label_column in table:  # no label at all, as some files say it
        table = table | {task.label_column: [[] if label is None else label for label in table[task.label_column]]}
    check_columns(table, (*task.columns, *(task.label_columns if labels else ())), where)
    check_texts(table, task.text_columns, where)
    if task.derive:
        rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
        table = columns(derive.examples(derive.RULES[task.derive], rows, where, labels=labels))
    if labels:
        labels_of(task, table[task.label_column], where)
    return table


def _load(task: Task, data_dir: str | Path | Mapping[str, Any] | None) -> Iterator[tuple[str, Table, str]]:
    """Yields (split, table, where it came from)."""
    if isinstance(data_dir, Mapping):
        for split in (*SPLITS, "dev"):
            if split in data_dir:
                yield split, as_table(data_dir[split], f"data[{split!r}]"), f"data[{split!r}]"
            elif split == "train" or split == "validation" and "dev" not in data_dir:
                raise InputError(f"task {task.name}: data_dir holds no {split!r}, only {', '.join(data_dir)}; add it.")
        return
    data_dir = data_dir and Path(os.path.expanduser(data_dir))
    if task.name in builtin.BUILTIN and not (data_dir and (data_dir / task.name).is_dir()):
        for split in builtin.splits(task.name):
            yield split, columns(builtin.rows(task.name, split)), f"{task.name} {split}"
        return
    # The test files of GLUE and SuperGLUE have no labels.
    wanted = (*SPLITS, "dev") if task.split_rule == "files" else SPLITS[:2]
    if data_dir is None:
        files = split_files.hub_files(task, split_files.hub_folder(task))
    else:
        files = split_files.local_files(task, data_dir, wanted)
    for split, paths in files.items():
        if split in wanted:
            where = str(paths[0])
            yield split, concatenate([read_table(path) for path in paths], where), where
