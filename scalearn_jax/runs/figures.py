"""Figures of one run: what its sources contribute, of ``scalearn explain``, and its learned scales.

Everything is grey with its value written out, so that a print loses nothing.

Letters: M seeds, L layers, T source tasks, w width of a scale (d or 1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalearn_jax.combiners.scalearn import effective_omega
from scalearn_jax.errors import InputError
from scalearn_jax.io import plot
from scalearn_jax.io.files import read_json
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.runs.attribution import Attribution
from scalearn_jax.runs.provenance import SURE

_BARS = dict(ecolor="0.35", capsize=2)  # one standard deviation over seeds
# Size of a value in inches, whether it is written out, and every which layer is numbered; the first that fits a page.
_CELLS = ((0.36, 0.24, True, 1), (0.21, 0.17, False, 1), (0.11, 0.15, False, 4))
_GUTTER = 1.5  # inches, of the sources' names and the bar


class Panel(NamedTuple):
    """One target's learned scales."""

    target: str  # its task
    sources: Sequence[str]  # T names
    omega: np.ndarray  # Float[T L], or Float[T 1] where the layers share it
    deviation: np.ndarray | None = None  # Float[T], of each source's mean, if it was solved for


def mean_omega(folder: Path, normalise: str) -> np.ndarray:
    """Reads a ScaLearn run's scales as they act, averaged over seeds and hidden dimensions.

    Returns:
      Float[T L], or Float[T 1] where the layers share it.
    """
    omegas = []
    for path in sorted(folder.glob("seed-*.safetensors")):
        tensors = load_tensors(path)
        if "transfer/omega" not in tensors:
            raise InputError(f"{path} holds no transfer/omega, expected of a ScaLearn run; the run is damaged.")
        omega = tensors["transfer/omega"]  # [L, T, w] or [T, w]
        if omega.ndim not in (2, 3) or not omega.size or (omegas and omegas[0].shape[-1] != omega.shape[-2]):
            raise InputError(f"{path}: transfer/omega has shape {omega.shape}, not that of a run; the run is damaged.")
        omegas.append(np.mean(effective_omega(omega, omega.shape[0] if omega.ndim == 3 else 1, normalise), -1))
    if not omegas:
        raise InputError(f"{folder} holds no weights (seed-*.safetensors); the run is damaged.")
    return np.mean(omegas, axis=0).T  # [L, T] -> [T, L]


def deviations(folder: Path, sources: Sequence[str]) -> np.ndarray | None:
    """Reads how sure the scales of a solved run are, Float[T]; ``None`` where nothing says so."""
    solved = read_json(folder / "results.json").get("solve")
    found = solved.get("deviation") if isinstance(solved, dict) else None
    if not isinstance(found, dict) or not all(isinstance(found.get(source), int | float) for source in sources):
        return None
    return np.array([found[source] for source in sources], float)


def draw_omegas(method: str, panels: Sequence[Panel], out: Path, name: str) -> None:
    """Draws a method's scales: a panel a target, layers across, sources down, the target's own adapter framed.

    All panels share one scale of grey. The values are written out where a page has room for them. One number a source,
    shared by the layers, is a point beside the constant 2 / T. What was solved for has an interval of 95 %. The file is
    ``name`` in the folder ``out``, with a suffix.
    """
    if all(panel.omega.shape[1] == 1 for panel in panels):
        _draw_points(method, panels, out, name)
        return
    shape = np.max([panel.omega.shape for panel in panels], axis=0)
    plans = [(_plan(len(panels), shape, width, height), *rest) for width, height, *rest in _CELLS]
    fitting = [plan for plan in plans if plan[0][1] <= plot.PAGE[1]]
    (width, height, columns), written, step = (fitting or plans[-1:])[0]
    low, high = min(panel.omega.min() for panel in panels), max(panel.omega.max() for panel in panels)
    titles = plot.short(panel.target for panel in panels)
    with plot.drawing(out, name, width, height) as figure:
        axes = plot.panels(figure, len(panels), columns)
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            image = plot.heat_map(axis, panel.omega, ".2f", low, high, written=written)
            named = number % columns == 0 or panel.sources != panels[number - 1].sources
            _name_axes(axis, panel, named, step)
            axis.set_title(titles[panel.target])
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.5 / height), aspect=20, pad=0.02)
        bar.outline.set_visible(False)
        own = "; framed: the target's own" if any(panel.target in panel.sources for panel in panels) else ""
        sure = any(panel.deviation is not None for panel in panels)
        sure = "; at the right: 95 % of a source's mean over the layers" if sure else ""
        plot.title(figure, f"{method}: learned scale of each source{own}{sure}")


def _draw_points(method: str, panels: Sequence[Panel], out: Path, name: str) -> None:
    columns, most = plot.num_columns(len(panels), 2.2, _GUTTER), max(len(panel.sources) for panel in panels)
    height = 0.5 + -(-len(panels) // columns) * (0.8 + 0.2 * most)
    titles = plot.short(panel.target for panel in panels)
    with plot.drawing(out, name, _GUTTER + 2.2 * columns, height) as figure:
        for number, (axis, panel) in enumerate(zip(plot.panels(figure, len(panels), columns), panels, strict=True)):
            named = number % columns == 0 or panel.sources != panels[number - 1].sources
            scales, places = panel.omega[:, 0], np.arange(len(panel.sources))
            spread = None if panel.deviation is None else SURE * panel.deviation
            axis.axvline(0, color="0.8", linewidth=0.8)
            axis.axvline(2 / len(scales), color="0.5", linewidth=0.8, linestyle="--")
            axis.errorbar(scales, places, xerr=spread, fmt="o", color="black", markersize=4, **_BARS)
            for place, scale in zip(places, scales, strict=True):
                axis.text(1, place, f"{scale:.2f}", transform=axis.get_yaxis_transform(), ha="left", va="center")
            axis.set_yticks(places, plot.short(panel.sources).values() if named else [])
            axis.set_ylim(len(places) - 0.5, -0.5)
            axis.set_xlabel("scale")
            axis.set_title(titles[panel.target])
            _bare(axis)
        sure = ", with its interval of 95 %" if any(panel.deviation is not None for panel in panels) else ""
        plot.title(figure, f"{method}: learned scale of each source{sure}; dashed: the constant 2 / T")


def _plan(num_panels: int, shape: Sequence[int], width: float, height: float) -> tuple[float, float, int]:
    """Lays out panels with values of a size; returns the figure's width and height, and the number of columns."""
    num_sources, num_layers = shape
    panel = min(max(width * num_layers, 1.0) + 0.1, plot.PAGE[0] - _GUTTER)
    columns = plot.num_columns(num_panels, panel, _GUTTER)
    return _GUTTER + columns * panel, 0.4 + -(-num_panels // columns) * (0.6 + height * num_sources), columns


def _name_axes(axis, panel: Panel, named: bool, step: int) -> None:
    from matplotlib.patches import Rectangle

    num_layers = panel.omega.shape[1]
    axis.set_xticks(range(0, num_layers, step), ["all"] if num_layers == 1 else range(1, num_layers + 1, step))
    axis.set_xlabel("layers" if num_layers == 1 else "layer")
    axis.set_yticks(range(len(panel.sources)), plot.short(panel.sources).values() if named else [])
    if panel.deviation is not None:
        for place, deviation in enumerate(panel.deviation):
            text = f"± {SURE * deviation:.2f}"
            axis.text(1.02, place, text, transform=axis.get_yaxis_transform(), ha="left", va="center")
    if panel.target in panel.sources:
        corner = (-0.5, panel.sources.index(panel.target) - 0.5)
        axis.add_patch(Rectangle(corner, num_layers, 1, fill=False, linewidth=1.2, clip_on=False, zorder=3))


def draw_attribution(found: Attribution, title: str, metric: str, out: Path) -> None:
    """Draws the three panels as ``explain.png`` and ``explain.svg``; ``title`` names what was measured."""
    _, num_layers, num_sources = found.contributions.shape
    heights = (0.9 + 0.24 * num_sources, 1.9 + 0.16 * num_sources)
    size = (max(6.6, 1.8 + 0.36 * num_layers), 0.6 + sum(heights))
    with plot.drawing(out, "explain", *size) as figure:
        axes = figure.subplot_mosaic([["map", "map"], ["drops", "curve"]], height_ratios=heights)
        _draw_map(axes["map"], found)
        _draw_drops(axes["drops"], found, metric)
        _draw_curve(axes["curve"], found, metric)
        figure.suptitle(title)


def _draw_map(axis, found: Attribution) -> None:
    values = found.contributions.mean(0).T  # [T, L]
    high = values.max() or 1.0
    digits = int(np.clip(1 - np.floor(np.log10(high)), 0, 5))  # two, or more for large ones
    plot.heat_map(axis, values, f".{digits}f", 0, high)
    axis.set_xticks(range(values.shape[1]), range(1, values.shape[1] + 1))
    axis.set_yticks(range(len(found.sources)), found.sources)
    axis.set_xlabel("layer")
    axis.set_title("contribution: mean norm of a source's scaled output")


def _draw_drops(axis, found: Attribution, metric: str) -> None:
    means, places = 100 * found.drops.mean(1), range(len(found.sources))
    axis.barh(places, means, 0.6, xerr=_spread(found.drops), color="0.7", edgecolor="black", linewidth=0.6, **_BARS)
    axis.axvline(0, color="black", linewidth=0.8)
    low, high = axis.get_xlim()
    axis.set_xlim(low, high + 0.3 * (high - low))  # room for the values, in a column at the right
    for place, mean in zip(places, means, strict=True):
        axis.text(1, place, f"{mean:+.2f}", transform=axis.get_yaxis_transform(), ha="right", va="center")
    axis.set_yticks(places, found.sources)
    axis.invert_yaxis()  # top to bottom, as in the map above
    axis.set_xlabel(f"drop of {metric}, in points")
    axis.set_title("score lost without a source")
    _bare(axis)


def _draw_curve(axis, found: Attribution, metric: str) -> None:
    k, full = np.arange(1, len(found.sources) + 1), 100 * found.full.mean()
    axis.axhline(full, color="black", linewidth=0.8, linestyle="--")
    style = dict(color="black", marker="o", markersize=3, linewidth=1.0, **_BARS)
    axis.errorbar(k, 100 * found.pruned.mean(1), _spread(found.pruned), **style)
    names = [f"{n}: + {found.sources[source].rsplit('/', 1)[-1]}" for n, source in zip(k, found.order, strict=True)]
    axis.set_xticks(k, names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(0.5, len(k) + 0.5)
    axis.set_ylabel(f"{metric}, in percent")
    axis.set_title(f"score with the largest contributions only\n(dashed: all sources, {full:.2f})")
    _bare(axis)


def _spread(scores: np.ndarray) -> np.ndarray | None:
    """Standard deviation over seeds of scores Float[K M], in points; a single seed has none."""
    return 100 * scores.std(1, ddof=1) if scores.shape[1] > 1 else None


def _bare(axis) -> None:
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
