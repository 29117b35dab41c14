"""Runs that share a program end as alone: targets of every kind of label, learning rates, shorter schedules."""

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
from scalearn_jax.stages import pipeline, soup
from tests.support import tiny_backbone

SHORT = dict(batch_size=8, eval_every=2, log_every=2, max_train_samples=28, max_eval_samples=16, max_length=32)
# two classes, a number, several labels at once; a choice cannot share their rows
TARGETS = ("builtin/sentiment", "builtin/similarity", "builtin/topic", "builtin/cause")
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


def test_targets_together_equal_runs_alone(backbone, sources, tmp_path):
    options = dict(seeds=(0, 3), weight_decay=0.1, warmup_steps=1)
    together = transfer(backbone, sources, tmp_path / "all", targets=TARGETS, **options)
    for target in TARGETS:
        alone = transfer(backbone, sources, tmp_path / "alone" / target, target=target, **options)
        assert_same_run(together / target, alone, (0, 3))


def test_targets_of_different_length_stop_on_their_own(backbone, sources, tmp_path):
    # 64 examples less the tenth that is held out, and twice as many
    options = dict(max_steps=None, epochs=1, eval_every=3, max_train_samples=128)
    targets = ("builtin/sentiment", "builtin/recommendation")
    together = transfer(backbone, sources, tmp_path / "all", targets=targets, **options)
    steps = []
    for target in targets:
        alone = transfer(backbone, sources, tmp_path / "alone" / target, target=target, **options)
        assert_same_run(together / target, alone, (0,))
        steps.append(json.loads((alone / "results.json").read_text())["num_steps"])
    assert steps[0] > steps[1]


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


def test_targets_share_a_program_only_where_the_model_is_the_same(backbone, sources, tmp_path, monkeypatch):
    """AdapterSoup weighs the sources by each target's own texts."""
    settings = dict(backbone=backbone, sources=sources, out=str(tmp_path / "all"), max_steps=4, **SHORT)

    def count(**changes):
        config = TransferConfig(**settings | {"targets": TARGETS} | changes)
        return [len(group) for group in pipeline.programs(pipeline.transfer_setups(config))]

    assert count() == [3, 1]  # a choice has rows of its own
    assert count(method="soup", targets=TARGETS[:2], weights=(1.0, 1.0, 2.0)) == [2]
    by_task = {TARGETS[0]: (0.5, 0.5, 0.0), TARGETS[1]: (0.0, 0.5, 0.5)}
    measured = lambda config, task, *_: soup.Soup(by_task[task.name], {}, {}, 1)  # noqa: E731
    monkeypatch.setattr(soup, "measure", measured)
    assert count(method="soup", targets=TARGETS[:2], top_sources=2) == [1, 1]


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
