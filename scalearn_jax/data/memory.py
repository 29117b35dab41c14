"""Sets of examples in memory, in whatever form a caller has them, as tables."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from scalearn_jax.data.rows import Table, columns, read_table
from scalearn_jax.errors import InputError, format_value

_FORMS = "a datasets.Dataset, a DataFrame, a list of dicts, a dict of lists, or a dict of these by split"


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
