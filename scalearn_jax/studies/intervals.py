"""How far the intervals of solved scales can be trusted: what they say beside what other draws of examples give."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalearn_jax.io.files import read_json
from scalearn_jax.runs.figures import deviations
from scalearn_jax.runs.provenance import SURE
from scalearn_jax.studies.results import Result
from scalearn_jax.studies.tables import Table

if TYPE_CHECKING:
    from pandas import DataFrame


def compare_draws(results: Sequence[Result]) -> "DataFrame":
    """Compares the scales of each few-shot cell that was solved with several draws of the examples.

        covered = share over pairs of draws (i, j) and sources t of |omega_it - omega_jt| <= 1.96 sqrt(s_it^2 + s_jt^2)

    Returns:
      A row a cell: ``method``, ``target``, ``shots``, ``draws``; the root mean squares over sources of ``stated`` (s,
      the deviation that each draw states) and of ``seen`` (omega's deviation over draws); and ``covered``.
    """
    import pandas as pd

    rows = []
    for result in results:
        folders = [result.folder.parent.parent / f"draw-{draw}" / result.folder.name for draw in result.seeds]
        found = [deviations(folder, result.sources) for folder in folders] if result.unit == "draws" else []
        if len(found) < 2 or any(one is None for one in found):
            continue
        solved = [read_json(folder / "results.json")["solve"]["omega"] for folder in folders]
        omegas = np.array([[omega[source] for source in result.sources] for omega in solved])
        pairs = list(itertools.combinations(range(len(found)), 2))
        covered = [abs(omegas[i] - omegas[j]) <= SURE * np.hypot(found[i], found[j]) for i, j in pairs]
        stated, seen = np.sqrt(np.mean(np.square(found))), np.sqrt(omegas.var(0, ddof=1).mean())
        rows.append((result.method, result.target, result.shots, len(found), stated, seen, np.mean(covered)))
    return pd.DataFrame(rows, columns=["method", "target", "shots", "draws", "stated", "seen", "covered"])


def intervals_table(found: "DataFrame", title: str) -> Table:
    """Lays out what ``compare_draws`` found."""
    texts = found.set_index(["method", "target"])
    texts = texts.assign(
        k=texts["shots"].map(str),
        draws=texts["draws"].map(str),
        stated=texts["stated"].map("{:.2f}".format),
        seen=texts["seen"].map("{:.2f}".format),
        covered=texts["covered"].map("{:.0%}".format),
    )[["k", "draws", "stated", "seen", "covered"]]
    caption = (
        "Standard deviation of a solved scale, as one draw of the examples states it and as it is over draws (root mean"
        " squares over sources), and how often two draws differ by no more than the 95 % interval of a difference that"
        f" they state; over all {found['covered'].mean():.0%}, where 95 % are promised"
    )
    return Table(f"{title}: intervals of scales", texts, caption)
