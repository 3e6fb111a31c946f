"""Prototypes: k-means centers of the cells of each group, and the weights by which a cell gets values from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport._parallel import parallel_map
from muport.neighbors import batched_kmeans, kmeans, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NEIGHBORS",
    "Prototypes",
    "cluster_cells",
    "count_prototypes",
    "fit_prototypes",
    "join_clusterings",
    "soft_assign",
]

NEIGHBORS = 4  # nearest prototypes from which a cell gets its displacement
_LEAST, _MOST = 8.0, 400  # prototypes of a group
_PER_ROOT = 3.0  # prototypes per square root of the number of cells
_CELLS_PER_PROTOTYPE = 3  # at least
_FITTED_CELLS = 64  # cells per prototype on which k-means is fitted; of more, a sample is
_ITERATIONS = 10
# Many small groups are clustered in padded batches of 16 groups, if the largest group has at most 1,024 cells.
_GROUPS_PER_BATCH, _MOST_PADDED_CELLS = 16, 1_024

type Clustering = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Prototypes of all groups, sorted by group.

    - `position`: (P, d) float32.
    - `mass`: (P,) float32 number of cells of each prototype.
    - `start`: (B + 1,) int64: prototypes ``start[b]:start[b + 1]`` belong to group b.
    """

    position: NDArray[np.float32]
    mass: NDArray[np.float32]
    start: NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """Number of groups, B."""
        return len(self.start) - 1

    @property
    def group(self) -> NDArray[np.int64]:
        """(P,) group of each prototype."""
        return np.repeat(np.arange(self.n_groups), np.diff(self.start))

    def of(self, group: int) -> slice:
        """Return the rows of the prototypes of a group."""
        return slice(int(self.start[group]), int(self.start[group + 1]))


def count_prototypes(n: int, resolution: float) -> int:
    """Return the number of prototypes of a group of `n` cells."""
    number = min(_MOST, max(_LEAST, _PER_ROOT * math.sqrt(n)), max(1, n // _CELLS_PER_PROTOTYPE))
    return max(1, round(min(number * resolution, n)))


def fit_prototypes(
    x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int
) -> tuple[Prototypes, NDArray[np.int64]]:
    """Cluster each group on its own.

    - `x`: (N, d) cells sorted by group.
    - `start`: (B + 1,) group b has the cells ``start[b]:start[b + 1]``.
    - `resolution`: Factor of the number of prototypes.

    Returns the prototypes, and (N,) int64 the nearest prototype of each cell.
    """
    sizes = np.diff(start)
    if len(sizes) >= _GROUPS_PER_BATCH and sizes.max() <= _MOST_PADDED_CELLS:
        batches = range(0, len(sizes), _GROUPS_PER_BATCH)
        clusterings = [
            clustering
            for low in batches
            for clustering in _cluster_small_groups(x, start[low : low + _GROUPS_PER_BATCH + 1], resolution, seed)
        ]
    else:
        clusterings = _cluster_groups(x, start, resolution, seed)
    return join_clusterings(clusterings)


def join_clusterings(clusterings: list[Clustering]) -> tuple[Prototypes, NDArray[np.int64]]:
    """Join the centers (P_b, d) and labels (n_b,) of all groups; returns prototypes and (N,) codes into these."""
    start = np.cumsum([0, *(len(centers) for centers, _ in clusterings)], dtype=np.int64)
    nearest = np.concatenate([labels + low for (_, labels), low in zip(clusterings, start[:-1], strict=True)])
    mass = np.bincount(nearest, minlength=start[-1]).astype(np.float32)
    return Prototypes(np.concatenate([centers for centers, _ in clusterings]), mass, start), nearest


def _cluster_groups(x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int) -> list[Clustering]:
    def cluster_group(group: int) -> Clustering:
        cells = x[start[group] : start[group + 1]]
        return cluster_cells(cells, count_prototypes(len(cells), resolution), seed)

    return parallel_map(cluster_group, range(len(start) - 1), len(x))


def cluster_cells(cells: NDArray[np.float32], number: int, seed: int) -> Clustering:
    """Cluster the cells of one group on one thread, on a sample if there are many; returns centers and labels."""
    clusters = kmeans(
        cells, number, n_iter=_ITERATIONS, random_state=seed, n_threads=1, max_points_per_center=_FITTED_CELLS
    )
    return clusters.centers, clusters.labels


def _cluster_small_groups(
    x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int
) -> list[Clustering]:
    """Cluster some small groups in one padded batch: in a loop over them, the start of each search takes the time."""
    sizes = np.diff(start)
    padded = torch.zeros((len(sizes), int(sizes.max()), x.shape[1]))
    is_cell = torch.arange(padded.shape[1]) < torch.from_numpy(sizes)[:, None]
    padded[is_cell] = torch.from_numpy(x[start[0] : start[-1]])
    number = torch.tensor([count_prototypes(int(n), resolution) for n in sizes])
    clusters = batched_kmeans(padded, number, mass=is_cell.float(), n_iter=_ITERATIONS, random_state=seed)
    clusterings = []
    for centers, labels, n in zip(clusters.centers.numpy(), clusters.labels.numpy(), sizes, strict=True):
        used, local = np.unique(labels[:n], return_inverse=True)
        clusterings.append((centers[used], local.astype(np.int64)))
    return clusterings


def soft_assign(
    x: NDArray[np.float32], points: NDArray[np.float32], n_neighbors: int = NEIGHBORS, device: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest points of each row, and weights exp(-(d^2 - d_1^2) / d_3^2) with d_3 the third distance.

    Returns (n, q) indices, nearest first, and (n, q) float32 weights that sum to 1.
    """
    neighbors = knn(points, min(n_neighbors, len(points)), query=x, method="exact", device=device)
    squared = np.square(neighbors.distances)
    scale = squared[:, [min(2, squared.shape[1] - 1)]]
    weight = np.exp(-(squared - squared[:, :1]) / np.maximum(scale, np.finfo(np.float32).tiny))
    weight /= weight.sum(axis=1, keepdims=True)
    return neighbors.indices, weight
