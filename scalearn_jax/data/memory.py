"""Data sets in memory: whatever a caller has, as tables by split."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from scalearn_jax.data import splits
from scalearn_jax.data.labels import labels_of
from scalearn_jax.data.rows import Table, columns, num_rows, read_table, take
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError, format_value
from scalearn_jax.io.terminal import note

_FORMS = "a datasets.Dataset, a DataFrame, a list of dicts, a dict of lists, or a dict of these by split"
_OTHER_NAMES = {"valid", "val", "dev", "eval", "development"}


def as_splits(task: Task, data: Any, where: str = "data") -> dict[str, Table]:
    """Makes the sets of a task, by split, of what a caller has.

    Args:
      task: the row.
      data: a dict of sets by split, ``"train"``, ``"validation"`` and perhaps ``"test"`` (else the second is the test
        set); or one set for all, a tenth of which becomes the test set, with seed 42, and a note says so. For a set see
        ``as_table``.
      where: what errors call it.

    Raises:
      InputError: no such thing, a missing split, or one set that cannot be split.

    Example:
      >>> task = Task("demo", "regression", ("text",))
      >>> {name: num_rows(table) for name, table in as_splits(task, {"text": ["a"] * 20, "label": range(20)}).items()}
      {'train': 18, 'validation': 2}
    """
    if isinstance(data, Mapping) and "train" in data:
        if unknown := [name for name in data if name not in splits.SPLITS]:
            hint = "; the development set is drawn from train" if _OTHER_NAMES & {*unknown} else ""
            raise InputError(
                f"{where}: expected the splits train, validation and, if there is one, test, got"
                f" {format_value(unknown[0])}, too; rename it or leave it out{hint}."
            )
        if "validation" not in data:
            raise InputError(f"{where}: there is train, but no validation; add it, or pass all rows as one set.")
        return {name: as_table(data[name], f"{where}[{name!r}]") for name in splits.SPLITS if name in data}
    table = as_table(data, where)
    if task.derive or task.has_questions:
        raise InputError(f"{where}: task {task.name} makes its examples of rows; pass a dict of sets by split.")
    splits.examples(task, table, where)
    stratify = task.stratify and task.kind in ("classification", "choice")
    try:
        rest, held = splits.split_rows(num_rows(table), labels_of(task, table[task.label_column]) if stratify else None)
    except InputError as error:
        raise InputError(
            f'{where}: no test set can be held out of one set: {error} Pass {{"train": ..., "validation": ...}}.'
        ) from error
    note(f"{where}: {len(held)} of {num_rows(table)} rows, drawn with seed 42, are the test set.")
    return {"train": take(table, rest), "validation": take(table, held)}


def as_table(source: Any, where: str = "data") -> Table:
    """Makes columns of a set: a ``Dataset``, a DataFrame, an Arrow table, a list of dicts or a dict of lists.

    Raises:
      InputError: anything else, or columns of different lengths.

    Example:
      >>> as_table([{"text": "a", "label": 1}, {"text": "b", "label": 0}])
      {'text': ['a', 'b'], 'label': [1, 0]}
    """
    if isinstance(source, os.PathLike):
        return read_table(source)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return {str(name): values for name, values in source.to_dict("list").items()}
    for method in ("to_pydict", "to_dicts"):  # of Arrow, of Polars
        source = getattr(source, method)() if hasattr(source, method) else source
    if hasattr(source, "column_names") and hasattr(source, "__getitem__"):
        return dict(source[:])
    if isinstance(source, Mapping):
        return _of_columns(source, where)
    rows = [] if isinstance(source, str | bytes) or not isinstance(source, Iterable) else list(source)
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if not rows or wrong is not None:
        got = format_value(source) if wrong is None else f"a row {format_value(wrong)}"
        raise InputError(f"{where}: expected {_FORMS}, got {got}.")
    return columns(rows)


def _of_columns(source: Mapping[str, Any], where: str) -> Table:
    table = {}
    for name, values in source.items():
        values = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise InputError(f"{where}: expected {_FORMS}, got {format_value(values)} as column {format_value(name)}.")
        table[str(name)] = list(values)
    lengths = {name: len(values) for name, values in table.items()}
    if len({*lengths.values()}) > 1:
        each = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{where}: columns of different lengths, {each}; give each row a value of each column.")
    return table
