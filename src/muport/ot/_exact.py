"""Exact (unregularised) balanced transport by POT's network simplex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from muport.ot._result import OTResult

if TYPE_CHECKING:
    from muport.ot._inputs import Batch

__all__ = ["solve_exact"]


def solve_exact(batch: Batch, max_iter: int) -> OTResult:
    """Find the earth mover's plan of every problem of a batch, in float64 on the CPU."""
    import ot

    plans, f, g, values, converged = [], [], [], [], []
    for cost, a, b in zip(*(t.double().cpu() for t in (batch.cost, batch.a, batch.b)), strict=True):
        # Forbidden pairs become dear instead of infinite, which the simplex cannot take.
        finite = cost.masked_fill(cost.isinf(), 0)
        dear = 1e3 * (1 + finite.abs().max()) if bool(cost.isinf().any()) else 0.0
        plan, log = ot.lp.emd(a.numpy(), b.numpy(), torch.where(cost.isinf(), dear, finite).numpy(), max_iter, log=True)
        plan = torch.from_numpy(plan)
        plans.append(plan)
        f.append(torch.from_numpy(log["u"]))
        g.append(torch.from_numpy(log["v"]))
        values.append((plan * finite).sum())
        blocked = bool((plan[cost.isinf()] > 0).any())
        converged.append(log["warning"] is None and not blocked)
    done = torch.tensor(converged, device=batch.cost.device)
    coupling, objective = torch.stack(plans).to(batch.cost), torch.stack(values).to(batch.cost)
    return OTResult(
        a=batch.a,
        b=batch.b,
        cost_matrix=batch.cost,
        n_iter=torch.zeros_like(done, dtype=torch.int64),
        converged=done,
        f=torch.stack(f).to(batch.cost),
        g=torch.stack(g).to(batch.cost),
        reg=torch.zeros_like(objective),
        sizes=batch.sizes,
        coupling=coupling,
        objective=objective,
    )
