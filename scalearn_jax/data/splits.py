"""A task's files, split as published.

A tenth of the official training set (seed 42, stratified by label) is the development set, and the official
validation set is the test set (arXiv 2310.01217, section 4). A data set that brings a test file of its own may
keep its three files as they are.
"""

import os.path
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scalearn_jax.data import builtin, derive
from scalearn_jax.data.holdout import split_rows
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.rows import (
    SUFFIXES,
    Table,
    check_columns,
    check_texts,
    columns,
    concatenate,
    num_rows,
    read_table,
    take,
)
from scalearn_jax.data.task import Task
from scalearn_jax.data.tasks import TASKS
from scalearn_jax.errors import InputError
from scalearn_jax.io.hub import download

SPLITS = ("train", "validation", "test")


class Splits(NamedTuple):
    """Three tables of equal columns."""

    train: Table
    dev: Table
    test: Table


def load_splits(
    task: Task,
    *,
    data_dir: str | Path | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    max_dev_samples: int | None = None,
) -> Splits:
    """Loads a task and splits it.

    Args:
      task: the row.
      data_dir: folder that holds ``task.name``, its last part, or the files themselves, each split as
        ``.jsonl``, ``.jsonl.gz``, ``.csv`` or ``.parquet``; ``None`` for the hub.
      max_train_samples: the first k rows of the training split, taken after the development set is held out.
      max_eval_samples: the first k rows of development and test set.
      max_dev_samples: the first k rows of the development set; wins there.

    Returns:
      Train, development and test table.

    Raises:
      InputError: no files, an unreadable one, a missing column, an empty split, a label outside the list.

    Example:
      >>> from scalearn_jax.data import tasks
      >>> [num_rows(table) for table in load_splits(tasks.get("builtin/sentiment"), max_train_samples=32)]
      [32, 200, 400]
    """
    tables = {split: examples(task, table, where) for split, table, where in _load(task, data_dir)}
    if "test" in tables:
        splits = Splits(*(tables[split] for split in SPLITS))
    elif task.split_rule == "validation":
        splits = Splits(tables["train"], tables["validation"], tables["validation"])
    else:
        splits = Splits(*hold_out(task, tables["train"]), tables["validation"])
    caps = (max_dev_samples or max_eval_samples, max_eval_samples)
    ends = (max_train_samples, *(_whole_questions(table, cap) for table, cap in zip(splits[1:], caps, strict=True)))
    return Splits(*(take(table, range(num_rows(table))[:end]) for table, end in zip(splits, ends, strict=True)))


def _whole_questions(table: Table, end: int | None) -> int | None:
    """Moves the end of a cut back to where a question ends, unless nothing would be left.

    A shuffled development set (MultiRC's) scatters the examples of a question; there it moves little.
    """
    numbers = table.get("question_number")
    if numbers is None or end is None or end >= len(numbers):
        return end
    return next((cut for cut in range(end, 0, -1) if numbers[cut - 1] != numbers[cut]), end)


def hold_out(task: Task, train: Table) -> tuple[Table, Table]:
    """Splits a development set off the training set, as published.

    Args:
      task: says whether to stratify.
      train: the official training set.

    Returns:
      (training, development) table, both in shuffled order.

    Raises:
      InputError: too few rows, or too few of some label.
    """
    stratify = task.stratify and task.kind in ("classification", "choice")
    labels = labels_of(task, train[task.label_column]) if stratify else None
    try:
        rows, held_out = split_rows(num_rows(train), labels)
    except InputError as error:
        raise InputError(
            f"task {task.name}: no development set can be held out of the training file: {error}"
            " Bring a test file too, or set stratify: false in task.yaml."
        ) from error
    return take(train, rows.tolist()), take(train, held_out.tolist())


def examples(task: Task, table: Table, where: str, *, labels: bool = True) -> Table:
    """Checks a file's columns and labels and turns its rows into examples.

    Args:
      task: the row.
      table: as read from the file.
      where: the file, for errors.
      labels: whether the file has labels.

    Returns:
      The examples; the very table where the task derives nothing.

    Raises:
      InputError: no rows, a missing column or entry, an entry that is no text, a label outside the list, a row that
        cannot be read.
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


def _load(task: Task, data_dir: str | Path | None) -> Iterator[tuple[str, Table, str]]:
    """Yields (split, table, where it came from)."""
    data_dir = data_dir and Path(os.path.expanduser(data_dir))
    if task.name in builtin.BUILTIN and not (data_dir and (data_dir / task.name).is_dir()):
        for split in builtin.splits(task.name):
            yield split, columns(builtin.rows(task.name, split)), f"{task.name} {split}"
        return
    files = hub_files(task, hub_folder(task)) if data_dir is None else _local_files(task, Path(data_dir))
    for split, paths in files.items():
        if split != "test" or task.split_rule == "files":  # the test files of GLUE and SuperGLUE have no labels
            where = str(paths[0])
            yield split, concatenate([read_table(path) for path in paths], where), where


def _local_files(task: Task, data_dir: Path) -> dict[str, list[Path]]:
    folders = [folder for folder in _folders(task, data_dir) if any(_files(folder).values())]
    if not folders:
        looked = ", ".join(str(folder) for folder in _folders(task, data_dir))
        raise InputError(
            f"task {task.name}: no data; looked for train and validation ({', '.join(SUFFIXES)}) in {looked}."
            " Pass --data-dir with the folder that holds them."
        )
    files = _files(folders[0])
    for split in ("train", "validation"):
        if not files[split]:
            raise InputError(f"task {task.name}: {folders[0]} has no {split} file ({', '.join(SUFFIXES)}); add it.")
    return {split: paths for split, paths in files.items() if paths}


def _folders(task: Task, data_dir: Path) -> list[Path]:
    """Where a task's files may lie; the folder of another task is not taken for this one's."""
    place = task.folder or task.name
    own = place.rsplit("/", 1)[-1]
    others = {(row.folder or name).rsplit("/", 1)[-1] for name, row in TASKS.items()} - {own}
    direct = [] if task.name in TASKS and data_dir.resolve().name in others else [data_dir]
    return list(dict.fromkeys([data_dir / place, data_dir / own, *direct]))


def _files(folder: Path) -> dict[str, list[Path]]:
    paths = {split: [folder / f"{split}{suffix}" for suffix in SUFFIXES] for split in SPLITS}
    return {split: [path for path in candidates if path.is_file()][:1] for split, candidates in paths.items()}


def hub_folder(task: Task) -> Path:
    """Fetches the files of a task's data set into the hub's cache, or finds them there.

    Args:
      task: the row, which names the data set.

    Returns:
      The folder, whose name is the commit.

    Raises:
      InputError: the row names none, or it cannot be had.
    """
    if task.hub is None:
        raise InputError(f"task {task.name} names no hub data set; pass --data-dir with the folder of its files.")
    what = f"task {task.name}: no --data-dir is given, and its data set {task.hub.repo!r}"
    patterns = [pattern for _, pattern in task.hub.files]
    return download(task.hub.repo, task.hub.revision, patterns, what=what, kind="dataset")


def hub_files(task: Task, folder: Path) -> dict[str, list[Path]]:
    """Lists the files of each split in what ``hub_folder`` found.

    Raises:
      InputError: a split has none.
    """
    try:
        files = {split: sorted(folder.glob(pattern)) for split, pattern in task.hub.files}
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"task {task.name}: hub.files cannot be found: {error}; mend the patterns.") from error
    for split, pattern in task.hub.files:
        if not files[split]:
            raise InputError(
                f"task {task.name}: data set {task.hub.repo!r} has no file {pattern!r} for split {split!r}."
            )
    return files
