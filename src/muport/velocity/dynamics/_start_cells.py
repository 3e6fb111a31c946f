"""The cells among which paths run, and the choice of those from which they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport._tables import cell_positions
from muport.neighbors import as_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["FlowSource", "StartCells", "ClusteredCells", "select_cluster"]


@dataclass(frozen=True)
class ClusteredCells:
    """Cells with times and, optionally, clusters.

    - `x`: (n, d) positions.
    - `time`: (n,) times.
    - `labels`: (n,) names of the clusters, or None.
    - `names`: (n,) names of the cells; their rows by default.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    labels: NDArray[np.str_] | None
    names: pd.Index

    @classmethod
    def create(
        cls, x: ArrayLike, time: ArrayLike, labels: ArrayLike | None = None, names: pd.Index | None = None
    ) -> ClusteredCells:
        """Check shapes and types. ValueError if times are not finite or are all equal."""
        points = as_points(x, "x")
        times = np.asarray(time, dtype=np.float64)
        if times.shape != (len(points),) or not np.isfinite(times).all():
            raise ValueError(f"time has shape {times.shape}: pass one finite time for each of the {len(points)} cells.")
        if times.min() == times.max():
            raise ValueError(f"time is {times[0]:g} in all cells: paths need a range of time.")
        names = pd.RangeIndex(len(points)) if names is None else names
        if labels is None:
            return cls(points, times, None, names)
        clusters = np.asarray(labels).astype(str)
        if clusters.shape != times.shape:
            raise ValueError(f"labels has shape {clusters.shape}: pass one cluster for each of {len(points)} cells.")
        return cls(points, times, clusters, names)


@dataclass(frozen=True, kw_only=True)
class StartCells:
    """The cells from which trajectories start.

    - `rows`: Names or rows of the cells, or a mask (n,), without other conditions.
    - `cluster`: Their cluster.
    - `time_min`, `time_max`: Bounds of their time, both included.
    """

    rows: ArrayLike | None = None
    cluster: str | None = None
    time_min: float | None = None
    time_max: float | None = None

    def select(self, cells: ClusteredCells, random_state: int) -> NDArray[np.int64]:
        """Rows of the cells: the given ones in their order, or those that meet the conditions in random order."""
        if self.rows is not None:
            conditions_given = {
                "start_cluster": self.cluster, "start_pseudotime": self.time_min, "end_pseudotime": self.time_max
            }  # fmt: skip
            if extra := [name for name, value in conditions_given.items() if value is not None]:
                raise ValueError(
                    f"start_cells and {', '.join(extra)} are both given: pass the cells, or the conditions on them. "
                    "stop_pseudotime is the time at which paths end."
                )
            return cell_positions(self.rows, cells.names, "start_cells")
        conditions = [_select_range(cells.time, self.time_min, self.time_max, "start_pseudotime, end_pseudotime")]
        if self.cluster is not None:
            conditions.append(select_cluster(cells.labels, self.cluster, "start_cluster"))
        return np.random.default_rng(random_state).permutation(_combine(conditions, cells.time))


@dataclass(frozen=True, kw_only=True)
class FlowSource:
    """The cells from which the particles of a flow start.

    - `cluster`: Their cluster.
    - `time_min`, `time_max`: Without a cluster: bounds of their time, as fractions of the range of time.
    - `embedding`: (n, 2) embedding to which `x_lim` and `y_lim` refer.
    - `x_lim`, `y_lim`: Bounds of their position in the embedding.
    """

    cluster: str | None = None
    time_min: float = 0.0
    time_max: float = 0.1
    embedding: ArrayLike | None = None
    x_lim: tuple[float, float] = (-np.inf, np.inf)
    y_lim: tuple[float, float] = (-np.inf, np.inf)

    def select(self, cells: ClusteredCells) -> NDArray[np.int64]:
        """Rows of the cells that meet the conditions."""
        inside = self._select_rectangle(len(cells.x))
        if self.cluster is not None:
            condition = select_cluster(cells.labels, self.cluster, "source_cluster")
        else:
            first, duration = float(cells.time.min()), float(np.ptp(cells.time))
            low, high = first + self.time_min * duration, first + self.time_max * duration
            condition = _select_range(cells.time, low, high, "source_pseudotime_min, source_pseudotime_max")
        return _combine([inside, condition], cells.time)

    def _select_rectangle(self, n: int) -> NDArray[np.bool_]:
        limits = {"source_x_lim": self.x_lim, "source_y_lim": self.y_lim}
        bounded = [name for name, lim in limits.items() if np.isfinite(lim).any()]
        if not bounded:
            return np.ones(n, bool)
        if self.embedding is None:
            raise ValueError(f"{bounded[0]} needs an embedding of the cells, (n_cells, 2), but there is none.")
        xy = np.asarray(self.embedding, dtype=np.float64)
        if xy.ndim != 2 or xy.shape[0] != n or xy.shape[1] < 2:
            raise ValueError(f"embedding has shape {xy.shape}: it must be ({n}, 2).")
        axes = [_select_range(xy[:, i], *lim, name) for i, (name, lim) in enumerate(limits.items())]
        return axes[0] & axes[1]


def select_cluster(labels: NDArray[np.str_] | None, cluster: object, name: str) -> NDArray[np.bool_]:
    """Select the cells (n,) of a cluster. KeyError if there is none of that name; `name` is the argument."""
    if labels is None:
        raise ValueError(f"{name}={cluster!r} needs clusters: name the column that holds them (labels).")
    members: NDArray[np.bool_] = np.asarray(labels) == cluster
    if not np.any(members):
        known = ", ".join(map(repr, np.unique(labels)[:20].tolist()))
        raise KeyError(f"{name}={cluster!r} is not a cluster: use one of {known}.")
    return members


def _select_range(values: NDArray[np.float64], low: float | None, high: float | None, name: str) -> NDArray[np.bool_]:
    """Select the values (n,) between two bounds, both included; None is no bound."""
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"{name}: the range {bounds[0]} to {bounds[1]} is empty: its start must not be after its end.")
    return (values >= bounds[0]) & (values <= bounds[1])


def _combine(conditions: list[NDArray[np.bool_]], time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows that meet all conditions; ValueError with the range of time if none does."""
    rows = np.flatnonzero(np.logical_and.reduce(conditions))
    if not len(rows):
        raise ValueError(
            "No cell meets the conditions on the start (cluster, time, position): widen them. "
            f"The time of the cells runs from {time.min():g} to {time.max():g}."
        )
    return rows
