"""Paths along a velocity field: the problem to solve, why a path ends, how its points are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport._checks import check_integers
from muport._parallel import single_threaded_torch
from muport._tables import rows_in_one_order

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "InitialValueProblem", "PathRecorder", "Paths", "StopReason", "StopRule", "VectorField", "solve_paths",
    "take_equal_steps",
]  # fmt: skip

#: Velocity (n, d) at positions (n, d) and times (n,).
type VectorField = Callable[[Tensor, Tensor], Tensor]
#: Reason (n,) to end a path at positions (n, d) and times (n,); 0 to continue.
type StopRule = Callable[[Tensor, Tensor], Tensor]

_DIVERGED = 1e6  # a larger coordinate, in multiples of the largest coordinate of the starts, ends the path
_EMPTY_SPAN = -1  # internal reason of a path whose end time is its start time; returned as END
_ONE_THREAD_UP_TO = 4_096  # paths; with fewer, a second thread mostly waits
_CHECK_EVERY = 16  # steps between two checks: the stop rule searches neighbors faster for many points at once


class StopReason(IntEnum):
    """Why a path ended; the codes of :attr:`Paths.stopped`.

    A point that is off the data or not finite is not kept: the path ends at the last point before it.
    """

    END = 0  # the end time was reached
    TARGET = 1  # a target was reached
    OFF_MANIFOLD = 2  # the next point would be too far from the data
    TIME = 3  # the path reached the first or last time of the data
    NOT_FINITE = 4  # the field was not finite there, or diverged
    STEP_LIMIT = 5  # the adaptive solver could not meet its tolerance


_NOT_KEPT = (StopReason.OFF_MANIFOLD, StopReason.NOT_FINITE)


@dataclass(frozen=True)
class Paths:
    """Points along paths, equally spaced in time.

    Attributes
    ----------
    x
        (n_paths, n_points, d) float32 positions, the start first; after ``length`` points the last one is repeated.
    time
        (n_paths, n_points) float32 times of these points, repeated in the same way.
    length
        (n_paths,) int64 number of points of each path, at least 1.
    stopped
        (n_paths,) int8 :class:`StopReason`.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float32]
    length: NDArray[np.int64]
    stopped: NDArray[np.int8]

    def __repr__(self) -> str:
        """Describe the paths in one line."""
        return f"Paths: {len(self.length)} paths, {self.describe_points()}"

    def describe_points(self) -> str:
        """Describe the number of points and why the paths end."""
        if not len(self.length):
            return f"in {self.x.shape[2]} dimensions"
        reasons = ", ".join(
            f"{StopReason(code).name.lower().replace('_', ' ')} ({count})"
            for code, count in zip(*np.unique(self.stopped, return_counts=True), strict=True)
        )
        points = f"{self.length.min()} to {self.length.max()} points in {self.x.shape[2]} dimensions"
        return f"{points}; ended by: {reasons}"

    @property
    def ends(self) -> NDArray[np.float32]:
        """(n_paths, d) last point of each path."""
        return self.x[:, -1]


@dataclass(frozen=True)
class InitialValueProblem:
    """A field to be followed from P starts, each from a start time to an end time.

    - `field`: Velocity (n, d) at positions (n, d) and times (n,). NaN where a position is not finite, which ends the
      path.
    - `x0`: (P, d) starts.
    - `t0`, `t1`: (P,) float64 start and end times. In float32 a short step far from time 0 would be rounded to 0.
    - `times`: (P, N) float64 times of the points of the paths.
    - `evolve_time`: Whether the field is evaluated at the time of the path, or always at the start time.
    """

    field: VectorField
    x0: Tensor
    t0: Tensor
    t1: Tensor
    times: Tensor
    evolve_time: bool

    @classmethod
    def create(
        cls, field: VectorField, x0: ArrayLike | Tensor, t0: object, t1: object, n_steps: int, *, evolve_time: bool
    ) -> InitialValueProblem:
        """Check starts and times. Starts of NumPy become float32, a tensor keeps its type and device."""
        x0, t0, t1 = rows_in_one_order("path", x0=x0, t0=t0, t1=t1)
        start = x0.detach() if isinstance(x0, Tensor) else torch.from_numpy(np.array(x0, dtype=np.float32))
        if start.ndim != 2 or 0 in start.shape or not start.is_floating_point():
            raise ValueError(f"x0 has shape {tuple(start.shape)}: pass (n_paths, d) real numbers, neither of them 0.")
        check_integers(n_steps=n_steps)
        if not bool(start.isfinite().all()):
            raise ValueError("x0 has a NaN or infinite entry: start from finite positions.")
        first, last = (_as_times(value, name, start) for name, value in (("t0", t0), ("t1", t1)))
        fraction = torch.linspace(0, 1, int(n_steps) + 1, dtype=torch.float64, device=start.device)
        times = torch.lerp(first[:, None], last[:, None], fraction[None])
        return cls(_nan_outside_finite(field), start, first, last, times, evolve_time)

    @property
    def n_points(self) -> int:
        """Points of a path, the start included."""
        return self.times.shape[1]

    def velocity(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Velocity (m, d) at positions (m, d) and times (m,) of the paths `rows`."""
        clock = torch.lerp(self.t0[rows], t, float(self.evolve_time))
        return self.field(x, clock.to(self.x0.dtype))


def _as_times(value: object, name: str, start: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        # a copy: torch takes no read-only, reversed or big-endian array
        value = np.array(value, dtype=np.float64)
    times = torch.as_tensor(value, dtype=torch.float64, device=start.device)
    if times.shape not in {(), (len(start),)}:
        raise ValueError(
            f"{name} has shape {tuple(times.shape)}: pass one time, or one for each of {len(start)} paths."
        )
    if not bool(times.isfinite().all()):
        raise ValueError(f"{name} has a NaN or infinite entry: pass finite times.")
    return times.expand(len(start)).clone()


def _nan_outside_finite(field: VectorField) -> VectorField:
    """Evaluate the field at finite positions only, and return NaN for the others."""

    def evaluate(x: Tensor, t: Tensor) -> Tensor:
        # fields of NumPy, such as Velocity.query_velocity, are followed, too
        v = torch.as_tensor(field(x, t), device=x.device)
        if v.shape != x.shape:
            raise ValueError(f"The field returned shape {tuple(v.shape)} for positions of shape {tuple(x.shape)}.")
        return v.to(x.dtype)

    def evaluate_finite(x: Tensor, t: Tensor) -> Tensor:
        finite = x.isfinite().all(dim=1)
        if bool(finite.all()):
            return evaluate(x, t)
        v = torch.full_like(x, float("nan"))
        if bool(finite.any()):
            v[finite] = evaluate(x[finite], t[finite])
        return v

    return evaluate_finite


def solve_paths(
    problem: InitialValueProblem, stop: StopRule | None, solver: Callable[[InitialValueProblem, PathRecorder], None]
) -> Paths:
    """Run a solver on a problem without gradients, on one thread unless more than 4,096 paths are solved.

    The number of threads then cannot change a sum, and with it a result.
    """
    recorder = PathRecorder(problem, stop)
    with torch.no_grad(), single_threaded_torch(len(problem.x0) <= _ONE_THREAD_UP_TO):
        solver(problem, recorder)
    return recorder.paths()


def take_equal_steps(
    problem: InitialValueProblem, recorder: PathRecorder, step: Callable[[Tensor, int, Tensor], Tensor]
) -> None:
    """Take a step from each point of a path to the next: step(positions (m, d), number of the new point, rows (m,))."""
    for first in range(1, problem.n_points, _CHECK_EVERY):
        rows = recorder.running
        if not len(rows):
            return
        last = min(first + _CHECK_EVERY, problem.n_points)
        for j in range(first, last):
            recorder.x[rows, j] = step(recorder.x[rows, j - 1], j, rows)
        recorder.check(last)


class PathRecorder:
    """The points of the paths of a problem, and where each path ends."""

    def __init__(self, problem: InitialValueProblem, stop: StopRule | None) -> None:
        self.x = problem.x0[:, None].repeat(1, problem.n_points, 1)
        self.times = problem.times
        self.length = torch.ones(len(self.x), dtype=torch.int64, device=self.x.device)
        self.stopped = torch.zeros(len(self.x), dtype=torch.int8, device=self.x.device)
        self._stop = stop
        self._limit = _DIVERGED * max(1.0, float(problem.x0.abs().max()))
        self.end(problem.t0 == problem.t1, _EMPTY_SPAN)

    def end(self, rows: Tensor, reason: int) -> None:
        """End paths, given by a mask (P,) or their rows (m,), after the points they have."""
        self.stopped[rows] = reason

    @property
    def running(self) -> Tensor:
        """Rows (m,) of the paths that have not ended."""
        rows: Tensor = torch.nonzero((self.stopped == 0) & (self.length < self.times.shape[1]))[:, 0]
        return rows

    def check(self, end: int | Tensor) -> None:
        """Accept the new points of running paths before column `end`, or end the path at the first that is stopped."""
        running = self.stopped == 0
        last = torch.as_tensor(end, device=self.x.device).expand(len(self.x))
        if not bool((running & (last > self.length)).any()):
            return
        low = int(self.length[running].min())
        columns = torch.arange(low, int(last[running].max()), device=self.x.device)
        new = running[:, None] & (columns >= self.length[:, None]) & (columns < last[:, None])
        rows, cols = torch.nonzero(new, as_tuple=True)
        codes = torch.zeros_like(new, dtype=torch.int8)
        codes[rows, cols] = self._stop_codes(self.x[rows, cols + low], self.times[rows, cols + low])
        ended, first = (codes != 0).max(dim=1)
        code = codes.gather(1, first[:, None])[:, 0]
        dropped = torch.isin(code, torch.tensor(_NOT_KEPT, dtype=torch.int8, device=self.x.device))
        length = torch.where(ended, first + low + (~dropped).long(), torch.maximum(self.length, last))
        self.length = torch.where(running, length, self.length)
        self.stopped = torch.where(ended, code, self.stopped)

    def _stop_codes(self, x: Tensor, t: Tensor) -> Tensor:
        """(n,) reason to end a path at each of some points, 0 to continue."""
        valid = (x.abs() <= self._limit).all(dim=1)  # False for NaN
        codes = torch.full(x.shape[:1], int(StopReason.NOT_FINITE), dtype=torch.int8, device=x.device)
        if bool(valid.any()):
            codes[valid] = 0 if self._stop is None else self._stop(x[valid], t[valid]).to(codes)
        return codes

    def paths(self) -> Paths:
        """The paths, each filled up with its last point."""
        columns = torch.arange(self.times.shape[1], device=self.x.device)
        column = torch.minimum(columns, self.length[:, None] - 1)
        x = self.x.gather(1, column[..., None].expand_as(self.x)).float().cpu().numpy()
        time = self.times.gather(1, column).float().cpu().numpy()
        return Paths(x, time, self.length.cpu().numpy(), self.stopped.clamp(min=0).cpu().numpy())
