"""METRICS: predictions and labels to numbers, by scikit-learn and scipy where they can (method.md, "Metrics").

They look at a whole split at once, since rank correlation and grouped answers are no sums over batches.

Letters: n examples, C outputs.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    return float(_answered(predictions, labels, questions).mean())


def _answered(predictions: np.ndarray, labels: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """Whether all examples of a question are right, Bool[questions]."""
    _, number = np.unique(questions[:, 0], return_inverse=True)
    return np.bincount(number, predictions != labels) == 0


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


def rmse(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Root of the mean squared error, Float[n] both, in the unit of the labels; no share, and lower is better.

    Example:
      >>> rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 2**0.5
      True
    """
    return float(np.sqrt(np.mean((predictions.astype(float) - labels) ** 2)))


METRICS: dict[str, Callable[..., float]] = {
    function.__name__: function
    for function in (
        accuracy, answer_f1, answer_match, exact_match, f1, macro_f1, macro_precision, macro_recall, matthews,
        pearson, spearman, pearson_spearman, question_match,
    )
}  # fmt: skip


def _class_terms(predictions: np.ndarray, labels: np.ndarray, weight: float, classes: list | None = None) -> np.ndarray:
    """What each example adds to a mean over classes of hits / (weight * predicted + (1 - weight) * actual)."""
    if labels.ndim == 1:
        classes = np.union1d(predictions, labels) if classes is None else classes
        predictions, labels = (values[:, None] == classes for values in (predictions, labels))
    counted = weight * predictions + (1 - weight) * labels  # [n, classes]
    size = np.maximum(counted.mean(0), 1 / len(counted))  # of an absent class nothing is counted
    hits = np.logical_and(predictions, labels)
    return ((hits - hits.mean(0) / size * counted) / size).mean(1)


def _correlation_terms(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each example adds to the correlation of Float[n] or, summed over columns, Float[n k]."""
    columns = [values.astype(float).reshape(len(values), -1) for values in (predictions, labels)]
    if not all(np.ptp(values, axis=0).any() for values in columns):  # a constant correlates with nothing
        return np.zeros(len(predictions))
    x, y = (values - values.mean(0) for values in columns)
    xy, xx, yy = ((a * b).sum(1) for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(xx.mean() * yy.mean())
    return xy / scale - xy.mean() / scale * (xx / xx.mean() + yy / yy.mean()) / 2


def _matthews_terms(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    classes = np.union1d(predictions, labels)
    return _correlation_terms(predictions[:, None] == classes, labels[:, None] == classes)


def _spearman_terms(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return _correlation_terms(rankdata(predictions), rankdata(labels))


_CORRELATIONS = _correlation_terms, _spearman_terms
# Metric -> what each example, or question, adds to it, to first order and up to a constant; see ``standard_errors``.
_TERMS: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": lambda predictions, labels: predictions == labels,
    "answer_f1": lambda logits, questions: questions[chosen(logits, questions), 1],
    "answer_match": lambda logits, questions: questions[chosen(logits, questions), 2],
    "exact_match": lambda predictions, labels: (predictions == labels).all(-1),
    "f1": lambda predictions, labels: _class_terms(predictions, labels, 0.5, [1]),
    "macro_f1": lambda predictions, labels: _class_terms(predictions, labels, 0.5),
    "macro_precision": lambda predictions, labels: _class_terms(predictions, labels, 1.0),
    "macro_recall": lambda predictions, labels: _class_terms(predictions, labels, 0.0),
    "matthews": _matthews_terms,
    "pearson": _correlation_terms,
    "pearson_spearman": lambda predictions, labels: 0.5 * sum(f(predictions, labels) for f in _CORRELATIONS),
    "question_match": _answered,
    "spearman": _spearman_terms,
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


def check_finite(logits: np.ndarray, what: str) -> None:
    """Refuses logits Float[n ...] that are no finite numbers: the largest of NaN would be class 0.

    Raises:
      FloatingPointError: names ``what`` and in how many examples.

    Example:
      >>> check_finite(np.array([[0.0, 1.0], [np.nan, 1.0]]), "seed 3")
      Traceback (most recent call last):
      FloatingPointError: seed 3: the logits of 1 of 2 examples are not finite; are the weights damaged?
    """
    if wrong := int((~np.isfinite(logits)).reshape(len(logits), -1).any(1).sum()):
        raise FloatingPointError(
            f"{what}: the logits of {wrong} of {len(logits)} examples are not finite; are the weights damaged?"
        )


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
      FloatingPointError: see ``check_finite``.
    """
    return _apply(METRICS, names, kind, logits, labels, questions)


def standard_errors(
    names: Sequence[str], kind: str, logits: np.ndarray, labels: np.ndarray, questions: np.ndarray | None = None
) -> dict[str, float]:
    """Estimates how much metrics would vary over test sets of this size, by the delta method.

        se = sqrt(sum_i (t_i - mean t)^2) / n

    where t_i is what example i adds to the metric: for accuracy whether it is right, so that se = sqrt(p (1 - p) / n);
    for means over classes the ratios, and for correlations the products, to first order. Ranks (Spearman) are taken as
    given. Examples of one question vary together, so their t_i - mean t are added up before they are squared. At the
    ends of a metric's range the estimate is 0, which says little.

    Args:
      names, kind, logits, labels, questions: as ``compute`` takes them.

    Returns:
      ``{metric: standard error}``.

    Example:
      >>> standard_errors(["accuracy"], "classification", np.eye(2)[[0, 1, 1, 1]], np.array([0, 1, 0, 0]))
      {'accuracy': 0.25}
    """
    found = {}
    for name, terms in _apply(_TERMS, names, kind, logits, labels, questions).items():
        centred = terms - terms.mean()
        if questions is not None and len(questions) == len(centred):
            centred = np.bincount(np.unique(questions[:, 0], return_inverse=True)[1], centred)
        found[name] = float(np.sqrt((centred**2).sum())) / len(terms)
    return found


def _apply(
    functions: Mapping[str, Callable[..., Any]],
    names: Sequence[str],
    kind: str,
    logits: np.ndarray,
    labels: np.ndarray,
    questions: np.ndarray | None,
) -> dict[str, Any]:
    """Calls the functions of some metrics, each with what it takes of the arguments of ``compute``."""
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels; pass the whole split in order.")
    check_finite(logits, "metrics")
    inputs = {"logits": logits, "predictions": predict(kind, logits), "labels": labels, "questions": questions}
    parameters = {name: inspect.signature(functions[name]).parameters for name in names}
    return {name: functions[name](*map(inputs.get, takes)) for name, takes in parameters.items()}
