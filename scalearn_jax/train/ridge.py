"""A linear head in closed form, its exact leave-one-out error, and the gradient of that error in the features.

    K     = X X^T / (d s^2)             X centred, s^2 the mean square of its entries: K has trace n
    A     = (K + lambda I)^-1
    e_i   = A_ii'^-1 (A Y)_i            what example i is missed by if the head never saw it
    error = sum_i e_i^2 / sum_i y_i^2   1: no better than the mean

``A_ii'`` is ``A_ii - 1 / (n lambda)``: the intercept is left out with the example. Of several choices a question, the
differences to the right one are the rows; they have no intercept, and the rows of a question are left out together, so
that ``A_ii'`` is a small block. The eigenvectors of X X^T, or of X^T X where that is smaller, serve few examples and
many alike.

Letters: n examples, m rows, g rows left out together, d hidden size, C outputs, K choices.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from scalearn_jax.errors import InputError
from scalearn_jax.typing import Array

# Where lambda is looked for, as a share of the mean eigenvalue of K.
STRENGTHS = np.geomspace(1e-4, 1e2, 25)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a linear regression, centred where it has an intercept."""

    x: np.ndarray  # Float[m d]
    y: np.ndarray  # Float[m C]
    block: int  # g
    intercept: bool
    places: np.ndarray | None = None  # Int[n K], for multiple choice: of each question, the right choice first

    @classmethod
    def of(cls, kind: str, features: Array, labels: Array, num_outputs: int) -> "Rows":
        """Lays out examples as rows.

        Args:
          kind: as ``Task.kind``.
          features: Float[n d], or Float[n K d] for multiple choice.
          labels: Int[n], Float[n] (regression) or Float[n C] (multi-label).
          num_outputs: C.

        Example:
          >>> Rows.of("choice", np.eye(4).reshape(2, 2, 4), np.array([0, 1]), 1).x[1].tolist()
          [0.0, 0.0, -1.0, 1.0]
        """
        features, labels = np.asarray(features, float), np.asarray(labels)
        if kind == "choice":
            num_choices = features.shape[1]
            places = np.argsort(np.arange(num_choices) != labels[:, None], axis=1, kind="stable")  # [n, K]
            ordered = np.take_along_axis(features, places[..., None], 1)
            x = (ordered[:, :1] - ordered[:, 1:]).reshape(-1, features.shape[-1])  # [n * (K - 1), d]
            return cls(x, np.ones((len(x), 1)), num_choices - 1, intercept=False, places=places)
        y = {"classification": lambda: np.eye(num_outputs)[labels], "regression": lambda: labels[:, None]}
        y = y.get(kind, lambda: labels)().astype(float)
        return cls(features - features.mean(0), y - y.mean(0), 1, intercept=True)

    def pull(self, gradient: np.ndarray) -> np.ndarray:
        """Turns a gradient in ``x`` into one in the features, Float[n d] or Float[n K d]."""
        if self.places is None:
            return gradient - gradient.mean(0)
        wrong = -gradient.reshape(len(self.places), self.block, -1)
        ordered = np.concatenate([-wrong.sum(1, keepdims=True), wrong], 1)
        return np.take_along_axis(ordered, np.argsort(self.places, axis=1)[..., None], 1)


def check_examples(kind: str, labels: Array, num_outputs: int, names: Sequence[str] = ()) -> str | None:
    """Checks that some examples can say anything of themselves; returns a line about classes of one example, if any.

    Raises:
      InputError: fewer than two examples, or fewer than classes.

    Example:
      >>> check_examples("classification", np.array([0, 0, 1]), 2, ("no", "yes"))
      "one training example of class 'yes': leave-one-out says nothing of it; give two or more of each."
    """
    classes = num_outputs if kind == "classification" else 1
    if len(labels) < max(2, classes):
        few = f"{classes} classes" if classes > 1 else "one left out and one kept"
        raise InputError(f"--fit solve: {len(labels)} training examples for {few}; give more, or take --fit sgd.")
    if kind != "classification":
        return None
    counts = np.bincount(labels, minlength=num_outputs)
    alone = [repr(names[one]) if names else str(one) for one in np.flatnonzero(counts == 1)]
    if not alone:
        return None
    listed = f"class {', '.join(alone[:5])}" + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
    return f"one training example of {listed}: leave-one-out says nothing of it; give two or more of each."


class Ridge:
    """The regression of some rows for every strength at once."""

    def __init__(self, rows: Rows):
        self.rows = rows
        self.scale = (rows.x**2).mean() or 1.0  # s^2
        x = rows.x / np.sqrt(rows.x.shape[1] * self.scale)
        if len(x) <= x.shape[1]:
            self.eigenvalues, self._left = np.linalg.eigh(x @ x.T)  # [k], [m, k]
        else:  # what has no eigenvalue to speak of is left out
            values, right = np.linalg.eigh(x.T @ x)
            kept = values > 1e-12 * values.max()
            self.eigenvalues, self._left = values[kept], x @ right[:, kept] / np.sqrt(values[kept])
        self.eigenvalues = np.maximum(self.eigenvalues, 0)
        self._total = (rows.y**2).sum() or 1.0

    @cached_property
    def strength(self) -> float:
        """The lambda of smallest error: the best of ``STRENGTHS``, refined between its neighbours."""
        from scipy.optimize import minimize_scalar

        best = int(np.argmin([self.error(strength) for strength in STRENGTHS]))
        low, high = np.log(STRENGTHS[[max(best - 1, 0), min(best + 1, len(STRENGTHS) - 1)]])
        found = minimize_scalar(lambda x: self.error(np.exp(x)), bounds=(low, high), method="bounded")
        return float(np.exp(found.x))

    def residuals(self, strength: float) -> np.ndarray:
        """What each row is missed by if the head never saw it and its block, Float[m C]."""
        return self._left_out(strength)[1]

    def shares(self, strength: float) -> np.ndarray:
        """The residuals in units in which ``error`` is the sum of their squares, Float[m C]."""
        return self.residuals(strength) / np.sqrt(self._total)

    def error(self, strength: float) -> float:
        """The leave-one-out error, as a share of what the mean leaves."""
        return float((self.shares(strength) ** 2).sum())

    def gradient(self, strength: float) -> np.ndarray:
        """Differentiates ``error`` in the features, Float[m d], at a fixed strength.

        At ``self.strength`` this is the gradient of the smallest error, too.
        """
        x, y, g = self.rows.x, self.rows.y, self.rows.block
        inverse, missed = self._left_out(strength)  # [b, g, g], [m, C]
        blocks = (len(x) // g, g, -1)
        d_product = inverse @ (2 * missed / self._total).reshape(blocks)  # of the error in A Y, blocks symmetric
        d_block = -d_product @ missed.reshape(blocks).swapaxes(1, 2)  # in the diagonal blocks of A
        d_product = d_product.reshape(y.shape)

        # d error / dA = d_product y^T + blocks; d error / dK = -A sym(that) A, needed only in its product with X.
        ax = self._apply(x, strength)  # A X
        m_ax = d_product @ (y.T @ ax) + y @ (d_product.T @ ax)
        m_ax += ((d_block + d_block.swapaxes(1, 2)) @ ax.reshape(blocks)).reshape(x.shape)
        d_x = -self._apply(m_ax, strength) / (x.shape[1] * self.scale)  # 2 (d error / dK) X / (d s^2), K's scale apart
        return d_x - x * ((d_x * x).sum() / (x**2).sum())  # the error does not change with the scale of X

    def weights(self, strength: float) -> np.ndarray:
        """The head's kernel, Float[d C], for features that are centred but not scaled."""
        return self.rows.x.T @ self._apply(self.rows.y, strength) / (self.rows.x.shape[1] * self.scale)

    def _apply(self, b: np.ndarray, strength: float) -> np.ndarray:
        """A b, by the eigenvectors of K; what is outside of them has eigenvalue 0."""
        shrunk = self.eigenvalues / (self.eigenvalues + strength)
        return (b - self._left @ (shrunk[:, None] * (self._left.T @ b))) / strength

    def _left_out(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """The inverse blocks of A, Float[m/g g g], and the residuals Float[m C]."""
        count, g = len(self.rows.x), self.rows.block
        shrunk = self.eigenvalues / (self.eigenvalues + strength)
        left = self._left.reshape(count // g, g, -1)
        blocks = (np.eye(g) - (left * shrunk) @ left.swapaxes(1, 2)) / strength
        if self.rows.intercept:
            blocks = blocks - 1 / (count * strength)
        inverse = np.linalg.inv(blocks)
        product = self._apply(self.rows.y, strength).reshape(count // g, g, -1)
        return inverse, (inverse @ product).reshape(self.rows.y.shape)
