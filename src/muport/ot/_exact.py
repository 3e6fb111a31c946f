"""Exact (unregularised) balanced transport by POT's network simplex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.ot._result import OTResult

if TYPE_CHECKING:
    from muport.ot._inputs import Batch

__all__ = ["solve_exact"]


def solve_exact(batch: Batch, max_iter: int) -> OTResult:
    """Find the earth mover's plan of every problem of a batch, in float64 on the CPU."""
    import ot

    cost, a, b = (part.double().cpu() for part in (batch.cost, batch.a, batch.b))
    # Forbidden pairs become dear instead of infinite, which the simplex cannot take.
    forbidden = cost.isinf()
    finite = cost.masked_fill(forbidden, 0)
    dear = 1e3 * (1 + finite.abs().amax((1, 2), keepdim=True))
    priced = torch.where(forbidden, dear, finite)
    found = [
        ot.lp.emd(*(part.numpy() for part in one), max_iter, log=True) for one in zip(a, b, priced, strict=True)
    ]  # fmt: skip
    plan, f, g = (
        torch.from_numpy(np.stack(part))
        for part in zip(*((plan, log["u"], log["v"]) for plan, log in found), strict=True)
    )
    blocked = ((plan > 0) & forbidden).any(2).any(1)
    failed = torch.tensor([log["warning"] is not None for _, log in found])
    done = ~(failed | blocked).to(batch.cost.device)
    objective = (plan * finite).sum((1, 2)).to(batch.cost)
    return OTResult(
        a=batch.a,
        b=batch.b,
        cost_matrix=batch.cost,
        n_iter=torch.zeros_like(done, dtype=torch.int64),
        converged=done,
        f=f.to(batch.cost),
        g=g.to(batch.cost),
        reg=torch.zeros_like(objective),
        sizes=batch.sizes,
        coupling=plan.to(batch.cost),
        objective=objective,
    )
