"""The average score of each method against its number of transfer parameters."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from scalearn_jax.io import plot as look
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method, targets_of

NAME = "score-vs-parameters"
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_RADII = (7, 13, 20, 28, 36, 45, 55, 66, 78)  # points


class Point(NamedTuple):
    """One method.

    Attributes:
      method: its row in the table.
      parameters: number of transfer parameters, averaged over targets.
      score: average over targets, in percent.
      sd: standard deviation over seeds of the average; 0 where there are too few seeds.
    """

    method: str
    parameters: float
    score: float
    sd: float


def points(results: Sequence[Result]) -> tuple[list[Point], list[str]]:
    """Averages each method over the complete targets, those that every method has.

    Args:
      results: finished runs on all the data.

    Returns:
      (the methods, the complete targets); no methods if no target is complete.
    """
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
    with look.drawing(out, NAME, 5.2, 3.4) as figure:
        axis = figure.subplots()
        fill(axis, methods)
        what = targets[0] if len(targets) == 1 else f"average of {len(targets)} targets"
        axis.set_ylabel(f"{what}, test score in percent")
    return [NAME]


def fill(axis, methods: Sequence[Point]) -> list:
    """Draws the methods with their names; returns the labels."""
    for point, style in zip(methods, look.styles(point.method for point in methods).values(), strict=True):
        style = style | {"linestyle": "none", "elinewidth": 0.8, "capsize": 2}
        axis.errorbar(point.parameters, point.score, yerr=point.sd or None, **style)
    axis.margins(x=0.12, y=0.2)
    if min(point.parameters for point in methods) < 1:
        axis.set_xscale("symlog", linthresh=1, linscale=0.5)  # a plain log scale has no place for 0
        axis.set_xlim(left=-0.5)
    else:
        axis.set_xscale("log")
    look.plain_powers(axis)
    axis.set_xlabel("transfer parameters")
    return _label(axis, methods)


def _label(axis, methods: Sequence[Point]) -> list:
    """Writes each name near its marker: over no other name, and if it can over no marker and no error bar."""
    figure = axis.figure
    figure.draw_without_rendering()  # settles where the axes lie
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72  # pixels a point
    taken, labels = [], []
    for point in methods:
        x, low, y, high = _pixels(axis, point)
        taken += [(_around(x, y, y, 4 * scale), 10), (_around(x, low, high, scale), 1)]
    for point in sorted(methods, key=lambda point: (point.score, point.parameters)):
        x, low, y, high = _pixels(axis, point)
        label = axis.annotate(point.method, (point.parameters, point.score), (0, 0), textcoords="offset points")
        size = label.get_window_extent(renderer)
        label.remove()
        boxes = [_box(x, y, offset, size, scale) for offset in _offsets((high - low) / 2 / scale)]
        costs = [_cost(box, axis.bbox, taken) for box in boxes]
        best = costs.index(min(costs))  # the first, hence nearest, of equals
        box = boxes[best]
        taken.append((box, 100))
        offset, far = ((box.x0 - x) / scale, (box.y0 - y) / scale), best >= 2 * len(_DIRECTIONS)
        labels.append(_annotate(axis, point, offset, far=far))
    return labels


def _pixels(axis, point: Point) -> tuple[float, float, float, float]:
    """Where a point lies: x, and y of the error bar's lower end, the marker and the upper end."""
    scores = [point.score + sign * point.sd for sign in (-1, 0, 1)]
    pixels = axis.transData.transform([(point.parameters, score) for score in scores])
    return pixels[0][0], *pixels[:, 1]


def _around(x: float, low: float, high: float, margin: float):
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - margin, low - margin, x + margin, high + margin)


def _offsets(half: float) -> Iterator[tuple[float, float]]:
    """Offsets in points, the nearest first: to the sides of the marker, and beyond the ends of its error bar."""
    for radius in _RADII:
        for right, up in _DIRECTIONS:
            length = math.hypot(right, up)
            yield radius * right / length, up * (half * (right == 0) + radius / length)


def _box(x: float, y: float, offset: tuple[float, float], size, scale: float):
    """Where a label lies in pixels: beside its point, on the side of the offset."""
    from matplotlib.transforms import Bbox

    dx, dy = offset
    left = x + dx * scale - size.width * (0.5 - 0.5 * _sign(dx))
    bottom = y + dy * scale - size.height * (0.5 - 0.5 * _sign(dy))
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def _sign(value: float) -> int:
    return int(value > 0) - int(value < 0)


def _cost(box, frame, taken: Sequence) -> tuple[bool, int]:
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    return outside, sum(weight for other, weight in taken if box.overlaps(other))


def _annotate(axis, point: Point, offset: tuple[float, float], *, far: bool):
    """Writes a name, with a line to its marker from far away."""
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3}
    label = axis.annotate(
        point.method,
        (point.parameters, point.score),
        offset,
        textcoords="offset points",
        arrowprops=line if far else None,
        bbox=ground,
    )
    label.set_in_layout(False)
    return label
