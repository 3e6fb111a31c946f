"""Gromov-Wasserstein plans between two modalities: descents from many plans, the choice of one, and its refinement.

With distances A (n, n), B (m, m) of root mean square 1 and masses p, q, the objective of a plan T is

    GW(T) = sum (A_ik - B_jl)^2 T_ij T_kl = p'A^2 p + q'B^2 q - 2 <A T B, T>,                              (1)

and a descent is T <- argmin <G(T), T'> + eps KL(T' | p q'), G(T) = A^2 p 1' + 1 (B^2 q)' - 2 A T B, at decreasing eps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.integration.gromov._cell_geometry import GRAPHS, STRAIGHT
from muport.ot import sinkhorn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.integration.gromov._cell_geometry import ModalityGeometry
    from muport.ot import Potentials

__all__ = ["PrototypePlan", "choose_plan", "refine_plan"]

_RANDOM_STARTS = 4  # random plans to descend from in each setting, beside the product of the masses
_RANDOM_EPS = 0.03  # eps of the random plans: the smaller, the nearer they are to permutations
_EPS_FROM_PRODUCT = (*np.geomspace(0.3, 0.01, 18), *[0.01] * 4)
_EPS_FROM_RANDOM = (*np.geomspace(0.04, 0.01, 12), *[0.01] * 4)  # starts low: a large eps would erase the random plan
_EPS_OF_POINTS = (*[0.03] * 4, *[0.015] * 4, *[0.01] * 6)
_SHARPEN_BELOW = 5.0  # objective over eps below which eps is halved
_MIN_EPS = 0.0005
_SWEEPS = 10  # Sinkhorn sweeps of each step of a descent
_MIN_OBJECTIVE = 1e-6  # plans with smaller objectives are equally good
_DIFFERENT = 0.2  # distance from which two plans count as different; unrelated plans have distance 1

#: (metric of the first modality, metric of the second, graph)
type Setting = tuple[str, str, float]


@dataclass(frozen=True, eq=False)
class PrototypePlan:
    """The plan between prototypes with the most evidence over all settings.

    - `plan`: (m_a, m_b) masses.
    - `objectives`: Setting -> objective of the plan (Eq. 1) in it.
    - `stability`: Mean over the settings of the mass that the best plan of the setting shares with this plan.
    - `margin`: One minus the evidence for the best different plan over that for this one: 0 if they are equally good. A
      plan is different if in either modality it sends cells a fifth as far from the images under this plan as an
      unrelated plan does.
    """

    plan: NDArray[np.float64]
    objectives: dict[Setting, float]
    stability: float
    margin: float


def choose_plan(a: ModalityGeometry, b: ModalityGeometry, seed: int, device: str) -> PrototypePlan:
    """Descend in each setting from several plans, and choose the one with the most evidence over all settings.

    With v_gxy(T) the objective (Eq. 1) by graph g and metrics x and y, the evidence for T is the mean over (x, y) of
    (mean over g of v_gxy(T))^-2. So a plan is also judged by graphs on which it was not fitted, and a pair of metrics
    in which all plans fit badly has little weight.
    """
    p, q = _to_tensor(a.prototype_mass, device), _to_tensor(b.prototype_mass, device)
    rng = np.random.default_rng(seed)
    settings = [(*metrics, graph) for graph in (*GRAPHS, STRAIGHT) for metrics in product(a.scalings, b.scalings)]
    distances = [
        (_to_tensor(a.prototype_distances[x, graph], device), _to_tensor(b.prototype_distances[y, graph], device))
        for x, y, graph in settings
    ]
    by_setting = []
    for first, second in distances:
        by_setting.append(_descend(first, second, p, q, (p[:, None] * q)[None], _EPS_FROM_PRODUCT))
        by_setting.append(_descend(first, second, p, q, _draw_plans(p, q, rng), _EPS_FROM_RANDOM))
    plans = torch.cat(by_setting)
    objectives = torch.stack([_compute_objective(first, second, plans) for first, second in distances])
    # settings are ordered by graph, then by pair of metrics: (graphs, pairs of metrics, plans)
    mean_over_graphs = objectives.reshape(len(GRAPHS) + 1, -1, len(plans)).mean(dim=0)
    evidence = mean_over_graphs.clamp(min=_MIN_OBJECTIVE).pow(-2).mean(dim=0)
    best = int(evidence.argmax())
    shared_mass = torch.minimum(plans, plans[best]).sum((1, 2))
    best_of_setting = objectives.reshape(len(settings), len(settings), -1).diagonal().argmin(0)
    best_of_setting += torch.arange(len(settings), device=device) * (1 + _RANDOM_STARTS)
    squared = [_to_tensor(side.prototype_distances["euclidean", STRAIGHT], device).square() for side in (a, b)]
    distance = torch.maximum(_compare_plans(plans, best, squared[1]), _compare_plans(plans.mT, best, squared[0]))
    different = evidence[distance > _DIFFERENT]
    return PrototypePlan(
        plans[best].double().cpu().numpy(),
        dict(zip(settings, objectives[:, best].tolist(), strict=True)),
        float(shared_mass[best_of_setting].mean()),
        float(1 - different.max() / evidence[best]) if len(different) else 1.0,
    )


def _compare_plans(plans: Tensor, best: int, squared: Tensor) -> Tensor:
    """Compute the mean squared distance (S,) between the images of a cell under each plan and under the best.

    - `plans`: (S, n, m) plans.
    - `best`: Position of the best plan.
    - `squared`: (m, m) squared distances of root mean square 1, so that the distance of unrelated plans is 1.
    """
    conditional = plans / plans.sum(2, keepdim=True)
    mean_distance = conditional @ squared
    within = (mean_distance * conditional).sum(2)
    # |mean x - mean y|^2 = E|x - y|^2 - E|x - x'|^2 / 2 - E|y - y'|^2 / 2
    between = (mean_distance * conditional[best]).sum(2)
    return (plans.sum(2) * (between - (within + within[best]) / 2)).sum(1)


def refine_plan(
    a: ModalityGeometry, b: ModalityGeometry, metrics: tuple[str, str], plan: NDArray[np.float64], device: str
) -> tuple[NDArray[np.float32], float, float]:
    """Refine a plan between prototypes to one between points.

    - `metrics`: Metric of each.
    - `plan`: (m_a, m_b) plan between prototypes.

    Returns (n_a, n_b) plan between points, its objective in the mean of the graphs, and that by chance: of the product
    of the masses, under which every pair of cells is as likely.
    """
    first = _to_tensor(np.mean([a.point_distances[metrics[0], graph] for graph in GRAPHS], axis=0), device)
    second = _to_tensor(np.mean([b.point_distances[metrics[1], graph] for graph in GRAPHS], axis=0), device)
    p, q = _to_tensor(a.mass, device), _to_tensor(b.mass, device)
    density = _to_tensor(plan / np.outer(a.prototype_mass, b.prototype_mass), device)
    prototypes = torch.from_numpy(a.prototype).to(device), torch.from_numpy(b.prototype).to(device)
    start = density[prototypes[0]][:, prototypes[1]] * p[:, None] * q
    refined = _descend(first, second, p, q, start[None], _EPS_OF_POINTS)
    objective = float(_compute_objective(first, second, refined)[0])
    eps = _EPS_OF_POINTS[-1]
    # the better the two geometries agree, the sharper the plan may be: eps follows the objective
    while _SHARPEN_BELOW * eps > objective and eps > _MIN_EPS:
        eps = max(_MIN_EPS, eps / 2)
        refined = _descend(first, second, p, q, refined, (eps,) * 3)
        objective = float(_compute_objective(first, second, refined)[0])
    by_chance = float(_compute_objective(first, second, (p[:, None] * q)[None])[0])
    return refined[0].cpu().numpy(), objective, by_chance


def _to_tensor(x: NDArray[np.floating], device: str) -> Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.float32, device=device)


def _compute_gradient(a: Tensor, b: Tensor, plans: Tensor) -> Tensor:
    p, q = plans.sum(2), plans.sum(1)
    return (p @ a.square())[:, :, None] + (q @ b.square())[:, None, :] - 2 * a @ plans @ b


def _compute_objective(a: Tensor, b: Tensor, plans: Tensor) -> Tensor:
    return (_compute_gradient(a, b, plans) * plans).sum((1, 2))


def _descend(a: Tensor, b: Tensor, p: Tensor, q: Tensor, plans: Tensor, path: tuple[float, ...]) -> Tensor:
    """Descend from all plans (S, n, m) at once, along decreasing eps; each step starts from the last potentials."""
    left, right = p.expand(len(plans), -1), q.expand(len(plans), -1)
    init: tuple[Tensor, Tensor] | None = None
    for eps in path:
        cost = _compute_gradient(a, b, plans)
        potentials = sinkhorn(cost, left, right, eps, init=init, max_iter=_SWEEPS, tol=1e-3)
        init = potentials.f, potentials.g
        plans = _normalized_plan(potentials)
    return plans


def _normalized_plan(potentials: Potentials) -> Tensor:
    """Plans (S, n, m) of sum 1; the few sweeps before do not give this sum."""
    log_plan = potentials.log_plan()
    return torch.softmax(log_plan.flatten(1), dim=1).view_as(log_plan)


def _draw_plans(p: Tensor, q: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw random plans: entropic transport at a cost of uniform random numbers."""
    cost = _to_tensor(rng.random((_RANDOM_STARTS, len(p), len(q))), str(p.device))
    left, right = p.expand(_RANDOM_STARTS, -1), q.expand(_RANDOM_STARTS, -1)
    return _normalized_plan(sinkhorn(cost, left, right, _RANDOM_EPS, max_iter=30, tol=1e-3))
