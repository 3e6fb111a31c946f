"""Weighted k-means of many small point clouds at once, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchedKMeans", "batched_kmeans"]


@dataclass(frozen=True)
class BatchedKMeans:
    """Centres of every cloud.

    Attributes
    ----------
    centers
        (B, k, d) centres; those of ``mass`` 0 (clouds of fewer points or fewer centres than k) mean nothing.
    labels
        (B, n) int64 nearest centre of every point, -1 for points of zero mass (padding).
    mass
        (B, k) mass of the points of each centre.
    """

    centers: Tensor
    labels: Tensor
    mass: Tensor


def batched_kmeans(
    x: Tensor, k: int | Tensor, *, mass: Tensor | None = None, n_iter: int = 10, random_state: int = 0
) -> BatchedKMeans:
    """Cluster each of B padded point clouds by Lloyd's algorithm, all together and on the device of ``x``.

    A cloud starts from points drawn in proportion to their mass, without replacement, from a stream that depends on the
    seed alone; a centre that loses its points stays where it is. The inputs are not checked.

    Parameters
    ----------
    x
        (B, n, d) points; padding has zero mass and finite coordinates.
    k
        Centres of every cloud, or (B,) centres of each.
    mass
        (B, n) masses >= 0; 1 by default.
    n_iter
        Iterations.
    random_state
        Seed.

    Returns
    -------
    BatchedKMeans
        Centres, labels and masses.

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
    centre = (weight[..., None] * x).sum(1, keepdim=True) / weight.sum(1)[:, None, None].clamp(min=1e-30)
    x = x - centre
    centers, alive = _start(x, weight, number, random_state)
    for _ in range(n_iter):
        labels = _assign(x, centers, alive)
        centers = _update(x, weight, labels, centers)
    labels = _assign(x, centers, alive)
    held = torch.zeros_like(alive, dtype=x.dtype).scatter_add_(1, labels, weight)
    return BatchedKMeans(centers + centre, labels.masked_fill(weight == 0, -1), held)


def _start(x: Tensor, weight: Tensor, number: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Centres (B, k, d) drawn by an exponential race (least time first), and which of them exist (B, k)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU, so that every device starts from the same points.
    noise = torch.empty(weight.shape, dtype=torch.float64).exponential_(generator=generator).to(weight.device)
    most = min(int(number.max()), x.shape[1])
    times, rows = (noise / weight.double()).topk(most, dim=1, largest=False)
    alive = times.isfinite() & (torch.arange(most, device=x.device) < number[:, None])
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2])), alive


def _assign(x: Tensor, centers: Tensor, alive: Tensor) -> Tensor:
    """Nearest existing centre of every point, (B, n)."""
    import torch

    offset = centers.square().sum(-1).masked_fill(~alive, float("inf"))
    return torch.baddbmm(offset[:, None, :], x, centers.mT, alpha=-2).argmin(dim=2)


def _update(x: Tensor, weight: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Weighted means (B, k, d) of the points of each centre."""
    import torch

    held = torch.zeros_like(centers[..., 0]).scatter_add_(1, labels, weight)
    index = labels[..., None].expand_as(x)
    total = torch.zeros_like(centers).scatter_add_(1, index, weight[..., None] * x)
    return torch.where(held[..., None] > 0, total / held[..., None], centers)
