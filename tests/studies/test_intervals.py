"""Intervals of solved scales beside what other draws give."""

import json

import pytest

from scalearn_jax.config import ReportConfig
from scalearn_jax.studies import report
from scalearn_jax.studies.intervals import compare_draws
from scalearn_jax.studies.results import read_results
from tests.support.fake_runs import write_run, write_study


def write_draw(root, number, omega, deviation):
    folder = write_run(
        root / f"glue/rte/16-shot/draw-{number}/solved",
        task="glue/rte",
        method="scalearn-uniform++",
        sources=("a", "b"),
    )
    results = json.loads((folder / "results.json").read_text())
    solved = {"omega": dict(zip("ab", omega, strict=True)), "deviation": dict(zip("ab", deviation, strict=True))}
    (folder / "results.json").write_text(json.dumps(results | {"solve": solved}))


@pytest.fixture
def study(tmp_path):
    """Two sources, three draws; of six differences only a's between 0 and 2 is beyond its interval."""
    write_study(tmp_path, targets=["glue/rte"], methods=["solved"], shots=[16], draws=3)
    for number, omega in enumerate([(0.0, 0.5), (0.2, 0.4), (0.4, 0.9)]):
        write_draw(tmp_path, number, omega, (0.1, 0.2))
    return tmp_path


def test_a_hand_case(study):
    [row] = compare_draws(read_results(study)).to_dict("records")
    assert row["covered"] == pytest.approx(5 / 6)  # 0.4 > 1.96 * sqrt(2) * 0.1 > 0.2, and 0.5 < 1.96 * sqrt(2) * 0.2
    assert row["stated"] == pytest.approx(((0.1**2 + 0.2**2) / 2) ** 0.5)
    assert row["seen"] == pytest.approx(((0.04 + 0.07) / 2) ** 0.5)
    assert (row["method"], row["target"], row["shots"], row["draws"]) == ("solved", "glue/rte", 16, 3)


def test_the_report_has_them(study):
    report.make_report(ReportConfig(dir=str(study)))
    text = (study / "report/intervals.md").read_text()
    assert "| solved   | glue/rte | 16  | 3       | 0.16     | 0.23   | 83%" in text and "95 % are promised" in text


def test_without_deviations_there_are_none(study):
    write_run(study / "glue/rte/16-shot/draw-0/head", task="glue/rte", method="head")
    write_run(study / "glue/rte/16-shot/draw-1/head", task="glue/rte", method="head")
    assert compare_draws(read_results(study))["method"].tolist() == ["solved"]
