"""Which cells paths start from: by index, by cluster, by time, by place in a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["candidates", "explicit", "in_cluster", "source_range", "within"]


def explicit(cells: ArrayLike, n: int) -> NDArray[np.int64]:
    """Rows (m,) of cells that were named, checked. A mask (n,) names the rows where it is True."""
    rows = np.asarray(cells)
    if rows.dtype == bool and rows.shape == (n,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"start_cells has shape {rows.shape} and type {rows.dtype}: pass at least one row of the data, as integers."
        )
    wrong = rows[(rows < 0) | (rows >= n)]
    if len(wrong):
        raise ValueError(f"start_cells names row {wrong[0]}, but the data have rows 0 to {n - 1}.")
    return rows.astype(np.int64)


def in_cluster(labels: NDArray[np.str_] | None, cluster: object, name: str) -> NDArray[np.bool_]:
    """Which cells (n,) are of a cluster; KeyError if there is none of that name."""
    if labels is None:
        raise ValueError(f"{name}={cluster!r} needs clusters: name the column that holds them (labels).")
    chosen: NDArray[np.bool_] = np.asarray(labels) == cluster
    if not np.any(chosen):
        known = ", ".join(map(repr, np.unique(labels)[:20].tolist()))
        raise KeyError(f"{name}={cluster!r} is not a cluster: use one of {known}.")
    return chosen


def within(values: NDArray[np.float64], low: float | None, high: float | None, name: str) -> NDArray[np.bool_]:
    """Which values (n,) lie between two bounds, both included; None is no bound."""
    bounds = (-np.inf if low is None else low, np.inf if high is None else high)
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"{name}: the range {bounds[0]} to {bounds[1]} is empty: its start must not be after its end.")
    return (values >= bounds[0]) & (values <= bounds[1])


def candidates(*conditions: NDArray[np.bool_], time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows that fulfil all conditions; ValueError that tells the range of time if none does."""
    rows = np.flatnonzero(np.logical_and.reduce(conditions))
    if not len(rows):
        raise ValueError(
            "No cell fulfils the conditions on the start (cluster, time, place): widen them. "
            f"The time of the cells runs from {time.min():g} to {time.max():g}."
        )
    return rows


def source_range(
    time: NDArray[np.float64], cluster: object, low: float, high: float
) -> tuple[float | None, float | None]:
    """Bounds of time, from shares of its range; none where a cluster is the source."""
    if cluster is not None:
        return None, None
    first, span = float(time.min()), float(np.ptp(time))
    return first + low * span, first + high * span
