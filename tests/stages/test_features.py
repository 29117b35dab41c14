"""Heads trained on features that were computed once end as if the encoder had run in every step."""

import json
from pathlib import Path

import numpy as np
import pytest

from scalearn_jax import methods, model, tree
from scalearn_jax.config import AdapterConfig, TransferConfig
from scalearn_jax.io.tensors import load_tree
from scalearn_jax.stages import features, pipeline
from tests.support import tiny_backbone

# 28 examples in batches of 8: the last batch of an epoch is short, and one epoch is seen twice
SHORT = dict(max_steps=6, batch_size=8, eval_every=3, log_every=3, max_train_samples=28, max_eval_samples=20)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_backbone.write(tmp_path_factory.mktemp("backbone"), num_hidden_layers=1))


@pytest.fixture(scope="module")
def source(backbone, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "run"
    config = AdapterConfig(task="builtin/sentiment", backbone=backbone, out=str(out), reduction_factor=4, **SHORT)
    return str(pipeline.train_adapter(config))


def train(backbone, sources, out, **changes):
    settings = dict(backbone=backbone, sources=sources, out=str(out), seeds=(0, 3), backbone_dropout=False, **SHORT)
    return pipeline.transfer(TransferConfig(**settings | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "target, method, options",
    [
        *((target, "soup", {}) for target in ("builtin/similarity", "builtin/topic", "builtin/cause")),
        ("builtin/sentiment", "fixed", {"coefficients": (0.5,)}),
        ("builtin/sentiment", "head", {}),
    ],
)
def test_cached_features_change_nothing(target, method, options, backbone, source, tmp_path, monkeypatch):
    sources = () if method == "head" else (source,)
    cached = train(backbone, sources, tmp_path / "cached", target=target, method=method, **options)
    monkeypatch.setattr(features, "trains_head_only", lambda method, spec: False)
    plain = train(backbone, sources, tmp_path / "plain", target=target, method=method, **options)
    for name in ("seed-0.safetensors", "seed-3.safetensors"):
        ours, theirs = (tree.flatten(load_tree(folder / name)) for folder in (cached, plain))
        assert set(ours) == set(theirs)
        for path, leaf in ours.items():  # rounding, of features laid out in other rows
            if target == "builtin/cause" and path.endswith("out/bias"):
                continue  # the same for all choices: its gradient is 0, and AdamW would scale its rounding up
            np.testing.assert_allclose(leaf, theirs[path], atol=1e-5, err_msg=path)
    ours, theirs = (json.loads((folder / "results.json").read_text())["mean"] for folder in (cached, plain))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_only_examples_that_are_used_are_encoded(backbone, source, tmp_path, monkeypatch):
    seen, compute = [], features.compute

    def counted(setup, encoded, examples):
        seen.append(len(examples))
        return compute(setup, encoded, examples)

    monkeypatch.setattr(features, "compute", counted)
    train(backbone, (source,), tmp_path / "run", target="builtin/topic", method="soup", seeds=(0,), max_steps=2)
    assert sorted(seen) == [16, 20]  # two steps of eight, and the development set once


@pytest.mark.slow
def test_any_part_of_a_split_can_be_encoded(backbone, source, tmp_path, monkeypatch):
    """Few long texts in a crowd of short ones: the batches of a part may need more rows than any of the whole."""
    seen, compute = [], features.compute

    def parts(setup, encoded, examples):
        order = np.argsort(encoded.lengths)[::-1]
        assert len(compute(setup, encoded, order[: len(order) // 2])) == len(order) // 2  # the long ones together
        seen.append(len(order))
        return compute(setup, encoded, examples)

    monkeypatch.setattr(features, "compute", parts)
    changes = dict(target="builtin/complaints", eval_batch_size=4, max_train_samples=40, seeds=(0,), max_steps=2)
    train(backbone, (source,), tmp_path / "run", method="soup", **changes)
    assert seen == [20, 40] or seen == [40, 20]


@pytest.mark.parametrize(
    "method, dropout, constant",
    [("soup", False, True), ("fixed", False, True), ("head", False, True), ("soup", True, False)]
    + [(name, False, False) for name in ("scalearn", "fusion", "single", "full", "compacter++", "ia3", "propetl")],
)
def test_what_learns_below_the_head_is_never_cached(method, dropout, constant):
    spec = model.ModelSpec(None, backbone_dropout=dropout)
    assert features.trains_head_only(methods.get(method), spec) is constant


@pytest.mark.slow
def test_the_folder_is_an_ordinary_run(backbone, source, tmp_path):
    folder = train(backbone, (source,), tmp_path / "run", target="builtin/topic", method="soup")
    assert {path.name for path in Path(folder).iterdir()} == {
        "run.json",
        "results.json",
        "metrics.jsonl",
        "frozen.safetensors",
        "timing.jsonl",
        "seed-0.safetensors",
        "seed-3.safetensors",
    }
