"""What all figures share: their look, their size on a page, and how they are written: whole, and always the same."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.io.files import safe_name, write_bytes

PAGE = (7.0, 9.5)  # inches: no figure is wider, so that none is shrunk on a page and all text keeps its size
_LOOK = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "text.parse_math": False,  # a name may hold a dollar sign, which would begin a formula
    "svg.hashsalt": "scalearn",  # else the ids in an SVG are random
    "svg.fonttype": "path",
}
_SUPERSCRIPTS = str.maketrans("-\N{MINUS SIGN}0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Colours of the Okabe-Ito palette; marker and line distinguish the methods without them.
_COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


def styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Gives every name its colour, marker and line.

    Example:
      >>> styles(["single", "fusion"])["fusion"]["marker"]
      's'
    """
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # separates overlapping markers
    return {
        name: edge
        | {
            "color": _COLORS[number % len(_COLORS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _LINES[number % len(_LINES)],
        }
        for number, name in enumerate(dict.fromkeys(names))
    }


def short(names: Iterable[str]) -> dict[str, str]:
    """Leaves out the suites where the tasks alone distinguish all names.

    Example:
      >>> short(["glue/rte", "superglue/cb"])
      {'glue/rte': 'rte', 'superglue/cb': 'cb'}
      >>> short(["glue/rte", "superglue/rte"])
      {'glue/rte': 'glue/rte', 'superglue/rte': 'superglue/rte'}
    """
    names = list(dict.fromkeys(names))
    tasks = [name.rpartition("/")[2] for name in names]
    return dict(zip(names, tasks if len(set(tasks)) == len(names) else names, strict=True))


@contextmanager
def drawing(out: Path, name: str, width: float, height: float) -> Iterator[Any]:
    """Opens an empty figure; when it is drawn, writes it as PNG and SVG: whole, and the same bytes on every run.

    Args:
      out: the folder.
      name: the file's name, without suffix.
      width: in inches.
      height: in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        files = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
        written = {suffix: io.BytesIO() for suffix in files}
        for suffix, metadata in files.items():
            figure.savefig(written[suffix], format=suffix, metadata=metadata)
    for suffix, file in written.items():
        write_bytes(out / f"{name}.{suffix}", file.getvalue())


def plain_powers(axis) -> None:
    """Writes the ticks of a logarithmic x axis without the formulas that such an axis makes by itself."""
    from matplotlib.ticker import LogFormatterSciNotation

    class Plain(LogFormatterSciNotation):
        def __call__(self, x, pos=None):
            return _without_formula(super().__call__(x, pos))

    axis.xaxis.set_major_formatter(Plain())
    if isinstance(axis.xaxis.get_minor_formatter(), LogFormatterSciNotation):
        axis.xaxis.set_minor_formatter(Plain())


def _without_formula(text: str) -> str:
    r"""Writes a power as plain text.

    Example:
      >>> _without_formula(r"$\mathdefault{2\times10^{-15}}$")
      '2×10⁻¹⁵'
    """
    text = text.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")
    return re.sub(r"\^{(.+?)}", lambda power: power[1].translate(_SUPERSCRIPTS), text)


def file_name(*parts: str) -> str:
    """Joins parts to the name of a file.

    Example:
      >>> file_name("omega", "scalearn++"), file_name("pairs", "glue/rte")
      ('omega-scalearn++', 'pairs-glue-rte')
    """
    return safe_name("-".join(parts))


def num_columns(num_panels: int, panel_width: float, gutter: float = 0.0) -> int:
    """How many panels, of a width in inches beside a gutter, fit side by side on a page.

    Example:
      >>> num_columns(5, 2.0), num_columns(2, 2.0), num_columns(3, 9.0)
      (3, 2, 1)
    """
    return max(1, min(num_panels, int((PAGE[0] - gutter) / panel_width)))


def panels(figure, num_panels: int, columns: int, **options: Any) -> list:
    """Divides a figure into panels, row by row; what is left of the last row stays empty."""
    rows = -(-num_panels // columns)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axis in axes[num_panels:]:
        axis.set_axis_off()
    return list(axes[:num_panels])


def heat_map(axis, values: np.ndarray, form: str, low: float, high: float, *, written: bool = True):
    """Draws Float[rows columns] in grey with every value written out, so that a print loses nothing.

    Args:
      axis: the panel.
      values: what to draw; NaN stays empty.
      form: format of a value.
      low: the white end of the scale.
      high: the black end.
      written: whether to write the values.

    Returns:
      The image, for a colour bar.
    """
    image = axis.imshow(values, cmap="Greys", vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if written and np.isfinite(value):
            color = "white" if value > (low + high) / 2 else "black"
            axis.text(column, row, format(value, form), ha="center", va="center", fontsize=7, color=color)
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return image


def line(axis, x: Sequence[float], means: Sequence[float], sds: Sequence[float | None], **style: Any) -> None:
    """Draws a curve, with a band of one standard deviation to each side where there is one."""
    axis.plot(x, means, **style)
    if None not in sds:
        low, high = np.subtract(means, sds), np.add(means, sds)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)


def title(figure, text: str) -> None:
    """Writes a title over all panels, in as many lines as the figure's width asks for."""
    figure.suptitle(textwrap.fill(text, int(figure.get_figwidth() / 0.075)))


def legend_shape(names: Iterable[str], width: float) -> tuple[int, int]:
    """Rows and columns of a legend in a figure of a width in inches.

    Example:
      >>> legend_shape(["single", "scalearn", "fusion"], 3.6)
      (2, 2)
    """
    names = list(names)
    columns = max(1, min(len(names), int(width / (0.75 + 0.065 * max(map(len, names))))))
    return -(-len(names) // columns), columns


def legend(figure, axis, styles: dict[str, dict[str, Any]], names: dict[str, str]) -> None:
    """Writes one legend for all panels below them; ``names`` holds the label of each style."""
    handles = [axis.plot([], [], label=names[name], **style)[0] for name, style in styles.items()]
    _, columns = legend_shape(names.values(), figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3.5)


def curve_size(num_panels: int, names: Iterable[str]) -> tuple[float, float, int]:
    """Lays out panels of curves over a legend; returns the figure's width and height, and the number of columns."""
    columns = num_columns(num_panels, 2.3)
    width = max(4.0, 2.3 * columns)
    rows, _ = legend_shape(names, width)
    return width, 0.5 + 2.1 * -(-num_panels // columns) + 0.16 * rows, columns
