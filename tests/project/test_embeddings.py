"""The linear head on embeddings that few-shot results are set beside."""

import sys
import types

import numpy as np
import pytest

from experiments import embeddings
from scalearn_jax.data import tasks


class Encoder:
    """A stand-in: a text's embedding follows from its length and first letter."""

    def __init__(self, *args, **options):
        pass

    def encode(self, texts, batch_size):
        return np.array([[len(text), ord(text[0])] for text in texts], float)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Encoder))


def test_a_pair_is_seen_from_four_sides():
    seen = embeddings.embed("", [("aaa", "c")], {})
    np.testing.assert_array_equal(seen, [[3, 97, 1, 99, 2, 2, 3, 97 * 99]])
    np.testing.assert_array_equal(embeddings.embed("", [("aaa",)], {}), [[3, 97]])


def test_a_class_without_examples_is_never_predicted():
    texts, task = [("a" * (1 + number % 2 * 20),) for number in range(12)], tasks.get("glue/mnli")
    labels = np.array([2 * (number % 2) for number in range(12)])
    logits = embeddings.fit("", texts, texts, labels, task, {})
    np.testing.assert_array_equal(logits.argmax(1), labels)
    assert (logits[:, 1] < -1e8).all()


def test_scores_are_met_by_ridge():
    texts = [("a" * number,) for number in range(1, 30)]
    found = embeddings.fit("", texts, texts, np.arange(1.0, 30.0), tasks.get("glue/stsb"), {})
    assert np.corrcoef(found[:, 0], np.arange(1, 30))[0, 1] > 0.999
