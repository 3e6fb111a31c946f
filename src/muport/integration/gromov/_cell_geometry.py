"""Geometry of one modality: distances between its cells, by several graphs and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from muport._arrays import unit_rows
from muport.neighbors import as_points, kmeans, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRAPHS", "STRAIGHT", "MetricScaling", "ModalityGeometry", "compute_geometry", "scale_cells"]

GRAPHS = (0.03, 0.1)  # neighbors in a graph, as a fraction of the points
STRAIGHT = 1.0  # stands for straight distances: the graph in which all points are neighbors
METRICS = ("euclidean", "cosine")
_MAX_POINTS = 1_200  # more cells than this are summarized by as many points
_MAX_PROTOTYPES = 64
_POINTS_PER_PROTOTYPE = 4
_MIN_NEIGHBORS = 5
_BETWEEN_COMPONENTS = 1.2  # distance between components of a graph, over the largest distance within one


@dataclass(frozen=True, eq=False)
class MetricScaling:
    """Standardization of a modality in one metric: rows scaled to norm 1 ("cosine") or not, centered, and scaled.

    - `metric`: "euclidean" or "cosine".
    - `center`: (d,) mean.
    - `scale`: Root mean square distance to it.
    """

    metric: str
    center: Annotated[NDArray[np.float32], "*"]
    scale: Annotated[float, "0.."]


@dataclass(frozen=True, eq=False)
class ModalityGeometry:
    """Points and prototypes of one modality, and distances between them.

    - `scalings`: Metric -> standardization.
    - `points`: Metric -> (n, d) standardized points.
    - `mass`: (n,) masses of the points, of sum 1.
    - `prototype`: (n,) prototype of each point.
    - `prototype_mass`: (m,) masses of the prototypes.
    - `point_distances`: (metric, graph) -> (n, n) distances between points, of root mean square 1.
    - `prototype_distances`: (metric, graph) -> (m, m) distances between prototypes, of root mean square 1; also
      straight distances.
    """

    scalings: dict[str, MetricScaling]
    points: dict[str, NDArray[np.float32]]
    mass: NDArray[np.float64]
    prototype: NDArray[np.int64]
    prototype_mass: NDArray[np.float64]
    point_distances: dict[tuple[str, float], NDArray[np.float32]]
    prototype_distances: dict[tuple[str, float], NDArray[np.float64]]


def _fit_scaling(x: NDArray[np.float32], metric: str) -> MetricScaling:
    values = unit_rows(x) if metric == "cosine" else x
    center = values.mean(axis=0, dtype=np.float64)
    scale = float(np.sqrt(np.square(values - center).sum(axis=1).mean()))
    return MetricScaling(metric, center.astype(np.float32), scale)


def scale_cells(x: NDArray[np.float32], scaling: MetricScaling) -> NDArray[np.float32]:
    """Standardize cells (n, d)."""
    values = unit_rows(x) if scaling.metric == "cosine" else x
    return np.ascontiguousarray((values - scaling.center) / np.float32(scaling.scale), dtype=np.float32)


def compute_geometry(name: str, x: NDArray[np.float32], seed: int) -> ModalityGeometry:
    """Compute the geometry of a modality; the order of its cells does not matter.

    - `x`: (n, d) cells.

    Raises ValueError if it has too few cells, no variance, or an entry that is not finite.
    """
    cells = _sort_cells(name, x)
    scalings = _fit_scalings(name, cells)
    side_by_side = np.concatenate([scale_cells(cells, scaling) for scaling in scalings.values()], axis=1)
    points, mass = _summarize_cells(cells, side_by_side, seed)
    scaled = {metric: scale_cells(points, scaling) for metric, scaling in scalings.items()}
    clusters = kmeans(
        np.concatenate(list(scaled.values()), axis=1),
        min(_MAX_PROTOTYPES, max(2, len(points) // _POINTS_PER_PROTOTYPE)),
        weights=mass,
        random_state=seed,
    )
    membership = csr_array((mass, (clusters.labels, np.arange(len(points)))))
    prototype_mass = np.asarray(membership.sum(axis=1)).ravel()
    point_distances, prototype_distances = {}, {}
    for metric, values in scaled.items():
        for graph in (*GRAPHS, STRAIGHT):
            distance = _straight_distances(values) if graph == STRAIGHT else _graph_distances(values, graph)
            mean = membership @ (membership @ distance).T / np.outer(prototype_mass, prototype_mass)
            prototype_distances[metric, graph] = _scale_distances((mean + mean.T) / 2, prototype_mass)
            if graph != STRAIGHT:
                point_distances[metric, graph] = _scale_distances(distance, mass).astype(np.float32)
    return ModalityGeometry(
        scalings, scaled, mass, clusters.labels, prototype_mass, point_distances, prototype_distances
    )


def _sort_cells(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Check the cells of a modality, and sort them by their coordinates."""
    cells = as_points(x, name)
    fewest = _POINTS_PER_PROTOTYPE + _MIN_NEIGHBORS
    if len(cells) < fewest:
        raise ValueError(
            f"{name} has {len(cells)} cells: aligning it by its own geometry takes {fewest} or more; give a "
            "representation that the modalities share (shared_rep), or 30 cells measured in both."
        )
    return cells[np.lexsort(cells.T)]


def _fit_scalings(name: str, cells: NDArray[np.float32]) -> dict[str, MetricScaling]:
    """Standardize the cells in each metric in which they vary."""
    # the directions of cells with one coordinate are signs, which have no geometry
    metrics = METRICS if cells.shape[1] > 1 else METRICS[:1]
    scalings = {metric: _fit_scaling(cells, metric) for metric in metrics}
    varying = {
        metric: scaling for metric, scaling in scalings.items() if scaling.scale > 1e-6 * np.abs(scaling.center).max()
    }
    if "euclidean" not in varying:
        raise ValueError(f"{name} is constant: there is no geometry to align. Drop it, or use another representation.")
    return varying


def _summarize_cells(
    cells: NDArray[np.float32], side_by_side: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Summarize many cells by the means of small clusters, and return these or the cells themselves, with masses."""
    if len(cells) <= _MAX_POINTS:
        return cells, np.full(len(cells), 1 / len(cells))
    cluster = kmeans(side_by_side, _MAX_POINTS, n_iter=5, random_state=seed, max_points_per_center=64).labels
    n_cells = np.bincount(cluster)
    mean = csr_array((1 / n_cells[cluster], (cluster, np.arange(len(cells))))) @ cells
    return np.ascontiguousarray(mean, dtype=np.float32), n_cells / len(cells)


def _straight_distances(x: NDArray[np.float32]) -> NDArray[np.float64]:
    points = x.astype(np.float64)
    square = np.square(points).sum(axis=1)
    distance: NDArray[np.float64] = np.sqrt(np.maximum(square[:, None] + square - 2 * points @ points.T, 0))
    np.fill_diagonal(distance, 0)
    return distance


def _graph_distances(x: NDArray[np.float32], graph: float) -> NDArray[np.float64]:
    """Count the edges between points in their k-nearest-neighbor graph.

    Components of the graph are a little farther apart than any two points within one.
    """
    n = len(x)
    k = min(max(_MIN_NEIGHBORS, int(graph * n)), n - 1)
    neighbors = knn(x, k, method="exact").indices
    edges = csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), neighbors.ravel())), shape=(n, n))
    distance: NDArray[np.float64] = dijkstra(edges, directed=False, unweighted=True)
    connected = np.isfinite(distance)
    distance[~connected] = _BETWEEN_COMPONENTS * distance[connected].max()
    return distance


def _scale_distances(distance: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale distances (n, n) to root mean square 1 under the masses (n,)."""
    return distance / max(float(np.sqrt(mass @ np.square(distance) @ mass)), 1e-12)
