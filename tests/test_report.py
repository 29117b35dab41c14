"""Tables and figures from run folders."""

import csv

import numpy as np
import pytest

from scalearn_jax import figures, report, results
from scalearn_jax.config import ReportConfig
from scalearn_jax.errors import InputError
from tests.fake_runs import write_run


@pytest.fixture
def study(tmp_path):
    """Two targets, three methods, one result missing."""
    both = {"sources": ("glue/mrpc", "glue/rte")}
    write_run(tmp_path / "a", task="glue/rte", values=(0.5, 0.6), parameters=10)
    write_run(tmp_path / "b", task="glue/stsb", values=(0.25, 0.25), parameters=10, metric="pearson")
    for method, score in (("scalearn", 0.7), ("scalearn++", 0.8)):
        write_run(tmp_path / method, task="glue/rte", method=method, values=(score,) * 2, **both, parameters=6)
    write_run(tmp_path / "s", task="glue/stsb", method="scalearn", values=(0.75, 0.85), **both, metric="pearson")
    return tmp_path


def test_table_has_bold_best_and_averages_of_complete_rows_only(study):
    text = report.make_report(ReportConfig(dir=str(study)))
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines()[4:-2]}
    assert cells["single"] == ["10", "55.00 ± 7.07", "25.00 ± 0.00", "40.00"]
    assert cells["scalearn"] == ["0 to 6", "70.00 ± 0.00", "**80.00** ± 7.07", "**75.00**"]
    assert cells["scalearn++"] == ["6", "**80.00** ± 0.00", "-", "-"]
    assert "2 seeds" in text.splitlines()[-1]
    assert (study / "report" / "table.md").read_text() == text + "\n"


def test_csv_keeps_full_precision(study):
    report.make_report(ReportConfig(dir=str(study), out=str(study / "out")))
    rows = list(csv.DictReader((study / "out" / "table.csv").read_text().splitlines()))
    assert len(rows) == 5
    row = next(row for row in rows if (row["method"], row["target"]) == ("single", "glue/rte"))
    assert float(row["sd"]) == pytest.approx(np.std([0.5, 0.6], ddof=1), abs=1e-15)


def test_figures_show_scales_by_source_and_layer(study):
    pytest.importorskip("matplotlib")
    report.make_report(ReportConfig(dir=str(study)))
    for name in ("omega-scalearn.png", "omega-scalearn++.png"):
        assert (study / "report" / name).read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(figures.mean_omega(study / "scalearn", "none"), [[0, 1, 2], [10, 11, 12]])
    np.testing.assert_array_equal(figures.mean_omega(study / "scalearn++", "none"), [[0], [10]])


def test_figures_show_normalised_scales_as_they_act(study):
    weights = figures.mean_omega(study / "scalearn", "softmax")
    np.testing.assert_allclose(weights.sum(0), 1.0, rtol=1e-6)


def test_without_matplotlib_the_table_still_comes(study, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    report.make_report(ReportConfig(dir=str(study)))
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not list((study / "report").glob("*.png"))


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path / "a", task="glue/rte", values=(0.5,))
    text = report.make_report(ReportConfig(dir=str(tmp_path)))
    assert "±" not in text and "average" not in text and text.endswith("in percent, 1 seed; best in bold.")


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"main_metric": "x", "seeds": {}}', '{"seeds": 3}'])
def test_damaged_results_are_named(study, content):
    (study / "scalearn" / "results.json").write_text(content)
    with pytest.raises(InputError, match="scalearn"):
        report.make_report(ReportConfig(dir=str(study)))


def test_damaged_weights_are_named(study):
    (study / "scalearn" / "seed-0.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="seed-0.safetensors"):
        report.make_report(ReportConfig(dir=str(study)))


def test_empty_folder_and_double_results_are_refused(study, tmp_path_factory):
    with pytest.raises(InputError, match="no finished run"):
        report.make_report(ReportConfig(dir=str(tmp_path_factory.mktemp("empty"))))
    write_run(study / "again", task="glue/rte")
    with pytest.raises(InputError, match="both single on glue/rte"):
        results.read_results(study)


def test_unfinished_folders_do_not_count(study):
    write_run(study / "again.partial", task="glue/rte")
    assert len(results.read_results(study)) == 5
