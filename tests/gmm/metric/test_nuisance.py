"""Distances without the effects of covariates are those of the residuals of a regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from muport.gmm.metric._kernel_ridge import regress_held_out, ridge_regression
from muport.gmm.metric._nuisance import CovariateCode, explained_fraction, remove_covariates


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cdist(x, y, "sqeuclidean")


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Thirty patients with coordinates that follow two covariates."""
    rng = np.random.default_rng(0)
    columns = np.c_[rng.normal(size=30), np.arange(30) % 2]
    return rng.normal(size=(30, 4)) + columns @ rng.normal(size=(2, 4)), columns


def test_residuals_are_those_of_least_squares(drawn):
    x, columns = drawn
    design = np.c_[np.ones(30), columns]
    coefficient = np.linalg.lstsq(design[:20], x[:20])[0]
    rest = x - design @ coefficient
    found = remove_covariates(squared(x[:20], x[:20]), squared(x[20:], x[:20]), columns[:20], columns[20:])
    np.testing.assert_allclose(found[0], squared(rest[:20], rest[:20]), atol=1e-9)
    expected = squared(rest[20:], rest[:20])
    np.testing.assert_allclose(found[1] - found[1][:, :1], expected - expected[:, :1], atol=1e-9)


def test_folds_fit_the_covariates_without_the_held_out(drawn):
    x, columns = drawn
    target, rows = columns[:, 0] + x[:, 0], np.array([3, 8, 9])
    distances = squared(x, x)
    found = regress_held_out(lambda left: distances[None, None].repeat(len(left), 0), target, [rows], columns)[0, 1]
    rest = np.delete(np.arange(30), rows)
    parts = remove_covariates(
        distances[np.ix_(rest, rest)], distances[np.ix_(rows, rest)], columns[rest], columns[rows]
    )
    own = (target[rest] - target[rest].mean())[:, None]
    np.testing.assert_allclose(found[rows], ridge_regression(*parts, np.full(own.shape, 1 / 27), own)[1, :, 0])


def test_codes_of_levels_and_numbers():
    code = CovariateCode.fit("batch", np.array([0.0, 1, 1, 2]), ("a", "b", "c"))
    np.testing.assert_allclose(code.columns(np.array([0.0, 1, 1, 2])).mean(0), 0)
    np.testing.assert_array_equal(code.columns(np.array([-1.0])), [[0, 0]])
    code = CovariateCode.fit("age", np.array([30.0, 50]), ())
    np.testing.assert_array_equal(code.columns(np.array([30.0, 70])), [[-1], [3]])
    assert CovariateCode.fit("age", np.array([30.0, 30]), ()).scale == 1


def test_explained_fraction():
    target = np.eye(2)[[0, 0, 1, 1, 0, 1]]
    assert explained_fraction(target, target[:, 1:]) == (pytest.approx(1), pytest.approx(1))
    explained, corrected = explained_fraction(target, np.array([[1.0], [-1], [1], [-1], [0], [0]]))
    assert explained == pytest.approx(0)
    assert corrected == 0
