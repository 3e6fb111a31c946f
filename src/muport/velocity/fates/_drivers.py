"""Driver features: correlation of features with fates, and the velocity in the space of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy import stats

from muport._checks import check_option

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FeatureCorrelation", "correlate_features", "feature_velocity"]

_BLOCK = 2**24  # entries of the features held as dense float64 at once
_MIN_VARIANCE = 1e-12  # relative to the mean square: a column of smaller variance is constant


@dataclass(frozen=True, eq=False)
class FeatureCorrelation:
    """Correlation of g features with f fates.

    - `correlation`: (g, f) in -1..1; 0 where the feature or the fate is constant.
    - `p_value`: (g, f) two-sided, for no correlation; 1 where one is constant. Cells are treated as independent
      samples. Cells that are neighbors on a trajectory are not independent, so use the p-value only to rank features.
    - `q_value`: (g, f) false discovery rate over the features of a fate (Benjamini and Hochberg, 1995).
    """

    correlation: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]


def correlate_features(
    features: Any, fates: Any, *, method: Literal["pearson", "spearman"] = "pearson"
) -> FeatureCorrelation:
    """Correlate features with fate probabilities over cells.

    The p-values use Fisher's transformation: atanh(r) sqrt(n - 3) is standard normal without correlation. For ranks the
    variance is 1.06 / (n - 3) instead (Fieller, Hartley and Pearson, 1957).

    - `features`: (n, g) dense or sparse, e.g. log-normalized expression. A sparse matrix is made dense in blocks at
      most.
    - `fates`: (n, f) e.g. of :func:`fate_probabilities`; leave out cells that reach no terminal state.
    - `method`: ``"pearson"``, or ``"spearman"``: correlation of the ranks, ties at their mean.

    Returns correlation, p and q, each (g, f). Raises ValueError for fewer than four cells, shapes that do not fit, NaN
    or infinite entries, or an unknown method.

    Examples
    --------
    >>> fate = np.linspace(0, 1, 9)[:, None]
    >>> correlate_features(np.hstack([fate, 1 - fate, fate * 0]), fate).correlation.ravel().round(3).tolist()
    [1.0, -1.0, 0.0]
    """
    check_option("method", method, ["pearson", "spearman"])
    matrix, target = _check_matrix(features, "features"), _check_matrix(fates, "fates", dense=True).astype(np.float64)
    n = matrix.shape[0]
    if len(target) != n:
        raise ValueError(f"fates has {len(target)} cells, but features has {n}.")
    if n < 4:
        raise ValueError(f"{n} cells are too few for a correlation: at least 4 are needed.")
    ranked = method == "spearman"
    unit = _standardize_columns(stats.rankdata(target, axis=0) if ranked else target)
    r = np.empty((matrix.shape[1], unit.shape[1]))
    width = max(1, _BLOCK // n)
    for first in range(0, len(r), width):
        block = matrix[:, first : first + width]
        if sp.issparse(block) and not ranked:
            r[first : first + width] = _correlate_sparse(block, unit)
        else:
            dense = np.asarray(block.toarray() if sp.issparse(block) else block, np.float64)
            r[first : first + width] = _standardize_columns(stats.rankdata(dense, axis=0) if ranked else dense).T @ unit
    r = np.clip(r, -1, 1)
    with np.errstate(divide="ignore"):
        z = np.arctanh(r) * np.sqrt((n - 3) / (1.06 if ranked else 1))
    p = 2 * stats.norm.sf(np.abs(z))
    return FeatureCorrelation(r, p, stats.false_discovery_control(p, axis=0) if len(p) else p)


def _check_matrix(values: Any, name: str, *, dense: bool = False) -> Any:
    """`values` with two axes and finite entries: an array, or CSC where sparse, to select blocks of columns fast."""
    if sp.issparse(values) and not dense:
        matrix = sp.csc_matrix(values)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        entries = matrix.data
    else:
        matrix = entries = np.asarray(values.toarray() if sp.issparse(values) else values)
    if matrix.ndim != 2:
        raise ValueError(f"{name} has shape {matrix.shape}: it must have two axes, (cells, columns).")
    if entries.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, not {entries.dtype}.")
    if entries.dtype.kind == "f" and not np.isfinite(entries.sum(dtype=np.float64)):
        n_bad = int((~np.isfinite(entries)).sum())
        raise ValueError(f"{name} has {n_bad} NaN or infinite entries: fill them or leave these columns out.")
    return matrix


def _standardize_columns(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0 and norm 1; 0 where constant."""
    centered = x - x.mean(axis=0)
    scale = _inverse_norm(np.square(centered).sum(axis=0), np.square(x).sum(axis=0))
    standardized: NDArray[np.float64] = centered * scale
    return standardized


def _inverse_norm(centered: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / norm of columns from their sums of squares about the mean and about 0; 0 for constant columns."""
    varies = centered > _MIN_VARIANCE * total
    return np.where(varies, 1 / np.sqrt(np.where(varies, centered, 1)), 0)


def _correlate_sparse(block: Any, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """(columns, f) correlation of sparse columns, which stay sparse, with standardized columns (n, f).

    sum (x - m)^2 is the sum over the stored entries, and m^2 for each entry that is not stored.
    """
    block = block.astype(np.float64)
    n = block.shape[0]
    stored = np.diff(block.indptr)
    column = np.repeat(np.arange(block.shape[1]), stored)
    mean = np.asarray(block.sum(axis=0)).ravel() / n
    centered = np.bincount(column, np.square(block.data - mean[column]), block.shape[1]) + (n - stored) * mean**2
    scale = _inverse_norm(centered, np.bincount(column, np.square(block.data), block.shape[1]))
    r: NDArray[np.float64] = np.asarray(block.T @ unit) * scale[:, None]
    return r


def feature_velocity(velocity: Any, loadings: Any) -> NDArray[np.float32]:
    """Velocity of features: v_feature = v L', for coordinates x = (feature - mean) L.

    - `velocity`: (n, d) in the space of the coordinates.
    - `loadings`: (g, d) of the features, e.g. ``varm["PCs"]``, or some of its rows. Where features were scaled before
      the projection, the result is in scaled units.

    Returns (n, g) float32, in units of the features per unit of time. Raises ValueError for shapes that do not fit, or
    NaN or infinite entries.

    Examples
    --------
    >>> feature_velocity(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])).tolist()
    [[1.0, 1.5, 2.0]]
    """
    arrows, weights = (
        _check_matrix(x, name, dense=True) for x, name in ((velocity, "velocity"), (loadings, "loadings"))
    )
    if arrows.shape[1] != weights.shape[1]:
        raise ValueError(
            f"velocity has {arrows.shape[1]} coordinates, but loadings has {weights.shape[1]}: give one column "
            "of loadings for each, genes as rows."
        )
    result: NDArray[np.float32] = arrows.astype(np.float32) @ weights.astype(np.float32).T
    return result
