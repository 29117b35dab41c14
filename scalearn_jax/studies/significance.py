"""How sure a difference between two methods is: paired over (seed, target)."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scalearn_jax.studies.results import Result, as_frame
from scalearn_jax.studies.tables import Table, to_csv

if TYPE_CHECKING:
    from pandas import DataFrame

BASELINES = ("fusion", "single", "constant", "best-source")
MIN_PAIRS = 6  # five pairs can never reach p < 0.05
NUM_RESAMPLES, SEED = 10_000, 0


class Comparison(NamedTuple):
    """One method against a baseline."""

    method: str  # its row in the table
    baseline: str  # the other's
    shots: int | None  # number of training examples, in a few-shot study
    num_pairs: int  # how many (seed, target) both have
    difference: float | None  # mean of method minus baseline, a fraction; none without pairs
    p: float | None  # two-sided, of Wilcoxon's signed-rank test; none where there is nothing to test
    low: float | None  # end of the bootstrap 95 % interval of the difference; none as p
    high: float | None
    won: float | None = None  # share of the pairs in which the method is at least as good


def compare_all(results: Sequence[Result]) -> list[Comparison]:
    """Compares every method with every baseline, few-shot results for each number of examples apart.

    Of two baselines with each other there is only one comparison. A row of a study that is another row's method by
    other settings, such as one that is solved for, is compared with that row, too.
    """
    found, recipes = [], {result.method: result.recipe for result in results}
    for shots in dict.fromkeys(result.shots for result in results):
        frame = as_frame(result for result in results if result.shots == shots).explode(["seeds", "scores"])
        scores = frame.set_index(["target", "seeds", "method"])["scores"].astype(float).unstack("method", sort=False)
        for number, baseline in enumerate(BASELINES):
            others = [method for method in scores if method not in BASELINES[: number + 1]]
            found += [compare_methods(scores, method, baseline, shots) for method in others if baseline in scores]
        plain = {method: recipes[method] for method in scores if recipes[method] not in (method, *BASELINES)}
        found += [compare_methods(scores, *pair, shots) for pair in plain.items() if pair[1] in scores]
    return found


def compare_methods(scores: "DataFrame", method: str, baseline: str, shots: int | None = None) -> Comparison:
    """Compares two columns of ``scores`` where both ran the same seed on the same target.

    A row of them is a (target, seed), a column a method; NaN where it was not run.
    """
    # Scores are ratios of counts: without rounding, equal differences would not tie.
    differences = (scores[method] - scores[baseline]).dropna().round(12).to_numpy()
    mean, won = (fmean(differences), fmean(differences >= 0)) if len(differences) else (None, None)
    if len(differences) < MIN_PAIRS or not differences.any():
        return Comparison(method, baseline, shots, len(differences), mean, None, None, None, won)
    from scipy import stats

    p = float(stats.wilcoxon(differences, alternative="two-sided").pvalue)
    return Comparison(method, baseline, shots, len(differences), mean, p, *bootstrap(differences), won)


def bootstrap(differences: np.ndarray) -> tuple[float, float]:
    """The percentile 95 % interval (low, high) of a mean, from resampled pairs Float[n]; the same on every call."""
    picked = np.random.default_rng(SEED).integers(len(differences), size=(NUM_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picked].mean(1), [2.5, 97.5])
    return float(low), float(high)


def significance_table(comparisons: Sequence[Comparison], title: str, tests: str) -> Table:
    """Lays out comparisons, a group a baseline; ``tests`` describes the test examples."""
    import pandas as pd

    rows, order = [], list(dict.fromkeys([*BASELINES, *(c.baseline for c in comparisons)]))
    for c in sorted(comparisons, key=lambda c: order.index(c.baseline)):
        row = {"method": c.method, "against": c.baseline, "k": str(c.shots or "all"), "pairs": str(c.num_pairs)}
        row["difference"] = "-" if c.difference is None else f"{100 * c.difference:+.2f}"
        row["no worse in"] = "-" if c.won is None else f"{100 * c.won:.0f} %"
        row["95 % interval"] = "-" if c.p is None else f"{100 * c.low:+.2f} to {100 * c.high:+.2f}"
        rows.append(row | {"p": format_p(c.p)})
    texts = pd.DataFrame(rows).set_index(["method", "against"])
    if not any(c.shots for c in comparisons):
        texts = texts.drop(columns="k")
    caption = (
        "Mean difference of the test scores, in percentage points, paired over (seed, target), with the paired"
        f" bootstrap's 95 % interval ({NUM_RESAMPLES:,} resamples) and the two-sided p of Wilcoxon's signed-rank test;"
        f" - where fewer than {MIN_PAIRS} pairs are left or all differences are 0. Few pairs mean little, seeds of"
        " one target are not independent of each other, and the p-values are not corrected for the number of"
        f" comparisons; {tests}"
    )
    return Table(f"{title}: significance", texts, caption, group_by="against")


def format_p(p: float | None) -> str:
    """Formats a p-value with two digits."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}"


def significance_csv(comparisons: Sequence[Comparison]) -> str:
    """Formats a line a comparison, in full precision, scores as fractions."""
    import pandas as pd

    return to_csv(pd.DataFrame(comparisons).astype({"shots": "Int64"}))
