"""The calibrated head is the logistic regression of scikit-learn, whatever the kind of task."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from scalearn_jax.train import logistic

GENERATOR = np.random.default_rng(0)
STRENGTH = 0.3


def scaled(features):
    """What the penalty is measured on."""
    centred = features - features.mean(0)
    return centred / np.sqrt((centred**2).mean() * features.shape[1])


def theirs(features, labels, **options):
    """Log odds of scikit-learn's head, whose C is the strength's inverse."""
    head = LogisticRegression(C=1 / STRENGTH, tol=1e-10, max_iter=10_000, **options)
    return head.fit(scaled(features), labels).decision_function(scaled(features))


@pytest.mark.parametrize("count, size", [(40, 6), (12, 30)])
def test_classes_are_as_with_another_library(count, size):
    features = GENERATOR.normal(size=(count, size)) + 2
    labels = ((features - 2) @ GENERATOR.normal(size=(size, 3)) + GENERATOR.normal(size=(count, 3))).argmax(1)
    found = logistic.logits(logistic.fit("classification", features, labels, 3, STRENGTH), features)
    expected = theirs(features, labels)
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), expected, atol=1e-3)


def test_each_of_several_labels_is_a_regression_of_its_own():
    features = GENERATOR.normal(size=(30, 5))
    labels = (features[:, :2] + GENERATOR.normal(size=(30, 2)) > 0).astype(float)
    found = logistic.logits(logistic.fit("multilabel", features, labels, 2, STRENGTH), features)
    expected = np.stack([theirs(features, labels[:, one]) for one in range(2)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_one_of_two_choices_is_a_regression_on_their_difference():
    features = GENERATOR.normal(size=(40, 2, 4))
    labels = (features[:, 1, 0] + GENERATOR.normal(size=40) > features[:, 0, 0]).astype(int)
    found = logistic.logits(logistic.fit("choice", features, labels, 1, STRENGTH), features)
    rows = features.reshape(-1, 4) - features.reshape(-1, 4).mean(0)
    difference = (features[:, 1] - features[:, 0]) / np.sqrt((rows**2).mean() * 4)
    head = LogisticRegression(C=1 / STRENGTH, tol=1e-10, max_iter=10_000, fit_intercept=False)
    expected = head.fit(difference, labels).decision_function(difference)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected, atol=1e-3)


def test_noise_asks_for_the_strongest_penalty_and_a_signal_does_not():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(200, 8))
    noise, signal = generator.integers(0, 2, 200), (features[:, 0] > 0).astype(int)
    strength, loss = logistic.choose_strength("classification", features, noise, 2)
    assert strength >= logistic.STRENGTHS[2] and loss > 0.65
    strength, loss = logistic.choose_strength("classification", features, signal, 2)
    assert strength <= logistic.STRENGTHS[5] and loss < 0.35


def test_a_class_of_one_example_is_scored_without_it():
    features = GENERATOR.normal(size=(11, 3))
    strength, loss = logistic.choose_strength("classification", features, np.arange(11) // 10, 2)
    assert np.isfinite(loss) and strength > 0
