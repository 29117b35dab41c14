"""Seeds and learning rates share a program, targets share a backbone: each run ends as it would alone."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from scalearn_jax import tree
from scalearn_jax.config import TransferConfig
from scalearn_jax.errors import InputError
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.models import bank as banks
from scalearn_jax.runs import adapterhub
from scalearn_jax.stages import pipeline
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


def test_an_accumulated_step_is_the_whole_step(backbone, sources, tmp_path):
    """Dropout masks follow the rows, which parts lay out anew; the combiner's own is shared by all parts."""
    options = dict(target=TARGETS[0], backbone_dropout=False)  # the head's dropout is in the backbone's config
    plain = tmp_path / "backbone"
    tiny_backbone.write(plain, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SMALL)
    whole = transfer(str(plain), sources, tmp_path / "whole", **options)
    parts = transfer(str(plain), sources, tmp_path / "parts", accumulate=4, **options)  # the last batch has 4 examples
    assert_same_run(parts, whole, (0,))


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
