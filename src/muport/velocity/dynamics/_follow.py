"""How trajectories are followed and described: cells, spans of time, attempts at a target, clusters on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from muport.neighbors import as_points
from muport.velocity.dynamics._integrate import Paths, StopReason, integrate
from muport.velocity.dynamics._start_cells import candidates, explicit, in_cluster, within

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.velocity.dynamics._manifold import Manifold
    from muport.velocity.dynamics._paths import StopRule, VectorField

__all__ = [
    "Cells",
    "Follow",
    "Trajectories",
    "as_cells",
    "check_direction",
    "check_positive",
    "collect",
    "describe",
    "joined",
    "out_of_time",
    "place",
    "source_rows",
    "span",
    "start_rows",
]

_EARLIEST = 0.1  # share of the time's range in which particles start


@dataclass(frozen=True)
class Trajectories:
    """Paths among cells; a trajectory's id is its row.

    Attributes
    ----------
    paths
        The points, from the start on; backward ones run back in time.
    direction
        (n_paths,) int8: 1 forward, -1 backward.
    start_cell
        (n_paths,) int64 row of the cell where it starts.
    cell
        (n_paths, n_points) int64 row of the nearest cell of every point.
    origin, terminal
        (n_paths,) cluster of the earliest and of the latest point in time, None without clusters. The cluster of a
        point is that of most of its five nearest cells, of the start the cell's own.
    visited
        Clusters of each path in the order in which it comes to them, one after another without repeats.
    n_attempts
        Paths that were integrated to find these.
    spacing
        Median distance between neighbouring cells, in data units.
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


@dataclass(frozen=True)
class Cells:
    x: NDArray[np.float32]
    time: NDArray[np.float64]
    labels: NDArray[np.str_] | None


def as_cells(x: ArrayLike, time: ArrayLike, labels: ArrayLike | None) -> Cells:
    points = as_points(x, "x")
    times = np.asarray(time, dtype=np.float64)
    if times.shape != (len(points),) or not np.isfinite(times).all():
        raise ValueError(f"time has shape {times.shape}: pass one finite time for each of the {len(points)} cells.")
    if times.min() == times.max():
        raise ValueError(f"time is {times[0]:g} in all cells: a path needs a range of time to run through.")
    if labels is None:
        return Cells(points, times, None)
    names = np.asarray(labels).astype(str)
    if names.shape != times.shape:
        raise ValueError(f"labels has shape {names.shape}: pass one cluster for each of the {len(points)} cells.")
    return Cells(points, times, names)


def check_direction(direction: str) -> None:
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction={direction!r} is unknown: use 'forward', 'backward' or 'both'.")


def check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value} must be a finite number above 0.")


def start_rows(
    cells: Cells,
    start_cells: ArrayLike | None,
    cluster: str | None,
    low: float | None,
    high: float | None,
    seed: int,
) -> NDArray[np.int64]:
    """Rows to start from, in the order in which they are tried."""
    if start_cells is not None:
        return explicit(start_cells, len(cells.x))
    conditions = [within(cells.time, low, high, "start_time, end_time")]
    if cluster is not None:
        conditions.append(in_cluster(cells.labels, cluster, "start_cluster"))
    return np.random.default_rng(seed).permutation(candidates(*conditions, time=cells.time))


def source_rows(
    cells: Cells, inside: NDArray[np.bool_], cluster: str | None, low: float | None, high: float | None
) -> NDArray[np.int64]:
    conditions = [inside]
    if cluster is not None:
        conditions.append(in_cluster(cells.labels, cluster, "source_cluster"))
    elif low is None and high is None:
        high = cells.time.min() + _EARLIEST * np.ptp(cells.time)
    conditions.append(within(cells.time, low, high, "source_time_min, source_time_max"))
    return candidates(*conditions, time=cells.time)


def place(
    n: int, embedding: ArrayLike | None, x_lim: tuple[float, float], y_lim: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which cells (n,) lie in a rectangle of the picture."""
    limits = {"source_x_lim": x_lim, "source_y_lim": y_lim}
    bounded = [name for name, lim in limits.items() if np.isfinite(lim).any()]
    if not bounded:
        return np.ones(n, bool)
    if embedding is None:
        raise ValueError(f"{bounded[0]} needs a picture to be measured in: pass embedding, (n_cells, 2).")
    picture = np.asarray(embedding, dtype=np.float64)
    if picture.ndim != 2 or picture.shape[0] != n or picture.shape[1] < 2:
        raise ValueError(f"embedding has shape {picture.shape}: it must be ({n}, 2).")
    axes = [within(picture[:, i], *lim, name) for i, (name, lim) in enumerate(limits.items())]
    return axes[0] & axes[1]


def span(
    time: NDArray[np.float64], rows: NDArray[np.int64], sign: int, n_steps: int, step_size: float, *, evolve_time: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Start and end time of every path, and its number of equal steps."""
    low, high = time.min(), time.max()
    start = time[rows]
    # The margin forgives 1 / .05 = 20.000000000000004.
    n = min(n_steps, int(np.ceil(1 / step_size - 1e-9))) if evolve_time else n_steps
    end = start + sign * n * step_size * (high - low)
    return start, np.clip(end, low, high) if evolve_time else end, n


def out_of_time(paths: Paths, t1: NDArray[np.float64], time: NDArray[np.float64]) -> Paths:
    """Tell the paths that came to an end of the data's time from those that ran out of steps."""
    at_end = (paths.stopped == StopReason.END) & ((t1 == time.min()) | (t1 == time.max()))
    return replace(paths, stopped=np.where(at_end, np.int8(StopReason.TIME), paths.stopped))


@dataclass(frozen=True)
class Follow:
    """How paths are followed from start rows."""

    field: VectorField
    cells: Cells
    n_steps: int
    step_size: float
    evolve_time: bool
    method: Literal["rk4", "dopri5"]
    stop: StopRule

    def __call__(self, rows: NDArray[np.int64], sign: int) -> Paths:
        time, x = self.cells.time, self.cells.x
        t0, t1, n = span(time, rows, sign, self.n_steps, self.step_size, evolve_time=self.evolve_time)
        paths = integrate(
            self.field,
            x[rows],
            t0,
            t1,
            n_steps=n,
            method=self.method,
            evolve_time=self.evolve_time,
            stop=self.stop,
        )
        return out_of_time(paths, t1, time) if self.evolve_time else paths


def collect(
    follow: Follow, rows: NDArray[np.int64], sign: int, wanted: int, *, keep_all: bool
) -> tuple[Paths, NDArray[np.int64], int]:
    """Paths that are kept, their rows, and how many were tried: as many at a time as are wanted."""
    found, kept, n, tried = [], [], 0, 0
    while tried < len(rows) and n < wanted:
        some = rows[tried : tried + wanted]
        tried += len(some)
        paths = follow(some, sign)
        good = np.ones(len(some), bool) if keep_all else paths.stopped == StopReason.TARGET
        good &= np.cumsum(good) <= wanted - n
        found.append(_of(paths, good))
        kept.append(some[good])
        n += int(good.sum())
    return joined(found), np.concatenate(kept), tried


def _of(paths: Paths, rows: NDArray[np.bool_]) -> Paths:
    return Paths(paths.x[rows], paths.time[rows], paths.length[rows], paths.stopped[rows])


def joined(parts: list[Paths]) -> Paths:
    return Paths(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.stopped for part in parts]),
    )


def describe(
    paths: Paths,
    direction: NDArray[np.int8],
    start: NDArray[np.int64],
    cells: Cells,
    data: Manifold,
    attempts: int,
) -> Trajectories:
    flat, shape = paths.x.reshape(-1, paths.x.shape[2]), paths.x.shape[:2]
    if cells.labels is None:
        cell = data.nearest(flat)[1].reshape(shape)
        cell[:, 0] = start
        return Trajectories(paths, direction, start, cell, None, None, None, attempts, data.spacing)
    known, codes = np.unique(cells.labels, return_inverse=True)
    _, nearest, vote = data.vote(flat, codes)
    cell, vote = nearest.reshape(shape), vote.reshape(shape)
    # The start is its own cell, even where another one lies at the same place or the cell is not searched.
    cell[:, 0], vote[:, 0] = start, codes[start]
    names = known[vote]
    last = names[np.arange(len(names)), paths.length - 1]
    forward = direction > 0
    origin, terminal = np.where(forward, names[:, 0], last), np.where(forward, last, names[:, 0])
    visited = tuple(_runs(row[:n]) for row, n in zip(names, paths.length, strict=True))
    return Trajectories(paths, direction, start, cell, origin, terminal, visited, attempts, data.spacing)


def _runs(names: NDArray[np.str_]) -> tuple[str, ...]:
    """Names in order, one after another without repeats."""
    change = np.r_[True, names[1:] != names[:-1]]
    return tuple(names[change].tolist())
