"""MPNet: its buckets of relative positions, that every text has its own, its sizes, and every way to compute it."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalearn_jax import model, tree
from scalearn_jax.combiners.scalearn import VARIANTS
from scalearn_jax.errors import InputError
from scalearn_jax.model import ModelSpec
from scalearn_jax.models import pretrained
from scalearn_jax.models.attention import relative_bias, relative_bucket
from scalearn_jax.models.backbones import spec_from_config
from tests.support import tiny

TINY = dataclasses.replace(tiny.BACKBONE, family="mpnet", type_vocab_size=0, max_positions=202)
# config.json of microsoft/mpnet-base, and of its sentence encoders
BASE = {
    "model_type": "mpnet",
    "vocab_size": 30527,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-05,
    "pad_token_id": 1,
    "relative_attention_num_buckets": 32,
}
# The smallest distance in each bucket, by hand: 0 to 7 alone, then 8 * 2^(k/2) rounded up.
SMALLEST = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91)


def spec(combiner="scalearn", **changes):
    return tiny.spec(combiner, backbone=TINY, **changes)


def padded(lengths=(5, 150, 7, 4)):
    """Texts, one of which has tokens that are further apart than any bucket tells."""
    return tiny.batch(lengths, row_length=max(lengths))


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradient(spec, params, batch):
    """Logits, and the gradient of a loss of them in omega and the table of relative positions."""

    def loss(learned):
        backbone = params["backbone"] | {"relative": {"embedding": learned["table"]}}
        own = params | {"backbone": backbone, "transfer": learned["transfer"]}
        logits = model.apply(own, batch, spec=spec, task="demo")
        return jnp.sin(logits).sum(), logits

    learned = {"transfer": params["transfer"], "table": params["backbone"]["relative"]["embedding"]}
    gradient, logits = jax.grad(loss, has_aux=True)(learned)
    return logits, gradient


def test_buckets_grow_with_the_logarithm_of_the_distance():
    far = np.arange(600)
    expected = np.searchsorted(SMALLEST, far, side="right") - 1
    np.testing.assert_array_equal(relative_bucket(-far, 32), expected)  # a key before the query, or itself
    np.testing.assert_array_equal(relative_bucket(far[1:], 32), 16 + expected[1:])


def test_the_bias_is_that_of_every_pair():
    table = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 0, 1, 2], [0, 60, 61, 140, 141, 199, 0]])
    found = relative_bias(jnp.asarray(table), jnp.asarray(positions))
    for r, q, k in np.ndindex(2, 7, 7):
        bucket = relative_bucket(positions[r, k] - positions[r, q], 32)
        np.testing.assert_array_equal(found[r, :, q, k], table[bucket])


@pytest.mark.slow
def test_a_text_has_its_own_positions_wherever_it_stands_in_a_row():
    params, alone = tiny.params(spec()), padded()
    packed = tiny.pack(alone, [[0, 1], [3, 2]], 160)
    values, gradients = zip(*(value_and_gradient(spec(), params, batch) for batch in (alone, packed)), strict=True)
    chex.assert_trees_all_close(*values, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-4)
    learns = np.abs(gradients[0]["table"]).min(1) > 0
    assert np.flatnonzero(~learns).tolist() == [16]  # the bucket of keys after the query at distance 0
    without = params | {"backbone": params["backbone"] | {"relative": {"embedding": jnp.zeros((32, 2))}}}
    assert np.abs(values[0] - value_and_gradient(spec(), without, alone)[0]).max() > 1e-2


def test_other_texts_of_a_row_change_no_bit():
    params, packed = tiny.params(spec()), tiny.pack(padded(), [[0, 1], [3, 2]], 160)
    other = packed._replace(tokens=np.where(packed.segments == 2, 49 - packed.tokens % 40, packed.tokens))
    one, two = (np.asarray(value_and_gradient(spec(), params, batch)[0]) for batch in (packed, other))
    np.testing.assert_array_equal(one[[0, 3]], two[[0, 3]])
    assert np.abs(one - two)[[1, 2]].max() > 1e-2


@functools.cache
def of_short_texts(spec):
    return value_and_gradient(spec, tiny.params(spec), padded((5, 40, 7)))


# bfloat16 keeps 8 bits, of sums over 16 in two layers
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, tolerance",
    [
        ({"remat": True}, 1e-5),
        ({"layers": "scan", "remat": True}, 1e-5),
        ({"dtype": "strict"}, 1e-5),
        ({"dtype": "mixed"}, 0.05),
        ({"dtype": "bfloat16"}, 0.05),
    ],
)
def test_every_way_to_compute_gives_the_same(changes, tolerance):
    (value, gradient), (other, its) = of_short_texts(spec()), of_short_texts(spec(**changes))
    chex.assert_trees_all_close(other, value, rtol=tolerance, atol=tolerance)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    chex.assert_trees_all_close(its, gradient, rtol=tolerance, atol=tolerance * largest)


def test_base_size_has_the_published_counts():
    backbone = spec_from_config(BASE, has_pooler=True)
    size = lambda shape: int(np.prod(shape))  # noqa: E731
    layers = lambda name: 12 if "{}" in name else 1  # noqa: E731
    assert sum(size(shape) * layers(name) for _, name, shape in pretrained.weights(backbone)) == 109_486_464
    counts = {}
    for name in VARIANTS:
        described = ModelSpec(backbone, name, num_sources=8, bottleneck=48)
        drawn = jax.eval_shape(lambda key, described=described: model.init(key, described), jax.random.key(0))
        counts[name] = tree.num_parameters(drawn["transfer"])
        assert tree.num_parameters(drawn["backbone"]) == 109_486_464
    assert counts == {"scalearn": 73_728, "scalearn-uniform": 96, "scalearn++": 6_144, "scalearn-uniform++": 8}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"relative_attention_num_buckets": 64},
            "relative_attention_num_buckets is 64; only 32 is",
        ),
        ({"pad_token_id": 0}, "pad_token_id is 0; only 1 is supported for mpnet"),
    ],
)
def test_what_the_published_code_does_not_compute_with_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        spec_from_config(BASE | changes)
    left_out = {key: value for key, value in BASE.items() if key not in changes}
    assert spec_from_config(left_out) == spec_from_config(BASE)
    assert spec_from_config(BASE | {"type_vocab_size": 2}) == spec_from_config(BASE)  # it has no token types
