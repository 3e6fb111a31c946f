"""Prototypes: each group's cells summarised by k-means, and the soft weights that carry a value back to its cells."""

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

__all__ = ["NEIGHBORS", "Prototypes", "count_prototypes", "fit_prototypes", "soft_assign"]

_MOST = 400  # prototypes of a group
_PER_ROOT = 3.0  # prototypes per square root of the group's cells
_POINTS = 64  # cells a prototype is fitted on
_ITERATIONS = 10
_MANY, _SMALL = 16, 1_024  # groups, and cells of the largest, from which and up to which all are clustered together
NEIGHBORS = 4  # prototypes that carry a cell


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Prototypes of all groups, group after group.

    Attributes
    ----------
    position
        (P, d) float32.
    mass
        (P,) float32 number of cells of each.
    start
        (B + 1,) int64: prototypes ``start[b]:start[b + 1]`` belong to group b.
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
        """Rows of a group's prototypes."""
        return slice(int(self.start[group]), int(self.start[group + 1]))


def count_prototypes(n: int, resolution: float) -> int:
    """Return the number of prototypes of a group of `n` cells."""
    usual = min(_MOST, max(8.0, _PER_ROOT * math.sqrt(n)), max(1, n // 3))
    return max(1, round(min(usual * resolution, n)))


def fit_prototypes(
    x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int
) -> tuple[Prototypes, NDArray[np.int64]]:
    """Cluster each group on its own.

    Parameters
    ----------
    x
        (N, d) cells sorted by group.
    start
        (B + 1,) group b holds the cells ``start[b]:start[b + 1]``.
    resolution
        Multiplier of the number of prototypes.
    seed
        Seed of the k-means.

    Returns
    -------
    The prototypes, and (N,) int64 the prototype nearest to each cell.
    """
    sizes = np.diff(start)
    if len(sizes) >= _MANY and sizes.max() <= _SMALL:
        cuts = range(0, len(sizes), _MANY)
        found = [one for low in cuts for one in _together(x, start[low : low + _MANY + 1], resolution, seed)]
    else:
        found = _one_by_one(x, start, resolution, seed)
    bounds = np.cumsum([0, *(len(centers) for centers, _ in found)], dtype=np.int64)
    nearest = np.concatenate([labels + low for (_, labels), low in zip(found, bounds[:-1], strict=True)])
    mass = np.bincount(nearest, minlength=bounds[-1]).astype(np.float32)
    return Prototypes(np.concatenate([centers for centers, _ in found]), mass, bounds), nearest


def _one_by_one(
    x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    def fit_group(group: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        cells = x[start[group] : start[group + 1]]
        found = kmeans(
            cells, count_prototypes(len(cells), resolution), n_iter=_ITERATIONS, random_state=seed, n_threads=1,
            max_points_per_center=_POINTS,
        )  # fmt: skip
        return found.centers, found.labels

    return parallel_map(fit_group, range(len(start) - 1), len(x))


def _together(
    x: NDArray[np.float32], start: NDArray[np.int64], resolution: float, seed: int
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Cluster some small groups in one padded batch: a loop over them would spend its time on starting searches."""
    sizes = np.diff(start)
    padded = torch.zeros((len(sizes), int(sizes.max()), x.shape[1]))
    inside = torch.arange(padded.shape[1]) < torch.from_numpy(sizes)[:, None]
    padded[inside] = torch.from_numpy(x[start[0] : start[-1]])
    number = torch.tensor([count_prototypes(int(n), resolution) for n in sizes])
    found = batched_kmeans(padded, number, mass=inside.float(), n_iter=_ITERATIONS, random_state=seed)
    out = []
    for centers, labels, n in zip(found.centers.numpy(), found.labels.numpy(), sizes, strict=True):
        held, local = np.unique(labels[:n], return_inverse=True)
        out.append((centers[held], local.astype(np.int64)))
    return out


def soft_assign(
    x: NDArray[np.float32], points: NDArray[np.float32], n_neighbors: int = NEIGHBORS, device: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest points of each row and weights that fall off with squared distance, scaled by the third nearest.

    Returns
    -------
    (n, q) indices, nearest first, and (n, q) float32 weights that sum to 1.
    """
    found = knn(points, min(n_neighbors, len(points)), query=x, method="exact", device=device)
    squared = np.square(found.distances)
    scale = squared[:, [min(2, squared.shape[1] - 1)]]
    weight = np.exp(-(squared - squared[:, :1]) / np.maximum(scale, np.finfo(np.float32).tiny))
    weight /= weight.sum(axis=1, keepdims=True)
    return found.indices, weight
