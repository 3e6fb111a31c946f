"""Maps of modalities to coordinates in which distances count structure."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._axis_weights import fit_axis_weights
from muport.integration.spaces._distance_maps import DistanceMaps, fit_distance_maps
from muport.neighbors import knn

N = 800


def _standardize(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32)


def _fit(
    views: dict[str, np.ndarray], cells: dict[str, np.ndarray] | None = None, batch: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], DistanceMaps]:
    """Maps of all modalities, weights of predictions included, and what was fitted."""
    cells = cells or {m: np.arange(len(x)) for m, x in views.items()}
    batch = np.zeros(1 + max(rows.max() for rows in cells.values()), np.int64) if batch is None else batch
    before = fit_axis_weights(views, cells, batch, 0)
    fitted = fit_distance_maps(views, before, cells, batch, 0)
    return {m: before[m][:, None] * fitted.maps[m] for m in views}, fitted


def _slow_prediction(seen: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The definition: the mean of the neighbors, relative to the mean of the other cells."""
    near = knn(seen.astype(np.float32), 10, method="exact").indices
    others = -hidden / (len(hidden) - 1)  # as the mean of all is 0
    return (hidden[near].mean(axis=1) - others) * (len(hidden) - 1) / len(hidden)


def _slow_map(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The definition, by Cholesky factors instead of square roots: the squared map is the same."""
    total = y.T @ y / len(y) + 0.02 * np.eye(y.shape[1])
    cross = (y.T @ predicted + predicted.T @ y) / 2 / len(y)
    inverse = np.linalg.inv(np.linalg.cholesky(total))
    part, vectors = np.linalg.eigh(inverse @ cross @ inverse.T)
    chance = np.sqrt(max(4, 2 * y.shape[1]) / (10 * len(y)))
    part = np.maximum(part, 1e-9)
    part = np.maximum(part * np.maximum(0, 1 - np.square(chance / part)), 0.05)
    return (inverse.T @ vectors * np.square(part)) @ vectors.T @ inverse


def test_maps_weight_uncorrelated_axes_by_what_the_neighbors_under_the_other_axes_predict():
    rng = np.random.default_rng(0)
    clusters = 3 * rng.normal(size=(4, 9))[rng.integers(0, 4, N)]
    x = _standardize(clusters + rng.normal(size=(N, 9)) * np.linspace(0.5, 9, 9)).astype(np.float64)
    x -= x.mean(axis=0)
    views = {"a": x[:, :5], "b": x[:, 5:]}
    y = {m: values / values.std(axis=0) for m, values in views.items()}
    weights = {m: values.std(axis=0) for m, values in views.items()}
    for _ in range(2):
        predicted = {m: np.zeros_like(values) for m, values in y.items()}
        for f in range(5):
            folds = {m: np.arange(len(w)) % 5 == f for m, w in weights.items()}
            seen = np.hstack([y[m][:, ~folds[m]] * weights[m][~folds[m]] for m in y])
            for m in y:
                if folds[m].any():
                    predicted[m][:, folds[m]] = _slow_prediction(seen, y[m][:, folds[m]])
        part = {m: np.maximum((y[m] * predicted[m]).mean(axis=0), 1e-9) for m in y}
        weights = {m: np.sqrt(p * np.maximum(0, 1 - np.square(2 / np.sqrt(10 * N) / p))) for m, p in part.items()}
    expected = {
        m: _slow_map(y[m], predicted[m]) / np.outer(x_m.std(axis=0), x_m.std(axis=0)) for m, x_m in views.items()
    }
    variance = sum(np.trace(expected[m] @ (values.T @ values)) for m, values in views.items())
    factor = sum(np.square(values).sum() for values in views.values()) / variance
    found, fitted = _fit({m: values.astype(np.float32) for m, values in views.items()})
    assert fitted.share == pytest.approx(N / (N + 10))
    for m in views:
        before = (1 - fitted.share) * fit_axis_weights(
            {k: v.astype(np.float32) for k, v in views.items()}, dict.fromkeys(views, np.arange(N)), np.zeros(N, int), 0
        )[m]
        alone = (found[m] - np.diag(before)) / fitted.share
        np.testing.assert_allclose(alone @ alone.T, factor * expected[m], rtol=5e-3, atol=5e-3 * expected[m].max())


def test_structure_counts_whether_or_not_the_other_modality_has_it_and_noise_does_not():
    rng = np.random.default_rng(0)
    kind, own = rng.integers(0, 3, N), rng.integers(0, 3, N)
    corners = 4 * np.eye(3)
    a = np.hstack([corners[kind], corners[own], np.zeros((N, 6))]) + rng.normal(size=(N, 12))
    b = np.hstack([corners[kind], np.zeros((N, 6))]) + rng.normal(size=(N, 9))
    views = {"a": _standardize(a), "b": _standardize(b)}
    maps, fitted = _fit(views)
    mapped = {m: views[m] @ matrix for m, matrix in maps.items()}
    assert mapped["a"].std(axis=0)[:6].min() > 3 * mapped["a"].std(axis=0)[6:].max()
    assert mapped["b"].std(axis=0)[:3].min() > 3 * mapped["b"].std(axis=0)[3:].max()
    assert fitted.dimensions[0] > 1.5 * fitted.dimensions[1]
    assert sum(np.square(z).sum(axis=1).mean() for z in mapped.values()) == pytest.approx(2, abs=0.1)


def test_a_small_axis_with_structure_counts_as_much_as_a_large_one():
    rng = np.random.default_rng(0)
    kind, own = rng.integers(0, 2, N), rng.integers(0, 2, N)
    a = np.c_[20 * kind, 2 * own] + rng.normal(size=(N, 2)) * [5, 0.5]
    b = np.c_[4 * kind, 4 * own] + rng.normal(size=(N, 2))
    views = {"a": _standardize(a), "b": _standardize(b)}
    spread = (views["a"] @ _fit(views)[0]["a"]).std(axis=0)
    assert spread[1] == pytest.approx(spread[0], rel=0.1)


@pytest.mark.parametrize("n_batches", [1, 40])
def test_noise_has_no_structure_however_many_axes_it_has(n_batches):
    rng = np.random.default_rng(0)
    views = {m: _standardize(rng.normal(size=(1000, 30 + i))) for i, m in enumerate("ab")}
    assert _fit(views, batch=np.arange(1000) % n_batches)[1].dimensions.max() < 0.3


def test_a_modality_of_noise_has_a_small_part_of_the_distances():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, N)
    views = {
        "a": _standardize(4 * np.eye(4)[kind] + rng.normal(size=(N, 4))),
        "b": _standardize(rng.normal(size=(N, 30))),
    }
    maps = _fit(views)[0]
    parts = [np.square(views[m] @ maps[m]).sum() for m in "ab"]
    assert parts[1] < 0.06 * parts[0]


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
        change.append(np.abs(fitted.maps["a"] - np.eye(7)).max())
    assert change == sorted(change, reverse=True)
    assert change[0] > 10 * change[3] > 0
    assert change[-1] == 0


def test_maps_can_be_inverted_with_constant_modalities_and_single_coordinates():
    rng = np.random.default_rng(0)
    maps, fitted = _fit({"a": np.zeros((N, 3), np.float32), "b": _standardize(rng.normal(size=(N, 1)))})
    for matrix in maps.values():
        assert np.isfinite(np.linalg.inv(matrix.astype(np.float64))).all()
    assert np.isfinite(fitted.dimensions).all()


def test_the_order_of_the_cells_and_modalities_does_not_matter():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, N)
    views = {m: _standardize(4 * np.eye(3)[kind] + rng.normal(size=(N, 3))) for m in "ab"}
    order = rng.permutation(N)
    again = _fit({m: views[m][order] for m in "ba"})
    expected = _fit(views)
    for m, matrix in expected[0].items():
        np.testing.assert_allclose(again[0][m], matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again[1].dimensions[::-1], expected[1].dimensions, rtol=1e-5)
