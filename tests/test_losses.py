"""Losses against their definitions, in numpy."""

import numpy as np
import pytest

from scalearn_jax.losses import LOSSES, masked_mean

DRAWN = np.random.default_rng(0)
LOGITS = DRAWN.normal(0, 3, (6, 4)).astype(np.float32)


def cross_entropy(logits, labels):
    return [-np.log(np.exp(row[label]) / np.exp(row).sum()) for row, label in zip(logits, labels, strict=True)]


def squared_error(logits, labels):
    return [(value - label) * (value - label) for (value,), label in zip(logits, labels, strict=True)]


def binary_cross_entropy(logits, labels):
    chance = 1 / (1 + np.exp(-logits))
    return -np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance), axis=1)


CASES = {
    "classification": (cross_entropy, LOGITS, DRAWN.integers(0, 4, 6)),
    "choice": (cross_entropy, LOGITS[:, :2], DRAWN.integers(0, 2, 6)),
    "regression": (squared_error, LOGITS[:, :1], DRAWN.normal(2, 1, 6).astype(np.float32)),
    "multilabel": (binary_cross_entropy, LOGITS, DRAWN.integers(0, 2, (6, 4)).astype(np.float32)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_follows_its_definition(kind):
    by_hand, logits, labels = CASES[kind]
    expected = by_hand(logits.astype(float), labels)
    np.testing.assert_allclose(LOSSES[kind](logits, labels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_right_answers_cost_nothing(kind):
    sure = {"classification": np.eye(4) * 40, "choice": np.eye(2) * 40, "multilabel": np.eye(4) * 80 - 40}
    logits = sure.get(kind, np.array([[1.5]])).astype(np.float32)
    labels = {"multilabel": np.eye(4), "regression": np.array([1.5])}.get(kind, np.arange(len(logits)))
    assert np.abs(np.asarray(LOSSES[kind](logits, labels))).max() < 1e-6


def test_fillers_are_no_part_of_a_mean():
    values, mask = np.array([1.0, 2.0, 6.0, 50.0], np.float32), np.array([True, True, True, False])
    assert float(masked_mean(values, mask)) == 3.0
    assert float(masked_mean(values, ~mask)) == 50.0 and float(masked_mean(values, mask & ~mask)) == 0.0
