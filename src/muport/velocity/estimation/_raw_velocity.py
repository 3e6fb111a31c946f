"""Raw velocity of each cell: central difference of the transports to later and to earlier cells."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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

__all__ = ["RawVelocity", "estimate_raw_velocity", "median_squared_neighbor_distance"]

_NEIGHBOR_RANK = 5  # rank of the neighbor whose distance sets the regularization
_SAMPLED_PAIRS = 64  # pairs of windows in whose source windows that distance is measured
_PLAN_ENTRIES = 2**20  # plan entries in memory at once
_MAX_ITER, _TOL = 100, 1e-2  # tolerance of potential / reg: barycenters move by < 1/100 of the spread of their matches
_MIN_MASS_RATIO = 1e-6  # smallest row sum, as a fraction of its uniform share, of which the logarithm is taken
_MIN_GROWTH_GAP = 1e-3  # gap between windows, as a fraction of the range of time, below which growth is left out
_MIN_GAP = 0.2  # fraction of the median time gap below which a difference quotient is mostly noise


@dataclass(frozen=True, eq=False)
class RawVelocity:
    """Velocity of each cell from the plans, before any smoothing.

    A cell is covered if it has matches on both sides of its difference quotient, and if the time gap between them is
    more than a fifth of the median gap. In a time course, where all cells of a bin have the same time, any gap is
    accepted.

    - `velocity`: (n, d) float32 displacement per unit of time; 0 where not covered.
    - `weight`: (n,) float32 time gap of the difference quotient, its weight in a fit; 0 where not covered.
    - `confidence`: (n,) float32 in 0..1. Central difference: 1/2 for each side (later, earlier) with a partner window.
      Forward difference: number of windows that the cell was in, divided by the largest such number.
    - `growth`: (n,) float32 log(row sum of the plan / uniform share of the cell) per unit of time; 0 at ``tau=1``.
    - `block`: (n,) int64 window of each cell, the block that is resampled in a bootstrap; -1 where not covered.
    - `converged`: Fraction of the transport problems that converged.
    - `midpoint`: (n,) float64 time in the middle of the gap, the cell's own where not covered; ``None`` if not known.
    """

    velocity: NDArray[np.float32]
    weight: NDArray[np.float32]
    confidence: NDArray[np.float32]
    growth: NDArray[np.float32]
    block: NDArray[np.int64]
    converged: float
    midpoint: NDArray[np.float64] | None = None

    def of_some(self, rows: NDArray[np.int64]) -> RawVelocity:
        """The velocities of some of the cells, (m,) rows."""
        return replace(self, **{name: values[rows] for name, values in self._arrays().items()})

    def among_all(self, rows: NDArray[np.int64], time: NDArray[np.float64]) -> RawVelocity:
        """These velocities of some cells, (m,) rows, among all, with the times (n,); the others are not covered."""
        arrays: dict[str, Any] = {}
        for name, values in self._arrays().items():
            arrays[name] = np.zeros((len(time), *values.shape[1:]), values.dtype)
            arrays[name][rows] = values
        uncovered = np.ones(len(time), bool)
        uncovered[rows] = False
        arrays["block"][uncovered] = -1
        if "midpoint" in arrays:
            arrays["midpoint"][uncovered] = time[uncovered]
        return replace(self, **arrays)

    def _arrays(self) -> dict[str, Any]:
        """The fields with an entry for each cell."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True, eq=False)
class _TransportInputs:
    """What the transport problems of all windows have in common; tensors on the device.

    ``x`` (n, d) are centered coordinates, ``time`` (n,) times minus ``mean_time``, ``default_reg`` the regularization
    of each window unless ``options.reg`` is given, ``neighbors`` (n, k) indices of cells in ascending order.
    """

    x: Tensor
    time: Tensor
    mean_time: float
    default_reg: float
    options: VelocityHyperparameters
    neighbors: Tensor | None

    @property
    def coordinates_and_time(self) -> Tensor:
        """(n, d + 1) coordinates and time of each cell, of which barycenters are computed."""
        return torch.cat([self.x, self.time[:, None]], dim=1)


class _WindowSums:
    """Sums over the windows of a cell: barycenters and number of windows by side, growth and number of windows.

    They are computed on the CPU, where the order of a sum is fixed, so that the same input always gives the same bits.
    """

    def __init__(self, n: int, d: int) -> None:
        self.matched = torch.zeros(3, n, d + 1, dtype=torch.float32)  # side -1 (earlier) is the last entry
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

    ``cells`` are the indices (P, w) and (P, w') of the source and the target cells, 0 in the padding; ``is_cell`` says
    where they are no padding. ``direction`` and ``mutual`` (P,) are those of :class:`Windows`.
    """

    cells: tuple[Tensor, Tensor]
    is_cell: tuple[Tensor, Tensor]
    direction: Tensor
    mutual: Tensor

    @classmethod
    def from_windows(cls, windows: Windows, pairs: NDArray[np.int64], device: torch.device) -> _WindowPairs:
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

    With m+ and m- the barycenters of a cell's matches in the later and the earlier window, t+ and t- the mean times
    of these matches under the plan, ::

        v = (m+ - m-) / (t+ - t-)                       difference="central"
        v = (m+ - x) / (t+ - t)                         difference="forward"

    In the central difference x itself, and with it the noise of the cell, cancels; the forward difference of noisy
    cells points to the middle of the data. In the first and the last window the cell's matches in its own window
    (without the cell itself) replace the missing side. Coordinates are centered; a plan T minimizes
    <C, T> + reg KL(T | a b') at squared distances C and uniform shares a and b of the cells. Its column sums are fixed,
    and at tau < 1 its row sums are relaxed by reg tau / (1 - tau) KL(T 1 | a): log(row sum / share) is growth.

    - `x`: (n, d) coordinates.
    - `time`: (n,) pseudotime or real time.
    - `windows`: Pairs of windows, between whose cells mass is transported.
    - `hyperparameters`: ``reg`` is a fraction of the largest cost of each window; by default the regularization is
      ``reg_scale`` times the median over cells of the squared distance to the fifth neighbor in the window. ``tau`` in
      (0, 1] relaxes the source masses. Balanced plans (``tau=1``) transport mass across branches wherever two windows
      have different fractions of their cells in them, by growth or by chance. Strongly relaxed plans explain movement
      by growth where cells move far compared to the distance of neighbors. The velocity is then too short: in few
      dimensions by 6 % at 0.98 and by 23 % at 0.9. ``lambda_time`` is added to the cost, in units of the largest cost
      of the window, where the later window's cell has the earlier time; ``lambda_knn`` where a pair of different cells
      is not among ``neighbors`` in either direction. A cell without any neighbor in a window is skipped for it.
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
        default_reg=hyperparameters.reg_scale * median_squared_neighbor_distance(centered, windows),
        options=hyperparameters,
        neighbors=_sort_neighbors(neighbors, len(points), device) if hyperparameters.lambda_knn > 0 else None,
    )
    sums, converged = _WindowSums(*points.shape), []
    pairs = np.flatnonzero((windows.direction != 0) | (hyperparameters.difference == "central"))
    pairs_per_batch = max(1, _PLAN_ENTRIES // (windows.source.shape[1] * windows.target.shape[1]))
    for low in range(0, len(pairs), pairs_per_batch):
        batch = _WindowPairs.from_windows(windows, pairs[low : low + pairs_per_batch], inputs.x.device)
        converged.append(_transport_batch(inputs, batch, sums))
    return _compute_velocity(inputs, sums, windows, float(torch.cat(converged).float().mean()))


def _sort_neighbors(neighbors: Any | None, n: int, device: str) -> Tensor:
    if neighbors is None:
        raise ValueError("lambda_knn needs neighbors: the (n, k) nearest neighbors of each cell.")
    indices = np.asarray(neighbors)
    if indices.ndim != 2 or len(indices) != n or indices.min() < 0 or indices.max() >= n:
        raise ValueError(f"neighbors has shape {indices.shape}: it needs k indices of cells for each of {n} cells.")
    return torch.from_numpy(np.sort(indices, axis=1).astype(np.int64)).to(device)


def median_squared_neighbor_distance(x: Tensor, windows: Windows) -> float:
    """Median over cells of the squared distance to the fifth neighbor in the window, in evenly sampled windows."""
    sampled = np.unique(np.linspace(0, windows.n_pairs - 1, _SAMPLED_PAIRS).astype(np.int64))
    cells = torch.from_numpy(windows.source[sampled]).to(x.device)
    valid = cells >= 0
    points = x[cells.clamp(min=0)]
    cost = cost_matrix(points, points).masked_fill(~valid[:, None, :], torch.inf)
    rank = torch.minimum(valid.sum(1) - 1, torch.tensor(_NEIGHBOR_RANK, device=x.device))
    nearest = cost.topk(min(_NEIGHBOR_RANK + 1, cost.shape[2]), dim=2, largest=False).values
    squared = nearest.gather(2, rank[:, None, None].expand(-1, cost.shape[1], 1))[..., 0]
    median = float(squared[valid].median())
    # Half of the cells have equal coordinates: any regularization far below the spread of the others will do.
    return median if median > 0 else max(1e-3 * float(x.square().sum(1).mean()), torch.finfo(x.dtype).tiny)


def _compute_penalties(inputs: _TransportInputs, pairs: _WindowPairs) -> tuple[Tensor, Tensor | None]:
    """Compute penalties (P, w, w') in units of the largest cost, and where `lambda_knn` is not added, if it is set."""
    source, target = pairs.cells
    same_cell = pairs.same_cell
    penalty = torch.zeros(same_cell.shape, device=same_cell.device)
    if inputs.options.lambda_time > 0:
        backward = inputs.time[source][:, :, None] - inputs.time[target][:, None, :]
        penalty += inputs.options.lambda_time * (backward * pairs.direction[:, None, None] > 0)
    if inputs.neighbors is None:
        return penalty, None
    one_way, other_way = (_are_neighbors(inputs.neighbors, *cells) for cells in ((source, target), (target, source)))
    allowed_pairs = same_cell | one_way | other_way.mT
    return penalty + inputs.options.lambda_knn * ~allowed_pairs, allowed_pairs


def _are_neighbors(neighbors: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Whether the target's cell is among the neighbors of the source's (P, w, w')."""
    rows = neighbors[source]
    query = target[:, None, :].expand(-1, source.shape[1], -1).contiguous()
    column = torch.searchsorted(rows, query).clamp(max=rows.shape[2] - 1)
    return rows.gather(2, column) == query


def _transport_batch(inputs: _TransportInputs, pairs: _WindowPairs, sums: _WindowSums) -> Tensor:
    """Transport some pairs of windows, add their barycenters and growth to the sums, and return which converged."""
    options, (is_source, is_target), valid = inputs.options, pairs.is_cell, pairs.valid
    cost = cost_matrix(inputs.x[pairs.cells[0]], inputs.x[pairs.cells[1]])
    largest = torch.where(valid, cost, 0).amax(dim=(1, 2)).clamp(min=torch.finfo(cost.dtype).tiny)
    allowed_pairs = None
    if options.lambda_time > 0 or inputs.neighbors is not None:
        penalty, allowed_pairs = _compute_penalties(inputs, pairs)
        cost = cost + largest[:, None, None] * penalty
    # A cell must not match itself in its own window: otherwise its noise would not cancel.
    itself = (pairs.direction == 0)[:, None, None] & pairs.same_cell & valid
    cost = cost.masked_fill(itself & (is_source.sum(1) > 1)[:, None, None], torch.inf)
    a, b = (mask / mask.sum(1, keepdim=True) for mask in (is_source.to(cost.dtype), is_target.to(cost.dtype)))
    reg = largest * options.reg if options.reg is not None else torch.full_like(largest, inputs.default_reg)
    # lambda = reg tau / (1 - tau); within a cell's own window there is no growth, so the rows are hard
    ratio = options.tau / (1 - options.tau) if options.tau < 1 else torch.inf
    relaxation = torch.where(pairs.direction == 0, torch.inf, ratio * reg)
    potentials = sinkhorn(cost, a, b, reg, reg_m=(relaxation, torch.inf), max_iter=_MAX_ITER, tol=_TOL)
    plan = potentials.plan()
    matched = pairs.is_cell
    if allowed_pairs is not None:
        matched = (is_source & (allowed_pairs & valid).any(2), is_target & (allowed_pairs & valid).any(1))
    _add_barycenters(inputs, pairs, plan, matched, sums)
    if options.tau < 1:
        _add_growth(inputs, pairs, plan, a, sums)
    return potentials.converged.cpu()


def _add_barycenters(
    inputs: _TransportInputs, pairs: _WindowPairs, plan: Tensor, matched: tuple[Tensor, Tensor], sums: _WindowSums
) -> None:
    """Add the barycenters of the matched sources and, in mutual pairs, of the matched targets (the same plan)."""
    (source, target), coordinates_and_time = pairs.cells, inputs.coordinates_and_time
    target_barycenters = _compute_barycenters(plan, coordinates_and_time[target])
    for side in (0, 1, -1):
        taken = matched[0] & (pairs.direction == side)[:, None]
        sums.add(side, source[taken].cpu(), target_barycenters[taken].cpu())
    if bool(pairs.mutual.any()):
        source_barycenters = _compute_barycenters(plan.mT, coordinates_and_time[source])
        taken = matched[1] & pairs.mutual[:, None]
        sums.add(-1, target[taken].cpu(), source_barycenters[taken].cpu())


def _compute_barycenters(plan: Tensor, values: Tensor) -> Tensor:
    """Mean (P, w, k) of the targets' values (P, w', k) under the plan of each source."""
    return torch.bmm(plan, values) / plan.sum(2, keepdim=True).clamp(min=torch.finfo(plan.dtype).tiny)


def _add_growth(inputs: _TransportInputs, pairs: _WindowPairs, plan: Tensor, a: Tensor, sums: _WindowSums) -> None:
    """Add log(row sum / share) per unit of time to the sources, and its mean over a target's origins to the target."""
    change = (plan.sum(2) / a.clamp(min=torch.finfo(plan.dtype).tiny)).clamp(min=_MIN_MASS_RATIO).log()
    sides = list(zip(pairs.cells, pairs.is_cell, strict=True))
    mean_time = [(inputs.time[cells] * is_cell).sum(1) / is_cell.sum(1) for cells, is_cell in sides]
    gap = (mean_time[1] - mean_time[0]).abs()
    # Windows at the same time have no growth rate.
    has_gap = gap > _MIN_GROWTH_GAP * float(inputs.time.max() - inputs.time.min())
    rate = change / torch.where(has_gap, gap, 1.0)[:, None]
    later = ((pairs.direction == 1) & has_gap)[:, None]
    inherited = _compute_barycenters(plan.mT, torch.where(pairs.is_cell[0], rate, 0)[..., None])[..., 0]
    for (cells, is_cell), value in zip(sides, (rate, inherited), strict=True):
        taken = is_cell & later
        sums.add_growth(cells[taken].cpu(), value[taken].cpu())


def _compute_velocity(inputs: _TransportInputs, sums: _WindowSums, windows: Windows, converged: float) -> RawVelocity:
    """Velocity of each cell from the sums over its windows."""
    n_windows = sums.count.clone()
    seen = n_windows > 0
    mean = sums.matched / n_windows.clamp(min=1)[..., None]
    own = inputs.coordinates_and_time.cpu()
    if inputs.options.difference == "central":
        later, earlier = (torch.where(seen[side][:, None], mean[side], mean[0]) for side in (1, -1))
        covered = (seen[1] | seen[-1]) & (seen[1] & seen[-1] | seen[0])
        confidence = seen[1].float() / 2 + seen[-1].float() / 2
    else:
        later, earlier, covered = mean[1], own, seen[1].clone()
        confidence = covered.float() * n_windows[1] / n_windows[1].max().clamp(min=1)
    displacement = later - earlier
    gap = displacement[:, -1]
    # between measured times a short gap is no noise: all cells of a bin have one time
    noisy = bool(covered.any()) and not _has_one_time_per_bin(windows, inputs.time)
    smallest = _MIN_GAP * float(gap[covered].median()) if noisy else 0.0
    covered &= gap > max(smallest, 0.0)
    velocity = torch.where(covered[:, None], displacement[:, :-1] / torch.where(covered, gap, 1)[:, None], 0)
    midpoint = torch.where(covered, (later[:, -1] + earlier[:, -1]) / 2, own[:, -1])
    return RawVelocity(
        velocity=velocity.numpy(),
        weight=torch.where(covered, gap, 0).numpy(),
        confidence=torch.where(covered, confidence, 0).numpy(),
        growth=(sums.growth[0] / sums.growth[1].clamp(min=1)).numpy(),
        block=np.where(covered.numpy(), windows.block, -1),
        converged=converged,
        midpoint=midpoint.double().numpy() + inputs.mean_time,
    )


def _has_one_time_per_bin(windows: Windows, time: Tensor) -> bool:
    """Whether the bins are the measured times of a course."""
    taken = windows.cluster >= 0
    n_times = len(np.unique(time.cpu().numpy()[taken]))
    return windows.kind == "time" and n_times == len(np.unique(windows.cluster[taken]))
