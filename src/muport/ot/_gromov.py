"""Gromov and fused Gromov-Wasserstein transport, with restarts: conditional gradient by POT, or entropic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport.ot._result import OTResult
from muport.ot._sinkhorn import sinkhorn

if TYPE_CHECKING:
    from torch import Tensor

    from muport.ot._inputs import Batch

__all__ = ["solve_gromov"]


@dataclass(frozen=True)
class _Run:
    """Plan (n, m) and value of one descent."""

    plan: np.ndarray
    value: float
    n_iter: int
    converged: bool


def solve_gromov(
    cx: Tensor,
    cy: Tensor,
    batch: Batch,
    *,
    alpha: float,
    reg: float,
    n_restarts: int,
    random_state: int,
    max_iter: int,
    tol: float,
) -> OTResult:
    """Find the best plan over restarts between the structures ``cx`` (n, n) and ``cy`` (m, m).

    The linear part is the cost of the batch, of one problem, whose masses are normalised to 1. The first start is the
    product of the masses; the others are random couplings drawn from ``random_state``.
    """
    a, b = (mass[0].double().cpu().numpy() for mass in (batch.a, batch.b))
    a, b = a / a.sum(), b / b.sum()
    structures = cx.double().cpu().numpy(), cy.double().cpu().numpy()
    linear = batch.cost[0].double().cpu().numpy()
    rng = np.random.default_rng(random_state)
    runs = []
    for restart in range(n_restarts):
        start = np.outer(a, b) if restart == 0 else _random_coupling(a, b, rng)
        runs.append(_run(linear, structures, (a, b), start, alpha=alpha, reg=reg, max_iter=max_iter, tol=tol))
    best = min(runs, key=lambda run: run.value)
    objective = torch.tensor([best.value]).to(batch.cost)
    return OTResult(
        a=torch.as_tensor(a)[None].to(batch.cost),
        b=torch.as_tensor(b)[None].to(batch.cost),
        cost_matrix=batch.cost,
        n_iter=torch.tensor([best.n_iter], device=objective.device),
        converged=torch.tensor([best.converged], device=objective.device),
        reg=torch.full_like(objective, reg),
        coupling=torch.as_tensor(best.plan)[None].to(batch.cost),
        objective=objective,
    )


def _run(
    linear: np.ndarray,
    structures: tuple[np.ndarray, np.ndarray],
    masses: tuple[np.ndarray, np.ndarray],
    start: np.ndarray,
    *,
    alpha: float,
    reg: float,
    max_iter: int,
    tol: float,
) -> _Run:
    """One descent; the value is (1 - alpha) <M, T> + alpha GW(T), without the entropy."""
    import ot

    if reg > 0:
        return _entropic(linear, structures, masses, start, alpha=alpha, reg=reg, max_iter=max_iter, tol=tol)
    settings: dict[str, Any] = {"max_iter": max_iter, "tol_rel": tol, "tol_abs": tol}
    plan, log = ot.gromov.fused_gromov_wasserstein(
        linear, *structures, *masses, alpha=alpha, G0=start, log=True, **settings
    )
    steps = len(log["loss"])
    return _Run(plan, float(log["fgw_dist"]), steps, steps < max_iter)


def _entropic(
    linear: np.ndarray,
    structures: tuple[np.ndarray, np.ndarray],
    masses: tuple[np.ndarray, np.ndarray],
    plan: np.ndarray,
    *,
    alpha: float,
    reg: float,
    max_iter: int,
    tol: float,
) -> _Run:
    """Projected gradient: an entropic transport over the gradient at the last plan, until the plan stays (L2, ``tol``).

    GW(T) = sum (Cx_ik - Cy_jl)^2 T_ij T_kl; its gradient at hard marginals is 2 (Cx^2 a + (Cy^2 b)' - 2 Cx T Cy').
    """
    cx, cy = structures
    a, b = (torch.from_numpy(mass)[None] for mass in masses)
    fixed = (cx**2 @ masses[0])[:, None] + (cy**2 @ masses[1])[None, :]
    init: tuple[Tensor, Tensor] | None = None
    moves: list[float] = []
    for _ in range(max_iter):
        gradient = (1 - alpha) * linear + 2 * alpha * (fixed - 2 * cx @ plan @ cy.T)
        cost = torch.from_numpy(gradient)[None]
        dual = sinkhorn(cost, a, b, reg, init=init, eps_scaling=0.5 if init is None else None)
        init = dual.f, dual.g
        log_plan = (dual.f[:, :, None] + dual.g[:, None, :] - cost) / reg + a.log()[:, :, None] + b.log()[:, None, :]
        last, plan = plan, log_plan.exp()[0].numpy()
        moves.append(float(np.linalg.norm(plan - last)))
        if moves[-1] <= tol:
            break
    quadratic = float(((fixed - 2 * cx @ plan @ cy.T) * plan).sum())
    return _Run(plan, (1 - alpha) * float((linear * plan).sum()) + alpha * quadratic, len(moves), moves[-1] <= tol)


def _random_coupling(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a dense plan with the marginals ``a`` and ``b``."""
    cost = torch.from_numpy(rng.random((1, len(a), len(b))))
    mass_a, mass_b = torch.from_numpy(a)[None], torch.from_numpy(b)[None]
    dual = sinkhorn(cost, mass_a, mass_b, 0.1, tol=1e-12)
    plan = mass_a[:, :, None] * mass_b[:, None, :] * torch.exp((dual.f[:, :, None] + dual.g[:, None, :] - cost) / 0.1)
    return plan[0].numpy()
