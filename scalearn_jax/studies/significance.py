"""How sure a difference between two methods is: paired over (seed, target)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from scalearn_jax.io.text_table import Cell, Table, comma_separated
from scalearn_jax.studies.results import Result

BASELINES = ("fusion", "single")
MIN_PAIRS = 6  # five pairs can never reach p < 0.05
NUM_RESAMPLES, SEED = 10_000, 0


class Comparison(NamedTuple):
    """One method against a baseline.

    Attributes:
      method: its row in the table.
      baseline: the other's.
      shots: number of training examples, in a few-shot study.
      num_pairs: how many (seed, target) both have.
      difference: mean of method minus baseline, a fraction; ``None`` without pairs.
      p: two-sided, of Wilcoxon's signed-rank test; ``None`` where there is nothing to test.
      low: lower end of the bootstrap 95 % interval of the difference; ``None`` as p.
      high: its upper end.
    """

    method: str
    baseline: str
    shots: int | None
    num_pairs: int
    difference: float | None
    p: float | None
    low: float | None
    high: float | None


def compare_all(results: Sequence[Result]) -> list[Comparison]:
    """Compares every method with every baseline, few-shot results for each number of examples apart.

    Args:
      results: finished runs.

    Returns:
      The comparisons; of two baselines with each other only one.
    """
    found = []
    for shots in dict.fromkeys(result.shots for result in results):
        scores = _scores(result for result in results if result.shots == shots)
        for number, baseline in enumerate(BASELINES):
            others = [method for method in scores if method not in BASELINES[: number + 1]]
            found += [compare(scores, method, baseline, shots) for method in others if baseline in scores]
    return found


Scores = dict[str, dict[tuple[str, int], float]]  # method -> (target, seed) -> score


def _scores(results: Iterable[Result]) -> Scores:
    scores: Scores = {}
    for result in results:
        seeds = zip(result.seeds, result.values, strict=True)
        scores.setdefault(result.method, {}).update({(result.target, seed): value for seed, value in seeds})
    return scores


def compare(scores: Scores, method: str, baseline: str, shots: int | None = None) -> Comparison:
    """Compares two methods where both ran the same seed on the same target."""
    pairs = [pair for pair in scores[method] if pair in scores[baseline]]
    # Scores are ratios of counts: without rounding, equal differences would not tie.
    differences = np.round([scores[method][pair] - scores[baseline][pair] for pair in pairs], 12)
    p, low, high = _test(differences)
    return Comparison(method, baseline, shots, len(pairs), fmean(differences) if pairs else None, p, low, high)


def _test(differences: np.ndarray) -> tuple[float, float, float] | tuple[None, None, None]:
    """Differences Float[n] -> p, and the ends of the interval of their mean."""
    if len(differences) < MIN_PAIRS or not differences.any() or not np.isfinite(differences).all():
        return None, None, None
    from scipy import stats

    p = float(stats.wilcoxon(differences, alternative="two-sided").pvalue)
    return p, *bootstrap(differences)


def bootstrap(differences: np.ndarray) -> tuple[float, float]:
    """The percentile 95 % interval of a mean, from resampled pairs; the same on every call.

    Args:
      differences: Float[n].

    Returns:
      (lower, upper).

    Example:
      >>> bootstrap(np.array([0.5, 0.5, 0.5]))
      (0.5, 0.5)
    """
    picked = np.random.default_rng(SEED).integers(len(differences), size=(NUM_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picked].mean(1), [2.5, 97.5])
    return float(low), float(high)


def as_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """Lays out comparisons, a group a baseline."""
    few = any(c.shots for c in comparisons)
    groups = [list(_rows(comparisons, baseline, few)) for baseline in BASELINES]
    header = ["method", "against", *(["k"] if few else []), "pairs", "difference", "95 % interval", "p"]
    caption = (
        "Mean difference of the test scores, in percentage points, paired over (seed, target), with the paired"
        f" bootstrap's 95 % interval ({NUM_RESAMPLES:,} resamples) and the two-sided p of Wilcoxon's signed-rank test;"
        f" - where fewer than {MIN_PAIRS} pairs are left or all differences are 0. Few pairs mean little, seeds of"
        " one target are not independent of each other, and the p-values are not corrected for the number of"
        " comparisons"
    )
    return Table(f"{title}: significance", header, [group for group in groups if group], caption, num_names=2)


def _rows(comparisons: Sequence[Comparison], baseline: str, few: bool) -> Iterator[list[Cell]]:
    for c in comparisons:
        if c.baseline == baseline:
            interval = "-" if c.p is None else f"{100 * c.low:+.2f} to {100 * c.high:+.2f}"
            shots = [str(c.shots or "all")] if few else []
            words = [c.method, baseline, *shots, str(c.num_pairs), _points(c.difference), interval, _p(c.p)]
            yield list(map(Cell, words))


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _p(p: float | None) -> str:
    """Words a p-value with two digits.

    Example:
      >>> _p(0.03125), _p(0.5), _p(1e-6)
      ('0.031', '0.50', '< 0.0001')
    """
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """Writes a line a comparison, in full precision, scores as fractions."""
    return comma_separated([*Comparison._fields], [[*c] for c in comparisons])
