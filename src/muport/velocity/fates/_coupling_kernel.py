"""The transition matrix of a Markov chain between the cells of measured days, by the plans between the days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from muport.neighbors import knn
from muport.velocity.fates._transition_matrix import self_tuned_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["coupling_kernel"]

_WITHIN_DAY = 0.5  # fraction of the moves that lead to cells of the same day
_MAX_DESCENDANTS = 64  # of a cell in the chain: its rows stay as short however many cells a day has


def coupling_kernel(
    x: NDArray[np.float32], members: Sequence[NDArray[np.int64]], plans: Sequence[sp.csr_matrix], k: int
) -> sp.csr_matrix:
    """(n, n) transition matrix: cells move to their descendants on the next day, and to their neighbors of their day.

    Each kind has half of the moves. Cells of the last day, and cells without descendants, move within their day only.
    Of more than 64 descendants of a cell, a systematic sample represents all: in the order of their mass, one at each
    64th of it.

    - `x`: (n, d) cells.
    - `members`: Rows of the cells of each day, at least two of each.
    - `plans`: Transport plan of each day but the last, from its cells to those of the next day.
    - `k`: Number of neighbors within the day.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [0.0], [1.0]], np.float32)
    >>> plan = sp.csr_matrix(np.eye(2) / 2)
    >>> coupling_kernel(x, [np.array([0, 1]), np.array([2, 3])], [plan], k=1).toarray().tolist()
    [[0.0, 0.5, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]]
    """
    n = len(x)
    within = _normalize(_place([(rows, rows, _neighbor_graph(x[rows], k)) for rows in members], n))
    thinned = [_thin(plan) for plan in plans]
    descent = _normalize(_place(list(zip(members[:-1], members[1:], thinned, strict=True)), n))
    onward = np.where(np.diff(descent.indptr) > 0, 1 - _WITHIN_DAY, 0.0)
    chain = sp.csr_matrix(sp.diags(onward) @ descent + sp.diags(1 - onward) @ within)
    chain.sort_indices()
    return chain


def _neighbor_graph(x: NDArray[np.float32], k: int) -> sp.csr_matrix:
    """Symmetric weights (n, n) of the k nearest cells."""
    near = knn(x, min(k, len(x) - 1))
    rows = np.repeat(np.arange(len(x)), near.indices.shape[1])
    weights = self_tuned_weights(near.distances).ravel()
    graph = sp.csr_matrix((weights, (rows, near.indices.ravel())), shape=(len(x), len(x)))
    return sp.csr_matrix(graph + graph.T)


def _thin(plan: sp.csr_matrix) -> sp.csr_matrix:
    """A plan with at most `_MAX_DESCENDANTS` entries in each row; rows keep their sum."""
    points = (np.arange(_MAX_DESCENDANTS) + 0.5) / _MAX_DESCENDANTS
    thinned = sp.csr_matrix(plan, dtype=np.float64, copy=True)
    for row in np.flatnonzero(np.diff(plan.indptr) > _MAX_DESCENDANTS):
        mass = thinned.data[plan.indptr[row] : plan.indptr[row + 1]]
        order = np.argsort(-mass, kind="stable")
        passed = np.cumsum(mass[order])
        drawn = np.bincount(np.searchsorted(passed, points * passed[-1]), minlength=len(mass))
        mass[order] = drawn * (passed[-1] / _MAX_DESCENDANTS)
    thinned.eliminate_zeros()
    return thinned


def _place(blocks: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], sp.csr_matrix]], n: int) -> sp.csr_matrix:
    """(n, n) matrix of blocks, each with its rows and columns in the whole."""
    entries = []
    for rows, columns, block in blocks:
        pairs = block.tocoo()
        entries.append((rows[pairs.row], columns[pairs.col], pairs.data))
    row, column, value = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return sp.csr_matrix((value.astype(np.float64), (row, column)), shape=(n, n))


def _normalize(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Rows of sum 1; rows without mass are empty."""
    total = np.asarray(matrix.sum(axis=1)).ravel()
    scaled = sp.csr_matrix(sp.diags(np.divide(1, total, out=np.zeros_like(total), where=total > 0)) @ matrix)
    scaled.eliminate_zeros()
    return scaled
