"""Gromov-Wasserstein plans between two modalities: many descents, one choice among them, one refinement.

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

from muport.integration.gromov._cell_geometry import AMBIENT, GRAPHS
from muport.ot import sinkhorn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.integration.gromov._cell_geometry import Geometry

__all__ = ["Choice", "choose", "refine"]

_STARTS = 4  # random starts of every setting, beside the product of the masses
_CONTRAST = 0.03  # eps of the random plans: how near they come to permutations
_WIDE = (*np.geomspace(0.3, 0.01, 18), *[0.01] * 4)  # eps from the product of the masses
_NARROW = (*np.geomspace(0.04, 0.01, 12), *[0.01] * 4)  # eps from a random plan, which a large eps would wash out
_FINE = (*[0.03] * 4, *[0.015] * 4, *[0.01] * 6)
_PER_EPS = 5.0  # distortion over eps below which the plan is sharpened
_SHARPEST = 0.0005
_SWEEPS = 10
_TINY = 1e-6  # objective below which plans are equally good
_ELSEWHERE = 0.2  # how far apart plans send cells that are of two kinds; unrelated plans are 1 apart

#: (metric of the first, metric of the second, graph)
type Setting = tuple[str, str, float]


@dataclass(frozen=True, eq=False)
class Choice:
    """The plan between prototypes that all descriptions of the two geometries like best.

    Attributes
    ----------
    plan
        (m_a, m_b) masses.
    value
        Setting -> objective of the plan (Eq. 1) in it.
    stability
        Mean over the settings of the mass that the setting's own best plan shares with this one.
    margin
        One minus the evidence for the best plan that sends cells elsewhere, over that for this one, 0 if they are as
        good; elsewhere is, in either modality, a fifth as far from the images of this plan as an unrelated plan's are.
    """

    plan: NDArray[np.float64]
    value: dict[Setting, float]
    stability: float
    margin: float


def choose(a: Geometry, b: Geometry, seed: int, device: str) -> Choice:
    """Descend in every setting from several starts, and keep the plan with the most evidence over all settings.

    With v_gxy(T) the objective (Eq. 1) by graph g and metrics x and y, the evidence for T is the mean over (x, y) of
    (mean over g of v_gxy(T))^-2.  So a plan is judged by graphs it was not fitted to, all by the same metrics, and a
    pair of metrics that no plan makes agree has little weight.
    """
    p, q = _tensor(a.share, device), _tensor(b.share, device)
    rng = np.random.default_rng(seed)
    settings = [(*pair, graph) for graph in (*GRAPHS, AMBIENT) for pair in product(a.frames, b.frames)]
    pairs = [(_tensor(a.coarse[x, graph], device), _tensor(b.coarse[y, graph], device)) for x, y, graph in settings]
    found = []
    for first, second in pairs:
        found.append(_descend(first, second, p, q, (p[:, None] * q)[None], _WIDE))
        found.append(_descend(first, second, p, q, _random_plans(p, q, rng), _NARROW))
    plans = torch.cat(found)
    values = torch.stack([_objective(first, second, plans) for first, second in pairs])
    # settings are ordered by graph, then by pair of metrics: (graphs, pairs of metrics, plans)
    within = values.reshape(len(GRAPHS) + 1, -1, len(plans)).mean(dim=0)
    evidence = within.clamp(min=_TINY).pow(-2).mean(dim=0)
    best = int(evidence.argmax())
    shared = torch.minimum(plans, plans[best]).sum((1, 2))
    own = values.reshape(len(pairs), len(pairs), -1).diagonal().argmin(0) + torch.arange(len(pairs), device=device) * (
        1 + _STARTS
    )
    squared = [_tensor(one.coarse["euclidean", AMBIENT], device).square() for one in (a, b)]
    apart = torch.maximum(_apart(plans, best, squared[1]), _apart(plans.mT, best, squared[0]))
    other = evidence[apart > _ELSEWHERE]
    return Choice(
        plans[best].double().cpu().numpy(),
        dict(zip(settings, values[:, best].tolist(), strict=True)),
        float(shared[own].mean()),
        float(1 - other.max() / evidence[best]) if len(other) else 1.0,
    )


def _apart(plans: Tensor, best: int, squared: Tensor) -> Tensor:
    """(S,) mean squared distance between the images of a cell by each plan and by one of them; 1 if unrelated."""
    rows = plans / plans.sum(2, keepdim=True)
    seen = rows @ squared
    own = (seen * rows).sum(2)
    # |mean x - mean y|^2 = E|x - y|^2 - E|x - x'|^2 / 2 - E|y - y'|^2 / 2
    return (plans.sum(2) * ((seen * rows[best]).sum(2) - (own + own[best]) / 2)).sum(1)


def refine(
    a: Geometry, b: Geometry, metrics: tuple[str, str], plan: NDArray[np.float64], device: str
) -> tuple[NDArray[np.float32], float]:
    """(n_a, n_b) plan between points, from one between prototypes; and its objective, in the mean of the graphs."""
    first = _tensor(np.mean([a.fine[metrics[0], graph] for graph in GRAPHS], axis=0), device)
    second = _tensor(np.mean([b.fine[metrics[1], graph] for graph in GRAPHS], axis=0), device)
    p, q = _tensor(a.mass, device), _tensor(b.mass, device)
    density = _tensor(plan / np.outer(a.share, b.share), device)
    label = torch.from_numpy(a.label).to(device), torch.from_numpy(b.label).to(device)
    start = density[label[0]][:, label[1]] * p[:, None] * q
    found = _descend(first, second, p, q, start[None], _FINE)
    objective = float(_objective(first, second, found)[0])
    eps = _FINE[-1]
    # the better two geometries agree, the sharper the plan may be: eps follows what is left of the distortion
    while _PER_EPS * eps > objective and eps > _SHARPEST:
        eps = max(_SHARPEST, eps / 2)
        found = _descend(first, second, p, q, found, (eps,) * 3)
        objective = float(_objective(first, second, found)[0])
    return found[0].cpu().numpy(), objective


def _tensor(x: NDArray[np.floating], device: str) -> Tensor:
    return torch.as_tensor(np.asarray(x), dtype=torch.float32, device=device)


def _gradient(a: Tensor, b: Tensor, plans: Tensor) -> Tensor:
    p, q = plans.sum(2), plans.sum(1)
    return (p @ a.square())[:, :, None] + (q @ b.square())[:, None, :] - 2 * a @ plans @ b


def _objective(a: Tensor, b: Tensor, plans: Tensor) -> Tensor:
    return (_gradient(a, b, plans) * plans).sum((1, 2))


def _descend(a: Tensor, b: Tensor, p: Tensor, q: Tensor, plans: Tensor, path: tuple[float, ...]) -> Tensor:
    """(S, n, m) plans after a descent along decreasing eps; all starts at once."""
    left, right = p.expand(len(plans), -1), q.expand(len(plans), -1)
    init: tuple[Tensor, Tensor] | None = None
    for eps in path:
        cost = _gradient(a, b, plans)
        dual = sinkhorn(cost, left, right, eps, init=init, max_iter=_SWEEPS, tol=1e-3)
        init = dual.f, dual.g
        plans = _plan(dual.f, dual.g, cost, eps, left, right)
    return plans


def _plan(f: Tensor, g: Tensor, cost: Tensor, eps: float, p: Tensor, q: Tensor) -> Tensor:
    exponent = (f[:, :, None] + g[:, None, :] - cost) / eps
    plan = exponent.clamp(max=60).exp() * p[:, :, None] * q[:, None, :]
    return plan / plan.sum((1, 2), keepdim=True)


def _random_plans(p: Tensor, q: Tensor, rng: np.random.Generator) -> Tensor:
    cost = _tensor(rng.random((_STARTS, len(p), len(q))), str(p.device))
    left, right = p.expand(_STARTS, -1), q.expand(_STARTS, -1)
    dual = sinkhorn(cost, left, right, _CONTRAST, max_iter=30, tol=1e-3)
    return _plan(dual.f, dual.g, cost, _CONTRAST, left, right)
