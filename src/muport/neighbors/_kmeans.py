"""Weighted k-means by faiss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_integers
from muport.neighbors._knn import knn
from muport.neighbors._points import as_points, faiss_threads

if TYPE_CHECKING:
    from muport.neighbors._points import Points

__all__ = ["KMeansResult", "kmeans"]

_FEW_CENTERS = 128  # up to here the start is k-means++
_POOL = 20  # candidates of the start, per centre


@dataclass(frozen=True)
class KMeansResult:
    """Centres and the nearest centre of every point.

    Attributes
    ----------
    centers
        (k, d) float32; fewer rows than asked where there are fewer distinct points. No centre is without points.
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
    """Cluster points around k centres (Lloyd's algorithm), the same for a given seed whatever the number of threads.

    Parameters
    ----------
    x
        (n, d) points.
    k
        Number of centres; with k >= n every distinct point is a centre.
    weights
        (n,) weights >= 0 of the points, not all zero.
    n_iter
        Most iterations.
    random_state
        Seed of the starting centres and of the subsample.
    n_threads
        Threads; all by default.
    max_points_per_center
        Fit on at most this many points a centre, drawn at random; all by default. Every point is labelled.

    Returns
    -------
    KMeansResult
        Centres (k, d) and labels (n,).

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
    mass = _check_weights(weights, len(points))
    check_integers(k=k, n_iter=n_iter)
    used = np.flatnonzero(mass > 0)
    if len(used) <= k:
        centers = np.unique(points[used], axis=0)
    else:
        rng = np.random.default_rng(random_state)
        if max_points_per_center is not None and len(used) > k * max_points_per_center:
            used = np.sort(rng.choice(used, k * max_points_per_center, replace=False))
        centers = _lloyd(points[used], mass[used], k, n_iter, rng, n_threads)
    labels = _nearest(points, centers, n_threads)
    # Only centres that hold a point stay, so that a caller never divides by an empty cluster.
    held, labels = np.unique(labels, return_inverse=True)
    return KMeansResult(np.ascontiguousarray(centers[held]), labels.astype(np.int64))


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
    """Centres (k, d) of faiss' Lloyd iterations from our own start, which does not depend on the version of faiss."""
    import faiss

    centre = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    points = points - centre
    start = points[_start(points, mass, k, rng)]
    model = faiss.Kmeans(
        points.shape[1], k, niter=n_iter, seed=int(rng.integers(2**31)), min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )  # fmt: skip
    with faiss_threads(n_threads):
        model.train(points, weights=mass, init_centroids=start)
    centers: np.ndarray = np.asarray(model.centroids) + centre
    return centers


def _start(points: np.ndarray, mass: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Rows to start from: far apart (k-means++) for few centres, by weight alone for many, where it matters little."""
    draw = mass / mass.sum(dtype=np.float64)
    if k > _FEW_CENTERS:
        return rng.choice(len(points), k, replace=False, p=draw)
    pool = rng.choice(len(points), min(int(np.count_nonzero(draw)), _POOL * k), replace=False, p=draw)
    rows: np.ndarray = pool[_spread(points[pool], k, rng)]
    return rows


def _spread(points: np.ndarray, k: int, rng: np.random.Generator) -> list[int]:
    """Greedy k-means++: each new row is the best of a few drawn by their squared distance to the chosen."""
    trials = 2 + int(np.log(k))
    norms = np.einsum("ij,ij->i", points, points)
    chosen = [0]
    nearest = ((points - points[0]) ** 2).sum(axis=1, dtype=np.float64)
    for _ in range(k - 1):
        total = np.cumsum(nearest)
        # Fewer distinct points than centres: repeat one; the double will hold no point and be dropped.
        drawn = np.searchsorted(total, rng.random(trials) * total[-1]).clip(max=len(points) - 1)
        to_drawn = np.maximum(norms[drawn, None] + norms[None] - 2 * points[drawn] @ points.T, 0)
        left = np.minimum(to_drawn, nearest[None])
        best = int(left.sum(axis=1).argmin())
        chosen.append(int(drawn[best]))
        nearest = left[best]
    return chosen


def _nearest(points: np.ndarray, centers: np.ndarray, n_threads: int | None) -> np.ndarray:
    labels: np.ndarray = knn(centers, 1, query=points, method="exact", n_threads=n_threads).indices[:, 0]
    return labels
