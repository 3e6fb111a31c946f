"""Points far from all others: beside them, float32 does not hold the distances between the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FarPoints", "find_far_points", "search_in_float64"]

_SAMPLE = 1_000  # points from which the center and the typical distance to it are estimated
# Multiples of the typical distance. Beside a query beyond the first, float32 loses digits of the distances between
# points. A point beyond the second, times the root of the number of coordinates, is farther from a query within the
# first than all points within the first are.
_FAR_QUERY, _FAR_POINT = 2.0**8, 2.0**10
_BLOCK = 2**24  # number of distances computed together


@dataclass(frozen=True)
class FarPoints:
    """Which points are far from the others.

    - `points`: (n,) whether a point is farther than any neighbor of a query that is not far.
    - `queries`: (q,) whether the distances of a query are to be computed in float64.
    """

    points: NDArray[np.bool_]
    queries: NDArray[np.bool_]


def find_far_points(points: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> FarPoints | None:
    """Find points (n, d) and queries (q, d) that are far from most points; None if there are none, as usual.

    Queries that are not far have at least `k` neighbors among the points that are not far, and none among the others.
    """
    rows = np.arange(len(points))
    if len(rows) > _SAMPLE:
        rows = np.random.default_rng(0).choice(len(points), _SAMPLE, replace=False)
    center = np.median(points[rows].astype(np.float64), axis=0).astype(np.float32)
    distance = _largest(points, center)
    positive = distance[rows][distance[rows] > 0]
    if not len(positive):
        return None
    typical = float(np.median(positive))
    of_queries = distance if queries is points else _largest(queries, center)
    far_queries = of_queries > _FAR_QUERY * typical
    far_points = distance > _FAR_POINT * np.sqrt(points.shape[1]) * typical
    if not far_queries.any() and not far_points.any():
        return None
    if int((distance <= _FAR_QUERY * typical).sum()) < k:
        far_queries[:] = True
    return FarPoints(far_points, far_queries)


def search_in_float64(
    points: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances (q, k) and indices (q, k), nearest first; |q|^2, which is the same for all points, is added last."""
    center = np.median(points, axis=0).astype(np.float64)
    x = points - center
    norms = np.einsum("ij,ij->i", x, x)
    nearest = []
    for block in np.array_split(queries, max(1, len(queries) * len(points) // _BLOCK)):
        q = block - center
        excess = norms - 2 * (q @ x.T)
        indices = np.argpartition(excess, k - 1, axis=1)[:, :k]
        of_nearest = np.take_along_axis(excess, indices, axis=1)
        order = np.lexsort((indices, of_nearest), axis=1)
        squared = np.take_along_axis(of_nearest, order, axis=1) + np.einsum("ij,ij->i", q, q)[:, None]
        nearest.append((np.sqrt(squared.clip(min=0)), np.take_along_axis(indices, order, axis=1)))
    distances, indices = (np.concatenate(part) for part in zip(*nearest, strict=True))
    return np.minimum(distances, np.finfo(np.float32).max).astype(np.float32), indices.astype(np.int64)


def _largest(points: NDArray[np.float32], center: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) largest difference to the center over the coordinates."""
    with np.errstate(over="ignore"):
        # an overflow is infinite, and so it is far
        return np.abs(points - center).max(axis=1).astype(np.float64)
