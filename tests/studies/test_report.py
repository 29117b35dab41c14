"""Tables and figures from run folders."""

import csv
import json

import numpy as np
import pytest

from scalearn_jax.config import ReportConfig
from scalearn_jax.errors import InputError
from scalearn_jax.studies import report, results
from tests.support.fake_runs import write_probe, write_run, write_study


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
    assert cells["single"] == ["10", "1", "55.00 ± 7.07", "25.00 ± 0.00", "40.00"]
    assert cells["scalearn"] == ["0 to 6", "1", "_70.00_ ± 0.00", "**80.00** ± 7.07", "**75.00**"]
    assert cells["scalearn++"] == ["6", "1", "**80.00** ± 0.00", "-", "-"]
    assert "over 2 seeds; how many of the test examples were used is unknown; best in bold, second best in" in text
    assert (study / "report" / "table.md").read_text() == text + "\n"


def rows_of(path):
    """The rows of a Markdown table, without its header."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines()[4:-2]]


def test_latex_is_the_same_table(study):
    report.make_report(ReportConfig(dir=str(study)))
    text = (study / "report" / "table.tex").read_text()
    assert (
        r"scalearn & 0 to 6 & 1 & \underline{70.00} $\pm$ 0.00 & \textbf{80.00} $\pm$ 7.07 & \textbf{75.00} \\" in text
    )
    assert r"scalearn++ & 6 & 1 & \textbf{80.00} $\pm$ 0.00 & - & - \\" in text
    assert "best in bold, second best underlined." in text


def test_differing_numbers_of_seeds_get_a_column(study):
    write_run(study / "f", task="glue/rte", method="fusion", values=(0.1,))
    report.make_report(ReportConfig(dir=str(study)))
    seeds = {row[0]: row[3] for row in rows_of(study / "report" / "table.md")}
    assert seeds == {"single": "2", "scalearn": "2", "scalearn++": "2", "fusion": "1"}
    assert "over 1 to 2 seeds (of one seed there is no deviation)" in (study / "report" / "table.md").read_text()


def test_tables_and_figures_name_cut_test_sets_and_lost_seeds(tmp_path):
    targets = {"glue/cola": ("matthews", (300, 1043)), "glue/rte": ("accuracy", (277, 277)), "glue/old": ("f1", None)}
    for target, (metric, examples) in targets.items():
        for method, value, se in (("single", 0.5, 0.03), ("fusion", 0.6, 0.04)):
            rest = dict(method=method, metric=metric, examples=examples, se=se)
            lost = (7, 9) if (method, target) == ("fusion", "glue/rte") else ()
            write_run(tmp_path / target / method, task=target, values=(value,) * 3, lost=lost, **rest)
    write_run(tmp_path / "few/4-shot/single", task="glue/cola", examples=(300, 1043), se=0.05)
    write_study(tmp_path, targets=[*targets], methods=["single", "fusion"], shots=[4], published="glue/roberta-base")
    report.make_report(ReportConfig(dir=str(tmp_path)))
    sizes = "glue/cola 300 of 1,043 (4.00), glue/rte all 277 (4.00), glue/old unknown (?)"
    for name in ("table", "published", "significance"):
        for suffix in ("md", "tex"):
            text = (tmp_path / "report" / f"{name}.{suffix}").read_text()
            expected = sizes if name != "significance" else sizes.replace("(4.00)", "(5.00)", 1)
            assert f"test examples, and the largest standard error that so few give: {expected}" in text
            assert ("fusion on glue/rte 7 and 9" in text) == (name != "significance")
    assert "glue/cola 300 of 1,043 (5.00)" in (tmp_path / "report/few-shot.md").read_text()
    rows = list(csv.DictReader((tmp_path / "report/table.csv").read_text().splitlines()))
    names = ("test_examples", "test_available", "standard_error", "lost_seeds")
    found = {(row["method"], row["target"]): [row[name] for name in names] for row in rows}
    assert found["fusion", "glue/cola"] == ["300", "1043", "0.04", ""]
    assert found["fusion", "glue/rte"] == ["277", "277", "0.04", "7 9"]
    assert found["single", "glue/old"] == ["", "", "", ""]


@pytest.mark.parametrize(
    "damage",
    [{"examples": {}}, {"examples": {"test": {"used": "9", "available": 9}}}, {"examples": 3}, {"lost": {"x": ""}}],
)
def test_damaged_numbers_of_examples_are_named(study, damage):
    content = json.loads((study / "scalearn" / "results.json").read_text())
    (study / "scalearn" / "results.json").write_text(json.dumps(content | damage))
    with pytest.raises(InputError, match="scalearn: run.json or results.json is damaged"):
        report.make_report(ReportConfig(dir=str(study)))


@pytest.fixture
def few_shot(tmp_path):
    """Two targets, two methods, 4 and 16 examples; scalearn lacks CoLA with 16."""
    targets = {"glue/rte": "accuracy", "glue/cola": "matthews"}
    write_study(tmp_path, targets=[*targets], methods=["single", "scalearn"], shots=[4, 16])
    scores = {("single", 4): 0.5, ("single", 16): 0.6, ("scalearn", 4): 0.55, ("scalearn", 16): 0.58}
    for (method, k), score in scores.items():
        for target, metric in targets.items():
            if (method, k, target) != ("scalearn", 16, "glue/cola"):
                folder, values = tmp_path / target / f"{k}-shot" / method, (score - 0.01, score + 0.01)
                values = values if target == "glue/rte" else (score / 2, score / 2)
                rest = {"sources": targets, "parameters": 7} if method == "scalearn" else {"parameters": 9}
                write_run(folder, task=target, method=method, values=values, metric=metric, **rest)
    return tmp_path


def test_few_shot_has_its_own_table_by_target_and_number_of_examples(few_shot):
    text = report.make_report(ReportConfig(dir=str(few_shot)))
    assert not (few_shot / "report" / "table.md").exists() and "## A study: few-shot" in text
    assert rows_of(few_shot / "report" / "few-shot.md") == [
        ["glue/rte accuracy", "single", "9", "1", "50.00 ± 1.41", "**60.00** ± 1.41"],
        ["glue/rte accuracy", "scalearn", "7", "1", "**55.00** ± 1.41", "58.00 ± 1.41"],
        ["glue/cola matthews", "single", "9", "1", "25.00 ± 0.00", "30.00 ± 0.00"],
        ["glue/cola matthews", "scalearn", "7", "1", "**27.50** ± 0.00", "-"],
        ["average", "single", "", "", "37.50", "45.00"],
        ["average", "scalearn", "", "", "**41.25**", "-"],
    ]
    assert (few_shot / "report" / "few-shot.tex").read_text().count(r"\midrule") == 3
    rows = list(csv.DictReader((few_shot / "report" / "few-shot.csv").read_text().splitlines()))
    assert [(row["method"], row["shots"]) for row in rows] == [
        *[("single", "4")] * 2,
        *[("single", "16")] * 2,
        *[("scalearn", "4")] * 2,
        ("scalearn", "16"),
    ]


def test_few_shot_and_probing_cells_stay_out_of_the_main_table(few_shot):
    write_run(few_shot / "glue/rte/single", task="glue/rte", values=(0.9, 0.9))
    write_probe(few_shot, "glue/rte", {"glue/rte": 1.0}, values=(0.5, 0.7))
    write_probe(few_shot, "glue/rte", {"glue/rte": 0.5, "glue/mnli": 2.0}, values=(0.25, 0.5))
    text = report.make_report(ReportConfig(dir=str(few_shot)))
    assert rows_of(few_shot / "report" / "table.md") == [["single", "0", "1", "90.00 ± 0.00"]]
    assert "2 probing results" in text
    lines = (few_shot / "report" / "probing.csv").read_text().splitlines()
    assert lines == [
        "target,source_1,coefficient_1,source_2,coefficient_2,metric,num_seeds,lost_seeds,mean,sd,test_examples,"
        "test_available,standard_error,transfer_parameters,head_parameters",
        f"glue/rte,glue/rte,1.0,,,accuracy,2,,0.6,{np.std([0.5, 0.7], ddof=1)},,,,0,1",
        f"glue/rte,glue/rte,0.5,glue/mnli,2.0,accuracy,2,,0.375,{np.std([0.25, 0.5], ddof=1)},,,,0,1",
    ]


def test_csv_keeps_full_precision(study):
    report.make_report(ReportConfig(dir=str(study), out=str(study / "out")))
    rows = list(csv.DictReader((study / "out" / "table.csv").read_text().splitlines()))
    assert len(rows) == 5
    row = next(row for row in rows if (row["method"], row["target"]) == ("single", "glue/rte"))
    assert float(row["sd"]) == pytest.approx(np.std([0.5, 0.6], ddof=1), abs=1e-15)


def test_without_matplotlib_the_table_still_comes(study, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    report.make_report(ReportConfig(dir=str(study)))
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not list((study / "report").glob("*.png"))


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path / "a", task="glue/rte", values=(0.5,), examples=(5, 9))
    text = report.make_report(ReportConfig(dir=str(tmp_path)))
    assert "±" not in text and "average" not in text and "in percent, one seed; test examples" in text


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"main_metric": "x", "seeds": {}}', '{"seeds": 3}'])
def test_damaged_results_are_named(study, content):
    (study / "scalearn" / "results.json").write_text(content)
    with pytest.raises(InputError, match="scalearn"):
        report.make_report(ReportConfig(dir=str(study)))


def test_averages_wait_for_all_targets_of_the_study(tmp_path):
    for target, value in (("glue/rte", 0.5), ("glue/mrpc", 0.7)):
        write_run(tmp_path / target / "single", task=target, values=(value, value))
    targets = ["glue/rte", "glue/mrpc", "glue/cola"]
    write_study(tmp_path, targets=targets, methods=["single"], published="glue/roberta-base")
    text = report.make_report(ReportConfig(dir=str(tmp_path)))
    assert "60.00" not in text and "| single | 0 " in " ".join(text.split())
    write_run(tmp_path / "glue/cola/single", task="glue/cola", values=(0.6, 0.6))
    assert "60.00" in report.make_report(ReportConfig(dir=str(tmp_path)))


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
