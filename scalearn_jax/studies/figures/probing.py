"""Scores of sources that are added with constant coefficients: one source along a line, two over a grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scalearn_jax.io import plot
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import targets_of

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
            axis.set_title(f"{titles[target]}: {targets[target]}")
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
        what = f"{results[0].target} {results[0].metric} in percent"
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
