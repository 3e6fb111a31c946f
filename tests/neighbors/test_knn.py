"""Nearest neighbors against scikit-learn, and the checks of their input."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from muport.neighbors import as_points, kmeans, knn

RNG = np.random.default_rng(0)
X, Q = RNG.normal(size=(300, 8)), RNG.normal(size=(40, 8))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_exact_is_scikit_learn(metric: Any, device: str | None) -> None:
    tree = NearestNeighbors(n_neighbors=6, metric=metric, algorithm="brute").fit(X)
    for query in (None, Q):
        distances, indices = tree.kneighbors(query)
        found = knn(X, 6, query=query, metric=metric, device=device)
        assert np.array_equal(found.indices, indices)
        assert np.allclose(found.distances, distances, atol=1e-5)
        assert found.distances.dtype == np.float32
        assert found.indices.dtype == np.int64


def test_a_point_is_its_own_first_neighbor_only_on_request() -> None:
    own = knn(X, 5, include_self=True)
    assert np.array_equal(own.indices[:, 0], np.arange(300))
    assert (own.distances[:, 0] == 0).all()
    assert np.array_equal(own.indices[:, 1:], knn(X, 4).indices)


def test_duplicates_are_neighbors_and_never_oneself() -> None:
    found = knn(np.repeat(X[:5], 10, axis=0), 9)
    assert (found.indices != np.arange(50)[:, None]).all()
    assert (found.indices // 10 == np.arange(50)[:, None] // 10).all()
    assert found.distances.max() < 1e-2


def test_digits_are_kept_far_from_the_origin() -> None:
    """Whole coordinates are exact in float32 after centering: so must be the neighbors."""
    points = RNG.integers(0, 50, (3000, 64)).astype(np.float64)
    far = knn(points + 4096, 1, query=points + 4096.125)
    assert np.allclose(far.distances, 1.0, atol=1e-2)


def test_approximate_finds_most_neighbors_and_is_seeded() -> None:
    exact, first, second = knn(X, 10), knn(X, 10, method="approximate"), knn(X, 10, method="approximate")
    recall = np.mean([len(set(i) & set(j)) / 10 for i, j in zip(exact.indices, first.indices, strict=True)])
    assert recall >= 0.95
    assert np.array_equal(first.indices, second.indices)
    query = knn(X, 10, query=Q, method="approximate")
    assert query.indices.shape == (40, 10)


def test_approximate_among_many_points() -> None:
    points = RNG.normal(size=(20_000, 10)) * np.arange(1, 11) ** -0.5 + 1000
    query = points[:500]
    exact, found = (knn(points, 15, query=query, method=method) for method in ("exact", "approximate"))
    recall = np.mean([len(set(i) & set(j)) / 15 for i, j in zip(exact.indices, found.indices, strict=True)])
    assert 0.97 <= recall < 1


@pytest.mark.parametrize("n", [2, 3, 5, 300])
def test_approximate_finds_as_many_neighbors_as_are_asked_for(n: int) -> None:
    """The parts that are searched may hold fewer points."""
    points = np.vstack([X[: n - 1], X[:1] + 1000])
    exact, found = knn(points, n - 1), knn(points, n - 1, method="approximate")
    assert np.allclose(found.distances, exact.distances, atol=1e-3)
    assert (np.sort(found.indices) == np.sort(exact.indices)).all()


@pytest.mark.promise("Read-only arrays are accepted")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_approximate_neighbors_are_nearest_first_in_any_container(metric: Any, record_property: Any) -> None:
    points = RNG.normal(size=(1500, 6)).astype(np.float32)
    points[700:720] = points[3]
    query = points[:30] + np.float32(0.01)
    read_only, read_only_query = points.copy(), query.copy()
    read_only.flags.writeable = read_only_query.flags.writeable = False
    containers = [points, read_only, np.asfortranarray(points), np.repeat(points, 2, axis=0)[::2], points.astype(">f8")]
    for q in (None, query):
        exact = knn(points, 8, query=q, metric=metric)
        first = knn(points, 8, query=q, metric=metric, method="approximate")
        assert (np.diff(first.distances, axis=1) >= 0).all()
        assert (np.diff(first.distances[:, [0, -1]], axis=1) > 0).mean() > 0.9
        assert np.abs(first.distances - exact.distances).mean() < 0.02
        for x in containers:
            found = knn(x, 8, query=q, metric=metric, method="approximate")
            assert np.array_equal(found.indices, first.indices)
    assert knn(read_only, 8, query=read_only_query, method="approximate").indices.shape == (30, 8)
    record_property("tries", 2 * len(containers))


@pytest.mark.promise("Read-only arrays are accepted")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("device", [None, "cpu"])
def test_exact_neighbors_of_read_only_points(device: Any) -> None:
    read_only = X.astype(np.float32)
    read_only.flags.writeable = False
    assert np.array_equal(knn(read_only, 4, device=device).indices, knn(X, 4).indices)


def test_threads_do_not_change_the_result() -> None:
    one, two = knn(X, 7, n_threads=1), knn(X, 7, n_threads=2)
    assert np.array_equal(one.indices, two.indices)
    assert np.array_equal(one.distances, two.distances)


def test_zero_vectors_have_cosine_distance_one() -> None:
    points = np.vstack([np.zeros((1, 8)), X[:20]])
    found = knn(points, 20, metric="cosine")
    assert np.allclose(found.distances[0], 1)
    assert np.isfinite(found.distances).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(1, 12))
def test_permuted_points_have_permuted_neighbors(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    k = int(rng.integers(1, n))
    order = rng.permutation(n)
    plain, moved = knn(points, k), knn(points[order], k)
    assert np.allclose(plain.distances[order], moved.distances, atol=1e-4)
    assert (np.diff(plain.distances, axis=1) >= 0).all()


def test_points_are_converted_once() -> None:
    ready = np.ascontiguousarray(X, dtype=np.float32)
    assert as_points(ready) is ready
    for other in (np.asfortranarray(X), X.astype(np.float16), torch.as_tensor(X), (100 * X).astype(int)):
        points = as_points(other)
        assert points.dtype == np.float32
        assert points.flags.c_contiguous


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": np.where(np.arange(2400).reshape(300, 8) == 9, np.nan, X), "k": 3}, r"x has a NaN .* \(1, 1\) \(1 in all\)"),
    ({"x": X * 1e300, "k": 3}, "x has a NaN or infinite entry"),
    ({"x": X, "k": 3, "query": np.full((2, 8), np.inf)}, "query has a NaN or infinite entry"),
    ({"x": X, "k": 300}, "k must be between 1 and 299"),
    ({"x": X, "k": 0}, "k=0 is out of range"),
    ({"x": X, "k": 3, "query": Q[:, :3]}, "query has 3 coordinates"),
    ({"x": X[0], "k": 1}, "two axes"),
    ({"x": X[:0], "k": 1}, "none of them empty"),
    ({"x": X, "k": 1, "metric": "hamming"}, "metric='hamming' is unknown"),
    ({"x": X, "k": 1, "method": "fast"}, "method='fast' is unknown"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knn(**arguments)


def test_sparse_and_text_are_type_errors() -> None:
    from scipy.sparse import csr_matrix

    with pytest.raises(TypeError, match="sparse"):
        as_points(csr_matrix(X))
    with pytest.raises(TypeError, match="numeric"):
        as_points([["a", "b"]])
    with pytest.raises(TypeError, match=r"x is AnnData: pass coordinates, such as those of its obsm\['X_pca'\]"):
        as_points(anndata.AnnData(X))  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_faiss_and_torch_live_together_in_either_order(first: str) -> None:
    """Two OpenMP runtimes in one process have crashed or hung: try each import order in a process of its own."""
    code = f"""
import {first}
import faiss, torch
import numpy as np
from muport.neighbors import kmeans, knn
from muport.ot import solve
x = np.random.default_rng(0).normal(size=(2000, 20)).astype(np.float32)
knn(x, 5); kmeans(x, 10); (torch.as_tensor(x) @ torch.as_tensor(x).T).sum(); solve(x[:50], x[50:90], scale="std")
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "alive", done.stderr


def test_importing_neighbors_does_not_import_faiss_or_torch() -> None:
    code = "import sys, muport.neighbors; print(sorted({'faiss', 'torch', 'pynndescent'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", [2.0**90, 2.0**-90])
def test_numbers_whose_squares_leave_the_range_of_float32(metric, scale):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    expected, found = knn(x, 4, metric=metric), knn(x * np.float32(scale), 4, metric=metric)
    assert np.array_equal(found.indices, expected.indices)
    assert np.allclose(found.distances / (scale if metric == "euclidean" else 1), expected.distances, rtol=1e-5)
    if metric == "euclidean":
        clusters = kmeans(x, 3).centers, kmeans(x * np.float32(scale), 3).centers / np.float32(scale)
        assert np.allclose(*clusters, rtol=1e-5)


def test_differences_that_float32_loses_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 3)) + 1e9
    for search in (lambda: knn(x, 4), lambda: kmeans(x, 3)):
        with pytest.raises(ValueError, match="subtract the mean"):
            search()
    assert knn(np.full((5, 2), 1e9), 2).distances.max() == 0


@pytest.mark.parametrize("option", [{"k": True}, {"k": 2.5}, {"k": 2, "random_state": -1}, {"k": 2, "n_threads": 0}])
def test_options_that_are_no_integers_are_named(option):
    with pytest.raises(ValueError, match=list(option)[-1]):
        knn(np.eye(5), **option)
    with pytest.raises(TypeError, match="complex"):
        knn(np.eye(5) + 1j, 2)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("size", [1e6, 1e10, 1e30])
def test_far_points_and_queries_leave_the_others_exact(size: float, device: str | None) -> None:
    """Nearest are the largest q.x - |x|^2 / 2, which float64 holds; |q|^2 is the same for all points."""
    x, q = X.astype(np.float32), Q.astype(np.float32)
    x[7] = q[3] = size
    queries = q.astype(np.float64)
    score = queries @ x.T - (x.astype(np.float64) ** 2).sum(axis=1) / 2
    found = knn(x, 5, query=q, device=device)
    assert np.array_equal(found.indices, np.argsort(-score, axis=1)[:, :5])
    rest = np.delete(x, 7, axis=0)
    assert np.array_equal(
        np.delete(knn(x, 5, device=device).distances, 7, axis=0), knn(rest, 5, device=device).distances
    )
    assert knn(rest, 5, query=q[3:4]).distances == pytest.approx(np.sqrt(8) * size, rel=1e-3)
    assert np.allclose(
        knn(x, 5, query=q, metric="cosine").distances[3], knn(x, 5, query=q[3:4] / size, metric="cosine").distances
    )
