"""A linear head with calibrated probabilities: logistic regression on given features, its strength by cross-validation.

    loss = sum_i -log p(y_i | W^T z_i + b) + strength / 2 |W|^2,   z = (x - mean) / (s sqrt(d))

s^2 is the mean square of the centred features, as in ``ridge``. Labels of a multi-label task are apart from each other;
of several choices a question, the scores of its choices have one W and no b.

Letters: n examples, K choices, d hidden size, C outputs, k directions.
"""

from typing import NamedTuple

import numpy as np

from scalearn_jax.typing import Array

STRENGTHS = np.geomspace(1e1, 1e-4, 11)
_FOLDS = 5


class Linear(NamedTuple):
    """A head: logits = x kernel + bias."""

    kernel: np.ndarray  # Float[d C]
    bias: np.ndarray  # Float[C]


def logits(head: Linear, features: Array) -> np.ndarray:
    """Computes Float[n C] of features Float[n d], or Float[n K] of Float[n K d]."""
    found = np.asarray(features, float) @ head.kernel + head.bias
    return found[..., 0] if np.ndim(features) == 3 else found


def losses(kind: str, scores: np.ndarray, labels: Array) -> np.ndarray:
    """Computes -log p(label) of each example, Float[n], of logits; see ``fit``.

    Example:
      >>> losses("classification", np.zeros((1, 2)), np.array([1])).round(4).tolist()
      [0.6931]
    """
    if kind == "multilabel":
        return np.logaddexp(0, np.where(np.asarray(labels) > 0, -scores, scores)).sum(-1)
    return np.logaddexp.reduce(scores, axis=-1) - scores[np.arange(len(scores)), labels]


def fit(kind: str, features: Array, labels: Array, num_outputs: int, strength: float) -> Linear:
    """Fits a head.

    Args:
      kind: ``"classification"``, ``"multilabel"`` or ``"choice"``.
      features: Float[n d], or Float[n K d] of choices.
      labels: Int[n], or Float[n C] of a multi-label task.
      num_outputs: C.
      strength: of the penalty.

    Example:
      >>> head = fit("classification", np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 1]), 2, 0.1)
      >>> logits(head, np.array([[0.0], [4.0]])).argmax(1).tolist()
      [0, 1]
    """
    return _path(kind, features, labels, num_outputs, [strength])[0]


def choose_strength(kind: str, features: Array, labels: Array, num_outputs: int) -> tuple[float, float]:
    """Chooses among ``STRENGTHS`` by cross-validation; returns the strength and its mean loss of an example left out.

    The folds take turns along the labels, so that each has its share of every class.
    """
    labels = np.asarray(labels)
    order = np.lexsort(np.atleast_2d(labels.T if labels.ndim > 1 else labels))
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % min(_FOLDS, len(labels))
    total = np.zeros(len(STRENGTHS))
    for number in range(fold.max() + 1):
        kept, left_out = fold != number, fold == number
        heads = _path(kind, features[kept], labels[kept], num_outputs, STRENGTHS)
        total += [losses(kind, logits(head, features[left_out]), labels[left_out]).sum() for head in heads]
    best = int(np.argmin(total))
    return float(STRENGTHS[best]), float(total[best] / len(labels))


def _path(kind: str, features: Array, labels: Array, num_outputs: int, strengths) -> list[Linear]:
    """Fits a head for each of some strengths, from the strongest on; each begins where the last one ended."""
    from scipy.optimize import minimize

    features, labels = np.asarray(features, float), np.asarray(labels)
    size = features.shape[-1]
    rows = features.reshape(-1, size)
    mean = rows.mean(0)
    scale = np.sqrt(((rows - mean) ** 2).mean() * size) or 1.0
    # W lies in the span of the rows; along the directions of a singular value decomposition the problem is small.
    _, _, directions = np.linalg.svd((rows - mean) / scale, full_matrices=False)  # [k, d]
    z = (features - mean) / scale @ directions.T  # [n, k], or [n, K, k]
    targets = labels if kind == "multilabel" else np.eye(z.shape[1] if kind == "choice" else num_outputs)[labels]
    num_weights = z.shape[-1] * num_outputs

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        weights, bias = flat[:num_weights].reshape(-1, num_outputs), flat[num_weights:]
        scores = (z @ weights)[..., 0] if kind == "choice" else z @ weights + bias
        if kind == "multilabel":
            error = 0.5 * (1 + np.tanh(scores / 2)) - targets
        else:
            error = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)) - targets  # [n, C or K]
        value = losses(kind, scores, labels).sum() + strength / 2 * (weights**2).sum()
        pull = np.einsum("ikd,ik->d", z, error)[:, None] if kind == "choice" else z.T @ error
        d_bias = np.zeros_like(bias) if kind == "choice" else error.sum(0)
        return value, np.concatenate([(pull + strength * weights).ravel(), d_bias])

    flat, found = np.zeros(num_weights + num_outputs), []
    for strength in strengths:
        options = {"maxiter": 1000, "ftol": 1e-10, "gtol": 1e-7}
        flat = minimize(objective, flat, (strength,), jac=True, method="L-BFGS-B", options=options).x
        kernel = directions.T @ flat[:num_weights].reshape(-1, num_outputs) / scale
        found.append(Linear(kernel, flat[num_weights:] - (0 if kind == "choice" else mean @ kernel)))
    return found
