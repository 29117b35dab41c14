"""What all figures share: their look, their size on a page, and how they are written: whole, and always the same."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from scalearn_jax.io.files import safe_name, write_bytes

PAGE = (7.0, 9.5)  # inches: no figure is wider, so that none is shrunk on a page and all text keeps its size
_LOOK = {
    **{"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 9},
    **{"xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True},
    **{"grid.color": "0.9", "grid.linewidth": 0.6, "lines.linewidth": 1.2, "lines.markersize": 5.5},
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
    """Gives every name its colour, marker and line."""
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # separates overlapping markers
    looks = zip(dict.fromkeys(names), cycle(_COLORS), cycle(_MARKERS), cycle(_LINES))
    return {
        name: edge | {"color": color, "marker": marker, "linestyle": dashes} for name, color, marker, dashes in looks
    }


def short(names: Iterable[str]) -> dict[str, str]:
    """Leaves out the suites where the tasks alone distinguish all names.

    Example:
      >>> short(["glue/rte", "superglue/cb"]), short(["glue/rte", "superglue/rte"])
      ({'glue/rte': 'rte', 'superglue/cb': 'cb'}, {'glue/rte': 'glue/rte', 'superglue/rte': 'superglue/rte'})
    """
    names = list(dict.fromkeys(names))
    tasks = [name.rpartition("/")[2] for name in names]
    return dict(zip(names, tasks if len(set(tasks)) == len(names) else names, strict=True))


@contextmanager
def drawing(out: Path, name: str, width: float, height: float) -> Iterator[Any]:
    """Opens an empty figure of a size in inches; when it is drawn, writes it to the folder ``out`` as PNG and SVG.

    Files are written whole, and have the same bytes on every run.
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
    """Joins parts to a name that every file system takes."""
    return safe_name("-".join(parts))


def num_columns(num_panels: int, panel_width: float, gutter: float = 0.0) -> int:
    """How many panels, of a width in inches beside a gutter, fit side by side on a page; at least one."""
    return max(1, min(num_panels, int((PAGE[0] - gutter) / panel_width)))


def panels(figure, num_panels: int, columns: int, **options: Any) -> list:
    """Divides a figure into panels, row by row; what is left of the last row stays empty."""
    rows = -(-num_panels // columns)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axis in axes[num_panels:]:
        axis.set_axis_off()
    return list(axes[:num_panels])


def heat_map(axis, values: np.ndarray, form: str, low: float, high: float, *, written: bool = True):
    """Draws Float[rows columns] from white at ``low`` to black at ``high``; returns the image, for a colour bar.

    Every value is written out in the format ``form``, so that a print loses nothing; NaN stays empty.
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
    """Rows and columns of a legend in a figure of a width in inches."""
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
