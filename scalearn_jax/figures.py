"""Figures of what was learned.

Letters: T source tasks, L layers, w width of a scale (d or 1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scalearn_jax.combiners.scalearn import effective_omega
from scalearn_jax.convert.safetensors_io import load_tensors
from scalearn_jax.errors import InputError


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
        omegas.append(np.mean(effective_omega(omega, omega.shape[0] if omega.ndim == 3 else 1, normalise), -1))
    if not omegas:
        raise InputError(f"{folder} holds no weights (seed-*.safetensors); the run is damaged.")
    return np.mean(omegas, axis=0).T  # [L, T] -> [T, L]


def draw_omegas(method: str, panels: Sequence[Panel], path: Path) -> None:
    """Draws a method's scales: a panel a target, layers across, sources down.

    All panels share one scale, and every value is written out, so that a grey print loses nothing.

    Args:
      method: its name.
      panels: its targets.
      path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    low, high = min(panel.omega.min() for panel in panels), max(panel.omega.max() for panel in panels)
    num_sources, num_layers = np.max([panel.omega.shape for panel in panels], axis=0)
    size = (0.8 + len(panels) * (1.5 + max(0.36 * num_layers, 0.9)), 1.2 + 0.3 * num_sources)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained", dpi=150)
    for axis, panel in zip(axes[0], panels, strict=True):
        image = _draw_panel(axis, panel, low, high)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{method}: learned scale of each source", fontsize=9)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    temporary.replace(path)


def _draw_panel(axis, panel: Panel, low: float, high: float):
    image = axis.imshow(panel.omega, cmap="Greys", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(panel.omega):
        color = "white" if value > (low + high) / 2 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
    num_layers = panel.omega.shape[1]
    axis.set_xticks(range(num_layers), ["all"] if num_layers == 1 else range(1, num_layers + 1), fontsize=7)
    axis.set_yticks(range(len(panel.sources)), panel.sources, fontsize=7)
    axis.set_xlabel("layers" if num_layers == 1 else "layer", fontsize=7)
    axis.set_title(f"target {panel.target}", fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image
