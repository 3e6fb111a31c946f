"""What a modality knows about itself alone: distances between its cells, by several graphs and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from muport.neighbors import as_points, kmeans, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AMBIENT", "GRAPHS", "Frame", "Geometry", "frame", "geometry", "place"]

GRAPHS = (0.03, 0.1)  # neighbours in a graph, as a share of the points
AMBIENT = 1.0  # stands for straight distances, the graph in which all are neighbours
METRICS = ("euclidean", "cosine")
_POINTS = 1_200  # points of a modality at cell level
_PROTOTYPES = 64
_PER_PROTOTYPE = 4  # points a prototype should have
_FEWEST_NEIGHBORS = 5
_APART = 1.2  # distance between components, over the largest within


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates of one modality in one metric: rows made unit vectors ("cosine") or not, centred and scaled.

    Attributes
    ----------
    metric
        "euclidean" or "cosine".
    center
        (d,) mean.
    scale
        Root mean square distance from it.
    """

    metric: str
    center: NDArray[np.float32]
    scale: float


@dataclass(frozen=True, eq=False)
class Geometry:
    """Points and prototypes of one modality, and their distances.

    Attributes
    ----------
    frames
        Metric -> frame.
    points
        Metric -> (n, d) points in it.
    mass
        (n,) masses of the points, of sum 1.
    label
        (n,) prototype of each point.
    share
        (m,) masses of the prototypes.
    fine
        (metric, graph) -> (n, n) distances between points, of root mean square 1.
    coarse
        (metric, graph) -> (m, m) the same between prototypes; also for the straight distances.
    """

    frames: dict[str, Frame]
    points: dict[str, NDArray[np.float32]]
    mass: NDArray[np.float64]
    label: NDArray[np.int64]
    share: NDArray[np.float64]
    fine: dict[tuple[str, float], NDArray[np.float32]]
    coarse: dict[tuple[str, float], NDArray[np.float64]]


def frame(x: NDArray[np.float32], metric: str) -> Frame:
    """Centre and scale of cells in a metric."""
    moved = _unit(x) if metric == "cosine" else x
    center = moved.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.square(moved - center).sum(axis=1).mean()))
    return Frame(metric, center.astype(np.float32), scale)


def place(x: NDArray[np.float32], to: Frame) -> NDArray[np.float32]:
    """(n, d) cells in a frame."""
    moved = _unit(x) if to.metric == "cosine" else x
    return np.ascontiguousarray((moved - to.center) / np.float32(to.scale), dtype=np.float32)


def geometry(name: str, x: NDArray[np.float32], seed: int) -> Geometry:
    """Describe a modality; the order of its cells does not matter.

    Raises
    ------
    ValueError
        If it has too few cells, no spread, or an entry that is not finite.
    """
    cells = as_points(x, name)
    fewest = _PER_PROTOTYPE + _FEWEST_NEIGHBORS
    if len(cells) < fewest:
        raise ValueError(
            f"{name} has {len(cells)} cells: aligning it by its own geometry takes {fewest} or more; give a "
            "representation that the modalities share (shared_rep), or 30 cells measured in both."
        )
    cells = cells[np.lexsort(cells.T)]
    # directions of one coordinate are signs, and carry no geometry
    metrics = METRICS if cells.shape[1] > 1 else METRICS[:1]
    frames = {metric: frame(cells, metric) for metric in metrics}
    frames = {metric: one for metric, one in frames.items() if one.scale > 1e-6 * (1 + np.abs(one.center).max())}
    if "euclidean" not in frames:
        raise ValueError(f"{name} is constant: there is no geometry to align. Drop it, or use another representation.")
    wide = np.concatenate([place(cells, one) for one in frames.values()], axis=1)
    points, mass = _points(cells, wide, seed)
    seen = {metric: place(points, one) for metric, one in frames.items()}
    found = kmeans(
        np.concatenate(list(seen.values()), axis=1), min(_PROTOTYPES, max(2, len(points) // _PER_PROTOTYPE)),
        weights=mass, random_state=seed,
    )  # fmt: skip
    member = csr_array((mass, (found.labels, np.arange(len(points)))))
    share = np.asarray(member.sum(axis=1)).ravel()
    fine, coarse = {}, {}
    for metric, one in seen.items():
        for graph in (*GRAPHS, AMBIENT):
            distance = _straight(one) if graph == AMBIENT else _hops(one, graph)
            within = member @ (member @ distance).T / np.outer(share, share)
            coarse[metric, graph] = _unit_spread((within + within.T) / 2, share)
            if graph != AMBIENT:
                fine[metric, graph] = _unit_spread(distance, mass).astype(np.float32)
    return Geometry(frames, seen, mass, found.labels, share, fine, coarse)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return unit


def _points(
    cells: NDArray[np.float32], wide: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The cells themselves, or means of many small clusters of them; and their masses."""
    if len(cells) <= _POINTS:
        return cells, np.full(len(cells), 1 / len(cells))
    label = kmeans(wide, _POINTS, n_iter=5, random_state=seed, max_points_per_center=64).labels
    count = np.bincount(label)
    mean = csr_array((1 / count[label], (label, np.arange(len(cells))))) @ cells
    return np.ascontiguousarray(mean, dtype=np.float32), count / len(cells)


def _straight(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    square = np.square(wide).sum(axis=1)
    distance: NDArray[np.float64] = np.sqrt(np.maximum(square[:, None] + square - 2 * wide @ wide.T, 0))
    np.fill_diagonal(distance, 0)
    return distance


def _hops(x: NDArray[np.float32], graph: float) -> NDArray[np.float64]:
    """Steps between points in their k-nearest-neighbour graph; components lie a little further than any two within."""
    n = len(x)
    k = min(max(_FEWEST_NEIGHBORS, int(graph * n)), n - 1)
    near = knn(x, k, method="exact").indices
    edges = csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), near.ravel())), shape=(n, n))
    steps: NDArray[np.float64] = dijkstra(edges, directed=False, unweighted=True)
    joined = np.isfinite(steps)
    steps[~joined] = _APART * steps[joined].max()
    return steps


def _unit_spread(distance: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    return distance / max(float(np.sqrt(mass @ np.square(distance) @ mass)), 1e-12)
