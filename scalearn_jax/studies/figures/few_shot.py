"""Scores against the number of training examples."""

from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.io import plot as look
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method, targets_of

NAME = "few-shot"


def draw_few_shot(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``few-shot``: a panel a target, a curve a method; returns its name.

    Args:
      results: finished few-shot runs; without any, nothing is drawn.
      out: the folder to write.
    """
    if not results:
        return []
    targets, methods = targets_of(results), list(by_method(results))
    styles, titles = look.styles(methods), look.short(targets)
    width, height, columns = look.curve_size(len(targets), methods)
    with look.drawing(out, NAME, width, height) as figure:
        for axis, target in zip(look.panels(figure, len(targets), columns), targets, strict=True):
            for method in methods:
                _curve(axis, [r for r in results if (r.target, r.method) == (target, method)], styles[method])
            _name_axes(axis, sorted({result.shots for result in results}))
            axis.set_title(f"{titles[target]}: {targets[target]}")
        look.legend(figure, axis, styles, {method: method for method in methods})
        figure.supylabel("test score in percent", fontsize=8)
    return [NAME]


def _curve(axis, row: Sequence[Result], style: dict) -> None:
    if row:
        row = sorted(row, key=lambda result: result.shots)
        sds = [result.sd and 100 * result.sd for result in row]
        look.line(axis, [result.shots for result in row], [100 * result.mean for result in row], sds, **style)


def _name_axes(axis, shots: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(k) for k in shots])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("training examples")
