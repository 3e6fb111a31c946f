"""Ridge regression between representations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from muport.integration.spaces._ridge_regression import _features, common_rows, fit_regressor, ordered, regress


def _linear(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32) / 2
    y = x @ rng.normal(size=(4, 3)) + noise * rng.normal(size=(n, 3))
    return x, y.astype(np.float32)


def test_prediction_is_ridge_regression_on_coordinates_and_memberships(monkeypatch):
    from muport.integration.spaces import _ridge_regression as _joint_regress

    monkeypatch.setattr(_joint_regress, "_RIDGE", np.array([0.1]))
    x, y = _linear(300, 0.5)
    fitted = fit_regressor(x, y, 0)
    features = _features(x, fitted.landmarks)
    assert features.shape == (300, 4 + 300 // 20)
    expected = Ridge(alpha=0.1 * len(x)).fit(features.astype(float), y).predict(features)
    np.testing.assert_allclose(regress(x, fitted), expected, atol=1e-4)


def test_explained_is_the_share_of_variance_on_other_cells():
    x, y = _linear(4000, 1.0)
    true = 1 - 1.0 / float(y.var(axis=0).mean())
    fitted = fit_regressor(x, y, 0)
    assert fitted.explained == pytest.approx(true, abs=0.03)
    fresh_x, fresh_y = (part[2000:] for part in _linear(4000, 1.0))
    half = fit_regressor(x[:2000], y[:2000], 0)
    left = np.square(fresh_y - regress(fresh_x, half)).sum() / np.square(fresh_y - fresh_y.mean(0)).sum()
    assert half.explained == pytest.approx(1 - left, abs=0.05)


def test_a_curve_is_followed():
    x = np.linspace(-2, 2, 1500, dtype=np.float32)[:, None]
    assert fit_regressor(x, np.square(x), 0).explained > 0.95


def test_what_nothing_predicts_gets_the_mean():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 5)).astype(np.float32), rng.normal(2, 1, size=(400, 3)).astype(np.float32)
    fitted = fit_regressor(x, y, 0)
    assert fitted.explained < 0.02
    assert np.sqrt(np.square(regress(x, fitted) - y.mean(axis=0)).mean()) < 0.15


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_few_cells_give_finite_predictions(n):
    x, y = _linear(n, 0.1)
    fitted = fit_regressor(x, y, 0)
    assert np.isfinite(regress(x, fitted)).all()
    assert 0 <= fitted.explained <= 1


def test_constant_inputs_and_targets():
    x, y = _linear(50, 0.1)
    assert fit_regressor(np.zeros_like(x), y, 0).explained < 1e-6
    np.testing.assert_allclose(regress(x, fit_regressor(x, np.ones_like(y), 0)), 1, atol=1e-6)


def test_order_is_that_of_the_coordinates_whatever_the_order_of_rows():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(200, 4)).astype(np.float32)
    expected = x[np.lexsort(x.T[::-1])]
    shuffled = x[rng.permutation(200)]
    np.testing.assert_array_equal(shuffled[ordered(shuffled)], expected)
    np.testing.assert_array_equal(shuffled[ordered(shuffled[:, :2], shuffled[:, 2:])], expected)


def test_common_rows_are_the_same_cells():
    rng = np.random.default_rng(0)
    cell = {"a": rng.permutation(30)[:20], "b": rng.permutation(30)[:15]}
    x = {m: rng.normal(size=(len(rows), 2)).astype(np.float32) for m, rows in cell.items()}
    mine, theirs = common_rows(x, cell, "a", "b", 30)
    np.testing.assert_array_equal(cell["a"][mine], cell["b"][theirs])
    assert sorted(cell["a"][mine]) == sorted(set(cell["a"]) & set(cell["b"]))
