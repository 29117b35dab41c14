"""Programs: one for runs that differ in data alone, and of others no more than a few that live."""

import gc
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax.config import TransferConfig
from scalearn_jax.io.tensors import load_tensors
from scalearn_jax.stages import pipeline
from scalearn_jax.train.compile import keep_programs, over_members
from tests.support import tiny_backbone

SHORT = dict(batch_size=4, eval_every=2, max_steps=2, max_train_samples=8, max_eval_samples=8, eval_batch_size=8)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_backbone.write_with_sources(tmp_path_factory.mktemp("inputs"), **tiny_backbone.SILENT)


def transfer(inputs, out, **changes):
    sources = tuple(str(inputs / f"source{number}") for number in range(2))
    given = dict(backbone=str(inputs / "backbone"), sources=sources, target="builtin/sentiment", max_length=16)
    return Path(pipeline.transfer(TransferConfig(out=str(out), **given | SHORT | changes)))


@pytest.fixture
def compiled():
    """The names of the functions that are compiled."""
    names = []

    def record(event, seconds, fun_name=None, **facts):
        if event.endswith("backend_compile_duration"):
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(record)
    yield names
    jax.monitoring.unregister_event_duration_listener(record)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("method, name", [("fixed", "coefficients"), ("soup", "weights")])
def test_a_grid_of_constants_is_one_program(method, name, dropout, inputs, tmp_path, compiled):
    """Whether the whole model is computed in each step, or the head alone on features that are kept."""
    settings = dict(method=method, max_length=15 + dropout, backbone_dropout=dropout)
    pairs, folders = [(0.25, 0.75), (1.0, 0.5), (0.0, 1.0)], []
    for number, pair in enumerate(pairs):
        folders.append(transfer(inputs, tmp_path / str(number), **settings, **{name: pair}))
        if not number:
            first = len(compiled)
    assert {"jit(step)", "jit(predict)"} <= set(compiled[:first]) and compiled[first:] == []
    losses = {json.loads((folder / "results.json").read_text())["mean"]["loss"] for folder in folders}
    assert len(losses) == len(pairs)  # the constants act
    for pair, folder in zip(pairs, folders, strict=True):  # and stand in the spec alone, as before
        options = dict(json.loads((folder / "run.json").read_text())["spec"]["combiner_options"])
        assert options == {name: list(pair)}
        assert not any("transfer" in name for name in load_tensors(folder / "seed-0.safetensors"))


@pytest.mark.slow
def test_no_more_than_a_few_programs_live(inputs, tmp_path):
    client, living = jax.devices()[0].client, []
    for number in range(6):  # of rows of other lengths, so of other programs; four of a kind are kept
        transfer(inputs, tmp_path / str(number), max_length=20 + number)
        gc.collect()
        living.append(len(client.live_executables()))
    assert living[5] <= living[4], living


def test_the_last_programs_are_kept():
    made = []

    @keep_programs
    def make(number):
        made.append(number)
        return jax.jit(lambda x: x * number)

    for number in (0, 1, 2, 3, 0, 4, 0, 1):
        assert float(make(number)(1.0)) == number
    assert made == [0, 1, 2, 3, 4, 1]


def test_members_share_backbone_and_bank_and_have_the_rest_each():
    frozen = {"backbone": jnp.array(2.0), "adapters": {}, "transfer": {"masks": jnp.array([1.0, 10.0])}, "heads": {}}

    def step(own, frozen, batch):
        return own * frozen["backbone"] * frozen["transfer"]["masks"] + batch

    own = jnp.array([1.0, 3.0])
    np.testing.assert_array_equal(over_members(step, None)(own, frozen, 5.0), [7.0, 65.0])
    np.testing.assert_array_equal(over_members(step, 0)(own, frozen, jnp.array([5.0, 6.0])), [7.0, 66.0])
