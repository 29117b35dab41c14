"""The average score of each method against its number of transfer parameters."""

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from scalearn_jax.io import plot
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method, targets_of

NAME = "score-vs-parameters"


class Point(NamedTuple):
    """One method, averaged over targets."""

    method: str
    parameters: float  # number of transfer parameters
    score: float  # in percent
    sd: float  # of the average, over seeds; 0 where there are too few seeds


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
    sd = stdev(averages) if len(averages) > 1 else 0.0
    return Point(method, fmean(r.parameters for r in row), 100 * fmean(r.mean for r in row), 100 * sd)


def draw_parameters(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``score-vs-parameters`` if there are methods to compare; returns its name."""
    methods, targets = points(results)
    if len(methods) < 2:
        return []
    with plot.drawing(out, NAME, 5.2, 3.4) as figure:
        axis = figure.subplots()
        fill(axis, methods)
        what = targets[0] if len(targets) == 1 else f"average of {len(targets)} targets"
        axis.set_ylabel(f"{what}, test score in percent")
    return [NAME]


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
