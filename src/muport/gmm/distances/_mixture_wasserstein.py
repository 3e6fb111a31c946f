"""Mixture Wasserstein distances (MW2) between patients: transport of components, priced by Bures-Wasserstein."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport._parallel import parallel_map, single_threaded
from muport.gmm.distances._bures import bures_squared, fidelity, roots
from muport.ot import sinkhorn, solve

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

    Solver = Literal["exact", "sinkhorn"]

__all__ = ["divergence", "mw2", "pair_costs", "pair_costs_of", "plans", "transport", "typical_cost"]

_BLOCK = 2048  # small transport problems handed to one thread
_ENTROPY = 0.05  # regularisation of the entropic solver, in units of the typical cost
_SOLVERS = ("exact", "sinkhorn")


def pair_costs(mix_a: Mixtures, mix_b: Mixtures | None = None, w: ArrayLike | None = None) -> NDArray[np.float64]:
    """Squared Bures-Wasserstein distances between all components of all patients, under a metric W.

    c_kl = |W (m_k - m_l)|^2 + tr S_k + tr S_l - 2 tr (S_k^1/2 S_l S_k^1/2)^1/2 with S = W S W'.

    Parameters
    ----------
    mix_a
        Mixtures of Pa patients.
    mix_b
        Mixtures of Pb patients; by default `mix_a`.
    w
        (r, d) metric; by default the identity.

    Returns
    -------
    NDArray
        (Pa, Pb, Ka, Kb), at least 0; 0 for padded components.

    Raises
    ------
    ValueError
        If the mixtures or the metric do not have the same number of coordinates.

    References
    ----------
    Delon and Desolneux (2020), A Wasserstein-type distance in the space of Gaussian mixture models, Eq. 4.3.
    """
    _check_same(mix_a, mix_b, w)
    first = _flat(mix_a, w)
    second = None if mix_b is None else _flat(mix_b, w)
    costs = pair_costs_of(*first[:2], *(second[:2] if second is not None else (None, None)))
    alive = [flat[2] for flat in (first, second or first)]
    other = mix_a if mix_b is None else mix_b
    full = costs.new_zeros(*(len(keep) for keep in alive))
    full[alive[0].nonzero(), alive[1].nonzero()[:, 0]] = costs
    shape = (*mix_a.weights.shape, *other.weights.shape)
    return full.reshape(shape).transpose(1, 2).contiguous().numpy()


def pair_costs_of(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor | None = None, cov_b: Tensor | None = None) -> Tensor:
    """Squared Bures-Wasserstein distances (A, B) of Gaussians with means (A, r) and covariances (A, r, r) or (A, r)."""
    other = mean_a if mean_b is None else mean_b
    moved = torch.cdist(mean_a, other, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return moved + bures_squared(cov_a, cov_b)


def _check_same(mix_a: Mixtures, mix_b: Mixtures | None, w: ArrayLike | None) -> None:
    d = mix_a.means.shape[2]
    if mix_b is not None and (mix_b.means.shape[2] != d or mix_b.covariance_type != mix_a.covariance_type):
        raise ValueError(
            f"mix_a has {d} coordinates and {mix_a.covariance_type!r} covariances, mix_b {mix_b.means.shape[2]} and "
            f"{mix_b.covariance_type!r}: fit both in one representation."
        )
    if w is not None and (np.ndim(w) != 2 or np.shape(w)[1] != d):
        raise ValueError(f"w has shape {np.shape(w)}: the mixtures have {d} coordinates, so it needs (r, {d}).")


def _flat(mix: Mixtures, w: ArrayLike | None) -> tuple[Tensor, Tensor, Tensor]:
    """Means and covariances of the components that have mass, under W; and which have it (P K,)."""
    alive = torch.from_numpy(mix.weights > 0).flatten()
    mean = torch.from_numpy(mix.means).flatten(0, 1)[alive]
    covariance = torch.from_numpy(mix.covariances).flatten(0, 1)[alive]
    if w is not None:
        metric = torch.as_tensor(np.asarray(w, dtype=np.float64))
        mean = mean @ metric.T
        covariance = torch.diag_embed(covariance) if covariance.ndim == 2 else covariance
        covariance = metric @ covariance @ metric.T
    return mean, covariance, alive


@single_threaded()
def mw2(
    mix_a: Mixtures,
    mix_b: Mixtures | None = None,
    w: ArrayLike | None = None,
    *,
    solver: Solver = "exact",
    tau: float = 1.0,
) -> NDArray[np.float64]:
    """Mixture Wasserstein distances between patients (not squared).

    Parameters
    ----------
    mix_a
        Mixtures of Pa patients.
    mix_b
        Mixtures of Pb patients; by default `mix_a`.
    w
        (r, d) metric; by default the identity.
    solver
        ``"exact"`` (network simplex) makes a metric; ``"sinkhorn"`` the entropic divergence, which blurs.
    tau
        1 moves all mass; below 1 see :func:`plans`: the distance is that of the mass which is moved.

    Returns
    -------
    NDArray
        (Pa, Pb).

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> one = np.ones((2, 1))
    >>> mix = Mixtures(one, np.array([[[0.0]], [[3.0]]]), np.array([[[[1.0]]], [[[25.0]]]]), "full", 0.0)
    >>> mw2(mix).round(6).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    costs = pair_costs(mix_a, mix_b, w)
    other = mix_a if mix_b is None else mix_b
    if solver == "sinkhorn" and tau == 1:
        squared = _entropic(costs, mix_a, other, w)
    else:
        plan = plans(mix_a, mix_b, costs=costs, solver=solver, tau=tau)
        squared = (plan * costs).sum((2, 3)) / plan.sum((2, 3))
    if mix_b is None:
        squared = (squared + squared.T) / 2
        np.fill_diagonal(squared, 0)
    return np.sqrt(np.maximum(squared, 0))


def plans(
    mix_a: Mixtures,
    mix_b: Mixtures | None = None,
    *,
    w: ArrayLike | None = None,
    costs: NDArray[np.float64] | None = None,
    solver: Solver = "exact",
    tau: float = 1.0,
    scale: float | None = None,
) -> NDArray[np.float64]:
    """Transport plans between the components of all pairs of patients.

    Parameters
    ----------
    mix_a, mix_b
        Mixtures; `mix_b` is `mix_a` by default, and then the plan of (j, i) is the transpose of that of (i, j).
    w
        (r, d) metric of the costs; by default the identity.
    costs
        Costs of :func:`pair_costs`, if they are known.
    solver
        ``"exact"`` or ``"sinkhorn"``.
    tau
        In (0, 1]. Mass may stay unmatched at a price of scale x tau / (1 - tau) on either side, so that a state that
        one patient lacks is not dragged to another state; 1 is balanced transport.
    scale
        Price unit; by default :func:`typical_cost` of these mixtures.

    Returns
    -------
    NDArray
        (Pa, Pb, Ka, Kb); each plan has mass 1 if balanced, and less otherwise, never 0.

    Raises
    ------
    ValueError
        If tau or the solver is not one of the above.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau={tau} must be in (0, 1]: 1 is balanced transport.")
    if solver not in _SOLVERS:
        raise ValueError(f"solver={solver!r} is unknown: use 'exact' or 'sinkhorn'.")
    costs = pair_costs(mix_a, mix_b, w) if costs is None else costs
    other = mix_a if mix_b is None else mix_b
    unit = typical_cost(costs, mix_a, other) if scale is None else scale
    price = None if tau == 1 else unit * tau / (1 - tau)
    rows, columns = _pairs(costs, mix_b is None)
    found = transport(
        *(torch.from_numpy(x) for x in (costs[rows, columns], mix_a.weights[rows], other.weights[columns])),
        price=price,
        reg=None if solver == "exact" else _ENTROPY * unit,
    ).numpy()
    out = np.zeros_like(costs)
    out[rows, columns] = found
    if mix_b is None:
        out[columns, rows] = found.transpose(0, 2, 1)
        out[np.arange(len(out)), np.arange(len(out))] = mix_a.weights[:, :, None] * np.eye(out.shape[2])
    return out


def _pairs(costs: NDArray[np.float64], same: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of patients to solve: all, or those above the diagonal."""
    if same:
        rows, columns = np.triu_indices(len(costs), 1)
    else:
        rows, columns = (axis.ravel() for axis in np.indices(costs.shape[:2]))
    return rows, columns


def typical_cost(costs: NDArray[np.float64], mix_a: Mixtures, mix_b: Mixtures) -> float:
    """Median over patients and components of the cost to the nearest component of the other patient (> 0)."""
    far = np.where((mix_b.weights > 0)[None, :, None, :], costs, np.inf).min(axis=3)
    alive = np.broadcast_to((mix_a.weights > 0)[:, None, :], far.shape).copy()
    if mix_a is mix_b:
        alive[np.arange(len(far)), np.arange(len(far))] = False
    value = float(np.median(far[alive])) if alive.any() else 0.0
    return value if value > 0 else max(float(costs.mean()), 1e-12)


def transport(costs: Tensor, a: Tensor, b: Tensor, *, price: float | None = None, reg: float | None = None) -> Tensor:
    """Solve a batch of small transport problems.

    Parameters
    ----------
    costs
        (N, K, L) float64.
    a, b
        (N, K) and (N, L) masses, each summing to 1; zeros allowed.
    price
        Cost of leaving a unit of mass unmatched on one side; ``None`` moves all.
    reg
        Entropic regularisation; ``None`` is exact.

    Returns
    -------
    Tensor
        (N, K, L) plans.  One that would move nothing is balanced instead.
    """
    if not len(costs):
        return torch.zeros_like(costs)
    blocks = list(zip(torch.split(costs, _BLOCK), torch.split(a, _BLOCK), torch.split(b, _BLOCK), strict=True))
    plan = torch.cat(parallel_map(lambda block: _plan(*block, price, reg), blocks))
    empty = plan.sum((1, 2)) < 1e-9
    if price is not None and bool(empty.any()):
        plan[empty] = transport(costs[empty], a[empty], b[empty], reg=reg)
    return plan


def _plan(cost: Tensor, a: Tensor, b: Tensor, price: float | None, reg: float | None) -> Tensor:
    if price is not None:
        # A dummy on either side takes what stays unmatched: partial transport as a balanced problem.
        cost = torch.nn.functional.pad(cost, (0, 1, 0, 1), value=price)
        cost[:, -1, -1] = 0
        a, b = (torch.cat([x, y.sum(1, keepdim=True)], dim=1) for x, y in ((a, b), (b, a)))
    if reg is None:
        plan = solve(cost=cost, a=a, b=b, method="exact").plan
    else:
        plan = solve(cost=cost, a=a, b=b, reg=reg).plan
    return plan if price is None else plan[:, :-1, :-1]


def _entropic(costs: NDArray[np.float64], mix_a: Mixtures, mix_b: Mixtures, w: ArrayLike | None) -> NDArray[np.float64]:
    """Debiased entropic values (Pa, Pb)."""
    reg = _ENTROPY * typical_cost(costs, mix_a, mix_b)
    own = [_own_costs(mix, w) for mix in (mix_a, mix_b)]
    rows, columns = _pairs(costs, False)
    values = divergence(
        torch.from_numpy(costs[rows, columns]),
        own[0],
        own[1],
        torch.from_numpy(mix_a.weights),
        torch.from_numpy(mix_b.weights),
        torch.from_numpy(np.stack([rows, columns])),
        reg,
    )
    return values.numpy().reshape(costs.shape[:2])


def _own_costs(mix: Mixtures, w: ArrayLike | None) -> Tensor:
    """Costs (P, K, K) of every patient's components with each other; any number for padded ones."""
    metric = torch.eye(mix.means.shape[2], dtype=torch.float64) if w is None else torch.as_tensor(np.asarray(w, float))
    mean = torch.from_numpy(mix.means) @ metric.T
    covariance = metric @ torch.from_numpy(mix.full()) @ metric.T
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    cross = fidelity(roots(covariance)[:, :, None], covariance[:, None])
    moved = torch.cdist(mean, mean, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    return moved + (trace[:, :, None] + trace[:, None, :] - cross - cross.mT).clamp(min=0)


def divergence(costs: Tensor, own_a: Tensor, own_b: Tensor, a: Tensor, b: Tensor, pairs: Tensor, reg: float) -> Tensor:
    """Sinkhorn divergences of pairs of patients, differentiable in the costs.

    S = OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2 (Feydy et al. 2019).  By the envelope theorem the slope of
    OT_eps in the cost is its plan, so nothing is differentiated through the sweeps.

    Parameters
    ----------
    costs
        (N, K, L) costs between the patients of the pairs.
    own_a, own_b
        (Pa, K, K) and (Pb, L, L) costs within patients.
    a, b
        (Pa, K) and (Pb, L) weights.
    pairs
        (2, N) which patient of each list.
    reg
        Entropic regularisation.

    Returns
    -------
    Tensor
        (N,).
    """
    own = [_entropic_value(cost, mass, mass, reg) for cost, mass in ((own_a, a), (own_b, b))]
    cross = _entropic_value(costs, a[pairs[0]], b[pairs[1]], reg)
    return cross - (own[0][pairs[0]] + own[1][pairs[1]]) / 2


def _entropic_value(cost: Tensor, a: Tensor, b: Tensor, reg: float) -> Tensor:
    """OT_eps (N,) with the plan as its slope."""
    fixed = cost.detach()
    found = sinkhorn(fixed, a, b, reg, eps_scaling=0.5, max_iter=2000, tol=1e-7)
    log_plan = (found.f[:, :, None] + found.g[:, None, :] - fixed) / reg
    plan = (log_plan + a.log()[:, :, None] + b.log()[:, None, :]).exp()
    value = (plan.sum(2) * found.f).sum(1) + (plan.sum(1) * found.g).sum(1)
    value = value + reg * (1 - plan.sum((1, 2)))
    return value + (plan * (cost - fixed)).sum((1, 2))
