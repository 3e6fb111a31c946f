"""Stochastic paths along a velocity field: the Euler-Maruyama scheme, many paths at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from muport.velocity.dynamics._paths import (
    InitialValueProblem,
    PathRecorder,
    Paths,
    StopRule,
    VectorField,
    solve_paths,
    take_equal_steps,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["simulate"]

#: Noise (n, d) at positions (n, d) from standard normal numbers (n, d).
type Noise = Callable[[Tensor, Tensor], Tensor]
#: Positions (n, d) that move with velocities (n, d), brought back to the data.
type Retraction = Callable[[Tensor, Tensor], Tensor]


def simulate(
    field: VectorField,
    x0: ArrayLike | Tensor,
    t0: float | ArrayLike | Tensor,
    t1: float | ArrayLike | Tensor,
    *,
    n_steps: int = 300,
    diffusion: float = 0.5,
    length_scale: float | None = None,
    noise: Noise | None = None,
    retract: Retraction | None = None,
    evolve_time: bool = True,
    stop: StopRule | None = None,
    random_state: int = 0,
) -> Paths:
    """Follow the stochastic differential equation dx = v(x, t) dt + sqrt(2 D) dW (in the sense of Ito).

    Each of ``n_steps`` equal steps is x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta with eta standard normal: weak
    order 1. D is ``diffusion``, in squared data units per unit of time. With ``length_scale`` h it is proportional to
    the local speed instead, ``D(x, t) = diffusion h |v(x, t)|``. ``diffusion`` then has no unit, and a value means the
    same for time in days and in hours. The standard deviation across a path of length L is sqrt(2 diffusion h L), and D
    is 0 where the velocity is 0.

    Parameters
    ----------
    field
        Velocity (n, d) at positions (n, d) and times (n,), as for :func:`integrate`.
    x0
        (n_paths, d) starts, as for :func:`integrate`.
    t0, t1
        Start and end times, numbers or (n_paths,); backward where ``t1`` is before ``t0``.
    n_steps
        Steps of a path, all of equal length.
    diffusion
        Diffusion coefficient, 0 or more.
    length_scale
        A length in data units, such as the typical nearest-neighbor distance.
    noise
        (positions, eta) -> noise (n, d); isotropic by default.
    retract
        (positions, velocity) -> positions, applied after every step.
    evolve_time
        If False the field is evaluated at ``t0`` all along.
    stop
        As for :func:`integrate`.
    random_state
        Seed. The noise of a path depends on the seed, its row and the number of paths, not on when other paths end.

    Returns
    -------
    Paths
        As for :func:`integrate`.

    Raises
    ------
    ValueError
        For a negative diffusion, a length scale that is not positive, shapes that do not fit or starts that are not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import simulate
    >>> paths = simulate(lambda x, t: -x, np.zeros((1000, 1)), 0.0, 4.0, diffusion=0.5)
    >>> bool(0.45 < paths.ends.var() < 0.55)
    True
    """
    if not 0 <= diffusion < float("inf"):
        raise ValueError(f"diffusion={diffusion} must be a finite number of at least 0.")
    if length_scale is not None and not 0 < length_scale < float("inf"):
        raise ValueError(f"length_scale={length_scale} must be a finite number above 0.")
    problem = InitialValueProblem.create(field, x0, t0, t1, n_steps, evolve_time=evolve_time)
    generator = torch.Generator().manual_seed(random_state)

    def draw_noise(x: Tensor, rows: Tensor) -> Tensor:
        # drawn for all paths on the CPU: neither the end of another path nor the device changes the noise of a path
        eta = torch.randn(problem.x0.shape, generator=generator, dtype=x.dtype).to(x.device)[rows]
        return eta if noise is None else noise(x, eta)

    def step(x: Tensor, j: int, rows: Tensor) -> Tensor:
        before, after = problem.times[rows, j - 1], problem.times[rows, j]
        dt = (after - before).to(x)[:, None]
        v = problem.velocity(x, before, rows)
        new = x + dt * v
        if diffusion:
            d = diffusion if length_scale is None else diffusion * length_scale * v.norm(dim=1, keepdim=True)
            new = new + (2 * d * dt.abs()).sqrt() * draw_noise(x, rows)
        return new if retract is None else retract(new, v)

    def solver(problem: InitialValueProblem, recorder: PathRecorder) -> None:
        take_equal_steps(problem, recorder, step)

    return solve_paths(problem, stop, solver)
