"""The head in closed form: its leave-one-out error is that of as many refits, its gradient that of differences."""

import numpy as np
import pytest

from scalearn_jax.train.ridge import Ridge, Rows

STRENGTH = 0.3


def examples(kind, count, size, seed=0):
    """Features and labels of some examples, and the number of outputs."""
    generator = np.random.default_rng(seed)
    shape = (count, 3, size) if kind == "choice" else (count, size)
    labels = {
        "classification": lambda: generator.integers(0, 3, count),
        "regression": lambda: generator.normal(size=count),
        "multilabel": lambda: generator.integers(0, 2, (count, 4)),
        "choice": lambda: generator.integers(0, 3, count),
    }[kind]()
    return generator.normal(size=shape) + 2, labels, {"classification": 3, "multilabel": 4}.get(kind, 1)


KINDS = ["classification", "regression", "multilabel", "choice"]
SIZES = [(12, 30), (30, 7)]  # fewer examples than features, and more


def least_squares(x, y, strength, intercept):
    """The head of smallest |y - x w - b|^2 + strength |w|^2, by the normal equations."""
    if intercept:
        x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count, size", SIZES)
def test_the_error_is_that_of_refits_without_each_example(kind, count, size):
    features, labels, num_outputs = examples(kind, count, size)
    head = Ridge(Rows.of(kind, features, labels, num_outputs))
    expected = []
    for left_out in range(count):
        if kind == "choice":  # differences of the right choice to the two others
            wrong = [np.delete(one, label, axis=0) for one, label in zip(features, labels, strict=True)]
            x = np.stack([one[label] - other for one, label, other in zip(features, labels, wrong, strict=True)])
            y = np.ones((count, 2, 1))
        else:
            targets = np.eye(3)[labels] if kind == "classification" else labels.reshape(count, -1)
            x, y = features[:, None], targets[:, None].astype(float)
        x = x / np.sqrt(size * head.scale)
        kept = np.arange(count) != left_out
        x_kept, y_kept = x[kept].reshape(-1, size), y[kept].reshape(-1, y.shape[-1])
        weights = least_squares(x_kept, y_kept, STRENGTH, kind != "choice")
        middle = (0, 0) if kind == "choice" else (x_kept.mean(0), y_kept.mean(0))
        expected.append(y[left_out] - middle[1] - (x[left_out] - middle[0]) @ weights)
    np.testing.assert_allclose(head.residuals(STRENGTH), np.concatenate(expected), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count, size", SIZES)
def test_the_gradient_is_that_of_finite_differences(kind, count, size):
    features, labels, num_outputs = examples(kind, count, size)
    direction = np.random.default_rng(1).normal(size=features.shape)

    def error(step):
        return Ridge(Rows.of(kind, features + step * direction, labels, num_outputs)).error(STRENGTH)

    head = Ridge(Rows.of(kind, features, labels, num_outputs))
    found = (head.rows.pull(head.gradient(STRENGTH)) * direction).sum()
    assert found == pytest.approx((error(1e-5) - error(-1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_place_nor_scale_of_the_features_matters(kind):
    features, labels, num_outputs = examples(kind, 12, 9)
    first = Ridge(Rows.of(kind, features, labels, num_outputs))
    moved = Ridge(Rows.of(kind, 40 * features - 7, labels, num_outputs))
    assert moved.error(STRENGTH) == pytest.approx(first.error(STRENGTH), rel=1e-9)
    assert moved.strength == pytest.approx(first.strength, rel=1e-3)


def test_noise_is_no_better_than_the_mean_and_a_signal_is():
    generator = np.random.default_rng(3)
    features, labels = generator.normal(size=(400, 20)), generator.normal(size=400)
    noise = Ridge(Rows.of("regression", features, labels, 1))
    signal = Ridge(Rows.of("regression", features, features[:, 3] + 0.1 * labels, 1))
    assert noise.error(noise.strength) > 0.95 and signal.error(signal.strength) < 0.05
    assert noise.strength > 10 * signal.strength


def test_the_weights_are_those_of_the_normal_equations():
    features, labels, num_outputs = examples("classification", 12, 30)
    head = Ridge(Rows.of("classification", features, labels, num_outputs))
    x = features / np.sqrt(30 * head.scale)
    expected = least_squares(x, np.eye(3)[labels], STRENGTH, intercept=True) / np.sqrt(30 * head.scale)
    np.testing.assert_allclose(head.weights(STRENGTH), expected, atol=1e-10)
