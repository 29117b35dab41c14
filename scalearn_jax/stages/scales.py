"""The scales of a solve: what their error is, and where it is least.

    error     leave-one-out error of a head in closed form on the features that omega gives
    center    the constant 2 / T or, where it is clearly better, the best source alone: where the prior expects omega
    omega     mean over halves of the examples of what minimises error and prior on a half

Each half finds its own way through a deep network, so what only luck explains is averaged out, and how far apart halves
end says how sure omega is.

Letters: L layers, T source tasks, p numbers of omega a source, w width of a factor.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from scalearn_jax.data.tokens import Encoded
from scalearn_jax.io import terminal
from scalearn_jax.stages.features import Features
from scalearn_jax.stages.prepare import Setup
from scalearn_jax.train.evaluate import Layout
from scalearn_jax.train.ridge import Ridge, Rows
from scalearn_jax.train.solver import Evaluation, Prior, Search, deviations, minimise
from scalearn_jax.typing import Params

_PULL = 0.1  # tau
_SPREADS = (3.0, 0.3, 0.03)  # what rho may be; it may be infinite, too
_CLEARLY = 0.95  # the share of the constant's error below which the best source is where omega is expected
_LIMIT, _VECTOR_LIMIT = 10, 15  # evaluations from a start: of one number a source, and of several
_SPLITS, _VECTOR_SPLITS = 2, 1  # how often the examples are halved: for one number a source, and for several
_SEED = 42  # of the halves


def to_transfer(omega: np.ndarray, shape: tuple[int, ...]) -> Params:
    """Lays out omega Float[p T], or Float[1 T] for p equal ones, as a ScaLearn variant's: Float[T w] or Float[L T w].

    Example:
      >>> to_transfer(np.array([[0.5, 2.0]]), (2, 3))["omega"].tolist()
      [[0.5, 0.5, 0.5], [2.0, 2.0, 2.0]]
    """
    num_sources = shape[-2]
    full = np.broadcast_to(omega, (int(np.prod(shape)) // num_sources, num_sources))
    full = full.reshape(*shape[:-2], shape[-1], num_sources)
    return {"omega": np.ascontiguousarray(np.swapaxes(full, -1, -2), np.float32)}


def from_transfer(transfer: Params) -> np.ndarray:
    """Undoes ``to_transfer``: Float[p T]."""
    omega = np.swapaxes(np.asarray(transfer["omega"], float), -1, -2)
    return omega.reshape(-1, omega.shape[-1])


class Objective:
    """The leave-one-out error of omega Float[p T], or Float[1 T] for equal numbers, on some examples.

    Args:
      setup: of a ScaLearn variant or, without a gradient, of constants.
      layout: one that the examples fit in.
    """

    def __init__(self, setup: Setup, encoded: Encoded, layout: Layout):
        self._features, self._labels, self._task = Features(setup, encoded, layout), encoded.labels, setup.task
        self._shape = setup.trainable["transfer"]["omega"].shape[1:] if setup.method.solves == "scales" else None

    def __call__(self, omega: np.ndarray, with_gradient: bool = True) -> Evaluation:
        """Computes the error, with its gradient if asked."""
        found, pull = self._features.linearize(self._transfer(omega))
        head, gradient = self._head(found), np.zeros(omega.shape)
        if with_gradient:
            gradient = from_transfer(pull(head.rows.pull(head.gradient(head.strength))))
            gradient = gradient.sum(0, keepdims=True) if len(omega) == 1 else gradient
        return Evaluation(omega, head.error(head.strength), gradient, head.strength)

    def residuals(self, omega: np.ndarray) -> np.ndarray:
        """Computes what each row is missed by, Float[m C]; the error is the sum of their squares."""
        head = self._head(self._features(self._transfer(omega)))
        return head.shares(head.strength)

    def _head(self, features: np.ndarray) -> Ridge:
        return Ridge(Rows.of(self._task.kind, features, self._labels, self._task.num_outputs))

    def _transfer(self, omega: np.ndarray) -> Params:
        return to_transfer(omega, self._shape) if self._shape else {"coefficients": np.asarray(omega[0], np.float32)}


def numbers_of_each(setup: Setup) -> int:
    """p, how many numbers omega has for each source."""
    shape = setup.trainable["transfer"]["omega"].shape[1:]
    return int(np.prod(shape)) // shape[-2]


def most_evaluations(setup: Setup) -> int:
    """How many evaluations ``solve_scales`` asks for, at most."""
    half, splits = 2 + _LIMIT, _SPLITS
    if numbers_of_each(setup) > 1:
        half, splits = half + len(_SPREADS) * (_VECTOR_LIMIT + 1) + 1, _VECTOR_SPLITS
    return setup.spec.num_sources + 2 + 2 * splits * half


def halves_of(setup: Setup, chosen: Encoded) -> list[Encoded]:
    """Halves the examples once or more, at random, with labels alike in both; few examples stay whole."""
    labels, classes = chosen.labels, setup.task.num_outputs if setup.task.kind == "classification" else 1
    if setup.method.solves != "scales" or len(chosen) < 4 * max(2, classes):
        return [chosen]
    generator, halves = np.random.default_rng(_SEED), []
    for _ in range(_SPLITS if numbers_of_each(setup) == 1 else _VECTOR_SPLITS):
        order = generator.permutation(len(chosen))
        if labels.ndim == 1:
            order = order[np.argsort(labels[order], kind="stable")]
        side = (np.arange(len(order)) + np.repeat(generator.integers(2, size=len(order)), 2)[: len(order)]) % 2
        halves += [chosen.take(np.sort(order[side == number])) for number in range(2)]
    return halves


def error_of_each(setup: Setup, search: Search) -> dict[str, float]:
    """The leave-one-out error of each source alone, by name."""
    rows = np.eye(setup.spec.num_sources)[:, None]
    return {source.name: search(row, False).error for source, row in zip(setup.sources, rows, strict=True)}


def solve_scales(
    setup: Setup, chosen: Encoded, layout: Layout, begin: Callable[[str, Callable], Search]
) -> tuple[Params, dict[str, Any]]:
    """Solves for omega on some examples.

    Args:
      begin: (name, objective) -> its search.

    Returns:
      The transfer parameters, and what the results say of them.
    """
    names, halves = [source.name for source in setup.sources], halves_of(setup, chosen)
    whole, parts = Objective(setup, chosen, layout), [Objective(setup, half, layout) for half in halves]
    alone, constant = begin("alone", whole), np.full((1, len(names)), setup.spec.option("init_scale", 2.0) / len(names))
    single = error_of_each(setup, alone)
    nearest = min(single, key=single.get)
    best_alone = np.eye(len(names))[[names.index(nearest)]]
    starts = [begin(f"start of half {number}", part) for number, part in enumerate(parts)]
    errors = [sum(search(omega, False).error for search in starts) for omega in (constant, best_alone)]
    center, start = (best_alone, nearest) if errors[1] < _CLEARLY * errors[0] else (constant, "constant")

    found, prior = _solve_halves(setup, parts, Prior(center[0], _PULL), begin)
    best = begin("scales", whole)(np.mean(found, 0), False)
    pairs = list(zip(found[::2], found[1::2], strict=False))  # none, where the examples are whole
    own = deviations(whole.residuals, prior, best.omega, pairs)
    if best.error >= 1:
        terminal.note(
            f"target {setup.task.name}: no better than the mean by leave-one-out ({best.error:.2f}); the"
            " scales say little. More examples or other sources may help."
        )
    report = {
        "criterion": "leave-one-out squared error of a ridge head, as a share of what the mean leaves, and a prior;"
        f" mean over {len(halves)} halves of the examples",
        "error": float(best.error),
        "objective": float(best.error + prior(best.omega)[0]),
        "strength": float(best.strength),
        "start": start,
        "prior": {"center": prior.center.tolist(), "pull": prior.pull, "spread": prior.spread},
        "omega": dict(zip(names, best.omega.mean(0).tolist(), strict=True)),
        "omega_of_halves": [omega.mean(0).tolist() for omega in found],
        "error_of_constant": alone(constant, False).error,
        "error_of_source": single,
        "deviation": dict(zip(names, own.tolist(), strict=True)),
    }
    return to_transfer(best.omega, setup.trainable["transfer"]["omega"].shape[1:]), report


def _solve_halves(
    setup: Setup, parts: list[Callable], prior: Prior, begin: Callable[[str, Callable], Search]
) -> tuple[list[np.ndarray], Prior]:
    """Minimises the objective of each half, and chooses how firmly the numbers of a source are kept together.

    That is by the leave-one-out error of one half's numbers on the other half.
    """
    searches = [begin(f"half {number}", part) for number, part in enumerate(parts)]
    found = {None: [minimise(search, prior, prior.center[None], _LIMIT)[1].omega for search in searches]}
    count = numbers_of_each(setup)
    if count == 1 or len(parts) == 1:
        return found[None], prior
    unseen = [begin(f"other half of {number}", parts[1 - number]) for number in range(2)]
    total = {None: sum(search(omega, False).error for search, omega in zip(unseen, found[None], strict=True))}
    searches = [begin(f"half {number}, numbers", part) for number, part in enumerate(parts)]
    unseen = [begin(f"other half of {number}, numbers", parts[1 - number]) for number in range(2)]
    omegas = [np.repeat(omega, count, axis=0) for omega in found[None]]
    for spread in _SPREADS:
        firm, pairs = dataclasses.replace(prior, spread=spread), zip(searches, omegas, strict=True)
        found[spread] = omegas = [minimise(search, firm, omega, _VECTOR_LIMIT)[1].omega for search, omega in pairs]
        total[spread] = sum(search(omega, False).error for search, omega in zip(unseen, omegas, strict=True))
    spread = min(total, key=total.get)
    return found[spread], dataclasses.replace(prior, spread=spread)
