"""Solves for the scales of a bank: few numbers, whose error without its own example is known in closed form.

    objective(omega) = error(omega) + tau sum_t (mean(omega_t) - c_t)^2 + rho sum_t var(omega_t)

``error`` is the leave-one-out error of the best linear head on the features that omega gives (see ``ridge``). Few
examples through a deep network can be fitted by luck; the prior asks for evidence before a scale leaves its centre c_t,
and before the numbers of one source differ from each other.

Letters: T source tasks, p numbers of omega a source, n examples, m rows, d hidden size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scalearn_jax.errors import InputError

_UNIT = 0.25  # the first step of the optimiser, over all scales together
_STEP = 0.02  # of finite differences


@dataclasses.dataclass(frozen=True)
class Prior:
    """Where omega Float[p T] is expected, and how firmly.

    Attributes:
      center: c, Float[T].
      pull: tau, of each source's mean towards c.
      spread: rho, of each source's numbers towards their mean; without effect where these are equal (``None``).
    """

    center: np.ndarray
    pull: float
    spread: float | None = None

    def __call__(self, omega: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the penalty and its gradient Float[p T].

        Example:
          >>> value, gradient = Prior(np.array([0.5, 0.5]), pull=0.1)(np.array([[0.5, 1.5]]))
          >>> round(value, 6), gradient.round(6).tolist()
          (0.1, [[0.0, 0.2]])
        """
        mean = omega.mean(0)
        away, apart = mean - self.center, omega - mean
        spread = self.spread or 0.0
        value = self.pull * (away**2).sum() + spread * (apart**2).mean(0).sum()
        return float(value), (2 * self.pull * away + 2 * spread * apart) / len(omega)


class Evaluation(NamedTuple):
    """The error of one omega."""

    omega: np.ndarray  # Float[p T]
    error: float
    gradient: np.ndarray  # Float[p T]; zeros where it was not asked for
    strength: float  # of the head


class Search:
    """Evaluations of an objective, in the order in which an optimiser asks for them.

    What an earlier, stopped search has computed is not computed again: the same optimiser asks for the same values.

    Args:
      evaluate: (omega Float[p T], whether with its gradient) -> Evaluation.
      known: the evaluations of the earlier search, each part stacked, as ``arrays`` gives them.
      on_evaluation: called with each new one.
    """

    def __init__(
        self,
        evaluate: Callable[[np.ndarray, bool], Evaluation],
        known: Mapping[str, np.ndarray] | None = None,
        on_evaluation: Callable[[Evaluation], None] = lambda evaluation: None,
    ):
        self.done: list[Evaluation] = []
        self._evaluate, self._on_evaluation = evaluate, on_evaluation
        found = [known[name] for name in Evaluation._fields] if known else ()
        self._known = {one[0].tobytes(): Evaluation(*one) for one in zip(*found, strict=True)}

    def __call__(self, omega: np.ndarray, gradient: bool = True) -> Evaluation:
        found = self._known.get(omega.tobytes())
        if found is None:
            found = self._evaluate(omega, gradient)
            if not (np.isfinite(found.error) and np.isfinite(found.gradient).all()):
                raise InputError(
                    f"--fit solve: the leave-one-out error is not finite at omega"
                    f" {np.round(omega.mean(0), 3).tolist()[:8]}; check the source adapters, or take --fit sgd."
                )
            self.done.append(found)
            self._on_evaluation(found)
        else:
            self.done.append(found)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """The evaluations that are done, each part stacked."""
        return {name: np.array([getattr(one, name) for one in self.done]) for name in Evaluation._fields}


class _Enough(Exception):  # noqa: N818 - no error: it ends a search
    """All evaluations that were allowed are done."""


def minimise(
    search: Search, prior: Prior, start: np.ndarray, limit: int, tolerance: float = 1e-3
) -> tuple[float, Evaluation]:
    """Minimises the error and the prior from a start Float[p T], by L-BFGS, in at most ``limit`` evaluations.

    It ends where a step gains less than ``tolerance``, as a share.

    Returns:
      The smallest objective, and its evaluation.
    """
    from scipy.optimize import minimize

    seen: list[tuple[float, Evaluation]] = []
    unit = _UNIT * np.sqrt(len(start))  # as far for all numbers of a source together as for one

    def objective(steps: np.ndarray) -> tuple[float, np.ndarray]:
        if len(seen) == limit:
            raise _Enough
        found = search(start + unit * steps.reshape(start.shape))
        penalty, gradient = prior(found.omega)
        seen.append((found.error + penalty, found))
        return seen[-1][0], unit * (found.gradient + gradient).ravel()

    try:
        minimize(objective, np.zeros(start.size), jac=True, method="L-BFGS-B", options={"ftol": tolerance})
    except _Enough:
        pass
    return min(seen, key=lambda one: one[0])


def deviations(
    residuals: Callable[[np.ndarray], np.ndarray],
    prior: Prior,
    omega: np.ndarray,
    halves: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> np.ndarray:
    """Estimates the standard deviation Float[T] of each source's scale from the curvature, and from halves.

        Cov = 2 sum(e^2) / n (2 J^T J + 2 tau I)^-1,    J = d e / d mean(omega)    [n*C T]
        deviation_t = sqrt(f Cov_tt),    f = mean of (mean(a_t) - mean(b_t))^2 / (4 Cov_tt) over halvings, t; at least 1

    Cov is as if errors were normal with a variance of their mean square, around one valley, and the numbers of a source
    differed as they do; the curvature is Gauss and Newton's, by T finite differences. Two halves of the examples, whose
    solutions are a and b, know no valley in common: half their difference is as far off as the mean of both, so f
    widens what the curvature says to what was seen.

    Args:
      residuals: omega -> e, Float[n C], of which ``error`` is the sum of squares.
      omega: Float[p T], where they are wanted.
    """
    here, count = residuals(omega), omega.shape[1]
    jacobian = np.array([(residuals(omega + _STEP * row) - here).ravel() / _STEP for row in np.eye(count)]).T
    curvature = 2 * jacobian.T @ jacobian + 2 * prior.pull * np.eye(count)
    variances = 2 * (here**2).sum() / len(here) * np.diag(np.linalg.inv(curvature))
    wider = [(a.mean(0) - b.mean(0)) ** 2 / (4 * variances) for a, b in halves]
    return np.sqrt(variances * max(1.0, np.mean(wider) if wider else 1.0))
