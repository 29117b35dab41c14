"""The net under a restructuring: what version 0.1.0 left and showed, later versions must read, go on with and show.

``tests/golden/make_v1.py`` made the files, and says how. Only stable doors are used here: public names, the command
line and ``scalearn_jax.runs.load_run``; so this file stays as it is when modules move. Where the processor or the
libraries that compute are those that made the files (``made_with``), numbers are compared to the last bit; elsewhere
scores exactly, weights to 1e-6, logits and losses to 1e-5.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import platform
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import scalearn_jax
from scalearn_jax import cli

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RUNS, HELP = GOLDEN / "v1_runs", GOLDEN / "help"
PLAIN = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "SCALEARN_KEEP_PROGRAMS": "0"}
WEIGHTS, LOGITS = 1e-6, 1e-5
NEAR = ("loss", "grad_norm", "omega")
TYRO = "1.0.17"  # it lays out the help
# What later versions say besides: on how many examples scores are, how sure that is, and later settings.
ADDED = {"examples", "se", "fit", "solve_samples", "sample_seed", "masks", "ffn_scale"}


def made_with() -> dict[str, str]:
    """What the last bits of a result follow from: kind of processor, and what compiles for it."""
    with contextlib.suppress(OSError):
        words = Path("/proc/cpuinfo").read_text().split()
        features = sorted({word for word in words if re.match(r"(avx|fma|sse|ssse|f16c|amx|bmi|asimd|sve)", word)})
        processor = hashlib.sha256(" ".join(features).encode()).hexdigest()[:16]
        flags = " ".join(os.environ.get("XLA_FLAGS", "").split())
        libraries = {name: version(name) for name in ("jaxlib", "numpy")}
        return {"machine": platform.machine(), "processor": processor, "flags": flags, **libraries}
    return {"machine": platform.machine()}


def call(*argv: str) -> str:
    """Runs a command in this process, as on a terminal of 80 columns; returns what it prints."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with mock.patch.object(sys, "argv", ["scalearn", *argv]), mock.patch.dict(os.environ, PLAIN):
        with contextlib.redirect_stdout(out):
            code = cli.main()
    assert code == 0, f"{argv} ended with {code}"
    return out.buffer.getvalue().decode()


INDEX = json.loads((RUNS / "expected/index.json").read_text()) if RUNS.exists() else {}
MADE_HERE = INDEX.get("made_with") == made_with()
MEMBERS = [(run, seed) for run, seeds in INDEX.get("runs", {}).items() for seed in seeds]


def check_arrays(found, stored, tolerance):
    """Names, types and shapes are equal, and the numbers to the last bit, or nearly so on another machine."""
    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {n: (x.dtype, x.shape) for n, x in stored.items()}
    for name in stored:
        if MADE_HERE:
            assert found[name].tobytes() == stored[name].tobytes(), name
        np.testing.assert_allclose(found[name], stored[name], rtol=0, atol=tolerance, err_msg=name)


def check_json(found, stored, free=(), near=False):
    """Equal but for some names, wherever they stand; what is computed (``NEAR``) on another machine only nearly so."""
    assert type(found) is type(stored)
    if isinstance(stored, dict):
        assert found.keys() - (ADDED - stored.keys()) == stored.keys()
        for name in stored.keys() - set(free):
            check_json(found[name], stored[name], free, near or name in NEAR)
    elif isinstance(stored, list):
        assert len(found) == len(stored)
        for one, other in zip(found, stored, strict=True):
            check_json(one, other, free, near)
    elif near and not MADE_HERE and isinstance(stored, float):
        np.testing.assert_allclose(found, stored, rtol=0, atol=LOGITS)
    else:
        assert found == stored


def read_events(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def check_run(found, stored):
    """Two finished run folders are of the same run."""
    names = {path.name for path in stored.iterdir()}
    assert {path.name for path in found.iterdir()} == names
    for name in names:
        if name.endswith(".safetensors"):
            check_arrays(load_file(found / name), load_file(stored / name), WEIGHTS)
    results = [json.loads((folder / "results.json").read_text()) for folder in (found, stored)]
    if len(results[1]["seeds"]) == 1:  # its deviation was 0 once, and is none
        assert {*results[0].pop("sd").values()} == {None} and {*results[1].pop("sd").values()} == {0.0}
    check_json(*results, free=() if MADE_HERE else ("state",))  # the hash of every bit of the last training state
    check_json(read_events(found), read_events(stored))
    info, before = (json.loads((folder / "run.json").read_text()) for folder in (found, stored))
    assert (info["backbone"].pop("path"), before["backbone"].pop("path")) == (str(Path.cwd() / "backbone"), "backbone")
    check_json(info, before, free=("versions", "data_dir"))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A copy of the finished runs with their backbone and data, as the working folder."""
    folder = tmp_path.resolve() / "work"
    shutil.copytree(RUNS, folder, ignore=shutil.ignore_patterns("expected", "stopped"))
    monkeypatch.chdir(folder)
    return folder


# ---------------------------------------------------------------- finished runs


@pytest.mark.parametrize("run", INDEX.get("runs", ()))
def test_a_run_of_before_is_read(run, work):
    read = importlib.import_module("scalearn_jax.runs").load_run(run)
    info = json.loads((RUNS / run / "run.json").read_text())
    assert read.info == info and read.task.name == info["task"]["name"]
    assert json.loads(json.dumps(dataclasses.asdict(read.spec))) == info["spec"]
    assert list(read.members) == INDEX["runs"][run]
    frozen = RUNS / run / "frozen.safetensors"
    shared = load_file(frozen) if frozen.exists() else {}
    for seed, params in read.members.items():
        leaves = jax.tree_util.tree_leaves_with_path(params)
        found = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
        own = {name: leaf for name, leaf in found.items() if not name.startswith("backbone/")}
        stored = load_file(RUNS / run / f"seed-{seed}.safetensors") | shared
        stored = {name.replace(":", "/"): leaf for name, leaf in stored.items()}  # a task's name may hold a slash
        assert own.keys() == stored.keys() and len(found) > len(own)
        assert all(own[name].tobytes() == stored[name].tobytes() for name in stored)


@pytest.mark.parametrize("run", INDEX.get("runs", ()))
def test_its_scores_are_as_before(run, work):
    for split, stored in INDEX["scores"][run].items():
        check_json(json.loads(call("evaluate", run, "--split", split, "--json")), stored)


@pytest.mark.parametrize("run, seed", MEMBERS)
def test_its_logits_are_as_before(run, seed, work):
    logits = scalearn_jax.Predictor.load(run, seed=seed).logits(INDEX["texts"])
    stored = np.load(RUNS / "expected/logits.npz")[f"{run}/{seed}"]
    assert stored.dtype == np.float32 and np.ptp(stored, axis=0).min() > 1e-4  # they depend on the text
    check_arrays({"logits": np.stack(logits)}, {"logits": stored}, LOGITS)


@pytest.mark.parametrize("name", INDEX.get("folds", ()))
def test_its_fold_is_as_before(name, work):
    run, seed, *more = INDEX["folds"][name]
    stored = RUNS / "expected/folds" / name
    call("fold", run, "--out", "fold", "--seed", str(seed), *more)
    assert {path.name for path in Path("fold").iterdir()} == {path.name for path in stored.iterdir()}
    for file in ("adapter.safetensors", "model_head.safetensors"):
        check_arrays(load_file(Path("fold", file)), load_file(stored / file), WEIGHTS)
    for file in ("adapter_config.json", "head_config.json", "scalearn.json"):
        found, before = (json.loads((folder / file).read_text()) for folder in (Path("fold"), stored))
        check_json(found, before, free=("versions", "command", "logit_difference"))


def test_a_finished_run_is_not_made_again(work):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("scalearn").iterdir()}
    assert call(*INDEX["commands"]["scalearn"]) == "wrote scalearn\n"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path("scalearn").iterdir()} == before


# ---------------------------------------------------------------- runs made by today's code


@pytest.mark.slow
@pytest.mark.parametrize("name", INDEX.get("stopped", ()))
def test_a_stopped_run_of_before_goes_on_to_the_same_end(name, work):
    shutil.rmtree(name)
    folders = [path.parent for path in (RUNS / "stopped" / name).rglob(".lock")]
    for folder in folders:
        copy = work / folder.relative_to(RUNS / "stopped")
        shutil.copytree(folder, copy.with_name(copy.name + ".partial"))
    call(*INDEX["commands"][name])
    runs = [run for run in INDEX["runs"] if run.split("/")[0] == name]
    for run in runs:
        check_run(work / run, RUNS / run)
    # Where it was begun and taken up: what was timed before the stop is still there, and no step came twice.
    step = INDEX["stopped"][name]
    for folder in folders:
        before = read_events(folder, "timing.jsonl")
        after = read_events(work / folder.relative_to(RUNS / "stopped"), "timing.jsonl")
        assert after[: len(before)] == before and before[0] == {"event": "start", "step": 0}
        assert after[len(before)] == {"event": "start", "step": step}
        assert [event["step"] for event in after if event["event"] == "train"] == list(range(1, 7))
    assert not list(work.rglob("checkpoints")) and not list(work.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter", "fusion"])
def test_a_run_made_anew_is_as_before(name, work):
    shutil.rmtree(name)
    call(*INDEX["commands"][name])
    check_run(work / name, RUNS / name)


# ---------------------------------------------------------------- names and help


def test_no_public_name_is_lost():
    names = json.loads((GOLDEN / "public_names.json").read_text())
    assert set(names) <= set(scalearn_jax.__all__)
    assert [name for name in scalearn_jax.__all__ if getattr(scalearn_jax, name, None) is None] == []


def words(text):
    """The words of a help text, without boxes and line breaks."""
    return re.sub(r"[\u2500-\u257f\s]+", " ", text)


@pytest.mark.parametrize("path", sorted(HELP.glob("*.txt")), ids=lambda path: path.stem)
def test_help_is_as_before(path):
    found, stored = call(*commands()[path.stem], "--help"), path.read_text(encoding="utf-8")
    assert words(found) == words(stored)
    if version("tyro") == TYRO:
        assert found == stored


def test_every_command_has_its_help():
    assert sorted(commands()) == sorted(path.stem for path in HELP.iterdir())


def commands():
    """Lists the commands and stages that the command line names: name of the file of their help -> their words."""
    listed = re.compile(r"^  ([a-z-]+)  ", re.MULTILINE)
    names, stages = (listed.findall(call(*argv, "--help")) for argv in ([], ["plan"]))
    leaves = [(), *((name,) for name in names), *(("plan", stage) for stage in stages)]
    return {"-".join(("scalearn", *leaf)): leaf for leaf in leaves}
