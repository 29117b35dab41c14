"""Text tables with aligned columns, plain or as Markdown."""

from collections.abc import Sequence


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a table with two spaces between columns; for a terminal.

    Example:
      >>> print(plain(["name", "kind"], [["glue/rte", "pair"]]))
      name      kind
      --------  ----
      glue/rte  pair
    """
    widths = _widths([header, *rows])
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(_padded(line, widths)).rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a Markdown table that also reads well unrendered.

    Example:
      >>> print(markdown(["method", "score"], [["fusion", "1.0"]]))
      | method | score |
      | ------ | ----- |
      | fusion | 1.0   |
    """
    widths = _widths([header, *rows])
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(f"| {' | '.join(_padded(line, widths))} |" for line in lines)


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
