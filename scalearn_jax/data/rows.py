"""Rows of a file, a saved folder or a set in memory: to columns, checked, and from columns to Arrow.

``datasets`` holds them and reads its saved folders. JSON lines and CSV it would change (5.2): ``load_dataset`` reads a
gzip file that is cut short without an error, makes dates of texts that look like dates, 1 of "001" and nothing of
"NA", fills short lines, and names no line. It takes as long as the readers below.
"""

import csv
import io
import itertools
import json
import re
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalearn_jax.errors import InputError, format_value, unknown
from scalearn_jax.io.files import POINTER, damaged, decode, is_pointer, numbered_lines

if TYPE_CHECKING:  # it takes more than a second to import
    import pyarrow
    from datasets import Dataset

_MAX_FIELD = 2**31 - 1  # characters; csv's own limit, 131,072, is less than a long document
SUFFIXES = tuple(kind + gz for kind in (".jsonl", ".json", ".csv", ".tsv") for gz in ("", ".gz")) + (".parquet",)
FILE_TYPES = ".jsonl, .json, .csv, .tsv, each also with .gz, or .parquet"
_BEGINNINGS = {b"\x1f\x8b": ".gz", b"PAR1": ".parquet", b"PK\3\4": ".xlsx"}  # of files that are no text

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
    """Reads a file (see ``FILE_TYPES``), a folder that ``Dataset.save_to_disk`` wrote, or a set in memory.

    In memory, that is a ``datasets.Dataset``, a DataFrame, a dictionary of columns or a list of rows.
    """
    if isinstance(source, list):
        return columns(source)
    if not isinstance(source, str | Path):
        is_frame = hasattr(source, "iloc")
        return dict(source.to_dict("list") if is_frame else source if isinstance(source, dict) else source[:])
    path = Path(source)
    readers = {".json": _read_json, ".csv": _read_csv, ".tsv": _read_tsv, ".parquet": _read_parquet}
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    reader = suffix and readers[suffix.removesuffix(".gz").replace("jsonl", "json")]
    if is_saved(path):
        reader = _read_saved
    if reader is None:
        raise InputError(f"{path}: unknown file type; expected {FILE_TYPES}.")
    try:
        if path.is_file():
            _check_beginning(path)
        return reader(path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; pass a file, {FILE_TYPES}.") from error
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def _check_beginning(path: Path) -> None:
    """Checks that a file is of the type that its name says."""
    if is_pointer(path):
        raise InputError(f"{path}: {POINTER}.")
    with path.open("rb") as stream:
        head = stream.read(4)
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), None)
    if kind and kind != path.suffix.lower():
        raise InputError(f"{path} begins as a {kind} file does; rename it, or save it as {FILE_TYPES}.")


def is_saved(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote a folder."""
    return (path / "state.json").is_file()


def _read_json(path: Path) -> Table:
    """Reads JSON lines, or one list of objects; see ``_parse_json``."""
    rows = _parse_json(numbered_lines(path), path)
    only = rows[0] if len(rows) == 1 and ".json" in path.suffixes else None  # an object a line is what .jsonl promises
    if only and all(isinstance(value, list | dict) for value in only.values()):
        raise InputError(
            f"{path} holds one object of columns; expected an object a row, in pandas"
            " frame.to_json(PATH, orient='records', lines=True)."
        )
    return columns(rows)


def read_standard_input() -> Table:
    """Reads JSON lines, or one list of objects, from standard input."""
    where = "standard input"
    lines = enumerate(io.StringIO(decode(sys.stdin.buffer.read(), where)), 1)
    return columns(_parse_json(lines, f"{where} (for another format pass --input FILE)"))


def _parse_json(numbered: Iterable[tuple[int, str]], where: object) -> list[dict[str, Any]]:
    """Reads the objects of JSON lines, or of one list."""
    rows, lines = [], ((number, line) for number, line in numbered if line.strip())
    for number, line in lines:
        is_list = not rows and line.lstrip().startswith("[")
        if is_list:
            line = line + "".join(rest for _, rest in lines)
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            expected = "expected an object a line, or one list of objects"
            raise InputError(f"{where}, line {number}: not valid JSON ({error}); {expected}.") from error
        found = found if is_list else [found]
        for row in found:
            if not isinstance(row, dict):
                raise InputError(f"{where}, line {number}: expected an object, got {type(row).__name__}.")
        rows += found
    return rows


def _read_csv(path: Path, quoting: int = csv.QUOTE_MINIMAL) -> Table:
    """Reads separated values; see ``_delimiter``."""
    csv.field_size_limit(_MAX_FIELD)
    lines = (line for _, line in numbered_lines(path, newline=""))
    first, skipped = next(lines, ""), 0
    if named := re.fullmatch(r'"?sep=(.)"?\s*', first):  # spreadsheets write it, and read it
        delimiter, skipped = named[1], 1
    else:
        delimiter, lines = _delimiter(path, first), itertools.chain([first], lines)
    reader, last = csv.reader(lines, strict=True, delimiter=delimiter, quoting=quoting), 0
    try:
        names, rows = next(reader, []), []
        last = reader.line_num
        if len(set(names)) < len(names):
            shown = ", ".join(map(format_value, names))
            raise InputError(f"{path}: the first line names a column twice: {shown}; rename or remove one.")
        for row in reader:
            if not row or (len(row) == 1 < len(names) and not row[0].strip()):  # a blank line
                continue
            if len(row) != len(names):
                raise InputError(
                    f"{path}, line {reader.line_num + skipped}: {len(row)} fields, the first line names {len(names)};"
                    f" quote fields that hold the separator {delimiter!r} or line breaks."
                )
            rows.append(row)
            last = reader.line_num
    except csv.Error as error:
        raise damaged(f"{path}, after line {last + skipped}", error) from error
    while rows and len(names) > 1 and not any(map(str.strip, rows[-1])):  # what spreadsheets leave of emptied rows
        rows.pop()
    return {name: [row[i] for row in rows] for i, name in enumerate(names)} if rows else {}


def _delimiter(path: Path, first: str) -> str:
    """Finds what separates the fields: what the file's name says, or else the only other separator in its first line.

    Example:
      >>> _delimiter(Path("a.csv"), "text;label"), _delimiter(Path("a.csv"), "text")
      (';', ',')
    """
    own = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    others = [one for one in ",;\t|" if one in first]
    is_split = len(next(csv.reader([first], delimiter=own), [])) > 1
    return own if is_split or len(others) != 1 else others[0]


def _read_tsv(path: Path) -> Table:
    """Reads tab-separated values, in which quotes enclose fields, as pandas writes them, or are text, as in GLUE."""
    try:
        plain = _read_csv(path, csv.QUOTE_NONE)
    except InputError:  # lines or fields that only quotes hold together
        return _read_csv(path)
    if not any(text.startswith('"') for text in itertools.chain(plain, *plain.values())):
        return plain
    try:
        quoted = _read_csv(path)
    except InputError:
        return plain
    if list(plain) != list(quoted):  # no name of a column begins with a quote
        return quoted
    pairs = [pair for name in plain for pair in zip(plain[name], quoted[name], strict=False) if pair[0] != pair[1]]
    bare = [text for text, inner in pairs if '"' not in inner]  # nobody need have quoted it
    if num_rows(plain) != num_rows(quoted) or bare:
        shown = format_value((bare or [text for text, _ in pairs])[0])
        raise InputError(
            f"{path}: the quotes of {shown} are part of the text, or enclose a field; save the file as .jsonl, or, if"
            " they enclose fields, name it .csv."
        )
    return quoted


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pydict()
    except pyarrow.ArrowException as error:
        raise damaged(path, error) from error


def _read_saved(path: Path) -> Table:
    import datasets

    try:
        return datasets.load_from_disk(str(path))[:]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}); save the data set again.") from error
