"""Reading the cells of a study, and folders of plain runs."""

import json

import pytest

from scalearn_jax.errors import InputError
from scalearn_jax.studies.results import read_results, results_frame
from scalearn_jax.studies.tables import describe_seeds
from tests.support.fake_runs import write_probe, write_run, write_study


@pytest.fixture
def study(tmp_path):
    """Plain, few-shot and probing cells of one target side by side, and source adapters."""
    write_study(tmp_path, targets=["glue/rte"], methods=["scalearn", "single"], shots=[16, 4])
    write_run(tmp_path / "adapters/glue/rte", task="glue/rte")
    write_run(tmp_path / "adapters/4-shot/glue/rte", task="glue/rte")
    write_run(tmp_path / "glue/rte/single", task="glue/rte", values=(0.5, 0.6), seeds=(7, 3))
    for shots in (4, 16):
        write_run(tmp_path / f"glue/rte/{shots}-shot/single", task="glue/rte")
    write_run(tmp_path / "glue/rte/4-shot/scalearn", task="glue/rte", method="scalearn", sources=("glue/rte",))
    write_probe(tmp_path, "glue/rte", {"glue/rte": 10.0})
    write_probe(tmp_path, "glue/rte", {"glue/rte": 0.5, "glue/mnli": 1.0})
    write_probe(tmp_path, "glue/rte", {"glue/rte": 2.0})
    return tmp_path


def test_few_shot_and_probing_cells_stand_beside_plain_ones(study):
    found = [(r.method, r.shots, r.coefficients) for r in read_results(study)]
    assert found == [
        ("scalearn", 4, ()),
        ("single", None, ()),
        ("single", 4, ()),
        ("single", 16, ()),
        ("self=2", None, (2.0,)),
        ("self=10", None, (10.0,)),
        ("self=0.5+glue-mnli=1", None, (0.5, 1.0)),
    ]


def test_the_draws_of_a_few_shot_cell_are_one_result(tmp_path):
    write_study(tmp_path, targets=["glue/rte"], methods=["scalearn", "single"], shots=[4], draws=11)
    for draw, values in ((10, (0.2, 0.4)), (2, (0.5, 0.7)), (0, (0.9, 0.9))):
        write_run(tmp_path / f"glue/rte/4-shot/draw-{draw}/single", task="glue/rte", values=values, seeds=(0, 1))
    [found] = read_results(tmp_path)
    assert (found.method, found.shots, found.seeds, found.draw) == ("single", 4, (0, 2, 10), None)
    assert found.values == pytest.approx((0.9, 0.6, 0.3)) and found.sd == pytest.approx(0.3)
    assert describe_seeds([found]) == "mean ± standard deviation over 3 draws"


def test_seeds_are_in_the_order_of_the_values(study):
    (plain,) = (r for r in read_results(study) if r.method == "single" and r.shots is None)
    assert plain.seeds == (7, 3) and plain.values == (0.5, 0.6)


def test_a_task_may_be_called_like_a_few_shot_folder(tmp_path):
    write_study(tmp_path, targets=["my/4-shot", "my/probe"], methods=["single"])
    for name in ("my/4-shot", "my/probe"):
        write_run(tmp_path / name / "single", task=name)
    assert [(r.target, r.shots, r.coefficients) for r in read_results(tmp_path)] == [
        ("my/4-shot", None, ()),
        ("my/probe", None, ()),
    ]


def test_plain_runs_need_no_study(tmp_path):
    write_run(tmp_path / "a", task="glue/rte")
    write_run(tmp_path / "b", task="glue/rte", method="fixed", sources=("glue/rte",), coefficients=(2.0,))
    assert [(r.method, r.shots, r.coefficients) for r in read_results(tmp_path)] == [
        ("fixed", None, ()),
        ("single", None, ()),
    ]


@pytest.mark.parametrize("coefficients", [None, (), (0.5,), ("x", "y")])
def test_damaged_coefficients_name_their_cell(study, coefficients):
    path = study / "glue/rte/probe/self=0.5+glue-mnli=1/run.json"
    info = json.loads(path.read_text())
    info["spec"]["combiner_options"] = [] if coefficients is None else [["coefficients", coefficients]]
    path.write_text(json.dumps(info))
    with pytest.raises(InputError, match="self=0.5.glue-mnli=1: run.json or results.json is damaged"):
        read_results(study)


def test_damaged_seeds_name_their_cell(study):
    (study / "glue/rte/4-shot/single/results.json").write_text(
        json.dumps({"main_metric": "accuracy", "seeds": {"first": {"test": {"accuracy": 1.0}}}})
    )
    with pytest.raises(InputError, match="4-shot/single: .*'first'"):
        read_results(study)


def test_the_same_cell_twice_is_refused_with_its_number_of_examples(study):
    write_run(study / "elsewhere/4-shot/single", task="glue/rte")
    with pytest.raises(InputError, match="both single on glue/rte with 4 examples"):
        read_results(study)


@pytest.mark.parametrize("values", [{"name": None}, {"targets": "glue/rte"}, {"methods": {}}, {"backbone": 3}])
def test_a_damaged_study_is_named(study, values):
    write_study(study, **values)
    with pytest.raises(InputError, match="study.json is damaged"):
        read_results(study)


def test_the_frame_holds_every_result_and_every_seed(study):
    frame, found = results_frame(study), read_results(study)
    assert frame["method"].tolist() == [result.method for result in found]
    assert [None if shots != shots else shots for shots in frame["shots"].astype(float)] == [r.shots for r in found]
    assert frame["mean"].tolist() == [result.mean for result in found]
    seeds = frame.explode(["seeds", "scores"])
    plain = seeds[(seeds["method"] == "single") & seeds["shots"].isna()]
    assert list(zip(plain["seeds"], plain["scores"], strict=True)) == [(7, 0.5), (3, 0.6)]
    assert len(seeds) == sum(len(result.values) for result in found)


@pytest.mark.parametrize("score", ["NaN", "Infinity", "1.5", '"0.5"', "true"])
def test_a_score_must_be_a_number_that_a_metric_gives(study, score):
    path = study / "glue/rte/4-shot/single/results.json"
    results = '{"main_metric": "accuracy", "seeds": {"0": {"test": {"accuracy": SCORE}}}}'
    path.write_text(results.replace("SCORE", score))
    with pytest.raises(InputError, match="4-shot/single"):
        read_results(study)
