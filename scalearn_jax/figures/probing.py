"""Scores of sources that are added with constant coefficients: one source along a line, two over a grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scalearn_jax.figures import look
from scalearn_jax.results import Result
from scalearn_jax.score_tables import targets_of

SINGLE, PAIRS = "probing-single", "probing-pairs"
_CELL = (0.36, 0.26)  # inches of one value


def draw(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``probing-single`` and ``probing-pairs``, as far as there are such results; returns their names.

    Args:
      results: finished probing runs; those of three and more sources fit no picture.
      out: the folder to write.
    """
    single = [result for result in results if len(result.coefficients) == 1]
    pairs = [result for result in results if len(result.coefficients) == 2]
    if single:
        draw_single(single, out)
    if pairs:
        draw_pairs(pairs, out)
    return [name for name, found in ((SINGLE, single), (PAIRS, pairs)) if found]


def draw_single(results: Sequence[Result], out: Path) -> None:
    """Draws scores against the constant: a panel a target, a line a source, the target's own adapter's thick."""
    targets = targets_of(results)
    sources = dict.fromkeys(result.sources[0] for result in results)
    styles, names, titles = look.styles(sources), look.short(sources), look.short(targets)
    columns = look.num_columns(len(targets), 2.3)
    rows = -(-len(targets) // columns)
    with look.drawing(out, SINGLE, max(3.6, 2.3 * columns), 0.7 + 2.1 * rows) as figure:
        for axis, target in zip(look.panels(figure, len(targets), columns), targets, strict=True):
            for source in sources:
                row = [r for r in results if (r.target, r.sources[0]) == (target, source)]
                if row:
                    width = 2.4 if source == target else 1.0
                    _line(axis, sorted(row, key=lambda result: result.coefficients), styles[source], width)
            axis.set_title(f"{titles[target]}: {targets[target]}")
            axis.set_xlabel("coefficient")
        handles = [axis.plot([], [], label=names[source], **styles[source])[0] for source in sources]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(sources)), handlelength=3.5)
        own = "; thick: the target's own" if set(sources) & set(targets) else ""
        figure.suptitle(f"one source adapter times a constant{own}")
        figure.supylabel("test score in percent", fontsize=8)


def _line(axis, row: Sequence[Result], style: dict, width: float) -> None:
    sds = [result.sd and 100 * result.sd for result in row]
    x, means = [result.coefficients[0] for result in row], [100 * result.mean for result in row]
    look.line(axis, x, means, sds, linewidth=width, **style)


def draw_pairs(results: Sequence[Result], out: Path) -> None:
    """Draws scores over two constants: a panel a target and pair, each with its own scale of grey."""
    panels = list(dict.fromkeys((result.target, result.sources) for result in results))
    targets = targets_of(results)
    titles, names = look.short(targets), look.short(source for _, sources in panels for source in sources)
    grids = [grid([r for r in results if (r.target, r.sources) == panel]) for panel in panels]
    height, width = np.max([values.shape for _, _, values in grids], axis=0) * _CELL[::-1] + (0.7, 0.7)
    columns = look.num_columns(len(panels), width)
    rows = -(-len(panels) // columns)
    with look.drawing(out, PAIRS, max(3.6, columns * width), 0.4 + rows * height) as figure:
        axes = look.panels(figure, len(panels), columns)
        for axis, (target, sources), (first, second, values) in zip(axes, panels, grids, strict=True):
            look.heat_map(axis, values, ".1f", np.nanmin(values), np.nanmax(values))
            axis.set_xticks(range(len(second)), [f"{value:g}" for value in second])
            axis.set_yticks(range(len(first)), [f"{value:g}" for value in first])
            axis.set_ylabel(names[sources[0]])
            axis.set_xlabel(names[sources[1]])
            axis.set_title(f"{titles[target]}: {targets[target]}")
        figure.suptitle("two source adapters, each times a constant: test score in percent, grey within a panel")


def grid(results: Sequence[Result]) -> tuple[list[float], list[float], np.ndarray]:
    """Lays out the results of one target and pair of sources.

    Returns:
      (the first source's constants, the second's, Float[first second] of scores in percent, NaN where none is).
    """
    first, second = (sorted({result.coefficients[axis] for result in results}) for axis in (0, 1))
    values = np.full((len(first), len(second)), np.nan)
    for result in results:
        row, column = first.index(result.coefficients[0]), second.index(result.coefficients[1])
        values[row, column] = 100 * result.mean
    return first, second, values
