"""METRICS: predictions and labels to numbers, by scikit-learn and scipy where they can (method.md, "Metrics").

They look at a whole split at once, since rank correlation and grouped answers are no sums over batches.

Letters: n examples, C outputs.
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of equal predictions, Int[n] both."""
    return float((predictions == labels).mean())


def exact_match(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of examples with all labels right, Float[n C] both."""
    return float((predictions == labels).all(-1).mean())


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Binary F1 of class 1, Int[n] both.

    Example:
      >>> f1(np.array([1, 1]), np.array([1, 0])) == 2 / 3
      True
    """
    return _mean_over_classes("f1_score", predictions, labels, classes=[1])


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' F1; Int[n], or Float[n C] of zeros and ones."""
    return _mean_over_classes("f1_score", predictions, labels)


def macro_precision(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' precision; 0 for a class never predicted."""
    return _mean_over_classes("precision_score", predictions, labels)


def macro_recall(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean of the classes' recall; 0 for a class that never occurs."""
    return _mean_over_classes("recall_score", predictions, labels)


def _mean_over_classes(score: str, predictions: np.ndarray, labels: np.ndarray, classes: list | None = None) -> float:
    """Averages a score of scikit-learn over some classes, or over those that are predicted or occur."""
    from sklearn import metrics as sklearn_metrics

    if predictions.ndim == 2 and predictions.shape[1] == 1:  # scikit-learn sees two classes in a single column
        predictions, labels, classes = predictions[:, 0], labels[:, 0], [1]
    function = getattr(sklearn_metrics, score)
    return float(function(labels, predictions, labels=classes, average="macro", zero_division=0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation, for any number of classes; 0 for constant predictions."""
    from sklearn.metrics import matthews_corrcoef

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:  # scikit-learn warns about some of these
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson correlation, Float[n] both; 0 for constant predictions."""
    return _correlation("pearsonr", predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman correlation: Pearson's on ranks, ties sharing their mean rank."""
    return _correlation("spearmanr", predictions, labels)


def _correlation(name: str, predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy import stats

    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:  # a constant correlates with nothing; scipy gives NaN
        return 0.0
    return float(getattr(stats, name)(predictions.astype(float), labels.astype(float)).statistic)


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
    """Mean over questions of the token F1 of the chosen candidate (ReCoRD); Float[n 2], Float[n 3].

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
      questions: Float[n 1] or wider; the first column numbers the questions, see ``data.derive.QUESTION``.

    Returns:
      Indices of examples, by the number of their question.

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
        accuracy, answer_f1, answer_match, exact_match, f1, macro_f1, macro_precision, macro_recall, matthews,
        pearson, spearman, pearson_spearman, question_match,
    )
}  # fmt: skip


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
