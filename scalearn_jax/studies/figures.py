"""Figures of a study: learned scales, scores against size and against number of examples, and probing."""

import math
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.io import plot
from scalearn_jax.runs.figures import Panel, deviations, draw_omegas, mean_omega
from scalearn_jax.studies.results import Result, format_examples, format_percent, largest_error
from scalearn_jax.studies.tables import by_method, targets_of


def draw_all(results: Sequence[Result], out: Path) -> list[str]:
    """Draws every figure that a study's results call for, each as PNG and SVG; returns the names, without suffix."""
    plain = [result for result in results if not result.shots and not result.coefficients]
    few = [result for result in results if result.shots]
    probes = [result for result in results if result.coefficients]
    return [
        *draw_omegas_by_method(plain, out),
        *draw_parameters(plain, out),
        *draw_few_shot(few, out),
        *draw_probing(probes, out),
    ]


def draw_omegas_by_method(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``omega-METHOD`` for each method that has scales; returns the names."""
    names = []
    for method, panels in read_omegas(results).items():
        names.append(plot.file_name("omega", method))
        draw_omegas(method, panels, out, names[-1])
    return names


def read_omegas(results: Sequence[Result]) -> dict[str, list[Panel]]:
    """Reads the scales of every method that has some; missing or damaged weights are an error."""
    found: dict[str, list[Panel]] = {}
    for method, row in by_method(results).items():
        for result in (result for result in row.values() if result.normalise):
            omega = mean_omega(result.folder, result.normalise)
            if len(omega) != len(result.sources):
                raise InputError(
                    f"{result.folder}: the weights have scales for {len(omega)} sources, run.json names"
                    f" {len(result.sources)}; the run is damaged."
                )
            sure = deviations(result.folder, result.sources)
            found.setdefault(method, []).append(Panel(result.target, result.sources, omega, sure))
    return found


PARAMETERS = "score-vs-parameters"


class Point(NamedTuple):
    """One method, averaged over targets."""

    method: str
    parameters: float  # number of transfer parameters
    score: float  # in percent
    sd: float | None  # of the average, over seeds; one seed has none


def points(results: Sequence[Result]) -> tuple[list[Point], list[str]]:
    """Averages each method over the complete targets, those that every method has; returns also these targets."""
    rows = by_method(results)
    targets = [target for target in targets_of(results) if all(target in row for row in rows.values())]
    if not targets:
        return [], []
    return [_point(method, [row[target] for target in targets]) for method, row in rows.items()], targets


def _point(method: str, row: Sequence[Result]) -> Point:
    by_seed = [dict(zip(result.seeds, result.values, strict=True)) for result in row]
    averages = [fmean(scores[seed] for scores in by_seed) for seed in set.intersection(*map(set, by_seed))]
    sd = 100 * stdev(averages) if len(averages) > 1 else None
    return Point(method, fmean(r.parameters for r in row), 100 * fmean(r.mean for r in row), sd)


def draw_parameters(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``score-vs-parameters`` if there are methods to compare; returns its name."""
    methods, targets = points(results)
    if len(methods) < 2:
        return []
    with plot.drawing(out, PARAMETERS, 5.2, 3.4) as figure:
        axis = figure.subplots()
        fill(axis, methods)
        what = targets[0] if len(targets) == 1 else f"average of {len(targets)} targets"
        axis.set_ylabel(f"{what}, test score in percent")
        rows = [[row[target] for target in targets] for row in by_method(results).values()]
        plot.title(figure, _describe_average(rows))
    return [PARAMETERS]


def _describe_average(rows: Sequence[Sequence[Result]]) -> str:
    """How many test examples the averages of methods are from, and the largest standard error that so few give."""
    if any(result.used is None for row in rows for result in row):
        return "test sets: unknown"
    used, available = (sum(getattr(result, name) for result in rows[0]) for name in ("used", "available"))
    error = max(math.hypot(*(result.se for result in row)) / len(row) for row in rows)
    return f"test sets: {used:,} of {available:,}, s.e. {format_percent(error)}"


def fill(axis, methods: Sequence[Point]) -> list:
    """Draws the methods with their names; returns the labels."""
    for point, style in zip(methods, plot.styles(point.method for point in methods).values(), strict=True):
        style = style | {"linestyle": "none", "elinewidth": 0.8, "capsize": 2}
        axis.errorbar(point.parameters, point.score, yerr=point.sd or None, **style)
    axis.margins(x=0.12, y=0.2)
    if min(point.parameters for point in methods) < 1:
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)  # a plain log scale has no place for 0
        axis.set_xlim(left=-0.5)
    else:
        axis.set_xscale("log")
    plot.plain_powers(axis)
    axis.set_xlabel("transfer parameters")
    return _label_points(axis, methods)


def _label_points(axis, methods: Sequence[Point]) -> list:
    """Writes each name near its marker, over no other name, with a line from far away; returns the labels."""
    from adjustText import adjust_text
    from matplotlib.transforms import Bbox

    axis.figure.draw_without_rendering()  # settles the place of the axes
    to_pixels, half = axis.transData, 5 * axis.figure.dpi / 72  # a marker's, in pixels
    centres = to_pixels.transform([(point.parameters, point.score) for point in methods])
    markers = [Bbox([centre - half, centre + half]).transformed(to_pixels.inverted()) for centre in centres]
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}
    labels = [axis.text(point.parameters, point.score, point.method, bbox=ground) for point in methods]
    getLogger("adjustText").setLevel("ERROR")  # else it warns, in each iteration, of a name that is too wide
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.6}
    # A limit of iterations, not of time: the figure is the same on every run. Switched off are the pull back to the
    # markers, with which labels go to and fro, and the removal of crossings, which swaps labels of different widths.
    options = {"iter_lim": 500, "force_pull": 0, "prevent_crossings": False, "min_arrow_len": 3 * half}
    adjust_text(labels, objects=markers, ax=axis, arrowprops=line, **options)
    for label in labels:
        label.set_in_layout(False)
    return labels


FEW_SHOT = "few-shot"


def draw_few_shot(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``few-shot``, if there are such results: a panel a target, a curve a method; returns its name."""
    if not results:
        return []
    targets, methods = targets_of(results), list(by_method(results))
    shots = sorted({result.shots for result in results})
    styles, titles = plot.styles(methods), plot.short(targets)
    width, height, columns = plot.curve_size(len(targets), methods)
    with plot.drawing(out, FEW_SHOT, width, height) as figure:
        for axis, target in zip(plot.panels(figure, len(targets), columns), targets, strict=True):
            for method in methods:
                row = [result for result in results if (result.target, result.method) == (target, method)]
                if row := sorted(row, key=lambda result: result.shots):
                    sds = [result.sd and 100 * result.sd for result in row]
                    means = [100 * result.mean for result in row]
                    plot.line(axis, [result.shots for result in row], means, sds, **styles[method])
            axis.set_xscale("log", base=2)
            axis.set_xticks(shots, [str(k) for k in shots])
            axis.set_xticks([], minor=True)
            axis.set_xlabel("training examples")
            axis.set_title(_panel_title(titles[target], [result for result in results if result.target == target]))
        plot.legend(figure, axis, styles, {method: method for method in methods})
        figure.supylabel("test score in percent", fontsize=8)
    return [FEW_SHOT]


def _panel_title(target: str, results: Sequence[Result]) -> str:
    return f"{target}: {results[0].metric}\n{_describe_sample(results)}"


def _describe_sample(results: Sequence[Result]) -> str:
    """How many test examples the results of a target are from, and the largest standard error that so few give."""
    return f"test set: {format_examples(results)}, s.e. {largest_error(results)}"


SINGLE, PAIRS = "probing-single", "probing-pairs"
_CELL = (0.36, 0.26)  # inches of one value


def draw_probing(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``probing-single``, and ``probing-pairs-TARGET`` for each target that has any; returns the names.

    Runs of three and more sources fit no picture.
    """
    names = []
    single = [result for result in results if len(result.coefficients) == 1]
    if single:
        names.append(SINGLE)
        draw_single(single, out)
    pairs = [result for result in results if len(result.coefficients) == 2]
    for target in targets_of(pairs):
        names.append(plot.file_name(PAIRS, target))
        draw_pairs([result for result in pairs if result.target == target], out, names[-1])
    return names


def draw_single(results: Sequence[Result], out: Path) -> None:
    """Draws scores against the constant: a panel a target, a line a source, the target's own adapter's thick."""
    targets = targets_of(results)
    sources = dict.fromkeys(result.sources[0] for result in results)
    styles, names, titles = plot.styles(sources), plot.short(sources), plot.short(targets)
    width, height, columns = plot.curve_size(len(targets), names.values())
    with plot.drawing(out, SINGLE, width, height + 0.2) as figure:
        for axis, target in zip(plot.panels(figure, len(targets), columns), targets, strict=True):
            for source in sources:
                row = [result for result in results if (result.target, result.sources[0]) == (target, source)]
                if row := sorted(row, key=lambda result: result.coefficients):
                    sds = [result.sd and 100 * result.sd for result in row]
                    x, means = [result.coefficients[0] for result in row], [100 * result.mean for result in row]
                    plot.line(axis, x, means, sds, linewidth=2.4 if source == target else 1.0, **styles[source])
            axis.set_title(_panel_title(titles[target], [result for result in results if result.target == target]))
            axis.set_xlabel("coefficient")
        plot.legend(figure, axis, styles, names)
        own = "; thick: the target's own" if set(sources) & set(targets) else ""
        plot.title(figure, f"one source adapter times a constant{own}")
        figure.supylabel("test score in percent", fontsize=8)


def draw_pairs(results: Sequence[Result], out: Path, name: str) -> None:
    """Draws one target's scores over two constants: a panel a pair, each with its own scale of grey."""
    pairs = list(dict.fromkeys(result.sources for result in results))
    names = plot.short(source for pair in pairs for source in pair)
    grids = [grid([result for result in results if result.sources == pair]) for pair in pairs]
    height, width = np.max([values.shape for _, _, values in grids], axis=0) * _CELL[::-1] + (0.55, 0.7)
    columns = plot.num_columns(len(pairs), width)
    rows = -(-len(pairs) // columns)
    with plot.drawing(out, name, max(3.0, columns * width), 0.6 + rows * height) as figure:
        axes = plot.panels(figure, len(pairs), columns)
        for axis, (down, across), (first, second, values) in zip(axes, pairs, grids, strict=True):
            plot.heat_map(axis, values, ".1f", np.nanmin(values), np.nanmax(values))
            axis.set_xticks(range(len(second)), [f"{value:g}" for value in second])
            axis.set_yticks(range(len(first)), [f"{value:g}" for value in first])
            axis.set_ylabel(names[down])
            axis.set_xlabel(names[across])
        what = f"{results[0].target} {results[0].metric} in percent, {_describe_sample(results)}"
        plot.title(figure, f"{what}: two source adapters, each times a constant; grey within a panel")


def grid(results: Sequence[Result]) -> tuple[list[float], list[float], np.ndarray]:
    """Lays out the results of one target and pair of sources.

    Returns the first source's constants, the second's, and scores in percent Float[first second], NaN where none is.
    """
    first, second = (sorted({result.coefficients[axis] for result in results}) for axis in (0, 1))
    values = np.full((len(first), len(second)), np.nan)
    for result in results:
        row, column = first.index(result.coefficients[0]), second.index(result.coefficients[1])
        values[row, column] = 100 * result.mean
    return first, second, values
