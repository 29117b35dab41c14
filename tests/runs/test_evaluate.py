"""Scores of a finished run: on how many examples, and none of what computes no numbers."""

import json
import shutil

import numpy as np
import pytest

from scalearn_jax import cli
from scalearn_jax.data import tasks
from scalearn_jax.io.tensors import load_tensors, save_tensors
from tests.support import drawn_runs, tiny_backbone

TASK = tasks.get("builtin/sentiment")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds, of which the second has a weight that is no number."""
    root = tmp_path_factory.mktemp("evaluate")
    backbone = tiny_backbone.write(root / "backbone", num_hidden_layers=1)
    drawn_runs.write(root / "run", backbone, TASK, seeds=(0, 4))
    path, info = root / "run/seed-4.safetensors", json.loads((root / "run/run.json").read_text())
    weights = load_tensors(path)
    weights["heads/builtin:sentiment/out/bias"][0] = np.nan
    save_tensors(path, weights)
    info["config"] |= {"max_eval_samples": 24, "max_train_samples": 16}
    (root / "run/run.json").write_text(json.dumps(info))
    (root / "texts.jsonl").write_text(json.dumps({column: "a fine day" for column in TASK.columns}))
    return root / "run"


@pytest.mark.parametrize(
    "command, options, what",
    [
        ("evaluate", (), "seed 4"),
        ("evaluate", ("--split", "dev", "--json"), "seed 4"),
        ("explain", ("--out", "OUT"), "seed 4"),
        ("fold", ("--out", "OUT", "--seed", "4"), "seed 4"),
        ("predict", ("--input", "TEXTS", "--output", "OUT", "--seed", "4"), "task builtin/sentiment"),
    ],
)
def test_what_computes_no_numbers_has_no_scores(run, tmp_path, capsys, command, options, what):
    places = {"OUT": str(tmp_path / "out"), "TEXTS": str(run.parent / "texts.jsonl")}
    assert cli.main([command, str(run), "--batch-size", "8", *(places.get(word, word) for word in options)]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("scalearn: error: ") and what in line and "examples are not finite" in line
    assert shown.out == "" and not (tmp_path / "out").exists()


def test_a_score_says_of_how_many_examples_it_is(run, tmp_path, capsys):
    sound = shutil.copytree(run, tmp_path / "sound")
    info = json.loads((sound / "run.json").read_text())
    (sound / "run.json").write_text(json.dumps(info | {"seeds": [0]}))
    assert cli.main(["evaluate", str(sound), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    p = found["seeds"]["0"]["accuracy"]
    assert found["examples"] == {"used": 24, "available": 400}
    assert found["se"] == {"0": {"accuracy": pytest.approx((p * (1 - p) / 24) ** 0.5)}}
