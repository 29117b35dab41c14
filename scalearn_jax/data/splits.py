"""Reading a task's files and splitting them as published.

A tenth of the official training set (seed 42, stratified by label) is the development set; the official
validation set is the test set (SEMANTICS, section 7). A data set that comes with its own test file keeps its
three files as they are.
"""

import csv
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalearn_jax.data.tasks import Task
from scalearn_jax.errors import InputError, unknown

SPLIT_SEED = 42
DEV_FRACTION = 0.1
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")

Table = dict[str, list]


class Splits(NamedTuple):
    """Three tables of equal columns."""

    train: Table
    dev: Table
    test: Table


def num_rows(table: Table) -> int:
    """Counts the rows of a table."""
    return len(next(iter(table.values()), []))


def take(table: Table, rows) -> Table:
    """Picks rows, in the order given."""
    return {name: [values[int(i)] for i in rows] for name, values in table.items()}


def load_splits(
    task: Task,
    *,
    data_dir: str | Path | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
) -> Splits:
    """Loads a task and splits it.

    Args:
      task: the row.
      data_dir: folder that holds ``task.name``, its last part, or the files themselves; ``None`` for the hub.
      max_train_samples: the first k rows of the training split, taken after the development set is held out.
      max_eval_samples: the first k rows of development and test set.

    Returns:
      Train, development and test table.

    Raises:
      InputError: no files, an unreadable one, a missing column, an empty split, a label outside the list.
    """
    tables = _load_files(task, data_dir)
    for split, table in tables.items():
        _check(task, table, split)
    if "test" in tables:
        splits = Splits(tables["train"], tables["validation"], tables["test"])
    else:
        train, dev = hold_out(task, tables["train"])
        splits = Splits(train, dev, tables["validation"])
    caps = (max_train_samples, max_eval_samples, max_eval_samples)
    return Splits(*(take(table, range(num_rows(table))[:cap]) for table, cap in zip(splits, caps, strict=True)))


def hold_out(task: Task, train: Table) -> tuple[Table, Table]:
    """Splits off the development set with ``datasets``' own split, as the published code does.

    Raises:
      InputError: too few rows.
    """
    import datasets

    datasets.disable_progress_bars()
    count = num_rows(train)
    labels = train[task.label_column]
    stratify = task.stratify and task.kind in ("classification", "choice")
    columns: dict[str, Any] = {"row": list(range(count))}
    features = {"row": datasets.Value("int64")}
    if stratify:
        columns["label"] = [label_id(task, label) for label in labels]
        features["label"] = datasets.ClassLabel(num_classes=max(columns["label"]) + 1)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    options = {"stratify_by_column": "label"} if stratify else {}
    try:
        halves = table.train_test_split(test_size=DEV_FRACTION, seed=SPLIT_SEED, **options)
    except ValueError as error:
        raise InputError(
            f"task {task.name}: {count} training rows cannot be split into training and development set: {error}"
            " Bring a test file too, or set stratify: false."
        ) from error
    return take(train, halves["train"]["row"]), take(train, halves["test"]["row"])


def _load_files(task: Task, data_dir: str | Path | None) -> dict[str, Table]:
    if data_dir is None and task.name.startswith("builtin/"):
        from scalearn_jax.data import builtin

        return {split: columns(builtin.rows(task.name, split)) for split in builtin.splits(task.name)}
    paths = _hub_files(task) if data_dir is None else _local_files(task, Path(data_dir))
    return {split: read_table(path) for split, path in paths.items()}


def _local_files(task: Task, data_dir: Path) -> dict[str, Path]:
    folders = (data_dir / task.name, data_dir / task.name.rsplit("/", 1)[-1], data_dir)
    for folder in folders:
        found = {split: path for split in ("train", "validation", "test") if (path := _file(folder, split))}
        if "train" in found and "validation" in found:
            return found
        if found:
            missing = sorted({"train", "validation"} - set(found))
            raise InputError(f"{folder}: no {missing[0]} file; looked for {missing[0]} with {', '.join(SUFFIXES)}.")
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError(
        f"task {task.name}: no data found; looked for train and validation ({', '.join(SUFFIXES)}) in {looked}."
        " Pass --data-dir with the folder that holds them."
    )


def _file(folder: Path, split: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)


def _hub_files(task: Task) -> dict[str, Path]:
    if task.hub is None:
        raise InputError(f"task {task.name} is on no hub; pass --data-dir with a folder that holds its files.")
    from huggingface_hub import snapshot_download

    patterns = [pattern for _, pattern in task.hub.files]
    try:
        folder = Path(
            snapshot_download(
                task.hub.repo, repo_type="dataset", revision=task.hub.revision, allow_patterns=patterns
            )
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            f"task {task.name}: {patterns} of data set {task.hub.repo} could not be read from the hub: {reason};"
            " pass --data-dir for local files."
        ) from error
    found = {split: next(iter(sorted(folder.glob(pattern))), None) for split, pattern in task.hub.files}
    for split, pattern in task.hub.files:
        if found[split] is None:
            raise InputError(f"task {task.name}: data set {task.hub.repo} has no file {pattern} ({split}).")
    return found


def columns(rows: list[dict[str, Any]]) -> Table:
    """Turns rows into columns; the first row names them."""
    return {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {}


def read_table(path: Path) -> Table:
    """Reads a ``.jsonl``, ``.jsonl.gz``, ``.csv`` or ``.parquet`` file.

    Raises:
      InputError: missing, of another type, or damaged; names the line where there is one.
    """
    name = path.name
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            return columns(_read_jsonl(path))
        if name.endswith(".csv"):
            with path.open(newline="", encoding="utf-8") as file:
                return columns(list(csv.DictReader(file, strict=True)))
        if name.endswith(".parquet"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pydict()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not readable ({error}); the file is damaged or of another type.") from error
    raise InputError(f"{path}: unknown file type; expected one of {', '.join(SUFFIXES)}.")


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: not valid JSON ({error}).") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
            rows.append(row)
    return rows


def _check(task: Task, table: Table, split: str) -> None:
    if not num_rows(table):
        raise InputError(f"task {task.name}: the {split} split is empty; it needs at least one row.")
    check_columns(task, table, (*task.columns, task.label_column), split)
    try:
        labels_of(task, table[task.label_column])
    except InputError:
        _name_bad_row(task, table, split)
        raise


def _name_bad_row(task: Task, table: Table, split: str) -> None:
    for row, label in enumerate(table[task.label_column]):
        try:
            labels_of(task, [label])
        except InputError as error:
            raise InputError(f"task {task.name}, {split} row {row}: {error}") from error


def check_columns(task: Task, table: Table, names, where: str) -> None:
    """Checks that a table has the columns a task reads.

    Raises:
      InputError: one is missing; names the columns there.
    """
    for name in names:
        if name not in table:
            raise unknown("column", name, table, where=f"the {where} data of task {task.name} (needed)")


def label_id(task: Task, label: Any) -> int:
    """Turns a class label, id or name, into its id.

    Raises:
      InputError: outside the task's list.
    """
    size = len(task.labels) or task.num_choices
    if isinstance(label, str) and label in task.labels:
        return task.labels.index(label)
    try:
        number = int(label)
        if number == float(label) and 0 <= number < size:
            return number
    except (TypeError, ValueError):
        pass
    allowed = ", ".join(f"{i} {name}" for i, name in enumerate(task.labels)) or f"0 to {size - 1}"
    raise InputError(f"label {label!r} is outside the task's list ({allowed}).")


def labels_of(task: Task, values: list) -> np.ndarray:
    """Turns a label column into numbers: ids Int[n], scores Float[n] or multi-hot Float[n C].

    Raises:
      InputError: a label outside the task's list, or a score that is no finite number.
    """
    if task.kind == "regression":
        return np.array([_score(value) for value in values], np.float32)
    if task.kind == "multilabel":
        hot = np.zeros((len(values), len(task.labels)), np.float32)
        for row, value in enumerate(values):
            for label in _label_list(value):
                hot[row, label_id(task, label)] = 1
        return hot
    ids = {value: label_id(task, value) for value in set(map(_hashable, values))}
    return np.array([ids[value] for value in values], np.int32)


def _hashable(label: Any) -> Any:
    return label if isinstance(label, str | int | float) else str(label)


def _label_list(value: Any) -> list:
    if isinstance(value, str):  # csv: "[0, 2]" or "food|price"
        return json.loads(value) if value.startswith("[") else [item for item in value.split("|") if item]
    if not isinstance(value, list | tuple):
        raise InputError(f"label {value!r} is no list; a multi-label task needs a list of ids or names.")
    return list(value)


def _score(value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = float("nan")
    if not np.isfinite(score):
        raise InputError(f"label {value!r} is no finite number.")
    return score
