"""``scalearn plan``: its figures are those of the run's own programs, and it writes nothing."""

import dataclasses
import json

import numpy as np
import pytest

from scalearn_jax import cli
from scalearn_jax.cli import commands, listing
from scalearn_jax.config import PlanAdapterConfig, TransferConfig
from scalearn_jax.stages import pipeline
from scalearn_jax.stages import program as training
from scalearn_jax.stages.planning import estimate, forecast
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


@pytest.mark.slow
def test_figures_are_those_of_the_runs_own_step(planned, setup):
    schedule = training.make_schedule(setup.config, setup.method, len(setup.data.train))
    step, state = forecast.compiled_training(setup, schedule)
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


def test_the_largest_batch_is_where_the_line_through_two_compiled_sizes_meets_the_memory(planned, setup):
    largest = planned[0]["suggestions"]["batch_size"]
    assert largest["value"] % 8 == 0 and 8 < largest["value"] <= len(setup.data.train)
    assert largest["peak"] <= memory.SHARE * LIMIT

    schedule = training.make_schedule(setup.config, setup.method, len(setup.data.train))
    step, state = forecast.compiled_training(setup, schedule)

    def peak(size):
        config = dataclasses.replace(setup.config, batch_size=size)
        *_, (batch, _) = forecast.train_batches(dataclasses.replace(setup, config=config), schedule.num_steps)
        return memory.of_program(step.lower(state, setup.frozen, batch).compile()).peak

    slope = (peak(64) - peak(8)) / 56
    found = forecast.Forecast(
        [forecast.MeasuredProgram("train", 8, 16, 5, memory.Memory(peak(8), 0, 0, 0), 1.0, 1.0, None)],
        schedule,
        {},
        1.0,
        int((peak(8) + 34.5 * slope) / memory.SHARE),
    )
    assert preview.largest_batch(setup, step, state, found) == {"value": 40, "peak": round(peak(8) + 32 * slope)}
    assert preview.largest_batch(setup, step, state, found._replace(available=1000)) is None
    assert preview.largest_batch(setup, step, state, found._replace(available=None)) is None
    assert preview.largest_batch(setup, step, state, found._replace(available=2**40))["value"] == 96  # of 100 examples


def test_nothing_is_written(planned):
    assert planned[1] == []


def test_the_table_names_what_json_holds(planned):
    text = listing.format_plan(json.loads(json.dumps(planned[0])))
    for word in ("batch size 8", "5 steps, 3 evaluations", "fits", "largest      --batch-size", "an estimate", "x 16"):
        assert word in text


def test_what_does_not_fit_is_not_called(setup):
    schedule = training.make_schedule(setup.config, setup.method, len(setup.data.train))
    step, state = forecast.compiled_training(setup, schedule)
    evaluation = forecast.workload(setup, schedule, step)[-1]
    program, after = forecast.measure(evaluation, setup, state, available=1000)
    assert program.memory.peak > 1000 and program.seconds is None and after is state
    found = forecast.Forecast([program], schedule, count_parameters(setup.trainable), 1.0, 1000)
    assert found.seconds["total"] is None
    text = listing.format_plan(preview.to_dict(setup, found) | {"suggestions": None})
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


def test_memory_of_the_system_is_told():
    assert memory.available() > 2**20
    assert np.isclose(memory.Memory(10, 5, 4, 3).peak, 16)


def test_solving_costs_some_passes_over_its_examples(backbone, setup):
    """Of 100 examples in rows of their own, 13 batches of 8; and 16 of development and test set each."""
    given = dict(target="builtin/topic", backbone=backbone, out="o", fit="solve", packed=False)
    sizes = dict(batch_size=8, eval_batch_size=8)
    row = estimate.forward_flops(setup.spec.backbone, setup.task.max_length, 4 * setup.spec.backbone.hidden_size // 16)

    def cost(method):
        config = TransferConfig(method=method, **given, **sizes)
        return estimate.cost(config, setup.task, setup.spec.backbone, setup.data, 4)

    assert cost("constant") == (0, (104 + 32) * row)
    assert cost("best-source") == (4, (4 * 104 + 104 + 32) * row)
    assert cost("scalearn-uniform++") == (4 + 24, ((4 + 3 * 24 + 1) * 104 + 32) * row)
