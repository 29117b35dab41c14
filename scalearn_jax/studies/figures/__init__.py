"""Figures of a study: learned scales, scores against size and against number of examples, and probing."""

from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.studies.figures.few_shot import draw_few_shot
from scalearn_jax.studies.figures.omega import draw_omegas_by_method
from scalearn_jax.studies.figures.parameters import draw_parameters
from scalearn_jax.studies.figures.probing import draw_probing
from scalearn_jax.studies.results import Result

__all__ = ["draw_all"]


def draw_all(results: Sequence[Result], out: Path) -> list[str]:
    """Draws every figure that a study's results call for, each as PNG and SVG; returns the names, without suffix."""
    plain = [result for result in results if not result.shots and not result.coefficients]
    few = [result for result in results if result.shots]
    probes = [result for result in results if result.coefficients]
    return [
        *draw_omegas_by_method(plain, out),
        *draw_parameters(plain, out),
        *draw_few_shot(few, out),
        *draw_probing(probes, out),
    ]
