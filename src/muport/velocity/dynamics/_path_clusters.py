"""Trajectories: paths with the cells and clusters they pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from muport.velocity.dynamics._manifold import Manifold
    from muport.velocity.dynamics._paths import Paths
    from muport.velocity.dynamics._start_cells import ClusteredCells

__all__ = ["Trajectories", "describe_paths"]

_LISTED_CLUSTERS = 8  # in the description of paths


@dataclass(frozen=True)
class Trajectories:
    """Paths among cells; the id of a trajectory is its row.

    Attributes
    ----------
    paths
        The points, from the start on; backward paths run back in time.
    direction
        (n_paths,) int8: 1 forward, -1 backward.
    start_cell
        (n_paths,) int64 row of the cell from which the path starts.
    cell
        (n_paths, n_points) int64 row of the nearest cell of every point.
    origin, terminal
        (n_paths,) cluster of the earliest and of the latest point in time, None without clusters. The cluster of a
        point is that of most of its five nearest cells; the cluster of a start is that of its cell.
    visited
        Clusters of each path in the order of its points, without successive repeats.
    n_attempts
        Number of paths that were integrated to obtain these.
    spacing
        Median distance between neighboring cells, in data units.
    names
        (n_cells,) names of the cells; None if they have none.
    mass
        (n_paths, n_points) mass of each particle, 1 at the start; None without growth rates.
    """

    paths: Paths
    direction: NDArray[np.int8]
    start_cell: NDArray[np.int64]
    cell: NDArray[np.int64]
    origin: NDArray[np.str_] | None
    terminal: NDArray[np.str_] | None
    visited: tuple[tuple[str, ...], ...] | None
    n_attempts: int
    spacing: float
    names: pd.Index | None = None
    mass: NDArray[np.float32] | None = None

    @property
    def start_name(self) -> NDArray[np.object_]:
        """(n_paths,) name of the cell from which the path starts; its row if cells have no names."""
        return self._name(self.start_cell)

    @property
    def cell_name(self) -> NDArray[np.object_]:
        """(n_paths, n_points) name of the nearest cell of every point; its row if cells have no names."""
        return self._name(self.cell)

    def _name(self, rows: NDArray[np.int64]) -> NDArray[np.object_]:
        return rows.astype(object) if self.names is None else self.names.to_numpy(dtype=object)[rows]

    def __repr__(self) -> str:
        """Describe the paths in a few lines."""
        forward = int((self.direction > 0).sum())
        counts = f"{forward} forward, {len(self.direction) - forward} backward; {self.n_attempts} starts tried"
        lines = [f"Trajectories: {len(self.direction)} paths ({counts}), {self.paths.describe_points()}"]
        for name, clusters in (("from", self.origin), ("to", self.terminal)):
            if clusters is not None:
                lines.append(f"  {name}: {_count_clusters(clusters)}")
        return "\n".join(lines)


def _count_clusters(clusters: NDArray[np.str_]) -> str:
    names, counts = np.unique(clusters, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_LISTED_CLUSTERS]
    more = f", and {len(names) - len(order)} more" if len(names) > len(order) else ""
    return ", ".join(f"{names[i]} ({counts[i]})" for i in order) + more


def describe_paths(
    paths: Paths,
    direction: NDArray[np.int8],
    start: NDArray[np.int64],
    cells: ClusteredCells,
    data: Manifold,
    n_attempts: int,
) -> Trajectories:
    """Find the nearest cell and the cluster of every point."""
    points, shape = paths.x.reshape(-1, paths.x.shape[2]), paths.x.shape[:2]
    if cells.labels is None:
        cell = data.nearest(points)[1].reshape(shape)
        cell[:, 0] = start
        return Trajectories(paths, direction, start, cell, None, None, None, n_attempts, data.spacing, cells.names)
    clusters, codes = np.unique(cells.labels, return_inverse=True)
    _, nearest, vote = data.vote(points, codes)
    cell, vote = nearest.reshape(shape), vote.reshape(shape)
    # the start is its own cell, even where another cell has the same position or the cell is not in the sample
    cell[:, 0], vote[:, 0] = start, codes[start]
    names = clusters[vote]
    last = names[np.arange(len(names)), paths.length - 1]
    forward = direction > 0
    origin, terminal = np.where(forward, names[:, 0], last), np.where(forward, last, names[:, 0])
    visited = tuple(_drop_repeats(row[:n]) for row, n in zip(names, paths.length, strict=True))
    return Trajectories(paths, direction, start, cell, origin, terminal, visited, n_attempts, data.spacing, cells.names)


def _drop_repeats(names: NDArray[np.str_]) -> tuple[str, ...]:
    """Names in their order, without successive repeats."""
    change = np.r_[True, names[1:] != names[:-1]]
    return tuple(names[change].tolist())
