"""Weights of the axes of each modality."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._axis_weights import fit_axis_weights
from muport.integration.spaces._ridge_regression import measure_predictability

N = 800


def _standardize(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32)


def _views(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Two modalities with two shared axes, two of their own, independent ones, and two of noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N, 2))
    views = {}
    for m in ("a", "b"):
        own = rng.normal(size=(N, 2))
        x = np.hstack([shared + 0.1 * rng.normal(size=(N, 2)), own, rng.normal(size=(N, 2))])
        views[m] = _standardize(x)
    cells = np.arange(N)
    return views, {"a": cells, "b": cells}, np.zeros(N, np.int64)


def test_axes_that_the_other_modality_predicts_count_more():
    for weights in fit_axis_weights(*_views(), 0).values():
        assert weights[:2].min() > 5 * weights[2:].max()
        assert np.square(weights).mean() == pytest.approx(1, abs=0.05)  # the total variance stays


def test_structure_of_one_modality_counts_half():
    rng = np.random.default_rng(0)
    t = rng.normal(size=(N, 1))
    a = np.hstack([t, t, rng.normal(size=(N, 2))]) + 0.01 * rng.normal(size=(N, 4))
    views = {"a": _standardize(a), "b": _standardize(rng.normal(size=(N, 3)))}
    cells = {"a": np.arange(N), "b": np.arange(N)}
    weights = fit_axis_weights(views, cells, np.zeros(N, np.int64), 0)["a"]
    # one of the two coordinates of noise may be predicted by chance
    structure = np.square(weights / weights[2:].min())
    # the coordinates predict each other wholly: half of 1, above that of noise, which is the prior of 10 cells
    assert structure[0] == pytest.approx(0.5 / (10 / (N + 10)), rel=0.3)
    np.testing.assert_allclose(structure[:2], structure[0], rtol=0.05)


def test_an_agreement_that_comes_from_batches_does_not_count():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, N)
    shift = 5 * batch[:, None]
    views = {m: _standardize(np.hstack([rng.normal(size=(N, 1)) + shift, rng.normal(size=(N, 1))])) for m in "ab"}
    for weights in fit_axis_weights(views, dict.fromkeys("ab", np.arange(N)), batch, 0).values():
        np.testing.assert_allclose(weights, 1, atol=0.2)


@pytest.mark.parametrize("n_pairs", [0, 3])
def test_few_pairs_leave_the_axes_nearly_equal(n_pairs):
    rng = np.random.default_rng(0)
    views = {m: _standardize(rng.normal(size=(50, 4))) for m in "ab"}
    cells = {"a": np.arange(50), "b": np.arange(50 - n_pairs, 100 - n_pairs)}
    for weights in fit_axis_weights(views, cells, np.zeros(100, np.int64), 0).values():
        assert np.isfinite(weights).all()
        assert weights.max() < 2 * weights.min()


def test_constant_modalities_and_single_coordinates_have_finite_weights():
    views = {"a": np.zeros((N, 3), np.float32), "b": _standardize(np.random.default_rng(0).normal(size=(N, 1)))}
    weights = fit_axis_weights(views, dict.fromkeys("ab", np.arange(N)), np.zeros(N, np.int64), 0)
    np.testing.assert_array_equal(weights["a"], 1)
    np.testing.assert_allclose(weights["b"], 1, rtol=1e-5)


def test_the_order_of_the_cells_does_not_matter():
    views, cells, batch = _views()
    order = np.random.default_rng(1).permutation(N)
    again = fit_axis_weights({m: x[order] for m, x in views.items()}, cells, batch, 0)
    for m, weights in fit_axis_weights(views, cells, batch, 0).items():
        np.testing.assert_allclose(again[m], weights, rtol=1e-5)


def test_predictability_is_the_r_squared_on_held_out_cells():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3)).astype(np.float32) / np.float32(np.sqrt(3))
    noise = rng.normal(size=2000)
    y = np.stack([x[:, 0] * np.sqrt(3), x[:, 0] * np.sqrt(3) + noise, noise, np.full(2000, 3.0)], axis=1)
    np.testing.assert_allclose(measure_predictability(x, y.astype(np.float32), 5000, 0), [1, 0.5, 0, 0], atol=0.06)
