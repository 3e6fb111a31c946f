"""Trajectories of cells and flows of particles along a field, from start cells to the clusters in which they end."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from muport._checks import check_integers, check_option, check_positive
from muport.velocity.dynamics._manifold import fit_manifold, make_stop_rule
from muport.velocity.dynamics._ode import integrate
from muport.velocity.dynamics._path_clusters import Trajectories, describe_paths
from muport.velocity.dynamics._paths import Paths, StopReason
from muport.velocity.dynamics._sde import simulate
from muport.velocity.dynamics._start_cells import select_cluster
from muport.velocity.dynamics._tangent_space import fit_tangent_spaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from muport.velocity.dynamics._paths import VectorField
    from muport.velocity.dynamics._start_cells import ClusteredCells, FlowSource, StartCells

__all__ = ["FlowOptions", "TrajectoryOptions", "flow_particles", "trace_trajectories"]


@dataclass(frozen=True, kw_only=True)
class TrajectoryOptions:
    """How trajectories are integrated, and which of them are kept.

    - `target_cluster`: Keep only paths that reach this cluster, and end them there: where most of the five nearest
      cells are of it.
    - `n_trajectories`: Paths in each direction, from different cells; fewer if there are not as many cells. With a
      target: paths that reach it.
    - `n_steps`: Maximum number of steps.
    - `step_size`: Step as a fraction of the range of time.
    - `direction`: ``"forward"``, ``"backward"`` or ``"both"``.
    - `stop_pseudotime`: Time at which paths end; a path that starts beyond it stays at its start.
    - `evolve_time`: Whether time advances along the path. If not, the field is that of the start time, and a path ends
      only after ``n_steps``, at the target or outside the data.
    - `max_attempts_factor`: With a target: maximum number of start cells, as a multiple of ``n_trajectories``.
    - `method`: Solver of :func:`integrate`.
    - `random_state`: Seed of the choice of start cells.
    """

    target_cluster: str | None = None
    n_trajectories: int = 20
    n_steps: int = 200
    step_size: float = 0.05
    direction: Literal["forward", "backward", "both"] = "forward"
    evolve_time: bool = True
    max_attempts_factor: int = 10
    method: Literal["rk4", "dopri5"] = "rk4"
    stop_pseudotime: float | None = None
    random_state: int = 42

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> TrajectoryOptions:
        """Take the options among the arguments of a function, such as its ``locals()``."""
        return cls(evolve_time=arguments["evolve_pseudotime"], **_fields_among(cls, arguments))

    def __post_init__(self) -> None:
        check_option("direction", self.direction, ["forward", "backward", "both"])
        check_option("method", self.method, ["rk4", "dopri5"])
        check_integers(
            n_trajectories=self.n_trajectories, n_steps=self.n_steps, max_attempts_factor=self.max_attempts_factor
        )
        check_positive(step_size=self.step_size)
        if self.stop_pseudotime is not None and not self.evolve_time:
            raise ValueError("stop_pseudotime needs evolve_pseudotime=True: time does not advance otherwise.")


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """How the particles of a flow are simulated.

    - `n_particles`: Number of particles; several start from one cell if there are more particles than cells.
    - `n_steps`: Maximum number of steps.
    - `step_size`: Step as a fraction of the range of time.
    - `diffusion`: Strength of the noise, without unit: 0.1 to 0.5 is mild, 1 strong.
    - `noise`: ``"tangent"``: noise in the local tangent space of the data, and particles are brought back to the data;
      or ``"isotropic"``.
    - `noise_scale`: Standard deviation of noise added to the starts, in data units.
    - `random_state`: Seed of the choice of cells and of the noise.
    """

    n_particles: int = 200
    n_steps: int = 300
    step_size: float = 0.05
    diffusion: float = 0.5
    noise: Literal["tangent", "isotropic"] = "tangent"
    noise_scale: float = 0.0
    random_state: int = 42

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> FlowOptions:
        """Take the options among the arguments of a function, such as its ``locals()``."""
        return cls(**_fields_among(cls, arguments))

    def __post_init__(self) -> None:
        check_option("noise", self.noise, ["tangent", "isotropic"])
        check_integers(n_particles=self.n_particles, n_steps=self.n_steps)
        check_positive(step_size=self.step_size)
        if not self.noise_scale >= 0:
            raise ValueError(f"noise_scale={self.noise_scale} must be at least 0.")


def trace_trajectories(
    field: VectorField, cells: ClusteredCells, start: StartCells, options: TrajectoryOptions
) -> Trajectories:
    """Integrate the field from cells, forward or backward in time.

    One step is ``step_size`` times the range of time, so that its mean length is the fraction ``step_size`` of the mean
    velocity (data units per range of time), whether time is a pseudotime in [0, 1], days or hours. A path ends after
    ``n_steps``, at the first or last time of the data (where all steps of the path are made equally shorter, so that
    the last one ends there), at the target, or before it is more than ten spacings from the nearest cell.

    - `field`: Velocity (n, d) at positions and times; :func:`interpolate_field` makes one from the velocities of cells.
    - `cells`: Cells with times.
    - `start`: Cells to start from; given rows are all used, in their order.
    - `options`: Steps, direction, target and number of paths.

    Returns paths with their starts, ends and clusters. Raises KeyError if a cluster does not exist; ValueError if no
    cell meets the conditions, or the target was never reached.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from muport.velocity.dynamics._start_cells import StartCells, ClusteredCells
    >>> time = np.linspace(0, 1, 101)
    >>> cells = ClusteredCells.create(time[:, None], time, np.where(time < 0.5, "early", "late"))
    >>> options = TrajectoryOptions(target_cluster="late")
    >>> trajectories = trace_trajectories(lambda x, t: torch.ones_like(x), cells, StartCells(rows=[0]), options)
    >>> trajectories.visited, round(float(trajectories.paths.ends[0, 0]), 2)
    ((('early', 'late'),), 0.5)
    """
    rows = start.select(cells, options.random_state)
    limit = len(rows) if start.rows is not None else options.n_trajectories
    data = fit_manifold(cells.x, random_state=options.random_state)
    target = options.target_cluster
    stop = make_stop_rule(
        data, target=None if target is None else select_cluster(cells.labels, target, "target_cluster")
    )

    def follow(rows: NDArray[np.int64], sign: int) -> Paths:
        spans = _time_spans(cells, rows, sign * options.step_size, options.n_steps, evolve_time=options.evolve_time)
        t0, t1, n_steps = spans
        if options.stop_pseudotime is not None:
            t1 = _end_at(options.stop_pseudotime, t0, t1, cells.time)
        paths = integrate(
            field, cells.x[rows], t0, t1, n_steps=n_steps, method=options.method, evolve_time=options.evolve_time,
            stop=stop,
        )  # fmt: skip
        return _mark_end_of_time(paths, t1, cells.time) if options.evolve_time else paths

    results, starts, signs, n_attempts = [], [], [], 0
    for sign in {"forward": (1,), "backward": (-1,), "both": (1, -1)}[options.direction]:
        if target is None:
            reached, kept, n_tried = follow(rows[:limit], sign), rows[:limit], len(rows[:limit])
        else:
            tried = rows[: limit * options.max_attempts_factor]
            reached, kept, n_tried = _collect_reaching(partial(follow, sign=sign), tried, limit)
        results.append(reached)
        starts.append(kept)
        signs.append(np.full(len(kept), sign, np.int8))
        n_attempts += n_tried
    start_cell = np.concatenate(starts)
    if not len(start_cell):
        raise ValueError(
            f"target_cluster={target!r} was never reached by {n_attempts} paths ({options.direction}): try another "
            "start, direction='both', a larger max_attempts_factor or more n_steps."
        )
    return describe_paths(_concatenate(results), np.concatenate(signs), start_cell, cells, data, n_attempts)


def flow_particles(field: VectorField, cells: ClusteredCells, source: FlowSource, options: FlowOptions) -> Trajectories:
    """Simulate particles that flow from a source, with noise: x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta.

    The coefficient is proportional to the local speed, D = ``diffusion`` h |v(x_n, t_n)|, with h the spacing of the
    data in the space of the noise: the median distance to the nearest other cell within the tangent spaces, or in all
    dimensions for isotropic noise. ``diffusion`` has no unit, and 0 is a deterministic flow. Steps, times and ends are
    those of :func:`trace_trajectories`.

    - `field`: Velocity (n, d) at positions and times.
    - `cells`: Cells with times.
    - `source`: Cells to start from.
    - `options`: Steps, noise and number of particles.

    Returns one forward path for each particle. Raises KeyError if the source cluster does not exist; ValueError if no
    cell meets the conditions.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from muport.velocity.dynamics._start_cells import FlowSource, ClusteredCells
    >>> time = np.linspace(0, 1, 101)
    >>> cells = ClusteredCells.create(time[:, None], time)
    >>> flow = flow_particles(lambda x, t: torch.ones_like(x), cells, FlowSource(), FlowOptions(n_particles=50))
    >>> flow.paths.x.shape, bool((flow.paths.ends > 0.7).all())
    ((50, 21, 1), True)
    """
    n, seed = options.n_particles, options.random_state
    rows = source.select(cells)
    rng = np.random.default_rng(seed)
    start = rng.choice(rows, n, replace=len(rows) < n)
    x0 = cells.x[start] + np.float32(options.noise_scale) * rng.standard_normal((n, cells.x.shape[1]), np.float32)
    data = fit_manifold(cells.x, random_state=seed)
    tangent = options.noise == "tangent" and options.diffusion > 0
    spaces = fit_tangent_spaces(cells.x, random_state=seed) if tangent else None
    t0, t1, n_steps = _time_spans(cells, start, options.step_size, options.n_steps)
    noise, retract = (None, None) if spaces is None else (spaces.project, spaces.retract)
    length_scale = (0.0 if spaces is None else spaces.spacing) or data.spacing
    paths = simulate(
        field, x0, t0, t1, n_steps=n_steps, diffusion=options.diffusion, length_scale=length_scale, noise=noise,
        retract=retract, stop=make_stop_rule(data), random_state=seed,
    )  # fmt: skip
    paths = _mark_end_of_time(paths, t1, cells.time)
    return describe_paths(paths, np.ones(n, np.int8), start, cells, data, n)


def _fields_among(options: type[TrajectoryOptions | FlowOptions], arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: arguments[field.name] for field in fields(options) if field.name in arguments}


def _time_spans(
    cells: ClusteredCells, rows: NDArray[np.int64], step: float, n_steps: int, *, evolve_time: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Start time (m,) and end time (m,) of every path, and the number of equal steps.

    `step` is a fraction of the range of time, negative for backward paths.
    """
    low, high = cells.time.min(), cells.time.max()
    start = cells.time[rows]
    if not evolve_time:
        return start, start + n_steps * step * (high - low), n_steps
    # no path needs more steps than the range of time has; the margin is for 1 / .05 = 20.000000000000004
    n_steps = min(n_steps, int(np.ceil(1 / abs(step) - 1e-9)))
    return start, np.clip(start + n_steps * step * (high - low), low, high), n_steps


def _end_at(
    stop: float, t0: NDArray[np.float64], t1: NDArray[np.float64], time: NDArray[np.float64]
) -> NDArray[np.float64]:
    """End times (m,) of paths that do not go beyond `stop`; ValueError if no path can reach it."""
    forward = t1 >= t0
    if not time.min() <= stop <= time.max() or not np.where(forward, t0 <= stop, t0 >= stop).any():
        raise ValueError(
            f"stop_pseudotime={stop} is beyond the start of all paths, or outside of the time of the cells, "
            f"{time.min():g} to {time.max():g}."
        )
    return np.where(forward, np.minimum(t1, np.maximum(t0, stop)), np.maximum(t1, np.minimum(t0, stop)))


def _mark_end_of_time(paths: Paths, t1: NDArray[np.float64], time: NDArray[np.float64]) -> Paths:
    """Distinguish paths that reached the first or last time of the data from those that made all their steps."""
    at_end = (paths.stopped == StopReason.END) & ((t1 == time.min()) | (t1 == time.max()))
    return replace(paths, stopped=np.where(at_end, np.int8(StopReason.TIME), paths.stopped))


def _collect_reaching(
    follow: Callable[[NDArray[np.int64]], Paths], rows: NDArray[np.int64], limit: int
) -> tuple[Paths, NDArray[np.int64], int]:
    """At most `limit` paths that reach the target, their rows, and the number of paths that were integrated.

    As many paths as are needed are integrated at a time, until enough of them reach the target.
    """
    results, kept, n_kept, n_tried = [], [], 0, 0
    while n_tried < len(rows) and n_kept < limit:
        batch = rows[n_tried : n_tried + limit]
        n_tried += len(batch)
        paths = follow(batch)
        reached = paths.stopped == StopReason.TARGET
        reached &= np.cumsum(reached) <= limit - n_kept
        results.append(Paths(*(getattr(paths, field.name)[reached] for field in fields(paths))))
        kept.append(batch[reached])
        n_kept += int(reached.sum())
    return _concatenate(results), np.concatenate(kept), n_tried


def _concatenate(parts: list[Paths]) -> Paths:
    return Paths(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Paths)))
