"""The fraction of the variance within clusters that a batch variable explains beyond the others, and beyond chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["explain_variance"]


def explain_variance(
    x: NDArray[np.float32], cluster: NDArray[np.int64], variables: Sequence[NDArray[np.float64]]
) -> list[float]:
    """Return the fraction (0..1) of the variance within clusters that each variable explains and the others do not.

    It is the sum over the clusters of the squares that a variable adds to a linear model of the others, minus what it
    would add by chance, over the sum of the squares within the clusters: a partial omega-squared with the total in its
    denominator. So the composition of the clusters plays no role, and a variable without an effect has 0.

    - `x`: (n, d) cells.
    - `cluster`: (n,) codes.
    - `variables`: (n, m) columns of each variable: indicators of its levels, or a covariate.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, level = rng.normal(size=(500, 2)), rng.integers(0, 2, 500)
    >>> x[:, 0] += 2 * level
    >>> [round(r2, 1) for r2 in explain_variance(x, np.zeros(500, int), [np.eye(2)[level], rng.normal(size=(500, 1))])]
    [0.3, 0.0]
    """
    added, total = np.zeros(len(variables)), 0.0
    order = np.argsort(cluster, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(cluster))[:-1]):
        if len(rows) < 2:
            continue
        y = x[rows].astype(np.float64)
        y -= y.mean(axis=0)
        total += float(np.square(y).sum())
        parts = [_center_columns(columns[rows]) for columns in variables]
        rest, rank = _fit(y, np.concatenate(parts, axis=1))
        n_free = len(rows) - 1 - rank
        if n_free < 1:
            continue
        for v in range(len(variables)):
            others = [part for u, part in enumerate(parts) if u != v] or [np.zeros((len(rows), 1))]
            rest_without, rank_without = _fit(y, np.concatenate(others, axis=1))
            added[v] += rest_without - rest - (rank - rank_without) * rest / n_free
    return [float(max(0.0, value / total)) if total > 0 else 0.0 for value in added]


def _center_columns(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns (n, m) less their means, without those that are constant: most levels are absent from a cluster."""
    varied = columns[:, np.ptp(columns, axis=0) > 0]
    return varied - varied.mean(axis=0) if varied.shape[1] else np.zeros((len(columns), 1))


def _fit(y: NDArray[np.float64], columns: NDArray[np.float64]) -> tuple[float, int]:
    """Sum of squares of `y` (n, d) that `columns` (n, m) do not explain, and their rank."""
    values, vectors = np.linalg.eigh(columns.T @ columns)
    used = values > 1e-9 * max(float(values[-1]), 1e-300)
    basis = columns @ (vectors[:, used] / np.sqrt(values[used]))
    return float(np.square(y).sum() - np.square(basis.T @ y).sum()), int(used.sum())
