"""Weight of each axis of a modality: how much of its variance is structure, rather than noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from muport._arrays import canonical_order
from muport.integration.spaces._modality_weights import (
    FOLDS,
    NEIGHBORS,
    average_neighbors,
    center_batches,
    sample_cells,
)
from muport.integration.spaces._ridge_regression import find_paired_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

    #: Modality -> (n, d_m) values of the same cells.
    type Coordinates64 = dict[str, NDArray[np.float64]]

__all__ = ["fit_axis_weights"]

_ROUNDS = 2  # neighbors are first those of unweighted axes, then of weighted ones
_STANDARD_ERRORS = 2.0  # of the structure: what is not above them is taken for chance
_PRIOR_CELLS = 10.0  # cells that equal weights of all axes count for
_MIN_VARIANCE = 1e-4  # of an axis, relative to the largest: one with less keeps a small variance


class _MeasuredCells(NamedTuple):
    """Cells measured in the same modalities: their (n,) batch codes, and modality -> (n,) rows."""

    batch: NDArray[np.int64]
    rows: dict[str, NDArray[np.int64]]


def fit_axis_weights(
    x: Coordinates, cell_index: CellIndex, batch: NDArray[np.int64], seed: int
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    r"""Compute a factor for each coordinate of each modality, by which noise counts less in distances.

    The structure of coordinate j is the part of its variance that the neighbors of the cells predict,

    .. math:: \rho_j = \frac{\langle y_{ij}\, p_{ij} \rangle_i}{\langle y_{ij}^2 \rangle_i},

    where y is centered within batches and p is the mean over the neighbors of a cell in its batch. The neighbors are
    those under all coordinates of the cell's modalities but one fifth, to which j belongs. So :math:`\rho_j` is 0 on
    average for noise, however many coordinates have it. The standard error s of noise is known, and :math:`\rho_j`
    becomes :math:`\rho_j \max(0, 1 - 4 s^2 / \rho_j^2)`. The factor gives the coordinate the variance
    :math:`\rho_j`. It is found twice, the second time with the neighbors under weighted coordinates.

    - `x`: Modality -> (n_m, d_m) standardized coordinates.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells.
    - `batch`: (n_cells,) codes.

    Returns modality -> (d_m,) factors, after which the root mean square distance to the mean is 1 again, and modality
    -> sum of the structure of its uncorrelated axes: 1 for each axis without noise.
    """
    centered = {m: center_batches(values, batch[cell_index[m]]).astype(np.float32) for m, values in x.items()}
    variance = {m: _bound_variance(values) for m, values in centered.items()}
    groups = list(_group_cells(centered, cell_index, batch, seed))
    weighted: Coordinates = centered
    for _ in range(_ROUNDS):
        structure, dimension = _measure_structure(weighted, centered, groups)
        factor = {m: np.sqrt(structure[m] / variance[m]) for m in x}
        weighted = {m: values * _scale_weights(factor[m], centered[m]) for m, values in centered.items()}
    weights = {m: _scale_weights(factor[m], x[m]) for m in x}
    return weights, dimension


def _group_cells(
    x: Coordinates, cell_index: CellIndex, batch: NDArray[np.int64], seed: int
) -> Iterator[_MeasuredCells]:
    """Yield the pairs of each two modalities, then the cells of each modality without a pair, in canonical order."""
    alone = {m: np.ones(len(values), bool) for m, values in x.items()}
    names = sorted(x)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            first_rows, second_rows = find_paired_rows(x, cell_index, first, second, len(batch))
            alone[first][first_rows] = alone[second][second_rows] = False
            yield _sample({first: first_rows, second: second_rows}, batch[cell_index[first][first_rows]], seed)
    for m, values in x.items():
        rows = np.flatnonzero(alone[m])
        rows = rows[canonical_order(values[rows])]
        yield _sample({m: rows}, batch[cell_index[m][rows]], seed)


def _sample(rows: dict[str, NDArray[np.int64]], batch: NDArray[np.int64], seed: int) -> _MeasuredCells:
    kept = sample_cells(batch, seed)
    return _MeasuredCells(batch[kept], {m: rows_of_modality[kept] for m, rows_of_modality in rows.items()})


def _measure_structure(
    weighted: Coordinates, centered: Coordinates, groups: list[_MeasuredCells]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
    """Measure the structure (d_m,) of the axes of each modality, equal if there are few cells, and of all together."""
    total = {m: np.full(values.shape[1], _PRIOR_CELLS) for m, values in centered.items()}
    dimension, count = dict.fromkeys(centered, 0.0), dict.fromkeys(centered, 0)
    for group in groups:
        n_cells = len(group.batch)
        if not n_cells:
            continue
        predicted = _predict_axes(weighted, centered, group)
        for m, rows in group.rows.items():
            y = centered[m][rows].astype(np.float64)
            explained = (y * predicted[m]).sum(axis=0)
            part = explained / np.maximum(np.square(y).sum(axis=0), np.finfo(np.float32).tiny)
            total[m] += n_cells * _remove_chance(part, n_cells)
            dimension[m] += n_cells * max(_count_dimensions(y, predicted[m]), 0)
            count[m] += n_cells
    return (
        {m: values / (count[m] + _PRIOR_CELLS) for m, values in total.items()},
        {m: value / max(count[m], 1) for m, value in dimension.items()},
    )


def _predict_axes(weighted: Coordinates, centered: Coordinates, group: _MeasuredCells) -> Coordinates64:
    """Predict each fifth of the axes from the neighbors under the others, those of all modalities of the cells."""
    folds = {m: np.arange(centered[m].shape[1]) % FOLDS for m in group.rows}
    predicted = {m: np.zeros((len(group.batch), len(fold))) for m, fold in folds.items()}
    for f in range(min(FOLDS, max(map(len, folds.values())))):
        seen = [weighted[m][rows][:, folds[m] != f] for m, rows in group.rows.items()]
        hidden = [centered[m][rows][:, folds[m] == f] for m, rows in group.rows.items()]
        y = np.concatenate(hidden, axis=1).astype(np.float64)
        average = average_neighbors(np.concatenate(seen, axis=1), y, group.batch)
        parts = np.split(average, np.cumsum([values.shape[1] for values in hidden])[:-1], axis=1)
        for (m, fold), values in zip(folds.items(), parts, strict=True):
            predicted[m][:, fold == f] = values
    return predicted


def _count_dimensions(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Sum the predicted parts of the variance over uncorrelated axes: correlated axes do not count twice."""
    unit = np.sqrt(np.maximum(np.square(y).mean(axis=0), np.finfo(np.float32).tiny))
    covariance, cross = (y / unit).T @ (y / unit), (y / unit).T @ (predicted / unit)
    return float(np.trace(np.linalg.pinv(covariance, rcond=_MIN_VARIANCE, hermitian=True) @ cross))


def _remove_chance(structure: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """Shrink the structure (d,) measured on n cells by what noise would have by chance."""
    chance = _STANDARD_ERRORS / np.sqrt(n_cells * NEIGHBORS)
    positive = np.clip(structure, np.finfo(np.float32).tiny, 1)
    kept: NDArray[np.float64] = positive * np.maximum(0, 1 - np.square(np.minimum(chance / positive, 1)))
    return kept


def _bound_variance(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the variance (d,) of coordinates, bounded from below."""
    variance: NDArray[np.float64] = x.var(axis=0, dtype=np.float64)
    least = max(_MIN_VARIANCE * float(variance.max(initial=0)), float(np.finfo(np.float32).tiny))
    return np.maximum(variance, least)


def _scale_weights(weights: NDArray[np.float64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the weights such that the weighted coordinates have the total variance of the coordinates."""
    variance = x.var(axis=0, dtype=np.float64)
    weighted = float(np.square(weights) @ variance)
    if weighted <= np.finfo(np.float32).tiny:
        return np.ones(len(weights), np.float32)
    return np.asarray(weights * np.sqrt(variance.sum() / weighted), np.float32)
