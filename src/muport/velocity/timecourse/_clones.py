"""Clones in the coupling of two days: cells are transported as the clones of their neighborhood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clonal_affinity"]

_NEIGHBORS = 15  # cells of a day over which the descent of clones is averaged


def clonal_affinity(
    x: NDArray[np.float32], y: NDArray[np.float32], source: sp.csr_array, target: sp.csr_array
) -> NDArray[np.float32] | None:
    """(n, m) affinity in 0..1 of the cells of two days, by the clones of their neighborhoods; None if no clone meets.

    With K_ij = 1 / (number of cells of the later day with a clone of i) for pairs of one clone, and A, B the means over
    the 15 nearest cells of a day, it is A K B', with each row divided by its largest entry. A cell whose clones are on
    both days has the affinities of its own row of K B' added: its own clone counts as much as its neighborhood.
    Rows in whose neighborhood no clone meets are 1: they are not changed.

    - `source`, `target`: (n, C) and (m, C) membership in clones.

    Examples
    --------
    >>> clones = sp.csr_array(np.eye(2).repeat(20, axis=0))
    >>> x = np.array([[0.0], [9.0]], np.float32).repeat(20, axis=0)
    >>> clonal_affinity(x, x, clones, clones)[0, [0, 20]].tolist()
    [1.0, 0.0]
    """
    shared = (source @ target.T).tocsr()
    shared.data[:] = 1
    total = np.asarray(shared.sum(axis=1)).ravel()
    if not total.any():
        return None
    descent = sp.csr_array(sp.diags_array(1 / total.clip(min=1)) @ shared)
    smooth = np.asarray((descent @ _mean_over_neighbors(y).T).todense(), np.float32)
    affinity = _mean_over_neighbors(x) @ smooth
    affinity[total > 0] = (affinity + smooth)[total > 0]
    largest = affinity.max(axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.where(largest > 0, affinity / np.where(largest > 0, largest, 1), 1)
    return scaled.astype(np.float32)


def _mean_over_neighbors(x: NDArray[np.float32]) -> sp.csr_array:
    """(n, n) sparse means over the nearest cells, each cell among its own."""
    n, k = len(x), min(_NEIGHBORS, len(x))
    neighbors = knn(x, k, query=x).indices
    rows = np.repeat(np.arange(n), k)
    return sp.csr_array((np.full(n * k, 1 / k, np.float32), (rows, neighbors.ravel())), shape=(n, n))
