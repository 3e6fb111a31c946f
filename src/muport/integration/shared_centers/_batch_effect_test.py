"""Is there a batch effect? A permutation test on the groups among the neighbors of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["measure_batch_effect"]

_CELLS = 10_000  # among which neighbors are searched
_QUERIES = 1_000  # cells whose neighbors are counted
_NEIGHBORS = 30
_PERMUTATIONS = 20
_SIGNIFICANT = 3.0  # standard deviations above the mean under permutation that still count as chance


def measure_batch_effect(x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int, seed: int) -> float:
    """Measure the evidence of a batch effect: 0 if neighbors mix as if by chance, 1 if they are far from it.

    The statistic is Pearson's chi-squared of the groups among the nearest neighbors of a cell, averaged over cells. Its
    mean m and standard deviation s under chance come from permuted group labels on the same neighbor graph. The
    evidence is (observed - m - 3 s) / sqrt(m), clipped to 0..1; m is about the degrees of freedom, B - 1. So the
    identity competes with every other map, as in Eq. 20, and is selected on data without a batch effect.

    - `x`: (N, d) cells.
    - `group`: (N,) group of each cell.

    Returns the evidence; 0 with fewer than two groups, or with too few cells for a test.
    """
    rng = np.random.default_rng(seed)
    if len(x) > _CELLS:
        sample = np.sort(rng.choice(len(x), _CELLS, replace=False))
        x, group = x[sample], group[sample]
    k = min(_NEIGHBORS, (len(x) - 1) // 2)
    group_sizes = np.bincount(group, minlength=n_groups)
    if k < 1 or (group_sizes > 0).sum() < 2:
        return 0.0
    queries = np.sort(rng.choice(len(x), min(_QUERIES, len(x)), replace=False))
    # A query is its own nearest neighbor, which is no sign of mixing, so it is removed.
    indices = knn(x, k + 1, query=x[queries], method="exact").indices
    is_other = indices != queries[:, None]
    is_other[is_other.all(axis=1), -1] = False
    neighbors = indices[is_other].reshape(len(queries), k)
    expected = k * group_sizes / len(x)
    observed = _chi_squared(group[neighbors], expected)
    permuted = np.array([_chi_squared(rng.permutation(group)[neighbors], expected) for _ in range(_PERMUTATIONS)])
    mean = float(permuted.mean())
    return float(np.clip((observed - mean - _SIGNIFICANT * permuted.std()) / np.sqrt(max(mean, 1e-12)), 0, 1))


def _chi_squared(neighbors: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Mean over rows of sum_b (observed_b - expected_b)^2 / expected_b."""
    n, n_groups = len(neighbors), len(expected)
    key = np.arange(n)[:, None] * n_groups + neighbors
    observed = np.bincount(key.ravel(), minlength=n * n_groups).reshape(n, n_groups)
    present = expected > 0
    return float((np.square(observed[:, present] - expected[present]) / expected[present]).sum(axis=1).mean())
