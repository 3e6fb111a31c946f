"""Ridge regression between representations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from muport._arrays import canonical_order
from muport.integration.spaces import _ridge_regression
from muport.integration.spaces._ridge_regression import _compute_features, find_paired_rows, fit_ridge


def _linear(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32) / 2
    y = x @ rng.normal(size=(4, 3)) + noise * rng.normal(size=(n, 3))
    return x, y.astype(np.float32)


def test_prediction_is_ridge_regression_on_coordinates_and_memberships(monkeypatch):
    monkeypatch.setattr(_ridge_regression, "_PENALTIES", np.array([0.1]))
    x, y = _linear(300, 0.5)
    fitted = fit_ridge(x, y, 0)
    features = _compute_features(x, fitted.landmarks)
    assert features.shape == (300, 4 + 300 // 20)
    expected = Ridge(alpha=0.1 * len(x)).fit(features.astype(float), y).predict(features)
    np.testing.assert_allclose(fitted.predict(x), expected, atol=1e-4)


def test_r2_is_the_fraction_of_variance_on_other_cells():
    x, y = _linear(4000, 1.0)
    true = 1 - 1.0 / float(y.var(axis=0).mean())
    fitted = fit_ridge(x, y, 0)
    assert fitted.r2 == pytest.approx(true, abs=0.03)
    fresh_x, fresh_y = (part[2000:] for part in _linear(4000, 1.0))
    half = fit_ridge(x[:2000], y[:2000], 0)
    residual = np.square(fresh_y - half.predict(fresh_x)).sum() / np.square(fresh_y - fresh_y.mean(0)).sum()
    assert half.r2 == pytest.approx(1 - residual, abs=0.05)


def test_a_curve_is_followed():
    x = np.linspace(-2, 2, 1500, dtype=np.float32)[:, None]
    assert fit_ridge(x, np.square(x), 0).r2 > 0.95


def test_a_target_that_nothing_predicts_gets_its_mean():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 5)).astype(np.float32), rng.normal(2, 1, size=(400, 3)).astype(np.float32)
    fitted = fit_ridge(x, y, 0)
    assert fitted.r2 < 0.02
    assert np.sqrt(np.square(fitted.predict(x) - y.mean(axis=0)).mean()) < 0.15


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_few_cells_give_finite_predictions(n):
    x, y = _linear(n, 0.1)
    fitted = fit_ridge(x, y, 0)
    assert np.isfinite(fitted.predict(x)).all()
    assert 0 <= fitted.r2 <= 1


def test_constant_inputs_and_targets():
    x, y = _linear(50, 0.1)
    assert fit_ridge(np.zeros_like(x), y, 0).r2 < 1e-6
    np.testing.assert_allclose(fit_ridge(x, np.ones_like(y), 0).predict(x), 1, atol=1e-6)


def test_order_is_that_of_the_coordinates_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(200, 4)).astype(np.float32)
    expected = x[np.lexsort(x.T[::-1])]
    shuffled = x[rng.permutation(200)]
    np.testing.assert_array_equal(shuffled[canonical_order(shuffled)], expected)


def test_paired_rows_are_the_same_cells():
    rng = np.random.default_rng(0)
    cell = {"a": rng.permutation(30)[:20], "b": rng.permutation(30)[:15]}
    x = {m: rng.normal(size=(len(rows), 2)).astype(np.float32) for m, rows in cell.items()}
    source_rows, target_rows = find_paired_rows(x, cell, "a", "b", 30)
    np.testing.assert_array_equal(cell["a"][source_rows], cell["b"][target_rows])
    assert sorted(cell["a"][source_rows]) == sorted(set(cell["a"]) & set(cell["b"]))
