"""Tables with aligned columns: plain, as Markdown, as LaTeX and as CSV."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# How each format shows the best and the second best of a column, and how it says so.
_MARKDOWN = {"best": "**{}**", "second": "_{}_"}
_LATEX = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
_MARKDOWN_LEGEND = {"best": "best in bold", "second": "second best in italics"}
_LATEX_LEGEND = {"best": "best in bold", "second": "second best underlined"}
_ESCAPES = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
}


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
      text: what it says.
      mark: ``"best"`` or ``"second"``, shown on its first word, the score; else empty.
    """

    text: str
    mark: str = ""


class Table(NamedTuple):
    """A table for people, in no format yet.

    Attributes:
      title: its heading.
      header: names of the columns.
      groups: its rows, in groups that belong together.
      caption: a sentence below it, without a full stop.
      num_names: how many columns, from the left, are names rather than numbers.
    """

    title: str
    header: Sequence[str]
    groups: Sequence[Sequence[Sequence[Cell]]]
    caption: str
    num_names: int = 1


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


def markdown(table: Table) -> str:
    """Lays out a heading, a Markdown table that also reads well unrendered, and its caption.

    Example:
      >>> row = [Cell("fusion_2"), Cell("1.0 ± 0.1", "best")]
      >>> print(markdown(Table("RTE", ["method", "score"], [[row]], "Scores")))
      ## RTE
      <BLANKLINE>
      | method   | score         |
      | -------- | ------------- |
      | fusion_2 | **1.0** ± 0.1 |
      <BLANKLINE>
      Scores; best in bold.
    """
    rows = [[_marked(cell, _MARKDOWN, _escape_markdown) for cell in row] for group in table.groups for row in group]
    header = [_escape_markdown(name) for name in table.header]
    widths = _widths([header, *rows])
    lines = [header, ["-" * width for width in widths], *rows]
    body = "\n".join(f"| {' | '.join(_padded(line, widths))} |" for line in lines)
    return f"## {table.title}\n\n{body}\n\n{_caption(table, _MARKDOWN_LEGEND)}"


def latex(table: Table) -> str:
    """Lays out a LaTeX ``table`` with its caption; the document needs ``booktabs``.

    Example:
      >>> row = [Cell("fusion_2"), Cell("1.0 ± 0.1", "best")]
      >>> print(latex(Table("RTE", ["method", "score"], [[row]], "Scores")), end="")
      % Needs \\usepackage{booktabs}.
      \\begin{table}
        \\centering
        \\footnotesize
        \\setlength{\\tabcolsep}{3pt}
        \\caption{RTE. Scores; best in bold.}
        \\begin{tabular}{lr}
          \\toprule
          method & score \\\\
          \\midrule
          fusion\\_2 & \\textbf{1.0} $\\pm$ 0.1 \\\\
          \\bottomrule
        \\end{tabular}
      \\end{table}
    """
    columns = "l" * table.num_names + "r" * (len(table.header) - table.num_names)
    lines = [r"\toprule", " & ".join(map(_latex_heading, table.header)) + r" \\"]
    for group in table.groups:
        lines += [r"\midrule", *map(_latex_row, group)]
    body = "\n".join(f"    {line}" for line in [*lines, r"\bottomrule"])
    caption = f"{escape_latex(table.title.rstrip('.'))}. {escape_latex(_caption(table, _LATEX_LEGEND))}"
    return (
        "% Needs \\usepackage{booktabs}.\n\\begin{table}\n  \\centering\n"
        "  \\footnotesize\n  \\setlength{\\tabcolsep}{3pt}\n"
        f"  \\caption{{{caption}}}\n  \\begin{{tabular}}{{{columns}}}\n{body}\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def escape_latex(text: str) -> str:
    r"""Escapes what LaTeX would read as its own, and sets the minus of negative numbers.

    Example:
      >>> escape_latex("my_task & 5 % of -1.5 ± 0.2")
      'my\\_task \\& 5 \\% of $-$1.5 $\\pm$ 0.2'
    """
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return "".join(_ESCAPES.get(char, char) for char in " ".join(text.split()))


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lays out CSV; numbers keep full precision, ``None`` is empty.

    Example:
      >>> comma_separated(["a", "b"], [[0.1, None]])
      'a,b\\n0.1,\\n'
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _latex_row(row: Sequence[Cell]) -> str:
    return " & ".join(_marked(cell, _LATEX, escape_latex) for cell in row) + r" \\"


def _latex_heading(name: str) -> str:
    """A column's name, a long one in two lines: a task over its metric."""
    first, _, last = name.rpartition(" ")
    if not first or len(name) < 15:
        return escape_latex(name)
    return rf"\shortstack[r]{{{escape_latex(first)}\\{escape_latex(last)}}}"


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _marked(cell: Cell, marks: dict[str, str], escape: Callable[[str], str]) -> str:
    if not cell.mark:
        return escape(cell.text)
    score, *rest = cell.text.split(" ", 1)
    return " ".join([marks[cell.mark].format(escape(score)), *map(escape, rest)])


def _caption(table: Table, legend: dict[str, str]) -> str:
    used = {cell.mark for group in table.groups for row in group for cell in row}
    explained = ", ".join(words for mark, words in legend.items() if mark in used)
    return f"{table.caption}{f'; {explained}' if explained else ''}."


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
