"""Paired comparisons, against hand cases and scipy."""

import csv

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scalearn_jax.config import ReportConfig
from scalearn_jax.studies import report, results
from scalearn_jax.studies import significance as sig
from tests.support.fake_runs import write_run, write_study


def write(root, method, scores, *, shots=None):
    """Writes a method's runs; scores is target -> {seed: score}."""
    for target, by_seed in scores.items():
        folder = root / target / (f"{shots}-shot/{method}" if shots else method)
        write_run(folder, task=target, method=method, values=tuple(by_seed.values()), seeds=tuple(by_seed))


def compare(root, method, baseline, shots=None):
    (found,) = (
        c
        for c in sig.compare_all(results.read_results(root))
        if (c.method, c.baseline, c.shots) == (method, baseline, shots)
    )
    return found


def seeds(values, start=0):
    return {start + number: value for number, value in enumerate(values)}


@pytest.fixture
def study(tmp_path):
    """Two targets: six pairs, all won by soup over single, by 1 to 6 points."""
    write_study(tmp_path, targets=["a/x", "a/y"], methods=["single", "soup"], shots=[4])
    write(tmp_path, "single", {"a/x": seeds([0.5, 0.5, 0.5]), "a/y": seeds([0.7, 0.7, 0.7])})
    write(tmp_path, "soup", {"a/x": seeds([0.51, 0.52, 0.53]), "a/y": seeds([0.74, 0.75, 0.76])})
    return tmp_path


def test_hand_case_all_six_pairs_won(study):
    found = compare(study, "soup", "single")
    # All ranks positive: of 2^6 signs only this one and its mirror are as extreme.
    assert found.p == pytest.approx(2 / 2**6, abs=1e-15)
    assert found.num_pairs == 6 and found.difference == pytest.approx(0.035, abs=1e-12)
    assert 0.01 <= found.low < 0.035 < found.high <= 0.06


def test_only_seeds_that_both_ran_are_paired(study):
    write(study, "fusion", {"a/x": {2: 0.4, 1: 0.6, 9: 0.0}})  # in another order, and one alone
    found = compare(study, "soup", "fusion")
    assert found.num_pairs == 2 and found.difference == pytest.approx((0.13 - 0.08) / 2, abs=1e-12)
    assert found.p is None and found.low is None and found.high is None
    write(study, "head", {"a/x": {8: 0.5}})
    assert compare(study, "head", "fusion") == sig.Comparison("head", "fusion", None, 0, *[None] * 5)


def test_p_values_are_scipys(tmp_path):
    rng = np.random.default_rng(1)
    scores = {name: rng.normal(0.5 + shift, 0.02, (2, 5)) for name, shift in (("fusion", 0), ("scalearn", 0.01))}
    for method, values in scores.items():
        for target, row in zip(("t", "u"), values, strict=True):
            sources = {"sources": ("s",)} if method == "scalearn" else {}
            write_run(tmp_path / target / method, task=target, method=method, values=tuple(row), **sources)
    found = compare(tmp_path, "scalearn", "fusion")
    differences = (scores["scalearn"] - scores["fusion"]).ravel()
    assert found.p == pytest.approx(stats.wilcoxon(differences).pvalue, abs=1e-12)
    assert found.difference == pytest.approx(differences.mean(), abs=1e-12)
    interval = stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    np.testing.assert_allclose((found.low, found.high), interval.confidence_interval, atol=5e-4)  # other resamples
    assert compare(tmp_path, "scalearn", "fusion") == found  # the same every time


def test_equal_differences_tie_in_spite_of_rounding():
    differences = [0.6 - 0.5, 0.7 - 0.6, 0.8 - 0.7, 0.5 - 0.6, 0.4 - 0.3, 0.3 - 0.2]
    assert len(set(map(abs, differences))) > 1  # in floating point
    scores = pd.DataFrame({"a": differences, "b": 0.0})
    assert sig.compare_methods(scores, "a", "b").p == stats.wilcoxon([0.1, 0.1, 0.1, -0.1, 0.1, 0.1]).pvalue


@pytest.mark.parametrize("values", [[0.0] * 8, [0.1] * 5, []])
def test_nothing_to_test(values):
    missing = [float("nan")] * (9 - len(values))
    found = sig.compare_methods(pd.DataFrame({"a": values + missing, "b": 0.0}), "a", "b")
    assert (found.p, found.low, found.high) == (None, None, None) and found.num_pairs == len(values)


def test_few_shot_results_are_compared_by_number_of_examples(study):
    write(study, "single", {"a/x": seeds([0.1] * 6)}, shots=4)
    write(study, "soup", {"a/x": seeds([0.2] * 6)}, shots=4)
    assert compare(study, "soup", "single").num_pairs == 6 and compare(study, "soup", "single").difference < 0.05
    assert compare(study, "soup", "single", 4).difference == pytest.approx(0.1, abs=1e-12)
    table = sig.significance_table(sig.compare_all(results.read_results(study)), "t", "all")
    assert table.texts["k"].tolist() == ["all", "4"] and {against for _, against in table.texts.index} == {"single"}


def test_two_baselines_are_compared_once(study):
    write(study, "fusion", {"a/x": seeds([0.5] * 3)})
    found = sig.compare_all(results.read_results(study))
    assert [(c.method, c.baseline) for c in found] == [("single", "fusion"), ("soup", "fusion"), ("soup", "single")]


def test_what_is_learned_is_set_beside_its_controls(study):
    for name, scores in {"constant": [0.5] * 3, "best-source": [0.4] * 3, "scalearn": [0.6] * 3}.items():
        write(study, name, {"a/x": seeds(scores), "a/y": seeds(scores)})
    found = {(c.method, c.baseline): c.difference for c in sig.compare_all(results.read_results(study))}
    assert found["scalearn", "constant"] == pytest.approx(0.1) and found["scalearn", "best-source"] == pytest.approx(
        0.2
    )
    assert found["best-source", "constant"] == pytest.approx(-0.1) and ("constant", "best-source") not in found


def test_a_method_by_other_settings_is_set_beside_itself(study):
    scores = {"scalearn": [0.5, 0.6, 0.4, 0.5], "solved": [0.6, 0.6, 0.5, 0.4]}
    for label, values in scores.items():
        where = study / "a/x" / label
        write_run(where, task="a/x", method="scalearn", values=values, sources=("s",))
    (found,) = (c for c in sig.compare_all(results.read_results(study)) if c.baseline == "scalearn")
    assert found.method == "solved" and found.difference == pytest.approx(0.025) and found.won == 0.75


def test_report_writes_significance_with_its_caveats(study):
    report.make_report(ReportConfig(dir=str(study)))
    text = (study / "report" / "significance.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| soup")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["soup", "single", "6", "+3.50", "100 %"] and cells[6] == "0.031"
    for words in ("Few pairs mean little", "not corrected", "fewer than 6 pairs"):
        assert words in text
    (row,) = csv.DictReader((study / "report" / "significance.csv").read_text().splitlines())
    assert float(row["p"]) == 0.03125 and row["shots"] == "" and row["num_pairs"] == "6"


def test_without_a_baseline_there_is_no_significance(tmp_path):
    write_run(tmp_path / "a", task="glue/rte", method="head")
    report.make_report(ReportConfig(dir=str(tmp_path)))
    assert not (tmp_path / "report" / "significance.md").exists()
