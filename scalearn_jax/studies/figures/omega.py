"""The learned scales of a study's ScaLearn methods, by source and layer."""

from collections.abc import Sequence
from pathlib import Path

from scalearn_jax.errors import InputError
from scalearn_jax.io import plot
from scalearn_jax.runs.figures import Panel, draw_omegas, mean_omega
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import by_method


def draw_omegas_by_method(results: Sequence[Result], out: Path) -> list[str]:
    """Draws ``omega-METHOD`` for each method that has scales; returns the names."""
    names = []
    for method, panels in read_omegas(results).items():
        names.append(plot.file_name("omega", method))
        draw_omegas(method, panels, out, names[-1])
    return names


def read_omegas(results: Sequence[Result]) -> dict[str, list[Panel]]:
    """Reads the scales of every method that has some; missing or damaged weights are an error."""
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
