"""Velocities in an embedding such as UMAP: the displacement in the embedding that goes with the velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport._checks import check_option
from muport.neighbors import Neighbors, as_points, knn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["project_velocity"]

_RIDGE = 0.01  # penalty, as a multiple of the mean eigenvalue of the local covariance
_MIN_KERNEL_FRACTION = 0.05  # of the displacement assigned to the kernel; the linear map adds the rest
_MAX_REFERENCE = 20_000  # cells that are searched for neighbors, so that the search is linear in the cells
_BLOCK = 2**23  # coordinates held at once
_TINY = 1e-12


def project_velocity(
    x: ArrayLike,
    velocity: ArrayLike,
    embedding: ArrayLike,
    *,
    n_neighbors: int = 100,
    method: Literal["kernel", "linear"] = "kernel",
    neighbors: ArrayLike | None = None,
) -> NDArray[np.float32]:
    r"""Project velocities to an embedding of the same cells: u = J v, with J the unknown Jacobian of the embedding.

    ``"linear"`` estimates J by ridge regression on the centered neighborhood of each cell. ``"kernel"`` moves a
    Gaussian kernel forward and backward along the velocity, by its width s (the median distance of the neighbors):

    .. math:: U(p) = \sum_j w_j(p) u_j, \quad w_j(p) \propto \exp(-|p - x_j|^2 / 2 s^2), \quad
       u = \frac{U(x + \delta v) - U(x - \delta v)}{a} + J \left(v - \frac{X(x + \delta v) - X(x - \delta v)}{a}\right)

    where X is the same kernel mean of the positions x_j, and a the time in which v covers the distance between
    X(x - \delta v) and X(x + \delta v) in its direction. The central difference is not biased toward the mean of the
    neighbors, and its length is that of the velocity. The second term adds the displacement that the kernel did not
    achieve, so that a linear embedding is exact up to the ridge. Cost and memory are linear in cells: beyond 20,000
    cells, neighbors are searched in a random sample of 20,000.

    - `x`: (n, d) cells.
    - `velocity`: (n, d) velocities, in units of ``x`` per unit of time.
    - `embedding`: (n, c) positions of the same cells in the embedding.
    - `n_neighbors`: Neighbors of a cell; all other cells if there are fewer. Choose more neighbors than dimensions of
      ``x``.
    - `method`: ``"kernel"`` or ``"linear"``.
    - `neighbors`: (n, k) rows of the neighbors, if they are known; ``n_neighbors`` is then ignored.

    Returns (n, c) float32 velocities in the embedding, in its units per unit of time; 0 where the velocity is 0. Raises
    ValueError if shapes do not fit, an entry is NaN, the method is unknown or ``n_neighbors`` is below 2.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> linear = x @ np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> project_velocity(x, np.ones_like(x), linear).mean(axis=0).round(1).tolist()
    [2.0, 2.0]
    """
    check_option("method", method, ["kernel", "linear"])
    points, arrows, target = as_points(x, "x"), as_points(velocity, "velocity"), as_points(embedding, "embedding")
    if arrows.shape != points.shape or len(target) != len(points):
        raise ValueError(
            f"velocity has shape {arrows.shape} and embedding {target.shape}, but x has {points.shape}: "
            "all three must be of the same cells, and velocity of the same coordinates as x."
        )
    indices = _neighbor_indices(points, n_neighbors, neighbors)
    data = [torch.tensor(value) for value in (points, arrows, target)]
    size = max(1, _BLOCK // (indices.shape[1] * (points.shape[1] + target.shape[1]) + points.shape[1] ** 2))
    rows = torch.split(torch.arange(len(points)), size)
    parts = [_project_block(*_local_offsets(data, indices, block), kernel=method == "kernel") for block in rows]
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _neighbor_indices(points: NDArray[np.float32], k: int, known: ArrayLike | None) -> Tensor:
    """(n, k) rows of the neighbors of each cell."""
    if known is None:
        if k < 2:
            raise ValueError(f"n_neighbors={k} must be at least 2.")
        return torch.from_numpy(_nearest(points, max(1, min(k, len(points) - 1, _MAX_REFERENCE - 1))))
    indices = np.asarray(known)
    fits = np.issubdtype(indices.dtype, np.integer) and indices.ndim == 2 and len(indices) == len(points)
    if not fits or indices.shape[1] < 2 or indices.min() < 0 or indices.max() >= len(points):
        raise ValueError(
            f"neighbors has shape {indices.shape}: pass (n, k) rows of x, integers from 0 to n - 1, k >= 2."
        )
    return torch.from_numpy(indices.astype(np.int64))


def _nearest(points: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows (n, k) of the nearest other cells, in a sample if there are many cells."""
    if len(points) <= _MAX_REFERENCE:
        return knn(points, k).indices
    sample = np.sort(np.random.default_rng(0).choice(len(points), _MAX_REFERENCE, replace=False))
    neighbors = knn(points[sample], k + 1, query=points, method="exact")
    return Neighbors(neighbors.distances, sample[neighbors.indices]).without_self().indices


def _local_offsets(data: list[Tensor], indices: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets of cells and their neighbors in x (m, k + 1, d) and in the embedding (m, k + 1, c), velocity (m, d)."""
    x, v, embedding = data
    cells = torch.cat([rows[:, None], indices[rows]], dim=1)
    return x[cells] - x[rows, None], embedding[cells] - embedding[rows, None], v[rows]


def _project_block(dx: Tensor, du: Tensor, v: Tensor, *, kernel: bool) -> Tensor:
    jacobian = _fit_jacobian(dx, du)
    if not kernel:
        return _apply(v, jacobian)
    speed = v.norm(dim=1)
    width = dx[:, 1:].norm(dim=2).median(dim=1).values
    delta = width / speed.clamp(min=_TINY)
    along = delta[:, None] * torch.einsum("mkd,md->mk", dx, v)
    scale = width.square().clamp(min=_TINY)[:, None]
    # exponents -|x_j - x -+ delta v|^2 / 2 s^2 without |delta v|^2, which is the same for all neighbors
    exponent, shift = -dx.square().sum(dim=2) / (2 * scale), along / scale
    weight = (exponent + shift).softmax(dim=1) - (exponent - shift).softmax(dim=1)
    moved, moved_embedding = (torch.einsum("mk,mkd->md", weight, offset) for offset in (dx, du))
    time = (moved * v).sum(dim=1) / speed.square().clamp(min=_TINY)
    time = torch.maximum(time, _MIN_KERNEL_FRACTION * delta).clamp(min=_TINY)[:, None]
    result = moved_embedding / time + _apply(v - moved / time, jacobian)
    return torch.where(((speed > 0) & (width > 0))[:, None], result, 0.0)


def _fit_jacobian(dx: Tensor, du: Tensor) -> Tensor:
    """Transposed Jacobian (m, d, c): ridge regression of centered offsets in the embedding on those in x."""
    dx, du = dx - dx.mean(dim=1, keepdim=True), du - du.mean(dim=1, keepdim=True)
    covariance = dx.mT @ dx
    mean = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    covariance.diagonal(dim1=1, dim2=2).add_((_RIDGE * mean).clamp(min=_TINY)[:, None])
    jacobian: Tensor = torch.cholesky_solve(dx.mT @ du, torch.linalg.cholesky(covariance))
    return jacobian


def _apply(v: Tensor, jacobian: Tensor) -> Tensor:
    return torch.einsum("md,mdc->mc", v, jacobian)
