"""Canonical axes of unpaired modalities: what their own representations say alike of cells that are near each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Annotated

import numpy as np
import scipy.sparse as sp

from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.integration.spaces._scaling import Coordinates

    #: Names of two modalities -> (n, k) rows of the first that are nearest to each of n cells of the second.
    type Neighbors = Mapping[tuple[str, str], NDArray[np.int64]]
    #: Names of two modalities -> (p,) rows of the first, and (p,) rows of the second.
    type Matches = Mapping[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]]

__all__ = ["CanonicalAxes", "find_mutual_neighbors", "find_neighbors", "fit_canonical_axes"]

N_NEIGHBORS = 15  # of a cell in another modality
_MIN_MATCHES = 30
_RIDGE = 0.1  # in units of the mean variance of the coordinates


@dataclass(frozen=True, eq=False)
class CanonicalAxes:
    """Axes on which the own representations of the modalities agree; their size does not grow with the cells.

    - `center`: Modality -> (d_m,) mean of its matched cells, in its standardized own representation.
    - `axes`: Modality -> (d_m, k) axes, each times its canonical correlation.
    """

    center: dict[str, Annotated[NDArray[np.float32], "*"]]
    axes: dict[str, Annotated[NDArray[np.float32], "* K"]]

    @property
    def n_axes(self) -> int:
        """Number k of the axes."""
        return int(next(iter(self.axes.values())).shape[1])

    def check_widths(self, widths: Mapping[str, int]) -> None:
        """Raise a ValueError unless each modality has axes of its number of coordinates."""
        found = {name: len(axes) for name, axes in self.axes.items()}
        if found != dict(widths) or {name: len(center) for name, center in self.center.items()} != dict(widths):
            raise ValueError(f"the canonical axes are of {found} coordinates, expected {dict(widths)}.")

    def project(self, modality: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project the standardized own representation (n, d_m) of cells on the k axes."""
        return np.asarray((x - self.center[modality]) @ self.axes[modality], np.float32)


def find_neighbors(z: Coordinates) -> Neighbors:
    """Find the nearest cells, in each modality, of the cells of each other one.

    - `z`: Modality -> (n_m, d) coordinates that are comparable between modalities.
    """
    found = {}
    for a, b in permutations(sorted(z), 2):
        k = min(N_NEIGHBORS, len(z[a])) if len(z[b]) else 0
        found[a, b] = knn(z[a], k, query=z[b]).indices if k else np.empty((len(z[b]), 0), np.int64)
    return found


def find_mutual_neighbors(neighbors: Neighbors) -> Matches:
    """Find the cells of each two modalities that are among the nearest of each other."""
    return {(a, b): _find_mutual(of_b, neighbors[b, a]) for (a, b), of_b in neighbors.items() if a < b}


def fit_canonical_axes(own: Coordinates, matches: Matches) -> CanonicalAxes | None:
    r"""Fit the canonical axes of two or more modalities on matched cells.

    With :math:`C_m` the covariance of modality m over its matched cells and :math:`C_{ml}` that between the matched
    cells of two modalities, :math:`K_{ml} = C_m^{-1/2} C_{ml} C_l^{-1/2}`. The leading eigenvectors of the matrix of
    all blocks K are the axes; their eigenvalues, divided by the number of the other modalities, are the correlations.
    For two modalities this is canonical correlation analysis, for more the form that maximizes the sum of the
    correlations.

    - `own`: Modality -> (n_m, d_m) standardized own representation.
    - `matches`: Matched rows of each two modalities.

    Returns None where a modality has too few matches.
    """
    names = sorted(own)
    rows = {m: np.concatenate([r[pair.index(m)] for pair, r in matches.items() if m in pair]) for m in names}
    if min(len(r) for r in rows.values()) < _MIN_MATCHES:
        return None
    center = {m: own[m][rows[m]].mean(axis=0, dtype=np.float64) for m in names}
    roots = {m: _inverse_root(own[m][rows[m]] - center[m]) for m in names}
    width = np.cumsum([0, *(len(root) for root in roots.values())])
    block = {m: slice(width[i], width[i + 1]) for i, m in enumerate(names)}
    products = np.zeros((width[-1], width[-1]))
    for (a, b), (first, second) in matches.items():
        cross = (own[a][first] - center[a]).T @ (own[b][second] - center[b]) / max(len(first), 1)
        products[block[a], block[b]] = roots[a] @ cross @ roots[b]
        products[block[b], block[a]] = products[block[a], block[b]].T
    values, vectors = np.linalg.eigh(products)
    n_axes = min(len(root) for root in roots.values())
    leading, correlation = vectors[:, ::-1][:, :n_axes], np.maximum(values[::-1][:n_axes], 0) / (len(names) - 1)
    axes = {m: roots[m] @ leading[block[m]] * correlation for m in names}
    if not correlation.max(initial=0) > 0:
        return None
    return CanonicalAxes(
        {m: center[m].astype(np.float32) for m in names}, {m: axes[m].astype(np.float32) for m in names}
    )


def _find_mutual(of_b: NDArray[np.int64], of_a: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a and b that are neighbors of each other, sorted.

    - `of_b`: (n_b, k) rows of a that are nearest to each cell of b.
    - `of_a`: (n_a, k) rows of b that are nearest to each cell of a.
    """
    found = sp.csr_array(_neighbor_matrix(of_a, len(of_b)).multiply(_neighbor_matrix(of_b, len(of_a)).T)).tocoo()
    order = np.lexsort([found.col, found.row])
    return found.row[order].astype(np.int64), found.col[order].astype(np.int64)


def _neighbor_matrix(nearest: NDArray[np.int64], n: int) -> sp.csr_array:
    """(n_query, n) matrix of ones where a cell is among the nearest (n_query, k) of a query."""
    start = np.arange(len(nearest) + 1) * nearest.shape[1]
    return sp.csr_array((np.ones(nearest.size, np.int8), nearest.ravel(), start), shape=(len(nearest), n))


def _inverse_root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse square root of the covariance (d, d) of centered cells, with the ridge; 0 without variance."""
    covariance = x.T @ x / len(x)
    ridge = _RIDGE * np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    inverse = np.divide(1, np.sqrt(np.maximum(values, 0) + ridge), out=np.zeros_like(values), where=ridge > 0)
    root: NDArray[np.float64] = (vectors * inverse) @ vectors.T
    return root
