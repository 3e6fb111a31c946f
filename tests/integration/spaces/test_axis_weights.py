"""Weights of the axes of each modality."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.spaces._axis_weights import fit_axis_weights
from muport.neighbors import knn

N = 800


def _standardize(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return (x / np.sqrt(np.square(x).sum(axis=1).mean())).astype(np.float32)


def _views(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Two modalities with two shared axes, and two of noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(N, 2))
    views = {m: _standardize(np.hstack([shared, rng.normal(size=(N, 2))])) for m in "ab"}
    cells = np.arange(N)
    return views, {"a": cells, "b": cells}, np.zeros(N, np.int64)


def _slow_structure(seen: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The definition: the part of the variance of each hidden coordinate that the neighbors predict."""
    near = knn(seen.astype(np.float32), 15, method="exact").indices
    return (hidden * hidden[near].mean(axis=1)).mean(axis=0) / np.square(hidden).mean(axis=0)


def test_structure_is_what_the_neighbors_under_the_other_axes_predict():
    rng = np.random.default_rng(0)
    clusters = 3 * rng.normal(size=(4, 9))[rng.integers(0, 4, N)]
    x = _standardize(clusters + rng.normal(size=(N, 9)) * np.linspace(0.5, 9, 9))
    a, b = x[:, :5], x[:, 5:]
    weights = {"a": np.ones(5), "b": np.ones(4)}
    for _ in range(2):
        views = {"a": a * weights["a"], "b": b * weights["b"]}
        found = {m: np.zeros(len(w)) for m, w in weights.items()}
        for f in range(5):
            folds = {m: np.arange(v.shape[1]) % 5 == f for m, v in views.items()}
            seen = np.hstack([v[:, ~folds[m]] for m, v in views.items()])
            for m, raw in (("a", a), ("b", b)):
                if folds[m].any():
                    found[m][folds[m]] = _slow_structure(seen, raw[:, folds[m]] - raw[:, folds[m]].mean(axis=0))
        chance = 2 / np.sqrt(15 * N)
        found = {m: s * np.maximum(0, 1 - np.square(chance / np.maximum(s, 1e-9))) * (s > 0) for m, s in found.items()}
        found = {m: (N * s + 10) / (N + 10) for m, s in found.items()}
        for m, raw in (("a", a), ("b", b)):
            weights[m] = np.sqrt(found[m] / raw.var(axis=0))
            weights[m] *= np.sqrt(raw.var(axis=0).sum() / (np.square(weights[m]) @ raw.var(axis=0)))
    fitted = fit_axis_weights({"a": a, "b": b}, dict.fromkeys("ab", np.arange(N)), np.zeros(N, np.int64), 0)[0]
    for m, expected in weights.items():
        np.testing.assert_allclose(fitted[m], expected, rtol=1e-3)


def test_axes_with_structure_count_more_whether_or_not_the_other_modality_has_it():
    rng = np.random.default_rng(0)
    kind, own = rng.integers(0, 3, N), rng.integers(0, 3, N)
    corners = 4 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    shared = corners[kind]
    a = np.hstack([shared, corners[own], np.zeros((N, 6))]) + rng.normal(size=(N, 12))
    b = np.hstack([shared, np.zeros((N, 6))]) + rng.normal(size=(N, 9))
    views = {"a": _standardize(a), "b": _standardize(b)}
    weights, structure = fit_axis_weights(views, dict.fromkeys("ab", np.arange(N)), np.zeros(N, np.int64), 0)
    weighted = {m: views[m].std(axis=0) * w for m, w in weights.items()}
    assert weighted["a"][:6].min() > 3 * weighted["a"][6:].max()
    assert weighted["b"][:3].min() > 3 * weighted["b"][3:].max()
    assert structure["a"] > 1.3 * structure["b"] > 1.3
    for m, w in weights.items():  # the total variance stays
        assert np.square(views[m] * w).sum(axis=1).mean() == pytest.approx(1, abs=0.05)


def test_noise_has_no_structure_however_many_axes_it_has():
    views = {m: _standardize(np.random.default_rng(i).normal(size=(2000, 30 + i))) for i, m in enumerate("ab")}
    structure = fit_axis_weights(views, dict.fromkeys("ab", np.arange(2000)), np.zeros(2000, np.int64), 0)[1]
    for m, total in structure.items():
        assert 0 <= total < 0.1 < views[m].shape[1]


def test_correlated_axes_do_not_count_twice():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, N)
    x = 4 * rng.normal(size=(4, 6))[kind] + rng.normal(size=(N, 6))
    y = rng.normal(size=(4, 5))[kind] + rng.normal(size=(N, 5))
    cells, batch = dict.fromkeys("ab", np.arange(N)), np.zeros(N, np.int64)
    once = fit_axis_weights({"a": _standardize(x), "b": _standardize(y)}, cells, batch, 0)[1]
    copies = np.repeat(x, 3, axis=1)[:, np.r_[0:18:3, 1:18:3, 2:18:3]]
    thrice = fit_axis_weights({"a": _standardize(copies), "b": _standardize(y)}, cells, batch, 0)[1]
    assert 2 < once["a"] < 4
    assert once["a"] < thrice["a"] < 6.1  # copies in other folds predict the noise too, but six axes are six at most
    assert thrice["b"] == pytest.approx(once["b"], rel=0.1)


def test_an_agreement_that_comes_from_batches_does_not_count():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, N)
    shift = 5 * batch[:, None]
    views = {m: _standardize(np.hstack([rng.normal(size=(N, 1)) + shift, rng.normal(size=(N, 1))])) for m in "ab"}
    for weights in fit_axis_weights(views, dict.fromkeys("ab", np.arange(N)), batch, 0)[0].values():
        np.testing.assert_allclose(weights, 1, atol=0.2)


@pytest.mark.parametrize("n_pairs", [0, 3])
def test_few_pairs_leave_the_axes_nearly_equal(n_pairs):
    rng = np.random.default_rng(0)
    views = {m: _standardize(rng.normal(size=(50, 4))) for m in "ab"}
    cells = {"a": np.arange(50), "b": np.arange(50 - n_pairs, 100 - n_pairs)}
    for weights in fit_axis_weights(views, cells, np.zeros(100, np.int64), 0)[0].values():
        assert np.isfinite(weights).all()
        assert weights.max() < 2 * weights.min()


def test_constant_modalities_and_single_coordinates_have_finite_weights():
    views = {"a": np.zeros((N, 3), np.float32), "b": _standardize(np.random.default_rng(0).normal(size=(N, 1)))}
    weights = fit_axis_weights(views, dict.fromkeys("ab", np.arange(N)), np.zeros(N, np.int64), 0)[0]
    np.testing.assert_array_equal(weights["a"], 1)
    np.testing.assert_allclose(weights["b"], 1, rtol=1e-5)


def test_the_order_of_the_cells_does_not_matter():
    views, cells, batch = _views()
    order = np.random.default_rng(1).permutation(N)
    again = fit_axis_weights({m: x[order] for m, x in views.items()}, cells, batch, 0)[0]
    for m, weights in fit_axis_weights(views, cells, batch, 0)[0].items():
        np.testing.assert_allclose(again[m], weights, rtol=1e-5)
