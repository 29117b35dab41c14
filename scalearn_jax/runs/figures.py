"""The figure of ``scalearn explain``: what each source adds, what the score loses without it, and with only a few.

Everything is grey with its value written out, so that a print loses nothing.

Letters: M seeds, L layers, T source tasks.
"""

from pathlib import Path

import numpy as np

from scalearn_jax.io.plot import drawing, heat_map
from scalearn_jax.runs.attribution import Attribution

_BARS = dict(ecolor="0.35", capsize=2)  # one standard deviation over seeds


def draw(found: Attribution, title: str, metric: str, out: Path) -> None:
    """Draws the three panels as ``explain.png`` and ``explain.svg``.

    Args:
      found: the attribution.
      title: what it was measured on.
      metric: name of the score.
      out: the folder.
    """
    _, num_layers, num_sources = found.contributions.shape
    heights = (0.9 + 0.24 * num_sources, 1.9 + 0.16 * num_sources)
    size = (max(6.6, 1.8 + 0.36 * num_layers), 0.6 + sum(heights))
    with drawing(out, "explain", *size) as figure:
        axes = figure.subplot_mosaic([["map", "map"], ["drops", "curve"]], height_ratios=heights)
        _draw_map(axes["map"], found)
        _draw_drops(axes["drops"], found, metric)
        _draw_curve(axes["curve"], found, metric)
        figure.suptitle(title)


def _draw_map(axis, found: Attribution) -> None:
    values = found.contributions.mean(0).T  # [T, L]
    high = values.max() or 1.0
    digits = int(np.clip(1 - np.floor(np.log10(high)), 0, 5))  # two, or more for large ones
    heat_map(axis, values, f".{digits}f", 0, high)
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
