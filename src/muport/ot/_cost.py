"""Cost matrices between two sets of points: metric, scale (Eq. 2 of scBIOT), clipping and penalties."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["METRICS", "SCALES", "cost_matrix"]

METRICS = ("sqeuclidean", "cosine")
SCALES = ("std", "median")


def _sqeuclidean(x: Tensor, y: Tensor) -> Tensor:
    # |x|^2 + |y|^2 - 2xy loses float32 digits far from the origin: center the points.
    center = y.mean(dim=-2, keepdim=True)
    x, y = x - center, y - center
    norms = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    return (norms - 2 * (x @ y.mT)).clamp_(min=0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    x, y = (torch.nn.functional.normalize(z, dim=-1) for z in (x, y))
    return (1 - x @ y.mT).clamp_(min=0)


def _quantile(cost: Tensor, quantile: float) -> Tensor:
    """Quantile (next rank above) of the finite entries of each cost matrix, shaped (..., 1, 1)."""
    ordered = cost.flatten(-2).sort(dim=-1).values
    n_finite = ordered.isfinite().sum(-1, keepdim=True)
    rank = (torch.ceil(quantile * (n_finite - 1).clamp(min=0))).long()
    return ordered.gather(-1, rank)[..., None]


def _std(cost: Tensor) -> Tensor:
    finite = cost.isfinite()
    n_finite = finite.sum((-2, -1), keepdim=True).clamp(min=1)
    filled = cost.masked_fill(~finite, 0)
    # Without the largest power of two no square is infinite or zero; a power of two does not change the digits.
    exponent = torch.frexp(filled.abs().amax((-2, -1), keepdim=True)).exponent
    filled = torch.ldexp(filled, -exponent)
    mean = filled.sum((-2, -1), keepdim=True) / n_finite
    std = (((filled - mean) * finite).square().sum((-2, -1), keepdim=True) / n_finite).sqrt()
    return torch.ldexp(std, exponent)


def scale_cost(cost: Tensor, scale: str | None) -> Tensor:
    """Divide each cost matrix (..., n, m) by its standard deviation or median; a matrix of scale 0 is unchanged."""
    if scale is None:
        return cost
    divisor = _std(cost) if scale == "std" else _quantile(cost, 0.5)
    # A constant matrix has a deviation of rounding errors only, relative to its largest entry.
    floor = 1e-6 * cost.masked_fill(cost.isinf(), 0).abs().amax(dim=(-2, -1), keepdim=True)
    # Without any finite entry the median is infinite.
    divides = (divisor > floor) & divisor.isfinite()
    return cost / torch.where(divides, divisor, torch.ones_like(divisor))


def clip_cost(cost: Tensor, quantile: float | None) -> Tensor:
    """Limit the finite entries of each matrix to its quantile; forbidden pairs stay forbidden."""
    if quantile is None:
        return cost
    return torch.where(cost.isinf(), cost, torch.minimum(cost, _quantile(cost, quantile)))


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
    """Cost between two sets of points, in the order metric, scale, clip, penalty; the inputs are not checked.

    Eq. 2 of the scBIOT paper with ``scale="std"``: the squared distance divided by the standard deviation of the
    squared distances, so that the cost has no unit. A constant cost (deviation or median 0) is not scaled.

    Parameters
    ----------
    x
        (n, d) or (B, n, d) points.
    y
        (m, d) or (B, m, d) points.
    metric
        ``"sqeuclidean"`` or ``"cosine"`` (one minus the cosine; the cost between a zero vector and any other is 1).
    scale
        ``"std"``, ``"median"`` or ``None``, per matrix.
    clip_quantile
        Quantile in (0, 1] of the scaled cost; larger costs are set to it.
    penalty
        Matrix added after scaling, or boolean mask of forbidden pairs (infinite cost).

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
