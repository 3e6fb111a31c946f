"""Trajectories of cells and flows of particles through a field, from start cells to the clusters they end in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from muport.neighbors import as_points
from muport.velocity._flow import Paths, StopReason, integrate, simulate, tangent_noise
from muport.velocity._manifold import Manifold, manifold, stop_rule
from muport.velocity._starts import candidates, explicit, in_cluster, within

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.velocity._paths import StopRule, VectorField

__all__ = ["Trajectories", "flow_particles", "trace_trajectories"]

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
        (n_paths,) cluster of the earliest and of the latest point in time, as the nearest cell has it; None without
        clusters.
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


def trace_trajectories(
    field: VectorField,
    x: ArrayLike,
    time: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    start_cells: ArrayLike | None = None,
    start_cluster: str | None = None,
    target_cluster: str | None = None,
    start_time: float | None = None,
    end_time: float | None = None,
    n_trajectories: int = 20,
    n_steps: int = 200,
    step_size: float = 0.05,
    direction: Literal["forward", "backward", "both"] = "forward",
    evolve_time: bool = True,
    max_attempts_factor: int = 10,
    method: Literal["rk4", "dopri5"] = "rk4",
    random_state: int = 42,
) -> Trajectories:
    """Integrate the field from cells, forward or backward in time.

    One step is ``step_size`` times the data's range of time, so that its mean length is the fraction ``step_size`` of
    the mean velocity (data units per range), whether time is a pseudotime in [0, 1], days or hours. A path ends after
    ``n_steps``, when it comes to either end of the data's time (its last step is at that end: all its steps are made
    equally shorter for it), at the target, or before it is more than ten spacings from the nearest cell.

    Parameters
    ----------
    field
        Velocity (n, d) at positions and times; :func:`knn_field` makes one of the cells' velocities.
    x
        (n, d) cells.
    time
        (n,) their times.
    labels
        (n,) their clusters.
    start_cells
        Rows to start from, all of them in this order; the other conditions are then ignored.
    start_cluster
        Cluster to start from.
    target_cluster
        Keep only paths that come to this cluster, and end them there.
    start_time, end_time
        Bounds of the start cells' time.
    n_trajectories
        Paths in each direction, drawn without repeats; fewer if there are not as many cells. With a target: paths that
        reach it.
    n_steps
        Most steps.
    step_size
        Step as a fraction of the range of time.
    direction
        ``"forward"``, ``"backward"`` or ``"both"``.
    evolve_time
        Whether time goes on along the path; if not, the field is that of the start's time, and only ``n_steps`` and the
        data bound the path.
    max_attempts_factor
        With a target: most start cells tried, as a multiple of ``n_trajectories``.
    method
        Solver, as for :func:`integrate`.
    random_state
        Seed of the choice of start cells.

    Returns
    -------
    Trajectories
        Paths with their starts, ends and clusters.

    Raises
    ------
    KeyError
        If a cluster does not exist.
    ValueError
        If no cell fulfils the conditions, the target was never reached, time is constant, or a number is out of range.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from muport.velocity._trajectories import trace_trajectories
    >>> time = np.linspace(0, 1, 101)
    >>> labels = np.where(time < 0.5, "early", "late")
    >>> found = trace_trajectories(
    ...     lambda x, t: torch.ones_like(x), time[:, None], time, labels=labels, start_cells=[0], target_cluster="late"
    ... )
    >>> found.visited, round(float(found.paths.ends[0, 0]), 2)
    ((('early', 'late'),), 0.5)
    """
    _check_choice(direction)
    _check_positive(n_trajectories=n_trajectories, step_size=step_size, max_attempts_factor=max_attempts_factor)
    cells = _cells(x, time, labels)
    rows = _start_rows(cells, start_cells, start_cluster, start_time, end_time, random_state)
    limit = len(rows) if start_cells is not None else n_trajectories
    data = manifold(cells.x, random_state=random_state)
    reached = None if target_cluster is None else in_cluster(cells.labels, target_cluster, "target_cluster")
    follow = _Follow(field, cells, n_steps, step_size, evolve_time, method, stop_rule(data, reached=reached))
    signs = {"forward": (1,), "backward": (-1,), "both": (1, -1)}[direction]
    found, starts, sides, attempts = [], [], [], 0
    for sign in signs:
        tried = rows[: limit * max_attempts_factor] if reached is not None else rows[:limit]
        paths, kept, n = _collect(follow, tried, sign, limit, keep_all=reached is None)
        found.append(paths)
        starts.append(kept)
        sides.append(np.full(len(kept), sign, np.int8))
        attempts += n
    start = np.concatenate(starts)
    if not len(start):
        raise ValueError(
            f"target_cluster={target_cluster!r} was never reached by {attempts} paths ({direction}): try another "
            "start, direction='both', a larger max_attempts_factor or more n_steps."
        )
    return _describe(_joined(found), np.concatenate(sides), start, cells, data, attempts)


def flow_particles(
    field: VectorField,
    x: ArrayLike,
    time: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    n_particles: int = 200,
    source_cluster: str | None = None,
    source_time_min: float | None = None,
    source_time_max: float | None = None,
    embedding: ArrayLike | None = None,
    source_x_lim: tuple[float, float] = (-np.inf, np.inf),
    source_y_lim: tuple[float, float] = (-np.inf, np.inf),
    n_steps: int = 300,
    step_size: float = 0.05,
    diffusion: float = 0.5,
    noise: Literal["tangent", "isotropic"] = "tangent",
    noise_scale: float = 0.0,
    random_state: int = 42,
) -> Trajectories:
    """Let particles flow from a source, with noise: x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta.

    The coefficient follows the local speed, D = ``diffusion`` h |v(x_n, t_n)| with h the data's spacing (the median
    distance to the nearest other cell): ``diffusion`` has no unit, and 0 is a deterministic flow. Steps, times and ends
    are those of :func:`trace_trajectories`.

    Parameters
    ----------
    field
        Velocity (n, d) at positions and times.
    x
        (n, d) cells.
    time
        (n,) their times.
    labels
        (n,) their clusters.
    n_particles
        Particles; a cell is the source of several if there are more of them than cells.
    source_cluster
        Cluster they start from.
    source_time_min, source_time_max
        Bounds of the source cells' time. Without a cluster and bounds: the first tenth of the range of time.
    embedding
        (n, 2) picture in which ``source_x_lim`` and ``source_y_lim`` bound the source.
    source_x_lim, source_y_lim
        Bounds in the picture.
    n_steps
        Most steps.
    step_size
        Step as a fraction of the range of time.
    diffusion
        Strength of the noise: .1 to .5 is mild, 1 strong.
    noise
        ``"tangent"``: noise in the local tangent space of the data, with a pull back to them
        (:func:`tangent_noise`); or ``"isotropic"``.
    noise_scale
        Standard deviation of noise added to the starts, in data units.
    random_state
        Seed of the choice of cells and of the noise.

    Returns
    -------
    Trajectories
        One forward path for each particle.

    Raises
    ------
    KeyError
        If the source cluster does not exist.
    ValueError
        As for :func:`trace_trajectories`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from muport.velocity._trajectories import flow_particles
    >>> time = np.linspace(0, 1, 101)
    >>> found = flow_particles(lambda x, t: torch.ones_like(x), time[:, None], time, n_particles=50)
    >>> found.paths.x.shape, bool((found.paths.ends > 0.7).all())
    ((50, 21, 1), True)
    """
    if noise not in ("tangent", "isotropic"):
        raise ValueError(f"noise={noise!r} is unknown: use 'tangent' or 'isotropic'.")
    if not noise_scale >= 0:
        raise ValueError(f"noise_scale={noise_scale} must be at least 0.")
    _check_positive(n_particles=n_particles, step_size=step_size)
    cells = _cells(x, time, labels)
    inside = _place(len(cells.x), embedding, source_x_lim, source_y_lim)
    rows = _source_rows(cells, inside, source_cluster, source_time_min, source_time_max)
    rng = np.random.default_rng(random_state)
    start = rng.choice(rows, n_particles, replace=len(rows) < n_particles)
    x0 = cells.x[start] + np.float32(noise_scale) * rng.standard_normal((n_particles, cells.x.shape[1]), np.float32)
    data = manifold(cells.x, random_state=random_state)
    tangent = tangent_noise(cells.x, random_state=random_state) if noise == "tangent" and diffusion > 0 else None
    t0, t1, n = _span(cells.time, start, 1, n_steps, step_size, evolve_time=True)
    paths = simulate(
        field,
        x0,
        t0,
        t1,
        n_steps=n,
        diffusion=diffusion,
        length_scale=data.spacing,
        noise=tangent,
        retract=None if tangent is None else tangent.retract,
        stop=stop_rule(data),
        random_state=random_state,
    )
    paths = _out_of_time(paths, t1, cells.time)
    return _describe(paths, np.ones(n_particles, np.int8), start, cells, data, n_particles)


@dataclass(frozen=True)
class _Cells:
    x: NDArray[np.float32]
    time: NDArray[np.float64]
    labels: NDArray[np.str_] | None


def _cells(x: ArrayLike, time: ArrayLike, labels: ArrayLike | None) -> _Cells:
    points = as_points(x, "x")
    times = np.asarray(time, dtype=np.float64)
    if times.shape != (len(points),) or not np.isfinite(times).all():
        raise ValueError(f"time has shape {times.shape}: pass one finite time for each of the {len(points)} cells.")
    if times.min() == times.max():
        raise ValueError(f"time is {times[0]:g} in all cells: a path needs a range of time to run through.")
    if labels is None:
        return _Cells(points, times, None)
    names = np.asarray(labels).astype(str)
    if names.shape != times.shape:
        raise ValueError(f"labels has shape {names.shape}: pass one cluster for each of the {len(points)} cells.")
    return _Cells(points, times, names)


def _check_choice(direction: str) -> None:
    if direction not in ("forward", "backward", "both"):
        raise ValueError(f"direction={direction!r} is unknown: use 'forward', 'backward' or 'both'.")


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value} must be a finite number above 0.")


def _start_rows(
    cells: _Cells,
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


def _source_rows(
    cells: _Cells, inside: NDArray[np.bool_], cluster: str | None, low: float | None, high: float | None
) -> NDArray[np.int64]:
    conditions = [inside]
    if cluster is not None:
        conditions.append(in_cluster(cells.labels, cluster, "source_cluster"))
    elif low is None and high is None:
        high = cells.time.min() + _EARLIEST * np.ptp(cells.time)
    conditions.append(within(cells.time, low, high, "source_time_min, source_time_max"))
    return candidates(*conditions, time=cells.time)


def _place(
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


def _span(
    time: NDArray[np.float64], rows: NDArray[np.int64], sign: int, n_steps: int, step_size: float, *, evolve_time: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Start and end time of every path, and its number of equal steps."""
    low, high = time.min(), time.max()
    start = time[rows]
    # The margin forgives 1 / .05 = 20.000000000000004.
    n = min(n_steps, int(np.ceil(1 / step_size - 1e-9))) if evolve_time else n_steps
    end = start + sign * n * step_size * (high - low)
    return start, np.clip(end, low, high) if evolve_time else end, n


def _out_of_time(paths: Paths, t1: NDArray[np.float64], time: NDArray[np.float64]) -> Paths:
    """Tell the paths that came to an end of the data's time from those that ran out of steps."""
    at_end = (paths.stopped == StopReason.END) & ((t1 == time.min()) | (t1 == time.max()))
    return replace(paths, stopped=np.where(at_end, np.int8(StopReason.TIME), paths.stopped))


@dataclass(frozen=True)
class _Follow:
    """How paths are followed from start rows."""

    field: VectorField
    cells: _Cells
    n_steps: int
    step_size: float
    evolve_time: bool
    method: Literal["rk4", "dopri5"]
    stop: StopRule

    def __call__(self, rows: NDArray[np.int64], sign: int) -> Paths:
        time, x = self.cells.time, self.cells.x
        t0, t1, n = _span(time, rows, sign, self.n_steps, self.step_size, evolve_time=self.evolve_time)
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
        return _out_of_time(paths, t1, time) if self.evolve_time else paths


def _collect(
    follow: _Follow, rows: NDArray[np.int64], sign: int, wanted: int, *, keep_all: bool
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
    return _joined(found), np.concatenate(kept), tried


def _of(paths: Paths, rows: NDArray[np.bool_]) -> Paths:
    return Paths(paths.x[rows], paths.time[rows], paths.length[rows], paths.stopped[rows])


def _joined(parts: list[Paths]) -> Paths:
    return Paths(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.length for part in parts]),
        np.concatenate([part.stopped for part in parts]),
    )


def _describe(
    paths: Paths,
    direction: NDArray[np.int8],
    start: NDArray[np.int64],
    cells: _Cells,
    data: Manifold,
    attempts: int,
) -> Trajectories:
    _, nearest = data.nearest(paths.x.reshape(-1, paths.x.shape[2]))
    cell = nearest.reshape(paths.x.shape[:2])
    # The start is its own cell, even where another one lies at the same place or the cell is not searched.
    cell[:, 0] = start
    if cells.labels is None:
        return Trajectories(paths, direction, start, cell, None, None, None, attempts, data.spacing)
    names = cells.labels[cell]
    last = names[np.arange(len(names)), paths.length - 1]
    forward = direction > 0
    origin, terminal = np.where(forward, names[:, 0], last), np.where(forward, last, names[:, 0])
    visited = tuple(_runs(row[:n]) for row, n in zip(names, paths.length, strict=True))
    return Trajectories(paths, direction, start, cell, origin, terminal, visited, attempts, data.spacing)


def _runs(names: NDArray[np.str_]) -> tuple[str, ...]:
    """Names in order, one after another without repeats."""
    change = np.r_[True, names[1:] != names[:-1]]
    return tuple(names[change].tolist())
