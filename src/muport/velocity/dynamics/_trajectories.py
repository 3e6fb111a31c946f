"""Trajectories of cells and flows of particles through a field, from start cells to the clusters they end in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from muport.velocity.dynamics._follow import (
    Follow,
    Trajectories,
    as_cells,
    check_direction,
    check_positive,
    collect,
    describe,
    joined,
    out_of_time,
    place,
    source_rows,
    span,
    start_rows,
)
from muport.velocity.dynamics._integrate import simulate, tangent_noise
from muport.velocity.dynamics._manifold import manifold, stop_rule
from muport.velocity.dynamics._start_cells import in_cluster

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from muport.velocity.dynamics._paths import VectorField

__all__ = ["Trajectories", "flow_particles", "trace_trajectories"]


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
        Keep only paths that come to this cluster, and end them there: where most of the five nearest cells are of it.
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
    >>> from muport.velocity.dynamics._trajectories import trace_trajectories
    >>> time = np.linspace(0, 1, 101)
    >>> labels = np.where(time < 0.5, "early", "late")
    >>> found = trace_trajectories(
    ...     lambda x, t: torch.ones_like(x), time[:, None], time, labels=labels, start_cells=[0], target_cluster="late"
    ... )
    >>> found.visited, round(float(found.paths.ends[0, 0]), 2)
    ((('early', 'late'),), 0.5)
    """
    check_direction(direction)
    check_positive(n_trajectories=n_trajectories, step_size=step_size, max_attempts_factor=max_attempts_factor)
    cells = as_cells(x, time, labels)
    rows = start_rows(cells, start_cells, start_cluster, start_time, end_time, random_state)
    limit = len(rows) if start_cells is not None else n_trajectories
    data = manifold(cells.x, random_state=random_state)
    reached = None if target_cluster is None else in_cluster(cells.labels, target_cluster, "target_cluster")
    follow = Follow(field, cells, n_steps, step_size, evolve_time, method, stop_rule(data, reached=reached))
    signs = {"forward": (1,), "backward": (-1,), "both": (1, -1)}[direction]
    found, starts, sides, attempts = [], [], [], 0
    for sign in signs:
        tried = rows[: limit * max_attempts_factor] if reached is not None else rows[:limit]
        paths, kept, n = collect(follow, tried, sign, limit, keep_all=reached is None)
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
    return describe(joined(found), np.concatenate(sides), start, cells, data, attempts)


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
    >>> from muport.velocity.dynamics._trajectories import flow_particles
    >>> time = np.linspace(0, 1, 101)
    >>> found = flow_particles(lambda x, t: torch.ones_like(x), time[:, None], time, n_particles=50)
    >>> found.paths.x.shape, bool((found.paths.ends > 0.7).all())
    ((50, 21, 1), True)
    """
    if noise not in ("tangent", "isotropic"):
        raise ValueError(f"noise={noise!r} is unknown: use 'tangent' or 'isotropic'.")
    if not noise_scale >= 0:
        raise ValueError(f"noise_scale={noise_scale} must be at least 0.")
    check_positive(n_particles=n_particles, step_size=step_size)
    cells = as_cells(x, time, labels)
    inside = place(len(cells.x), embedding, source_x_lim, source_y_lim)
    rows = source_rows(cells, inside, source_cluster, source_time_min, source_time_max)
    rng = np.random.default_rng(random_state)
    start = rng.choice(rows, n_particles, replace=len(rows) < n_particles)
    x0 = cells.x[start] + np.float32(noise_scale) * rng.standard_normal((n_particles, cells.x.shape[1]), np.float32)
    data = manifold(cells.x, random_state=random_state)
    tangent = tangent_noise(cells.x, random_state=random_state) if noise == "tangent" and diffusion > 0 else None
    t0, t1, n = span(cells.time, start, 1, n_steps, step_size, evolve_time=True)
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
    paths = out_of_time(paths, t1, cells.time)
    return describe(paths, np.ones(n_particles, np.int8), start, cells, data, n_particles)
