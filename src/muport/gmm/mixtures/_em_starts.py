"""Starts of EM: greedy k-means++ and a few Lloyd iterations, for a block of problems at once.

`muport.neighbors.batched_kmeans` is another algorithm, with other results: its first centers are random points, and its
number of iterations is fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["kmeans_start"]

_ROUNDING = 1e-14  # squared distances below this share of the squared norms are those of equal points


def kmeans_start(x: Tensor, weight: Tensor, k: int, random: Tensor, n_iter: int = 20) -> tuple[Tensor, Tensor]:
    """Cluster each of B padded point clouds from centres far apart (Arthur & Vassilvitskii 2007, greedy).

    Parameters
    ----------
    x
        (B, m, d) points, centred: distances are computed from norms.
    weight
        (B, m) weights, 0 for padding.
    k
        Centres of every cloud.
    random
        (B, k, trials) uniform numbers in [0, 1), see `n_trials`.
    n_iter
        Most Lloyd iterations; they end when no point changes its centre.

    Returns
    -------
    Tensor
        Weights of the points at their nearest centre (B, K, m), else 0; centres beyond the distinct points hold none.
    Tensor
        (B, K, d) centres.
    """
    squared = x.square().sum(-1)
    centers, alive = _spread(x, squared, weight, k, random)
    member = _members(x, weight, centers, alive)
    for _ in range(n_iter):
        mass = member.sum(-1, keepdim=True)
        centers = torch.where(mass > 0, member @ x / mass.clamp(min=1e-300), centers)
        before, member = member, _members(x, weight, centers, alive)
        if torch.equal(before, member):
            break
    return member, centers


def n_trials(k: int) -> int:
    """Candidates among which each new centre is chosen."""
    return 2 + int(math.log(k))


def _spread(x: Tensor, squared: Tensor, weight: Tensor, k: int, random: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, k, d), each the best of a few drawn by weight x squared distance, and which of them exist (B, k)."""
    draw, left, chosen, alive = weight, torch.full_like(weight, torch.inf), [], []
    for step in range(k):
        rows = _draw(draw, random[:, step])
        points = x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
        norms = squared.gather(1, rows)[..., None] + squared[:, None]
        distance = torch.baddbmm(norms, points, x.mT, alpha=-2)
        distance = distance.masked_fill_(distance <= _ROUNDING * norms, 0.0)
        distance = torch.minimum(distance, left[:, None])
        best = (distance * weight[:, None]).sum(-1).argmin(1)
        row = torch.arange(len(x), device=x.device)
        alive.append(draw.sum(1) > 0)
        chosen.append(points[row, best])
        left = distance[row, best]
        draw = left * weight
    return torch.stack(chosen, 1), torch.stack(alive, 1)


def _draw(mass: Tensor, random: Tensor) -> Tensor:
    """Positions (B, trials) drawn with probability proportional to mass (B, m)."""
    total = mass.cumsum(1)
    return torch.searchsorted(total, random * total[:, -1:], right=True).clamp(max=mass.shape[1] - 1)


def _members(x: Tensor, weight: Tensor, centers: Tensor, alive: Tensor) -> Tensor:
    """Weights of the points at their nearest existing centre (B, K, m), shared where two are equally near."""
    offset = centers.square().sum(-1).masked_fill(~alive, torch.inf)
    distance = torch.baddbmm(offset[..., None], centers, x.mT, alpha=-2)
    # Faster than argmin across a short axis that is not the last.
    nearest = (distance == distance.amin(dim=1, keepdim=True)).to(weight)
    return nearest.mul_(weight[:, None] / nearest.sum(dim=1, keepdim=True))
