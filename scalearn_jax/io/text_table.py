"""Tables as plain text: with aligned columns for a terminal, and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table with two spaces between columns; for a terminal.

    Example:
      >>> print(plain(["name", "kind"], [["glue/rte", "pair"]]))
      name      kind
      --------  ----
      glue/rte  pair
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lays out CSV; numbers keep full precision, ``None`` is empty."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()
