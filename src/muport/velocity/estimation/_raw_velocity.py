"""Raw velocity of each cell: central difference of the transports to later and to earlier cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points
from muport.ot import cost_matrix, sinkhorn
from muport.velocity.estimation._windows import check_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.estimation._windows import Windows

__all__ = ["RawVelocity", "bandwidth", "ot_velocity"]

_NEIGHBOR = 5  # neighbour whose distance sets the regularisation
_SAMPLE = 64  # windows from which that distance is read
_ENTRIES = 2**20  # plan entries held at once
_MAX_ITER, _TOL = 100, 1e-2  # the barycentres move by less than a hundredth of the spread of their matches
_LEAST_SPAN = 1e-3  # of the range of time, the gap between windows below which growth is not told
_LEAST_GAP = 0.2  # of the median time gap, below which a difference quotient is noise


@dataclass(frozen=True, eq=False)
class RawVelocity:
    """Velocity of each cell as the plans tell it, before any smoothing.

    Attributes
    ----------
    velocity
        (n, d) float32 displacement per unit of time; 0 where not covered.
    weight
        (n,) float32 time gap of the difference quotient, its weight in a fit; 0 where not covered.
    confidence
        (n,) float32 in 0..1: share of the two sides, later and earlier, on which the cell has a partner window, times
        the number of windows it was in over the largest such number.
    growth
        (n,) float32 log change of mass per unit of time against the mean of the cell's window; 0 if balanced.
    block
        (n,) int64 window of each cell, the unit of resampling; -1 where not covered.
    converged
        Share of the transport problems that converged.
    midpoint
        (n,) float64 time in the middle of the gap, the cell's own where not covered; ``None`` if the gap is not known.
    """

    velocity: NDArray[np.float32]
    weight: NDArray[np.float32]
    confidence: NDArray[np.float32]
    growth: NDArray[np.float32]
    block: NDArray[np.int64]
    converged: float
    midpoint: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all windows share; tensors on the device. ``near`` (n, k) are the neighbours, sorted."""

    x: Tensor
    time: Tensor
    origin: float
    reg: float | None
    bandwidth: float
    tau: float
    lambda_time: float
    lambda_knn: float
    near: Tensor | None


class _Sums:
    """Sums over the windows of a cell, by side: matched positions and times, windows, growth; kept on the CPU.

    There a sum over the windows has one order, so that a seed gives the same bits on any device.
    """

    def __init__(self, n: int, d: int) -> None:
        self.matched = torch.zeros(3, n, d + 1, dtype=torch.float32)
        self.count = torch.zeros(3, n, dtype=torch.float32)
        self.growth = torch.zeros(2, n, dtype=torch.float32)

    def add(self, side: int, cells: Tensor, matched: Tensor) -> None:
        """Add the barycentres (m, d + 1) of cells (m,) at side 0 (self), 1 (later) or -1 (earlier)."""
        self.matched[side].index_add_(0, cells, matched)
        self.count[side].index_add_(0, cells, torch.ones(len(cells)))

    def add_growth(self, cells: Tensor, growth: Tensor) -> None:
        self.growth[0].index_add_(0, cells, growth)
        self.growth[1].index_add_(0, cells, torch.ones(len(cells)))


def ot_velocity(
    x: Any,
    time: Any,
    windows: Windows,
    *,
    reg: float | None = None,
    reg_scale: float = 0.5,
    tau: float = 0.98,
    lambda_time: float = 0.0,
    lambda_knn: float = 0.0,
    neighbors: Any | None = None,
    difference: Literal["central", "forward"] = "central",
    device: str = "cpu",
) -> RawVelocity:
    """Estimate the velocity of every cell from entropic transport between paired windows.

    With T+ and T- the barycentres of a cell's matches in the later and the earlier window, t+ and t- the mean times
    of these matches under the plan, ::

        v = (T+(x) - T-(x)) / (t+ - t-)                 difference="central"
        v = (T+(x) - x) / (t+ - t)                      difference="forward"

    In the central difference x itself, and with it the noise of the cell, cancels; the forward difference of noisy
    cells points to the middle of the data. In the first and the last window the cell's matches among its own window
    (itself excepted) stand for the missing side. Positions are centred; the plans minimise <C, T> + eps KL(T | a b')
    at squared distances C, with hard columns and, at tau < 1, rows relaxed by eps tau / (1 - tau) KL(T 1 | a): the
    log of a row's mass over its uniform share is growth.

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) pseudotime or real time.
    windows
        Pairs of windows.
    reg
        eps as a fraction of the largest cost of each window; by default ``reg_scale`` times the median over cells of
        the squared distance to the fifth neighbour inside the window.
    reg_scale
        Factor of that rule.
    tau
        Relaxation of the source masses in (0, 1]. Balanced plans (1) carry mass across branches wherever two windows
        hold different shares of them, by growth or by chance; much relaxed ones explain movement by growth where a
        step is long beside the distance of neighbours, and are then too slow (few dimensions: 6 % at .98, 23 % at .9).
    lambda_time
        Added to the cost, in units of the largest cost of the window, where the later window's cell is the earlier.
    lambda_knn
        Added likewise where a pair is not among ``neighbors``, either way; never to a cell with itself. A cell without
        any neighbour among the target's cells gets nothing from that window.
    neighbors
        (n, k) nearest neighbours of each cell, for ``lambda_knn``.
    difference
        ``"central"`` or ``"forward"``.
    device
        Torch device of the transport.

    Returns
    -------
    RawVelocity
        Velocity in units of ``x`` per unit of ``time``.

    Raises
    ------
    ValueError
        For arrays that do not fit, options out of range, or ``lambda_knn`` without ``neighbors``.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._raw_velocity import ot_velocity
    >>> from muport.velocity.estimation._windows import time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> raw = ot_velocity(np.stack([3 * time, 0 * time], axis=1), time, time_windows(time))
    >>> raw.velocity.mean(axis=0).round(1).tolist()
    [3.0, 0.0]
    """
    points, when = as_points(x), check_time(time, len(x))
    _check_options(reg, reg_scale, tau, lambda_time, lambda_knn, difference)
    centred = torch.from_numpy(points - points.mean(axis=0)).to(device)
    near = _sorted_neighbors(neighbors, len(points), device) if lambda_knn > 0 else None
    origin = float(when.mean())
    problem = _Problem(
        centred,
        torch.from_numpy((when - origin).astype(np.float32)).to(device),
        origin,
        reg,
        reg_scale * bandwidth(centred, windows),
        tau,
        lambda_time,
        lambda_knn,
        near,
    )
    sums, converged = _Sums(*points.shape), []
    used = np.flatnonzero(windows.direction != 0) if difference == "forward" else np.arange(windows.n_pairs)
    step = max(1, _ENTRIES // (windows.source.shape[1] * windows.target.shape[1]))
    for low in range(0, len(used), step):
        converged.append(_transport(problem, windows, used[low : low + step], sums))
    done = float(torch.cat(converged).float().mean())
    return _combine(problem, sums, windows, difference == "central", done)


def _check_options(
    reg: float | None, reg_scale: float, tau: float, lambda_time: float, lambda_knn: float, difference: str
) -> None:
    for name, value in (("reg", reg), ("reg_scale", reg_scale)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be above 0.")
    if not 0 < tau <= 1:
        raise ValueError(f"tau={tau} must be above 0 and at most 1 (balanced).")
    for name, value in (("lambda_time", lambda_time), ("lambda_knn", lambda_knn)):
        if value < 0:
            raise ValueError(f"{name}={value} must not be negative.")
    if difference not in ("central", "forward"):
        raise ValueError(f"difference={difference!r} is unknown: use 'central' or 'forward'.")


def _sorted_neighbors(neighbors: Any | None, n: int, device: str) -> Tensor:
    if neighbors is None:
        raise ValueError("lambda_knn needs neighbors: the (n, k) nearest neighbours of each cell.")
    near = np.asarray(neighbors)
    if near.ndim != 2 or len(near) != n or near.min() < 0 or near.max() >= n:
        raise ValueError(f"neighbors has shape {near.shape}: it needs k positions of cells for each of {n} cells.")
    return torch.from_numpy(np.sort(near, axis=1).astype(np.int64)).to(device)


def bandwidth(x: Tensor, windows: Windows) -> float:
    """Median over cells of the squared distance to the fifth neighbour inside the window, over evenly drawn windows."""
    drawn = np.unique(np.linspace(0, windows.n_pairs - 1, _SAMPLE).astype(np.int64))
    cells = torch.from_numpy(windows.source[drawn]).to(x.device)
    valid = cells >= 0
    points = x[cells.clamp(min=0)]
    cost = cost_matrix(points, points).masked_fill(~valid[:, None, :], torch.inf)
    rank = torch.minimum(valid.sum(1) - 1, torch.tensor(_NEIGHBOR, device=x.device))
    nearest = cost.topk(min(_NEIGHBOR + 1, cost.shape[2]), dim=2, largest=False).values
    squared = nearest.gather(2, rank[:, None, None].expand(-1, cost.shape[1], 1))[..., 0]
    middle = float(squared[valid].median())
    # Half of the cells at one place: any regularisation far below the spread of the others will do.
    return middle if middle > 0 else max(1e-3 * float(x.square().sum(1).mean()), torch.finfo(x.dtype).tiny)


def _penalty(problem: _Problem, source: Tensor, target: Tensor, sign: Tensor) -> tuple[Tensor, Tensor | None]:
    """Penalties (P, w, w) in units of the largest cost, and the pairs that are neighbours, if asked for."""
    own = source[:, :, None] == target[:, None, :]
    penalty = torch.zeros(own.shape, device=own.device)
    if problem.lambda_time > 0:
        ahead = problem.time[source][:, :, None] - problem.time[target][:, None, :]
        penalty += problem.lambda_time * (ahead * sign[:, None, None] > 0)
    if problem.near is None:
        return penalty, None
    linked = own | _linked(problem.near, source, target) | _linked(problem.near, target, source).mT
    return penalty + problem.lambda_knn * ~linked, linked


def _linked(near: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Whether the target's cell is among the neighbours of the source's (P, w, w')."""
    rows = near[source]
    query = target[:, None, :].expand(-1, source.shape[1], -1).contiguous()
    place = torch.searchsorted(rows, query).clamp(max=rows.shape[2] - 1)
    return rows.gather(2, place) == query


def _transport(problem: _Problem, windows: Windows, pairs: NDArray[np.int64], sums: _Sums) -> Tensor:
    """Solve some pairs of windows and add what they tell; return which converged."""
    device = problem.x.device
    source, target = (torch.from_numpy(one[pairs]).to(device) for one in (windows.source, windows.target))
    sign, mutual = (torch.from_numpy(one[pairs]).to(device) for one in (windows.direction, windows.mutual))
    here, there = source >= 0, target >= 0
    rows, columns = source.clamp(min=0), target.clamp(min=0)
    cost = cost_matrix(problem.x[rows], problem.x[columns])
    valid = here[:, :, None] & there[:, None, :]
    largest = torch.where(valid, cost, 0).amax(dim=(1, 2)).clamp(min=torch.finfo(cost.dtype).tiny)
    linked = None
    if problem.lambda_time > 0 or problem.near is not None:
        penalty, linked = _penalty(problem, rows, columns, sign)
        cost = cost + largest[:, None, None] * penalty
    # A cell is no match for itself in its own window: its noise would come back through the missing side.
    itself = (sign == 0)[:, None, None] & (source[:, :, None] == target[:, None, :]) & valid
    cost = cost.masked_fill(itself & (here.sum(1) > 1)[:, None, None], torch.inf)
    a, b = (mask / mask.sum(1, keepdim=True) for mask in (here.to(cost.dtype), there.to(cost.dtype)))
    reg = largest * problem.reg if problem.reg is not None else torch.full_like(largest, problem.bandwidth)
    found = sinkhorn(cost, a, b, reg, torch.where(sign == 0, 1.0, problem.tau), max_iter=_MAX_ITER, tol=_TOL)
    # Padding has potentials of 0, beside which exp could overflow.
    exponent = (found.f[:, :, None] + found.g[:, None, :] - cost) / reg[:, None, None]
    plan = torch.exp(exponent.masked_fill(~valid, -torch.inf)) * b[:, None, :]
    plan = plan * a[:, :, None]
    reach = here if linked is None else here & (linked & valid).any(2)
    back = there if linked is None else there & (linked & valid).any(1)
    _collect(problem, sums, plan, (rows, columns), (reach, back), sign, mutual)
    if problem.tau < 1:
        _collect_growth(problem, sums, plan, a, (rows, columns), (here, there), sign)
    return found.converged.cpu()


def _collect(
    problem: _Problem,
    sums: _Sums,
    plan: Tensor,
    cells: tuple[Tensor, Tensor],
    reach: tuple[Tensor, Tensor],
    sign: Tensor,
    mutual: Tensor,
) -> None:
    """Add the barycentres (position, time) of the sources' matches and, of mutual pairs, of the targets'."""
    state = torch.cat([problem.x, problem.time[:, None]], dim=1)
    ahead = _barycenter(plan, state[cells[1]])
    for side in (0, 1, -1):
        taken = reach[0] & (sign == side)[:, None]
        sums.add(side, cells[0][taken].cpu(), ahead[taken].cpu())
    if bool(mutual.any()):
        behind = _barycenter(plan.mT, state[cells[0]])
        taken = reach[1] & mutual[:, None]
        sums.add(-1, cells[1][taken].cpu(), behind[taken].cpu())


def _barycenter(plan: Tensor, state: Tensor) -> Tensor:
    tiny = torch.finfo(plan.dtype).tiny
    return torch.bmm(plan, state) / plan.sum(2, keepdim=True).clamp(min=tiny)


def _collect_growth(
    problem: _Problem,
    sums: _Sums,
    plan: Tensor,
    a: Tensor,
    cells: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    sign: Tensor,
) -> None:
    """Add log(row mass / share) per unit of time to the sources, and its mean over a target's origins to the target."""
    tiny = torch.finfo(plan.dtype).tiny
    mass = (plan.sum(2) / a.clamp(min=tiny)).clamp(min=1e-6).log()
    mean = [(problem.time[one] * ok).sum(1) / ok.sum(1) for one, ok in zip(cells, valid, strict=True)]
    gap = (mean[1] - mean[0]).abs()
    # Successive windows of one day tell no rate.
    apart = gap > _LEAST_SPAN * float(problem.time.max() - problem.time.min())
    rate = mass / torch.where(apart, gap, 1.0)[:, None]
    later = ((sign == 1) & apart)[:, None]
    inherited = _barycenter(plan.mT, torch.where(valid[0], rate, 0)[..., None])[..., 0]
    for one, ok, value in zip(cells, valid, (rate, inherited), strict=True):
        taken = ok & later
        sums.add_growth(one[taken].cpu(), value[taken].cpu())


def _combine(problem: _Problem, sums: _Sums, windows: Windows, central: bool, converged: float) -> RawVelocity:
    """Difference quotient of each cell from the sums over its windows."""
    count = sums.count.clone()
    mean = sums.matched / count.clamp(min=1)[..., None]
    own = torch.cat([problem.x, problem.time[:, None]], dim=1).cpu()
    if central:
        later, earlier = (torch.where(count[side][:, None] > 0, mean[side], mean[0]) for side in (1, -1))
        covered = (count[1] > 0) | (count[-1] > 0)
        covered &= (count[1] > 0) & (count[-1] > 0) | (count[0] > 0)
        sides = (count[1] > 0).float() / 2 + (count[-1] > 0).float() / 2
        seen = count[1] + count[-1]
    else:
        later, earlier, covered = mean[1], own, count[1] > 0
        sides, seen = covered.float(), count[1]
    step = later - earlier
    gap = step[:, -1]
    least = _LEAST_GAP * float(gap[covered].median()) if bool(covered.any()) else 0.0
    covered &= gap > max(least, 0.0)
    velocity = torch.where(covered[:, None], step[:, :-1] / torch.where(covered, gap, 1)[:, None], 0)
    confidence = torch.where(covered, sides * seen / seen.max().clamp(min=1) if not central else sides, 0)
    midpoint = torch.where(covered, (later[:, -1] + earlier[:, -1]) / 2, own[:, -1])
    growth = sums.growth[0] / sums.growth[1].clamp(min=1)
    inside = covered.numpy()
    return RawVelocity(
        velocity.numpy(),
        torch.where(covered, gap, 0).numpy(),
        confidence.numpy(),
        growth.numpy(),
        np.where(inside, windows.block, -1),
        converged,
        midpoint.double().numpy() + problem.origin,
    )
