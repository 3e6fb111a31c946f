"""Weight of each axis in distances: how much of it the neighbors of cells measured in all modalities predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order
from muport.integration.spaces._axis_weights import scale_weights
from muport.integration.spaces._modality_weights import (
    FOLDS,
    NEIGHBORS,
    average_neighbors,
    center_batches,
    sample_cells,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

    #: Modality -> (n, d_m) values of the same cells.
    type Coordinates64 = dict[str, NDArray[np.float64]]

__all__ = ["DistanceWeights", "fit_distance_weights"]

_ROUNDS = 2  # neighbors are first those of unweighted axes, then of weighted ones
_STANDARD_ERRORS = 2.0  # of the structure: what is not above them is taken for chance
_PRIOR_CELLS = 10.0  # cells that equal weights of all axes count for
_MIN_VARIANCE = 1e-4  # of an axis, relative to the largest: one with less keeps a small variance


@dataclass(frozen=True, eq=False)
class DistanceWeights:
    """Weights of axes and modalities in distances.

    - `axes`: Modality -> (d_m,) factors of its coordinates, which are weighted by `axis_weights` before.
    - `modalities`: (M,) factors of the scores of the modalities.
    """

    axes: dict[str, NDArray[np.float32]]
    modalities: NDArray[np.float64]


def fit_distance_weights(
    x: Coordinates,
    axis_weights: dict[str, NDArray[np.float32]],
    cell_index: CellIndex,
    batch: NDArray[np.int64],
    seed: int,
) -> DistanceWeights:
    r"""Compute the factors of axes and modalities by which distances differ from predictions.

    The structure of coordinate j is the part of its variance that the neighbors of the cells predict,

    .. math:: \rho_j = \frac{\langle y_{ij}\, p_{ij} \rangle_i}{\langle y_{ij}^2 \rangle_i},

    where y is centered within batches and p is the mean over the neighbors of a cell in its batch, both relative to the
    mean of the other cells of the batch. The neighbors are those under all coordinates of all modalities but one
    fifth, to which j belongs. So :math:`\rho_j` is 0 on average for noise, however many coordinates have it. The
    standard error s of noise is known, and :math:`\rho_j` becomes :math:`\rho_j \max(0, 1 - 4 s^2 / \rho_j^2)`. It is
    found twice, the second time with the neighbors under coordinates of the variance :math:`\rho_j`.

    If a part f of the cells is measured in all modalities, a part :math:`f^2` of the distances compares measurements
    only; the others compare predictions as well, which are better the more modalities agree about an axis. The squared
    weights are therefore :math:`f^2` of these and :math:`1 - f^2` of the squared `axis_weights`. With D the structure
    summed over uncorrelated axes, the factor of a modality is :math:`D^{f^2 / 2}`, as weights are squares of scores: to
    predict a part of many axes says more than to predict the same part of few.

    - `x`: Modality -> (n_m, d_m) standardized coordinates.
    - `axis_weights`: Modality -> (d_m,) factors that the predictions use.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells.
    - `batch`: (n_cells,) codes.
    """
    rows = _find_complete_cells(x, cell_index, len(batch))
    first = next(iter(x))
    n_complete = len(rows[first])
    kept = sample_cells(batch[cell_index[first][rows[first]]], seed)
    if not len(kept):
        return DistanceWeights({m: np.ones_like(w) for m, w in axis_weights.items()}, np.ones(len(x)))
    rows = {m: rows_of_modality[kept] for m, rows_of_modality in rows.items()}
    structure, dimensions = _measure_structure(x, rows, batch[cell_index[first][rows[first]]])
    complete = (n_complete / len(batch)) ** 2
    factors = {}
    for m, weights in axis_weights.items():
        measured = scale_weights(np.sqrt(structure[m] / _bound_variance(x[m])), x[m])
        squared = complete * np.square(measured, dtype=np.float64) + (1 - complete) * np.square(weights)
        factors[m] = scale_weights(np.sqrt(squared), x[m]) / weights
    return DistanceWeights(factors, np.array([dimensions[m] for m in x]) ** (complete / 2))


def _find_complete_cells(x: Coordinates, cell_index: CellIndex, n_cells: int) -> dict[str, NDArray[np.int64]]:
    """Find the rows of the cells that are in all modalities, in an order that does not depend on that of the cells."""
    row_of_cell = {m: np.full(n_cells, -1) for m in x}
    for m, row in row_of_cell.items():
        row[cell_index[m]] = np.arange(len(cell_index[m]))
    cells = np.flatnonzero(np.min(list(row_of_cell.values()), axis=0) >= 0)
    order = canonical_order(np.concatenate([x[m][row_of_cell[m][cells]] for m in sorted(x)], axis=1))
    return {m: row[cells[order]] for m, row in row_of_cell.items()}


def _measure_structure(
    x: Coordinates, rows: dict[str, NDArray[np.int64]], batch: NDArray[np.int64]
) -> tuple[Coordinates64, dict[str, float]]:
    """Measure the structure (d_m,) of the axes of each modality, and its sum over uncorrelated axes."""
    y = {m: center_batches(x[m][rows[m]], batch) for m in sorted(x)}
    weights = {m: np.ones(values.shape[1]) for m, values in y.items()}
    for _ in range(_ROUNDS):
        predicted = _predict_axes(y, weights, batch)
        parts = {m: _remove_chance(_explain_axes(y[m], predicted[m]), len(batch)) for m in y}
        structure = {m: _shrink(part, len(batch)) for m, part in parts.items()}
        weights = {
            m: scale_weights(np.sqrt(part / _bound_variance(y[m])), y[m]).astype(np.float64)
            for m, part in structure.items()
        }
    return structure, {m: _shrink(_count_dimensions(y[m], predicted[m]), len(batch)) for m in y}


def _predict_axes(y: Coordinates64, weights: Coordinates64, batch: NDArray[np.int64]) -> Coordinates64:
    """Predict each fifth of the axes of all modalities from the neighbors under the other, weighted, axes."""
    fold = np.concatenate([np.arange(values.shape[1]) % FOLDS for values in y.values()])
    values = np.concatenate(list(y.values()), axis=1)
    weighted = values * np.concatenate(list(weights.values()))
    predicted = np.zeros_like(values)
    for f in range(fold.max(initial=-1) + 1):
        predicted[:, fold == f] = average_neighbors(weighted[:, fold != f], values[:, fold == f], batch)
    # relative to the mean of the other cells: without this, noise has a negative part in small batches
    n_others = (np.bincount(batch)[batch] - 1)[:, None]
    predicted = (predicted * n_others + values) / (n_others + 1)
    bounds = np.cumsum([v.shape[1] for v in y.values()])[:-1]
    return dict(zip(y, np.split(predicted, bounds, axis=1), strict=True))


def _explain_axes(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute which part (d,) of the variance of each coordinate is predicted."""
    total = np.maximum(np.square(y).sum(axis=0), np.finfo(np.float32).tiny)
    part: NDArray[np.float64] = (y * predicted).sum(axis=0) / total
    return part


def _remove_chance(structure: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """Shrink the structure (d,) measured on n cells by what noise would have by chance."""
    chance = _STANDARD_ERRORS / np.sqrt(n_cells * NEIGHBORS)
    positive = np.clip(structure, np.finfo(np.float32).tiny, 1)
    kept: NDArray[np.float64] = positive * np.maximum(0, 1 - np.square(np.minimum(chance / positive, 1)))
    return kept


def _shrink[T: (float, NDArray[np.float64])](structure: T, n_cells: int) -> T:
    """Shrink toward 1, that is, toward equal weights, where few cells were compared."""
    return (n_cells * structure + _PRIOR_CELLS) / (n_cells + _PRIOR_CELLS)


def _count_dimensions(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Sum the predicted parts of the variance over uncorrelated axes: correlated axes do not count twice."""
    unit = np.sqrt(np.maximum(np.square(y).mean(axis=0), np.finfo(np.float32).tiny))
    covariance, cross = (y / unit).T @ (y / unit), (y / unit).T @ (predicted / unit)
    total = np.trace(np.linalg.pinv(covariance, rcond=_MIN_VARIANCE, hermitian=True) @ cross)
    return max(float(total), 0.0)


def _bound_variance(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the variance (d,) of coordinates, bounded from below."""
    variance: NDArray[np.float64] = x.var(axis=0, dtype=np.float64)
    least = max(_MIN_VARIANCE * float(variance.max(initial=0)), float(np.finfo(np.float32).tiny))
    return np.maximum(variance, least)
