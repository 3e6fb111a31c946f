"""Features behind the flow: their correlation with fates, and the velocity in gene space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FeatureCorrelation", "feature_correlation", "to_features"]

_BLOCK = 2**24  # dense entries in float64 at once
_FLAT = 1e-12  # variance, of the mean square, below which a column is constant


@dataclass(frozen=True, eq=False)
class FeatureCorrelation:
    """Correlation of g features with f fates.

    Attributes
    ----------
    correlation
        (g, f) in -1..1; 0 where the feature or the fate is constant.
    p_value
        (g, f) two-sided, of no correlation; 1 where one is constant. Cells are taken as independent draws: neighbours
        on a trajectory are not, so read it as a ranking.
    q_value
        (g, f) false discovery rate over the features of a fate (Benjamini and Hochberg, 1995).
    """

    correlation: NDArray[np.float64]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]


def feature_correlation(
    features: Any, fates: Any, *, method: Literal["pearson", "spearman"] = "pearson"
) -> FeatureCorrelation:
    """Correlate features with fate probabilities over cells.

    p-values by Fisher's transform: atanh(r) sqrt(n - 3) is standard normal under no correlation (for ranks, with the
    variance 1.06 / (n - 3): Fieller, Hartley and Pearson, 1957).

    Parameters
    ----------
    features
        (n, g) dense or sparse, e.g. log-normalised expression. A sparse matrix is never made dense as a whole.
    fates
        (n, f) e.g. of :func:`fate_probabilities`; leave out cells that reach no terminal.
    method
        ``"pearson"``, or ``"spearman"``: of the ranks, ties at their mean.

    Returns
    -------
    FeatureCorrelation
        Correlation, p and q, each (g, f).

    Raises
    ------
    ValueError
        For fewer than four cells, shapes that do not fit, NaN or infinite entries, or an unknown method.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.fates._drivers import feature_correlation
    >>> fate = np.linspace(0, 1, 9)[:, None]
    >>> feature_correlation(np.hstack([fate, 1 - fate, fate * 0]), fate).correlation.ravel().round(3).tolist()
    [1.0, -1.0, 0.0]
    """
    if method not in ("pearson", "spearman"):
        raise ValueError(f"method={method!r} is unknown: use 'pearson' or 'spearman'.")
    matrix, target = _matrix(features, "features"), np.asarray(_matrix(fates, "fates", dense=True), np.float64)
    n = matrix.shape[0]
    if len(target) != n:
        raise ValueError(f"fates has {len(target)} cells, but features has {n}.")
    if n < 4:
        raise ValueError(f"{n} cells are too few for a correlation: at least 4 are needed.")
    ranked = method == "spearman"
    unit = _unit(stats.rankdata(target, axis=0) if ranked else target)
    r = np.empty((matrix.shape[1], unit.shape[1]))
    width = max(1, _BLOCK // n)
    for low in range(0, len(r), width):
        block = matrix[:, low : low + width]
        if sp.issparse(block) and not ranked:
            r[low : low + width] = _sparse(block, unit)
        else:
            dense = np.asarray(block.toarray() if sp.issparse(block) else block, np.float64)
            r[low : low + width] = _unit(stats.rankdata(dense, axis=0) if ranked else dense).T @ unit
    r = np.clip(r, -1, 1)
    with np.errstate(divide="ignore"):
        z = np.arctanh(r) * np.sqrt((n - 3) / (1.06 if ranked else 1))
    p = 2 * stats.norm.sf(np.abs(z))
    return FeatureCorrelation(r, p, stats.false_discovery_control(p, axis=0) if len(p) else p)


def _matrix(values: Any, name: str, *, dense: bool = False) -> Any:
    """`values` with two axes and finite entries: an array, or CSC where sparse, so that blocks of columns are cheap."""
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
        bad = int((~np.isfinite(entries)).sum())
        raise ValueError(f"{name} has {bad} NaN or infinite entries: fill them or leave these columns out.")
    return matrix


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns centred and of norm 1; 0 where constant."""
    centred = x - x.mean(axis=0)
    square, whole = np.square(centred).sum(axis=0), np.square(x).sum(axis=0)
    varies = square > _FLAT * whole
    unit: NDArray[np.float64] = centred * np.where(varies, 1 / np.sqrt(np.where(varies, square, 1)), 0)
    return unit


def _sparse(block: Any, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """(columns, f) correlation of sparse columns with centred columns of norm 1: no centring of the sparse ones.

    sum (x - m)^2 is the stored entries' about m, and m^2 for each entry not stored.
    """
    block = block.astype(np.float64)
    n = block.shape[0]
    stored = np.diff(block.indptr)
    column = np.repeat(np.arange(block.shape[1]), stored)
    mean = np.asarray(block.sum(axis=0)).ravel() / n
    about = np.bincount(column, np.square(block.data - mean[column]), block.shape[1]) + (n - stored) * mean**2
    whole = np.bincount(column, np.square(block.data), block.shape[1])
    varies = about > _FLAT * whole
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, about, 1)), 0)
    r: NDArray[np.float64] = np.asarray(block.T @ unit) * scale[:, None]
    return r


def to_features(velocity: Any, loadings: Any) -> NDArray[np.float32]:
    """Velocity of features: v_gene = v L', for coordinates x = (gene - mean) L.

    Parameters
    ----------
    velocity
        (n, d) in the space of the coordinates.
    loadings
        (g, d) of the features, e.g. ``varm["PCs"]``, or some of its rows. Where genes were scaled before the
        projection, the result is in scaled units.

    Returns
    -------
    numpy.ndarray
        (n, g) float32, in units of the features per unit of time.

    Raises
    ------
    ValueError
        For shapes that do not fit, or NaN or infinite entries.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.fates._drivers import to_features
    >>> to_features(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])).tolist()
    [[1.0, 1.5, 2.0]]
    """
    flow, weights = (_matrix(x, name, dense=True) for x, name in ((velocity, "velocity"), (loadings, "loadings")))
    if flow.shape[1] != weights.shape[1]:
        raise ValueError(
            f"velocity has {flow.shape[1]} coordinates, but loadings has {weights.shape[1]}: give one column "
            "of loadings for each, genes as rows."
        )
    moved: NDArray[np.float32] = flow.astype(np.float32) @ weights.astype(np.float32).T
    return moved
