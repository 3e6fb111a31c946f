"""Paths in a representation, drawn in an embedding along the cells near them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._arrays import normalize_rows
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["embed_paths"]

_N_NEIGHBORS = 15  # cells near a point of a path, in the representation


def embed_paths(
    x: NDArray[Any], xy: NDArray[np.float64], points: NDArray[Any], length: NDArray[np.int64], unit: float
) -> NDArray[np.float64]:
    """Return the positions (p, t, 2) in the embedding of the points (p, t, d) of paths.

    The cells near a point of the representation can lie on several islands of a UMAP; their mean would lie between the
    islands. One cell is chosen for each point, such that the cells are near in the representation, and consecutive ones
    are near in the embedding. The point is drawn at the mean position of its cells on the island of that one.

    - `x`: (n, d) representation of the cells.
    - `xy`: (n, 2) embedding of the cells.
    - `length`: (p,) number of points of each path; later ones are not drawn.
    - `unit`: Distance in the embedding below which cells are neighbors.
    """
    shape = points.shape[:2]
    neighbors = knn(x, min(_N_NEIGHBORS, len(x)), query=points.reshape(-1, points.shape[2]))
    width = np.maximum(neighbors.distances.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    cost = 0.5 * np.square(neighbors.distances / width)
    positions = xy[neighbors.indices]
    chosen = _shortest(cost.reshape(*shape, -1), positions.reshape(*shape, -1, 2) / unit, length).ravel()
    between = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=3)
    on_island = _connected(between <= unit)[np.arange(len(chosen)), chosen]
    weight = normalize_rows(np.where(on_island, np.exp(-cost), 0))
    return _mean_near_medoid(positions, between, weight).reshape(*shape, 2)


def _connected(near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of k points are connected by steps between near ones: (n, k, k)."""
    reached = near
    for _ in range(int(np.ceil(np.log2(max(near.shape[1], 2))))):
        reached = np.matmul(reached, reached)
    return reached


def _mean_near_medoid(
    positions: NDArray[np.float64], between: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted mean of the positions (n, k, 2) that are close to their weighted medoid: (n, 2)."""
    spread = (between * weight[:, None]).sum(axis=2)
    medoid = np.where(weight > 0, spread, np.inf).argmin(axis=1)
    distance = np.take_along_axis(between, medoid[:, None, None], axis=1)[:, 0]
    width = np.maximum(np.quantile(distance, 0.25, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    near = normalize_rows(weight * np.exp(-0.5 * np.square(distance / width)))
    mean: NDArray[np.float64] = np.einsum("nk,nkc->nc", near, positions)
    return mean


def _shortest(
    cost: NDArray[np.float64], positions: NDArray[np.float64], length: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return which candidate of each point minimizes the sum of costs and half squared steps (Viterbi): (p, t).

    - `cost`: (p, t, k) of each candidate.
    - `positions`: (p, t, k, 2) of each candidate, between which steps are measured.
    """
    n_points = cost.shape[1]
    total, previous = np.array(cost), np.zeros(cost.shape, dtype=np.int64)
    for t in range(1, n_points):
        step = np.square(positions[:, t, :, None] - positions[:, t - 1, None]).sum(axis=3)
        through = total[:, t - 1, None] + 0.5 * step
        previous[:, t] = through.argmin(axis=2)
        total[:, t] += through.min(axis=2)
    chosen = total.argmin(axis=2)
    rows = np.arange(len(cost))
    for t in range(n_points - 2, -1, -1):
        inside = t < length - 1
        chosen[inside, t] = previous[rows[inside], t + 1, chosen[inside, t + 1]]
    return chosen
