"""Pairs of cells drawn from the plan between two days, and the paths between them, which other days bend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from muport.velocity.timecourse._couplings import DayPlan
    from muport.velocity.timecourse._days import Days

    type Floats = NDArray[np.float64]
    type Ints = NDArray[np.int64]
    type Plans = Callable[[int], DayPlan]

__all__ = ["CoupledPaths", "DrawnPairs", "coupled_paths", "draw_pairs", "draw_systematically"]

_CURVATURE = 0.5  # fraction of the curvature that is added to a straight path, chosen on simulated courses
_MIN_GROWTH = 1e-12  # smallest number of descendants of which a power, or the logarithm, is taken


@dataclass(frozen=True, eq=False)
class DrawnPairs:
    """Pairs of a cell of one day and a cell of the next one.

    - `i`, `j`: (p,) positions of the cells among those of their day.
    - `first`, `second`: (n,), (m,) cells of either day in an order that does not depend on that of the data.
    - `rank_i`, `rank_j`: (p,) positions of the cells in these orders.
    """

    i: Ints
    j: Ints
    first: Ints
    second: Ints
    rank_i: Ints
    rank_j: Ints


@dataclass(frozen=True, eq=False)
class CoupledPaths:
    """Paths of p pairs between two days: x_i + s slope + .5 s (s - h) ((1 - s / h) c_i + s / h c_j), s the time passed.

    - `origin`, `slope`: (p, d) x_i, and (y_j - x_i) / h.
    - `bend_origin`, `bend_destination`: (p, d) second divided differences c_i and c_j.
    - `length`: Time h between the days.
    """

    origin: Floats
    slope: Floats
    bend_origin: Floats
    bend_destination: Floats
    length: float

    def at(self, passed: float) -> Floats:
        """(p, d) places of the pairs after some time since the first day."""
        h, alpha = self.length, passed / self.length
        place: Floats = self.origin + passed * self.slope + _CURVATURE * passed * (passed - h) * self._bend(alpha)
        return place

    def velocity(self, passed: float) -> Floats:
        """(p, d) derivative of these places by time."""
        h, alpha = self.length, passed / self.length
        change = (self.bend_destination - self.bend_origin) / h
        turn = (2 * passed - h) * self._bend(alpha) + passed * (passed - h) * change
        velocity: Floats = self.slope + _CURVATURE * turn
        return velocity

    def _bend(self, alpha: float) -> Floats:
        bend: Floats = (1 - alpha) * self.bend_origin + alpha * self.bend_destination
        return bend


def draw_pairs(days: Days, plan: DayPlan, day: int, alpha: float, n: int, rng: np.random.Generator) -> DrawnPairs:
    """Draw n pairs of two successive days by their mass at the fraction alpha of the interval, T_ij g_i^(alpha - 1)."""
    # in an order that does not depend on that of the cells
    first, second = canonical_order(days.cells(day)), canonical_order(days.cells(day + 1))
    ordered = plan.plan[first][:, second]
    ordered.sort_indices()
    pairs = ordered.tocoo()
    mass = pairs.data * np.maximum(plan.growth, _MIN_GROWTH)[first][pairs.row] ** (alpha - 1)
    drawn = draw_systematically(mass, n, rng)
    rank_i, rank_j = pairs.row[drawn].astype(np.int64), pairs.col[drawn].astype(np.int64)
    return DrawnPairs(first[rank_i], second[rank_j], first, second, rank_i, rank_j)


def coupled_paths(days: Days, plans: Plans, day: int, pairs: DrawnPairs) -> CoupledPaths:
    """Paths of pairs of a day and the next one, bent by the days before and after both; straight without these."""
    h = float(days.times[day + 1] - days.times[day])
    before, after = (days.cells(side).astype(np.float64) for side in (day, day + 1))
    slope = (after[pairs.j] - before[pairs.i]) / h
    origin, destination = np.zeros_like(slope), np.zeros_like(slope)
    if day > 0:
        gap = float(days.times[day] - days.times[day - 1])
        came = (before - plans(day - 1).mean_source(days.cells(day - 1).astype(np.float64))) / gap
        origin = min(1.0, gap / h) * (slope - came[pairs.i]) / (h + gap)
    if day + 2 < len(days.times):
        gap = float(days.times[day + 2] - days.times[day + 1])
        went = (plans(day + 1).mean_target(days.cells(day + 2).astype(np.float64)) - after) / gap
        destination = min(1.0, gap / h) * (went[pairs.j] - slope) / (h + gap)
    return CoupledPaths(before[pairs.i], slope, origin, destination, h)


def draw_systematically(mass: Floats, n: int, rng: np.random.Generator) -> Ints:
    """(n,) positions drawn in proportion to mass by systematic sampling: counts are the expected ones, rounded."""
    cumulative = np.cumsum(mass, dtype=np.float64)
    points = (np.arange(n) + rng.random()) * (cumulative[-1] / n)
    drawn: Ints = np.searchsorted(cumulative, points, side="right").clip(max=len(mass) - 1).astype(np.int64)
    return drawn
