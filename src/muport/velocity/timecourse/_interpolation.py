"""The population at any time, from the plans between the measured days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order
from muport.neighbors import knn
from muport.velocity.timecourse._coupled_paths import coupled_paths, draw_pairs, draw_systematically
from muport.velocity.timecourse._curved_paths import bends_along_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.timecourse._coupled_paths import Plans
    from muport.velocity.timecourse._days import Days

    type Floats = NDArray[np.float64]
    type Ints = NDArray[np.int64]

__all__ = ["Population", "population_at"]

_AHEAD = 0.5  # fraction of a displacement that goes on at most beyond the measured days, chosen on simulated courses
_PRIOR, _INTERVALS = 0.4, 2  # persistence of a displacement that is assumed, and observations of it that are added
_NOISE_KEPT = np.sqrt(0.5)  # factor of the noise of cells beyond the measured days, as in the middle of an interval
_SMOOTHED = 15  # neighbors over which displacements are averaged beyond the measured days
_MIN_DRAWN = 1000  # cells of a population between two days, by default at least


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of a predicted population.

    - `x`: (n, d) float32 coordinates.
    - `mass`: (n,) number of cells that each stands for, on the scale of the measured numbers of cells.
    - `origin`, `destination`: (n,) positions of the measured cells between which each lies; -1 where there is none.
    """

    x: NDArray[np.float32]
    mass: Floats
    origin: Ints
    destination: Ints


def population_at(
    days: Days, plans: Plans, time: float, n_cells: int | None = None, random_state: int = 0
) -> Population:
    """Predict the population at a time between the measured days, or beyond them.

    Between two days, pairs of cells (i, j) are drawn from their plan T, and each moves along a path from x_i to y_j. A
    straight path, with alpha the fraction of the interval h, is (1 - alpha) x_i + alpha y_j. The days on either side
    bend it: with b_i the mean origin of x_i on the day before, h' earlier, ::

        c_i = ((y_j - x_i) / h - (x_i - b_i) / h') / (h + h') min(1, h' / h)

    is the second divided difference (Newton), shrunk where h' is short, since its error grows with h / h'. The path is
    moved by .5 ((1 - alpha) c_i + alpha c'_j) (alpha h)(alpha h - h), with c'_j that of the day after; a side without a
    day is straight. Along the path the mass of a pair changes from 1/n times its share of the descendants of i to T_ij:
    with g_i the descendants of i, it is T_ij g_i^(alpha - 1).

    Where the days overlap, the cells of both show whether the way between them is curved, and the path is moved by
    :func:`bends_along_cells`.

    Beyond the last day (or before the first one) all its cells move on by their displacements x_j - b_j since the day
    before, averaged over 15 neighbors and after a Wiener filter, times .5 p (1 - exp(-gap / h)): at most half as far as
    they came in the last interval. p says how much of a displacement persists: the mean of .4 (of weight one half), and
    of the slopes, in [-1, 1], of the displacements of the last two intervals on those of the intervals before them; at
    least 0. Where each day has a shift of its own, as a batch has, displacements do not persist, and p is 0. The noise
    of the cells is reduced with the gap to as much as there is in the middle of an interval. Both were chosen on 13
    simulated courses, 4 of them with such shifts, with the measured courses of the benchmark in view.

    - `plans`: Position of a day -> plan to the next day.
    - `n_cells`: Number of cells; by default the expected number, n^(1 - alpha) m^alpha, at least 1,000, or all cells of
      the day beyond the measured ones.

    Raises ValueError if the time is beyond the measured days and there is one of them only.

    Examples
    --------
    >>> from muport.velocity.timecourse._couplings import couple_days
    >>> from muport.velocity.timecourse._days import Days
    >>> days = Days(np.repeat([[0.0], [4.0]], 20, axis=0).astype(np.float32), np.repeat([0.0, 2.0], 20))
    >>> population = population_at(days, lambda day: couple_days(days, day, day + 1), 0.5)
    >>> population.x.mean().round(3), population.mass.sum().round(3)
    (np.float32(1.0), np.float64(20.0))
    """
    times = days.times
    rng = np.random.default_rng(random_state)
    exact = np.flatnonzero(times == time)
    if len(exact):
        return _measured(days.members[exact[0]], days, n_cells, rng)
    if times[0] < time < times[-1]:
        return _between(days, plans, int(np.searchsorted(times, time)) - 1, time, n_cells, rng)
    if len(times) < 2:
        raise ValueError(f"time={time:g} is beyond the only measured time {times[0]:g}: two are needed to predict one.")
    return _beyond(days, plans, time, n_cells, rng)


def _measured(rows: Ints, days: Days, n_cells: int | None, rng: np.random.Generator) -> Population:
    """The measured cells, or a sample of them."""
    taken = rows if n_cells is None else rows[_draw_cells(days.x[rows], n_cells, rng)]
    return Population(days.x[taken], np.full(len(taken), len(rows) / len(taken)), taken, taken)


def _between(
    days: Days, plans: Plans, day: int, time: float, n_cells: int | None, rng: np.random.Generator
) -> Population:
    """The population between a day and the next one."""
    h = days.times[day + 1] - days.times[day]
    alpha = float((time - days.times[day]) / h)
    n, m = days.n_cells[day : day + 2].astype(np.float64)
    total = n ** (1 - alpha) * m**alpha
    count = max(_MIN_DRAWN, round(total)) if n_cells is None else n_cells
    pairs = draw_pairs(days, plans(day), day, alpha, count, rng)
    before, after = (days.cells(side).astype(np.float64) for side in (day, day + 1))
    bend = bends_along_cells(before[pairs.first], after[pairs.second], pairs.rank_i, pairs.rank_j, alpha, rng)
    x = coupled_paths(days, plans, day, pairs).at(alpha * float(h)) + bend
    rows = [days.members[side][cells] for side, cells in ((day, pairs.i), (day + 1, pairs.j))]
    return Population(x.astype(np.float32), np.full(count, total / count), *rows)


def _beyond(days: Days, plans: Plans, time: float, n_cells: int | None, rng: np.random.Generator) -> Population:
    """The population after the last day, or before the first one."""
    outward = np.arange(len(days.times)) if time > days.times[-1] else np.arange(len(days.times))[::-1]
    previous, last = int(outward[-2]), int(outward[-1])
    h = abs(days.times[last] - days.times[previous])
    reached = 1 - np.exp(-abs(time - days.times[last]) / h)
    # one observation for each of the last intervals, and half a one that says that less than half persists
    found = [_persistence(days, plans, *map(int, outward[k : k + 3])) for k in range(len(outward) - 2)][-_INTERVALS:]
    persistence = max(float(np.average([_PRIOR, *found], weights=[0.5] + [1.0] * len(found))), 0.0)
    rows = days.members[last]
    own, place = days.x[rows].astype(np.float64), days.denoised[rows].astype(np.float64)
    x = own - reached * (1 - _NOISE_KEPT) * (own - place)
    x += _AHEAD * reached * persistence * _displacement(days, plans, previous, last)
    total = days.n_cells[last] * (days.n_cells[last] / days.n_cells[previous]) ** (_AHEAD * reached)
    taken = np.arange(len(rows)) if n_cells is None else _draw_cells(own, n_cells, rng)
    absent = np.full(len(taken), -1, np.int64)
    ends = (rows[taken], absent) if last > previous else (absent, rows[taken])
    return Population(x[taken].astype(np.float32), np.full(len(taken), float(total) / len(taken)), *ends)


def _draw_cells(x: NDArray[np.floating], n: int, rng: np.random.Generator) -> Ints:
    """(n,) positions of cells drawn evenly by systematic sampling, in an order that does not depend on the data."""
    return canonical_order(x)[draw_systematically(np.ones(len(x)), n, rng)]


def _displacement(days: Days, plans: Plans, previous: int, day: int) -> Floats:
    """(n, d) displacement of the cells of a day since the day before, or the day after, means over neighbors."""
    z = days.denoised[days.members[day]]
    displacement = z.astype(np.float64) - _mean_partner(days, plans, day, previous)
    neighbors = knn(z, min(_SMOOTHED, len(z) - 1), query=z).indices
    smoothed: Floats = displacement[neighbors].mean(axis=1)
    return smoothed


def _mean_partner(days: Days, plans: Plans, day: int, other: int) -> Floats:
    """(n, d) mean position of the cells of another day that each cell of a day is coupled with."""
    plan, cells = plans(min(day, other)), days.denoised[days.members[other]].astype(np.float64)
    return plan.mean_source(cells) if other < day else plan.mean_target(cells)


def _persistence(days: Days, plans: Plans, previous: int, day: int, following: int) -> float:
    """How far cells went on as they came: slope of one displacement on the other, in [-1, 1]."""
    came = _displacement(days, plans, previous, day)
    went = _mean_partner(days, plans, day, following) - days.denoised[days.members[day]]
    weight = plans(day).growth if day < following else None
    gap, h = (abs(days.times[day] - days.times[side]) for side in (following, previous))
    common = np.average(np.sum(went * came, axis=1), weights=weight)
    length = np.average(np.square(came).sum(axis=1), weights=weight) * (1 - np.exp(-gap / h))
    return float(np.clip(common / length, -1, 1)) if length > 0 else 0.0
