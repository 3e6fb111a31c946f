"""Paths between the cells of two days that pass through the cells in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]
    type Ints = NDArray[np.int64]

__all__ = ["bends_along_cells"]

_NEIGHBORS = 15  # of a cell in the graph
_PAIRS, _CELLS = 500, 1000  # pairs whose paths are computed, and further cells in the graph
_SMOOTHED = 30  # similar pairs over which bends are averaged; 15 to 60 are alike on simulated courses
_SHORTEST = 1e-9  # squared length of an edge, relative to the largest


def bends_along_cells(x: Floats, y: Floats, i: Ints, j: Ints, alpha: float, rng: np.random.Generator) -> Floats:
    """Displacement (p, d) of the points at the fraction alpha of the straight paths from x_i to y_j.

    Where days overlap, cells of both days lie on the way from x_i to y_j, and show whether the way is curved. The path
    of a pair minimizes the sum of squared steps from neighbor to neighbor among the cells of both days (the Fermat
    distance, Groisman et al. 2022), which prefers many short steps: it follows the cells, and is straight where there
    are none. With s the ratio of this sum to |y_j - x_i|^2, at most 1, the bend at the fraction alpha of the length of
    the path is multiplied by (1 - s)^2, which is small where noise makes all steps long, and averaged over 30 similar
    pairs. The factor was compared with none and with a threshold on 15 simulated courses: curves and forks that overlap
    or do not, dispersal, and noise in 50 dimensions.

    Paths are computed for at most 500 pairs in a graph of at most 2,000 cells, so the time does not grow with the
    cells.

    - `x`, `y`: (n, d), (m, d) cells of the two days.
    - `i`, `j`: (p,) the pairs.

    Examples
    --------
    >>> angle = np.linspace(0, np.pi, 60)
    >>> half_circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    >>> x, y, ends = half_circle[:40], half_circle[20:], np.arange(40)
    >>> bend = bends_along_cells(x, y, ends, ends, 0.5, np.random.default_rng(0))
    >>> radius = [np.linalg.norm(points, axis=1).mean().round(2) for points in ((x + y) / 2, (x + y) / 2 + bend)]
    >>> float(radius[0]), float(radius[1])
    (0.86, 0.96)
    """
    taken = rng.choice(len(i), min(len(i), _PAIRS), replace=False)
    points = np.concatenate([x, y])
    others = rng.choice(len(points), min(len(points), _CELLS), replace=False)
    nodes = np.unique(np.concatenate([i[taken], len(x) + j[taken], others]))
    start, end = np.searchsorted(nodes, i[taken]), np.searchsorted(nodes, len(x) + j[taken])
    bend = _bends_of_shortest_paths(points[nodes], start, end, alpha)
    ends = np.concatenate([x[i], y[j]], axis=1).astype(np.float32)
    similar = knn(ends[taken], min(_SMOOTHED, len(taken)), query=ends).indices
    averaged: Floats = bend[similar].mean(axis=1)
    return averaged


def _bends_of_shortest_paths(z: Floats, start: Ints, end: Ints, alpha: float) -> Floats:
    """(p, d) weighted bends of the shortest paths between pairs of cells."""
    straight = np.square(z[end] - z[start]).sum(axis=1)
    sources, row = np.unique(start, return_inverse=True)
    shortest, previous = dijkstra(_squared_steps(z), indices=sources, return_predecessors=True)
    bend = np.zeros((len(start), z.shape[1]))
    for pair in np.flatnonzero(shortest[row, end] < straight):
        path = [int(end[pair])]
        while path[-1] != start[pair]:
            path.append(int(previous[row[pair], path[-1]]))
        weight = (1 - shortest[row[pair], end[pair]] / straight[pair]) ** 2
        chord = z[start[pair]] + alpha * (z[end[pair]] - z[start[pair]])
        bend[pair] = weight * (_point_along(z[path[::-1]], alpha) - chord)
    return bend


def _squared_steps(z: Floats) -> sp.csr_array:
    """(n, n) symmetric graph of the squared distances to the nearest cells."""
    n = len(z)
    scale = float(np.abs(z - z.mean(axis=0)).max()) or 1.0
    near = knn(((z - z.mean(axis=0)) / scale).astype(np.float32), min(_NEIGHBORS, n - 1)).indices
    squared = np.square(z[near] - z[:, None]).sum(axis=2)
    # a step of length 0 would not be kept by the sparse matrix
    squared = np.maximum(squared, max(_SHORTEST * float(squared.max()), np.finfo(np.float64).tiny))
    rows = np.repeat(np.arange(n), near.shape[1])
    graph = sp.csr_array((squared.ravel(), (rows, near.ravel())), shape=(n, n))
    return sp.csr_array(graph.maximum(graph.T))


def _point_along(path: Floats, alpha: float) -> Floats:
    """The point (d,) at the fraction alpha of the length of a path (k, d)."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = alpha * length[-1]
    step = int(np.clip(np.searchsorted(length, at, side="right") - 1, 0, len(path) - 2))
    fraction = (at - length[step]) / max(length[step + 1] - length[step], np.finfo(np.float64).tiny)
    point: Floats = path[step] + fraction * (path[step + 1] - path[step])
    return point
