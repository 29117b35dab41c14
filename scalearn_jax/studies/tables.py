"""Results laid out as tables for people, DataFrames of texts, and how a table is written as Markdown and LaTeX."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from scalearn_jax.studies.results import (
    Result,
    as_frame,
    format_examples,
    format_percent,
    format_score,
    largest_error,
)

if TYPE_CHECKING:
    from pandas import DataFrame

ABSENT = "-"
# The last columns of every CSV.
SCORES = ["metric", "num_seeds", "lost_seeds", "mean", "sd", "test_examples", "test_available", "standard_error"]
SCORES += ["transfer_parameters", "head_parameters"]
# How each format shows the best and the second best of a column, and what its caption calls them.
_MARKDOWN = {"best": ("**{}**", "best in bold"), "second": ("_{}_", "second best in italics")}
_LATEX = {"best": (r"\textbf{{{}}}", "best in bold"), "second": (r"\underline{{{}}}", "second best underlined")}
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


class Table(NamedTuple):
    """A table for people, in no format yet."""

    title: str
    texts: "DataFrame"  # what it shows; the index holds the names of the rows
    caption: str  # a sentence below it, without a full stop
    group_by: str | None = None  # the level of the index by which rows belong together, if they do
    marks: "DataFrame | None" = None  # of the shape of texts: "best", "second" or empty


def by_method(results: Iterable[Result]) -> dict[str, dict[str, Result]]:
    """Groups results into the rows of a table: method -> target -> result."""
    rows: dict[str, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(result.method, {})[result.target] = result
    return rows


def targets_of(results: Iterable[Result]) -> dict[str, str]:
    """Target -> its metric, in order."""
    return {result.target: result.metric for result in results}


def main_table(results: Sequence[Result], title: str, all_targets: Sequence[str] = ()) -> Table:
    """Lays out scores on all the data: a row a method, a column a target.

    Only complete rows have an average: averages of different tasks could not be compared. ``all_targets`` are the
    study's, finished or not; by default those of the results.
    """
    frame, targets = _with_texts(results), targets_of(results)
    texts = frame.pivot(index="method", columns="target", values="text")
    texts = texts.reindex(index=frame["method"].unique(), columns=list(targets)).fillna(ABSENT)
    if len(targets) > 1:  # else the average would repeat the only column
        means = frame.pivot(index="method", columns="target", values="mean").loc[texts.index]
        texts["average"] = _averages(means, whole=set(targets) >= set(all_targets))
    marks = mark_best(texts)
    names = {target: f"{target} {metric}" for target, metric in targets.items()}
    texts = _counts(frame, "method").join(texts)
    marks = marks.reindex(columns=texts.columns, fill_value="")
    caption = f"Test scores in percent, {describe_seeds(results)}; {describe_tests(results)}"
    return Table(title, texts.rename(columns=names), caption, marks=marks)


def few_shot_table(results: Sequence[Result], title: str, all_targets: Sequence[str] = ()) -> Table:
    """Lays out few-shot scores: for each target a group of rows, a row a method, a column a number of examples.

    A method has an average over targets where it has a score on each, see ``main_table``.
    """
    import pandas as pd

    frame, targets = _with_texts(results), targets_of(results)
    frame["target"] += " " + frame["metric"]
    shots, methods = sorted({result.shots for result in results}), frame["method"].unique()
    order = pd.MultiIndex.from_product([frame["target"].unique(), methods], names=["target", "method"])
    texts = frame.pivot(index=["target", "method"], columns="shots", values="text").reindex(columns=shots)
    texts = texts.reindex([row for row in order if row in texts.index]).fillna(ABSENT)
    if len(targets) > 1:
        means = frame.pivot(index="method", columns=["shots", "target"], values="mean").loc[methods]
        means = means.reindex(columns=pd.MultiIndex.from_product([shots, frame["target"].unique()]))
        whole = set(targets) >= set(all_targets)
        averages = pd.DataFrame({k: _averages(means[k], whole=whole) for k in shots}, methods)
        texts = pd.concat([texts, pd.concat({"average": averages}, names=["target", "method"])])
    marks = pd.concat([mark_best(group) for _, group in texts.groupby(level="target", sort=False)])
    texts = _counts(frame, ["target", "method"]).reindex(texts.index, fill_value="").join(texts)
    marks = marks.reindex(columns=texts.columns, fill_value="")
    caption = f"Test scores in percent after training on k examples, {describe_seeds(results)}"
    caption += f"; {describe_tests(results)}"
    names = {k: f"k = {k}" for k in shots}
    return Table(f"{title}: few-shot", texts.rename(columns=names), caption, group_by="target", marks=marks)


def _with_texts(results: Sequence[Result]) -> "DataFrame":
    return as_frame(results).assign(text=[format_score(result) for result in results])


def _averages(means: "DataFrame", *, whole: bool) -> list[str]:
    """The mean of every row that has all its columns, in percent."""
    return [format_percent(mean) if whole and mean == mean else ABSENT for mean in means.mean(axis=1, skipna=False)]


def _counts(frame: "DataFrame", by: str | list[str]) -> "DataFrame":
    """The columns of counts; of seeds only if not all results have as many."""
    columns = {"transfer_parameters": "transfer parameters", "head_parameters": "of the head"}
    if frame["num_seeds"].nunique() > 1:
        columns["num_seeds"] = "seeds"
    return frame.groupby(by, sort=False)[list(columns)].agg(_format_range).rename(columns=columns)


def _format_range(numbers: Iterable[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def mark_best(texts: "DataFrame") -> "DataFrame":
    """Marks the best of each column, and from three rows on the second best; what looks equal is marked equally.

    Cells of ``texts`` start with a score, or are ``-``; the marks are ``"best"``, ``"second"`` and empty texts.

    Example:
      >>> import pandas as pd
      >>> mark_best(pd.DataFrame({"rte": ["1.00", "2.00 ± 0.1", "2.00", "0.50"]}))["rte"].tolist()
      ['second', 'best', 'best', '']
    """
    import pandas as pd

    numbers = texts.apply(lambda column: pd.to_numeric(column.str.split().str[0], errors="coerce"))
    rank, present = numbers.rank(ascending=False, method="dense"), (texts != ABSENT).sum()
    marks = pd.DataFrame("", index=texts.index, columns=texts.columns)
    return marks.mask((rank == 1) & (present > 1), "best").mask((rank == 2) & (present > 2), "second")


def describe_seeds(results: Sequence[Result]) -> str:
    """Describes how many seeds a table shows, and how, and which were lost."""
    counts = {len(result.values) for result in results}
    text = "one seed"
    if counts != {1}:
        unit = " or ".join(sorted({result.unit for result in results}))
        text = f"mean ± standard deviation over {_format_range(counts)} {unit}"
        text += f" (of one {unit.removesuffix('s')} there is no deviation)" if 1 in counts else ""
    lost = [
        f"{result.method} on {result.target}{f' with {result.shots} examples' if result.shots else ''}"
        f" {' and '.join(map(str, result.lost))}"
        for result in results
        if result.lost
    ]
    return f"{text}; LOST seeds, which did not stay finite: {', '.join(lost)}" if lost else text


def describe_tests(results: Sequence[Result]) -> str:
    """Describes how many test examples a table's scores are from, and what so few leave open.

    Example:
      >>> known = dict(values=(0.5,), seeds=(0,), parameters=0, head_parameters=0, sources=(), normalise="", se=0.029)
      >>> from pathlib import Path
      >>> describe_tests([Result(Path("r"), "single", "glue/cola", "matthews", **known, used=300, available=1043)])
      'test examples, and the largest standard error that so few give: glue/cola 300 of 1,043 (2.90)'
    """
    by_target = {target: [result for result in results if result.target == target] for target in targets_of(results)}
    if all(result.used is None for result in results):
        return "how many of the test examples were used is unknown"
    texts = [f"{target} {format_examples(own)} ({largest_error(own)})" for target, own in by_target.items()]
    return f"test examples, and the largest standard error that so few give: {', '.join(texts)}"


def scores_csv(results: Sequence[Result], columns: Sequence[str] = ("method", "target")) -> str:
    """Formats a line a result, in full precision; ``columns`` say which it is."""
    return to_csv(as_frame(results)[[*columns, *SCORES]])


def probing_csv(results: Sequence[Result]) -> str:
    """Formats a line a probing result, in full precision, its sources with their coefficients first."""
    frame, columns = as_frame(results), []
    for number in range(max(len(result.coefficients) for result in results)):
        for name, values in (("source", frame["sources"]), ("coefficient", frame["coefficients"])):
            columns.append(f"{name}_{number + 1}")
            frame[columns[-1]] = values.str.get(number)
    return to_csv(frame[["target", *columns, *SCORES]])


def to_csv(frame: "DataFrame") -> str:
    """Formats a DataFrame as CSV; numbers keep full precision, what is missing is empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def markdown(table: Table) -> str:
    """Formats a heading, a Markdown table that also reads well unrendered, and its caption.

    Example:
      >>> import pandas as pd
      >>> texts = pd.DataFrame({"score": ["1.0 ± 0.1"]}, index=pd.Index(["fusion_2"], name="method"))
      >>> print(markdown(Table("RTE", texts, "Scores", marks=texts.replace("1.0 ± 0.1", "best"))))
      ## RTE
      <BLANKLINE>
      | method   | score         |
      |----------|---------------|
      | fusion_2 | **1.0** ± 0.1 |
      <BLANKLINE>
      Scores; best in bold.
    """
    shown, caption = _emphasised(table, _MARKDOWN, lambda text: text.replace("|", r"\|"))
    return (
        f"## {table.title}\n\n{shown.to_markdown(index=False, tablefmt='github', disable_numparse=True)}\n\n{caption}"
    )


def latex(table: Table) -> str:
    """Formats a LaTeX ``table`` with its caption; the document needs ``booktabs``.

    Example:
      >>> import pandas as pd
      >>> texts = pd.DataFrame({"score": ["1.0 ± 0.1"]}, index=pd.Index(["fusion_2"], name="method"))
      >>> print(latex(Table("RTE", texts, "Scores", marks=texts.replace("1.0 ± 0.1", "best"))), end="")
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
    shown, caption = _emphasised(table, _LATEX, escape_latex)
    stacked = [re.sub(r"(.*) (.*)", r"\\shortstack[r]{\1\\\\\2}", name) for name in shown]  # a task over its metric
    shown.columns = [new if len(old) >= 15 else old for old, new in zip(shown, stacked, strict=True)]
    if table.group_by:
        groups = table.texts.index.get_level_values(table.group_by)
        starts = [number for number in range(1, len(groups)) if groups[number] != groups[number - 1]]
        shown.iloc[starts, 0] = "\\midrule\n" + shown.iloc[starts, 0]
    text = shown.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" * table.texts.index.nlevels + "r" * table.texts.shape[1],
        position_float="centering",
        caption=f"{escape_latex(table.title.rstrip('.'))}. {escape_latex(caption)}",
    )
    text = text.replace("\\centering\n", "\\centering\n\\footnotesize\n\\setlength{\\tabcolsep}{3pt}\n", 1)
    return f"% Needs \\usepackage{{booktabs}}.\n{text}"


def _emphasised(
    table: Table, styles: dict[str, tuple[str, str]], escape: Callable[[str], str]
) -> tuple["DataFrame", str]:
    """Escapes a table and emphasises the first word, the score, of marked cells; returns it and its caption."""
    shown, legend = table.texts.map(escape), []
    for mark, (form, words) in styles.items():
        if table.marks is not None and (cells := table.marks.to_numpy() == mark).any():
            legend.append(words)
            shown = shown.mask(
                cells, shown.map(lambda text, form=form: re.sub(r"^\S+", lambda score: form.format(score[0]), text))
            )
    names = list(table.texts.index.names)
    shown = shown.reset_index()
    shown[names] = shown[names].map(escape)
    shown.columns = map(escape, shown)
    return shown, f"{table.caption}{'; ' if legend else ''}{', '.join(legend)}."


def escape_latex(text: str) -> str:
    r"""Escapes what LaTeX would read as its own, and sets the minus of negative numbers.

    Example:
      >>> escape_latex("my_task & 5 % of -1.5 ± 0.2")
      'my\\_task \\& 5 \\% of $-$1.5 $\\pm$ 0.2'
    """
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return "".join(_ESCAPES.get(char, char) for char in " ".join(text.split()))
