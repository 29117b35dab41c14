"""The search for scales on an objective that is known in closed form."""

import numpy as np
import pytest

from scalearn_jax.train.solver import Evaluation, Prior, Search, deviations, minimise, settle

CURVATURE, CENTER, FLOOR = np.array([[3.0, 0.8], [0.8, 1.0]]), np.array([0.9, -0.2]), 0.4


def quadratic(omega, gradient=True):
    """FLOOR + (m - CENTER)' CURVATURE (m - CENTER) / 2 of the means m, and each number's distance from its mean."""
    away, apart = omega.mean(0) - CENTER, omega - omega.mean(0)
    error = FLOOR + away @ CURVATURE @ away / 2 + (apart**2).mean()
    return Evaluation(omega, error, (CURVATURE @ away + apart) / len(omega), strength=1.0)


@pytest.mark.parametrize("numbers", [1, 4])
def test_the_minimum_and_its_deviations_are_those_of_the_quadratic(numbers):
    prior, search, n = Prior(0.5, pull=0.3, spread=2.0), Search(quadratic), 50
    _, best = minimise(search, prior, np.full((numbers, 2), 0.5), limit=60, tolerance=1e-12)
    hessian = CURVATURE + 2 * prior.pull * np.eye(2)
    expected = np.linalg.solve(hessian, CURVATURE @ CENTER + 2 * prior.pull * prior.center)
    np.testing.assert_allclose(best.omega, np.tile(expected, (numbers, 1)), atol=1e-4)
    covariance = 2 * best.error / n * np.linalg.inv(hessian)
    np.testing.assert_allclose(deviations(search, prior, best, n), np.sqrt(np.diag(covariance)), rtol=1e-4)


def linear_model(num_examples, noise, seed=0):
    """The mean squared error of a linear regression with weights CENTER, as a function of its weights."""
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((num_examples, 2))
    outputs = inputs @ CENTER + noise * generator.standard_normal(num_examples)

    def evaluate(omega, gradient=True):
        missed = inputs @ omega[0] - outputs
        return Evaluation(omega, (missed**2).mean(), 2 * (inputs.T @ missed / num_examples)[None], strength=1.0)

    return evaluate, inputs, outputs


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_the_evidence_is_that_of_a_bayesian_regression(noise):
    """Of a normal model with unknown noise the marginal likelihood is known: y ~ N(X c, s^2 (1 + X X' / (n tau')))."""
    evaluate, inputs, outputs = linear_model(40, noise)
    center = np.array([0.5, 0.5])
    found = settle(Search(evaluate), center, 40, limit=60)
    prior, n = found.prior, 40
    covariance = np.eye(n) + inputs @ inputs.T / (n * prior.pull)
    away = outputs - inputs @ center
    exact = n * np.log(away @ np.linalg.solve(covariance, away) / n) + np.linalg.slogdet(covariance)[1]
    assert found.surprise == pytest.approx(exact, rel=1e-3)


def test_scales_leave_the_centre_as_far_as_the_examples_speak_for_it():
    evaluate = linear_model(60, noise=0.5)[0]
    near, far = (settle(Search(evaluate), center, 60, 60) for center in (CENTER, np.array([0.1, 0.6])))
    assert near.prior.pull > 2 * far.prior.pull
    np.testing.assert_allclose([near.found.omega[0], far.found.omega[0]], [CENTER] * 2, atol=0.2)


def test_a_direction_without_evidence_is_as_sure_as_the_prior():
    def hollow(omega, gradient=True):  # curved downwards
        return Evaluation(omega, FLOOR, -10 * (omega - CENTER), strength=1.0)

    prior, best = Prior(0.5, pull=0.3), hollow(np.array([[0.5, 0.5]]))
    found = deviations(Search(hollow), prior, best, 50)
    np.testing.assert_allclose(found, np.sqrt(2 * FLOOR / 50 / (2 * prior.pull)))
