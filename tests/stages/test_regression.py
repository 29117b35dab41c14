"""Regressions over a user's data: learned on standardised labels, all that is left and said in the user's unit."""

import json

import numpy as np
import pytest
from sklearn.metrics import root_mean_squared_error

from scalearn_jax import cli
from scalearn_jax.config import AdapterConfig
from scalearn_jax.runs.serving.predictor import Predictor
from scalearn_jax.stages import pipeline
from tests.support import tiny_backbone

WORDS = ("soup", "bread", "tea", "service", "room", "view")
SHORT = ["--max-steps", "4", "--eval-every", "2", "--log-every", "2", "--batch-size", "8"]


def write(folder, name, scale, shift):
    """Writes a task whose labels are those of a drawn one, scaled and shifted."""
    generator = np.random.default_rng(0)
    (folder / name).mkdir(parents=True)
    (folder / name / "task.yaml").write_text(f"name: {name}\nkind: regression\ntexts: [text]\nmax_length: 12\n")
    for split, count in (("train", 40), ("dev", 10), ("test", 15)):
        words, labels = generator.choice(WORDS, (count, 4)), generator.normal(size=count).round(2)
        rows = [{"text": " ".join(x), "label": scale * y + shift} for x, y in zip(words, labels, strict=True)]
        (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("regression")
    tiny_backbone.write(root / "backbone", num_hidden_layers=1, **tiny_backbone.SILENT)
    for name, unit in (("my/plain", (1, 0)), ("my/price", (50, 200))):
        write(root / "data", name, *unit)
        argv = ["--task", name, "--data-dir", str(root / "data"), "--backbone", str(root / "backbone")]
        assert cli.main(["train-adapter", *argv, *SHORT, "--seeds", "0", "1", "--out", str(root / name)]) == 0
    return root


def results(root, name):
    return json.loads((root / name / "results.json").read_text())


def test_predictions_and_scores_are_in_the_unit_of_the_data(root):
    rows = [json.loads(line) for line in (root / "data/my/price/test.jsonl").read_text().splitlines()]
    labels = [row["label"] for row in rows]
    for seed in (0, 1):
        answers = Predictor.load(str(root / "my/price"), seed=seed).predict([row["text"] for row in rows])
        found, test = [one["value"] for one in answers], results(root, "my/price")["seeds"][str(seed)]["test"]
        assert np.abs(np.mean(found) - 200) < 50  # after four steps a head without it is still near 0
        assert test["rmse"] == pytest.approx(root_mean_squared_error(labels, found), rel=1e-4)
        assert test["loss"] == pytest.approx(test["rmse"] ** 2, rel=1e-4)


def test_another_unit_gives_the_same_run(root):
    plain, price = (results(root, name) for name in ("my/plain", "my/price"))
    for seed in ("0", "1"):
        for split in ("dev", "test"):
            one, other = (run["seeds"][seed][split] for run in (plain, price))
            assert other["rmse"] == pytest.approx(50 * one["rmse"], rel=1e-3)
            assert other["loss"] == pytest.approx(2500 * one["loss"], rel=1e-3)
            assert other["pearson"] == pytest.approx(one["pearson"], abs=1e-3)
    labels = [json.loads(line)["label"] for line in (root / "data/my/price/train.jsonl").read_text().splitlines()]
    expected = {"mean": np.mean(labels), "deviation": np.std(labels)}
    assert price["standardised"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_scores_of_later_are_those_of_training(root, split, capsys):
    assert cli.main(["evaluate", str(root / "my/price"), "--split", split, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["seeds"]
    for seed, scores in found.items():
        assert scores == pytest.approx(results(root, "my/price")["seeds"][seed][split], rel=1e-3, abs=1e-3)
    assert cli.main(["evaluate", str(root / "my/price"), "--split", split]) == 0
    shown = capsys.readouterr().out
    assert "in percent but for loss and rmse" in shown and f"{found['0']['rmse']:.4f}" in shown


def test_the_start_says_where_data_come_from_and_what_is_learned(root, tmp_path, capsys):
    argv = ["--task", "my/price", "--data-dir", str(root / "data"), "--backbone", str(root / "backbone")]
    argv += ["--learning-rate", "1e-30", "--patience", "1", "--max-train-samples", "30", "--seeds", "3"]
    assert (
        cli.main(["train-adapter", *argv, "--max-steps", "9", "--eval-every", "2", "--out", str(tmp_path / "r")]) == 0
    )
    said = capsys.readouterr().err
    assert "train 30 of 40, dev 10 (from dev.jsonl), test 15 (from test.jsonl); learns (label - " in said
    assert "compiling 1 of " in said
    assert "r: seed 3 stopped early at step 4 of 9, no better for 1 evaluation; kept step 2." in said
    events = [json.loads(line)["event"] for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert events == ["start", "eval", "eval"]


def test_published_regressions_learn_their_labels_as_they_are(root):
    config = AdapterConfig(task="builtin/similarity", backbone=str(root / "backbone"), out="o", max_train_samples=16)
    (setup,) = pipeline.adapter_setups(config)
    assert setup.data.train.unit == (0.0, 1.0) and setup.data.train.labels.max() > 2
