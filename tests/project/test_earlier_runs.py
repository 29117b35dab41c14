"""Runs of before what never learns left the optimiser, and before trained layers were held one by one.

``tests/golden/v2_runs`` holds a ProPETL run, whose scores stood among the trained parameters, and a run of full
fine-tuning, whose checkpoint stacked the layers: finished, and stopped after three of six steps. ``index.json`` has the
commands, and what the finished ones answered. Their backbone is that of ``v1_runs``; their folders were made as
``make_v1.py`` says of those.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import scalearn_jax
from scalearn_jax import tree
from scalearn_jax.runs import load_run
from tests.project.test_net import GOLDEN, LOGITS, call, check_json, read_events

RUNS = GOLDEN / "v2_runs"
INDEX = json.loads((RUNS / "index.json").read_text())
MEMBERS = [(name, int(seed)) for name, scores in INDEX["scores"].items() for seed in scores["seeds"]]
WEIGHTS = 2e-5  # the gradient's norm is summed up in another order, and Adam scales rounding up


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A copy of the finished runs with their backbone, as the working folder."""
    folder = tmp_path.resolve() / "work"
    shutil.copytree(RUNS, folder, ignore=shutil.ignore_patterns("stopped"))
    shutil.copytree(GOLDEN / "v1_runs/backbone", folder / "backbone")
    monkeypatch.chdir(folder)
    return folder


def expected_leaves(name, seed):
    """What a seed of a stored run has today: masks in the place of scores, of which the larger half counts."""
    leaves = load_file(RUNS / name / f"seed-{seed}.safetensors")
    for path in [path for path in leaves if "/scores/" in path]:
        size = np.abs(leaves.pop(path))
        order = np.argsort(size.reshape(len(size), -1), axis=1, kind="stable")
        place = np.argsort(order, axis=1).reshape(size.shape)  # from the smallest on
        leaves[path.replace("scores", "masks")] = place >= size[0].size // 2
    return leaves


def leaves_of(params):
    flat = tree.flatten(params)
    return {name: np.asarray(leaf) for name, leaf in flat.items() if name.split("/")[0] in ("transfer", "heads")}


@pytest.mark.parametrize("name, seed", MEMBERS)
def test_they_are_read(name, seed, work):
    stored = {
        path: np.float32(x) for path, x in expected_leaves(name, seed).items() if not path.startswith("backbone/")
    }
    found = leaves_of(load_run(name).members[seed])
    assert found.keys() == stored.keys()
    assert all(found[path].tobytes() == stored[path].tobytes() for path in stored)


@pytest.mark.parametrize("name", INDEX["scores"])
def test_their_scores_are_as_before(name, work):
    check_json(json.loads(call("evaluate", name, "--json")), INDEX["scores"][name])


@pytest.mark.parametrize("name, seed", MEMBERS)
def test_their_logits_are_as_before(name, seed, work):
    logits = scalearn_jax.Predictor.load(name, seed=seed).logits(INDEX["texts"])
    np.testing.assert_allclose(logits, INDEX["logits"][f"{name}/{seed}"], rtol=0, atol=LOGITS)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize("name", INDEX["commands"])
def test_they_go_on_and_are_made_anew_to_the_same_end(name, stopped, work):
    shutil.rmtree(name)
    if stopped:
        shutil.copytree(RUNS / "stopped" / name, work / f"{name}.partial")
    frozen = ("--masks", "frozen") if name == "propetl" else ()  # which was the only form then
    call(*INDEX["commands"][name], *frozen)
    for own, seed in MEMBERS:
        if own == name:
            found, stored = load_file(work / name / f"seed-{seed}.safetensors"), expected_leaves(name, seed)
            assert {path: (x.dtype, x.shape) for path, x in found.items()} == {
                path: (x.dtype, x.shape) for path, x in stored.items()
            }
            for path, leaf in stored.items():
                np.testing.assert_allclose(found[path], leaf, rtol=0, atol=WEIGHTS, err_msg=path)
    events = (read_events(folder / name) for folder in (work, RUNS))
    losses, before = ([event["loss"] for event in run if event["event"] == "train"] for run in events)
    np.testing.assert_allclose(losses, before, rtol=1e-5)
    steps = [event["step"] for event in read_events(Path(name), "timing.jsonl")]
    assert (steps.count(3) > 1) == stopped  # it was taken up after step 3
    counts = json.loads(Path(name, "run.json").read_text())["parameters"]
    trained = [leaf.size for path, leaf in found.items() if "masks" not in path and not path.startswith("heads/")]
    assert counts["transfer"] == sum(trained)
