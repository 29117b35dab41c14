"""Rows of a file, a saved folder or a set in memory: to columns, checked, and from columns to Arrow.

``datasets`` holds them and reads its saved folders. JSON lines and CSV it would change (5.2): ``load_dataset`` reads a
gzip file that is cut short without an error, makes dates of texts that look like dates, 1 of "001" and nothing of
"NA", fills short lines, and names no line. It takes as long as the readers below.
"""

import csv
import gzip
import json
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalearn_jax.errors import InputError, unknown

if TYPE_CHECKING:  # it takes more than a second to import
    import pyarrow
    from datasets import Dataset

_MAX_FIELD = 2**31 - 1  # characters; csv's own limit, 131,072, is less than a long document
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")

Table = dict[str, list]


def num_rows(table: "Table | Dataset") -> int:
    """Counts the rows of a table."""
    return len(next(iter(table.values()), [])) if isinstance(table, dict) else len(table)


def take(table: Table, rows: Iterable[int]) -> Table:
    """Picks rows, in the order given.

    Example:
      >>> take({"text": ["a", "b", "c"]}, [2, 0])
      {'text': ['c', 'a']}
    """
    rows = list(rows)  # read once a column
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
    """Joins the shards of a split, which must have the same columns."""
    for table in tables[1:]:
        if set(table) != set(tables[0]):
            raise InputError(f"{where}: shards with different columns, {sorted(tables[0])} and {sorted(table)}.")
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def to_arrow(table: Table, texts: Iterable[str] = ()) -> "Dataset":
    """Moves columns to Arrow, in memory, and those in ``texts`` to texts; ``[:]`` of the result are columns again.

    Other columns that Arrow cannot hold, such as those of several types or with numbers of 20 digits, also become
    texts, lists and maps in JSON.

    Example:
      >>> to_arrow({"text": ["a", 5], "id": [1, 10**20]}, ["text"])[:]
      {'text': ['a', '5'], 'id': ['1', '100000000000000000000']}
    """
    import pyarrow

    table, arrays = table | {name: [as_text(value) for value in table[name]] for name in texts}, {}
    for name, values in table.items():
        try:
            arrays[name] = pyarrow.array(values)
        except (OverflowError, TypeError, ValueError):  # a ValueError is also half a surrogate pair
            nested = (list, tuple, dict)
            values = [json.dumps(value, default=str) if isinstance(value, nested) else value for value in values]
            arrays[name] = pyarrow.array([value if value is None else as_text(value) for value in values])
    return as_dataset(pyarrow.table(arrays))


def as_dataset(table: "pyarrow.Table") -> "Dataset":
    """Makes a ``Dataset`` of a table of Arrow; by itself it would hash, and for that copy, all it holds."""
    from datasets import Dataset

    return Dataset(table, fingerprint=uuid.uuid4().hex)


def as_text(value: Any) -> str:
    """Turns a value into text; what is no Unicode (half a surrogate pair, from JSON), tokenizers would refuse.

    Example:
      >>> as_text(5), as_text("a\\ud800")
      ('5', 'a?')
    """
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def check_columns(table: Table, names: Iterable[str], where: str) -> None:
    """Checks that a table has rows, and a value of every named column in every row; ``None`` and NaN are none."""
    if not num_rows(table):
        raise InputError(f"{where} is empty; expected one row or more with columns {', '.join(names)}.")
    for name in names:
        if name not in table:
            raise unknown("column", name, table, where=f"{where}, whose columns are others")
        row = next((row for row, value in enumerate(table[name], 1) if value is None or value != value), None)
        if row is not None:  # some programs write NaN for what is missing
            raise InputError(f"{where}, row {row}: no value in column {name!r}; fill it in.")


def check_texts(table: Table, names: Iterable[str], where: str) -> None:
    """Checks that columns hold texts, or numbers, which are read as their digits; no lists, maps or bytes."""
    for name in names:
        for row, value in enumerate(table[name], 1):
            if isinstance(value, list | tuple | dict | bytes):
                is_bytes = isinstance(value, bytes)
                fix = "store it as text (UTF-8)" if is_bytes else "write the parts to columns of their own"
                raise InputError(
                    f"{where}, row {row}: column {name!r} holds {str(value)[:60]!r}, expected text; {fix}."
                )


def read_table(source: Any) -> Table:
    """Reads a file (see ``SUFFIXES``), a folder that ``Dataset.save_to_disk`` wrote, or a set in memory.

    In memory, that is a ``datasets.Dataset``, a DataFrame, a dictionary of columns or a list of rows.
    """
    if isinstance(source, list):
        return columns(source)
    if not isinstance(source, str | Path):
        is_frame = hasattr(source, "iloc")
        return dict(source.to_dict("list") if is_frame else source if isinstance(source, dict) else source[:])
    path = Path(source)
    readers = {".jsonl": _read_jsonl, ".jsonl.gz": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = next((readers[suffix] for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if is_saved(path):
        reader = _read_saved
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


def is_saved(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote a folder."""
    return (path / "state.json").is_file()


def _damaged(where: object, error: Exception) -> InputError:
    return InputError(f"{where}: not readable ({error}); the file is damaged or of another type.")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number, line), blank ones left out; a failing read names the line it came to."""
    number = 0
    # A byte-order mark, as spreadsheets write it, is no part of the first column's name.
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
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
        reader, last = csv.reader(file, strict=True), 0
        try:
            names, rows = next(reader, []), []
            last = reader.line_num
            if len(set(names)) < len(names):
                raise InputError(f"{path}: the first line names a column twice: {', '.join(names)}; rename one.")
            for row in filter(None, reader):
                if len(row) != len(names):
                    raise InputError(
                        f"{path}, line {reader.line_num}: {len(row)} fields, the first line names {len(names)}; quote"
                        " fields that hold commas or line breaks."
                    )
                rows.append(row)
                last = reader.line_num
        except (csv.Error, UnicodeDecodeError) as error:
            raise _damaged(f"{path}, after line {last}", error) from error
    return {name: [row[i] for row in rows] for i, name in enumerate(names)} if rows else {}


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pydict()
    except pyarrow.ArrowException as error:
        raise _damaged(path, error) from error


def _read_saved(path: Path) -> Table:
    import datasets

    try:
        return datasets.load_from_disk(str(path))[:]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}); save the data set again.") from error
