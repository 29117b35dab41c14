"""Studies: planning, checking, running what is missing. Training itself is replaced by a fake."""

import dataclasses
import json
import math
import sys
import types
from pathlib import Path

import pytest

import scalearn_jax.stages
from scalearn_jax.config import AdapterConfig, RunConfig, StudyConfig, TransferConfig
from scalearn_jax.data import splits, tokens
from scalearn_jax.errors import STOPPED, InputError
from scalearn_jax.io.atomic_folder import Busy, atomic_folder
from scalearn_jax.models import pretrained
from scalearn_jax.models.backbones import BackboneSpec
from scalearn_jax.studies import cells as plan
from scalearn_jax.studies import figures
from scalearn_jax.studies import run as study
from scalearn_jax.studies.checks import study_problems
from tests.support.fake_runs import write_run

STUDY = StudyConfig(
    name="Two targets",
    backbone="b",
    sources=("glue/rte", "glue/mrpc"),
    targets=("glue/rte", "glue/cola"),
    methods=("single", "scalearn", "gentle"),
    seeds=(0, 1),
    stage1={"max_steps": 7, "reduction_factor": 2},
    stage2={"max_steps": 3, "reduction_factor": 4},
    tasks={"glue/cola": {"max_train_samples": 9}},
    methods_options={"gentle": {"method": "scalearn", "omega_dropout": 0.0}, "single": {"epochs": 2}},
)


@pytest.fixture
def pipeline(monkeypatch):
    """Replaces training, reading of data and backbone, and drawing; ``failing`` names cells that break."""
    calls, failing, read, left = [], set(), [], [math.inf]

    def stop_after(count):
        left[0] = math.inf if count is None else count

    def train(config):
        task = getattr(config, "task", None) or config.target
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        calls.append(config)
        if any(part in config.out for part in failing):
            raise failing_error(config.out)
        sources = tuple(source.split("adapters/")[1] for source in getattr(config, "sources", ()))
        write_run(
            config.out,
            task=task,
            method=config.method,
            values=[0.5 + seed / 10 for seed in config.seeds],
            sources=sources,
        )

    def failing_error(out):
        return InputError("bad data") if "cola" in out else RuntimeError("broken")

    spec = BackboneSpec("bert", 30, 8, 2, 2, 16, 140, 2, 0, 0, 1e-12)
    monkeypatch.setattr(pretrained, "load_hashed_backbone", lambda path, revision, **_: ({}, spec, "hash"))
    tokenizer = types.SimpleNamespace(num_special_tokens_to_add=lambda pair: 2)
    monkeypatch.setattr(tokens, "load_tokenizer", lambda path, revision: tokenizer)
    monkeypatch.setattr(splits, "load_splits", lambda task, **where: read.append(task.name))
    monkeypatch.setattr(figures, "draw_all", lambda results, out: None)
    fake = types.SimpleNamespace(train_adapter=train, transfer=train, calls=calls, failing=failing, read=read)
    fake.stop_after = stop_after
    monkeypatch.setitem(sys.modules, "scalearn_jax.stages.pipeline", fake)
    monkeypatch.setattr(scalearn_jax.stages, "pipeline", fake, raising=False)
    return fake


def change(**values):
    return StudyConfig(**{**{f: getattr(STUDY, f) for f in STUDY.__dataclass_fields__}, **values})


def test_cells_resolve_overrides_in_order():
    cells = {cell.name: cell.config for cell in plan.cells(STUDY, "out")}
    assert list(cells)[:2] == ["adapters/glue/rte", "adapters/glue/mrpc"] and len(cells) == 8
    source, single = cells["adapters/glue/rte"], cells["glue/cola/single"]
    assert isinstance(source, AdapterConfig) and source.seeds == (0,)
    assert (source.max_steps, source.reduction_factor) == (7, 2)
    assert isinstance(single, TransferConfig) and single.seeds == (0, 1) and single.sources == ()
    assert (single.max_steps, single.epochs, single.max_train_samples, single.reduction_factor) == (3, 2, 9, 4)
    gentle = cells["glue/cola/gentle"]
    assert isinstance(gentle, TransferConfig) and gentle.method == "scalearn" and gentle.omega_dropout == 0.0
    assert (gentle.max_steps, gentle.max_train_samples, gentle.reduction_factor) == (3, 9, None)
    assert len(gentle.sources) == 2


def test_sources_keep_their_order_so_that_weights_mean_what_they_say():
    sources = {cell.name: cell.config for cell in plan.cells(STUDY, "o")}["glue/rte/scalearn"].sources
    assert sources == tuple(f"o/adapters/{task}" for task in STUDY.sources)


def test_an_adapter_that_is_there_is_a_source_and_trains_no_cell():
    change_of = dict(sources=("glue/rte", "own=me/own@v1"), probe_sources=(("self", "own"),), probe_constants=(0.5,))
    study = change(targets=("glue/rte",), methods=("scalearn",), tasks={}, methods_options={}, **change_of)
    assert study_problems(study) == []
    configs = {cell.name: cell.config for cell in plan.cells(study, "o")}
    assert list(configs) == ["adapters/glue/rte", "glue/rte/scalearn", "glue/rte/probe/self=0.5+own=0.5"]
    for name in list(configs)[1:]:
        assert configs[name].sources == ("o/adapters/glue/rte", "own=me/own@v1")


def test_options_for_all_methods_reach_those_that_know_them():
    study = dataclasses.replace(
        STUDY, methods=("scalearn", "fusion"), methods_options={}, stage2={"omega_dropout": 0.1}
    )
    configs = {cell.name: cell.config for cell in plan.cells(study, "o")}
    assert study_problems(study) == []
    assert configs["glue/rte/scalearn"].omega_dropout == 0.1 and configs["glue/rte/fusion"].omega_dropout is None
    wrong = dataclasses.replace(study, methods_options={"fusion": {"omega_dropout": 0.1}})
    assert study_problems(wrong) == ["methods_options: fusion: 'omega_dropout' does not apply to this method"]


def test_good_study_has_no_problems():
    assert study_problems(STUDY) == []


@pytest.mark.parametrize(
    "values, message",
    [
        ({"targets": ("glue/rt",)}, "glue/rte"),
        ({"methods": ("scalern",), "methods_options": {}}, "did you mean 'scalearn'"),
        ({"methods": ("../x",), "methods_options": {"../x": {"method": "single"}}}, "a name starts with"),
        ({"targets": ()}, "targets: expected at least one"),
        ({"sources": ("glue/rte", "glue/rte"), "tasks": {}}, "'glue/rte' is listed twice"),
        ({"stage1": {"max_stps": 1}}, "stage1: unknown key 'max_stps'; did you mean 'max_steps'?"),
        ({"stage1": {"omega_init": 1.0}}, "stage1: unknown key 'omega_init'"),
        ({"stage2": {"out": "x"}}, "stage2: key 'out' is set by the study itself"),
        ({"stage2": {"method": "full"}}, "stage2: key 'method' is set by the study itself"),
        ({"stage2": {"max_steps": 0}}, "max_steps must be at least 1"),
        ({"tasks": {"glue/sst2": {}}}, "'glue/sst2' is neither a source nor a target"),
        ({"methods_options": {"soup": {}}, "methods": ("single",)}, "'soup' is not among"),
        ({"methods_options": {"single": {"omega_init": 2.0}}, "methods": ("single",)}, "'omega_init' does not apply"),
        ({"targets": ("my/task.yaml",)}, "a study names tasks, not files"),
        ({"sources": (), "tasks": {}}, "need source adapters; name source tasks"),
        ({"sources": ("a=x", "a=y"), "tasks": {}}, "sources: 'a' is listed twice"),
        ({"sources": ("glue/rte=x",), "shots": (4,)}, "'glue/rte' is an adapter that is there, but few-shot"),
    ],
)
def test_problems_are_named(values, message):
    assert message in "; ".join(study_problems(change(**values)))


def test_all_problems_come_at_once_and_nothing_is_written(tmp_path, pipeline):
    bad = change(targets=("glue/rt",), methods=("scalern",), stage2={"x": 1}, tasks={}, methods_options={})
    with pytest.raises(InputError, match="my.yaml: 3 problems"):
        study.run_study(bad, str(tmp_path / "o"), where="my.yaml")
    assert not pipeline.calls and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_damaged_cell_elsewhere_does_not_cost_the_table(tmp_path, pipeline, capsys):
    study.run_study(STUDY, str(tmp_path / "o"))
    (tmp_path / "o/glue/cola/scalearn/results.json").write_text("{")
    assert study.run_study(STUDY, str(tmp_path / "o"), only="glue/rte") == 0
    captured = capsys.readouterr()
    assert "left out: " in captured.err and captured.out.count("| scalearn") == 2


def test_run_makes_every_cell_and_the_table(tmp_path, pipeline, capsys):
    assert study.run_study(STUDY, str(tmp_path / "o")) == 0
    out = capsys.readouterr().out
    assert len(pipeline.calls) == 8 and "[8/8] glue/cola/gentle  done  accuracy 55.00 ± 7.07" in out
    assert out.index("| single") < out.index("| scalearn") < out.index("| gentle")
    assert json.loads((tmp_path / "o" / "study.json").read_text())["study"]["name"] == "Two targets"


@pytest.mark.slow
def test_rerun_does_only_what_is_missing(tmp_path, pipeline, capsys):
    pipeline.failing.update({"cola/scalearn", "adapters/glue/mrpc"})
    assert study.run_study(STUDY, str(tmp_path / "o")) == 1
    captured = capsys.readouterr()
    assert "glue/cola/single  done" in captured.out and "5 of 8 cells failed" in captured.err
    assert "FAILED  RuntimeError: broken" in captured.out and "RuntimeError" in captured.err
    assert "FAILED  InputError: needs source adapters that are not there" in captured.out
    pipeline.failing.clear()
    pipeline.calls.clear()
    assert study.run_study(STUDY, str(tmp_path / "o")) == 0
    assert len(pipeline.calls) == 5 and "glue/cola/single  was there" in capsys.readouterr().out
    assert study.run_study(STUDY, str(tmp_path / "again")) == 0
    tables = [(tmp_path / out / "report" / "table.md").read_text() for out in ("o", "again")]
    assert tables[0] == tables[1]


def test_all_data_are_read_before_anything_trains(tmp_path, pipeline, monkeypatch):
    def read(task, **where):
        if task.name == "glue/cola":  # the last of the targets
            raise InputError("train.jsonl is empty")

    monkeypatch.setattr(splits, "load_splits", read)
    with pytest.raises(InputError, match="train.jsonl is empty"):
        study.run_study(STUDY, str(tmp_path / "o"))
    assert not pipeline.calls and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"stage2": {"max_length": 150}}, "glue/rte/single: --max-length 150 exceeds the backbone's 140 positions"),
        ({"tasks": {"glue/cola": {"max_length": 150}}}, "glue/cola/single: --max-length"),
        ({"stage1": {"reduction_factor": 9}}, "adapters/glue/rte: --reduction-factor 9"),
        ({"stage1": {"non_linearity": "rleu", "reduction_factor": 2}}, "adapters/glue/rte: .*did you mean 'relu'"),
        (
            {"methods": ("soup",), "methods_options": {"soup": {"weights": [1.0]}}},
            "--weights has 1 values for 2 sources",
        ),
    ],
)
def test_all_cells_are_checked_before_anything_trains(tmp_path, pipeline, values, message):
    with pytest.raises(InputError, match=message):
        study.run_study(change(**values), str(tmp_path / "o"))
    assert not pipeline.calls and not list(tmp_path.iterdir())


def test_everything_wrong_with_data_and_settings_is_told_at_once(tmp_path, pipeline, monkeypatch):
    def read(task, **where):
        raise InputError(f"{task.name}: unknown column")

    monkeypatch.setattr(splits, "load_splits", read)
    bad = change(tasks={"glue/cola": {"max_length": 150}})
    with pytest.raises(InputError) as error:
        study.run_study(bad, str(tmp_path / "o"), where="my.yaml")
    text = str(error.value)
    assert text.startswith("my.yaml: 6 problems: ") and "\n" not in text and not list(tmp_path.iterdir())
    assert all(part in text for part in ("glue/rte: unknown column", "glue/mrpc: unknown", "glue/cola/single: --max"))


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["no run.json", "half a results.json", "no results.json"])
def test_a_half_written_cell_is_made_again(tmp_path, pipeline, harm):
    study.run_study(STUDY, str(tmp_path / "o"))
    table = (tmp_path / "o/report/table.md").read_text()
    cell = tmp_path / "o/glue/cola/scalearn"
    harmed = cell / ("run.json" if "run" in harm else "results.json")
    harmed.write_text(harmed.read_text()[:20]) if "half" in harm else harmed.unlink()
    pipeline.calls.clear()
    assert study.run_study(STUDY, str(tmp_path / "o")) == 0
    assert [config.out for config in pipeline.calls] == [str(cell)]
    assert (tmp_path / "o/report/table.md").read_text() == table


def test_files_that_no_run_writes_are_never_removed(tmp_path, pipeline, capsys):
    study.run_study(STUDY, str(tmp_path / "o"), only="adapters/")
    (tmp_path / "o/glue/rte/single").mkdir(parents=True)
    (tmp_path / "o/glue/rte/single/notes.txt").write_text("mine")
    assert study.run_study(STUDY, str(tmp_path / "o")) == 1
    assert "is no whole run and holds notes.txt; move it away" in capsys.readouterr().out
    assert (tmp_path / "o/glue/rte/single/notes.txt").read_text() == "mine"


def test_a_backbone_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        study.run_study(change(backbone=str(tmp_path / "none")), str(tmp_path / "o"))
    assert not list(tmp_path.iterdir())


def test_a_sentence_encoder_that_is_not_there_is_told_before_anything_trains(tmp_path, pipeline, monkeypatch):
    def load(path, revision, known=pretrained.load_hashed_backbone, **options):
        if path == "none":
            raise InputError("backbone 'none' is not there")
        return known(path, revision, **options)

    monkeypatch.setattr(pretrained, "load_hashed_backbone", load)
    soup = {"methods": ("soup",), "methods_options": {"soup": {"top_sources": 2, "embedder": "none"}}}
    with pytest.raises(InputError, match="--embedder: backbone 'none' is not there"):
        study.run_study(change(**soup), str(tmp_path / "o"))
    assert not pipeline.calls and not list(tmp_path.iterdir())


def test_pickles_are_read_beforehand_where_every_cell_may(tmp_path, pipeline, monkeypatch):
    asked = []

    def load(path, revision, known=pretrained.load_hashed_backbone, **options):
        asked.append((path, options["allow_pickle"]))
        return known(path, revision)

    monkeypatch.setattr(pretrained, "load_hashed_backbone", load)
    allowed = {"allow_pickle": True}
    soup = {"methods": ("soup",), "methods_options": {"soup": {"top_sources": 2, "embedder": "e"}}}
    study.run_study(change(stage2=STUDY.stage2 | allowed, **soup), str(tmp_path / "a"))
    assert asked == [("b", False), ("e", True)]  # the source adapters may not
    study.run_study(change(stage1=STUDY.stage1 | allowed, stage2=STUDY.stage2 | allowed), str(tmp_path / "b"))
    assert asked[2:] == [("b", True)]


def test_only_runs_what_it_names(tmp_path, pipeline):
    study.run_study(STUDY, str(tmp_path / "o"), only="adapters/")
    assert [config.task for config in pipeline.calls] == ["glue/rte", "glue/mrpc"]
    assert set(pipeline.read) == {"glue/rte", "glue/mrpc"}  # of no other cell
    with pytest.raises(InputError, match="no cell of the study"):
        study.run_study(STUDY, str(tmp_path / "o"), only="nothing")


def test_dry_run_writes_nothing(tmp_path, pipeline, capsys):
    assert study.run_study(STUDY, str(tmp_path / "o"), dry_run=True) == 0
    assert capsys.readouterr().out.count("to do") == 8 and not list(tmp_path.iterdir())


def test_folder_of_another_study_is_refused(tmp_path, pipeline):
    out = str(tmp_path / "o")
    study.run_study(STUDY, out, only="adapters/glue/rte")
    with pytest.raises(InputError, match=r"another study \(seeds: there \[0, 1\], here \[2\]\)"):
        study.run_study(change(seeds=(2,)), out)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no study"):
        study.run_study(STUDY, str(tmp_path / "x"))
    (tmp_path / "o" / "study.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        study.run_study(STUDY, out)


FEW = change(targets=("glue/rte",), methods=("single", "scalearn"), methods_options={}, tasks={}, shots=(4, 16))


def test_few_shot_targets_bring_their_own_few_shot_adapter():
    cells = {cell.name: cell.config for cell in plan.cells(FEW, "o")}
    assert list(cells) == [
        "adapters/glue/mrpc",
        "adapters/4-shot/glue/rte",
        "adapters/16-shot/glue/rte",
        "glue/rte/4-shot/single",
        "glue/rte/4-shot/scalearn",
        "glue/rte/16-shot/single",
        "glue/rte/16-shot/scalearn",
    ]
    assert cells["glue/rte/4-shot/scalearn"].sources == ("o/adapters/4-shot/glue/rte", "o/adapters/glue/mrpc")
    own, single = cells["adapters/16-shot/glue/rte"], cells["glue/rte/16-shot/single"]
    assert (own.max_train_samples, own.seeds, own.max_steps) == (16, (0,), single.max_steps)
    assert single.max_train_samples == 16 and single.seeds == (0, 1)
    assert cells["adapters/glue/mrpc"].max_train_samples is None
    assert own.reduction_factor == cells["adapters/glue/mrpc"].reduction_factor == 2  # one bank holds one kind


def test_examples_are_drawn_and_the_targets_own_adapter_left_out():
    cells = {cell.name: cell.config for cell in plan.cells(dataclasses.replace(FEW, draws=2), "o")}
    assert [name for name in cells if name.startswith("glue/rte/4")] == [
        f"glue/rte/4-shot/draw-{draw}/{method}" for draw in (0, 1) for method in ("single", "scalearn")
    ]
    second = cells["glue/rte/4-shot/draw-1/scalearn"]
    assert (second.max_train_samples, second.sample_seed) == (4, 1)
    assert second.sources == ("o/adapters/4-shot/draw-1/glue/rte", "o/adapters/glue/mrpc")
    assert cells["adapters/4-shot/draw-1/glue/rte"].sample_seed == 1
    without = {cell.name: cell.config for cell in plan.cells(dataclasses.replace(FEW, own_source=False), "o")}
    assert without["glue/rte/4-shot/scalearn"].sources == ("o/adapters/glue/mrpc",)
    assert not any(name.startswith("adapters/4-shot") for name in without)


def test_solved_cells_leave_out_what_training_alone_has_a_use_for():
    options = {"solved": {"method": "scalearn-uniform++", "fit": "solve"}}
    study = dataclasses.replace(FEW, methods=("scalearn", "solved"), methods_options=options)
    assert study_problems(study) == [] and "max_steps" in study.stage2
    cells = {cell.name: cell.config for cell in plan.cells(study, "o")}
    assert cells["glue/rte/4-shot/solved"].fit == "solve" and cells["glue/rte/4-shot/solved"].max_steps is None
    assert cells["glue/rte/4-shot/scalearn"].max_steps == study.stage2["max_steps"]


def test_a_few_shot_study_may_say_how_single_adapters_learn():
    study = dataclasses.replace(FEW, methods=("scalearn",), methods_options={"single": {"learning_rate": 1e-3}})
    assert study_problems(study) == []
    cells = {cell.name: cell.config for cell in plan.cells(study, "o")}
    assert cells["adapters/4-shot/glue/rte"].learning_rate == 1e-3


def test_probing_takes_every_combination():
    values = dict(methods=(), targets=("glue/rte", "glue/mrpc"), methods_options={}, tasks={}, seeds=(3,))
    pairs = change(**values, probe_sources=(("self",), ("glue/mrpc",)), probe_constants=(0.0, 0.5))
    assert study_problems(pairs) == []
    cells = {cell.name: cell.config for cell in plan.cells(pairs, "o") if not cell.is_source}
    assert list(cells) == [
        *(f"glue/rte/probe/{name}={value}" for name in ("self", "glue-mrpc") for value in ("0", "0.5")),
        *(f"glue/mrpc/probe/self={value}" for value in ("0", "0.5")),  # where glue/mrpc is itself
    ]
    config = cells["glue/rte/probe/glue-mrpc=0.5"]
    assert (config.method, config.coefficients, config.sources) == ("fixed", (0.5,), ("o/adapters/glue/mrpc",))
    grid = change(
        **values | {"targets": ("glue/rte",)}, probe_sources=(("self", "glue/mrpc"),), probe_constants=(0.0, 1.0)
    )
    cells = {cell.name: cell.config for cell in plan.cells(grid, "o") if not cell.is_source}
    assert {config.coefficients for config in cells.values()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert cells["glue/rte/probe/self=1+glue-mrpc=0"].sources == ("o/adapters/glue/rte", "o/adapters/glue/mrpc")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"probe_sources": (("glue/rte",),)}, "expected both or neither"),
        ({"probe_sources": (("glue/cola",),), "probe_constants": (1.0,)}, "'glue/cola' is not among the sources"),
        ({"probe_sources": (("self",),), "probe_constants": (1.0,)}, "'glue/cola' is not among the sources"),
        (
            {
                "probe_sources": (("self", "glue/rte"),),
                "probe_constants": (1.0,),
                "targets": ("glue/rte",),
                "tasks": {},
            },
            "names no source, or one twice, for target 'glue/rte'",
        ),
        (
            {"probe_sources": (("glue/rte",),), "probe_constants": (0.1234567, 0.12345671)},
            "two cells would be called 'glue/rte/probe/glue-rte=0.123457'",
        ),
        ({"tasks": {"glue/cola": {"stage2": {"epoch": 3}}}}, "tasks: glue/cola: stage2: unknown key 'epoch'"),
        ({"tasks": {"glue/cola": {"stage1": 3}}}, "tasks: glue/cola: stage1: expected keys and values, got 3"),
        ({"tasks": {"glue/cola": {"seeds": "all"}}}, "tasks: glue/cola: key 'seeds': expected a list"),
    ],
)
def test_problems_of_probing_and_tasks_are_named(values, message):
    assert message in "; ".join(study_problems(change(**values)))


@pytest.mark.parametrize(
    "values",
    [{"draws": 2}, {"own_source": False}, {"shots": (0,)}, {"shots": (4, 4)}, {"probe_constants": (float("nan"),)}],
)
def test_bad_numbers_are_refused(values):
    with pytest.raises(InputError, match=next(iter(values))):
        change(**values)


def test_a_task_may_have_its_own_seeds_and_stages():
    tasks = {"glue/rte": {"seeds": [7], "batch_size": 5, "stage1": {"max_steps": 11}, "stage2": {"max_steps": 13}}}
    cells = {cell.name: cell.config for cell in plan.cells(change(tasks=tasks), "o")}
    source, target = cells["adapters/glue/rte"], cells["glue/rte/scalearn"]
    assert (source.seeds, source.max_steps, source.batch_size) == ((0,), 11, 5)
    assert (target.seeds, target.max_steps, target.batch_size) == ((7,), 13, 5)
    assert cells["glue/cola/scalearn"].seeds == (0, 1)


def test_adapters_of_another_study_are_used(tmp_path, pipeline):
    study.run_study(STUDY, str(tmp_path / "one"), only="adapters/")
    assert len(pipeline.calls) == 2
    other = change(name="Other", adapters=str(tmp_path / "one" / "adapters"), methods=("scalearn",), methods_options={})
    study.run_study(other, str(tmp_path / "two"))
    assert len(pipeline.calls) == 4 and not (tmp_path / "two" / "adapters").exists()
    assert pipeline.calls[-1].sources[0] == str(tmp_path / "one" / "adapters" / "glue/rte")


def test_a_study_may_grow_but_not_change(tmp_path, pipeline):
    out = str(tmp_path / "o")
    study.run_study(change(methods=("single",), methods_options={"single": {"epochs": 2}}), out)
    pipeline.calls.clear()
    assert study.run_study(STUDY, out) == 0
    assert [config.method for config in pipeline.calls] == ["scalearn"] * 4
    with pytest.raises(InputError, match="another study"):  # a cell that is there would be left out
        study.run_study(change(methods=("single",), methods_options={"single": {"epochs": 2}}), out)
    with pytest.raises(InputError, match="another study"):
        study.run_study(change(stage2={"max_steps": 4}), out)


@pytest.mark.slow
def test_shares_make_all_cells_between_them(tmp_path, pipeline, capsys):
    names = [[cell.name for cell in study._share(plan.cells(STUDY, "o"), (number, 3))] for number in (1, 2, 3)]
    sources = {"adapters/glue/rte", "adapters/glue/mrpc"}
    targets = [set(share) - sources for share in names]
    assert all(sources <= set(share) for share in names)  # each can make the adapters it needs
    assert {name for share in targets for name in share} | sources == {cell.name for cell in plan.cells(STUDY, "o")}
    assert sum(map(len, targets)) == 6 and names[0][0] != names[1][0]
    for number in (1, 2, 3):
        assert study.run_study(STUDY, str(tmp_path / "o"), share=(number, 3)) == 0
    assert len(pipeline.calls) == 8


def test_a_share_waits_for_an_adapter_that_another_makes(tmp_path, pipeline, monkeypatch):
    out, waited = tmp_path / "o", []
    study.run_study(STUDY, str(out), max_minutes=0)
    source = out / "adapters/glue/rte"
    other = atomic_folder(str(source))
    other.__enter__()

    def wait(seconds):
        waited.append(seconds)
        other.__exit__(None, None, None)
        source.rmdir()
        write_run(source, task="glue/rte")

    monkeypatch.setattr(study, "sleep", wait)
    assert study.run_study(STUDY, str(out), only="adapters/") == 0
    assert waited and [config.task for config in pipeline.calls] == ["glue/mrpc"]


def test_what_another_process_began_meanwhile_is_waited_for(tmp_path, pipeline, monkeypatch):
    """The other took the folder while this one still read its data: no failure, but another look."""
    out, busy = tmp_path / "o", [True]
    train = pipeline.train_adapter

    def begun(config):
        if busy.pop() if busy else False:
            write_run(config.out, task=config.task)  # the other is done by now
            raise Busy("is being written by another process")
        train(config)

    monkeypatch.setattr(pipeline, "train_adapter", begun)
    assert study.run_study(STUDY, str(out), only="adapters/") == 0
    assert [config.task for config in pipeline.calls] == ["glue/mrpc"]


def test_waiting_ends_when_the_time_is_up(tmp_path, pipeline, monkeypatch):
    study.run_study(STUDY, str(tmp_path / "o"), max_minutes=0)
    with atomic_folder(str(tmp_path / "o/adapters/glue/rte")):
        monkeypatch.setattr(study, "sleep", lambda seconds: None)
        assert study.run_study(STUDY, str(tmp_path / "o"), only="adapters/", max_minutes=0.01) == STOPPED
    assert not pipeline.calls


@pytest.mark.slow
def test_an_adapter_without_weights_is_trained_again(tmp_path, pipeline):
    study.run_study(STUDY, str(tmp_path / "o"))
    weights = tmp_path / "o/adapters/glue/rte/seed-0.safetensors"
    for harm in (lambda: weights.write_bytes(weights.read_bytes()[:-4]), weights.unlink):
        harm()
        pipeline.calls.clear()
        assert study.run_study(STUDY, str(tmp_path / "o")) == 0
        assert [config.out for config in pipeline.calls] == [str(weights.parent)]


def test_adapters_of_another_backbone_are_told_before_anything_trains(tmp_path, pipeline):
    study.run_study(STUDY, str(tmp_path / "one"), only="adapters/")
    info = tmp_path / "one/adapters/glue/mrpc/run.json"
    info.write_text(info.read_text().replace('"hash": "hash"', '"hash": "other"'))
    bad = change(name="Other", adapters=str(tmp_path / "one/adapters"))
    with pytest.raises(InputError, match="glue/mrpc was trained on backbone other, this one is hash"):
        study.run_study(bad, str(tmp_path / "two"))
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_when_the_time_is_up_the_rest_is_left_for_the_next_run(tmp_path, pipeline, capsys):
    assert study.run_study(STUDY, str(tmp_path / "o"), max_minutes=0) == STOPPED
    assert not pipeline.calls and "8 of 8 cells are left; run again" in capsys.readouterr().err
    assert study.run_study(STUDY, str(tmp_path / "o"), max_minutes=60) == 0
    assert study.run_study(STUDY, str(tmp_path / "o"), max_minutes=0) == 0


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "1/0"])
def test_a_bad_share_is_refused(text):
    with pytest.raises(InputError, match="--shard"):
        RunConfig(study="s.yaml", out="o", shard=text)


STUDIES = sorted(path for path in (Path(__file__).parents[2] / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_resolves(path, tmp_path, capsys):
    config = RunConfig(study=str(path), out=str(tmp_path / "o"), dry_run=True)
    assert study.run_command(config) == 0
    assert " cells; " in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_interrupted_at_any_cell_a_rerun_gives_the_same_table(tmp_path, pipeline):
    study.run_study(STUDY, str(tmp_path / "whole"))
    for stop in range(1, 9):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            pipeline.stop_after(stop)
            study.run_study(STUDY, str(out))
        pipeline.stop_after(None)
        study.run_study(STUDY, str(out))
        for name in ("table.md", "table.csv"):
            assert (out / "report" / name).read_text() == (tmp_path / "whole" / "report" / name).read_text()
