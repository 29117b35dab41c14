"""Laws of a training step: where dropout acts, which of its masks differ, and what the parts of a step add up to."""

import dataclasses
import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scalearn_jax import model, tree
from scalearn_jax.models import dropout as dropouts
from scalearn_jax.models import heads
from scalearn_jax.train import state as states
from scalearn_jax.train.step import make_loss, make_predict_step, make_train_step
from tests.support import tiny

QUIET, RATE, LAYERS = tiny.BACKBONE, 0.5, range(tiny.BACKBONE.num_layers)
HIDDEN, ATTENTION = dict(hidden_dropout=RATE), dict(attention_dropout=RATE)
EMBEDDED, ATTENDED, FORWARD = "embeddings/norm/", "layers/attention_output/", "layers/output/"


def spec_of(combiner="scalearn", *, backbone=None, head=0.0, combined=0.0, **changes) -> model.ModelSpec:
    """A model whose dropout rates are 0 but for those given."""
    return tiny.spec(
        combiner,
        backbone=dataclasses.replace(QUIET, **backbone or {}),
        heads=(("demo", heads.HeadSpec(num_outputs=3, dropout=head)),),
        options={"dropout": combined},
        **changes,
    )


def sites():
    """Yields each place with a dropout: (name, model that drops there, backbone leaves that are 0 in which layers).

    Three places of a layer, and the embeddings, share one rate. Where a sublayer's last map is 0, what is dropped of
    its output is not seen; where the embeddings' norm is 0, what is dropped of them is not.
    """
    hidden, attention = spec_of(backbone=HIDDEN), spec_of(backbone=ATTENTION)
    yield "embeddings", hidden, {ATTENDED: LAYERS, FORWARD: LAYERS}
    for layer in LAYERS:
        others = [other for other in LAYERS if other != layer]
        silent = {EMBEDDED: ..., ATTENDED: LAYERS, FORWARD: LAYERS}
        yield f"attention probabilities {layer}", attention, {ATTENDED: others}
        yield f"attention output {layer}", hidden, silent | {ATTENDED: others}
        yield f"feed-forward output {layer}", hidden, silent | {FORWARD: others}
    yield "scaling factors", spec_of(combined=RATE), {}
    yield "fusion scores", spec_of("fusion", combined=RATE), {}
    yield "head", spec_of(head=RATE), {}


SITES = {name: rest for name, *rest in sites()}


def silenced(params, zeros):
    """Sets backbone leaves to 0 in some layers."""

    def change(path, leaf):
        found = [layers for start, layers in zeros.items() if path.startswith(f"backbone/{start}")]
        return leaf.at[jnp.array(found[0]) if found[0] is not ... else ...].set(0.0) if found and found[0] else leaf

    return tree.map_with_path(change, params)


@cache
def compiled_step(spec: model.ModelSpec):
    """Compiles a step of two parts: (params, key, its number, batch) -> (what a head learns at rate 1, metrics)."""
    tx = optax.sgd(1.0)
    step = make_train_step(make_loss(spec, "demo", "classification"), tx, num_parts=2)

    @jax.jit
    def run(params, key, number, batch):
        trainable, frozen = tree.partition(params, lambda path: path.startswith("heads"))
        state, metrics = step(states.create(trainable, tx, key)._replace(step=number), frozen, batch)
        return state.trainable, metrics

    return run


@cache
def compiled_logits(spec: model.ModelSpec):
    nothing = jax.tree.map(lambda leaf: None, jax.eval_shape(lambda: model.init(jax.random.key(0), spec)))
    return jax.jit(lambda params, batch: make_predict_step(spec, "demo")(nothing, params, batch))


def loss_of_step(spec, params, key, number, batch, part=0) -> float:
    """The loss of a step with its examples in one of its two parts; the other has fillers only."""
    empty = batch._replace(example_mask=np.zeros_like(batch.example_mask))
    parts = tree.stack([batch if part == index else empty for index in range(2)])
    return float(compiled_step(spec)(params, key, number, parts)[1]["loss"])


def cross_entropy(logits, labels) -> float:
    """The mean of -log softmax(logits)[label], in numpy."""
    logits = np.asarray(logits, float)
    return float(np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]))


@pytest.mark.parametrize(
    "name, layers",
    [(name, "loop") for name in SITES]
    + [(name, "scan") for name, (spec, _) in SITES.items() if spec.backbone != QUIET],
)
def test_each_dropout_acts_and_differs_between_steps_seeds_and_parts(name, layers):
    spec, zeros = SITES[name]
    spec, batch = dataclasses.replace(spec, layers=layers), tiny.batch()
    params, keys = silenced(tiny.params(spec), zeros), [jax.random.key(seed) for seed in range(2)]
    found = {
        "no dropout": cross_entropy(compiled_logits(spec_of(spec.combiner))(params, batch), batch.labels),
        "a step": loss_of_step(spec, params, keys[0], 1, batch),
        "another step": loss_of_step(spec, params, keys[0], 2, batch),
        "another seed": loss_of_step(spec, params, keys[1], 1, batch),
    }
    other_part = loss_of_step(spec, params, keys[0], 1, batch, part=1)
    if name == "scaling factors":  # one mask a step: all parts train the same model
        assert other_part == pytest.approx(found["a step"], rel=1e-6)
    else:
        found["another part"] = other_part
    for one, other in itertools.combinations(found, 2):
        assert abs(found[one] - found[other]) > 1e-4, f"{one} and {other} agree: {found}"


def test_without_a_key_nothing_is_dropped():
    every, batch = spec_of(backbone=HIDDEN | ATTENTION, head=RATE, combined=RATE), tiny.batch()
    params = tiny.params(every)
    found, expected = (np.asarray(compiled_logits(spec)(params, batch)) for spec in (every, spec_of()))
    np.testing.assert_array_equal(found, expected)


def test_the_dropouts_of_a_head_act_on_its_features_and_on_its_hidden_layer():
    """A feature that is dropped gives its row of the dense kernel no gradient; a hidden unit, its column."""
    spec, size = heads.HeadSpec(num_outputs=3, dropout=RATE), 32
    params = heads.init(jax.random.key(0), spec, size)

    def total(params, key):
        return heads.Head(spec, size).apply({"params": params}, jnp.ones((1, size)), key=key).sum()

    def zeros(key):
        gradient = np.asarray(jax.grad(total)(params, key)["dense"]["kernel"])
        return (gradient == 0).all(1), (gradient == 0).all(0)

    assert not np.any(zeros(None))
    rows, columns = zeros(jax.random.key(1))
    assert all(size / 4 < mask.sum() < 3 * size / 4 for mask in (rows, columns))
    assert (rows != columns).any()


def test_every_mask_of_a_run_is_its_own(monkeypatch):
    """Two seeds, two steps, two parts, two layers: no two places of any of them draw the same bits."""
    masks, bits = [], dropouts._bits

    def recorded(key, shape):
        found = bits(key, shape)
        # Equal keys draw equal bits in places of equal number, whatever the shape.
        jax.debug.callback(lambda first: masks.append(tuple(first.tolist())), found.reshape(-1)[:32])
        return found

    monkeypatch.setattr(dropouts, "_bits", recorded)
    monkeypatch.setattr(dropouts, "_dropped", dropouts._dropped.__wrapped__)  # else it is traced once a process
    spec = spec_of("fusion", backbone=HIDDEN | ATTENTION, head=RATE, combined=RATE)
    keys = jnp.stack([jax.random.key(seed) for seed in range(2)])
    steps = jax.vmap(compiled_step.__wrapped__(spec), (None, 0, None, None))
    for number in range(2):
        jax.block_until_ready(steps(tiny.params(spec), keys, number, tree.stack([tiny.batch()] * 2)))
    jax.effects_barrier()
    embeddings, of_layer, head = 1, 4, 2  # probabilities, two outputs and scores in each layer
    assert len(set(masks)) == 2 * 2 * 2 * (embeddings + of_layer * len(LAYERS) + head)


def test_parts_add_up_to_the_step():
    """Three examples and one, or all four and none: the same loss, and the same step of gradient descent."""
    spec, batch = spec_of(), tiny.batch()
    params, every = tiny.params(spec), np.arange(4)
    found = []
    for first in (every < 3, every < 4):
        parts = tree.stack([batch._replace(example_mask=mask) for mask in (first, ~first)])
        found.append(compiled_step(spec)(params, jax.random.key(0), 0, parts))
    (one, metrics), (other, expected) = found
    assert tiny.largest(one["heads"], params["heads"]) > 0.1
    assert tiny.largest(one["heads"], other["heads"]) < 1e-5
    for name in ("loss", "objective", "grad_norm"):
        assert float(metrics[name]) == pytest.approx(float(expected[name]), rel=1e-5), name


def test_the_loss_of_a_step_is_the_mean_over_its_examples():
    spec, batch = spec_of(), tiny.batch()
    real = np.array([True, False, True, True])
    params = tiny.params(spec)
    expected = cross_entropy(compiled_logits(spec)(params, batch)[real], batch.labels[real])
    found = loss_of_step(spec, params, jax.random.key(0), 0, batch._replace(example_mask=real))
    assert found == pytest.approx(expected, rel=1e-5)
