"""Stochastic flow along a field: the Euler-Maruyama scheme, many paths at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from muport.velocity.dynamics._paths import Course, Paths, Record, StopRule, VectorField, course, guarded, one_thread
from muport.velocity.dynamics._runge_kutta import CHUNK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["simulate"]

#: Noise (n, d) at positions (n, d) made of standard normal numbers (n, d).
type Noise = Callable[[Tensor, Tensor], Tensor]
#: Positions (n, d), brought back to the data.
type Retraction = Callable[[Tensor], Tensor]


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
    order 1. D is ``diffusion``, in squared data units per unit of time. With ``length_scale`` h it follows the local
    speed instead, ``D(x, t) = diffusion h |v(x, t)|``: ``diffusion`` then has no unit, is the same for time in days and
    in hours, spreads a path of length L by sqrt(2 diffusion h L), and vanishes where cells rest.

    Parameters
    ----------
    field
        Velocity (n, d) at positions (n, d) and times (n,).
    x0
        (n_paths, d) starts, as for :func:`integrate`.
    t0, t1
        Start and end, numbers or (n_paths,); backward where ``t1`` is before ``t0``.
    n_steps
        Steps of a path, all of equal length.
    diffusion
        Diffusion coefficient, 0 or more.
    length_scale
        A length in data units, such as the typical nearest-neighbour distance.
    noise
        (positions, eta) -> noise (n, d), such as :func:`tangent_noise`; isotropic by default.
    retract
        (positions) -> positions, applied after every step, such as ``tangent_noise(...).retract``.
    evolve_time
        If False the field is shown ``t0`` all along.
    stop
        As for :func:`integrate`.
    random_state
        Seed. A path's noise depends on the seed, its row and the number of paths, not on when others end.

    Returns
    -------
    Paths
        Positions (n_paths, n_steps + 1, d), times, lengths and reasons.

    Raises
    ------
    ValueError
        For a negative diffusion, a length scale that is not positive, shapes that do not fit or starts that are not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.dynamics._integrate import simulate
    >>> paths = simulate(lambda x, t: -x, np.zeros((1000, 1)), 0.0, 4.0, diffusion=0.5)
    >>> bool(0.45 < paths.ends.var() < 0.55)
    True
    """
    if not 0 <= diffusion < float("inf"):
        raise ValueError(f"diffusion={diffusion} must be a finite number of at least 0.")
    if length_scale is not None and not 0 < length_scale < float("inf"):
        raise ValueError(f"length_scale={length_scale} must be a finite number above 0.")
    plan = course(x0, t0, t1, n_steps, evolve_time=evolve_time)
    record = Record(plan, stop)
    with torch.no_grad(), one_thread(len(plan.x0)):
        step = _Step(guarded(field), plan, diffusion, length_scale, noise, retract, random_state)
        for first in range(1, plan.times.shape[1], CHUNK):
            rows = record.running
            if not len(rows):
                break
            last = min(first + CHUNK, plan.times.shape[1])
            for j in range(first, last):
                record.x[rows, j] = step(record.x[rows, j - 1], j, rows)
            record.check(last)
    return record.paths()


class _Step:
    """One step of the scheme, and the stream of noise that it draws from."""

    def __init__(
        self,
        field: VectorField,
        course: Course,
        diffusion: float,
        length_scale: float | None,
        noise: Noise | None,
        retract: Retraction | None,
        seed: int,
    ) -> None:
        self._field, self._course = field, course
        self._diffusion, self._length_scale = diffusion, length_scale
        self._noise, self._retract = noise, retract
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, j: int, rows: Tensor) -> Tensor:
        before, after = self._course.times[rows, j - 1], self._course.times[rows, j]
        dt = (after - before).to(x)[:, None]
        v = self._field(x, self._course.seen(before, rows))
        new = x + dt * v
        if self._diffusion:
            new = new + (2 * self._coefficient(v) * dt.abs()).sqrt() * self._eta(x, rows)
        return new if self._retract is None else self._retract(new)

    def _coefficient(self, v: Tensor) -> Tensor | float:
        if self._length_scale is None:
            return self._diffusion
        speed: Tensor = v.norm(dim=1, keepdim=True)
        return self._diffusion * self._length_scale * speed

    def _eta(self, x: Tensor, rows: Tensor) -> Tensor:
        # Drawn for all paths, on the CPU: neither the end of one path nor the device changes another's noise.
        drawn = torch.randn(self._course.x0.shape, generator=self._generator, dtype=x.dtype)
        eta = drawn.to(x.device)[rows]
        return eta if self._noise is None else self._noise(x, eta)
