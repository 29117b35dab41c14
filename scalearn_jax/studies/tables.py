"""Results laid out as tables: a study's scores, few-shot scores and probing."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

from scalearn_jax.io.text_table import Cell, Table, comma_separated
from scalearn_jax.studies.results import Result, percent, spread

Rows = dict[str, dict[Any, Result]]  # method -> target, or any other key of a column -> result
ABSENT = "-"
_SCORES = ("metric", "num_seeds", "mean", "sd", "transfer_parameters")


def by_method(results: Iterable[Result]) -> Rows:
    """Groups results into the rows of a table: method -> target -> result."""
    rows: Rows = {}
    for result in results:
        rows.setdefault(result.method, {})[result.target] = result
    return rows


def targets_of(results: Iterable[Result]) -> dict[str, str]:
    """Target -> its metric, in order."""
    return {result.target: result.metric for result in results}


def main_table(results: Sequence[Result], title: str, all_targets: Sequence[str] = ()) -> Table:
    """Lays out scores: a row a method, a column a target.

    Averages stand only in complete rows: an incomplete one would compare other tasks.

    Args:
      results: finished runs on all the data.
      title: the heading.
      all_targets: the study's, finished or not; by default those of the results.

    Returns:
      The table.
    """
    rows, targets = by_method(results), targets_of(results)
    columns = [mark({m: spread(row[t]) for m, row in rows.items() if t in row}) for t in targets]
    if len(targets) > 1:  # else the average would repeat the only column
        complete = {m: row for m, row in rows.items() if set(row) >= {*targets, *all_targets}}
        columns.append(mark({m: percent(average(row.values())) for m, row in complete.items()}))
    lines = [
        [Cell(method), *_counts(row.values(), results), *(column.get(method, Cell(ABSENT)) for column in columns)]
        for method, row in rows.items()
    ]
    names = [f"{target} {metric}" for target, metric in targets.items()]
    header = ["method", *_count_names(results), *names, *(["average"] if len(targets) > 1 else [])]
    return Table(title, header, [lines], f"Test scores in percent, {spreads(results)}")


def few_shot_table(results: Sequence[Result], title: str, all_targets: Sequence[str] = ()) -> Table:
    """Lays out few-shot scores: for each target a row a method, a column a number of examples.

    The average over targets stands where a method has every target.

    Args:
      results: finished few-shot runs.
      title: the heading.
      all_targets: the study's, finished or not; by default those of the results.

    Returns:
      The table, a group of rows a target.
    """
    shots = sorted({result.shots for result in results})
    targets = targets_of(results)
    grouped = {target: _by_shots(result for result in results if result.target == target) for target in targets}
    groups = []
    for target, rows in grouped.items():
        columns = [mark({m: spread(row[k]) for m, row in rows.items() if k in row}) for k in shots]
        groups.append(_few_shot_rows(f"{target} {targets[target]}", rows, columns, results))
    if len(targets) > 1:
        methods = {result.method: {} for result in results}
        complete = set(targets) >= set(all_targets)
        columns = [mark(_few_shot_averages(grouped, methods, k) if complete else {}) for k in shots]
        groups.append(_few_shot_rows("average", methods, columns, results))
    header = ["target", "method", *_count_names(results), *(f"k = {k}" for k in shots)]
    caption = f"Test scores in percent after training on k examples, {spreads(results)}"
    return Table(f"{title}: few-shot", header, groups, caption, num_names=2)


def _by_shots(results: Iterable[Result]) -> Rows:
    rows: Rows = {}
    for result in results:
        rows.setdefault(result.method, {})[result.shots] = result
    return rows


def _few_shot_averages(grouped: dict[str, Rows], methods: Iterable[str], shots: int) -> dict[str, str]:
    found = {m: [rows[m][shots] for rows in grouped.values() if shots in rows.get(m, {})] for m in methods}
    return {method: percent(average(row)) for method, row in found.items() if len(row) == len(grouped)}


def _few_shot_rows(name: str, rows: Rows, columns: Sequence[dict[str, Cell]], results: Sequence[Result]) -> list:
    lines = []
    for method, row in rows.items():
        counts = _counts(row.values(), results) if row else [Cell("")] * len(_count_names(results))
        lines.append([Cell(name), Cell(method), *counts, *(column.get(method, Cell(ABSENT)) for column in columns)])
    return lines


def scores_csv(results: Sequence[Result]) -> str:
    """Writes a line a result, in full precision."""
    rows = [[result.method, result.target, *_scores(result)] for result in results]
    return comma_separated(["method", "target", *_SCORES], rows)


def few_shot_csv(results: Sequence[Result]) -> str:
    """Writes a line a few-shot result, in full precision."""
    rows = [[result.method, result.target, result.shots, *_scores(result)] for result in results]
    return comma_separated(["method", "target", "shots", *_SCORES], rows)


def probing_csv(results: Sequence[Result]) -> str:
    """Writes a line a probing result, in full precision, its sources with their coefficients first."""
    width = max(len(result.coefficients) for result in results)
    names = [f"{name}_{number}" for number in range(1, width + 1) for name in ("source", "coefficient")]
    rows = []
    for result in results:
        pairs = [value for pair in zip_longest(result.sources, result.coefficients) for value in pair]
        rows.append([result.target, *pairs, *[None] * (2 * width - len(pairs)), *_scores(result)])
    return comma_separated(["target", *names, *_SCORES], rows)


def _scores(result: Result) -> list[Any]:
    return [result.metric, len(result.values), result.mean, result.sd, result.parameters]


def average(results: Iterable[Result]) -> float:
    """Mean of several results' means."""
    return fmean(result.mean for result in results)


def mark(column: dict[str, str]) -> dict[str, Cell]:
    """Marks the best of a column, and from three rows on the second best; what looks equal is marked equally.

    Args:
      column: row -> what it shows, a score at its start.

    Returns:
      Row -> cell.

    Example:
      >>> [cell.mark for cell in mark({"a": "1.00", "b": "2.00 ± 0.1", "c": "2.00", "d": "0.50"}).values()]
      ['second', 'best', 'best', '']
    """
    shown = {name: float(text.split(" ")[0]) for name, text in column.items()}
    first, second, *_ = *sorted({score for score in shown.values() if score == score}, reverse=True), None, None
    marks = {first: "best"} if len(column) > 1 else {}
    if len(column) > 2 and second is not None:
        marks[second] = "second"
    return {name: Cell(text, marks.get(shown[name], "")) for name, text in column.items()}


def spreads(results: Sequence[Result]) -> str:
    """Words how many seeds a table shows, and how."""
    seeds = _range(len(result.values) for result in results)
    return "1 seed" if seeds == "1" else f"mean ± standard deviation over {seeds} seeds"


def _count_names(results: Sequence[Result]) -> list[str]:
    return ["transfer parameters", *(["seeds"] if _differing_seeds(results) else [])]


def _counts(row: Iterable[Result], results: Sequence[Result]) -> list[Cell]:
    """The row's columns of counts; of seeds only if not all results have as many."""
    row = list(row)
    counts = [Cell(_range(result.parameters for result in row))]
    return [*counts, Cell(_range(len(result.values) for result in row))] if _differing_seeds(results) else counts


def _differing_seeds(results: Sequence[Result]) -> bool:
    return len({len(result.values) for result in results}) > 1


def _range(numbers: Iterable[int]) -> str:
    numbers = sorted(set(numbers))
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
