"""Runge-Kutta solvers for many paths at once: the classical method of order 4, and Dormand-Prince 5(4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from muport.velocity.dynamics._paths import StopReason, take_equal_steps

if TYPE_CHECKING:
    from muport.velocity.dynamics._paths import InitialValueProblem, PathRecorder

__all__ = ["dopri5", "rk4"]

_MAX_STEPS = 5_000  # of dopri5, rejected steps included
_MIN_STEP = 1e-10  # of dopri5, as a fraction of the time span; at least ten times the machine epsilon
_MIN_FIRST_STEP = 1e-4  # of dopri5, as a fraction of the time span
# Safety factor, and bounds of the ratio of two successive steps: Hairer, Norsett, Wanner, II.4.
_SAFETY, _MIN_RATIO, _MAX_RATIO = 0.9, 0.2, 5.0

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


def rk4(problem: InitialValueProblem, recorder: PathRecorder) -> None:
    """Take equal steps of the classical method: x + h/6 (k1 + 2 k2 + 2 k3 + k4)."""

    def step(x: Tensor, j: int, rows: Tensor) -> Tensor:
        before, after = problem.times[rows, j - 1], problem.times[rows, j]
        h = (after - before).to(x)[:, None]
        middle = (before + after) / 2
        k1 = problem.velocity(x, before, rows)
        k2 = problem.velocity(x + h / 2 * k1, middle, rows)
        k3 = problem.velocity(x + h / 2 * k2, middle, rows)
        k4 = problem.velocity(x + h * k3, after, rows)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    take_equal_steps(problem, recorder, step)


class _State(NamedTuple):
    """Running paths: rows, time (float64), position, slope at the position, and the signed step to try next."""

    rows: Tensor
    t: Tensor
    x: Tensor
    k1: Tensor
    h: Tensor

    def select(self, kept: Tensor) -> _State:
        return _State(*(value[kept] for value in self))


def dopri5(problem: InitialValueProblem, recorder: PathRecorder, rtol: float, atol: float) -> None:
    """Choose the steps of every path by its own error; points inside a step are interpolated."""
    rows = recorder.running
    x, t = problem.x0[rows], problem.t0[rows]
    k1 = problem.velocity(x, t, rows)
    state = _State(rows, t, x, k1, _first_step(x, k1, problem.t1[rows] - t, rtol, atol))
    for _ in range(_MAX_STEPS):
        state = _drop_ended(state, problem, recorder)
        if not len(state.rows):
            return
        state = _attempt_step(problem, recorder, state, rtol, atol)
    recorder.end(state.rows, StopReason.STEP_LIMIT)


def _first_step(x: Tensor, k1: Tensor, span: Tensor, rtol: float, atol: float) -> Tensor:
    """A hundredth of |x| / |v|, both relative to the tolerance; with the sign of the span, and no longer."""
    scale = atol + rtol * x.abs()
    sizes = [(value / scale).square().mean(dim=1).sqrt().double() for value in (x, k1)]
    step = 0.01 * sizes[0].clamp(min=1e-5) / sizes[1].clamp(min=1e-5)
    return step.nan_to_num(nan=0.0).clamp(min=_MIN_FIRST_STEP * span.abs(), max=span.abs()) * span.sign()


def _drop_ended(state: _State, problem: InitialValueProblem, recorder: PathRecorder) -> _State:
    """Drop paths that ended, and end those whose step became too short."""
    least = max(_MIN_STEP, 10 * torch.finfo(state.x.dtype).eps)
    short = state.h.abs() < least * (problem.t1 - problem.t0)[state.rows].abs()
    running = torch.isin(state.rows, recorder.running)
    if bool((short & running).any()):
        diverged = ~state.k1.isfinite().all(dim=1)
        for mask, reason in ((~diverged, StopReason.STEP_LIMIT), (diverged, StopReason.NOT_FINITE)):
            recorder.end(state.rows[short & running & mask], reason)
    return state.select(running & ~short)


def _attempt_step(
    problem: InitialValueProblem, recorder: PathRecorder, state: _State, rtol: float, atol: float
) -> _State:
    """Take one step of every path whose error is within the tolerance, and choose the next step."""
    rows, t, x, _, h = state
    left = problem.t1[rows] - t
    ends = h.abs() >= left.abs() * (1 - 1e-9)
    h = torch.where(ends, left, h)
    slopes, new = _stages(problem, state, h)
    error = h.to(x)[:, None] * torch.einsum("s,smd->md", x.new_tensor(_ERROR), slopes)
    size = (error / (atol + rtol * torch.maximum(x.abs(), new.abs()))).square().mean(dim=1).sqrt()
    accepted = size <= 1  # False for NaN
    factor = (_SAFETY * size.double().clamp(min=1e-10) ** -0.2).clamp(_MIN_RATIO, _MAX_RATIO)
    factor = torch.where(accepted, factor, factor.clamp(max=1.0)).nan_to_num(nan=_MIN_RATIO)
    after = torch.where(ends, problem.t1[rows], t + h)
    _interpolate_points(problem, recorder, state.select(accepted), slopes[:, accepted], h[accepted], after[accepted])
    keep = accepted[:, None]
    return _State(
        rows,
        torch.where(accepted, after, t),
        torch.where(keep, new, x),
        torch.where(keep, slopes[6], slopes[0]),
        h * factor,
    )


def _stages(problem: InitialValueProblem, state: _State, h: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes k (7, m, d) and the end of the step (m, d); the last slope is the first of the next step."""
    step = h.to(state.x)[:, None]
    slopes, point = [state.k1], state.x
    for c, weights in zip(_C[1:], _A[1:], strict=True):
        increment = sum((w * k for w, k in zip(weights, slopes, strict=True) if w), torch.zeros_like(point))
        point = state.x + step * increment
        slopes.append(problem.velocity(point, state.t + c * h, state.rows))
    return torch.stack(slopes), point


def _interpolate_points(
    problem: InitialValueProblem, recorder: PathRecorder, state: _State, slopes: Tensor, h: Tensor, after: Tensor
) -> None:
    """Fill in and check the points of the paths that lie within the accepted steps."""
    grid, sign = problem.times[state.rows], h.sign()[:, None]
    inside = (sign * (grid - state.t[:, None]) > 0) & (sign * (grid - after[:, None]) <= 0)
    path, column = torch.nonzero(inside, as_tuple=True)
    if not len(path):
        return
    s = ((grid[path, column] - state.t[path]) / h[path]).to(state.x)
    powers = torch.stack([s, s**2, s**3, s**4])
    weight = state.x.new_tensor(_DENSE) @ powers  # (7, points)
    point = state.x[path] + h[path].to(state.x)[:, None] * torch.einsum("sp,spd->pd", weight, slopes[:, path])
    recorder.x[state.rows[path], column] = point
    end = recorder.length.clone()
    end[state.rows] += inside.sum(dim=1)
    recorder.check(end)
