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


def residuals(omega):
    """A linear model's, whose squares have the curvature 2 J' J."""
    return (SLOPES @ omega.mean(0) - 0.3)[:, None]


SLOPES = np.random.default_rng(0).normal(size=(50, 2))


@pytest.mark.parametrize("numbers", [1, 4])
def test_the_minimum_is_that_of_the_quadratic(numbers):
    prior, search = Prior(np.array([0.5, 0.7]), pull=0.3, spread=2.0), Search(quadratic)
    _, best = minimise(search, prior, np.full((numbers, 2), 0.5), limit=60, tolerance=1e-12)
    hessian = CURVATURE + 2 * prior.pull * np.eye(2)
    expected = np.linalg.solve(hessian, CURVATURE @ CENTER + 2 * prior.pull * prior.center)
    np.testing.assert_allclose(best.omega, np.tile(expected, (numbers, 1)), atol=1e-4)


@pytest.mark.parametrize("numbers", [1, 4])
def test_deviations_are_those_of_least_squares(numbers):
    omega, pull = np.random.default_rng(1).normal(size=(numbers, 2)), 0.3
    missed = residuals(omega)
    covariance = 2 * (missed**2).mean() * np.linalg.inv(2 * SLOPES.T @ SLOPES + 2 * pull * np.eye(2))
    found = deviations(residuals, Prior(np.zeros(2), pull), omega)
    np.testing.assert_allclose(found, np.sqrt(np.diag(covariance)))


def test_a_direction_without_evidence_is_as_sure_as_the_prior():
    found = deviations(lambda omega: np.full((50, 1), 0.1), Prior(np.zeros(2), pull=0.3), np.zeros((1, 2)))
    np.testing.assert_allclose(found, np.sqrt(2 * 0.01 / (2 * 0.3)))


@pytest.mark.parametrize("apart, factor", [(3.0, 3.0), (0.1, 1.0)])
def test_halves_that_end_far_apart_widen_the_deviations(apart, factor):
    prior, omega = Prior(np.full(2, 0.5), pull=0.3), np.array([[0.5, 0.5]])
    plain = deviations(residuals, prior, omega)
    halves = [(omega + apart * plain, omega - apart * plain)]  # so is half their difference
    np.testing.assert_allclose(deviations(residuals, prior, omega, halves), factor * plain)
