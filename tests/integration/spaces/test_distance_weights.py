"""Weights of axes and modalities in distances."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._axis_weights import fit_axis_weights
from muport.integration.spaces._distance_weights import DistanceWeights, fit_distance_weights
from muport.neighbors import knn

N = 800


def _standardize(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32)


def _fit(
    views: dict[str, np.ndarray], cells: dict[str, np.ndarray] | None = None, batch: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], DistanceWeights]:
    """Weights of all axes, those of predictions included, and what was fitted."""
    cells = cells or {m: np.arange(len(x)) for m, x in views.items()}
    batch = np.zeros(1 + max(rows.max() for rows in cells.values()), np.int64) if batch is None else batch
    before = fit_axis_weights(views, cells, batch, 0)
    fitted = fit_distance_weights(views, before, cells, batch, 0)
    return {m: before[m] * fitted.axes[m] for m in views}, fitted


def _slow_structure(seen: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The definition: the part of the variance of each hidden coordinate that the neighbors predict."""
    near = knn(seen.astype(np.float32), 10, method="exact").indices
    others = -hidden / (len(hidden) - 1)  # the mean of the other cells, as the mean of all is 0
    product = (hidden - others) * (hidden[near].mean(axis=1) - others)
    return product.mean(axis=0) / np.square(hidden - others).mean(axis=0)


def test_structure_is_what_the_neighbors_under_the_other_axes_predict():
    rng = np.random.default_rng(0)
    clusters = 3 * rng.normal(size=(4, 9))[rng.integers(0, 4, N)]
    x = _standardize(clusters + rng.normal(size=(N, 9)) * np.linspace(0.5, 9, 9)).astype(np.float64)
    x -= x.mean(axis=0)
    a, b = x[:, :5], x[:, 5:]
    weights = {"a": np.ones(5), "b": np.ones(4)}
    for _ in range(2):
        structure = {m: np.zeros(len(w)) for m, w in weights.items()}
        for f in range(5):
            folds = {m: np.arange(len(w)) % 5 == f for m, w in weights.items()}
            seen = np.hstack([raw[:, ~folds[m]] * weights[m][~folds[m]] for m, raw in (("a", a), ("b", b))])
            for m, raw in (("a", a), ("b", b)):
                if folds[m].any():
                    structure[m][folds[m]] = _slow_structure(seen, raw[:, folds[m]])
        chance = 2 / np.sqrt(10 * N)
        for m, raw in (("a", a), ("b", b)):
            positive = np.maximum(structure[m], 1e-9)
            kept = positive * np.maximum(0, 1 - np.square(chance / positive))
            weights[m] = np.sqrt((N * kept + 10) / (N + 10) / raw.var(axis=0))
            weights[m] *= np.sqrt(raw.var(axis=0).sum() / (np.square(weights[m]) @ raw.var(axis=0)))
    found = _fit({"a": a.astype(np.float32), "b": b.astype(np.float32)})[0]
    for m, expected in weights.items():
        np.testing.assert_allclose(found[m], expected, rtol=1e-3)


def test_axes_with_structure_count_more_whether_or_not_the_other_modality_has_it():
    rng = np.random.default_rng(0)
    kind, own = rng.integers(0, 3, N), rng.integers(0, 3, N)
    corners = 4 * np.eye(3)
    a = np.hstack([corners[kind], corners[own], np.zeros((N, 6))]) + rng.normal(size=(N, 12))
    b = np.hstack([corners[kind], np.zeros((N, 6))]) + rng.normal(size=(N, 9))
    views = {"a": _standardize(a), "b": _standardize(b)}
    weights, fitted = _fit(views)
    weighted = {m: views[m].std(axis=0) * w for m, w in weights.items()}
    assert weighted["a"][:6].min() > 3 * weighted["a"][6:].max()
    assert weighted["b"][:3].min() > 3 * weighted["b"][3:].max()
    dimensions = np.square(fitted.modalities)
    assert dimensions[0] > 1.3 * dimensions[1] > 1.3
    for m, w in weights.items():  # the total variance stays
        assert np.square(views[m] * w).sum(axis=1).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n_batches", [1, 40])
def test_noise_has_no_structure_however_many_axes_it_has(n_batches):
    rng = np.random.default_rng(0)
    views = {m: _standardize(rng.normal(size=(1000, 30 + i))) for i, m in enumerate("ab")}
    dimensions = np.square(_fit(views, batch=np.arange(1000) % n_batches)[1].modalities)
    assert dimensions.max() < 0.3


def test_correlated_axes_do_not_count_twice():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, N)
    x = 4 * rng.normal(size=(4, 6))[kind] + rng.normal(size=(N, 6))
    y = _standardize(rng.normal(size=(4, 5))[kind] + rng.normal(size=(N, 5)))
    copies = np.repeat(x, 3, axis=1)[:, np.r_[0:18:3, 1:18:3, 2:18:3]]
    once, thrice = (np.square(_fit({"a": _standardize(a), "b": y})[1].modalities) for a in (x, copies))
    assert 2 < once[0] < 4
    assert once[0] < thrice[0] < 6.1  # copies in other folds predict the noise too, but six axes are six at most
    assert thrice[1] == pytest.approx(once[1], rel=0.1)


def test_the_fewer_cells_are_measured_in_all_modalities_the_less_changes():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, N)
    views = {
        m: _standardize(np.hstack([4 * np.eye(3)[kind], np.zeros((N, 4))]) + rng.normal(size=(N, 7))) for m in "ab"
    }
    change = []
    for n_complete in (N, N // 2, N // 4, 40, 0):
        half = n_complete + (N - n_complete) // 2
        cells = {"a": np.arange(half), "b": np.r_[0:n_complete, half:N]}
        fitted = _fit({m: views[m][rows] for m, rows in cells.items()}, cells)[1]
        change.append(np.abs(np.log(fitted.axes["a"])).max() + np.abs(np.log(fitted.modalities)).max())
    assert change == sorted(change, reverse=True)
    assert change[0] > 10 * change[3] > 0
    assert change[-1] == 0


def test_constant_modalities_and_single_coordinates_have_finite_weights():
    rng = np.random.default_rng(0)
    weights, fitted = _fit({"a": np.zeros((N, 3), np.float32), "b": _standardize(rng.normal(size=(N, 1)))})
    np.testing.assert_array_equal(weights["a"], 1)
    np.testing.assert_allclose(weights["b"], 1, rtol=1e-5)
    assert np.isfinite(fitted.modalities).all()


def test_the_order_of_the_cells_does_not_matter():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, N)
    views = {m: _standardize(4 * np.eye(3)[kind] + rng.normal(size=(N, 3))) for m in "ab"}
    order = rng.permutation(N)
    again = _fit({m: x[order] for m, x in views.items()})
    expected = _fit(views)
    for m, weights in expected[0].items():
        np.testing.assert_allclose(again[0][m], weights, rtol=1e-5)
    np.testing.assert_allclose(again[1].modalities, expected[1].modalities, rtol=1e-5)
