"""Standardised values without their matrix: products with z = (x - mean) / deviation for sparse x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds

from muport._parallel import single_threaded
from muport.pp._lsi import signs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse


@dataclass(frozen=True)
class Standardised:
    """Values (n, g) sparse, with mean (g,) and the inverse of the standard deviation (g,), 0 for a constant.

    With `norm` (n,), rows are divided by it; None: they are not.
    """

    x: sparse.csr_matrix
    mean: NDArray[np.float64]
    inverse: NDArray[np.float64]
    norm: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, x: sparse.csr_matrix) -> Standardised:
        """Standardise the columns of `x`."""
        mean = np.asarray(x.mean(axis=0, dtype=np.float64)).ravel()
        square = np.asarray(x.multiply(x).mean(axis=0, dtype=np.float64)).ravel()
        variance = np.maximum(square - mean**2, 0)
        known = variance > 1e-10 * np.maximum(square, 1e-30)
        return cls(x, mean, np.divide(1, np.sqrt(variance), out=np.zeros(len(mean)), where=known))

    def unit(self) -> Standardised:
        """The same with rows of length 1; a row of zeros stays."""
        weight = self.inverse**2
        square = self.x.multiply(self.x) @ weight - 2 * (self.x @ (self.mean * weight)) + (self.mean**2 * weight).sum()
        norm = np.sqrt(np.maximum(square, 0))
        return Standardised(self.x, self.mean, self.inverse, np.where(norm > 0, norm, 1))

    def dot(self, b: NDArray[Any]) -> NDArray[Any]:
        """Product z b with (g, k): (n, k)."""
        scaled = (b.T * self.inverse).T
        found: NDArray[Any] = self.x @ scaled - self.mean @ scaled
        return found if self.norm is None else (found.T / self.norm).T

    def tdot(self, b: NDArray[Any]) -> NDArray[Any]:
        """Product of z transposed with (n, k): (g, k)."""
        b = b if self.norm is None else (b.T / self.norm).T
        found = self.x.T @ b - np.multiply.outer(self.mean, b.sum(axis=0))
        scaled: NDArray[Any] = (found.T * self.inverse).T
        return scaled


def principal_axes(a: Standardised, b: Standardised, k: int, random_state: int) -> NDArray[np.float64]:
    """Axes (g, k) of largest variance, in descending order, both modalities weighing the same whatever their cells."""
    n, m = a.x.shape[0], b.x.shape[0]

    def forward(v: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([a.dot(v) / np.sqrt(n), b.dot(v) / np.sqrt(m)])

    def back(u: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = a.tdot(u[:n]) / np.sqrt(n) + b.tdot(u[n:]) / np.sqrt(m)
        return found

    operator = LinearOperator((n + m, a.x.shape[1]), forward, back, forward, np.float64, back)
    return _right(operator, k, random_state)[0]


def canonical_axes(a: Standardised, b: Standardised, k: int, random_state: int) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Axes (g, k) for both, from the singular value decomposition :math:`A B^\top \approx U S V^\top`.

    A cell of a has coordinates ``a.dot(first)``, rows of U S, and one of b ``b.dot(second)``, rows of V S.
    """
    shape = (a.x.shape[0], b.x.shape[0])

    def forward(v: NDArray[Any]) -> NDArray[Any]:
        return a.dot(b.tdot(v))

    def back(u: NDArray[Any]) -> NDArray[Any]:
        return b.dot(a.tdot(u))

    v, u = _right(LinearOperator(shape, forward, back, forward, np.float64, back), k, random_state)
    return b.tdot(v), a.tdot(u)


def _right(operator: LinearOperator, k: int, random_state: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right and left singular vectors of the k largest singular values, signs fixed."""
    start = np.random.default_rng(random_state).normal(size=min(operator.shape))
    with single_threaded():
        u, _, vt = svds(operator, k=k, v0=start)
    v = vt[::-1].T
    sign = signs(v)
    return v * sign, u[:, ::-1] * sign
