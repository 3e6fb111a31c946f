"""Slopes, thresholds and densities of outcomes, against independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from muport.gmm.prediction._outcome_fits import fit_predictions, level_probabilities, outcome_densities, thresholds
from muport.gmm.prediction._outcomes import Outcome

Z = np.zeros(40, np.int64)


def test_slope_of_numbers_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    y = rng.normal(5, 3, size=40)
    f = 0.3 * (y - y.mean()) + 0.1 * rng.normal(size=40)
    (fit,) = fit_predictions(np.stack([rng.normal(size=40), f, -f])[None], Outcome("continuous", y, Z))
    assert fit.penalty == 1
    assert fit.slope == pytest.approx(np.linalg.lstsq(f[:, None], y - y.mean())[0][0])
    assert fit.error == pytest.approx(np.sqrt(np.mean((y - y.mean() - fit.slope * f) ** 2)))
    # a negative relation is none
    (fit,) = fit_predictions(np.stack([-f] * 3)[None], Outcome("continuous", y, Z))
    assert fit.slope == 0
    assert fit.error == pytest.approx(y.std())


def test_slope_of_times_maximizes_the_likelihood():
    rng = np.random.default_rng(1)
    risk = rng.normal(size=40)
    time, event = rng.exponential(np.exp(-risk)), (rng.random(40) < 0.8).astype(int)
    o = Outcome("survival", time, event)
    (fit,) = fit_predictions(np.stack([0.4 * risk] * 3)[None], o)
    hazard = o.hazard()
    best = minimize_scalar(lambda b: (hazard * np.exp(b * 0.4 * risk) - event * b * 0.4 * risk).sum(), bounds=(0, 20))
    assert fit.slope == pytest.approx(best.x, rel=1e-3)
    (fit,) = fit_predictions(np.stack([-risk] * 3)[None], o)
    assert fit.slope == 0


def test_thresholds_give_the_shares():
    rng = np.random.default_rng(2)
    values, errors, shares = rng.normal(size=40), rng.uniform(0.2, 1, size=40), np.array([0.2, 0.5, 0.3])
    cuts = thresholds(values, errors, shares)
    p = level_probabilities(values, errors, cuts)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(p.mean(0), shares, atol=1e-6)
    assert p[values.argmax()].argmax() >= p[values.argmin()].argmax()
    # levels that predictions separate
    values, errors = np.array([-9.0, 0, 9]), np.full(3, 0.1)
    apart = level_probabilities(values, errors, thresholds(values, errors, np.full(3, 1 / 3)))
    np.testing.assert_allclose(apart, np.eye(3), atol=1e-6)


def test_densities():
    rng = np.random.default_rng(3)
    y, values = rng.normal(size=40), rng.normal(size=(2, 40))
    found = outcome_densities(values, np.array([1.0, 2.0]), Outcome("continuous", y, Z))
    np.testing.assert_allclose(found[1], norm.pdf(y - y.mean(), values[1], 2))
    levels = rng.integers(3, size=40).astype(float)
    found = outcome_densities(values, np.array([1.0, 2.0]), Outcome("ordinal", levels, Z, ("a", "b", "c")))
    assert ((found > 0) & (found < 1)).all()
    o = Outcome("survival", np.abs(y), (levels > 0).astype(int))
    np.testing.assert_allclose(outcome_densities(values * 0, np.zeros(2), o)[0],
                               np.exp(-o.hazard()) * np.where(o.event, o.hazard(), 1))  # fmt: skip


def test_without_held_out_patients_nothing_is_predicted():
    (fit,) = fit_predictions(np.full((1, 3, 40), np.nan), Outcome("continuous", np.arange(40.0), Z))
    assert fit.slope == 0
    assert fit.error == pytest.approx(np.arange(40).std())
