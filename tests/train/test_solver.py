"""The search for scales on an objective that is known in closed form."""

import numpy as np
import pytest

from scalearn_jax.train.solver import Evaluation, Prior, Search, deviations, minimise

CURVATURE, CENTER, FLOOR = np.array([[3.0, 0.8], [0.8, 1.0]]), np.array([0.9, -0.2]), 0.4


def quadratic(omega, gradient=True):
    """FLOOR + (m - CENTER)' CURVATURE (m - CENTER) / 2 of the means m, and each number's distance from its mean."""
    away, apart = omega.mean(0) - CENTER, omega - omega.mean(0)
    error = FLOOR + away @ CURVATURE @ away / 2 + (apart**2).mean()
    return Evaluation(omega, error, (CURVATURE @ away + apart) / len(omega), strength=1.0)


@pytest.mark.parametrize("numbers", [1, 4])
def test_the_minimum_and_its_deviations_are_those_of_the_quadratic(numbers):
    prior, search, n = Prior(np.array([0.5, 0.7]), pull=0.3, spread=2.0), Search(quadratic), 50
    _, best = minimise(search, prior, np.full((numbers, 2), 0.5), limit=60, tolerance=1e-12)
    hessian = CURVATURE + 2 * prior.pull * np.eye(2)
    expected = np.linalg.solve(hessian, CURVATURE @ CENTER + 2 * prior.pull * prior.center)
    np.testing.assert_allclose(best.omega, np.tile(expected, (numbers, 1)), atol=1e-4)
    covariance = 2 * best.error / n * np.linalg.inv(hessian)
    np.testing.assert_allclose(deviations(search, prior, best, n), np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_a_direction_without_evidence_is_as_sure_as_the_prior():
    def hollow(omega, gradient=True):  # curved downwards
        return Evaluation(omega, FLOOR, -10 * (omega - CENTER), strength=1.0)

    prior, best = Prior(np.full(2, 0.5), pull=0.3), hollow(np.array([[0.5, 0.5]]))
    found = deviations(Search(hollow), prior, best, 50)
    np.testing.assert_allclose(found, np.sqrt(2 * FLOOR / 50 / (2 * prior.pull)))


@pytest.mark.parametrize("apart, factor", [(3.0, 3.0), (0.1, 1.0)])
def test_halves_that_end_far_apart_widen_the_deviations(apart, factor):
    prior, n = Prior(np.full(2, 0.5), pull=0.3), 50
    best = quadratic(np.array([[0.5, 0.5]]))
    plain = deviations(Search(quadratic), prior, best, n)
    halves = [(best.omega + apart * plain, best.omega - apart * plain)]  # so is half their difference
    np.testing.assert_allclose(deviations(Search(quadratic), prior, best, n, halves), factor * plain)
