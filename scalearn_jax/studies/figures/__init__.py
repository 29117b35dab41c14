"""Figures of a study: learned scales, scores against size and against number of examples, and probing."""

from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.studies.figures import few_shot, omega, parameters, probing
from scalearn_jax.studies.results import Result

__all__ = ["draw_all"]


def draw_all(results: Sequence[Result], out: Path) -> list[str]:
    """Draws every figure that a study's results call for, each as PNG and SVG.

    Args:
      results: its finished runs.
      out: the folder to write.

    Returns:
      The names of the figures, without suffix.

    Raises:
      InputError: a ScaLearn run without weights, or with damaged ones.
    """
    plain = [result for result in results if not result.shots and not result.coefficients]
    few = [result for result in results if result.shots]
    probes = [result for result in results if result.coefficients]
    return [
        *omega.draw(plain, out),
        *parameters.draw(plain, out),
        *few_shot.draw(few, out),
        *probing.draw(probes, out),
    ]
