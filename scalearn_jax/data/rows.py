"""Files of rows to columns: JSON lines (also gzipped), CSV, parquet."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scalearn_jax.errors import InputError, unknown

_MAX_FIELD = 2**31 - 1  # characters; csv's own limit, 131,072, is less than a long document
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")

Table = dict[str, list]


def num_rows(table: Table) -> int:
    """Counts the rows of a table."""
    return len(next(iter(table.values()), []))


def take(table: Table, rows: Iterable[int]) -> Table:
    """Picks rows, in the order given.

    Example:
      >>> take({"text": ["a", "b", "c"]}, [2, 0])
      {'text': ['c', 'a']}
    """
    rows = list(rows)
    return {name: [values[row] for row in rows] for name, values in table.items()}


def columns(rows: list[dict[str, Any]]) -> Table:
    """Turns rows into columns; a missing entry is ``None``.

    Example:
      >>> columns([{"text": "a", "label": 0}, {"text": "b"}])
      {'text': ['a', 'b'], 'label': [0, None]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def concatenate(tables: list[Table], where: str) -> Table:
    """Joins the shards of a split.

    Raises:
      InputError: their columns differ.
    """
    for table in tables[1:]:
        if set(table) != set(tables[0]):
            raise InputError(f"{where}: shards with different columns, {sorted(tables[0])} and {sorted(table)}.")
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def check_columns(table: Table, names: Iterable[str], where: str) -> None:
    """Checks that a table has rows, and every named column in every row.

    Raises:
      InputError: no rows, a missing column (names those there and the nearest) or a missing entry.
    """
    if not num_rows(table):
        raise InputError(f"{where} is empty; expected one row or more with columns {', '.join(names)}.")
    for name in names:
        if name not in table:
            raise unknown("column", name, table, where=f"{where}, whose columns are others")
        row = next((row for row, value in enumerate(table[name], 1) if value is None or value != value), None)
        if row is not None:  # NaN counts: it is how some programs write what is missing
            raise InputError(f"{where}, row {row}: no value in column {name!r}; fill it in.")


def check_texts(table: Table, names: Iterable[str], where: str) -> None:
    """Checks that columns hold texts, or numbers, which are read as their digits.

    Raises:
      InputError: an entry is a list, a map or bytes.
    """
    for name in names:
        for row, value in enumerate(table[name], 1):
            if isinstance(value, list | tuple | dict | bytes):
                mend = (
                    "store it as text (UTF-8)"
                    if isinstance(value, bytes)
                    else "write the parts to columns of their own"
                )
                raise InputError(
                    f"{where}, row {row}: column {name!r} holds {str(value)[:60]!r}, expected text; {mend}."
                )


def read_table(path: str | Path) -> Table:
    """Reads a ``.jsonl``, ``.jsonl.gz``, ``.csv`` or ``.parquet`` file.

    Args:
      path: the file.

    Returns:
      Column name -> values, in the order of the file.

    Raises:
      InputError: missing, of another type, or damaged; names the line where there is one.
    """
    path = Path(path)
    readers = {".jsonl": _read_jsonl, ".jsonl.gz": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = next((readers[suffix] for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if reader is None:
        raise InputError(f"{path}: unknown file type; expected one of {', '.join(SUFFIXES)}.")
    try:
        return reader(path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; pass a file ending in {', '.join(SUFFIXES)}.") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(where: object, error: Exception) -> InputError:
    return InputError(f"{where}: not readable ({error}); the file is damaged or of another type.")


def _open(path: Path):
    # A byte-order mark, as spreadsheets write it, is no part of the first column's name.
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number, line), blank ones left out; a failing read names the line it came to."""
    number = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
        except (OSError, EOFError, ValueError, zlib.error) as error:
            if isinstance(error, InputError):
                raise
            raise _damaged(f"{path}, after line {number}", error) from error


def _read_jsonl(path: Path) -> Table:
    rows = []
    for number, line in _numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
        rows.append(row)
    return columns(rows)


def _read_csv(path: Path) -> Table:
    csv.field_size_limit(_MAX_FIELD)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        try:
            names = reader.fieldnames or []
            if len(set(names)) < len(names):
                raise InputError(f"{path}: the first line names a column twice: {', '.join(names)}; rename one.")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, line {reader.line_num}: {_num_fields(row)} fields, the first line names"
                        f" {len(reader.fieldnames)}; quote fields that hold commas or line breaks."
                    )
                rows.append(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise _damaged(f"{path}, after line {reader.line_num}", error) from error
    return columns(rows)


def _num_fields(row: dict[str | None, Any]) -> int:
    return sum(value is not None for name, value in row.items() if name is not None) + len(row.get(None, []))


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pydict()
    except pyarrow.ArrowException as error:
        raise _damaged(path, error) from error
