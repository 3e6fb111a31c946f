"""Velocities in a picture: what a displacement in the representation does to the embedding around each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points, knn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["project"]

_RIDGE = 0.01  # of the local covariance, as a multiple of its mean eigenvalue
_FLOOR = 0.05  # least share of the displacement that the kernel is taken to achieve; the linear map adds the rest
_REFERENCE = 20_000  # cells that are searched for neighbours: the cost of the search is linear in the others
_BLOCK = 2**23  # coordinates held at once
_TINY = 1e-12


def project(
    x: ArrayLike,
    velocity: ArrayLike,
    embedding: ArrayLike,
    *,
    n_neighbors: int = 100,
    method: Literal["kernel", "linear"] = "kernel",
    neighbors: ArrayLike | None = None,
) -> NDArray[np.float32]:
    r"""Push velocities forward to an embedding of the same cells: u = J v, with J the map's unknown Jacobian.

    ``"linear"`` estimates J by ridge regression on the centred neighbourhood of each cell. ``"kernel"`` moves a
    Gaussian kernel with the cell, both ways, by its width s (the median distance of the neighbours):

    .. math:: U(p) = \sum_j w_j(p) u_j, \quad w_j(p) \propto \exp(-|p - x_j|^2 / 2 s^2), \quad
       u = \frac{U(x + \delta v) - U(x - \delta v)}{a} + J \left(v - \frac{X(x + \delta v) - X(x - \delta v)}{a}\right)

    where X is the same kernel mean of the cells' own positions and a the time in which v covers it along v: the
    difference is not biased as an arrow toward neighbours is, its length is that of the velocity, and the
    second term adds what the kernel could not reach, so that a linear embedding is exact up to the ridge.
    Cost and memory are linear in cells: neighbours are sought among 20,000 of them, drawn once, where there are more.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) velocities, in units of ``x`` per unit of time.
    embedding
        (n, c) positions of the same cells in the picture.
    n_neighbors
        Neighbours of a cell, all other cells if there are fewer. More neighbours than dimensions are much better.
    method
        ``"kernel"`` or ``"linear"``.
    neighbors
        (n, k) rows of the neighbours, if they are known: then these instead of ``n_neighbors``.

    Returns
    -------
    numpy.ndarray
        (n, c) float32 velocities in the picture, in its units per unit of time; 0 where the velocity is 0.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is NaN, the method is unknown or ``n_neighbors`` is below 2.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.dynamics._embedding_projection import project
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> project(x, np.ones_like(x), x @ np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])).mean(axis=0).round(1).tolist()
    [2.0, 2.0]
    """
    if method not in ("kernel", "linear"):
        raise ValueError(f"method={method!r} is unknown: use 'kernel' or 'linear'.")
    points, arrows, picture = as_points(x, "x"), as_points(velocity, "velocity"), as_points(embedding, "embedding")
    if arrows.shape != points.shape or len(picture) != len(points):
        raise ValueError(
            f"velocity has shape {arrows.shape} and embedding {picture.shape}, but x has {points.shape}: "
            "all three must be of the same cells, and velocity of the same coordinates as x."
        )
    near = _neighbors(points, n_neighbors, neighbors)
    data = [torch.tensor(value) for value in (points, arrows, picture)]
    size = max(1, _BLOCK // (near.shape[1] * (points.shape[1] + picture.shape[1]) + points.shape[1] ** 2))
    rows = torch.split(torch.arange(len(points)), size)
    parts = [_push(*_local(data, near, block), kernel=method == "kernel") for block in rows]
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _neighbors(points: NDArray[np.float32], k: int, given: ArrayLike | None) -> Tensor:
    if given is None:
        if k < 2:
            raise ValueError(f"n_neighbors={k} must be at least 2.")
        return torch.from_numpy(_nearest(points, max(1, min(k, len(points) - 1, _REFERENCE - 1))))
    near = np.asarray(given)
    whole = np.issubdtype(near.dtype, np.integer) and near.ndim == 2 and len(near) == len(points)
    if not whole or near.shape[1] < 2 or near.min() < 0 or near.max() >= len(points):
        raise ValueError(f"neighbors has shape {near.shape}: pass (n, k) rows of x, integers from 0 to n - 1, k >= 2.")
    return torch.from_numpy(near.astype(np.int64))


def _nearest(points: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows (n, k) of the nearest other cells; of many cells, among a sample."""
    if len(points) <= _REFERENCE:
        return knn(points, k).indices
    chosen = np.sort(np.random.default_rng(0).choice(len(points), _REFERENCE, replace=False))
    found: NDArray[np.int64] = chosen[knn(points[chosen], k + 1, query=points, method="exact").indices]
    own = found == np.arange(len(points))[:, None]
    own[~own.any(axis=1), -1] = True
    others: NDArray[np.int64] = found[~own].reshape(-1, k)
    return others


def _local(data: list[Tensor], near: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets of a cell and its neighbours in the space (m, k + 1, d) and in the picture, and the velocity (m, d)."""
    x, v, u = data
    cloud = torch.cat([rows[:, None], near[rows]], dim=1)
    return x[cloud] - x[rows, None], u[cloud] - u[rows, None], v[rows]


def _push(dx: Tensor, du: Tensor, v: Tensor, *, kernel: bool) -> Tensor:
    jacobian = _jacobian(dx, du)
    if not kernel:
        return _apply(v, jacobian)
    speed = v.norm(dim=1)
    width = dx[:, 1:].norm(dim=2).median(dim=1).values
    delta = width / speed.clamp(min=_TINY)
    along = delta[:, None] * torch.einsum("mkd,md->mk", dx, v)
    scale = width.square().clamp(min=_TINY)[:, None]
    # |x_j - x -+ delta v|^2 without |delta v|^2, which is common to all neighbours.
    near, shift = -dx.square().sum(dim=2) / (2 * scale), along / scale
    weight = (near + shift).softmax(dim=1) - (near - shift).softmax(dim=1)
    moved, seen = (torch.einsum("mk,mkd->md", weight, offset) for offset in (dx, du))
    time = (moved * v).sum(dim=1) / speed.square().clamp(min=_TINY)
    time = torch.maximum(time, _FLOOR * delta).clamp(min=_TINY)[:, None]
    result = seen / time + _apply(v - moved / time, jacobian)
    return torch.where(((speed > 0) & (width > 0))[:, None], result, 0.0)


def _jacobian(dx: Tensor, du: Tensor) -> Tensor:
    """Transposed Jacobian (m, d, c): ridge regression of centred offsets in the picture on those in the space."""
    dx, du = dx - dx.mean(dim=1, keepdim=True), du - du.mean(dim=1, keepdim=True)
    covariance = dx.mT @ dx
    mean = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    covariance.diagonal(dim1=1, dim2=2).add_((_RIDGE * mean).clamp(min=_TINY)[:, None])
    jacobian: Tensor = torch.cholesky_solve(dx.mT @ du, torch.linalg.cholesky(covariance))
    return jacobian


def _apply(v: Tensor, jacobian: Tensor) -> Tensor:
    return torch.einsum("md,mdc->mc", v, jacobian)
