"""Weighted k-means of many small sets of points at once, in torch.

The k-means that starts EM (``muport.gmm.mixtures._em_starts``) is another algorithm, with other results: greedy
k-means++ until no label changes. Here the first centers are random points and the number of iterations is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchedKMeans", "batched_kmeans"]

_TINY = 1e-30  # smallest mass of a set of points that its mean is divided by


@dataclass(frozen=True)
class BatchedKMeans:
    """Centers of every set of points.

    Attributes
    ----------
    centers
        (B, k, d) centers. Centers of ``mass`` 0 are not used: their set has fewer points or fewer centers than k.
    labels
        (B, n) int64 nearest center of every point, -1 for points of zero mass (padding).
    mass
        (B, k) mass of the points of each center.
    """

    centers: Tensor
    labels: Tensor
    mass: Tensor


def batched_kmeans(
    x: Tensor, k: int | Tensor, *, mass: Tensor | None = None, n_iter: int = 10, random_state: int = 0
) -> BatchedKMeans:
    """Cluster each of B padded sets of points by Lloyd's algorithm, all at once and on the device of ``x``.

    The first centers of a set are points drawn without replacement, in proportion to their mass. The random numbers
    depend on the seed alone. A center without points does not move. The inputs are not checked.

    Parameters
    ----------
    x
        (B, n, d) points; padding has zero mass and finite coordinates.
    k
        Number of centers of every set, or (B,) numbers.
    mass
        (B, n) masses >= 0; 1 by default.
    n_iter
        Number of iterations.
    random_state
        Seed.

    Returns
    -------
    BatchedKMeans
        Centers, labels and masses.

    Examples
    --------
    >>> import torch
    >>> from muport.neighbors import batched_kmeans
    >>> x = torch.tensor([[[0.0], [2.0], [8.0], [10.0]], [[1.0], [1.0], [5.0], [5.0]]])
    >>> batched_kmeans(x, 2).centers.squeeze(-1).sort().values.tolist()
    [[1.0, 9.0], [1.0, 5.0]]
    """
    import torch

    weight = torch.ones_like(x[..., 0]) if mass is None else mass.to(x)
    number = torch.as_tensor(k, device=x.device).expand(len(x))
    center = (weight[..., None] * x).sum(1, keepdim=True) / weight.sum(1)[:, None, None].clamp(min=_TINY)
    x = x - center
    centers, alive = _start(x, weight, number, random_state)
    for _ in range(n_iter):
        labels = _assign(x, centers, alive)
        centers = _update(x, weight, labels, centers)
    labels = _assign(x, centers, alive)
    center_mass = torch.zeros_like(alive, dtype=x.dtype).scatter_add_(1, labels, weight)
    return BatchedKMeans(centers + center, labels.masked_fill(weight == 0, -1), center_mass)


def _start(x: Tensor, weight: Tensor, number: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """First centers (B, k, d), the points of the k smallest exponential times, and which of them exist (B, k)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU, so that every device has the same first centers.
    noise = torch.empty(weight.shape, dtype=torch.float64).exponential_(generator=generator).to(weight.device)
    n_centers = min(int(number.max()), x.shape[1])
    times, rows = (noise / weight.double()).topk(n_centers, dim=1, largest=False)
    alive = times.isfinite() & (torch.arange(n_centers, device=x.device) < number[:, None])
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2])), alive


def _assign(x: Tensor, centers: Tensor, alive: Tensor) -> Tensor:
    """Nearest existing center of every point, (B, n)."""
    import torch

    offset = centers.square().sum(-1).masked_fill(~alive, float("inf"))
    return torch.baddbmm(offset[:, None, :], x, centers.mT, alpha=-2).argmin(dim=2)


def _update(x: Tensor, weight: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Weighted mean (B, k, d) of the points of each center."""
    import torch

    mass = torch.zeros_like(centers[..., 0]).scatter_add_(1, labels, weight)
    index = labels[..., None].expand_as(x)
    total = torch.zeros_like(centers).scatter_add_(1, index, weight[..., None] * x)
    return torch.where(mass[..., None] > 0, total / mass[..., None], centers)
