"""Mixture Wasserstein distances (MW2) between patients: transport of components at Bures-Wasserstein cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport._parallel import parallel_map, single_threaded
from muport.gmm.distances._bures import bures_squared
from muport.ot import solve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["compute_plans", "mixture_wasserstein", "pair_costs", "pair_costs_of", "solve_transport", "typical_cost"]

_BLOCK = 2048  # small transport problems that one thread solves in one call
_EMPTY = 1e-9  # mass of a plan below which nothing is moved


@single_threaded()
def mixture_wasserstein(
    mix_a: Mixtures, mix_b: Mixtures | None = None, w: ArrayLike | None = None
) -> NDArray[np.float64]:  # fmt: skip
    """Compute mixture Wasserstein distances MW2 between patients (not squared).

    - `mix_a`: Mixtures of Pa patients.
    - `mix_b`: Mixtures of Pb patients; by default `mix_a`.
    - `w`: (r, d) metric; by default the identity.

    Returns (Pa, Pb).

    References
    ----------
    Delon and Desolneux (2020), A Wasserstein-type distance in the space of Gaussian mixture models, Eq. 4.3.

    Examples
    --------
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> weights = np.ones((2, 1))
    >>> mix = Mixtures(weights, np.array([[[0.0]], [[3.0]]]), np.array([[[[1.0]]], [[[25.0]]]]), "full", 0.0)
    >>> mixture_wasserstein(mix).round(6).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    costs = pair_costs(mix_a, mix_b, w)
    plan = compute_plans(mix_a, mix_b, costs)
    squared = (plan * costs).sum((2, 3)) / plan.sum((2, 3))
    if mix_b is None:
        squared = (squared + squared.T) / 2
        np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0))


def pair_costs(mix_a: Mixtures, mix_b: Mixtures | None = None, w: ArrayLike | None = None) -> NDArray[np.float64]:
    """Compute squared Bures-Wasserstein distances between all components of all patients, under a metric W.

    c_kl = |W (m_k - m_l)|^2 + tr S_k + tr S_l - 2 tr (S_k^1/2 S_l S_k^1/2)^1/2 with S = W S W'.

    - `mix_a`, `mix_b`, `w`: As for :func:`mixture_wasserstein`.

    Returns (Pa, Pb, Ka, Kb), at least 0; 0 for padded components. Raises ValueError if the mixtures or the metric do
    not have the same number of coordinates.
    """
    _check_same_coordinates(mix_a, mix_b, w)
    first = _flatten(mix_a, w)
    second = None if mix_b is None else _flatten(mix_b, w)
    costs = pair_costs_of(*first[:2], *(second[:2] if second is not None else (None, None)))
    has_mass = [components[2] for components in (first, second or first)]
    full = costs.new_zeros(*(len(mask) for mask in has_mass))
    full[has_mass[0].nonzero(), has_mass[1].nonzero()[:, 0]] = costs
    shape = (*mix_a.weights.shape, *(mix_a if mix_b is None else mix_b).weights.shape)
    return full.reshape(shape).transpose(1, 2).contiguous().numpy()


def pair_costs_of(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor | None = None, cov_b: Tensor | None = None) -> Tensor:
    """Compute squared Bures-Wasserstein distances (A, B) of Gaussians.

    Means are (A, r) and (B, r), covariances (A, r, r) and (B, r, r), or (A, r) and (B, r); the second Gaussians are
    the first ones by default.
    """
    other = mean_a if mean_b is None else mean_b
    between_means = torch.cdist(mean_a, other, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return between_means + bures_squared(cov_a, cov_b)


def _check_same_coordinates(mix_a: Mixtures, mix_b: Mixtures | None, w: ArrayLike | None) -> None:
    d = mix_a.means.shape[2]
    if mix_b is not None and (mix_b.means.shape[2] != d or mix_b.covariance_type != mix_a.covariance_type):
        raise ValueError(
            f"mix_a has {d} coordinates and {mix_a.covariance_type!r} covariances, mix_b {mix_b.means.shape[2]} and "
            f"{mix_b.covariance_type!r}: fit both in one representation."
        )
    if w is not None and (np.ndim(w) != 2 or np.shape(w)[1] != d):
        raise ValueError(f"w has shape {np.shape(w)}: the mixtures have {d} coordinates, so it needs (r, {d}).")


def _flatten(mix: Mixtures, w: ArrayLike | None) -> tuple[Tensor, Tensor, Tensor]:
    """Means and covariances under W of the components with mass, and which components have mass (P K,)."""
    has_mass = torch.from_numpy(mix.weights > 0).flatten()
    mean = torch.from_numpy(mix.means).flatten(0, 1)[has_mass]
    covariance = torch.from_numpy(mix.covariances).flatten(0, 1)[has_mass]
    if w is not None:
        metric = torch.as_tensor(np.asarray(w, dtype=np.float64))
        mean = mean @ metric.T
        covariance = torch.diag_embed(covariance) if covariance.ndim == 2 else covariance
        covariance = metric @ covariance @ metric.T
    return mean, covariance, has_mass


def compute_plans(
    mix_a: Mixtures, mix_b: Mixtures | None, costs: NDArray[np.float64], *, tau: float = 1.0, scale: float | None = None
) -> NDArray[np.float64]:
    """Compute exact transport plans between the components of all pairs of patients.

    - `mix_a`, `mix_b`: Mixtures; if `mix_b` is None it is `mix_a`, and the plan of (j, i) is the transpose of that of
      (i, j).
    - `costs`: (Pa, Pb, Ka, Kb) costs between components.
    - `tau`: In (0, 1]; 1 is balanced transport. Below 1, mass may stay unmatched at a cost of scale x tau / (1 - tau)
      on each side, so that a component which one patient lacks is not moved to a different component.
    - `scale`: Unit of costs; by default :func:`typical_cost` of these mixtures.

    Returns (Pa, Pb, Ka, Kb); the mass of a plan is 1 if balanced, else at most 1 and never 0. Raises ValueError if tau
    is out of range.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau={tau} must be in (0, 1]: 1 is balanced transport.")
    other = mix_a if mix_b is None else mix_b
    unit = typical_cost(costs, mix_a, other) if scale is None else scale
    price = None if tau == 1 else unit * tau / (1 - tau)
    if mix_b is None:
        rows, columns = np.triu_indices(len(costs), 1)
    else:
        rows, columns = (axis.ravel() for axis in np.indices(costs.shape[:2]))
    problems = (costs[rows, columns], mix_a.weights[rows], other.weights[columns])
    plans = solve_transport(*(torch.from_numpy(array) for array in problems), price=price).numpy()
    out = np.zeros_like(costs)
    out[rows, columns] = plans
    if mix_b is None:
        out[columns, rows] = plans.transpose(0, 2, 1)
        out[np.arange(len(out)), np.arange(len(out))] = mix_a.weights[:, :, None] * np.eye(out.shape[2])
    return out


def typical_cost(costs: NDArray[np.float64], mix_a: Mixtures, mix_b: Mixtures) -> float:
    """Compute the median over patients and components of the cost to the other patient's nearest component (> 0)."""
    nearest = np.where((mix_b.weights > 0)[None, :, None, :], costs, np.inf).min(axis=3)
    counts = np.broadcast_to((mix_a.weights > 0)[:, None, :], nearest.shape).copy()
    if mix_a is mix_b:
        counts[np.arange(len(nearest)), np.arange(len(nearest))] = False
    value = float(np.median(nearest[counts])) if counts.any() else 0.0
    return value if value > 0 else max(float(costs.mean()), 1e-12)


def solve_transport(
    costs: Tensor, a: Tensor, b: Tensor, *, price: float | None = None, reg: float | None = None
) -> Tensor:
    """Solve a batch of small transport problems.

    - `costs`: (N, K, L) float64.
    - `a`, `b`: (N, K) and (N, L) masses with sum 1; zeros are allowed.
    - `price`: Cost of a unit of mass that stays unmatched on one side; ``None`` for balanced transport.
    - `reg`: Entropic regularization; ``None`` for exact transport.

    Returns (N, K, L) plans. A problem whose plan would be empty is solved as a balanced one.
    """
    if not len(costs):
        return torch.zeros_like(costs)
    blocks = list(zip(torch.split(costs, _BLOCK), torch.split(a, _BLOCK), torch.split(b, _BLOCK), strict=True))
    plan = torch.cat(parallel_map(lambda block: _solve_block(*block, price, reg), blocks))
    empty = plan.sum((1, 2)) < _EMPTY
    if price is not None and bool(empty.any()):
        plan[empty] = solve_transport(costs[empty], a[empty], b[empty], reg=reg)
    return plan


def _solve_block(cost: Tensor, a: Tensor, b: Tensor, price: float | None, reg: float | None) -> Tensor:
    """Plans of one block of problems."""
    if price is not None:
        # partial transport as a balanced problem: a dummy on each side takes the unmatched mass
        cost = torch.nn.functional.pad(cost, (0, 1, 0, 1), value=price)
        cost[:, -1, -1] = 0
        a, b = (torch.cat([x, y.sum(1, keepdim=True)], dim=1) for x, y in ((a, b), (b, a)))
    if reg is None:
        plan = solve(cost=cost, a=a, b=b, method="exact").plan
    else:
        plan = solve(cost=cost, a=a, b=b, reg=reg).plan
    return plan if price is None else plan[:, :-1, :-1]
