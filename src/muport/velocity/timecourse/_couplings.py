"""Transport plans between the cells of successive days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from muport._arrays import canonical_order
from muport.neighbors import knn
from muport.ot import solve
from muport.velocity.timecourse._clones import clonal_affinity
from muport.velocity.timecourse._days import MIN_CELLS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.timecourse._days import Days

__all__ = ["CouplingOptions", "DayPlan", "couple_days", "split_days"]

_NEIGHBOR_RANK = 5  # rank of the neighbor whose distance sets the regularization, as in the estimation of the field
_BLOCK_CELLS = 2048  # cells of a day that are transported in one problem: larger days are split at random
_MIN_REG = 1e-4  # regularization as a fraction of the mean cost: float32 holds the potentials of no smaller one
_PILOT_REG = 0.05  # regularization of the coarse plan that sets the relaxation, as a fraction of the mean cost
_LOST = 1e-2  # mass of a row, and of a column, that the entries left out of a sparse plan hold at most
_MIN_MASS = 1e-12  # smallest growth factor of which a logarithm or a power is taken
_MAX_ITER, _TOL = 2000, 1e-3  # tolerance of potential / reg


@dataclass(frozen=True)
class CouplingOptions:
    """How the days are coupled.

    - `reg_scale`: Entropic regularization, as a multiple of the median squared distance of a cell to its fifth neighbor
      on its day (geometric mean of both days).
    - `relaxation`: Cost of a change of mass, as a multiple of the median squared distance over which cells are
      transported; None is balanced.
    - `clone_weight`: Cost of a transport against the descent of the clones, as a multiple of the same distance.
    - `denoise`: Whether distances are those of coordinates after a Wiener filter, as in the estimation of the field.
    - `random_state`: Seed of the split of days into blocks.
    """

    reg_scale: float = 0.5
    relaxation: float | None = 0.5
    denoise: bool = True
    random_state: int = 0
    clone_weight: float = 4.0


@dataclass(frozen=True, eq=False)
class DayPlan:
    """Transport plan between the n cells of a day and the m cells of a later one.

    - `plan`: (n, m) float32 sparse plan; every column sums to 1/m, and the rows to their cells' share of the
      descendants.
    - `converged`: Whether all transport problems converged.
    """

    plan: sp.csr_matrix
    converged: bool

    @property
    def growth(self) -> NDArray[np.float64]:
        """(n,) number of descendants of each cell, relative to the mean over the cells."""
        rows = np.asarray(self.plan.sum(axis=1, dtype=np.float64)).ravel()
        growth: NDArray[np.float64] = rows * self.plan.shape[0]
        return growth

    def push(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, k) mass of the descendants of the mass (n, k) on the source cells."""
        pushed: NDArray[np.float64] = self.plan.T @ (mass * self.plan.shape[0])
        return pushed

    def pull(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, k) mass of the ancestors of the mass (m, k) on the target cells."""
        pulled: NDArray[np.float64] = self.plan @ (mass * self.plan.shape[1])
        return pulled

    def mean_target(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, d) mean of the values (m, d) of the targets of each source cell."""
        rows = np.asarray(self.plan.sum(axis=1, dtype=np.float64)).clip(min=_MIN_MASS)
        mean: NDArray[np.float64] = (self.plan @ y) / rows
        return mean

    def mean_source(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(m, d) mean of the values (n, d) of the sources of each target cell."""
        columns = np.asarray(self.plan.sum(axis=0, dtype=np.float64)).clip(min=_MIN_MASS).T
        mean: NDArray[np.float64] = (self.plan.T @ x) / columns
        return mean


def couple_days(days: Days, source: int, target: int, options: CouplingOptions = CouplingOptions()) -> DayPlan:
    """Transport the cells of one day onto those of a later one.

    The plan T minimizes <C, T> + eps KL(T | a b') + lam KL(T 1 | a) at squared distances C and uniform shares a = 1/n,
    b = 1/m, with T' 1 = b: every target cell has ancestors, and source cells may have more or fewer descendants. lam is
    ``relaxation`` times the median over the source cells of their mean cost in a coarse balanced plan (eps at least a
    twentieth of the mean cost), so it has the unit of the cost; fewer than half of the cells may be transported to
    another branch in that plan without an effect.

    Days of more than 2,048 cells (geometric mean) are split at random into blocks of that size, block r against block
    r: time and memory are linear in the number of cells. The plan is kept sparse: entries that together hold less than
    1 % of a row and of a column are left out, and the columns are scaled back to their sum. If all batches have ten
    cells or more on both days, cells are transported within their batch.

    If the cells have expected growth rates g (``days.growth``), a is proportional to exp(g times the interval). If they
    have clones (``days.clones``), C gets ``clone_weight`` times the same median cost times 1 minus their affinity by
    clones (:func:`clonal_affinity`).

    - `source`, `target`: Positions of the days.

    Examples
    --------
    >>> from muport.velocity.timecourse._days import Days
    >>> time = np.repeat([0.0, 1.0], 20)
    >>> x = np.stack([time * 3, np.tile(np.arange(20), 2)], axis=1).astype(np.float32)
    >>> plan = couple_days(Days(x, time), 0, 1)
    >>> plan.plan.shape, bool(np.allclose(plan.plan.sum(axis=0), 1 / 20))
    ((20, 20), True)
    """
    rows, columns = days.members[source], days.members[target]
    blocks = split_days(days, rows, columns, options.random_state)
    entries, converged = [], True
    x = days.denoised if options.denoise else days.x
    for left, right in blocks:
        i, j = rows[left], columns[right]
        gap = float(days.times[target] - days.times[source])
        prior = None if days.growth is None else days.growth[i] * gap
        affinity = None if days.clones is None else clonal_affinity(x[i], x[j], days.clones[i], days.clones[j])
        block, stopped = _transport(x[i], x[j], options, prior, affinity)
        block *= len(right) / len(columns)
        converged &= stopped
        i, j = np.nonzero(block)
        entries.append((left[i], right[j], block[i, j]))
    i, j, mass = (np.concatenate(part) for part in zip(*entries, strict=True))
    plan = sp.csr_matrix((mass, (i, j)), shape=(len(rows), len(columns)), dtype=np.float32)
    return DayPlan(plan, converged)


def split_days(
    days: Days, rows: NDArray[np.int64], columns: NDArray[np.int64], seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of the cells of both days that are transported together."""
    groups = [(np.arange(len(rows)), np.arange(len(columns)))]
    if days.batch is not None:
        left, right = days.batch[rows], days.batch[columns]
        batches = np.union1d(left, right)
        smallest = min(min(int((left == b).sum()), int((right == b).sum())) for b in batches)
        if smallest >= MIN_CELLS:
            groups = [(np.flatnonzero(left == b), np.flatnonzero(right == b)) for b in batches]
    rng = np.random.default_rng(seed)
    blocks = []
    for left_cells, right_cells in groups:
        n_blocks = max(1, round(np.sqrt(len(left_cells) * len(right_cells)) / _BLOCK_CELLS))
        n_blocks = min(n_blocks, len(left_cells), len(right_cells))
        sides = [left_cells, right_cells]
        if n_blocks > 1:
            # from an order that does not depend on that of the data
            sides = [
                rng.permutation(cells[canonical_order(days.x[side[cells]])])
                for cells, side in zip(sides, (rows, columns), strict=True)
            ]
        blocks += list(zip(*(np.array_split(cells, n_blocks) for cells in sides), strict=True))
    return blocks


def _transport(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    options: CouplingOptions,
    prior: NDArray[np.float64] | None = None,
    affinity: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], bool]:
    """Plan of mass 1 between two sets of cells, without its smallest entries, and whether the solver converged."""
    center = (x.mean(axis=0) + y.mean(axis=0)) / 2
    scale = max(float(np.abs(x - center).max()), float(np.abs(y - center).max()))
    # in units of the largest coordinate, so that no square under- or overflows; a plan has no unit
    source, target = (torch.from_numpy((points - center) / (scale or 1.0)) for points in (x, y))
    cost = torch.cdist(source, target).square()
    mean_cost = float(cost.mean())
    spacing = float(np.sqrt(_squared_spacing(source) * _squared_spacing(target)))
    reg = max(options.reg_scale * spacing, _MIN_REG * mean_cost, float(np.finfo(np.float32).tiny) * 1e6)
    lam = float("inf")
    a = None if prior is None else torch.from_numpy(np.exp(prior - np.logaddexp.reduce(prior))).float()
    if options.relaxation is not None or affinity is not None:
        # balanced transport between branches of unequal sizes converges slowly unless it is coarse
        pilot = solve(cost=cost, a=a, reg=max(reg, _PILOT_REG * mean_cost), max_iter=_MAX_ITER, tol=_TOL)
        typical = float(((pilot.plan * cost).sum(1) / pilot.plan.sum(1)).median())
        if options.relaxation is not None:
            lam = max(options.relaxation * typical, reg)
        if affinity is not None:
            cost = cost + options.clone_weight * typical * (1 - torch.from_numpy(affinity))
    result = solve(cost=cost, a=a, reg=reg, reg_m=(lam, float("inf")), max_iter=_MAX_ITER, tol=_TOL)
    return _without_smallest(result.plan.numpy()), bool(result.converged)


def _squared_spacing(x: torch.Tensor) -> float:
    """Median squared distance of a cell to its fifth neighbor."""
    n = len(x)
    if n < 2:
        return 0.0
    distances = knn(x.numpy(), min(_NEIGHBOR_RANK, n - 1)).distances[:, -1]
    return float(np.median(distances) ** 2)


def _without_smallest(plan: NDArray[np.float32]) -> NDArray[np.float32]:
    """Set entries to zero that are negligible in their row and in their column; columns keep a sum of 1/m."""
    n, m = plan.shape
    rows, columns = plan.sum(axis=1, keepdims=True), plan.sum(axis=0, keepdims=True)
    plan[(plan < _LOST / m * rows) & (plan < _LOST / n * columns)] = 0
    total = plan.sum(axis=0, keepdims=True)
    scaled: NDArray[np.float32] = plan / (np.maximum(total, np.finfo(np.float32).tiny) * m)
    return scaled
