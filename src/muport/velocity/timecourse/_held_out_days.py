"""Measured days predicted without their cells, beside simpler predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from muport._arrays import canonical_order
from muport.ot import solve
from muport.velocity.timecourse._couplings import couple_days
from muport.velocity.timecourse._interpolation import population_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.velocity.timecourse._couplings import CouplingOptions
    from muport.velocity.timecourse._days import Days
    from muport.velocity.timecourse._interpolation import Population

    type Floats = NDArray[np.float64]

__all__ = ["HeldOutOptions", "compare_populations", "held_out_table", "mccann_interpolation", "select_coupling"]

_N_HALVES = 5  # splits of a day into halves, of which the mean is reported
_KERNEL_CELLS = 2000  # cells from which the width of the kernel is computed
_REG_SCALES, _RELAXATIONS = (0.25, 0.5, 1.0), (0.25, 0.5, 1.0)  # values among which a coupling is selected
_TINY = float(np.finfo(np.float32).tiny)  # width where all cells are equal


@dataclass(frozen=True)
class HeldOutOptions:
    """How held-out days are compared.

    - `metric`: ``"w1"``, ``"w2"`` or ``"mmd"``, by which the predictions of a day are sorted.
    - `max_cells`: Largest number of cells of a day, and of a prediction, that are compared: exact distances take the
      square of it; larger sets are sampled.
    - `random_state`: Seed of samples and splits.
    """

    metric: str = "w1"
    max_cells: int = 3000
    random_state: int = 0


def held_out_table(
    days: Days, positions: Sequence[int], coupling: CouplingOptions, options: HeldOutOptions = HeldOutOptions()
) -> pd.DataFrame:
    """Leave each day out, couple the others again, predict it, and compare with its cells.

    The predictions are: ``predicted`` (:func:`population_at`, from the days on both sides), ``forecast`` (from the
    earlier days alone, where there are two), ``mccann`` (the straight interpolation of the exact plan between the two
    neighbors), ``day before``, ``day after``, and ``halves``: one half of the day against the other, a floor for equal
    numbers of cells. Nothing of the held-out day enters a prediction but its time.

    Returns one row for each day and prediction, best first within a day: ``time``, ``prediction``, ``n_cells`` (of the
    day), ``w1``, ``w2``, ``mmd``, ``mass_error`` (|predicted - measured number of cells| / measured).
    """
    rows = []
    for day in positions:
        target = _at_most(days.cells(day).astype(np.float64), options)
        n = int(days.n_cells[day])
        found: list[dict[str, Any]] = []
        for name, (x, weight, mass) in _predictions(days, day, coupling, options).items():
            scores = compare_populations(x, target, weight)
            found.append({"prediction": name} | scores | {"mass_error": abs(mass - n) / n})
        found.append({"prediction": "halves"} | _compare_halves(target, options) | {"mass_error": 0.0})
        found.sort(key=lambda row: row[options.metric])
        rows += [{"time": float(days.times[day]), "n_cells": n} | row for row in found]
    columns = ["time", "prediction", "n_cells", "w1", "w2", "mmd", "mass_error"]
    return pd.DataFrame(rows)[columns]


def select_coupling(
    days: Days, coupling: CouplingOptions, options: HeldOutOptions = HeldOutOptions()
) -> tuple[CouplingOptions, pd.DataFrame]:
    """Select the regularization and the relaxation by the prediction of held-out days.

    Every inner day is predicted from the days on both sides, as in :func:`held_out_table`, with half, once and twice
    the default regularization and relaxation, and with `coupling` itself, which wins ties. Each score of a day
    is divided by that of `coupling`, so that all days count alike, and the smallest mean is selected.

    Returns the selected options, and a table with one row for each candidate, best first: ``reg_scale``,
    ``relaxation`` (infinite: balanced), the mean score, by the name of the metric, and ``ratio``, the mean over the
    days of the score relative to that of `coupling`. The scores of the selected options are smaller than those that new
    days would have, since they were selected by them.
    """
    grid = [replace(coupling, reg_scale=reg, relaxation=lam) for reg, lam in product(_REG_SCALES, _RELAXATIONS)]
    candidates = [coupling, *(candidate for candidate in grid if candidate != coupling)]
    inner = range(1, len(days.times) - 1)
    scores = np.array([[_score(days, day, candidate, options) for day in inner] for candidate in candidates])
    ratio = (scores / scores[0].clip(min=_TINY)).mean(axis=1)
    columns = {
        "reg_scale": [candidate.reg_scale for candidate in candidates],
        "relaxation": [np.inf if candidate.relaxation is None else candidate.relaxation for candidate in candidates],
        options.metric: scores.mean(axis=1),
        "ratio": ratio,
    }
    table = pd.DataFrame(columns).sort_values("ratio", kind="stable", ignore_index=True)
    return candidates[int(ratio.argmin())], table


def _score(days: Days, day: int, coupling: CouplingOptions, options: HeldOutOptions) -> float:
    """Distance of the prediction of a day, from the days on both sides, to its cells."""
    x, _, _ = _predict(days.without(day), float(days.times[day]), coupling, options)
    return compare_populations(x, _at_most(days.cells(day).astype(np.float64), options))[options.metric]


def compare_populations(x: Floats, y: Floats, weight: Floats | None = None) -> dict[str, float]:
    """Exact Wasserstein distances of order 1 and 2, and the maximum mean discrepancy, of weighted points to points.

    The kernel of the discrepancy is Gaussian, its width the median distance between points of `y`.
    """
    points, target = torch.from_numpy(x), torch.from_numpy(y)
    a = torch.from_numpy(np.full(len(x), 1 / len(x)) if weight is None else weight / weight.sum())
    b = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    distance = torch.cdist(points, target)
    w1 = float(solve(cost=distance, a=a, b=b, method="exact").cost)
    w2 = float(solve(cost=distance.square(), a=a, b=b, method="exact").cost)
    width = max(float(torch.cdist(target[:_KERNEL_CELLS], target[:_KERNEL_CELLS]).median()), _TINY)

    def mean_kernel(p: Tensor, q: Tensor, p_mass: Tensor, q_mass: Tensor) -> float:
        return float(p_mass @ torch.exp(-torch.cdist(p, q).square() / (2 * width**2)) @ q_mass)

    within = mean_kernel(points, points, a, a) + mean_kernel(target, target, b, b)
    squared = within - 2 * mean_kernel(points, target, a, b)
    return {"w1": w1, "w2": max(w2, 0.0) ** 0.5, "mmd": max(squared, 0.0) ** 0.5}


def mccann_interpolation(x: Floats, y: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Points and masses of McCann's interpolation between two sets of cells: straight paths of the exact plan."""
    cost = torch.cdist(torch.from_numpy(x), torch.from_numpy(y)).square()
    plan = solve(cost=cost, method="exact").plan.numpy()
    i, j = np.nonzero(plan)
    return (1 - alpha) * x[i] + alpha * y[j], plan[i, j]


def _predictions(
    days: Days, day: int, coupling: CouplingOptions, options: HeldOutOptions
) -> dict[str, tuple[Floats, Floats | None, float]]:
    """Points, weights and total mass of each prediction of a day."""
    time, others, n = float(days.times[day]), days.without(day), days.n_cells
    before, after = (_at_most(days.cells(side).astype(np.float64), options) for side in (day - 1, day + 1))
    alpha = float((time - days.times[day - 1]) / (days.times[day + 1] - days.times[day - 1]))
    total = float(n[day - 1]) ** (1 - alpha) * float(n[day + 1]) ** alpha
    found = {"predicted": _predict(others, time, coupling, options)}
    if day > 1:
        found["forecast"] = _predict(days.until(day - 1), time, coupling, options)
    found["mccann"] = (*mccann_interpolation(before, after, alpha), total)
    found["day before"] = before, None, float(n[day - 1])
    found["day after"] = after, None, float(n[day + 1])
    return found


def _predict(
    days: Days, time: float, coupling: CouplingOptions, options: HeldOutOptions
) -> tuple[Floats, Floats | None, float]:
    population: Population = population_at(
        days, lambda day: couple_days(days, day, day + 1, coupling), time, random_state=options.random_state
    )
    return _at_most(population.x.astype(np.float64), options), None, float(population.mass.sum())


def _compare_halves(y: Floats, options: HeldOutOptions) -> dict[str, float]:
    """Mean scores of one half of the cells against the other."""
    rng = np.random.default_rng(options.random_state)
    y = y[canonical_order(y)]
    scores = []
    for _ in range(_N_HALVES):
        order = rng.permutation(len(y))
        scores.append(compare_populations(y[order[: len(y) // 2]], y[order[len(y) // 2 :]]))
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def _at_most(x: Floats, options: HeldOutOptions) -> Floats:
    """The cells, or a sample of the largest number that is compared."""
    if len(x) <= options.max_cells:
        return x
    chosen = np.random.default_rng(options.random_state).choice(len(x), options.max_cells, replace=False)
    return x[canonical_order(x)][chosen]
