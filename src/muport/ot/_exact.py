"""Exact (unregularized) balanced transport by the network simplex of POT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.ot._pot import load_pot
from muport.ot._result import OTResult

if TYPE_CHECKING:
    from muport.ot._inputs import Batch

__all__ = ["solve_exact"]


def solve_exact(batch: Batch, max_iter: int) -> OTResult:
    """Find the earth mover's plan of every problem of a batch, in float64 on the CPU."""
    ot = load_pot()
    cost, a, b = (tensor.double().cpu() for tensor in (batch.cost, batch.a, batch.b))
    # The simplex does not accept infinite costs: a forbidden pair costs 1,000 times as much as any other pair.
    forbidden = cost.isinf()
    finite = cost.masked_fill(forbidden, 0)
    large = 1e3 * (1 + finite.abs().amax((1, 2), keepdim=True))
    problems = zip(a.numpy(), b.numpy(), torch.where(forbidden, large, finite).numpy(), strict=True)
    plans, logs = zip(*(ot.lp.emd(*problem, max_iter, log=True) for problem in problems), strict=True)
    plan, f, g = (
        torch.from_numpy(np.stack(arrays)) for arrays in (plans, [log["u"] for log in logs], [log["v"] for log in logs])
    )
    uses_forbidden = ((plan > 0) & forbidden).any(2).any(1)
    failed = torch.tensor([log["warning"] is not None for log in logs])
    converged = ~(failed | uses_forbidden).to(batch.cost.device)
    objective = (plan * finite).sum((1, 2)).to(batch.cost)
    n_iter = torch.zeros_like(converged, dtype=torch.int64)
    f, g, plan = (values.to(batch.cost) for values in (f, g, plan))
    return OTResult(
        batch.a, batch.b, batch.cost, n_iter, converged, f, g, reg=torch.zeros_like(objective), sizes=batch.sizes,
        coupling=plan, objective=objective,
    )  # fmt: skip
