"""The learned scales of a ScaLearn method, by source and layer.

Letters: T source tasks, L layers, w width of a scale (d or 1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalearn_jax.combiners.scalearn import effective_omega
from scalearn_jax.errors import InputError
from scalearn_jax.io import plot as look
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method

# Size of a value in inches, whether it is written out, and every which layer is numbered; the first that fits a page.
_CELLS = ((0.36, 0.24, True, 1), (0.21, 0.17, False, 1), (0.11, 0.15, False, 4))
_GUTTER = 1.5  # inches, of the sources' names and the bar


class Panel(NamedTuple):
    """One target's learned scales.

    Attributes:
      target: its task.
      sources: T names.
      omega: Float[T L], or Float[T 1] where the layers share it.
    """

    target: str
    sources: Sequence[str]
    omega: np.ndarray


def draw(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``omega-METHOD`` for each method that has scales; returns the names.

    Raises:
      InputError: no weights in a run's folder, or damaged ones.
    """
    names = []
    for method, panels in read(results).items():
        names.append(look.file_name("omega", method))
        draw_omegas(method, panels, out, names[-1])
    return names


def read(results: Sequence[Result]) -> dict[str, list[Panel]]:
    """Reads the scales of every method that has some.

    Raises:
      InputError: no weights in a run's folder, or damaged ones.
    """
    found: dict[str, list[Panel]] = {}
    for method, row in by_method(results).items():
        for result in (result for result in row.values() if result.normalise):
            omega = mean_omega(result.folder, result.normalise)
            if len(omega) != len(result.sources):
                raise InputError(
                    f"{result.folder}: the weights have scales for {len(omega)} sources, run.json names"
                    f" {len(result.sources)}; the run is damaged."
                )
            found.setdefault(method, []).append(Panel(result.target, result.sources, omega))
    return found


def mean_omega(folder: Path, normalise: str) -> np.ndarray:
    """Reads a ScaLearn run's scales as they act, averaged over seeds and hidden dimensions.

    Args:
      folder: the run.
      normalise: the run's normalisation over sources.

    Returns:
      Float[T L], or Float[T 1] where the layers share it.

    Raises:
      InputError: no weights in the folder, or damaged ones.
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


def draw_omegas(method: str, panels: Sequence[Panel], out: Path, name: str) -> None:
    """Draws a method's scales: a panel a target, layers across, sources down, the target's own adapter framed.

    All panels share one scale of grey. The values are written out where a page has room for them.

    Args:
      method: its name.
      panels: its targets.
      out: the folder to write.
      name: the file's name, without suffix.
    """
    shape = np.max([panel.omega.shape for panel in panels], axis=0)
    plans = [(_plan(len(panels), shape, width, height), *rest) for width, height, *rest in _CELLS]
    fitting = [plan for plan in plans if plan[0][1] <= look.PAGE[1]]
    (width, height, columns), written, step = (fitting or plans[-1:])[0]
    low, high = min(panel.omega.min() for panel in panels), max(panel.omega.max() for panel in panels)
    titles = look.short(panel.target for panel in panels)
    with look.drawing(out, name, width, height) as figure:
        axes = look.panels(figure, len(panels), columns)
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            image = look.heat_map(axis, panel.omega, ".2f", low, high, written=written)
            named = number % columns == 0 or panel.sources != panels[number - 1].sources
            _name_axes(axis, panel, named, step)
            axis.set_title(titles[panel.target])
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.5 / height), aspect=20, pad=0.02)
        bar.outline.set_visible(False)
        own = "; framed: the target's own" if any(panel.target in panel.sources for panel in panels) else ""
        look.title(figure, f"{method}: learned scale of each source{own}")


def _plan(num_panels: int, shape: Sequence[int], width: float, height: float) -> tuple[float, float, int]:
    """Lays out panels with values of a size; returns the figure's width and height, and the number of columns."""
    num_sources, num_layers = shape
    panel = min(max(width * num_layers, 1.0) + 0.1, look.PAGE[0] - _GUTTER)
    columns = look.num_columns(num_panels, panel, _GUTTER)
    return _GUTTER + columns * panel, 0.4 + -(-num_panels // columns) * (0.6 + height * num_sources), columns


def _name_axes(axis, panel: Panel, named: bool, step: int) -> None:
    from matplotlib.patches import Rectangle

    num_layers = panel.omega.shape[1]
    axis.set_xticks(range(0, num_layers, step), ["all"] if num_layers == 1 else range(1, num_layers + 1, step))
    axis.set_xlabel("layers" if num_layers == 1 else "layer")
    axis.set_yticks(range(len(panel.sources)), look.short(panel.sources).values() if named else [])
    if panel.target in panel.sources:
        corner = (-0.5, panel.sources.index(panel.target) - 0.5)
        axis.add_patch(Rectangle(corner, num_layers, 1, fill=False, linewidth=1.2, clip_on=False, zorder=3))
