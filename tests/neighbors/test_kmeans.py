"""k-means against scikit-learn's, its weights, seeds and degenerate data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from muport.neighbors import KMeansResult, kmeans

X, TRUTH = make_blobs(900, n_features=5, centers=6, random_state=3)


def inertia(x: np.ndarray, result: KMeansResult) -> float:
    return float(((x - result.centers[result.labels]) ** 2).sum())


def test_finds_blobs_and_matches_scikit_learn() -> None:
    result = kmeans(X, 6)
    assert adjusted_rand_score(TRUTH, result.labels) == 1
    assert inertia(X, result) == pytest.approx(KMeans(6, n_init=10, random_state=0).fit(X).inertia_, rel=1e-4)
    noise = np.random.default_rng(0).normal(size=(2000, 10))
    best = KMeans(20, n_init=1, random_state=0, max_iter=25).fit(noise).inertia_
    assert inertia(noise, kmeans(noise, 20)) <= 1.02 * best


def test_labels_are_the_nearest_centers() -> None:
    result = kmeans(X, 50)
    distances = ((X[:, None] - result.centers[None]) ** 2).sum(2)
    assert (distances[np.arange(900), result.labels] <= distances.min(1) + 1e-3).all()


def test_weights_act_as_repeats() -> None:
    """A point of weight 3 pulls its center as three points do."""
    x = np.array([[0.0], [1.0], [10.0], [14.0]])
    result = kmeans(x, 2, weights=[1, 3, 1, 1])
    assert sorted(result.centers.ravel().tolist()) == pytest.approx([0.75, 12.0])


def test_points_of_zero_weight_are_labeled_but_do_not_pull() -> None:
    x = np.array([[0.0], [1.0], [10.0], [12.0], [11.5], [1000.0]])
    result = kmeans(x, 2, weights=[1, 1, 1, 1, 0, 0])
    assert sorted(result.centers.ravel().tolist()) == pytest.approx([0.5, 11.0])
    assert result.labels[4] == result.labels[5] == result.labels[3]


def test_same_seed_same_result_whatever_the_threads() -> None:
    x = np.random.default_rng(1).normal(size=(5000, 30)).astype(np.float32)
    for k in (20, 200):
        first, again, two = (kmeans(x, k, random_state=4, n_threads=n) for n in (1, 1, 2))
        assert np.array_equal(first.centers, again.centers)
        assert np.array_equal(first.labels, again.labels)
        assert np.allclose(first.centers, two.centers, rtol=1e-5, atol=1e-5)
        assert np.mean(first.labels == two.labels) > 0.999
    assert not np.array_equal(first.centers, kmeans(x, 200, random_state=5).centers)


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    kmeans(X, 10)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_silent_with_few_points(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    result = kmeans(X[:30], 20)
    assert capfd.readouterr().err == ""
    assert not recwarn.list
    assert len(np.unique(result.labels)) == len(result.centers)


@pytest.mark.parametrize("k", [3, 5, 50])
def test_as_many_centers_as_points_or_more(k: int) -> None:
    x = np.array([[0.0], [1.0], [5.0]])
    result = kmeans(x, k)
    assert np.array_equal(result.centers[result.labels], x)


def test_duplicates_leave_no_empty_cluster() -> None:
    x = np.repeat([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]], 40, axis=0)
    for k in (3, 10, 119):
        result = kmeans(x, k)
        assert np.bincount(result.labels, minlength=len(result.centers)).min() > 0
        assert np.allclose(result.centers[result.labels], x, atol=1e-3)
    constant = kmeans(np.ones((50, 2)), 7)
    assert constant.centers.shape[0] >= 1
    assert np.allclose(constant.centers, 1, atol=1e-3)


def test_subsample_labels_every_point() -> None:
    result = kmeans(X, 6, max_points_per_center=40)
    assert result.labels.shape == (900,)
    assert adjusted_rand_score(TRUTH, result.labels) > 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 80), st.integers(1, 6), st.integers(1, 30))
def test_centers_are_held_and_inside_the_data(seed: int, n: int, d: int, k: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n, d))
    result = kmeans(x, k, random_state=seed)
    assert len(result.centers) <= min(n, k)
    assert np.array_equal(np.unique(result.labels), np.arange(len(result.centers)))
    assert (result.centers >= x.min(0) - 1e-3).all()
    assert (result.centers <= x.max(0) + 1e-3).all()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"k": 0}, "k=0 must be an integer of at least 1"),
    ({"k": 2, "n_iter": 0}, "n_iter=0 must be an integer of at least 1"),
    ({"k": 2, "weights": np.ones(3)}, "weights has 3 entries, but x has 900"),
    ({"k": 2, "weights": -np.ones(900)}, "weights must be >= 0"),
    ({"k": 2, "weights": np.zeros(900)}, "at least one of them positive"),
    ({"k": 2, "weights": np.full(900, np.nan)}, "weights has a NaN"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kmeans(X, **arguments)
