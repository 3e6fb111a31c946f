"""Growth rates g(x, t) from unbalanced transport between the measured days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch

from muport._parallel import parallel_map
from muport.neighbors import knn
from muport.ot import solve
from muport.velocity.timecourse._couplings import CouplingOptions, couple_days, split_days
from muport.velocity.timecourse._days import Days

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Floats = NDArray[np.float64]

__all__ = ["GrowthField", "GrowthOptions", "fit_growth", "mass_along"]

_REG = 0.05  # regularization as a fraction of the mean cost: rates hardly depend on it, and a coarse plan is fast
_SMOOTHED = 30  # cells of a day over which displacements, and logarithmic rates, are averaged
_LANDMARKS, _MIN_LANDMARKS = 2000, 50  # cells kept of all days, and at least of each
_REPLICATE_CELLS = 400  # cells of a day that a bootstrap replicate draws
_NEAREST = 5  # landmarks over which a rate is averaged when it is evaluated
_TINY = 1e-12  # smallest mass of which a logarithm is taken
_MAX_ITER, _TOL = 2000, 1e-3


@dataclass(frozen=True)
class GrowthOptions:
    """How growth is estimated.

    - `relaxation`: Cost of a change of mass, as a multiple of the median squared distance that is left between the
      days once cells have moved with their neighborhood. 16 has the smallest mean error of 2, 8, 16 and 32 on eight
      simulated courses (parallel branches at four distances, a gradient of growth, a fork, a double well, and
      dispersal without growth).
    - `denoise`: Whether distances are those of coordinates after a Wiener filter.
    - `n_replicates`: Bootstrap replicates, of which the standard deviation is the uncertainty.
    - `random_state`: Seed of blocks, landmarks and replicates.
    """

    relaxation: float = 16.0
    denoise: bool = True
    n_replicates: int = 20
    random_state: int = 0


@dataclass(frozen=True)
class GrowthField:
    """Growth rates at landmarks: cells of the measured days.

    - `x`: (n, d) float32 coordinates.
    - `time`: (n,) float64 measured times.
    - `rate`: (n, 1 + R) float32 logarithmic change of mass per unit of time: the estimate, and R replicates.
    - `converged`: Whether all transport problems converged.
    """

    x: Annotated[NDArray[np.float32], "N d"]
    time: Annotated[NDArray[np.float64], "N"]
    rate: Annotated[NDArray[np.float32], "N R"]
    converged: bool

    def evaluate(self, x: NDArray[np.float32], time: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n,) rate, and (n,) its standard deviation, NaN with fewer than two replicates.

        A rate is the mean over the nearest landmarks of the day before and of the day after, interpolated in time.
        It is constant in time before the first day and after the last one.
        """
        days = np.unique(self.time)
        clock = np.clip(time, days[0], days[-1])
        after = np.searchsorted(days, clock).clip(1, len(days) - 1)
        fraction = (clock - days[after - 1]) / (days[after] - days[after - 1])
        rate = np.zeros((len(x), self.rate.shape[1]))
        for day, value in enumerate(days):
            weight = np.where(after == day, fraction, 0) + np.where(after - 1 == day, 1 - fraction, 0)
            rows = np.flatnonzero(weight)
            landmarks = np.flatnonzero(self.time == value)
            if len(rows):
                near = knn(self.x[landmarks], min(_NEAREST, len(landmarks)), query=x[rows]).indices
                rate[rows] += weight[rows, None] * self.rate[landmarks][near].mean(axis=1)
        sd = rate[:, 1:].std(axis=1, ddof=1) if rate.shape[1] > 2 else np.full(len(x), np.nan)
        return rate[:, 0].astype(np.float32), sd.astype(np.float32)


def fit_growth(days: Days, options: GrowthOptions = GrowthOptions()) -> GrowthField:
    r"""Estimate the growth rate of the cells of each day from the transports to the days before and after it.

    Growth is the change of density that movement leaves. First, the cells of a day move to the next one by the mean
    displacement of their 30 nearest cells in the plan between the days (:func:`couple_days`): a displacement that is
    shared by a neighborhood is movement. Then the moved cells and those of the later day, each of mass 1, are coupled
    by transport that is relaxed on both sides,

    .. math:: \min_T \langle C, T\rangle + \varepsilon\, KL(T | a b') + \lambda\, KL(T 1 | a) + \lambda\, KL(T' 1 | b),

    at squared distances C: a static form of the Wasserstein-Fisher-Rao distance (Chizat et al. 2018, Liero et al.
    2018). A pair (i, j) begins with the fraction a_i / (T1)_i of the mass of its plan and ends with b_j / (T'1)_j: its
    mass changes by the logarithm of their ratio. The rate of a cell is the mean over its pairs divided by the time
    between the days, averaged over the intervals before and after it, and then over 30 cells of its day. Since
    movement is removed first, lambda is as small as the noise of the cells, and branches that are farther apart than
    this do not exchange mass, however far they move between the days.

    Mass is the number of measured cells. If these numbers do not follow the size of the population, rates are right up
    to a constant in each interval. If a prior is given (``days.growth``), a_i is exp(prior times the interval), and
    its deviations from this are penalized. If there are batches, the change of the number of cells is that of all of
    them.

    Examples
    --------
    >>> days = Days(np.zeros((60, 1), np.float32), np.repeat([0.0, 2.0], [20, 40]))
    >>> rate, _ = fit_growth(days).evaluate(np.zeros((1, 1), np.float32), np.array([1.0]))
    >>> round(float(rate[0]), 2)  # log(2) / 2
    0.35
    """
    rng = np.random.default_rng(options.random_state)
    z = days.denoised if options.denoise else days.x
    coordinates = Days(z, days.time, days.batch, growth=days.growth)
    kept = np.concatenate([_sample(rows, len(z), rng) for rows in days.members])
    replicates = [
        np.concatenate([rng.choice(rows, min(len(rows), _REPLICATE_CELLS)) for rows in days.members])
        for _ in range(options.n_replicates)
    ]
    samples = [coordinates, *(coordinates.take(drawn) for drawn in replicates)]
    rates, converged = _rates(samples, days.n_cells.astype(np.float64), options)
    columns = [_smooth(sample, rate, coordinates, kept) for sample, rate in zip(samples, rates, strict=True)]
    table = np.stack(columns, axis=1)
    if options.n_replicates:
        # a replicate of m of n cells varies more than one of n cells would
        n_of = dict(zip(days.times.tolist(), days.n_cells.tolist(), strict=True))
        scale = np.sqrt([min(1.0, _REPLICATE_CELLS / n_of[t]) for t in days.time[kept].tolist()])
        deviation = table[:, 1:] - table[:, 1:].mean(axis=1, keepdims=True)
        table[:, 1:] = table[:, :1] + scale[:, None] * deviation
    return GrowthField(days.x[kept], days.time[kept], table.astype(np.float32), converged)


def mass_along(
    growth: GrowthField, x: NDArray[np.float32], time: NDArray[np.float32], start: float = 1.0
) -> NDArray[np.float32]:
    """(n_paths, n_points) mass along paths x (n_paths, n_points, d): exp of the integral of the rate (trapezoids)."""
    n, points, d = x.shape
    clock = time.astype(np.float64)
    rate = growth.evaluate(x.reshape(-1, d), clock.ravel())[0].reshape(n, points).astype(np.float64)
    steps = (rate[:, 1:] + rate[:, :-1]) / 2 * np.diff(clock, axis=1)
    exponent = np.concatenate([np.zeros((n, 1)), np.cumsum(steps, axis=1)], axis=1)
    return (start * np.exp(exponent)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Changes:
    """Logarithmic changes of mass between a day and the next one, per unit of time.

    - `rows`, `rate`: (k,) cells of both days, and the change of each.
    - `converged`: Whether all transport problems converged.
    """

    rows: NDArray[np.int64]
    rate: Floats
    converged: bool


def _rates(samples: list[Days], mass: Floats, options: GrowthOptions) -> tuple[list[Floats], bool]:
    """(n,) rate of each cell of each sample, the mean over its intervals.

    Also whether the problems of the first sample converged.
    """
    intervals = [(days, day) for days in samples for day in range(len(mass) - 1)]
    found = iter(parallel_map(lambda interval: _change_masses(*interval, mass, options), intervals))
    rates, converged = [], []
    for days in samples:
        total, count = np.zeros(len(days.x)), np.zeros(len(days.x))
        changes = [next(found) for _ in range(len(mass) - 1)]
        for change in changes:
            total[change.rows] += change.rate
            count[change.rows] += 1
        rates.append(total / count.clip(min=1))
        converged.append(all(change.converged for change in changes))
    return rates, converged[0]


def _change_masses(days: Days, day: int, mass: Floats, options: GrowthOptions) -> _Changes:
    """Changes of mass of the cells of a day and of the next one, at total masses (D,) of the days."""
    rows, columns = days.members[day], days.members[day + 1]
    gap = float(days.times[day + 1] - days.times[day])
    change = float(np.log(mass[day + 1] / mass[day]))
    moved, converged = _move(days, day, options)
    cells, rates = [], []
    for left, right in split_days(days, rows, columns, options.random_state):
        i, j = rows[left], columns[right]
        prior = np.zeros(len(i)) if days.growth is None else days.growth[i] * gap
        before, after, stopped = _log_changes(moved[left], days.x[j], change, prior, options.relaxation)
        converged &= stopped
        cells += [i, j]
        rates += [before / gap, after / gap]
    return _Changes(np.concatenate(cells), np.concatenate(rates), converged)


def _move(days: Days, day: int, options: GrowthOptions) -> tuple[NDArray[np.float32], bool]:
    """(n, d) cells of a day, moved to the next one with their neighborhood, and whether the plan converged."""
    x, y = (days.cells(side).astype(np.float64) for side in (day, day + 1))
    plan = couple_days(days, day, day + 1, CouplingOptions(denoise=False, random_state=options.random_state))
    displacement = plan.mean_target(y) - x
    has_target = plan.growth > _TINY
    near = knn(days.cells(day), min(_SMOOTHED, len(x)), query=days.cells(day)).indices
    weight = has_target[near][..., None].astype(np.float64)
    shared = (displacement[near] * weight).sum(axis=1) / weight.sum(axis=1).clip(min=1)
    return (x + shared).astype(np.float32), plan.converged


def _log_changes(
    x: NDArray[np.float32], y: NDArray[np.float32], change: float, prior: Floats, relaxation: float
) -> tuple[Floats, Floats, bool]:
    """(n,) and (m,) mean logarithmic change of the mass of the pairs of each cell, and whether the solver converged."""
    center = (x.mean(axis=0) + y.mean(axis=0)) / 2
    scale = max(float(np.abs(x - center).max()), float(np.abs(y - center).max())) or 1.0
    source_points, target_points = (torch.from_numpy((points - center) / scale) for points in (x, y))
    cost = torch.cdist(source_points, target_points).square()
    reg = max(_REG * float(cost.mean()), float(np.finfo(np.float32).tiny) * 1e6)
    balanced = solve(cost=cost, reg=reg, max_iter=_MAX_ITER, tol=_TOL).plan
    lam = max(relaxation * float(((balanced * cost).sum(1) / balanced.sum(1)).median()), reg)
    # the constant part of the prior is not known better than from the numbers of cells
    level = change - float(np.log(np.exp(prior).mean()))
    a, b = np.exp(prior + level) / len(x), np.full(len(y), np.exp(change) / len(y))
    result = solve(
        cost=cost, a=torch.from_numpy(a).float(), b=torch.from_numpy(b).float(), reg=reg, reg_m=(lam, lam),
        max_iter=_MAX_ITER, tol=_TOL,
    )  # fmt: skip
    plan = result.plan.numpy().astype(np.float64)
    rows, columns = plan.sum(axis=1).clip(min=_TINY), plan.sum(axis=0).clip(min=_TINY)
    source, target = prior + level - np.log(a / rows), np.log(b / columns)
    return source + plan @ target / rows, target + plan.T @ source / columns, bool(result.converged)


def _smooth(cells: Days, rate: Floats, targets: Days, kept: NDArray[np.int64]) -> Floats:
    """(n,) mean rate over the nearest cells of the same day, at the kept rows of `targets`."""
    smoothed = np.zeros(len(kept))
    for time in targets.times:
        own = np.flatnonzero(targets.time[kept] == time)
        rows = np.flatnonzero(cells.time == time)
        near = knn(cells.x[rows], min(_SMOOTHED, len(rows)), query=targets.x[kept[own]]).indices
        smoothed[own] = rate[rows][near].mean(axis=1)
    return smoothed


def _sample(rows: NDArray[np.int64], n_cells: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the landmarks of a day, in order."""
    n = min(len(rows), max(_MIN_LANDMARKS, round(_LANDMARKS * len(rows) / n_cells)))
    return np.sort(rng.choice(rows, n, replace=False))
