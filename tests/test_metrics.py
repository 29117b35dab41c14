"""Metrics against scikit-learn and scipy, and where those warn: constant predictions, absent classes."""

import numpy as np
import pytest

from scalearn_jax import metrics
from scalearn_jax.data import tasks
from scalearn_jax.data.task import QUESTION_METRICS

CLASSES = [2, 3, 5]


def drawn(num_classes: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, num_classes, 60), generator.integers(0, num_classes, 60)


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize(
    "name,theirs,options",
    [
        ("accuracy", "accuracy_score", {}),
        ("macro_f1", "f1_score", {"average": "macro"}),
        ("macro_precision", "precision_score", {"average": "macro"}),
        ("macro_recall", "recall_score", {"average": "macro"}),
        ("matthews", "matthews_corrcoef", {}),
    ],
)
def test_class_metrics_equal_scikit_learn(name, theirs, options, num_classes):
    scores = pytest.importorskip("sklearn.metrics")
    predictions, labels = drawn(num_classes)
    expected = getattr(scores, theirs)(labels, predictions, **options)
    assert metrics.METRICS[name](predictions, labels) == pytest.approx(expected, abs=1e-12)


def test_binary_f1_equals_scikit_learn():
    scores = pytest.importorskip("sklearn.metrics")
    predictions, labels = drawn(2)
    assert metrics.f1(predictions, labels) == pytest.approx(scores.f1_score(labels, predictions), abs=1e-12)


@pytest.mark.parametrize("name", ["macro_f1", "macro_precision", "macro_recall", "exact_match"])
def test_multilabel_metrics_equal_scikit_learn(name):
    scores = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    predictions, labels = (generator.integers(0, 2, (40, 6)).astype(np.float32) for _ in range(2))
    predictions[:, 2], labels[:, 3], predictions[:, 4], labels[:, 4] = 0, 0, 0, 0  # never predicted, absent, both
    if name == "exact_match":
        predictions[:10] = labels[:10]
        expected = scores.accuracy_score(labels, predictions)
    else:
        function = getattr(scores, name.removeprefix("macro_") + "_score")
        expected = function(labels, predictions, average="macro", zero_division=0)
    assert metrics.METRICS[name](predictions, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(ties):
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(2)
    predictions, labels = generator.normal(size=(2, 50)).astype(np.float32)
    if ties:
        predictions, labels = predictions.round(), labels.round()
    expected = {
        "pearson": stats.pearsonr(predictions.astype(float), labels.astype(float)).statistic,
        "spearman": stats.spearmanr(predictions, labels).statistic,
    }
    expected["pearson_spearman"] = sum(expected.values()) / 2
    for name, value in expected.items():
        assert metrics.METRICS[name](predictions, labels) == pytest.approx(value, abs=1e-12)


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
