"""How alike texts are, and weights from that: laws."""

import numpy as np
import pytest

from scalearn_jax.data import tokens
from scalearn_jax.data.task import Task
from scalearn_jax.errors import InputError
from scalearn_jax.models import encoder
from scalearn_jax.runs import backbone
from scalearn_jax.stages import soup as similarity
from tests.support import tiny

ENCODER = tiny.params(tiny.spec("none"))["backbone"]


def texts(lengths, seed=0, ids=None):
    """Random token sequences of the given lengths."""
    ids = np.random.default_rng(seed).integers(3, 50, sum(lengths)) if ids is None else ids
    return tokens.Encoded(ids, np.zeros_like(ids), np.concatenate([[0], np.cumsum(lengths)]), np.zeros(len(lengths)), 1)


def embed(encoded, **layout):
    return backbone.embed(ENCODER, tiny.BACKBONE, encoded, **dict(row_length=16) | layout)


def test_the_product_of_mean_unit_vectors_is_the_mean_pairwise_cosine():
    generator = np.random.default_rng(0)
    u, v = generator.normal(0.3, 2.0, (7, 5)), generator.normal(0.1, 3.0, (4, 5))
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in u for b in v]
    found = similarity.mean_unit_vector(u) @ similarity.mean_unit_vector(v)
    np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-12)


def test_a_text_is_the_mean_of_its_tokens_last_states():
    batch = tiny.batch((5,), row_length=5)
    hidden, _ = encoder.encode(encoder.Adapted(ENCODER), batch, tiny.BACKBONE, encoder.Compute())  # [1, 5, d]
    found = backbone.mean_pool(ENCODER, batch, spec=tiny.BACKBONE)
    np.testing.assert_allclose(found[0], hidden[0].mean(0), atol=1e-5)


def test_packed_rows_give_what_rows_of_one_text_give():
    encoded = texts(np.random.default_rng(1).integers(2, 16, 45).tolist())
    np.testing.assert_allclose(embed(encoded), embed(encoded, packed=False), atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_padding_and_neighbours_have_no_influence(packed):
    alone = embed(texts((6,), ids=np.arange(10, 16)))
    among = embed(texts((4, 6, 3), ids=np.r_[20:24, 10:16, 30:33]), packed=packed)
    np.testing.assert_allclose(among[1], alone[0], atol=1e-5)


def test_a_row_shape_is_compiled_once():
    backbone.mean_pool.clear_cache()
    encoded = texts([8] * 128)
    embed(encoded)
    embed(texts([8] * 64, seed=1))
    assert backbone.mean_pool._cache_size() == 1


def test_weights_are_clipped_cut_and_sum_to_one():
    found = similarity.weights([0.2, -0.9, 0.6, 0.0, 0.1], 2)
    assert found == pytest.approx((0.25, 0, 0.75, 0, 0)) and found[1] == found[4] == 0
    assert sum(similarity.weights([0.3, 0.7, -1.0], 9)) == pytest.approx(1, abs=1e-15)
    assert similarity.weights([0.5, -0.1], 5) == (1.0, 0.0)
    assert similarity.weights([0.5, 0.5, 0.5], 2) == (0.5, 0.5, 0.0)  # of equal ones, the first stay


def test_permuting_sources_permutes_weights():
    values, order = np.array([0.2, -0.1, 0.6, 0.4, 0.1]), [3, 0, 4, 1, 2]
    found = np.array(similarity.weights(values, 3))
    np.testing.assert_array_equal(similarity.weights(values[order], 3), found[order])


def test_the_targets_own_texts_count_most_among_equally_scattered_ones():
    """Then sim(a, b) = m_a . m_b is at most |m_a|^2, Cauchy and Schwarz say."""
    generator = np.random.default_rng(0)
    centred = generator.normal(size=(9, 5)) + [3, 0, 0, 0, 0]
    turned = [centred @ np.linalg.qr(generator.normal(size=(5, 5)))[0] for _ in range(3)]
    means = [similarity.mean_unit_vector(vectors) for vectors in (*turned, centred)]
    similarities = [means[-1] @ mean for mean in means]
    assert np.argmax(similarity.weights(similarities, 4)) == 3


@pytest.mark.parametrize("values", [[-0.2, 0.0], [float("nan")]])
def test_nothing_alike_is_an_error(values):
    with pytest.raises(InputError, match="no source's training texts are like the target's"):
        similarity.weights(values, 5)


def test_sampling_is_a_function_of_the_task_and_its_rows():
    table = {"text": [f"text {i}" for i in range(100)]}
    one, other = (Task(name, "regression", ("text",)) for name in ("one", "other"))
    np.random.seed(1)
    first = similarity.sample_texts(one, table, 20)
    np.random.seed(2)
    assert first == similarity.sample_texts(one, table, 20) and len(set(first)) == 20
    assert first != similarity.sample_texts(other, table, 20)
    assert similarity.sample_texts(one, table, 1000) == table["text"]
