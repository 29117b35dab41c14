"""``scalearn plan``: its figures are those of the run's own programs, and it writes nothing."""

import json

import numpy as np
import pytest

from scalearn_jax import cli
from scalearn_jax.cli import commands, listing
from scalearn_jax.config import PlanAdapterConfig
from scalearn_jax.stages import pipeline
from scalearn_jax.stages import program as training
from scalearn_jax.stages.planning import extrapolation, forecast, workload
from scalearn_jax.stages.planning import plan as preview
from scalearn_jax.train import memory
from scalearn_jax.train.state import count_parameters
from tests.support import tiny_backbone

SHORT = dict(max_steps=5, batch_size=8, eval_every=2, max_train_samples=100, max_eval_samples=16, eval_batch_size=8)
LIMIT = 8_000_000
PLAIN = dict(num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # compiles fast


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), **PLAIN))


def config_of(backbone, **changes):
    settings = dict(task="builtin/topic", backbone=backbone, method="head", max_length=16, **SHORT) | changes
    return PlanAdapterConfig(**settings)


@pytest.fixture(scope="module")
def setup(backbone):
    return pipeline.adapter_setups(config_of(backbone))[0]


@pytest.fixture(scope="module")
def planned(backbone, tmp_path_factory):
    """A plan on a machine with little memory, made in an empty folder, and what is then in that folder."""
    empty = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(empty)
        patch.setattr(memory, "available", lambda: LIMIT)
        result = preview.plan(config_of(backbone, out="out"))
    return result, list(empty.iterdir())


def test_figures_are_those_of_the_runs_own_step(planned, setup):
    schedule = training.make_schedule(setup.config, setup.method, len(setup.data.train))
    step, state = workload.compiled_training(setup, schedule)
    result, trained = planned[0], planned[0]["programs"][0]
    compiled = step.lower(state, setup.frozen, next(training.make_program([setup], schedule).batches)).compile()
    found = memory.of_program(compiled)
    assert trained["memory"] == found._asdict() | {"peak": found.peak}
    assert trained["flops"] == compiled.cost_analysis()["flops"] > 0
    assert result["parameters"] == count_parameters(setup.trainable)
    rows, _ = training.training_rows(setup, schedule.num_steps)
    assert trained["rows"] == max(rows) and trained["length"] == 16


def test_calls_cover_the_schedule(planned):
    result, _ = planned
    calls = {name: sum(p["calls"] for p in result["programs"] if p["name"] == name) for name in ("train", "evaluate")}
    assert (result["steps"], result["evaluations"]) == (5, 3)
    assert calls == {"train": 5, "evaluate": 3 * 2 + 2}  # two batches of development data, and two of test data


def test_the_total_is_the_sum_of_its_parts(planned):
    result, _ = planned
    seconds, programs = dict(result["seconds"]), result["programs"]
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert seconds["train"] + seconds["evaluate"] == pytest.approx(sum(p["seconds"] * p["calls"] for p in programs))
    assert seconds["compile"] == pytest.approx(sum(p["compile_seconds"] for p in programs))
    assert result["memory"]["needed"] == max(p["memory"]["peak"] for p in programs)
    assert result["memory"]["fits"] is True


def test_suggestions_are_compiled_and_fit(planned):
    found = planned[0]["suggestions"]
    for name, now in (("batch_size", 8), ("seeds", 1)):
        best = found[name]
        assert best["verified"] and best["value"] > now
        assert best["peak"] <= memory.SHARE * LIMIT
    largest = max(p["memory"]["peak"] for p in planned[0]["programs"] if p["name"] == "train")
    assert found["remat"]["saves"] == largest - found["remat"]["peak"]


def test_nothing_is_written(planned):
    assert planned[1] == []


def test_the_table_names_what_json_holds(planned):
    text = listing.forecast(json.loads(listing.as_json(planned[0])))
    for word in ("batch size 8", "5 steps, 3 evaluations", "fits", "--remat", "number of seeds together", "x 16"):
        assert word in text


def test_what_does_not_fit_is_not_called(setup):
    schedule = training.make_schedule(setup.config, setup.method, len(setup.data.train))
    step, state = workload.compiled_training(setup, schedule)
    evaluation = workload.workload(setup, schedule, step)[-1]
    program, after = forecast.measure(evaluation, setup, state, available=1000)
    assert program.memory.peak > 1000 and program.seconds is None and after is state
    found = forecast.Forecast([program], schedule, count_parameters(setup.trainable), 1.0, 1000)
    assert found.seconds["total"] is None
    text = listing.forecast(preview.to_dict(setup, found) | {"suggestions": None})
    assert "does not fit (evaluate needs most: lower --eval-batch-size)" in text and "time         unknown" in text


def test_the_command_prints_a_table_or_json(planned, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(preview, "plan", lambda config: asked.append(config) or planned[0])
    monkeypatch.setattr(commands, "_prepare", lambda: None)
    argv = ["plan", "transfer", "--target", "builtin/topic", "--backbone", "b"]
    assert cli.main(argv) == 0 and "5 steps, 3 evaluations" in capsys.readouterr().out
    assert cli.main([*argv, "--json", "--no-suggest", "--out", "o"]) == 0
    assert json.loads(capsys.readouterr().out) == planned[0]
    assert [(config.suggest, config.target) for config in asked] == [(True, "builtin/topic"), (False, "builtin/topic")]


def test_a_head_on_features_is_planned_with_its_encoder(backbone):
    result = preview.plan(config_of(backbone, backbone_dropout=False))
    calls = {(p["name"], p["calls"]) for p in result["programs"]}
    assert calls == {("train", 5), ("encode", 5), ("encode", 2), ("evaluate", 2)}  # 40 and 16 examples, 8 at once
    assert result["suggestions"] is None


@pytest.mark.parametrize("fixed", [0, 50])
@pytest.mark.parametrize("each", [1.0, 3.0])
@pytest.mark.parametrize("tries", [1, 2])
def test_the_largest_size_fits_and_the_next_would_not(fixed, each, tries):
    peak = lambda size: int(fixed + each * size)  # noqa: E731
    points = [(4, peak(4)), (8, peak(8))]
    best = extrapolation.largest(peak, points, now=8, slope=each, budget=500, most=10_000, tries=tries)
    assert best.verified and peak(best.value) <= 500 < peak(best.value + 1) and not best.enough


def test_a_size_that_does_not_fit_is_made_smaller():
    best = extrapolation.largest(lambda size: 10 * size, [(64, 640)], now=64, slope=10, budget=100, most=64, tries=1)
    assert best == (10, 100, True, False)
    steep = extrapolation.largest(lambda size: size**2, [(4, 16)], now=4, slope=4, budget=100, most=64, tries=2)
    assert steep.value**2 <= 100  # growth that is not affine costs a try, not a wrong answer
    assert (
        extrapolation.largest(lambda size: 100 * size, [(2, 200)], now=2, slope=100, budget=10, most=9, tries=1) is None
    )


def test_memory_of_the_system_is_told():
    assert memory.available() > 2**20
    assert np.isclose(memory.Memory(10, 5, 4, 3).peak, 16)
