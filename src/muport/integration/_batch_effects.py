"""Effects of batches on the features of a modality, and values from which they are removed.

The cells are grouped around centers of the integrated space, where cells of one kind from all batches lie together. The
difference between the mean of a batch there and the mean over batches has two parts: one that the batch has everywhere,
and one near this center, which is shrunk where few or noisy cells estimate it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from muport._arrays import canonical_order
from muport.integration.prototypes._prototypes import NEIGHBORS
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BatchEffects", "Centers", "LocatedCells", "fit_centers", "fit_effects"]

_CENTERS_PER_ROOT, _MOST_CENTERS = 1 / 3, 100  # centers per square root of the number of cells
_ITERATIONS = 50  # of the proportional fit
_LEAST_CHANGE = 1e-4  # of a factor, at which the proportional fit stops


@dataclass(frozen=True, eq=False)
class LocatedCells:
    """Cells of a modality before and after the integration.

    - `x`, `y`: (n, d) coordinates in the space of the transport, and integrated ones.
    - `batch`: (n,) codes; the model's batches come first.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    batch: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Centers:
    """Centers of the integrated space, and how far the batches moved.

    - `position`: (K, d).
    - `variance`: (K,) variance of a coordinate among the cells of the center.
    - `fixed`: (B,) batches of which no cell moved.
    - `amount`: Fraction (0..1) of the difference between batches that the integration removed from the coordinates.
    """

    position: NDArray[np.float32]
    variance: NDArray[np.float32]
    fixed: NDArray[np.bool_]
    amount: float

    def weigh(self, y: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the nearest centers of cells (n, d), and the probabilities that a cell is of each of them.

        The cells of a center have a spherical normal distribution, with the variance of the nearest center.
        """
        neighbors = knn(self.position, min(NEIGHBORS, len(self.position)), query=y, method="exact")
        squared, variance = np.square(neighbors.distances), self.variance[neighbors.indices[:, :1]]
        weight = np.exp(-(squared - squared[:, :1]) / np.maximum(2 * variance, np.finfo(np.float32).tiny))
        weight /= weight.sum(axis=1, keepdims=True)
        return neighbors.indices, weight


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the cells of each batch at each center, for g features.

    - `n`: (K, B) numbers of cells; for counts, sums of their sizes.
    - `total`: (K, B, g) sums of the values.
    - `square`: (g,) sums of the squared differences between the cells and the mean of their batch at their center.
    - `n_free`: Number of cells minus number of such means.
    """

    n: NDArray[np.float64]
    total: NDArray[np.float64]
    square: NDArray[np.float64]
    n_free: int


@dataclass(frozen=True, eq=False)
class BatchEffects:
    """Effects of batches on g features: differences, or logarithms of factors.

    - `of_batch`: (B, g) everywhere.
    - `near_center`: (K, B, g) in addition near a center.
    """

    of_batch: NDArray[np.float32]
    near_center: NDArray[np.float32]

    def at(self, centers: Centers, y: NDArray[np.float32], batch: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the effects (n, g) on cells at `y` (n, d)."""
        near, weight = centers.weigh(y)
        effect = self.of_batch[batch]
        for rank in range(near.shape[1]):
            effect += weight[:, rank, None] * self.near_center[near[:, rank], batch]
        return effect


def fit_centers(cells: LocatedCells, n_batches: int, seed: int) -> Centers:
    """Fit the centers to the cells of the model, and compare their coordinates before and after the integration."""
    fixed = np.bincount(cells.batch, (cells.x != cells.y).any(axis=1), n_batches) == 0
    number = int(np.clip(round(_CENTERS_PER_ROOT * np.sqrt(len(cells.y))), 1, _MOST_CENTERS))
    order = canonical_order(cells.y, cells.batch)
    position = kmeans(cells.y[order], number, random_state=seed).centers
    nearest = knn(position, 1, query=cells.y, method="exact")
    label, squared = nearest.indices[:, 0], np.square(nearest.distances[:, 0]) / cells.y.shape[1]
    variance = np.bincount(label, squared, len(position)) / np.maximum(np.bincount(label, None, len(position)), 1)
    centers = Centers(position, variance.astype(np.float32), fixed, 1.0)
    if fixed.all():
        return centers
    coordinates = np.concatenate([cells.x, cells.x - cells.y], axis=1)
    sums = _sum_cells(coordinates, cells, centers, n_batches, None)
    before, moves = np.split(_fit_differences(sums, np.zeros_like(fixed))[0], 2, axis=1)
    weight = np.bincount(cells.batch, minlength=n_batches)[:, None]
    removed = (weight * before * moves).sum() / max((weight * before**2).sum(), np.finfo(float).tiny)
    return replace(centers, amount=float(np.clip(removed, 0, 1)))


def fit_effects(
    values: Any,
    cells: LocatedCells,
    centers: Centers,
    size: NDArray[np.float64] | None = None,
    new: tuple[Any, LocatedCells, NDArray[np.float64] | None] | None = None,
) -> BatchEffects:
    """Fit the effects of batches on features, and scale them by how far the batches moved.

    - `values`: (n, g) values of the cells of the model, dense or sparse.
    - `size`: (n,) sum of all counts of each cell; effects are then factors. None: effects are differences.
    - `new`: Values, cells and sizes of new cells, whose batches may be unknown to the model: their codes follow. The
      effects of known batches do not depend on them.
    """
    n_batches = len(centers.fixed)
    sums = _sum_cells(values, cells, centers, n_batches, size)
    fit, compare = (_fit_differences, _compare_means) if size is None else (_fit_factors, _compare_counts)
    of_batch, level = fit(sums, centers.fixed)
    noise = sums.square / max(sums.n_free, 1)
    if size is not None:
        noise = np.maximum(sums.square / np.maximum(sums.total.sum(axis=(0, 1)), 1), 1)
    near_center, spread = compare(sums, level, of_batch, noise)
    if centers.fixed.any():
        near_center -= near_center[:, centers.fixed].mean(axis=1, keepdims=True)
        near_center[:, centers.fixed], of_batch[centers.fixed] = 0, 0
    if new is not None and (n_all := int(new[1].batch.max(initial=-1)) + 1) > n_batches:
        sums = _take_batches(_sum_cells(new[0], new[1], centers, n_all, new[2]), n_batches)
        of_new = _compare_with_level(sums, level, size is not None)
        near_new, _ = compare(sums, level, of_new, noise, spread)
        of_batch = np.concatenate([of_batch, of_new])
        near_center = np.concatenate([near_center, near_new], axis=1)
    amount = np.float32(centers.amount)
    return BatchEffects(amount * of_batch.astype(np.float32), amount * near_center.astype(np.float32))


def _sum_cells(
    values: Any, cells: LocatedCells, centers: Centers, n_batches: int, size: NDArray[np.float64] | None
) -> _Sums:
    n_cells, n_centers = len(cells.y), len(centers.position)
    size = np.ones(n_cells) if size is None else size
    nearest = knn(centers.position, 1, query=cells.y, method="exact").indices[:, 0]
    code = nearest * n_batches + cells.batch
    shape = (n_centers, n_batches)

    def add_up(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        matrix = sparse.csr_array((weight, (code, np.arange(n_cells))), shape=(n_centers * n_batches, n_cells))
        product = matrix @ (sparse.csr_array(values) if sparse.issparse(values) else values)
        dense = product.toarray() if sparse.issparse(product) else product
        return np.asarray(dense, np.float64).reshape(*shape, -1)

    n = np.bincount(code, size, n_centers * n_batches).reshape(shape)
    total = add_up(np.ones(n_cells))
    rate = total / np.maximum(n, np.finfo(float).tiny)[:, :, None]
    by_size = total if (size == 1).all() else add_up(size)
    size_square = np.bincount(code, size**2, n_centers * n_batches).reshape(shape)
    if sparse.issparse(values):
        square = np.asarray(values.multiply(values).sum(axis=0, dtype=np.float64)).ravel()
    else:
        square = np.einsum("ng,ng->g", values, values, dtype=np.float64)
    square = square - 2 * (rate * by_size).sum(axis=(0, 1)) + (rate**2 * size_square[:, :, None]).sum(axis=(0, 1))
    return _Sums(n, total, np.maximum(square, 0), n_cells - int((n > 0).sum()))


def _take_batches(sums: _Sums, first: int) -> _Sums:
    """Take the batches from `first` on."""
    return replace(sums, n=sums.n[:, first:], total=sums.total[:, first:])


def _fit_differences(sums: _Sums, fixed: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit total / n = level + effect of the batch by least squares: effects (B, g) and levels (K, g)."""
    n, n_center = sums.n, np.maximum(sums.n.sum(axis=1), 1)
    mean = sums.total.sum(axis=1) / n_center[:, None]
    laplacian = np.diag(n.sum(axis=0)) - n.T @ (n / n_center[:, None])
    effect = np.linalg.pinv(laplacian, hermitian=True) @ (sums.total.sum(axis=0) - n.T @ mean)
    for members, anchors in _find_anchors(n, fixed):
        effect[members] -= effect[anchors].mean(axis=0)
    level = mean - (n @ effect) / n_center[:, None]
    return effect, level


def _fit_factors(sums: _Sums, fixed: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit total = n * rate * factor of the batch by proportional fitting: log factors (B, g) and rates (K, g)."""
    n, of_center, of_batch = sums.n, sums.total.sum(axis=1), sums.total.sum(axis=0)
    groups = _find_anchors(n, fixed)
    factor = np.ones(of_batch.shape)
    rate = of_center
    for _ in range(_ITERATIONS):
        rate = of_center / np.maximum(n @ factor, np.finfo(float).tiny)
        # one count more than there are, so that a feature that a batch lacks has a factor
        new = (of_batch + 1) / (n.T @ rate + 1)
        for members, anchors in groups:
            new[members] /= new[anchors].mean(axis=0)
        change, factor = np.abs(new / factor - 1).max(initial=0), new
        if change < _LEAST_CHANGE:
            break
    return np.log(factor), of_center / np.maximum(n @ factor, np.finfo(float).tiny)


def _find_anchors(n: NDArray[np.float64], fixed: NDArray[np.bool_]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Find the batches that share centers, and those of them that the others are compared with: the fixed ones, or all.

    Batches without common centers cannot be compared.
    """
    n_parts, part = connected_components((n.T @ n) > 0)
    members = [np.flatnonzero(part == i) for i in range(n_parts)]
    return [(batches, batches[fixed[batches]] if fixed[batches].any() else batches) for batches in members]


def _compare_with_level(sums: _Sums, level: NDArray[np.float64], is_factor: bool) -> NDArray[np.float64]:
    """Compare the sums of each batch with the levels of the centers: effects (B, g)."""
    observed, expected = sums.total.sum(axis=0), sums.n.T @ level
    if is_factor:
        effect: NDArray[np.float64] = np.log((observed + 1) / (expected + 1))
        return effect
    difference: NDArray[np.float64] = (observed - expected) / np.maximum(sums.n.sum(axis=0), 1)[:, None]
    return difference


def _compare_means(
    sums: _Sums,
    level: NDArray[np.float64],
    of_batch: NDArray[np.float64],
    noise: NDArray[np.float64],
    spread: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare the mean of each batch at each center with what its effect explains, and shrink the rest.

    - `noise`: (g,) variance of the values of a batch at a center.
    - `spread`: (g,) variance of the true differences; by default it is estimated by moments.

    Returns (K, B, g) differences, and the spread.
    """
    n = sums.n[:, :, None]
    rest = np.where(n > 0, sums.total / np.maximum(n, 1) - level[:, None] - of_batch, 0)
    if spread is None:
        n_center = np.maximum(sums.n.sum(axis=1), 1)
        n_expected = max(int((sums.n > 0).sum()) - len(n_center) - sums.n.shape[1] + 1, 0)
        n_effective = sums.n.sum() - (sums.n**2).sum(axis=1) @ (1 / n_center)
        spread = np.maximum((n * rest**2).sum(axis=(0, 1)) - n_expected * noise, 0) / max(n_effective, 1)
    return rest * n * spread / np.maximum(n * spread + noise, np.finfo(float).tiny), spread


def _compare_counts(
    sums: _Sums,
    level: NDArray[np.float64],
    of_batch: NDArray[np.float64],
    noise: NDArray[np.float64],
    spread: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As :func:`_compare_means`, for counts: log of the posterior mean of a gamma factor with mean 1.

    - `noise`: (g,) variance of the counts over their mean.
    - `spread`: (g,) variance of the factors.
    """
    expected = sums.n[:, :, None] * level[:, None] * np.exp(of_batch)
    if spread is None:
        n_used = int((sums.n > 0).sum())
        freedom = max(n_used - sums.n.shape[0] - sums.n.shape[1] + 1, 0) / max(n_used, 1)
        excess = np.square(sums.total - expected).sum(axis=(0, 1)) - freedom * noise * expected.sum(axis=(0, 1))
        spread = np.maximum(excess, 0) / np.maximum(np.square(expected).sum(axis=(0, 1)), np.finfo(float).tiny)
    rest = np.log((noise + spread * sums.total) / (noise + spread * expected))
    return rest, spread
