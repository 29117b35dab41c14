"""Metrics against their definitions, and where libraries warn: constant predictions, absent classes."""

import numpy as np
import pytest

from scalearn_jax import metrics
from scalearn_jax.data import tasks
from scalearn_jax.data.task import QUESTION_METRICS

CLASSES = [2, 3, 5]


def drawn(num_classes: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, num_classes, 60), generator.integers(0, num_classes, 60)


def by_definition(name: str, predictions, labels) -> float:
    """A metric over classes from its textbook formula, one class at a time."""
    if labels.ndim == 1:
        classes = sorted({*predictions.tolist(), *labels.tolist()})
        predictions, labels = (np.stack([values == c for c in classes], 1) for values in (predictions, labels))
    scores = []
    for predicted, actual in zip(predictions.T.astype(bool), labels.T.astype(bool), strict=True):
        hits = int((predicted & actual).sum())
        above, below = {
            "macro_f1": (2 * hits, predicted.sum() + actual.sum()),
            "macro_precision": (hits, predicted.sum()),
            "macro_recall": (hits, actual.sum()),
        }[name]
        scores.append(above / below if below else 0.0)
    return sum(scores) / len(scores)


MACRO = ["macro_f1", "macro_precision", "macro_recall"]


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("name", MACRO)
def test_class_metrics_follow_their_definition(name, num_classes):
    predictions, labels = drawn(num_classes)
    predictions[predictions == 1] = 0  # a class that is never predicted
    expected = by_definition(name, predictions, labels)
    assert metrics.METRICS[name](predictions, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", MACRO)
@pytest.mark.parametrize("num_labels", [1, 6])
def test_multilabel_metrics_follow_their_definition(name, num_labels):
    generator = np.random.default_rng(1)
    predictions, labels = (generator.integers(0, 2, (40, num_labels)).astype(np.float32) for _ in range(2))
    if num_labels > 1:
        predictions[:, 2], labels[:, 3], predictions[:, 4], labels[:, 4] = 0, 0, 0, 0  # never predicted, absent, both
    expected = by_definition(name, predictions, labels)
    assert metrics.METRICS[name](predictions, labels) == pytest.approx(expected, abs=1e-12)


def test_metrics_of_a_small_case_by_hand():
    predictions, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    assert metrics.accuracy(predictions, labels) == 3 / 5
    assert metrics.f1(predictions, labels) == pytest.approx(2 * 2 / (3 + 3))
    assert metrics.matthews(predictions, labels) == pytest.approx((2 * 1 - 1 * 1) / 6)  # over sqrt(3 * 3 * 2 * 2)
    assert metrics.exact_match(np.eye(3), np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]])) == 2 / 3


@pytest.mark.parametrize("num_classes", CLASSES)
def test_matthews_is_the_correlation_of_the_indicators(num_classes):
    predictions, labels = (np.eye(num_classes)[values] for values in drawn(num_classes))
    a, b = predictions - predictions.mean(0), labels - labels.mean(0)
    expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert metrics.matthews(*drawn(num_classes)) == pytest.approx(expected, abs=1e-12)


def ranks(values) -> np.ndarray:
    """Each value's rank, that of equals being their mean."""
    return np.array([((values < value).sum() + 1 + (values <= value).sum()) / 2 for value in values])


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_follow_their_definition(ties):
    generator = np.random.default_rng(2)
    predictions, labels = generator.normal(size=(2, 50)).astype(np.float32)
    if ties:
        predictions, labels = predictions.round(), labels.round()
    expected = {
        "pearson": np.corrcoef(predictions.astype(float), labels.astype(float))[0, 1],
        "spearman": np.corrcoef(ranks(predictions), ranks(labels))[0, 1],
    }
    expected["pearson_spearman"] = sum(expected.values()) / 2
    for name, value in expected.items():
        assert metrics.METRICS[name](predictions, labels) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", ["matthews", *MACRO])
def test_a_single_class_that_is_always_right_warns_of_nothing(name):
    assert metrics.METRICS[name](np.ones(5, int), np.ones(5, int)) == (0.0 if name == "matthews" else 1.0)


@pytest.mark.parametrize("name", ["pearson", "spearman", "pearson_spearman", "matthews", "f1"])
@pytest.mark.parametrize("value", [0.1, 0.0])
def test_constant_predictions_score_zero(name, value):
    constant = np.full(30, value, np.float32) if name != "matthews" and name != "f1" else np.zeros(30, int)
    labels = np.arange(30) % 2
    assert metrics.METRICS[name](constant, labels) == 0.0
    if name != "f1":
        assert metrics.METRICS[name](labels, constant) == 0.0


@pytest.mark.parametrize("name", sorted(set(metrics.METRICS) - set(QUESTION_METRICS)))
def test_every_metric_is_best_for_right_predictions(name):
    labels = np.eye(4, 3) if name == "exact_match" else np.arange(30) % 2
    assert metrics.METRICS[name](labels.copy(), labels) == pytest.approx(1.0)
    assert isinstance(metrics.METRICS[name](labels.copy(), labels), float)


def test_logits_become_predictions_and_probabilities():
    logits = np.array([[2.0, -1.0], [-3.0, 0.5]], np.float32)
    assert metrics.predict("classification", logits).tolist() == [0, 1]
    assert metrics.predict("choice", logits).tolist() == [0, 1]
    assert metrics.predict("multilabel", logits).tolist() == [[1, 0], [0, 1]]
    assert metrics.predict("regression", logits[:, :1]).tolist() == [2.0, -3.0]
    np.testing.assert_allclose(metrics.probabilities("classification", logits).sum(-1), 1)
    np.testing.assert_allclose(metrics.probabilities("multilabel", logits), 1 / (1 + np.exp(-logits.astype(float))))


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_huge_logits_do_not_overflow(kind):
    probabilities = metrics.probabilities(kind, np.array([[1e4, -1e4]], np.float32))
    np.testing.assert_allclose(probabilities, [[1, 0]], atol=1e-12)


def test_a_task_is_scored_by_its_own_metrics():
    names = ("pearson", "spearman")
    result = metrics.compute(names, "regression", np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0]))
    assert list(result) == ["pearson", "spearman"] and result["spearman"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="3 rows of logits for 2 labels"):
        metrics.compute(names, "regression", np.zeros((3, 1)), np.zeros(2))


def test_the_standard_error_of_accuracy_is_the_binomial_one():
    labels, logits = np.array([0] * 30 + [1] * 10), np.eye(2)[[0] * 40]
    found = metrics.standard_errors(["accuracy", "macro_recall"], "classification", logits, labels)
    assert found["accuracy"] == pytest.approx((0.75 * 0.25 / 40) ** 0.5, rel=1e-12)
    assert found["macro_recall"] == 0  # all of one class and none of the other: whatever the examples


SIZE, BOOTSTRAP = 240, 200


def case(name):
    """What a metric takes, for examples of which three make a question where it asks any; kind, logits, labels, ..."""
    generator, none = np.random.default_rng(3), np.zeros((0, 3))
    if name in ("pearson", "spearman", "pearson_spearman"):
        labels = generator.normal(size=SIZE)
        return "regression", (0.7 * labels + 0.7 * generator.normal(size=SIZE))[:, None], labels, none
    if name == "exact_match":
        labels = generator.integers(0, 2, (SIZE, 3)).astype(float)
        return "multilabel", np.where(generator.random((SIZE, 3)) < 0.8, labels, 1 - labels) - 0.5, labels, none
    of_questions = np.repeat(np.arange(SIZE // 3), 3)
    labels = generator.integers(0, 2 if name in QUESTION_METRICS else 3, SIZE)
    right = generator.random(SIZE) < 0.5 + 0.4 * (of_questions % 2)  # questions are easy or hard
    logits = np.eye(3)[np.where(right, labels, generator.integers(0, 3, SIZE))] + generator.random((SIZE, 3)) / 9
    asked = np.stack([of_questions, generator.random(SIZE), generator.integers(0, 2, SIZE)], 1)
    return "classification", logits, labels, asked


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_standard_errors_are_those_of_the_bootstrap(name):
    """Examples are drawn anew, or questions with all their examples where there are any."""
    kind, logits, labels, asked = case(name)
    generator, found = np.random.default_rng(4), []
    for _ in range(BOOTSTRAP):
        drawn, numbers = generator.integers(SIZE, size=SIZE), asked
        if len(asked):
            drawn = (3 * generator.integers(SIZE // 3, size=SIZE // 3)[:, None] + np.arange(3)).ravel()
            numbers = np.concatenate([asked[:, :1], asked[drawn, 1:]], 1)
        found.append(metrics.compute([name], kind, logits[drawn], labels[drawn], numbers)[name])
    (error,) = metrics.standard_errors([name], kind, logits, labels, asked).values()
    assert error == pytest.approx(np.std(found), rel=0.2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("score", [metrics.compute, metrics.standard_errors])
def test_logits_that_are_no_numbers_have_no_score(value, score):
    logits = np.array([[0.0, 1.0], [0.0, value], [value, 0.0]])
    with pytest.raises(FloatingPointError, match="logits of 2 of 3 examples are not finite"):
        score(["accuracy"], "classification", logits, np.array([1, 0, 0]))


# Three questions, the second with the candidates of one example in between: (number, token F1, exact match).
ASKED = np.array([[0, 0.0, 0.0], [0, 1.0, 1.0], [1, 0.4, 0.0], [2, 1.0, 1.0], [1, 0.8, 0.0], [2, 0.0, 0.0]])


@pytest.mark.parametrize(
    "scores, f1, match",
    [
        ([0.1, 0.9, 0.2, 0.7, 0.3, 0.1], (1 + 0.8 + 1) / 3, 2 / 3),
        ([0.9, 0.1, 0.9, 0.1, 0.3, 0.7], 0.4 / 3, 0.0),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], (1 + 0.8 + 0) / 3, 1 / 3),  # ties: the last candidate, the larger in order
    ],
)
def test_the_best_candidate_answers_the_question(scores, f1, match):
    logits = np.stack([np.zeros(6), np.array(scores)], 1)
    task = tasks.get("superglue/record")
    found = metrics.compute(task.metrics, task.kind, logits, np.zeros(6, int), ASKED)
    assert found == {"answer_f1": pytest.approx(f1), "answer_match": pytest.approx(match)}


def test_multirc_scores_answers_and_whole_questions():
    labels, predictions = np.array([1, 0, 1, 0, 1]), np.array([1, 0, 1, 1, 0])
    asked = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 0, 0]])
    task = tasks.get("superglue/multirc")
    found = metrics.compute(task.metrics, task.kind, np.eye(2)[predictions], labels, asked)
    assert found == {
        "f1": pytest.approx(2 / 3),
        "question_match": pytest.approx(1 / 3),
        "accuracy": pytest.approx(3 / 5),
    }


def test_rmse_is_that_of_scikit_learn():
    from sklearn.metrics import root_mean_squared_error

    predictions, labels = np.random.default_rng(0).normal(200, 50, (2, 30))
    assert metrics.rmse(predictions, labels) == pytest.approx(root_mean_squared_error(labels, predictions))
