"""The result table of a study, and the figures of what was learned."""

import csv
import importlib.util
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from scalearn_jax import tables
from scalearn_jax.config import ReportConfig
from scalearn_jax.files import write_text
from scalearn_jax.results import REPORT, STUDY, Result, percent, read_results, read_study, spread

Rows = dict[str, dict[str, Result]]  # method -> target -> result


def make_report(config: ReportConfig) -> str:
    """Writes ``table.md``, ``table.csv`` and a figure of the learned scales for each method that has any.

    Args:
      config: see ``ReportConfig``.

    Returns:
      The table as Markdown, which also reads well as it is.

    Raises:
      InputError: no finished run in the folder, or a damaged one.
    """
    root = Path(config.dir)
    results = read_results(root)
    title = read_study(root)["name"] if (root / STUDY).exists() else root.name
    out = Path(config.out) if config.out else root / REPORT
    out.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results, title)
    write_text(out / "table.md", text + "\n")
    write_text(out / "table.csv", as_csv(results))
    _draw(by_method(results), out)
    return text


def _draw(rows: Rows, out: Path) -> None:
    """Draws the figures, or says in a line why there are none."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed; pip install 'scalearn-jax[plots]'", file=sys.stderr)
        return
    from scalearn_jax import figures

    for method, row in rows.items():
        panels = [
            figures.Panel(result.target, result.sources, figures.mean_omega(result.folder, result.normalise))
            for result in row.values()
            if result.normalise
        ]
        if panels:
            figures.draw_omegas(method, panels, out / f"omega-{method}.png")


def by_method(results: Sequence[Result]) -> Rows:
    """Groups results into the rows of the table."""
    rows: Rows = {}
    for result in results:
        rows.setdefault(result.method, {})[result.target] = result
    return rows


def as_markdown(results: Sequence[Result], title: str) -> str:
    """Lays out the table: a row a method, a column a target, the best of each column in bold.

    Averages stand only in complete rows: an incomplete one would compare other tasks.

    Args:
      results: finished runs.
      title: the heading.

    Returns:
      Markdown.
    """
    rows = by_method(results)
    targets = {result.target: result.metric for result in results}
    means = {method: [row[t].mean for t in targets] for method, row in rows.items() if len(row) == len(targets)}
    best = {target: _best(row[target].mean for row in rows.values() if target in row) for target in targets}
    best_average = _best(fmean(values) for values in means.values())
    lines = []
    for method, row in rows.items():
        scores = [_bold(spread(row[t]), best[t]) if t in row else "-" for t in targets]
        average = _bold(percent(fmean(means[method])), best_average) if method in means else "-"
        lines.append([method, _range(result.parameters for result in row.values()), *scores, average])
    header = ["method", "transfer parameters", *(f"{t} {metric}" for t, metric in targets.items()), "average"]
    if len(targets) == 1:  # the average would repeat the only column
        header, lines = header[:-1], [line[:-1] for line in lines]
    seeds = _range(len(result.values) for result in results)
    spreads = "" if seeds == "1" else "mean ± standard deviation over "
    caption = f"Test scores in percent, {spreads}{seeds} seed{'' if seeds == '1' else 's'}; best in bold."
    return f"## {title}\n\n{tables.markdown(header, lines)}\n\n{caption}"


def as_csv(results: Sequence[Result]) -> str:
    """Writes a line a result, in full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "target", "metric", "num_seeds", "mean", "sd", "transfer_parameters"])
    for result in results:
        scores = [result.mean, "" if result.sd is None else result.sd]
        writer.writerow([result.method, result.target, result.metric, len(result.values), *scores, result.parameters])
    return file.getvalue()


def _best(values: Iterable[float]) -> str | None:
    """Words the best of several values as it is shown, so that what looks equal is marked equally."""
    values = list(values)
    return percent(max(values)) if len(values) > 1 else None


def _bold(text: str, best: str | None) -> str:
    mean, *rest = text.split(" ", 1)
    return " ".join([f"**{mean}**" if mean == best else mean, *rest])


def _range(numbers: Iterable[int]) -> str:
    numbers = sorted(set(numbers))
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
