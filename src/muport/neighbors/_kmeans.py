"""Weighted k-means of one set of points by faiss.

For one large set; `batched_kmeans` clusters many small sets, which faiss could only do one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_integers, check_seed
from muport.neighbors._knn import knn
from muport.neighbors._points import as_points, check_digits, faiss_threads, range_exponent

if TYPE_CHECKING:
    from muport.neighbors._points import Points

__all__ = ["KMeansResult", "kmeans"]

_PLUS_PLUS_UP_TO = 128  # largest number of centers that start from k-means++
_CANDIDATES = 20  # points per center among which k-means++ chooses


@dataclass(frozen=True)
class KMeansResult:
    """Centers and the nearest center of every point.

    Attributes
    ----------
    centers
        (k, d) float32; fewer rows if there are fewer distinct points. Every center has points.
    labels
        (n,) int64 rows of ``centers``.
    """

    centers: np.ndarray
    labels: np.ndarray


def kmeans(
    x: Points,
    k: int,
    *,
    weights: Any | None = None,
    n_iter: int = 25,
    random_state: int = 0,
    n_threads: int | None = None,
    max_points_per_center: int | None = None,
) -> KMeansResult:
    """Cluster points around k centers by Lloyd's algorithm; the result does not depend on the number of threads.

    Parameters
    ----------
    x
        (n, d) points.
    k
        Number of centers; with k >= n every distinct point is a center.
    weights
        (n,) weights >= 0 of the points, not all zero.
    n_iter
        Most iterations.
    random_state
        Seed of the first centers and of the subsample.
    n_threads
        Threads; all by default.
    max_points_per_center
        Fit on at most this many random points per center; on all by default. Every point gets a label.

    Returns
    -------
    KMeansResult
        Centers (k, d) and labels (n,).

    Raises
    ------
    ValueError
        For NaN or infinite entries, weights that do not fit, or ``k`` or ``n_iter`` below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.neighbors import kmeans
    >>> sorted(kmeans(np.array([[0.0], [1.0], [5.0], [6.0]]), k=2).centers.ravel().tolist())
    [0.5, 5.5]
    """
    points = as_points(x, "x")
    check_digits(x, points, "x")
    if exponent := range_exponent(points):
        points = np.ldexp(points, -exponent)
    mass = _check_weights(weights, len(points))
    check_integers(k=k, n_iter=n_iter)
    check_seed(random_state)
    used = np.flatnonzero(mass > 0)
    if len(used) <= k:
        centers = np.unique(points[used], axis=0)
    else:
        rng = np.random.default_rng(random_state)
        if max_points_per_center is not None and len(used) > k * max_points_per_center:
            used = np.sort(rng.choice(used, k * max_points_per_center, replace=False))
        centers = _lloyd(points[used], mass[used], k, n_iter, rng, n_threads)
    labels = _nearest(points, centers, n_threads)
    # Centers without points are dropped, so that callers never divide by the size of an empty cluster.
    used_centers, labels = np.unique(labels, return_inverse=True)
    return KMeansResult(np.ascontiguousarray(np.ldexp(centers[used_centers], exponent)), labels.astype(np.int64))


def _check_weights(weights: Any | None, n: int) -> np.ndarray:
    if weights is None:
        return np.ones(n, np.float32)
    mass = as_points(np.reshape(weights, (-1, 1)), "weights")[:, 0]
    if len(mass) != n:
        raise ValueError(f"weights has {len(mass)} entries, but x has {n} points.")
    if (mass < 0).any() or not (mass > 0).any():
        raise ValueError("weights must be >= 0, and at least one of them positive.")
    scaled: np.ndarray = mass / mass.max()
    return scaled


def _lloyd(
    points: np.ndarray, mass: np.ndarray, k: int, n_iter: int, rng: np.random.Generator, n_threads: int | None
) -> np.ndarray:
    """Centers (k, d) of Lloyd's iterations in faiss, from a start that does not depend on the version of faiss.

    The points are centered in place.
    """
    import faiss

    center = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    points -= center
    first_centers = points[_start(points, mass, k, rng)]
    model = faiss.Kmeans(
        points.shape[1], k, niter=n_iter, seed=int(rng.integers(2**31)), min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )  # fmt: skip
    with faiss_threads(n_threads):
        model.train(points, weights=mass, init_centroids=first_centers)
    centers: np.ndarray = np.asarray(model.centroids) + center
    return centers


def _start(points: np.ndarray, mass: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the first centers: by greedy k-means++ for few centers, in proportion to the weights for many."""
    probability = mass / mass.sum(dtype=np.float64)
    if k > _PLUS_PLUS_UP_TO:
        return rng.choice(len(points), k, replace=False, p=probability)
    candidates = rng.choice(
        len(points), min(int(np.count_nonzero(probability)), _CANDIDATES * k), replace=False, p=probability
    )
    rows: np.ndarray = candidates[_greedy_plus_plus(points[candidates], k, rng)]
    return rows


def _greedy_plus_plus(points: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Greedy k-means++: each new row is the best of a few drawn by the squared distance to the rows before."""
    n_trials = 2 + int(np.log(k))
    norms = np.einsum("ij,ij->i", points, points)
    rows = [0]
    nearest = ((points - points[0]) ** 2).sum(axis=1, dtype=np.float64)
    for _ in range(k - 1):
        total = np.cumsum(nearest)
        # With fewer distinct points than centers a row is repeated; the second center gets no point and is dropped.
        drawn = np.searchsorted(total, rng.random(n_trials) * total[-1]).clip(max=len(points) - 1)
        to_drawn = np.maximum(norms[drawn, None] + norms[None] - 2 * points[drawn] @ points.T, 0)
        remaining = np.minimum(to_drawn, nearest[None])
        best = int(remaining.sum(axis=1).argmin())
        rows.append(int(drawn[best]))
        nearest = remaining[best]
    return rows


def _nearest(points: np.ndarray, centers: np.ndarray, n_threads: int | None) -> np.ndarray:
    labels: np.ndarray = knn(centers, 1, query=points, method="exact", n_threads=n_threads).indices[:, 0]
    return labels
