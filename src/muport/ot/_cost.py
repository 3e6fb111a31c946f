"""Cost matrices between point clouds: metric, scale (Eq. 2 of scBIOT), clipping and penalties."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["METRICS", "SCALES", "cost_matrix"]

METRICS = ("sqeuclidean", "cosine")
SCALES = ("std", "median")


def _sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    # Centring keeps float32 digits: the expansion cancels badly far from the origin.
    centre = y.mean(dim=-2, keepdim=True)
    x, y = x - centre, y - centre
    norms = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    return (norms - 2 * (x @ y.mT)).clamp_(min=0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    x, y = (torch.nn.functional.normalize(z, dim=-1) for z in (x, y))
    return (1 - x @ y.mT).clamp_(min=0)


def _per_problem(cost: Tensor, quantile: float) -> Tensor:
    """Quantile (nearest rank above) of each cost matrix, shaped (..., 1, 1); forbidden pairs do not count."""
    flat = cost.flatten(-2).sort(dim=-1).values
    count = flat.isfinite().sum(-1, keepdim=True)
    rank = (torch.ceil(quantile * (count - 1).clamp(min=0))).long()
    return flat.gather(-1, rank)[..., None]


def _std(cost: Tensor) -> Tensor:
    finite = cost.isfinite()
    count = finite.sum((-2, -1), keepdim=True).clamp(min=1)
    filled = cost.masked_fill(~finite, 0)
    mean = filled.sum((-2, -1), keepdim=True) / count
    return (((filled - mean) * finite).square().sum((-2, -1), keepdim=True) / count).sqrt()


def scale_cost(cost: Tensor, scale: str | None) -> Tensor:
    """Divide each cost matrix (..., n, m) by its standard deviation or median; a zero scale leaves it as it is."""
    if scale is None:
        return cost
    by = _std(cost) if scale == "std" else _per_problem(cost, 0.5)
    floor = 1e-6 * cost.masked_fill(cost.isinf(), 0).abs().amax(dim=(-2, -1), keepdim=True)
    return cost / torch.where(by > floor, by, torch.ones_like(by))


def clip_cost(cost: Tensor, quantile: float | None) -> Tensor:
    """Lower the entries above a quantile of their own matrix to it; forbidden pairs stay forbidden."""
    if quantile is None:
        return cost
    return torch.where(cost.isinf(), cost, torch.minimum(cost, _per_problem(cost, quantile)))


def add_penalty(cost: Tensor, penalty: Tensor | None) -> Tensor:
    """Add a penalty matrix, or forbid the pairs where a boolean mask is true."""
    if penalty is None:
        return cost
    return cost.masked_fill(penalty, math.inf) if penalty.dtype == torch.bool else cost + penalty


def cost_matrix(
    x: Tensor,
    y: Tensor,
    *,
    metric: str = "sqeuclidean",
    scale: str | None = None,
    clip_quantile: float | None = None,
    penalty: Tensor | None = None,
) -> Tensor:
    """Cost between two point clouds, in the order metric, scale, clip, penalty; the inputs are not checked.

    Eq. 2 of the scBIOT paper with ``scale="std"``: the squared distance divided by the standard deviation of the
    squared distances, so that the cost has no unit.  A constant cost (zero deviation or median) is not scaled.

    Parameters
    ----------
    x
        (n, d) or (B, n, d) points.
    y
        (m, d) or (B, m, d) points.
    metric
        ``"sqeuclidean"`` or ``"cosine"`` (one minus the cosine; a zero vector is at 1 from every other).
    scale
        ``"std"``, ``"median"`` or ``None``, per matrix.
    clip_quantile
        Quantile in (0, 1] of the scaled cost beyond which it is flat.
    penalty
        Added after scaling: a matrix, or a boolean mask of forbidden pairs (infinite cost).

    Returns
    -------
    torch.Tensor
        (n, m) or (B, n, m) costs.

    Examples
    --------
    >>> import torch
    >>> from muport.ot import cost_matrix
    >>> cost_matrix(torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0]])).tolist()
    [[1.0, 4.0]]
    """
    cost = _sqeuclidean(x, y) if metric == "sqeuclidean" else _cosine(x, y)
    return add_penalty(clip_cost(scale_cost(cost, scale), clip_quantile), penalty)
