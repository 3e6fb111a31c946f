"""Iterative training of a ground metric: neighbourhood components on fixed plans, and ggml-ot's triplet objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from muport.gmm.distances._mixture_wasserstein import transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["norm", "polish", "triplet_loss"]

_REG_TYPES = ("fro", 1, "nuc")
_PULL = 1.0  # weight of the squared relative distance from the start in the neighbourhood components


def polish(
    features: NDArray[np.float64],
    plan: NDArray[np.float64],
    w: NDArray[np.float64],
    condition: NDArray[np.int64],
    method: str,
    *,
    alpha: float = 1.0,
    reg: float = 1e-3,
    reg_type: str | int = "fro",
    lr: float = 0.1,
    max_iter: int = 30,
    entropic_reg: float = 0.0,
    mi_reg: float = 0.0,
    stop_thr: float = 1e-6,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Improve a metric by gradient steps.

    Parameters
    ----------
    features
        (P K, d, c) features of the components of all patients: means, and roots of covariances if c > 1.
    plan
        (P, P, K, K) plans between patients, each of sum 1; those of a patient with itself hold its weights.
    w
        (r, d) start.
    condition
        (P,) codes.
    method
        ``"nca"``: the balanced log-probability of the own condition among neighbours, plans kept. ``"triplet"``: the
        mean over triplets of relu(D_ij - D_ik + margin), with i, j != i of one condition and k of another, and the
        plans made under W in every step.
    alpha
        Margin of the triplets, in units of the mean distance at the start.
    reg
        Weight of the norm of W, relative to that at the start.
    reg_type
        ``"fro"``, 1 (sum of absolute entries) or ``"nuc"``.
    lr
        Step of Adam, relative to the root mean square entry of the start.
    max_iter
        Steps.
    entropic_reg
        Entropy of the plans, in units of the mean cost; 0 is exact.
    mi_reg
        Weight of the mutual information between axes of a component, 1/2 (sum log diag - log det) of W S W'.
    stop_thr
        Norm of the slope at which training stops.

    Returns
    -------
    W of the least loss (r, d), and the loss of every step.

    Raises
    ------
    ValueError
        For an unknown method or norm, and for mi_reg without covariances.
    """
    if method not in ("nca", "triplet"):
        raise ValueError(f"method={method!r} is unknown: use 'nca' or 'triplet'.")
    if reg_type not in _REG_TYPES:
        raise ValueError(f"reg_type={reg_type!r} is unknown: use 'fro', 1 or 'nuc'.")
    if mi_reg and features.shape[2] == 1:
        raise ValueError("mi_reg needs the covariances: set bures=True.")
    if max_iter < 1 or lr <= 0 or min(alpha, reg, entropic_reg, mi_reg) < 0:
        raise ValueError("max_iter must be at least 1, lr positive, and alpha, reg, entropic_reg and mi_reg >= 0.")
    points, code = torch.from_numpy(features), torch.from_numpy(np.asarray(condition))
    fixed, start = torch.from_numpy(plan), torch.from_numpy(np.ascontiguousarray(w))
    scale = float(_squared(start, points, fixed).mean()) or 1.0
    start = start / scale**0.5
    if method == "nca":
        found, history = _lbfgs(lambda one: _neighbourhood(one, points, fixed, code, start), start, max_iter, stop_thr)
    else:
        weights = fixed.diagonal(dim1=0, dim2=1).sum(1).T.contiguous()
        size = norm(start, reg_type)

        def loss(one: Tensor) -> Tensor:
            under = _replan(one.detach(), points, weights, entropic_reg)
            value = triplet_loss(_squared(one, points, under), code, alpha) + reg * norm(one, reg_type) / size
            return value + mi_reg * _mutual_information(one, points, weights) if mi_reg else value

        found, history = _adam(loss, start, lr, max_iter, stop_thr)
    return (found * scale**0.5).numpy(), history


def triplet_loss(squared: Tensor, condition: Tensor, margin: float) -> Tensor:
    """Mean of relu(D_ij - D_ik + margin) over i, j != i of one condition and k of another; 0 without triplets.

    Examples
    --------
    >>> import torch
    >>> d = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 4.0], [3.0, 4.0, 0.0]])
    >>> triplet_loss(d, torch.tensor([0, 0, 1]), margin=2.5)
    tensor(0.2500)
    """
    same = condition[:, None] == condition
    near = same & ~torch.eye(len(same), dtype=torch.bool)
    i, j = near.nonzero(as_tuple=True)
    gap = squared[i, j][:, None] - squared[i] + margin
    chosen = ~same[i]
    return (gap.clamp(min=0) * chosen).sum() / chosen.sum().clamp(min=1)


def norm(w: Tensor, reg_type: str | int) -> Tensor:
    """Frobenius, entrywise l1 or nuclear norm."""
    if reg_type == 1:
        return w.abs().sum()
    size: Tensor = torch.linalg.matrix_norm(w, str(reg_type))
    return size


def _squared(w: Tensor, features: Tensor, plan: Tensor) -> Tensor:
    """D_ij(W) = sum_kl P_kl |W (F_k - F_l)|^2, (P, P)."""
    moved = (w @ features).flatten(1)
    size = moved.square().sum(1)
    cost = size[:, None] + size - 2 * moved @ moved.T
    p, k = len(plan), plan.shape[2]
    return (cost.reshape(p, k, p, k).transpose(1, 2) * plan).sum((2, 3)).clamp(min=0)


def _replan(w: Tensor, features: Tensor, weights: Tensor, entropic_reg: float) -> Tensor:
    """Balanced plans (P, P, K, K) under W; by the envelope theorem they are constants for the slope."""
    p, k = weights.shape
    moved = (w @ features).flatten(1)
    cost = torch.cdist(moved, moved).square().reshape(p, k, p, k).transpose(1, 2)
    i, j = torch.triu_indices(p, p, 1)
    reg = None if entropic_reg == 0 else entropic_reg * float(cost.mean())
    found = transport(cost[i, j].contiguous(), weights[i], weights[j], reg=reg)
    plan = torch.zeros_like(cost)
    plan[i, j], plan[j, i] = found, found.mT
    own = torch.arange(p)
    plan[own, own] = torch.diag_embed(weights)
    return plan


def _neighbourhood(w: Tensor, features: Tensor, plan: Tensor, code: Tensor, start: Tensor) -> Tensor:
    """Balanced -log sum of the softmax over neighbours of the own condition (Goldberger et al. 2004), kept near W0."""
    squared = _squared(w, features, plan)
    weight = 1 / torch.bincount(code)[code].to(squared)
    itself = torch.eye(len(code), dtype=torch.bool)
    logit = (weight.log() - squared).masked_fill(itself, -torch.inf)
    same = code[:, None] == code
    # A patient that is alone in its condition has no neighbour to be near.
    seen = (same & ~itself).any(1)
    own = torch.logsumexp(logit[seen].masked_fill(~same[seen], -torch.inf), 1) - torch.logsumexp(logit[seen], 1)
    pull = (w - start).square().sum() / start.square().sum()
    lost: Tensor = -(own * weight[seen]).sum() / weight[seen].sum() + _PULL * pull
    return lost


def _mutual_information(w: Tensor, features: Tensor, weights: Tensor) -> Tensor:
    """Mean over components of KL(N(., W S W') | its diagonal)."""
    factor = w @ features[:, :, 1:]
    covariance = factor @ factor.mT
    variance = covariance.diagonal(dim1=1, dim2=2)
    covariance = covariance + torch.diag_embed(1e-9 * variance.mean(1, keepdim=True).expand_as(variance))
    information: Tensor = 0.5 * (variance.clamp(min=1e-300).log().sum(1) - torch.linalg.slogdet(covariance)[1])
    return (information * weights.flatten()).sum() / weights.sum()


def _lbfgs(
    loss: Callable[[Tensor], Tensor], start: Tensor, max_iter: int, tol: float
) -> tuple[Tensor, NDArray[np.float64]]:
    history: list[float] = []

    def value(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = torch.from_numpy(flat.copy()).reshape(start.shape).requires_grad_()
        current = loss(w)
        slope = torch.autograd.grad(current, w)[0]
        return float(current.detach()), slope.flatten().numpy()

    history.append(value(start.flatten().numpy())[0])
    found = minimize(
        value, start.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": max_iter, "gtol": tol},
        callback=lambda flat: history.append(value(flat)[0]),
    )  # fmt: skip
    return torch.from_numpy(found.x).reshape(start.shape), np.array(history)


def _adam(
    loss: Callable[[Tensor], Tensor], start: Tensor, lr: float, max_iter: int, tol: float
) -> tuple[Tensor, NDArray[np.float64]]:
    """Adam (Kingma and Ba 2015) with its usual rates; torch.optim would load a compiler first, for seconds."""
    step, w = lr * float(start.square().mean().sqrt()), start.clone()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    best, history = start, []
    for t in range(1, max_iter + 1):
        w.requires_grad_()
        current = loss(w)
        slope = torch.autograd.grad(current, w)[0]
        w = w.detach()
        history.append(float(current.detach()))
        if history[-1] <= min(history):
            best = w
        if float(slope.norm()) < tol:
            break
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope.square()
        w = w - step * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return best, np.array(history)
