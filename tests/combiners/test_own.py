"""A combiner of one's own: two rows are enough to train, keep, load, score and serve it, whatever its update is."""

import json
import shutil
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import Predictor, methods
from scalearn_jax.combiners import COMBINERS, of_module
from scalearn_jax.combiners.base import ADAPTER, adapter
from scalearn_jax.config import EvaluateConfig, ExplainConfig, ExportConfig, FoldConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tensors, save_tensors
from scalearn_jax.models import bank as banks
from scalearn_jax.models.dropout import NO_DROPOUT
from scalearn_jax.runs import load_run
from scalearn_jax.runs.evaluate import evaluate
from scalearn_jax.runs.explain import explain_run
from scalearn_jax.runs.plain_adapter import foldable
from scalearn_jax.sharing.exporting import export_run
from scalearn_jax.sharing.fold import fold_run
from scalearn_jax.stages import pipeline
from tests.support import tiny_backbone
from tests.support.gate import gated

TEXTS = ["The soup was cold and the waiter was rude.", "I found the lounge spotless."]
SHORT = dict(batch_size=8, eval_every=2, max_steps=2, max_train_samples=16, max_eval_samples=8, max_length=32)


class Doubled(nn.Module):
    """The first source, and an (IA)^3 vector beside it."""

    @nn.compact
    def __call__(self, bank, keys=NO_DROPOUT):
        num_layers, _, hidden_size, _ = banks.shape(bank)
        vector = self.param("vector", nn.initializers.constant(2.0), (num_layers, hidden_size))
        return banks.select(bank, 0) | {"key_scale": vector}


class First(nn.Module):
    """The first source, its update times a number: an ordinary adapter."""

    @nn.compact
    def __call__(self, bank, keys=NO_DROPOUT):
        factor = self.param("factor", nn.initializers.constant(0.5), ())
        site = banks.select(bank, 0)
        return site | {"up": jax.tree.map(lambda leaf: leaf * factor, site["up"])}


ROWS = {
    "gated": gated,
    "doubled": lambda *, non_linearity="relu": of_module(
        Doubled(), apply=adapter(non_linearity), site=(*ADAPTER, "key_scale")
    ),
    "undeclared": lambda *, non_linearity="relu": of_module(Doubled(), apply=adapter(non_linearity)),
    "first": lambda *, non_linearity="relu": of_module(First(), apply=adapter(non_linearity)),
}

STARTS = {"doubled": 2.0, "undeclared": 2.0, "first": 0.5}


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for name, make in ROWS.items():
        monkeypatch.setitem(COMBINERS, name, make)
        monkeypatch.setitem(methods.METHODS, name, methods.Method(name, ("transfer", "head"), 0.05, "our own"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"), **tiny_backbone.SILENT)


def train(inputs, out, method, **changes):
    sources = tuple(str(inputs / f"source{number}") for number in range(2))
    given = dict(backbone=str(inputs / "backbone"), target="builtin/sentiment", sources=sources, seeds=(0, 1))
    return str(pipeline.transfer(TransferConfig(method=method, out=str(out), **given | SHORT | changes)))


@pytest.fixture(scope="module")
def run_of(inputs, tmp_path_factory):
    """Returns (method, layers) -> the folder of a run; trains equal ones once."""
    root = tmp_path_factory.mktemp("runs")
    return cache(lambda method, layers="loop": train(inputs, root / f"{method}-{layers}", method, layers=layers))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method, layers",
    [("gated", "loop"), ("gated", "scan"), ("doubled", "loop"), ("undeclared", "scan"), ("first", "loop")],
)
def test_it_is_trained_loaded_scored_and_served(method, layers, run_of):
    run = run_of(method, layers)
    results = json.loads(Path(run, "results.json").read_text())
    start = next(iter(ROWS[method]().init(jax.random.key(0), banks.BankShape(1, 2, 16, 4)).values()))
    loaded = load_run(run)
    [learned] = loaded.members[1]["transfer"].values()
    assert learned.shape == start.shape and loaded.info["parameters"]["transfer"] == start.size
    assert np.all(learned != STARTS.get(method, 0.0))  # it has a gradient on the path of training, too
    scores = evaluate(EvaluateConfig(run=run))["seeds"]
    for seed, found in scores.items():
        assert found == pytest.approx(results["seeds"][seed]["test"], abs=1e-5)
    first, second = (Predictor.load(run, seed=seed) for seed in (0, 1))
    assert [set(answer) for answer in first.predict(TEXTS)] == [{"label", "probabilities"}] * 2
    assert not np.allclose(first.logits(TEXTS), second.logits(TEXTS))


@pytest.mark.slow
def test_what_is_served_is_what_was_trained(run_of, tmp_path):
    """Another gate gives other answers, so it is not left out."""
    run = str(shutil.copytree(run_of("gated"), tmp_path / "run"))
    path = Path(run, "seed-0.safetensors")
    before, leaves = Predictor.load(run, seed=0).logits(TEXTS), load_tensors(path)
    save_tensors(path, leaves | {"transfer/gate": -3 * leaves["transfer/gate"]})
    assert not np.allclose(before, Predictor.load(run, seed=0).logits(TEXTS))


@pytest.mark.slow
def test_a_row_that_is_replaced_is_trained_anew(inputs, tmp_path, monkeypatch):
    def written(number):
        run = train(inputs, tmp_path / str(number), "gated", seeds=(0,))
        return json.loads(Path(run, "results.json").read_text())["mean"]

    first = written(0)
    assert written(1) == first
    monkeypatch.setitem(COMBINERS, "gated", lambda *, non_linearity="relu": gated(non_linearity="tanh"))
    assert written(2) != first


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gated", "doubled"])
def test_what_is_no_adapter_says_so_in_a_line(method, inputs, run_of, tmp_path):
    run, other, out = run_of(method), run_of("scalearn"), str(tmp_path / "out")
    calls = [
        (lambda: fold_run(FoldConfig(run=run, out=out)), f"loop is a '{method}' run, which is no ordinary adapter"),
        (lambda: explain_run(ExplainConfig(run=run, out=out)), f"loop is a '{method}' run; explain covers scalearn, "),
        (lambda: export_run(ExportConfig(run=run, out=out)), f"'{method}' run, .* AdapterHub"),
        (lambda: Predictor.load(other, run), "loop: its method cannot be served together with others, only alone"),
    ]
    for call, told in calls:
        with pytest.raises(InputError, match=told) as caught:
            call()
        assert "\n" not in str(caught.value) and not Path(out).exists()
    export_run(ExportConfig(run=run, out=out, format="native", seed=1))  # a run folder of one seed
    found = Predictor.load(out, backbone=str(inputs / "backbone")).logits(TEXTS)
    np.testing.assert_array_equal(found, Predictor.load(run, seed=1).logits(TEXTS))


@pytest.mark.slow
def test_what_is_an_adapter_folds(inputs, run_of, tmp_path):
    assert "first" in foldable() and "gated" not in foldable()
    run = run_of("first")
    fold_run(FoldConfig(run=run, out=str(tmp_path / "fold"), seed=0))
    found = Predictor.load(str(tmp_path / "fold"), backbone=str(inputs / "backbone")).logits(TEXTS)
    np.testing.assert_allclose(found, Predictor.load(run, seed=0).logits(TEXTS), atol=1e-5)


class Generated(nn.Module):
    """An adapter without sources, whose up-projection is a number times the transposed down-projection."""

    @nn.compact
    def __call__(self, bank, keys=NO_DROPOUT):
        num_layers, _, hidden_size, width = banks.shape(bank)
        down = self.param("down", nn.initializers.normal(0.1), (num_layers, hidden_size, width))
        factor = self.param("factor", nn.initializers.ones, (num_layers, 1, 1))
        zeros = [jnp.zeros((num_layers, size)) for size in (width, hidden_size)]
        return {
            "down": {"kernel": down, "bias": zeros[0]},
            "up": {"kernel": factor * down.swapaxes(1, 2), "bias": zeros[1]},
        }


@pytest.mark.slow
def test_a_generator_without_sources_has_the_width_that_is_asked_for(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(COMBINERS, "generated", lambda **_: of_module(Generated(), apply=adapter("gelu")))
    row = methods.Method("generated", ("transfer", "head"), 0.05, "our own", uses_sources=False)
    monkeypatch.setitem(methods.METHODS, "generated", row)
    run = train(inputs, tmp_path / "run", "generated", sources=(), reduction_factor=4)
    assert load_run(run).info["parameters"]["transfer"] == 16 * 4 + 1
    fold_run(FoldConfig(run=run, out=str(tmp_path / "fold"), seed=0))
    settings = json.loads((tmp_path / "fold/adapter_config.json").read_text())["config"]
    assert settings["non_linearity"] == "gelu" and settings["reduction_factor"] == 4
    found = Predictor.load(str(tmp_path / "fold"), backbone=str(inputs / "backbone")).logits(TEXTS)
    np.testing.assert_allclose(found, Predictor.load(run, seed=0).logits(TEXTS), atol=1e-5)
