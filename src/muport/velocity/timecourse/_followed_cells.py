"""Cells of a measured day followed along the paths of the coupled cells around them, with their mass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.neighbors import knn
from muport.velocity.dynamics._ode import integrate
from muport.velocity.timecourse._coupled_paths import CoupledPaths, coupled_paths, draw_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.velocity.timecourse._coupled_paths import Plans
    from muport.velocity.timecourse._couplings import CouplingOptions
    from muport.velocity.timecourse._days import Days

    type Floats = NDArray[np.float64]

__all__ = ["follow_cells", "options_to_follow"]

_PAIRS = 3000  # pairs of an interval whose paths are followed
_NEAREST = 15  # of these paths, over which velocity and growth are averaged
_STEPS = 10  # of the solver, between two days
_MIN_GROWTH = 1e-12  # smallest number of descendants of which the logarithm is taken
_FINER, _LESS_GROWTH = 0.1, 8  # factors of the regularization and of the relaxation of plans between single days


@dataclass(frozen=True, eq=False)
class _Flow:
    """Velocity and growth rate between two days: means over the nearest paths of coupled cells.

    - `paths`: Paths of p pairs.
    - `rate`: (p,) logarithmic change of mass of the pairs, per unit of time.
    - `start`: Time of the first day.
    """

    paths: CoupledPaths
    rate: Floats
    start: float

    def __call__(self, points: Tensor, times: Tensor) -> Tensor:
        """(n, d + 1) change per unit of time of places and logarithmic mass (n, d + 1), at one time for all."""
        passed = float(times[0]) - self.start
        places = self.paths.at(passed).astype(np.float32)
        near = knn(places, min(_NEAREST, len(places)), query=points[:, :-1].float().numpy()).indices
        change = np.column_stack([self.paths.velocity(passed), self.rate])
        return torch.from_numpy(change[near].mean(axis=1))


def options_to_follow(options: CouplingOptions) -> CouplingOptions:
    """Finer plans than those between single days: a tenth of their regularization, eight times their relaxation.

    Cells that are followed over several days add up the errors of each interval: a coarse plan contracts the
    population, and a relaxed one adds growth that depends on the noise of single cells. The factors, and the number of
    neighbors, were chosen on six simulated courses (a fork, a double well, a gradient of growth, parallel branches,
    dispersal and contraction; two seeds), where the cells of the first day that were not fitted were compared with
    such cells of later days: relaxations of 2 and 4 have the smallest W1, .80, with mass errors of .08 and .05 (.82 and
    .11 at 1, .84 and .02 at 16); the regularization alone changes W1 by .01, and 5 neighbors in place of 15 by less.
    """
    relaxation = None if options.relaxation is None else _LESS_GROWTH * options.relaxation
    return replace(options, reg_scale=_FINER * options.reg_scale, relaxation=relaxation)


def follow_cells(
    days: Days, plans: Plans, day: int, time: float, random_state: int = 0
) -> tuple[NDArray[np.float32], Floats]:
    r"""Follow the cells of a day to any time among the measured ones, earlier or later, with their mass.

    The pairs (i, j) of the plan of an interval move along their paths x_ij(t), as in :func:`population_at`, and their
    mass changes at the rate r_ij = log(g_i m / n) / h, with g_i the descendants of i relative to the mean, n and m the
    cells of both days, and h the time between them. A cell at x follows the means over the pairs around it,

    .. math:: \dot x = E[\dot x_{ij}(t) | x_{ij}(t) = x], \qquad \dot \mu = \mu E[r_{ij} | x_{ij}(t) = x]:

    by the continuity equation this flow has the populations of the paths (flow matching, Lipman et al. 2023, Tong et
    al. 2024), here without a network. The means are those of the 15 nearest of 3,000 pairs, so no cell moves faster
    than along a path.

    Returns (n, d) places, and (n,) mass, 1 at the start.

    Examples
    --------
    >>> from muport.velocity.timecourse._couplings import couple_days
    >>> from muport.velocity.timecourse._days import Days
    >>> days = Days(np.repeat([[0.0], [4.0]], [20, 40], axis=0).astype(np.float32), np.repeat([0.0, 2.0], [20, 40]))
    >>> x, mass = follow_cells(days, lambda day: couple_days(days, day, day + 1), 0, 1.0)
    >>> x.mean().round(3), mass.sum().round(2)  # 20 cells become 40: by a factor of the root of 2 in half the time
    (np.float32(2.0), np.float64(28.28))
    """
    later = time >= days.times[day]
    state = torch.from_numpy(np.column_stack([days.cells(day).astype(np.float64), np.zeros(days.n_cells[day])]))
    reached = float(days.times[day])
    while reached != time:
        first = day if later else day - 1
        end = float(min(time, days.times[day + 1]) if later else max(time, days.times[day - 1]))
        flow = _flow(days, plans, first, random_state)
        state = torch.from_numpy(integrate(flow, state, reached, end, n_steps=_STEPS).ends.astype(np.float64))
        reached, day = end, day + 1 if later else day - 1
    found = state.numpy()
    return found[:, :-1].astype(np.float32), np.exp(found[:, -1])


def _flow(days: Days, plans: Plans, day: int, random_state: int) -> _Flow:
    """The flow from a day to the next one."""
    plan = plans(day)
    pairs = draw_pairs(days, plan, day, 0.5, _PAIRS, np.random.default_rng(random_state))
    paths = coupled_paths(days, plans, day, pairs)
    descendants = np.maximum(plan.growth, _MIN_GROWTH) * days.n_cells[day + 1] / days.n_cells[day]
    return _Flow(paths, np.log(descendants)[pairs.i] / paths.length, float(days.times[day]))
