"""Runge-Kutta solvers for many paths at once: the classical one of order 4, and Dormand-Prince 5(4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from muport.velocity.dynamics._paths import StopReason

if TYPE_CHECKING:
    from muport.velocity.dynamics._paths import Course, Record, VectorField

__all__ = ["CHUNK", "dopri5", "rk4"]

CHUNK = 16  # steps between two questions to the stop rule, whose searches are cheaper for many points at once
_ATTEMPTS = 5_000  # steps of dopri5, the refused ones included
_SHORTEST = 1e-10  # step of dopri5, of the span; ten times the resolution of the numbers if that is more
_FIRST = 1e-4  # least first step of dopri5, of the span
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0  # of the next step: Hairer, Norsett, Wanner, II.4

# Dormand & Prince (1980): nodes c, stages a, the row b of order 5 (also the last stage) and b - b* for the error.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# Shampine (1986): x(t + s h) = x + h sum_ij k_i _DENSE[i][j] s^(j+1), of order 4.
_DENSE = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)


def rk4(field: VectorField, course: Course, record: Record) -> None:
    """Take equal steps of the classical method; points are checked every few steps."""
    n = course.times.shape[1]
    for first in range(1, n, CHUNK):
        rows = record.running
        if not len(rows):
            return
        last = min(first + CHUNK, n)
        for j in range(first, last):
            record.x[rows, j] = _rk4_step(field, course, record.x[rows, j - 1], j, rows)
        record.check(last)


def _rk4_step(field: VectorField, course: Course, x: Tensor, j: int, rows: Tensor) -> Tensor:
    """X + h/6 (k1 + 2 k2 + 2 k3 + k4)."""
    before, after = course.times[rows, j - 1], course.times[rows, j]
    h = (after - before).to(x)[:, None]
    start, middle, end = (course.seen(t, rows) for t in (before, (before + after) / 2, after))
    k1 = field(x, start)
    k2 = field(x + h / 2 * k1, middle)
    k3 = field(x + h / 2 * k2, middle)
    k4 = field(x + h * k3, end)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


class _State(NamedTuple):
    """Paths in progress: their rows, time (float64), position, slope there, and the signed step to try next."""

    rows: Tensor
    t: Tensor
    x: Tensor
    k1: Tensor
    h: Tensor

    def of(self, kept: Tensor) -> _State:
        return _State(*(value[kept] for value in self))


def dopri5(field: VectorField, course: Course, record: Record, rtol: float, atol: float) -> None:
    """Step every path by its own error, and read the points of each accepted step from the interpolant."""
    rows = record.running
    x, t = course.x0[rows], course.t0[rows]
    k1 = field(x, course.seen(t, rows))
    state = _State(rows, t, x, k1, _first_step(x, k1, course.t1[rows] - t, rtol, atol))
    for _ in range(_ATTEMPTS):
        state = _alive(state, course, record)
        if not len(state.rows):
            return
        state = _attempt(field, course, record, state, rtol, atol)
    record.end(state.rows, StopReason.STEP_LIMIT)


def _first_step(x: Tensor, k1: Tensor, span: Tensor, rtol: float, atol: float) -> Tensor:
    """A hundredth of |x| / |v| in units of the tolerance, signed, and no longer than the span."""
    scale = atol + rtol * x.abs()
    sizes = [(value / scale).square().mean(dim=1).sqrt().double() for value in (x, k1)]
    step = 0.01 * sizes[0].clamp(min=1e-5) / sizes[1].clamp(min=1e-5)
    return step.nan_to_num(nan=0.0).clamp(min=_FIRST * span.abs(), max=span.abs()) * span.sign()


def _alive(state: _State, course: Course, record: Record) -> _State:
    """Leave out paths that ended, and end those whose step became too short."""
    least = max(_SHORTEST, 10 * torch.finfo(state.x.dtype).eps)
    short = state.h.abs() < least * (course.t1 - course.t0)[state.rows].abs()
    running = torch.isin(state.rows, record.running)
    if bool((short & running).any()):
        blown = ~state.k1.isfinite().all(dim=1)
        for mask, reason in ((~blown, StopReason.STEP_LIMIT), (blown, StopReason.NOT_FINITE)):
            record.end(state.rows[short & running & mask], reason)
    return state.of(running & ~short)


def _attempt(field: VectorField, course: Course, record: Record, state: _State, rtol: float, atol: float) -> _State:
    """One step of every path: taken where its error allows, and the length of the next one."""
    rows, t, x, _, h = state
    left = course.t1[rows] - t
    ends = h.abs() >= left.abs() * (1 - 1e-9)
    h = torch.where(ends, left, h)
    slopes, new = _stages(field, course, state, h)
    error = h.to(x)[:, None] * torch.einsum("s,smd->md", x.new_tensor(_ERROR), slopes)
    size = (error / (atol + rtol * torch.maximum(x.abs(), new.abs()))).square().mean(dim=1).sqrt()
    taken = size <= 1  # False for NaN
    factor = (_SAFETY * size.double().clamp(min=1e-10) ** -0.2).clamp(_SHRINK, _GROW)
    factor = torch.where(taken, factor, factor.clamp(max=1.0)).nan_to_num(nan=_SHRINK)
    after = torch.where(ends, course.t1[rows], t + h)
    _dense(course, record, state.of(taken), slopes[:, taken], h[taken], after[taken])
    keep = taken[:, None]
    return _State(
        rows,
        torch.where(taken, after, t),
        torch.where(keep, new, x),
        torch.where(keep, slopes[6], slopes[0]),
        h * factor,
    )


def _stages(field: VectorField, course: Course, state: _State, h: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes k (7, m, d) and the end of the step (m, d); the last slope is the first of the next step."""
    step = h.to(state.x)[:, None]
    slopes, point = [state.k1], state.x
    for c, weights in zip(_C[1:], _A[1:], strict=True):
        increment = sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros_like(point))
        point = state.x + step * increment
        slopes.append(field(point, course.seen(state.t + c * h, state.rows)))
    return torch.stack(slopes), point


def _dense(course: Course, record: Record, state: _State, slopes: Tensor, h: Tensor, after: Tensor) -> None:
    """Fill the points that lie in the accepted steps, and have them checked."""
    grid, sign = course.times[state.rows], h.sign()[:, None]
    inside = (sign * (grid - state.t[:, None]) > 0) & (sign * (grid - after[:, None]) <= 0)
    path, column = torch.nonzero(inside, as_tuple=True)
    if not len(path):
        return
    s = ((grid[path, column] - state.t[path]) / h[path]).to(state.x)
    powers = torch.stack([s, s**2, s**3, s**4])
    weight = state.x.new_tensor(_DENSE) @ powers  # (7, points)
    point = state.x[path] + h[path].to(state.x)[:, None] * torch.einsum("sp,spd->pd", weight, slopes[:, path])
    record.x[state.rows[path], column] = point
    upto = record.length.clone()
    upto[state.rows] += inside.sum(dim=1)
    record.check(upto)
