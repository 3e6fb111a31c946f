"""Starts of EM: greedy k-means++ and a few Lloyd iterations, for a block of problems at once.

`muport.neighbors.batched_kmeans` is another algorithm, with other results: its first centers are random points, and its
number of iterations is fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["kmeans_start", "n_trials"]

_ROUNDING = 1e-14  # a squared distance below this fraction of the squared norms is that of equal points


def kmeans_start(x: Tensor, weight: Tensor, k: int, random: Tensor, n_iter: int = 20) -> tuple[Tensor, Tensor]:
    """Cluster the cells of each of B problems from k-means++ centers (Arthur & Vassilvitskii 2007, greedy variant).

    - `x`: (B, m, d) cells, centered: distances are computed from norms.
    - `weight`: (B, m) weights, 0 for padding.
    - `k`: Number of centers of every problem.
    - `random`: (B, k, trials) uniform numbers in [0, 1), see `n_trials`.
    - `n_iter`: Maximum number of Lloyd iterations; they end when no cell changes its center.

    Returns (B, K, m) weight of each cell at its nearest center, 0 elsewhere. If there are fewer distinct cells than
    centers, the other centers have no cells; and (B, K, d) centers.
    """
    squared = x.square().sum(-1)
    centers, exists = _choose_centers(x, squared, weight, k, random)
    member = _assign(x, weight, centers, exists)
    for _ in range(n_iter):
        mass = member.sum(-1, keepdim=True)
        centers = torch.where(mass > 0, member @ x / mass.clamp(min=1e-300), centers)
        before, member = member, _assign(x, weight, centers, exists)
        if torch.equal(before, member):
            break
    return member, centers


def n_trials(k: int) -> int:
    """Number of candidates for each new center, as in scikit-learn."""
    return 2 + int(math.log(k))


def _choose_centers(x: Tensor, squared: Tensor, weight: Tensor, k: int, random: Tensor) -> tuple[Tensor, Tensor]:
    """Centers (B, k, d), each the best of a few drawn by weight x squared distance, and which of them exist (B, k)."""
    mass, nearest, centers, exists = weight, torch.full_like(weight, torch.inf), [], []
    for step in range(k):
        rows = _draw(mass, random[:, step])
        points = x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
        norms = squared.gather(1, rows)[..., None] + squared[:, None]
        distance = torch.baddbmm(norms, points, x.mT, alpha=-2)
        distance = distance.masked_fill_(distance <= _ROUNDING * norms, 0.0)
        distance = torch.minimum(distance, nearest[:, None])
        best = (distance * weight[:, None]).sum(-1).argmin(1)
        row = torch.arange(len(x), device=x.device)
        # no mass is left where every distinct cell is a center already
        exists.append(mass.sum(1) > 0)
        centers.append(points[row, best])
        nearest = distance[row, best]
        mass = nearest * weight
    return torch.stack(centers, 1), torch.stack(exists, 1)


def _draw(mass: Tensor, random: Tensor) -> Tensor:
    """Positions (B, trials) drawn with probability proportional to mass (B, m)."""
    total = mass.cumsum(1)
    return torch.searchsorted(total, random * total[:, -1:], right=True).clamp(max=mass.shape[1] - 1)


def _assign(x: Tensor, weight: Tensor, centers: Tensor, exists: Tensor) -> Tensor:
    """Weight of each cell at its nearest existing center (B, K, m), divided evenly between equally near ones."""
    offset = centers.square().sum(-1).masked_fill(~exists, torch.inf)
    distance = torch.baddbmm(offset[..., None], centers, x.mT, alpha=-2)
    # faster than argmin along a short axis which is not the last
    nearest = (distance == distance.amin(dim=1, keepdim=True)).to(weight)
    return nearest.mul_(weight[:, None] / nearest.sum(dim=1, keepdim=True))
