"""Paths through a field: what an integration returns, why each path ends, and how its points are recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport._parallel import single_threaded_torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Course", "Paths", "Record", "StopReason", "StopRule", "VectorField", "course", "guarded", "one_thread"]

#: Velocity (n, d) at positions (n, d) and times (n,).
type VectorField = Callable[[Tensor, Tensor], Tensor]
#: Reason (n,) to end a path at positions (n, d) and times (n,); 0 to go on.
type StopRule = Callable[[Tensor, Tensor], Tensor]

_BLOWN_UP = 1e6  # times the largest coordinate of the starts
_NO_SPAN = -1  # of a path that ends where it starts, until it is returned
_SMALL = 4_096  # paths up to which a second thread only waits


class StopReason(IntEnum):
    """Why a path ended; the codes of :attr:`Paths.stopped`.

    A point that is off the data or not finite is not kept: the path ends at the last good one.
    """

    END = 0  # the whole span was integrated
    TARGET = 1  # a target was reached
    OFF_MANIFOLD = 2  # the next point would be too far from the data
    TIME = 3  # the path came to the end of the data's time
    NOT_FINITE = 4  # the field was not finite there, or blew up
    STEP_LIMIT = 5  # the adaptive solver could not hold its tolerance


_NOT_KEPT = (StopReason.OFF_MANIFOLD, StopReason.NOT_FINITE)


@dataclass(frozen=True)
class Paths:
    """Points along paths, equally spaced in time.

    Attributes
    ----------
    x
        (n_paths, n_points, d) float32 positions, the start first; after ``length`` points the last one is repeated.
    time
        (n_paths, n_points) float32 times of these points, repeated likewise.
    length
        (n_paths,) int64 points of each path, at least 1.
    stopped
        (n_paths,) int8 :class:`StopReason`.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float32]
    length: NDArray[np.int64]
    stopped: NDArray[np.int8]

    @property
    def ends(self) -> NDArray[np.float32]:
        """(n_paths, d) last point of each path."""
        return self.x[:, -1]


@dataclass(frozen=True)
class Course:
    """What is integrated: starts (P, d), spans of time (P,), the times of the points (P, N), and the field's clock.

    Times are float64, so that a short step far from time 0 is not lost. The field is shown t0 + clock (t - t0).
    """

    x0: Tensor
    t0: Tensor
    t1: Tensor
    times: Tensor
    clock: float

    def seen(self, t: Tensor, rows: Tensor) -> Tensor:
        """Time (m,) that the field is shown at time t (m,) of the paths `rows`."""
        shown: Tensor = torch.lerp(self.t0[rows], t, self.clock)
        return shown.to(self.x0.dtype)


def course(x0: ArrayLike | Tensor, t0: object, t1: object, n_steps: int, *, evolve_time: bool) -> Course:
    """Check starts and times and lay out the points. NumPy starts are float32, a tensor keeps its type and device."""
    start = x0.detach() if isinstance(x0, Tensor) else torch.from_numpy(np.array(x0, dtype=np.float32))
    if start.ndim != 2 or 0 in start.shape or not start.is_floating_point():
        raise ValueError(f"x0 has shape {tuple(start.shape)}: pass (n_paths, d) real numbers, neither of them 0.")
    if not isinstance(n_steps, int | np.integer) or n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r} must be a whole number of at least 1.")
    if not bool(start.isfinite().all()):
        raise ValueError("x0 has a NaN or infinite entry: start from finite positions.")
    first, last = (_times(value, name, start) for name, value in (("t0", t0), ("t1", t1)))
    fraction = torch.linspace(0, 1, int(n_steps) + 1, dtype=torch.float64, device=start.device)
    times = torch.lerp(first[:, None], last[:, None], fraction[None])
    return Course(start, first, last, times, float(evolve_time))


def _times(value: object, name: str, start: Tensor) -> Tensor:
    times = torch.as_tensor(value, dtype=torch.float64, device=start.device)
    if times.shape not in {(), (len(start),)}:
        raise ValueError(
            f"{name} has shape {tuple(times.shape)}: pass one time, or one for each of {len(start)} paths."
        )
    if not bool(times.isfinite().all()):
        raise ValueError(f"{name} has a NaN or infinite entry: pass finite times.")
    return times.expand(len(start)).clone()


def guarded(field: VectorField) -> VectorField:
    """Ask the field at finite positions only; NaN elsewhere, which ends the path."""

    def ask(x: Tensor, t: Tensor) -> Tensor:
        finite = x.isfinite().all(dim=1)
        if bool(finite.all()):
            return _asked(field, x, t)
        v = torch.full_like(x, float("nan"))
        if bool(finite.any()):
            v[finite] = _asked(field, x[finite], t[finite])
        return v

    return ask


def _asked(field: VectorField, x: Tensor, t: Tensor) -> Tensor:
    v = field(x, t)
    if v.shape != x.shape:
        raise ValueError(f"The field returned shape {tuple(v.shape)} for positions of shape {tuple(x.shape)}.")
    return v.to(x.dtype)


class Record:
    """The points of paths as they come, cut where a rule says so."""

    def __init__(self, course: Course, stop: StopRule | None) -> None:
        self.x = course.x0[:, None].repeat(1, course.times.shape[1], 1)
        self.times = course.times
        self.length = torch.ones(len(self.x), dtype=torch.int64, device=self.x.device)
        self.stopped = torch.zeros(len(self.x), dtype=torch.int8, device=self.x.device)
        self._stop = stop
        self._limit = _BLOWN_UP * max(1.0, float(course.x0.abs().max()))
        self.end(course.t0 == course.t1, _NO_SPAN)

    def end(self, rows: Tensor, reason: int) -> None:
        """End paths, by a mask (P,) or by their rows (m,), with the points they have."""
        self.stopped[rows] = reason

    @property
    def running(self) -> Tensor:
        """Rows (m,) of the paths that go on."""
        rows: Tensor = torch.nonzero((self.stopped == 0) & (self.length < self.times.shape[1]))[:, 0]
        return rows

    def check(self, upto: int | Tensor) -> None:
        """Accept the new points of running paths up to column `upto`, exclusive, or end the path at one of them."""
        going = self.stopped == 0
        last = torch.as_tensor(upto, device=self.x.device).expand(len(self.x))
        if not bool((going & (last > self.length)).any()):
            return
        low = int(self.length[going].min())
        columns = torch.arange(low, int(last[going].max()), device=self.x.device)
        new = going[:, None] & (columns >= self.length[:, None]) & (columns < last[:, None])
        rows, cols = torch.nonzero(new, as_tuple=True)
        codes = torch.zeros_like(new, dtype=torch.int8)
        codes[rows, cols] = self._codes(self.x[rows, cols + low], self.times[rows, cols + low])
        met, first = (codes != 0).max(dim=1)
        code = codes.gather(1, first[:, None])[:, 0]
        dropped = torch.isin(code, torch.tensor(_NOT_KEPT, dtype=torch.int8, device=self.x.device))
        length = torch.where(met, first + low + (~dropped).long(), torch.maximum(self.length, last))
        self.length = torch.where(going, length, self.length)
        self.stopped = torch.where(met, code, self.stopped)

    def _codes(self, x: Tensor, t: Tensor) -> Tensor:
        good = (x.abs() <= self._limit).all(dim=1)  # False for NaN
        codes = torch.full(x.shape[:1], int(StopReason.NOT_FINITE), dtype=torch.int8, device=x.device)
        if bool(good.any()):
            kept = 0 if self._stop is None else self._stop(x[good], t[good]).to(codes)
            codes[good] = kept
        return codes

    def paths(self) -> Paths:
        """The paths, every one continued by its last point."""
        columns = torch.arange(self.times.shape[1], device=self.x.device)
        kept = torch.minimum(columns, self.length[:, None] - 1)
        x = self.x.gather(1, kept[..., None].expand_as(self.x)).float().cpu().numpy()
        time = self.times.gather(1, kept).float().cpu().numpy()
        return Paths(x, time, self.length.cpu().numpy(), self.stopped.clamp(min=0).cpu().numpy())


def one_thread(n: int = 0) -> AbstractContextManager[None]:
    """Keep torch to one thread, unless more than 4,096 paths step: in small products two mostly wait for each other.

    Nor can the number of threads then change a sum, and with it a result.
    """
    return single_threaded_torch(n <= _SMALL)
