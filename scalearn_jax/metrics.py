"""Metrics, in numpy: predictions and labels to numbers (SEMANTICS, section 8).

They look at a whole split at once, since rank correlation and grouped answers are no sums over batches.

Letters: n examples, C outputs.
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal predictions, Int[n] both.

    Example:
      >>> accuracy(np.array([0, 1]), np.array([0, 0]))
      0.5
    """
    return float((predictions == labels).mean())


def exact_match(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples with all labels right, Float[n C] both."""
    return float((predictions == labels).all(-1).mean())


def _ratio(a, b) -> np.ndarray:
    """a / b, and 0 where b is 0."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _counts(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """True positives, predicted and actual positives of each class."""
    if predictions.ndim == 1:
        classes = np.union1d(predictions, labels)
        predictions, labels = (values[:, None] == classes[None] for values in (predictions, labels))
    predictions, labels = predictions.astype(bool), labels.astype(bool)
    return (predictions & labels).sum(0), predictions.sum(0), labels.sum(0)


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Binary F1 of class 1, Int[n] both.

    Example:
      >>> f1(np.array([1, 1]), np.array([1, 0])) == 2 / 3
      True
    """
    hits, predicted, actual = _counts((predictions == 1)[:, None], (labels == 1)[:, None])
    return float(_ratio(2 * hits, predicted + actual)[0])


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' F1; Int[n], or Float[n C] of zeros and ones."""
    hits, predicted, actual = _counts(predictions, labels)
    return float(_ratio(2 * hits, predicted + actual).mean())


def macro_precision(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' precision; 0 for a class never predicted."""
    hits, predicted, _ = _counts(predictions, labels)
    return float(_ratio(hits, predicted).mean())


def macro_recall(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' recall; 0 for a class that never occurs."""
    hits, _, actual = _counts(predictions, labels)
    return float(_ratio(hits, actual).mean())


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation, for any number of classes; 0 for constant predictions.

    Example:
      >>> matthews(np.array([0, 1, 1]), np.array([0, 1, 1]))
      1.0
    """
    hits, predicted, actual = (counts.astype(float) for counts in _counts(predictions, labels))
    n = float(len(labels))
    covariance = hits.sum() * n - predicted @ actual
    return float(_ratio(covariance, np.sqrt((n**2 - predicted @ predicted) * (n**2 - actual @ actual))))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation, Float[n] both; 0 for constant predictions.

    Example:
      >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])), 6)
      1.0
    """
    a, b = predictions.astype(float), labels.astype(float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # else rounding would decide
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(_ratio(a @ b, np.sqrt((a @ a) * (b @ b))))


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman correlation: Pearson's on ranks, ties sharing their mean rank."""
    return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def pearson_spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the two correlations."""
    return (pearson(predictions, labels) + spearman(predictions, labels)) / 2


def question_match(predictions: np.ndarray, labels: np.ndarray, questions: np.ndarray) -> float:
    """Share of questions all of whose examples are right (MultiRC's exact match); Int[n] twice, Float[n 3].

    Example:
      >>> question_match(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]]))
      0.5
    """
    _, number = np.unique(questions[:, 0], return_inverse=True)
    wrong = np.bincount(number, predictions != labels)
    return float((wrong == 0).mean())


def answer_f1(logits: np.ndarray, questions: np.ndarray) -> float:
    """Mean over questions of the token F1 of the chosen candidate (ReCoRD).

    A question's answer is its example with the highest logit of class 1; the last of equals.

    Args:
      logits: Float[n 2].
      questions: Float[n 3], see ``data.derive.QUESTION``.

    Returns:
      The mean, 0 to 1.

    Example:
      >>> answer_f1(np.array([[0, 1.0], [0, 2.0]]), np.array([[0, 1.0, 1.0], [0, 0.5, 0.0]]))
      0.5
    """
    return float(questions[chosen(logits, questions), 1].mean())


def answer_match(logits: np.ndarray, questions: np.ndarray) -> float:
    """Share of questions whose chosen candidate is exactly right; see ``answer_f1``."""
    return float(questions[chosen(logits, questions), 2].mean())


def chosen(logits: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Picks each question's example with the highest logit of class 1, the last of equals.

    Args:
      logits: Float[n 2].
      questions: Float[n 1] or wider; the first column numbers the questions.

    Returns:
      Int[Q], indices of examples, by the number of their question.

    Example:
      >>> chosen(np.array([[0, 1.0], [0, 1.0], [0, 0.0]]), np.array([[4, 0, 0], [4, 0, 0], [9, 0, 0]])).tolist()
      [1, 2]
    """
    order = np.lexsort((np.arange(len(logits)), logits[:, 1], questions[:, 0]))
    numbers = questions[order, 0]
    return order[np.append(numbers[1:] != numbers[:-1], True)]


METRICS: dict[str, Callable[..., float]] = {
    function.__name__: function
    for function in (
        accuracy,
        answer_f1,
        answer_match,
        exact_match,
        f1,
        macro_f1,
        macro_precision,
        macro_recall,
        matthews,
        pearson,
        spearman,
        pearson_spearman,
        question_match,
    )
}


def predict(kind: str, logits: np.ndarray) -> np.ndarray:
    """Turns logits Float[n C] into predictions: class ids, values, or a multi-hot table (sigmoid > 0.5).

    Example:
      >>> predict("multilabel", np.array([[1.0, -1.0]])).tolist()
      [[1.0, 0.0]]
    """
    if kind == "regression":
        return logits[:, 0]
    return (logits > 0).astype(np.float32) if kind == "multilabel" else logits.argmax(-1)


def probabilities(kind: str, logits: np.ndarray) -> np.ndarray:
    """Turns logits Float[n C] into probabilities: sigmoid for multi-label tasks, else softmax."""
    logits = logits.astype(float)
    if kind == "multilabel":
        return np.exp(-np.logaddexp(0, -logits))
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def compute(
    names: Sequence[str], kind: str, logits: np.ndarray, labels: np.ndarray, questions: np.ndarray | None = None
) -> dict[str, float]:
    """Computes metrics on a split.

    Args:
      names: of the metrics, keys of ``METRICS``.
      kind: of the task, see ``predict``.
      logits: Float[n C].
      labels: Int[n], Float[n] or Float[n C].
      questions: Float[n 3], which question each example answers; only metrics over questions look at it.

    Returns:
      ``{metric: value}``.

    Raises:
      ValueError: logits and labels differ in number.
    """
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels; pass the whole split in order.")
    inputs = {"logits": logits, "predictions": predict(kind, logits), "labels": labels, "questions": questions}
    parameters = {name: inspect.signature(METRICS[name]).parameters for name in names}  # say which inputs it takes
    return {name: METRICS[name](*map(inputs.get, takes)) for name, takes in parameters.items()}
