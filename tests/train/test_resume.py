"""A run that is told to stop again and again ends as one that never was, to the last bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scalearn_jax import cli
from scalearn_jax.config import AdapterConfig, TransferConfig
from scalearn_jax.errors import InputError, Preempted
from scalearn_jax.stages import identity, pipeline
from scalearn_jax.train import agreement, feed, resume
from scalearn_jax.train.checkpoint import seal
from scalearn_jax.train.checkpoint_store import CheckpointStore
from scalearn_jax.train.state import GroupProgress, Member, Position
from tests.support import tiny_backbone

SHORT = dict(batch_size=8, eval_every=2, log_every=1, max_train_samples=32, max_eval_samples=12, eval_batch_size=4)
# What runs, and where it is stopped: numbers of boundaries (steps, and batches of evaluations) that a life lasts.
CASES = {
    "seeds that stop early": (dict(seeds=(0, 1), max_steps=12, patience=1, learning_rate=0.05), (1, 6, 3)),
    "several steps a dispatch, in parts": (
        # looks up after 1, 4, 7, 8 and 9 steps
        dict(method="fusion", max_steps=9, eval_every=8, log_every=8, steps_per_dispatch=3, accumulate=2),
        (2, 2),
    ),
    "targets and rates": (
        dict(
            target=None, targets=("builtin/sentiment", "builtin/similarity"), learning_rates=(1e-3, 1e-2), max_steps=3
        ),
        (3, 4, 14),
    ),
    "cached features": (dict(method="soup", backbone_dropout=False, max_steps=8), (17, 2)),
    "everything learns": (
        dict(method="full", packed=False, optimizer="optax", max_steps=3, eval_every=3, select="metric"),
        (2,),
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A backbone and two source adapters."""
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"))


def run(inputs, out, **changes):
    """Both stages of one shape, so that the cases differ in their settings only."""
    sources = tuple(str(inputs / f"source{number}") for number in range(2))
    given = dict(backbone=str(inputs / "backbone"), out=str(out)) | SHORT | changes
    if changes.get("method") == "full":
        return pipeline.train_adapter(AdapterConfig(task="builtin/sentiment", **given))
    given = dict(target="builtin/sentiment", sources=sources) | given
    return pipeline.transfer(TransferConfig(**given))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run but ``timing.jsonl``: bytes by name, of ``run.json`` what is not the place."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "timing.jsonl")
    return {str(path.relative_to(folder)): _placeless(path) for path in files}


def _placeless(path: Path) -> bytes:
    if path.name != "run.json":
        return path.read_bytes()
    info = json.loads(path.read_text())
    free = ("out", "checkpoint_every", "keep_checkpoints", "steps_per_dispatch")
    return json.dumps(info | {"config": {name: x for name, x in info["config"].items() if name not in free}}).encode()


class Lives:
    """Stops a run after given numbers of boundaries, as a signal would."""

    def __init__(self, monkeypatch, *lives):
        self._lives = list(lives)
        self._left = None
        monkeypatch.setattr(agreement, "boundary", self)

    def begin(self):
        self._left = self._lives.pop(0) if self._lives else None

    def __call__(self):
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise Preempted("stopped")


def until_done(lives, call):
    """Calls again until nothing stops it; returns how often it was stopped."""
    for count in range(20):
        lives.begin()
        try:
            call()
            return count
        except Preempted:
            pass
    raise AssertionError("it never ends")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_ends_as_if_never_stopped(name, inputs, tmp_path, monkeypatch):
    changes, numbers = CASES[name]
    run(inputs, tmp_path / "whole", **changes)
    lives = Lives(monkeypatch, *numbers)
    assert until_done(lives, lambda: run(inputs, tmp_path / "stopped", **changes)) == len(numbers)
    whole, stopped = contents(tmp_path / "whole"), contents(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert [file for file in whole if whole[file] != stopped[file]] == []
    assert any(name.endswith("metrics.jsonl") for name in whole)
    results = [json.loads(whole[name]) for name in whole if name.endswith("results.json")]
    assert all(len(result["state"]) == 64 for result in results)
    if "patience" in changes:
        assert min(seed["steps"] for result in results for seed in result["seeds"].values()) < changes["max_steps"]


@pytest.mark.slow
def test_several_steps_really_are_sent_at_once(inputs, tmp_path, monkeypatch):
    changes, _ = CASES["several steps a dispatch, in parts"]
    sizes, make = [], feed.dispatches

    def spied(*arguments, **options):
        for dispatch in make(*arguments, **options):
            sizes.append(dispatch.num_steps)
            yield dispatch

    monkeypatch.setattr(feed, "dispatches", spied)
    run(inputs, tmp_path / "run", **changes)
    assert sizes == [1, 3, 3, 1, 1]


def test_a_lost_folder_is_told(inputs, tmp_path, monkeypatch):
    def lose():
        shutil.rmtree(tmp_path / "run.partial")

    monkeypatch.setattr(agreement, "boundary", lose)
    with pytest.raises(InputError, match="run.partial has disappeared while the run went on"):
        run(inputs, tmp_path / "run", max_steps=6)


@pytest.fixture(scope="module")
def stopped(inputs, tmp_path_factory):
    """A run of six steps that was stopped after the third: its folder in the making."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        lives = Lives(monkeypatch, 6)  # two steps, an evaluation of three batches, a step
        lives.begin()
        with pytest.raises(Preempted, match="saved step 3"):
            run(inputs, out, max_steps=6)
    assert not out.exists()
    return out.with_name("run.partial")


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """What the same run leaves if it is not stopped."""
    return contents(run(inputs, tmp_path_factory.mktemp("whole") / "run", max_steps=6))


@pytest.fixture
def begun(stopped, tmp_path):
    """A copy of the stopped run; returns its folder of checkpoints."""
    shutil.copytree(stopped, tmp_path / "run.partial")
    return tmp_path / "run.partial" / "checkpoints"


def test_only_what_learns_is_stored(begun):
    saved = CheckpointStore(begun).restore(pytest.fail)
    assert saved.step == 3
    assert not [name for name in saved.arrays if "backbone" in name or "adapters" in name]
    assert [path.name for path in CheckpointStore(begun).steps()] == ["3.0", "2.1"]


def test_a_position_is_json_before_any_evaluation():
    """No score yet is minus infinity, for which JSON has no number."""
    members = [Member(), Member({"omega": np.ones(1)}, best=-0.5, best_step=2)]
    position = Position(3, {"omega": np.ones(1)}, {}, [GroupProgress(members, gave_up=[True, False])])
    (group,) = json.loads(json.dumps(resume.pack(position)[1], allow_nan=False))
    assert [Member(None, **entry).best for entry in group["members"]] == [-np.inf, -0.5]


def test_every_difference_is_listed(begun, inputs, tmp_path):
    tiny_backbone.write(tmp_path / "other", num_hidden_layers=1, seed=9)
    sources = (str(inputs / "source1"), str(inputs / "source0"))
    changes = dict(backbone=str(tmp_path / "other"), sources=sources, learning_rate=0.5, seeds=(0, 4))
    with pytest.raises(InputError) as caught:
        run(inputs, tmp_path / "run", max_steps=6, **changes)
    message = str(caught.value)
    for part in (
        "--learning-rate: there None, here 0.5",
        "--seeds: there [0], here [0, 4]",
        "the backbone: there",
        "source 1: there s0",
        "source 2: there s1",
        "pass --restart",
    ):
        assert part in message, message
    assert begun.is_dir()


def test_what_changes_no_result_may_change(begun, whole, inputs, tmp_path):
    run(inputs, tmp_path / "run", max_steps=6, keep_checkpoints=1, checkpoint_every=1, steps_per_dispatch=1)
    assert contents(tmp_path / "run") == whole


def test_other_software_is_said(begun, inputs, tmp_path, capsys):
    for path in CheckpointStore(begun).steps():
        meta = path / "meta.json"
        content = json.loads(meta.read_text())
        content["meta"]["machine"]["jax"] = "0.9"
        meta.write_text(json.dumps(content))
        seal(path)
    run(inputs, tmp_path / "run", max_steps=6)
    assert "other software or devices stopped (jax: there 0.9, here" in capsys.readouterr().err


def test_restart_begins_anew_and_goes_on_itself(begun, inputs, tmp_path, monkeypatch, capsys):
    changes = dict(max_steps=4, learning_rate=0.5, restart=True)
    lives = Lives(monkeypatch, 2)
    assert until_done(lives, lambda: run(inputs, tmp_path / "run", **changes)) == 1
    assert "4 steps, 32 examples, seed 0, going on from step 2" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_steps"] == 4


def test_another_model_under_the_same_name_is_another_run(begun, inputs, tmp_path):
    config = inputs / "backbone" / "config.json"
    before = config.read_text()
    try:
        config.write_text(before.replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'))
        with pytest.raises(InputError, match="the model's backbone: there"):
            run(inputs, tmp_path / "run", max_steps=6)
    finally:
        config.write_text(before)


def test_a_damaged_step_is_named_and_the_one_before_goes_on(begun, whole, inputs, tmp_path, capsys):
    (begun / "3.0" / "meta.json").unlink()
    run(inputs, tmp_path / "run", max_steps=6)
    said = capsys.readouterr().err
    assert "cannot use checkpoint" in said and "3.0: meta.json is missing; going on from step 2" in said
    assert contents(tmp_path / "run") == whole


def test_a_run_whose_steps_are_all_damaged_is_not_begun_anew(begun, inputs, tmp_path, capsys):
    for path in CheckpointStore(begun).steps():
        (path / "manifest.json").write_text("{}")
    before = contents(begun)
    code = cli.main(
        [
            *("transfer", "--target", "builtin/sentiment", "--backbone", str(inputs / "backbone")),
            *("--sources", str(inputs / "source0"), "--out", str(tmp_path / "run"), "--max-steps", "6"),
        ]
    )
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "none of the checkpoints" in said[-1] and "3.0" in said[-1] and "2.1" in said[-1]
    assert contents(begun) == before


def test_a_finished_run_is_not_made_again(inputs, tmp_path, capsys):
    out = run(inputs, tmp_path / "run", max_steps=1)
    shutil.copytree(inputs / "source0", out / "checkpoints")  # as if killed before it was tidied up
    before = (out / "results.json").stat().st_mtime_ns
    assert run(inputs, tmp_path / "run", max_steps=1) == out
    assert "is finished already" in capsys.readouterr().err
    assert (out / "results.json").stat().st_mtime_ns == before and not (out / "checkpoints").exists()
    with pytest.raises(InputError, match="run with other settings .max_steps: there 1, here 2"):
        run(inputs, tmp_path / "run", max_steps=2)


@pytest.mark.slow
def test_runs_of_one_program_that_came_out_before_the_end_stay(inputs, tmp_path, monkeypatch):
    changes = dict(learning_rates=(1e-3, 1e-2), max_steps=2)
    run(inputs, tmp_path / "whole", **changes)
    lives = Lives(monkeypatch, 2 + 3 + 3 + 3 + 1)  # steps, both evaluations, one test, and into the second
    assert until_done(lives, lambda: run(inputs, tmp_path / "stopped", **changes)) == 1
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_too_many_faults_in_a_row_end_a_run_with_a_diagnosis(inputs, tmp_path):
    with pytest.raises(FloatingPointError) as caught:
        run(inputs, tmp_path / "run", max_steps=20, eval_every=20, learning_rate=1e38, clip_norm=0.0, max_faults=3)
    message = str(caught.value)
    assert "seed 0: no finite loss and gradient in 3 steps in a row, up to step" in message
    assert "training examples" in message and "norms of gradients: heads nan" in message, message
    assert not (tmp_path / "run").exists()


def test_leave_to_read_pickles_is_no_other_run():
    assert identity.fingerprint_of_results(
        {"--allow-pickle": True, "--allow-pickle of run 2": True, "--epochs": 1}
    ) == {"--epochs": 1}
