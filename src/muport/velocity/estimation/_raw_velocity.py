"""Raw velocity of each cell: central difference of the transports to later and to earlier cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points
from muport.ot import cost_matrix, sinkhorn
from muport.velocity._hyperparameters import DEFAULTS
from muport.velocity.estimation._windows import as_times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity._hyperparameters import VelocityHyperparameters
    from muport.velocity.estimation._windows import Windows

__all__ = ["RawVelocity", "estimate_raw_velocity", "squared_neighbor_distance"]

_NEIGHBOR = 5  # neighbor whose distance sets the regularization
_SAMPLED_WINDOWS = 64  # windows in which that distance is measured
_PLAN_ENTRIES = 2**20  # plan entries in memory at once
_MAX_ITER, _TOL = 100, 1e-2  # the barycenters move by less than a hundredth of the spread of their matches
_MIN_GROWTH_GAP = 1e-3  # gap between windows, as a fraction of the range of time, below which growth is left out
_MIN_GAP = 0.2  # fraction of the median time gap below which a difference quotient is mostly noise


@dataclass(frozen=True, eq=False)
class RawVelocity:
    """Velocity of each cell from the plans, before any smoothing.

    - `velocity`: (n, d) float32 displacement per unit of time; 0 where not covered.
    - `weight`: (n,) float32 time gap of the difference quotient, its weight in a fit; 0 where not covered.
    - `confidence`: (n,) float32 in 0..1: share of the two sides, later and earlier, on which the cell has a partner
      window; for the forward difference, number of windows it was in over the largest such number.
    - `growth`: (n,) float32 log change of mass per unit of time relative to the mean of the cell's window; 0 if
      balanced.
    - `block`: (n,) int64 window of each cell, the unit of resampling; -1 where not covered.
    - `converged`: Share of the transport problems that converged.
    - `midpoint`: (n,) float64 time in the middle of the gap, the cell's own where not covered; ``None`` if the gap is
      not known.
    """

    velocity: NDArray[np.float32]
    weight: NDArray[np.float32]
    confidence: NDArray[np.float32]
    growth: NDArray[np.float32]
    block: NDArray[np.int64]
    converged: float
    midpoint: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class _TransportInputs:
    """What the transport problems of all windows have in common; tensors on the device.

    ``x`` (n, d) are centered coordinates, ``time`` (n,) times minus ``mean_time``, ``bandwidth`` is the regularization
    of each window unless ``options.reg`` is given, ``neighbors`` (n, k) are sorted.
    """

    x: Tensor
    time: Tensor
    mean_time: float
    bandwidth: float
    options: VelocityHyperparameters
    neighbors: Tensor | None

    @property
    def positions_and_times(self) -> Tensor:
        """(n, d + 1) coordinates and time of each cell, which barycenters are taken of."""
        return torch.cat([self.x, self.time[:, None]], dim=1)


class _WindowSums:
    """Sums over the windows of a cell, by side: matched positions and times, number of windows, growth; on the CPU.

    On the CPU a sum over the windows has one order, so that a seed gives the same bits on any device.
    """

    def __init__(self, n: int, d: int) -> None:
        self.matched = torch.zeros(3, n, d + 1, dtype=torch.float32)
        self.count = torch.zeros(3, n, dtype=torch.float32)
        self.growth = torch.zeros(2, n, dtype=torch.float32)

    def add(self, side: int, cells: Tensor, matched: Tensor) -> None:
        """Add the barycenters (m, d + 1) of cells (m,) at side 0 (own window), 1 (later) or -1 (earlier)."""
        self.matched[side].index_add_(0, cells, matched)
        self.count[side].index_add_(0, cells, torch.ones(len(cells)))

    def add_growth(self, cells: Tensor, growth: Tensor) -> None:
        """Add the growth rates (m,) of cells (m,)."""
        self.growth[0].index_add_(0, cells, growth)
        self.growth[1].index_add_(0, cells, torch.ones(len(cells)))


@dataclass(frozen=True, eq=False)
class _WindowPairs:
    """P pairs of windows, padded to w source and w' target cells.

    ``cells`` are the positions (P, w) and (P, w') of the source and the target cells, 0 in the padding; ``is_cell``
    says where they are no padding. ``direction`` and ``mutual`` (P,) are those of :class:`Windows`.
    """

    cells: tuple[Tensor, Tensor]
    is_cell: tuple[Tensor, Tensor]
    direction: Tensor
    mutual: Tensor

    @classmethod
    def of(cls, windows: Windows, pairs: NDArray[np.int64], device: torch.device) -> _WindowPairs:
        """Take some pairs of windows to the device."""
        source, target = (torch.from_numpy(side[pairs]).to(device) for side in (windows.source, windows.target))
        direction, mutual = (torch.from_numpy(side[pairs]).to(device) for side in (windows.direction, windows.mutual))
        return cls((source.clamp(min=0), target.clamp(min=0)), (source >= 0, target >= 0), direction, mutual)

    @property
    def valid(self) -> Tensor:
        """(P, w, w') where neither cell is padding."""
        return self.is_cell[0][:, :, None] & self.is_cell[1][:, None, :]

    @property
    def same_cell(self) -> Tensor:
        """(P, w, w') where both are the same cell."""
        return self.cells[0][:, :, None] == self.cells[1][:, None, :]


def estimate_raw_velocity(
    x: Any,
    time: Any,
    windows: Windows,
    hyperparameters: VelocityHyperparameters = DEFAULTS,
    *,
    neighbors: Any | None = None,
    device: str = "cpu",
) -> RawVelocity:
    """Estimate the velocity of every cell from entropic transport between paired windows.

    With T+ and T- the barycenters of a cell's matches in the later and the earlier window, t+ and t- the mean times
    of these matches under the plan, ::

        v = (T+(x) - T-(x)) / (t+ - t-)                 difference="central"
        v = (T+(x) - x) / (t+ - t)                      difference="forward"

    In the central difference x itself, and with it the noise of the cell, cancels; the forward difference of noisy
    cells points to the middle of the data. In the first and the last window the cell's matches in its own window
    (without the cell itself) replace the missing side. Coordinates are centered; the plans minimize
    <C, T> + eps KL(T | a b') at squared distances C, with fixed column sums and, at tau < 1, row sums relaxed by
    eps tau / (1 - tau) KL(T 1 | a): the log of a row sum over its uniform share is growth.

    - `x`: (n, d) coordinates.
    - `time`: (n,) pseudotime or real time.
    - `hyperparameters`: ``reg`` is eps as a fraction of the largest cost of each window; by default eps is
      ``reg_scale`` times the median over cells of the squared distance to the fifth neighbor in the window. ``tau`` in
      (0, 1] relaxes the source masses. Balanced plans (1) transport mass across branches wherever two windows have
      different shares of them, by growth or by chance; strongly relaxed plans explain movement by growth where a step
      is long compared to the distance of neighbors, and the velocity is then too short (few dimensions: 6 % at .98, 23
      % at .9). ``lambda_time`` is added to the cost, in units of the largest cost of the window, where the later
      window's cell has the earlier time; ``lambda_knn`` where a pair of different cells is not among ``neighbors`` in
      either direction. A cell without any neighbor among the target's cells gets nothing from that window.
    - `neighbors`: (n, k) nearest neighbors of each cell, for ``lambda_knn``.
    - `device`: Torch device of the transport.

    Returns velocity in units of ``x`` per unit of ``time``. Raises ValueError for arrays that do not fit, or
    ``lambda_knn`` without ``neighbors``.

    Examples
    --------
    >>> from muport.velocity.estimation._windows import pair_time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> raw = estimate_raw_velocity(np.stack([3 * time, 0 * time], axis=1), time, pair_time_windows(time))
    >>> raw.velocity.mean(axis=0).round(1).tolist()
    [3.0, 0.0]
    """
    points, times = as_points(x), as_times(time, len(x))
    centered = torch.from_numpy(points - points.mean(axis=0)).to(device)
    mean_time = float(times.mean())
    inputs = _TransportInputs(
        x=centered,
        time=torch.from_numpy((times - mean_time).astype(np.float32)).to(device),
        mean_time=mean_time,
        bandwidth=hyperparameters.reg_scale * squared_neighbor_distance(centered, windows),
        options=hyperparameters,
        neighbors=_sort_neighbors(neighbors, len(points), device) if hyperparameters.lambda_knn > 0 else None,
    )
    sums, converged = _WindowSums(*points.shape), []
    forward = hyperparameters.difference == "forward"
    pairs = np.flatnonzero(windows.direction != 0) if forward else np.arange(windows.n_pairs)
    step = max(1, _PLAN_ENTRIES // (windows.source.shape[1] * windows.target.shape[1]))
    for low in range(0, len(pairs), step):
        part = _WindowPairs.of(windows, pairs[low : low + step], inputs.x.device)
        converged.append(_transport(inputs, part, sums))
    return _difference_quotient(inputs, sums, windows, float(torch.cat(converged).float().mean()))


def _sort_neighbors(neighbors: Any | None, n: int, device: str) -> Tensor:
    if neighbors is None:
        raise ValueError("lambda_knn needs neighbors: the (n, k) nearest neighbors of each cell.")
    indices = np.asarray(neighbors)
    if indices.ndim != 2 or len(indices) != n or indices.min() < 0 or indices.max() >= n:
        raise ValueError(f"neighbors has shape {indices.shape}: it needs k positions of cells for each of {n} cells.")
    return torch.from_numpy(np.sort(indices, axis=1).astype(np.int64)).to(device)


def squared_neighbor_distance(x: Tensor, windows: Windows) -> float:
    """Median over cells of the squared distance to the fifth neighbor in the window, in windows evenly sampled."""
    sampled = np.unique(np.linspace(0, windows.n_pairs - 1, _SAMPLED_WINDOWS).astype(np.int64))
    cells = torch.from_numpy(windows.source[sampled]).to(x.device)
    valid = cells >= 0
    points = x[cells.clamp(min=0)]
    cost = cost_matrix(points, points).masked_fill(~valid[:, None, :], torch.inf)
    rank = torch.minimum(valid.sum(1) - 1, torch.tensor(_NEIGHBOR, device=x.device))
    nearest = cost.topk(min(_NEIGHBOR + 1, cost.shape[2]), dim=2, largest=False).values
    squared = nearest.gather(2, rank[:, None, None].expand(-1, cost.shape[1], 1))[..., 0]
    median = float(squared[valid].median())
    # Half of the cells at one place: any regularization far below the spread of the others will do.
    return median if median > 0 else max(1e-3 * float(x.square().sum(1).mean()), torch.finfo(x.dtype).tiny)


def _penalty(inputs: _TransportInputs, pairs: _WindowPairs) -> tuple[Tensor, Tensor | None]:
    """Penalties (P, w, w') in units of the largest cost, and which pairs are neighbors, if that is penalized."""
    source, target = pairs.cells
    same_cell = pairs.same_cell
    penalty = torch.zeros(same_cell.shape, device=same_cell.device)
    if inputs.options.lambda_time > 0:
        ahead = inputs.time[source][:, :, None] - inputs.time[target][:, None, :]
        penalty += inputs.options.lambda_time * (ahead * pairs.direction[:, None, None] > 0)
    if inputs.neighbors is None:
        return penalty, None
    one_way, other_way = (_are_neighbors(inputs.neighbors, *cells) for cells in ((source, target), (target, source)))
    linked = same_cell | one_way | other_way.mT
    return penalty + inputs.options.lambda_knn * ~linked, linked


def _are_neighbors(neighbors: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Whether the target's cell is among the neighbors of the source's (P, w, w')."""
    rows = neighbors[source]
    query = target[:, None, :].expand(-1, source.shape[1], -1).contiguous()
    position = torch.searchsorted(rows, query).clamp(max=rows.shape[2] - 1)
    return rows.gather(2, position) == query


def _transport(inputs: _TransportInputs, pairs: _WindowPairs, sums: _WindowSums) -> Tensor:
    """Solve some pairs of windows and add their barycenters and growth to the sums; return which converged."""
    options, (is_source, is_target), valid = inputs.options, pairs.is_cell, pairs.valid
    cost = cost_matrix(inputs.x[pairs.cells[0]], inputs.x[pairs.cells[1]])
    largest = torch.where(valid, cost, 0).amax(dim=(1, 2)).clamp(min=torch.finfo(cost.dtype).tiny)
    linked = None
    if options.lambda_time > 0 or inputs.neighbors is not None:
        penalty, linked = _penalty(inputs, pairs)
        cost = cost + largest[:, None, None] * penalty
    # A cell is no match for itself in its own window: its noise would come back through the missing side.
    itself = (pairs.direction == 0)[:, None, None] & pairs.same_cell & valid
    cost = cost.masked_fill(itself & (is_source.sum(1) > 1)[:, None, None], torch.inf)
    a, b = (mask / mask.sum(1, keepdim=True) for mask in (is_source.to(cost.dtype), is_target.to(cost.dtype)))
    reg = largest * options.reg if options.reg is not None else torch.full_like(largest, inputs.bandwidth)
    tau = torch.where(pairs.direction == 0, 1.0, options.tau)
    potentials = sinkhorn(cost, a, b, reg, tau, max_iter=_MAX_ITER, tol=_TOL)
    # Padding has potentials of 0, beside which exp could overflow.
    exponent = (potentials.f[:, :, None] + potentials.g[:, None, :] - cost) / reg[:, None, None]
    plan = torch.exp(exponent.masked_fill(~valid, -torch.inf)) * b[:, None, :]
    plan = plan * a[:, :, None]
    matched = pairs.is_cell
    if linked is not None:
        matched = (is_source & (linked & valid).any(2), is_target & (linked & valid).any(1))
    _add_barycenters(inputs, pairs, plan, matched, sums)
    if options.tau < 1:
        _add_growth(inputs, pairs, plan, a, sums)
    return potentials.converged.cpu()


def _add_barycenters(
    inputs: _TransportInputs, pairs: _WindowPairs, plan: Tensor, matched: tuple[Tensor, Tensor], sums: _WindowSums
) -> None:
    """Add the barycenters of the matched sources and, in mutual pairs, of the matched targets."""
    (source, target), state = pairs.cells, inputs.positions_and_times
    ahead = _barycenter(plan, state[target])
    for side in (0, 1, -1):
        taken = matched[0] & (pairs.direction == side)[:, None]
        sums.add(side, source[taken].cpu(), ahead[taken].cpu())
    if bool(pairs.mutual.any()):
        behind = _barycenter(plan.mT, state[source])
        taken = matched[1] & pairs.mutual[:, None]
        sums.add(-1, target[taken].cpu(), behind[taken].cpu())


def _barycenter(plan: Tensor, state: Tensor) -> Tensor:
    """Mean (P, w, k) of the targets' states (P, w', k) under the plan of each source."""
    tiny = torch.finfo(plan.dtype).tiny
    return torch.bmm(plan, state) / plan.sum(2, keepdim=True).clamp(min=tiny)


def _add_growth(inputs: _TransportInputs, pairs: _WindowPairs, plan: Tensor, a: Tensor, sums: _WindowSums) -> None:
    """Add log(row sum / share) per unit of time to the sources, and its mean over a target's origins to the target."""
    tiny = torch.finfo(plan.dtype).tiny
    change = (plan.sum(2) / a.clamp(min=tiny)).clamp(min=1e-6).log()
    sides = list(zip(pairs.cells, pairs.is_cell, strict=True))
    mean_time = [(inputs.time[cells] * is_cell).sum(1) / is_cell.sum(1) for cells, is_cell in sides]
    gap = (mean_time[1] - mean_time[0]).abs()
    # Successive windows of one day have no growth rate.
    has_gap = gap > _MIN_GROWTH_GAP * float(inputs.time.max() - inputs.time.min())
    rate = change / torch.where(has_gap, gap, 1.0)[:, None]
    later = ((pairs.direction == 1) & has_gap)[:, None]
    inherited = _barycenter(plan.mT, torch.where(pairs.is_cell[0], rate, 0)[..., None])[..., 0]
    for (cells, is_cell), value in zip(sides, (rate, inherited), strict=True):
        taken = is_cell & later
        sums.add_growth(cells[taken].cpu(), value[taken].cpu())


def _difference_quotient(
    inputs: _TransportInputs, sums: _WindowSums, windows: Windows, converged: float
) -> RawVelocity:
    """Velocity of each cell from the sums over its windows."""
    n_windows = sums.count.clone()
    seen = n_windows > 0
    mean = sums.matched / n_windows.clamp(min=1)[..., None]
    own = inputs.positions_and_times.cpu()
    if inputs.options.difference == "central":
        later, earlier = (torch.where(seen[side][:, None], mean[side], mean[0]) for side in (1, -1))
        covered = (seen[1] | seen[-1]) & (seen[1] & seen[-1] | seen[0])
        confidence = seen[1].float() / 2 + seen[-1].float() / 2
    else:
        later, earlier, covered = mean[1], own, seen[1].clone()
        confidence = covered.float() * n_windows[1] / n_windows[1].max().clamp(min=1)
    step = later - earlier
    gap = step[:, -1]
    smallest = _MIN_GAP * float(gap[covered].median()) if bool(covered.any()) else 0.0
    covered &= gap > max(smallest, 0.0)
    velocity = torch.where(covered[:, None], step[:, :-1] / torch.where(covered, gap, 1)[:, None], 0)
    midpoint = torch.where(covered, (later[:, -1] + earlier[:, -1]) / 2, own[:, -1])
    growth = sums.growth[0] / sums.growth[1].clamp(min=1)
    return RawVelocity(
        velocity=velocity.numpy(),
        weight=torch.where(covered, gap, 0).numpy(),
        confidence=torch.where(covered, confidence, 0).numpy(),
        growth=growth.numpy(),
        block=np.where(covered.numpy(), windows.block, -1),
        converged=converged,
        midpoint=midpoint.double().numpy() + inputs.mean_time,
    )
