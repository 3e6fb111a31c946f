"""Differential abundance over neighborhoods of cells, with samples as replicates.

Symbols: N neighborhoods, P samples, k neighbors, C conditions, q columns of the design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import xlogy
from scipy.stats import f as fisher

from muport.gmm.interpretation._abundance import design_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from muport.gmm.interpretation._abundance import Covariate

__all__ = ["count_neighbors", "neighborhood_effects", "weighted_fdr"]

_BLOCK = 2**20  # counts that are computed or fitted at once
_MAX_STEPS = 25
_MIN_STATES = 4  # of fewer, the median may be that of a changed one
_TOLERANCE = 1e-6  # change of a linear predictor at which the steps end
_MAX_LOG = 20.0  # largest absolute linear predictor, against overflow where a condition has no cell
#: Precision of the prior of effects around 0: a standard deviation of 5 in natural logarithms, so that the effect of a
#: neighborhood without cells of one condition is finite.
_PRECISION = 0.04


def count_neighbors(
    neighbors: NDArray[np.int64], sample: NDArray[np.int64], n_samples: int, weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Count the cells (N, P) of each sample in neighborhoods, weighted if cells have weights.

    - `neighbors`: (N, k) cells in each neighborhood.
    - `sample`, `weight`: (n,) sample code and weight of each cell.

    Examples
    --------
    >>> count_neighbors(np.array([[0, 1], [1, 2]]), np.array([0, 0, 1]), 2).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    out = np.empty((len(neighbors), n_samples))
    step = max(1, _BLOCK // max(neighbors.shape[1], n_samples))
    for low in range(0, len(neighbors), step):
        part = neighbors[low : low + step]
        key = np.arange(len(part))[:, None] * n_samples + sample[part]
        mass = None if weight is None else weight[part].ravel()
        out[low : low + step] = np.bincount(key.ravel(), mass, len(part) * n_samples).reshape(len(part), n_samples)
    return out


def neighborhood_effects(
    counts: NDArray[np.float64],
    total: NDArray[np.float64],
    condition: NDArray[np.int64],
    conditions: Sequence[str],
    cells: Sequence[str],
    covariates: Mapping[str, Covariate],
    radius: NDArray[np.float64],
    states: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    r"""Test which neighborhoods hold more or fewer cells of a condition than of the first one.

    The counts of a neighborhood have a quasi-Poisson model, :math:`\log \mathrm E\, y_i = \log n_i + x_i' \beta`, with
    a dispersion of its own (at least 1, from Pearson's residuals), so that one odd sample makes a neighborhood
    uncertain and not different. The test is the F test of the deviance. A population that grows lowers the shares of
    all others alike: the hypothesis is that the effect equals the median effect, as for types. A median over cells
    would follow a population that has grown to half of them, so each state counts once. Neighborhoods overlap,
    and there are more of them where cells are dense; the false discovery rate is weighted by 1 / `radius`, as in Milo
    (Dann et al. 2022).

    - `counts`: (N, P) cells of each sample in each neighborhood.
    - `total`: (P,) cells of each sample.
    - `condition`: (P,) codes.
    - `conditions`, `cells`: Names of the conditions, and of the cells at the centers.
    - `covariates`: Name -> covariate.
    - `radius`: (N,) distance of the farthest neighbor.
    - `states`: (N, M) probabilities of the states of the cells at the centers; with fewer than four, and by default,
      the median is that over cells.

    Returns one row per neighborhood and condition but the first. ``effect``: natural logarithm of the fold change
    against most other neighborhoods. Raises ValueError as :func:`abundance_effects`.
    """
    present = np.unique(condition)
    names = [conditions[code] for code in present]
    contrasts, design = design_columns(condition, names, covariates)
    n_contrasts, freedom = contrasts.shape[1], len(design) - int(np.linalg.matrix_rank(design))
    offset = np.log(total)
    coefficient, mean = _fit(counts, design, offset, n_contrasts)
    dispersion = np.maximum(((counts - mean) ** 2 / mean).sum(axis=1) / freedom, 1.0)
    center = _median_effect(coefficient[:, :n_contrasts], states)
    deviance = _deviance(counts, mean)
    share = counts / total
    tables = []
    for c in range(n_contrasts):
        rest = np.delete(design, c, axis=1)
        _, null = _fit(counts, rest, offset + center[c] * contrasts[:, c], n_contrasts - 1)
        statistic = np.maximum(_deviance(counts, null) - deviance, 0) / dispersion
        columns = {
            "condition": names[1 + c],
            "reference": names[0],
            "mean_share": share[:, condition == present[1 + c]].mean(axis=1),
            "reference_share": share[:, condition == present[0]].mean(axis=1),
            "effect": coefficient[:, c] - center[c],
            "dispersion": dispersion,
            "F": statistic,
            "p": fisher.sf(statistic, 1, freedom),
        }
        tables.append(pd.DataFrame(columns, index=pd.Index(cells, name="item")))
    table = pd.concat(tables)
    # cells at one place have a radius of 0
    weight = 1 / np.maximum(radius, 1e-6 * max(float(radius.max()), 1e-300))
    table["q"] = weighted_fdr(table["p"].to_numpy(), np.tile(weight, n_contrasts))
    return table


def _median_effect(effects: NDArray[np.float64], states: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Median (c,) over states of their mean effects (N, c), or over cells."""
    if states is None or states.shape[1] < _MIN_STATES:
        return np.asarray(np.median(effects, axis=0))
    mass = states.sum(axis=0)
    kept = mass > 0
    return np.asarray(np.median(states[:, kept].T @ effects / mass[kept, None], axis=0))


def weighted_fdr(p: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute q-values of Benjamini and Hochberg for tests that count by their weights (Benjamini and Hochberg 1997).

    Examples
    --------
    >>> weighted_fdr(np.array([0.01, 0.04]), np.array([1.0, 3.0])).tolist()
    [0.04, 0.04]
    """
    order = np.argsort(p, kind="stable")
    raw = p[order] * weight.sum() / np.cumsum(weight[order])
    q = np.empty_like(p)
    q[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1)
    return q


def _fit(
    counts: NDArray[np.float64], design: NDArray[np.float64], offset: NDArray[np.float64], n_contrasts: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (N, q) and means (N, P) of Poisson regressions with a log link, by iterated least squares."""
    n, q = len(counts), design.shape[1]
    coefficient, mean = np.empty((n, q)), np.empty_like(counts)
    step = max(1, _BLOCK // (design.size * q))
    for low in range(0, n, step):
        rows = slice(low, low + step)
        coefficient[rows], mean[rows] = _fit_block(counts[rows], design, offset, n_contrasts)
    return coefficient, mean


def _fit_block(
    y: NDArray[np.float64], design: NDArray[np.float64], offset: NDArray[np.float64], n_contrasts: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    q = design.shape[1]
    penalty = np.diag(np.where(np.arange(q) < n_contrasts, _PRECISION, 1e-6))
    products = design[:, :, None] * design[:, None]
    rate = (y.sum(axis=1, keepdims=True) + 0.5) / np.exp(offset).sum()
    eta = np.log((y + rate * np.exp(offset)) / 2) - offset
    coefficient = np.zeros((len(y), q))
    for _ in range(_MAX_STEPS):
        mean = np.exp(eta + offset)
        working = eta + (y - mean) / mean
        matrix = np.einsum("np,pij->nij", mean, products) + penalty
        right = np.einsum("np,pi->ni", mean * working, design)
        coefficient = np.linalg.solve(matrix, right[..., None])[..., 0]
        before, eta = eta, np.clip(coefficient @ design.T, -_MAX_LOG, _MAX_LOG)
        if np.abs(eta - before).max() <= _TOLERANCE:
            break
    return coefficient, np.exp(eta + offset)


def _deviance(y: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviance (N,) of Poisson counts."""
    total: NDArray[np.float64] = 2 * (xlogy(y, y / mean) - (y - mean)).sum(axis=1)
    return total
