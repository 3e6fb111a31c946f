"""The neighbor graph of UMAP, as scanpy computes it, without compilation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from muport.neighbors._knn import Neighbors, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FuzzyGraph", "fuzzy_graph"]

#: Largest number of cells of an exact search.
_EXACT_UP_TO = 50_000
#: Steps and tolerance of the bisection, and the smallest bandwidth as a fraction of the mean distance: as umap-learn.
_N_STEPS, _TOLERANCE, _SMALLEST_BANDWIDTH = 64, 1e-5, 1e-3


@dataclass(frozen=True)
class FuzzyGraph:
    """A neighbor graph of n cells.

    - `distances`: (n, n) distance of each cell to its k - 1 nearest other cells.
    - `connectivities`: (n, n) symmetric weights of edges, 0..1, float32.
    - `n_neighbors`: Number k of neighbors, the cell itself included.
    """

    distances: sparse.csr_matrix
    connectivities: sparse.csr_matrix
    n_neighbors: int


def fuzzy_graph(x: NDArray[np.float32], n_neighbors: int, random_state: int = 0) -> FuzzyGraph:
    r"""Compute the graph of ``scanpy.pp.neighbors`` with ``method="umap"``.

    Let :math:`d_{ij}` be the distance of cell i to its neighbor j, k the number of neighbors, and :math:`\rho_i` the
    smallest distance above 0. The directed weights, and the symmetric weights W (McInnes, Healy and Melville 2018,
    Algorithms 2 and 3), are

    .. math:: v_{ij} = \exp\!\left(-\frac{\max(d_{ij} - \rho_i, 0)}{\sigma_i}\right), \quad
              \sum_j v_{ij} = \log_2 k, \qquad W = V + V^\top - V \circ V^\top.

    umap-learn computes the same, but compiles its code for about 18 seconds in each process.

    Parameters
    ----------
    x
        (n, d) coordinates.
    n_neighbors
        Number of neighbors k of a cell, itself included; more than n is lowered to 1 + n / 2, as by scanpy.
    random_state
        Seed of the approximate search, which is used above 50,000 cells.

    Returns
    -------
    The graph.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.neighbors._fuzzy_graph import fuzzy_graph
    >>> graph = fuzzy_graph(np.array([[0.0], [1.0], [2.0], [9.0]], dtype=np.float32), n_neighbors=3)
    >>> [round(float(weight), 2) for weight in graph.connectivities.toarray()[0]]
    [0.0, 1.0, 0.83, 0.0]
    """
    k = n_neighbors if n_neighbors <= len(x) else 1 + len(x) // 2
    neighbors = _nearest(x, k, random_state)
    weights = _directed_weights(neighbors.distances.astype(np.float32), k)
    # a distance of 0 between different cells remains an entry
    distances = _matrix(neighbors.distances, neighbors.indices)
    directed = _matrix(weights, neighbors.indices)
    directed.eliminate_zeros()
    reverse = directed.T.tocsr()
    connectivities = sparse.csr_matrix(directed + reverse - directed.multiply(reverse))
    connectivities.eliminate_zeros()
    return FuzzyGraph(distances, connectivities, k)


def _nearest(x: NDArray[np.float32], k: int, random_state: int) -> Neighbors:
    """Return the k - 1 nearest other cells of each cell."""
    if len(x) > _EXACT_UP_TO:
        return knn(x, k - 1, method="approximate", random_state=random_state)
    # the search of scanpy, so that ties are resolved as by scanpy
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(x)
    return Neighbors(distances, indices).without_self()


def _directed_weights(distances: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the weight of each neighbor (n, k - 1) for the sorted distances (n, k - 1)."""
    positive = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest = np.where(np.isfinite(positive), positive, 0).astype(np.float32)
    excess = np.maximum(distances - nearest[:, None], 0)
    bandwidth = _bandwidths(excess, np.log2(k))
    mean = np.where(nearest > 0, distances.sum(axis=1), distances.sum() / len(distances)) / k
    bandwidth = np.maximum(bandwidth, _SMALLEST_BANDWIDTH * mean).astype(np.float32)
    ratio = np.divide(excess, bandwidth[:, None], out=np.zeros_like(excess), where=excess > 0)
    weights: NDArray[np.float32] = np.exp(-ratio)
    return weights


def _bandwidths(excess: NDArray[np.float32], target: float) -> NDArray[np.float64]:
    """Return sigma with sum_j exp(-excess_ij / sigma_i) = target for each cell, by bisection: (n,)."""
    n = len(excess)
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    active = np.arange(n)
    for _ in range(_N_STEPS):
        total = np.exp(-excess[active] / sigma[active, None]).sum(axis=1)
        far = np.abs(total - target) >= _TOLERANCE
        active, above = active[far], total[far] > target
        if not len(active):
            break
        high[active] = np.where(above, sigma[active], high[active])
        low[active] = np.where(above, low[active], sigma[active])
        bounded = np.isfinite(high[active])
        middle = np.where(bounded, (low[active] + np.where(bounded, high[active], 0)) / 2, 2 * sigma[active])
        sigma[active] = middle
    return sigma


def _matrix(values: NDArray[np.float32], indices: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return the (n, n) matrix of one value for each neighbor."""
    n, k = indices.shape
    starts = np.arange(0, n * k + 1, k)
    return sparse.csr_matrix((values.ravel(), indices.astype(np.int32).ravel(), starts), shape=(n, n))
