"""Seeds and learning rates share a program, targets share a backbone: each run ends as it would alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.config import EvaluateConfig, TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import adapterhub
from scalearn_jax.runs.evaluate import evaluate
from scalearn_jax.runs.load import load_run
from scalearn_jax.stages import pipeline, program
from scalearn_jax.studies.results import read_result
from tests.support import tiny_backbone

SHORT = dict(batch_size=8, eval_every=2, log_every=2, max_train_samples=28, max_eval_samples=16, max_length=32)
TARGETS = ("builtin/sentiment", "builtin/recommendation")  # of the second there are twice as many examples
SOURCES = ("complaints", "sentiment", "similarity")


SMALL = dict(num_hidden_layers=1)  # compiles fast; every dropout is on


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), **SMALL))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root, bank = tmp_path_factory.mktemp("sources"), banks.init(jax.random.key(0), banks.BankShape(1, 3, 16, 4))
    for number, name in enumerate(SOURCES):
        adapter = jax.tree.map(lambda leaf: 10 * np.asarray(leaf), banks.select(bank, number))  # large enough to show
        adapterhub.save(adapter, root / name, name=name, config={"model_type": "bert"})
    return tuple(str(root / name) for name in SOURCES)


def transfer(backbone, sources, out, **changes):
    settings = dict(backbone=backbone, sources=sources, out=str(out), max_steps=4, **SHORT)
    return Path(pipeline.transfer(TransferConfig(**settings | changes)))


def assert_same_run(one: Path, other: Path, seeds):
    for seed in seeds:
        ours, theirs = (tree.flatten(load_tree(folder / f"seed-{seed}.safetensors")) for folder in (one, other))
        assert set(ours) == set(theirs)
        for path, leaf in ours.items():  # the bank's order changes the order of sums, and Adam scales rounding up
            np.testing.assert_allclose(leaf, theirs[path], atol=1e-4, err_msg=f"{one} {path}")
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    for seed in map(str, seeds):
        assert ours["seeds"][seed]["best_step"] == theirs["seeds"][seed]["best_step"]
        assert ours["seeds"][seed]["dev"] == pytest.approx(theirs["seeds"][seed]["dev"], abs=1e-4)
    assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-4)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        for folder in (one, other)
    ]
    np.testing.assert_allclose(*losses, atol=1e-4)


@pytest.mark.slow
def test_targets_one_after_the_other_equal_runs_alone(backbone, sources, tmp_path):
    # 64 examples less the tenth that is held out, and twice as many
    options = dict(max_steps=None, epochs=1, eval_every=6, max_train_samples=128, seeds=(0, 3))
    every = transfer(backbone, sources, tmp_path / "all", targets=TARGETS, **options)
    steps = []
    for target in TARGETS:
        alone = transfer(backbone, sources, tmp_path / "alone" / target, target=target, **options)
        names = ["seed-0.safetensors", "seed-3.safetensors", "frozen.safetensors", "metrics.jsonl", "results.json"]
        assert [name for name in names if (every / target / name).read_bytes() != (alone / name).read_bytes()] == []
        steps.append(json.loads((alone / "results.json").read_text())["num_steps"])
    assert steps[0] > steps[1]


def test_targets_hold_one_copy_of_the_backbone(backbone, sources, tmp_path):
    config = TransferConfig(backbone=backbone, sources=sources, out=str(tmp_path), targets=TARGETS, **SHORT)
    first, second = (jax.tree.leaves(setup.frozen["backbone"]) for setup in pipeline.transfer_setups(config))
    assert len(first) == len(second) > 0 and all(one is other for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_learning_rates_together_equal_runs_alone(backbone, sources, tmp_path):
    rates = (3e-3, 6e-2)
    together = transfer(backbone, sources, tmp_path / "all", target=TARGETS[0], learning_rates=rates, seeds=(0, 1))
    for rate in rates:
        alone = transfer(
            backbone,
            sources,
            tmp_path / f"{rate}",
            target=TARGETS[0],
            learning_rate=rate,
            seeds=(0, 1),
            weight_decay=0.0,
        )
        assert_same_run(together / f"lr-{rate:g}", alone, (0, 1))
    found = json.loads((together / "rates.json").read_text())[TARGETS[0]]
    assert set(found["rates"]) == {"0.003", "0.06"} and found["best"] == min(found["rates"], key=found["rates"].get)


@pytest.mark.slow
def test_a_rate_that_diverges_takes_no_other_with_it(backbone, sources, tmp_path):
    for _ in range(2):  # the second time it is told again
        with pytest.raises(FloatingPointError, match="lr-1e.38: no evaluation of seed 0 .* finite loss; try a lower"):
            transfer(backbone, sources, tmp_path / "all", target=TARGETS[0], learning_rates=(3e-3, 1e38))
    left = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert left == ["lr-0.003", "lr-1e+38.partial", "rates.json"]
    found = json.loads((tmp_path / "all/rates.json").read_text())[TARGETS[0]]
    assert found["best"] == "0.003" and set(found["rates"]) == {"0.003"}
    transfer(backbone, sources, tmp_path / "all", target=TARGETS[0], learning_rates=(3e-3, 1e-3))
    found = json.loads((tmp_path / "all/rates.json").read_text())[TARGETS[0]]
    assert set(found["rates"]) == {"0.003", "0.001"}  # of which the first was there


@pytest.fixture
def spoil(monkeypatch):
    """Makes the first parameters of some seeds NaN."""
    first_state = program.first_state

    def of(*seeds):
        def spoilt(setups, optimizers):
            state, every = first_state(setups, optimizers), [seed for s in setups for seed in s.config.seeds]
            bad = np.isin(every, seeds)
            where = lambda leaf: jnp.where(bad.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.nan, leaf)  # noqa: E731
            return state._replace(trainable=jax.tree.map(where, state.trainable))

        monkeypatch.setattr(program, "first_state", spoilt)

    return of


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, why",
    [
        ({}, "no evaluation of seed 1 gave a finite loss"),
        (dict(max_faults=2), "seed 1: no finite loss and gradient in 2 steps in a row, up to step 2"),
        (dict(method="head", sources=()), "no evaluation of seed 1 gave a finite loss"),  # on cached features
    ],
)
def test_a_seed_that_diverges_takes_no_other_with_it(backbone, sources, tmp_path, spoil, capsys, options, why):
    settings = dict(target=TARGETS[0], seeds=(0, 1, 3), sources=sources) | options
    sources = settings.pop("sources")
    whole = transfer(backbone, sources, tmp_path / "whole", **settings)
    spoil(1)
    for attempt in range(2):  # the second time it is told again
        out = transfer(backbone, sources, tmp_path / "out", **settings)
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"scalearn: {out}: LOST a seed, the run holds only 0, 3: ") and why in told, attempt
    assert sorted(path.name for path in out.glob("seed-*")) == ["seed-0.safetensors", "seed-3.safetensors"]
    for seed in (0, 3):
        name = f"seed-{seed}.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    paths = out / "run.json", out / "results.json", whole / "results.json"
    info, results, before = (json.loads(path.read_text(), parse_constant=refuse) for path in paths)
    assert info["seeds"] == [0, 3] and info["config"]["seeds"] == [0, 1, 3]
    assert list(results["lost"]) == ["1"] and why in results["lost"]["1"]
    assert results["seeds"] == {seed: before["seeds"][seed] for seed in "03"}
    scores = [results["seeds"][seed]["test"]["accuracy"] for seed in "03"]
    assert results["mean"]["accuracy"] == np.mean(scores) and results["sd"]["accuracy"] == np.std(scores, ddof=1)
    events = [json.loads(line, parse_constant=refuse) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(event["dev"][1] == {"loss": None, "accuracy": None} for event in events if event["event"] == "eval")
    assert [event["loss"][1] for event in events if event["event"] == "train"] == [None] * 2
    assert read_result(out).lost == (1,) and list(load_run(str(out)).members) == [0, 3]


@pytest.mark.slow
def test_without_a_seed_that_stays_finite_there_is_no_run(backbone, sources, tmp_path, spoil):
    spoil(0, 1)
    with pytest.raises(FloatingPointError, match="evaluation of seed 0 gave .* evaluation of seed 1 gave"):
        transfer(backbone, sources, tmp_path / "out", target=TARGETS[0], seeds=(0, 1))
    assert not (tmp_path / "out").exists()


def test_the_best_rate_has_lost_no_seed(backbone, sources, tmp_path, spoil, monkeypatch):
    """Of two equal rates the one whose seeds are all there."""
    results = {
        out: {"seeds": {str(seed): {"dev": {"loss": loss}} for seed in seeds}, **({"lost": {"1": ""}} if lost else {})}
        for out, seeds, loss, lost in (("a/lr-0.001", (0, 1), 0.9, False), ("a/lr-0.1", (0,), 0.1, True))
    }
    config = TransferConfig(backbone="b", out="a", target=TARGETS[0], learning_rates=(1e-3, 0.1), seeds=(0, 1))
    setup = SimpleNamespace(config=config, name=TARGETS[0])
    (found,) = program.compare_rates([setup], results).values()
    assert found["best"] == "0.001" and found["lost"] == {"0.001": 0, "0.1": 1}


@pytest.mark.slow
def test_a_cut_test_set_is_recorded(backbone, sources, tmp_path):
    out = transfer(backbone, sources, tmp_path / "out", target=TARGETS[0], seeds=(0,), max_eval_samples=16)
    results = json.loads((out / "results.json").read_text())
    assert results["examples"] == {
        "train": {"used": 28, "available": 1800},
        "dev": {"used": 16, "available": 200},
        "test": {"used": 16, "available": 400},
    }
    p = results["seeds"]["0"]["test"]["accuracy"]
    assert results["seeds"]["0"]["se"] == results["se"] == {"accuracy": pytest.approx((p * (1 - p) / 16) ** 0.5)}
    assert results["sd"] == {"loss": None, "accuracy": None}  # one seed has no deviation
    result = read_result(out)
    assert (result.used, result.available, result.se, result.sd) == (16, 400, results["se"]["accuracy"], None)
    scores = evaluate(EvaluateConfig(run=str(out)))
    assert scores["examples"] == results["examples"]["test"] and scores["se"]["0"] == results["se"]


@pytest.mark.slow
def test_an_accumulated_step_is_the_whole_step(backbone, sources, tmp_path):
    """Dropout masks follow the rows, which parts lay out anew; the combiner's own is shared by all parts."""
    options = dict(target=TARGETS[0], backbone_dropout=False)  # the head's dropout is in the backbone's config
    plain = tmp_path / "backbone"
    tiny_backbone.write(plain, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SMALL)
    whole = transfer(str(plain), sources, tmp_path / "whole", **options)
    parts = transfer(str(plain), sources, tmp_path / "parts", accumulate=4, **options)  # the last batch has 4 examples
    assert_same_run(parts, whole, (0,))


@pytest.mark.slow
def test_several_steps_a_dispatch_change_nothing(backbone, sources, tmp_path):
    options = dict(target=TARGETS[0], max_steps=7, eval_every=3, log_every=5)
    single, several = (
        transfer(backbone, sources, tmp_path / str(size), steps_per_dispatch=size, **options) for size in (1, 2)
    )
    assert_same_run(several, single, (0,))


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(targets=("builtin/topic", "builtin/topic")), "twice"),
        (dict(target="builtin/topic", targets=("builtin/cause",)), "one of them"),
        (dict(), "one of them"),
        (dict(target="builtin/topic", learning_rate=0.1, learning_rates=(0.1,)), "one of them"),
        (dict(target="builtin/topic", learning_rates=(0.1, 0.1)), "different"),
        (dict(target="builtin/topic", accumulate=3), "does not divide"),
    ],
)
def test_contradictions_are_one_line(wrong, words, tmp_path):
    with pytest.raises(InputError, match=words):
        TransferConfig(backbone="b", out=str(tmp_path), batch_size=8, **wrong)
