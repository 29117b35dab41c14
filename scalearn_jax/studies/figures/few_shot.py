"""Scores against the number of training examples."""

from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.io import plot
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method, targets_of

NAME = "few-shot"


def draw_few_shot(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``few-shot``, if there are such results: a panel a target, a curve a method; returns its name."""
    if not results:
        return []
    targets, methods = targets_of(results), list(by_method(results))
    shots = sorted({result.shots for result in results})
    styles, titles = plot.styles(methods), plot.short(targets)
    width, height, columns = plot.curve_size(len(targets), methods)
    with plot.drawing(out, NAME, width, height) as figure:
        for axis, target in zip(plot.panels(figure, len(targets), columns), targets, strict=True):
            for method in methods:
                row = [result for result in results if (result.target, result.method) == (target, method)]
                if row := sorted(row, key=lambda result: result.shots):
                    sds = [result.sd and 100 * result.sd for result in row]
                    means = [100 * result.mean for result in row]
                    plot.line(axis, [result.shots for result in row], means, sds, **styles[method])
            axis.set_xscale("log", base=2)
            axis.set_xticks(shots, [str(k) for k in shots])
            axis.set_xticks([], minor=True)
            axis.set_xlabel("training examples")
            axis.set_title(f"{titles[target]}: {targets[target]}")
        plot.legend(figure, axis, styles, {method: method for method in methods})
        figure.supylabel("test score in percent", fontsize=8)
    return [NAME]
