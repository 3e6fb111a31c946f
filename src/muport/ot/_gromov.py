"""Gromov and fused Gromov-Wasserstein transport with restarts: conditional gradient by POT, or entropic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport.ot._pot import load_pot
from muport.ot._result import OTResult
from muport.ot._sinkhorn import sinkhorn

if TYPE_CHECKING:
    from torch import Tensor

    from muport.ot._inputs import Batch

__all__ = ["GromovSettings", "solve_gromov"]

_RANDOM_REG = 0.1  # of the range of a random cost: its plan is random, but no pair is excluded


@dataclass(frozen=True)
class GromovSettings:
    """Settings of the Gromov solvers; ranges are checked here.

    - `alpha`: Weight of the structures against the linear cost, in [0, 1].
    - `reg`: Entropic regularization; 0 is conditional gradient without entropy.
    - `n_restarts`: Number of starts, the best of which is kept.
    - `random_state`: Seed of the starts.
    - `max_iter`: Most iterations of one start.
    - `tol`: Change of the plan (entropic) or of the objective (conditional gradient) at convergence.
    """

    alpha: float
    reg: float
    n_restarts: int
    random_state: int
    max_iter: int
    tol: float

    def __post_init__(self) -> None:
        """Raise a ValueError for a setting out of its range."""
        if self.reg < 0 or self.n_restarts < 1 or not 0 <= self.alpha <= 1:
            raise ValueError(
                f"reg={self.reg} must be >= 0, n_restarts={self.n_restarts} >= 1 and alpha={self.alpha} in [0, 1]."
            )


@dataclass(frozen=True)
class _FusedProblem:
    """Linear cost (n, m), structures (n, n) and (m, m), and masses (n,) and (m,) of sum 1, all float64."""

    linear: np.ndarray
    cx: np.ndarray
    cy: np.ndarray
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class _Descent:
    """Plan (n, m) of one start, and its value (1 - alpha) <M, T> + alpha GW(T) without the entropy."""

    plan: np.ndarray
    value: float
    n_iter: int
    converged: bool


def solve_gromov(cx: Tensor, cy: Tensor, batch: Batch, settings: GromovSettings) -> OTResult:
    """Find the best plan over restarts between the structures ``cx`` (n, n) and ``cy`` (m, m).

    The batch holds one problem: its cost is the linear part, and its masses are normalized to 1. The first start is
    the product of the masses; the others are random couplings.
    """
    linear, a, b = (tensor[0].double().cpu().numpy() for tensor in (batch.cost, batch.a, batch.b))
    a, b = a / a.sum(), b / b.sum()
    problem = _FusedProblem(linear, cx.double().cpu().numpy(), cy.double().cpu().numpy(), a, b)
    descend = _descend_entropic if settings.reg > 0 else _descend_by_conditional_gradient
    rng = np.random.default_rng(settings.random_state)
    descents = []
    for restart in range(settings.n_restarts):
        start = np.outer(a, b) if restart == 0 else _random_coupling(a, b, rng)
        descents.append(descend(problem, start, settings))
    best = min(descents, key=lambda descent: descent.value)
    objective = torch.tensor([best.value], dtype=torch.float64).to(batch.cost)
    mass_a, mass_b, plan = (torch.as_tensor(array)[None].to(batch.cost) for array in (a, b, best.plan))
    n_iter, converged = (torch.tensor([value], device=objective.device) for value in (best.n_iter, best.converged))
    return OTResult(
        mass_a, mass_b, batch.cost, n_iter, converged, reg=torch.full_like(objective, settings.reg), coupling=plan,
        objective=objective,
    )  # fmt: skip


def _descend_by_conditional_gradient(problem: _FusedProblem, start: np.ndarray, settings: GromovSettings) -> _Descent:
    ot = load_pot()
    limits: dict[str, Any] = {"max_iter": settings.max_iter, "tol_rel": settings.tol, "tol_abs": settings.tol}
    plan, log = ot.gromov.fused_gromov_wasserstein(
        problem.linear, problem.cx, problem.cy, problem.a, problem.b, alpha=settings.alpha, G0=start, log=True, **limits
    )
    n_iter = len(log["loss"]) - 1  # the first is the loss at the start
    return _Descent(plan, float(log["fgw_dist"]), n_iter, n_iter < settings.max_iter)


def _descend_entropic(problem: _FusedProblem, plan: np.ndarray, settings: GromovSettings) -> _Descent:
    """Projected gradient: entropic transport over the gradient at the last plan, until its L2 change is at most `tol`.

    GW(T) = sum (Cx_ik - Cy_jl)^2 T_ij T_kl; its gradient at hard marginals is 2 (Cx^2 a + (Cy^2 b)' - 2 Cx T Cy').
    """
    cx, cy, alpha = problem.cx, problem.cy, settings.alpha
    a, b = (torch.from_numpy(mass)[None] for mass in (problem.a, problem.b))
    constant = (cx**2 @ problem.a)[:, None] + (cy**2 @ problem.b)[None, :]
    init: tuple[Tensor, Tensor] | None = None
    changes: list[float] = []
    for _ in range(settings.max_iter):
        gradient = (1 - alpha) * problem.linear + 2 * alpha * (constant - 2 * cx @ plan @ cy.T)
        potentials = sinkhorn(
            torch.from_numpy(gradient)[None], a, b, settings.reg, init=init, eps_scaling=0.5 if init is None else None
        )
        init = potentials.f, potentials.g
        last, plan = plan, potentials.plan()[0].numpy()
        changes.append(float(np.linalg.norm(plan - last)))
        if changes[-1] <= settings.tol:
            break
    quadratic = float(((constant - 2 * cx @ plan @ cy.T) * plan).sum())
    value = (1 - alpha) * float((problem.linear * plan).sum()) + alpha * quadratic
    return _Descent(plan, value, len(changes), changes[-1] <= settings.tol)


def _random_coupling(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a dense plan with the marginals ``a`` and ``b``: the entropic plan of a uniform random cost."""
    cost = torch.from_numpy(rng.random((1, len(a), len(b))))
    potentials = sinkhorn(cost, torch.from_numpy(a)[None], torch.from_numpy(b)[None], _RANDOM_REG, tol=1e-12)
    return potentials.plan()[0].numpy()
