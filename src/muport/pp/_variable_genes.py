"""Highly variable genes and scaling by their standard deviations, as in scanpy, without its compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from muport.data.reading._count_matrix import iterate_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Number of bins of the mean expression: the default of scanpy.
_N_BINS = 20


def highly_variable_genes(x: Any, n_top_genes: int) -> dict[str, NDArray[Any]]:
    """Return the columns of ``var`` that ``scanpy.pp.highly_variable_genes`` writes with its default flavor.

    The dispersion (variance / mean) of a gene is standardized within a bin of genes of similar mean (Satija et al.
    2015). scanpy computes the same, but compiles its code for about five seconds in each process.

    Parameters
    ----------
    x
        (n, g) log values, sparse or dense.
    n_top_genes
        Number of genes to select, at least 1; more if there are ties, fewer if fewer genes vary.

    Returns
    -------
    ``highly_variable``, ``means``, ``dispersions`` and ``dispersions_norm``, each (g,).

    Raises
    ------
    ValueError
        If no gene varies between cells.
    """
    mean, variance = mean_and_variance(x, logarithms=True)
    dispersion = np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0)
    log_mean = np.log1p(np.where(mean > 0, mean, 1e-12))
    log_dispersion = np.log(dispersion, out=np.full_like(dispersion, np.nan), where=dispersion > 0)
    score = _standardize_in_bins(log_dispersion, log_mean)
    ranked = np.sort(score[np.isfinite(score)])
    if not len(ranked):
        raise ValueError("no gene varies between cells, so that none can be selected.")
    selected = np.nan_to_num(score, nan=-np.inf) >= ranked[-min(n_top_genes, len(ranked))]
    return {
        "highly_variable": selected,
        "means": log_mean,
        "dispersions": log_dispersion,
        "dispersions_norm": score.astype(np.float32),
    }


def _standardize_in_bins(dispersion: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the dispersions less the mean of their bin, over its standard deviation; 1 for a gene alone in its bin."""
    bins = pd.cut(pd.Series(mean), _N_BINS, labels=False)
    groups = pd.Series(dispersion).groupby(bins)
    average, deviation = groups.transform("mean").to_numpy(), groups.transform("std").to_numpy()
    is_alone = np.isnan(deviation)
    standardized: NDArray[np.float64] = np.where(is_alone, dispersion, dispersion - average) / np.where(
        is_alone, average, deviation
    )
    return standardized


def mean_and_variance(x: Any, *, logarithms: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the unbiased variance of the columns of `x`, or of exp(x) - 1 for `logarithms`."""
    total, square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for _, block in iterate_blocks(x):
        values = np.expm1(block.data) if logarithms else block.data
        total += np.bincount(block.indices, values, x.shape[1])
        square += np.bincount(block.indices, np.square(values, dtype=np.float64), x.shape[1])
    n = x.shape[0]
    mean = total / n
    return mean, np.maximum(square / n - mean**2, 0) * (n / max(n - 1, 1))


def scale_columns(x: Any, largest: float) -> tuple[Any, NDArray[np.float64]]:
    """Return the columns over their standard deviations, at most `largest`, and these, as ``scanpy.pp.scale``.

    A constant column is divided by 1. Means are not subtracted, so that a sparse matrix stays sparse.
    """
    std = np.sqrt(mean_and_variance(x)[1])
    std[std == 0] = 1
    if not sparse.issparse(x):
        return np.minimum(x / std.astype(x.dtype), largest), std
    scaled = sparse.csr_matrix(x, copy=True)
    scaled.data = np.minimum(scaled.data / std[scaled.indices], largest).astype(x.dtype)
    return scaled, std
