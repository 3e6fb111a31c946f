"""Principal axes of sparse standardized values z = (x - mean) / std, by products that never make z dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.utils.extmath import svd_flip

from muport._parallel import single_threaded
from muport.pp.components._row_blocks import RowBlocks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

#: Entries up to which the solver is ARPACK, which is exact; above, it takes minutes.
_LARGEST_OF_ARPACK = 10_000_000
#: Vectors beside those asked for, blocks of vectors, and smallest number of vectors in all blocks: chosen on simulated
#: peaks without structure, the slowest case, where 52 singular values agree to 1 % and the first four to .3 %.
_OVERSAMPLING, _KRYLOV_BLOCKS, _FEWEST_VECTORS = 20, 6, 96
#: Part of a product of the matrix, beside the directions found before, that float32 still resolves.
_RELATIVE_RANK = 1e-4


@dataclass(frozen=True)
class Standardized:
    """Sparse values and the statistics that standardize them.

    - `x`: (n, g) values.
    - `mean`: (g,) means.
    - `inverse`: (g,) inverse standard deviations, 0 for a constant column.
    - `norm`: (n,) lengths by which rows are divided. None: rows are not scaled.
    """

    x: sparse.csr_matrix
    mean: NDArray[np.float64]
    inverse: NDArray[np.float64]
    norm: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, x: sparse.csr_matrix) -> Standardized:
        """Compute the statistics of the columns of `x`."""
        mean = np.asarray(x.mean(axis=0, dtype=np.float64)).ravel()
        square = np.asarray(x.multiply(x).mean(axis=0, dtype=np.float64)).ravel()
        variance = np.maximum(square - mean**2, 0)
        varies = variance > 1e-10 * np.maximum(square, 1e-30)
        return cls(x, mean, np.divide(1, np.sqrt(variance), out=np.zeros(len(mean)), where=varies))

    def with_unit_rows(self) -> Standardized:
        """Return the same values with rows of length 1; a row of zeros stays zero."""
        weight = self.inverse**2
        square = self.x.multiply(self.x) @ weight - 2 * (self.x @ (self.mean * weight)) + (self.mean**2 * weight).sum()
        norm = np.sqrt(np.maximum(square, 0))
        return Standardized(self.x, self.mean, self.inverse, np.where(norm > 0, norm, 1))

    def dot(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return the product z b for b (g, k): (n, k)."""
        scaled = (b.T * self.inverse).T
        product: NDArray[Any] = self.x @ scaled - self.mean @ scaled
        return product if self.norm is None else (product.T / self.norm).T

    def tdot(self, b: NDArray[Any]) -> NDArray[Any]:
        """Return the product of z transposed with b (n, k): (g, k)."""
        b = b if self.norm is None else (b.T / self.norm).T
        product = self.x.T @ b - np.multiply.outer(self.mean, b.sum(axis=0))
        scaled: NDArray[Any] = (product.T * self.inverse).T
        return scaled


def principal_axes(a: Standardized, b: Standardized, k: int, random_state: int) -> NDArray[np.float64]:
    """Return the axes (g, k) of largest variance in descending order.

    Both modalities have the same weight, whatever their numbers of cells.
    """
    n, m = a.x.shape[0], b.x.shape[0]

    def forward(v: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([a.dot(v) / np.sqrt(n), b.dot(v) / np.sqrt(m)])

    def back(u: NDArray[Any]) -> NDArray[Any]:
        product: NDArray[Any] = a.tdot(u[:n]) / np.sqrt(n) + b.tdot(u[n:]) / np.sqrt(m)
        return product

    operator = LinearOperator((n + m, a.x.shape[1]), forward, back, forward, np.float64, back)
    return truncated_svd(operator, k, np.random.default_rng(random_state))[2]


def canonical_axes(a: Standardized, b: Standardized, k: int, random_state: int) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Return axes (g, k) of both modalities from the singular value decomposition of :math:`A B^\top`.

    With :math:`A B^\top \approx U S V^\top`, cells of a have the coordinates ``a.dot(first)``, rows of U S, and
    cells of b the coordinates ``b.dot(second)``, rows of V S.
    """
    shape = (a.x.shape[0], b.x.shape[0])

    def forward(v: NDArray[Any]) -> NDArray[Any]:
        return a.dot(b.tdot(v))

    def back(u: NDArray[Any]) -> NDArray[Any]:
        return b.dot(a.tdot(u))

    operator = LinearOperator(shape, forward, back, forward, np.float64, back)
    u, _, v = truncated_svd(operator, k, np.random.default_rng(random_state))
    return b.tdot(v), a.tdot(u)


def truncated_svd(
    matrix: RowBlocks | LinearOperator, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return left vectors, values and right vectors of the k largest singular values, in descending order.

    The largest entry of a right vector is positive.
    """
    k = min(k, min(matrix.shape) - 1)
    # threads would only wait for each other in the small products of the solver
    with single_threaded():
        width, n_blocks = _krylov_size(k)
        several = width * n_blocks <= min(matrix.shape)
        if isinstance(matrix, RowBlocks) and matrix.nnz > _LARGEST_OF_ARPACK and several:
            u, s, vt = _block_krylov_svd(matrix, k, rng)
        else:
            start = rng.normal(size=min(matrix.shape)).astype(matrix.dtype)
            u, s, vt = svds(matrix.tocsr() if isinstance(matrix, RowBlocks) else matrix, k=k, v0=start)
            u, s, vt = u[:, ::-1].astype(np.float64), s[::-1].astype(np.float64), vt[::-1].astype(np.float64)
    u, vt = svd_flip(u, vt, u_based_decision=False)
    return u, s, vt.T


def _krylov_size(k: int) -> tuple[int, int]:
    """Return the number of vectors in a block, and of blocks. Few vectors converge in more, smaller blocks."""
    width = k + min(k, _OVERSAMPLING)
    return width, max(_KRYLOV_BLOCKS, _FEWEST_VECTORS // width)


def _block_krylov_svd(
    matrix: RowBlocks, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the k largest singular values and their vectors, by products with blocks of vectors.

    The left vectors are sought in the span of A Omega, (A A') A Omega, ..., with Omega random (Musco and Musco 2015,
    Algorithm 2). A block of vectors takes a fourth of the time of as many single ones, if a block of rows of A stays in
    the cache.
    """
    width, n_blocks = _krylov_size(k)
    start = rng.normal(size=(matrix.shape[1], min(width, *matrix.shape))).astype(matrix.dtype)
    basis = np.empty((matrix.shape[0], 0), matrix.dtype)
    images: list[NDArray[Any]] = []
    image = start
    for _ in range(n_blocks):
        new = matrix.dot(image)
        smallest = _RELATIVE_RANK * np.linalg.norm(new, axis=0).max()
        for _ in range(2):  # once leaves rounding errors
            new -= basis @ (basis.T @ new)
        new, triangle = np.linalg.qr(new)
        new = new[:, np.abs(np.diag(triangle)) > smallest]
        if not new.shape[1]:  # the matrix has no further directions
            break
        image = matrix.tdot(new)
        basis, images = np.hstack([basis, new]), [*images, image]
    projected = np.hstack(images).T.astype(np.float64)  # basis' A
    values, vectors = np.linalg.eigh(projected @ projected.T)
    values, vectors = np.sqrt(np.maximum(values[::-1][:k], 0)), vectors[:, ::-1][:, :k]
    right = (vectors.T @ projected) / np.maximum(values, np.finfo(float).tiny)[:, None]
    return basis.astype(np.float64) @ vectors, values, right
