"""Linear map of each modality to coordinates in which distances count structure: what neighbors of a cell predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order
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

__all__ = ["DistanceMaps", "fit_distance_maps"]

_ROUNDS = 2  # neighbors are first those of standardized modalities, then of weighted axes
_STANDARD_ERRORS = 2.0  # of the structure: what is not above them is taken for chance
_PRIOR_CELLS = 10.0  # cells that the axes as they are count for
_RIDGE = 0.02  # added to the variance 1 of each axis before axes are decorrelated
_MIN_STRUCTURE = 0.05  # axes without structure keep this factor, so that the map can be inverted
_MIN_VARIANCE = 1e-4  # of an axis, relative to the largest: one with less keeps a small variance


@dataclass(frozen=True, eq=False)
class DistanceMaps:
    """Maps of the modalities, and how much they replace the axes as they are.

    - `maps`: Modality -> (d_m, d_m) matrix that its coordinates, which are weighted by `axis_weights` before, are
      multiplied by.
    - `share`: Share of the maps in these matrices, 0..1; the rest is the identity.
    - `dimensions`: (M,) structure summed over the uncorrelated axes of each modality.
    """

    maps: dict[str, NDArray[np.float32]]
    share: float
    dimensions: NDArray[np.float64]


def fit_distance_maps(
    x: Coordinates,
    axis_weights: dict[str, NDArray[np.float32]],
    cell_index: CellIndex,
    batch: NDArray[np.int64],
    seed: int,
) -> DistanceMaps:
    r"""Fit the maps on the cells that are measured in all modalities.

    Let y be the axes of a modality, centered within batches and divided by their standard deviation, and p the mean of
    y over the neighbors of a cell in its batch, relative to the mean of the other cells of the batch. The neighbors of
    an axis are those under all axes of all modalities but one fifth, to which it belongs. They do not predict noise, so

    .. math:: S = \tfrac12 \langle y p^T + p y^T \rangle, \qquad C = \langle y y^T \rangle

    are the covariance of the structure and that of all. The eigenvalues :math:`\lambda` of
    :math:`K = C^{-1/2} S C^{-1/2}` are the parts of the variance of uncorrelated axes that are structure. The standard
    error s of an entry of K for noise is known, and so is the largest eigenvalue that noise has, about
    :math:`c = s \sqrt{2 d}` for d axes (the edge of the semicircle law). So :math:`\lambda` becomes
    :math:`\lambda \max(0, 1 - c^2 / \lambda^2)`, at least .05.
    The map is :math:`C^{-1/2} K`: uncorrelated axes of variance 1, each times its :math:`\lambda`. So a modality counts
    by the number of its axes with structure, and noise has almost no weight, however many axes it has. The neighbors
    are found twice, the second time under axes of the variance :math:`\operatorname{diag} S`. All maps have the same
    factor, which keeps the variance of all modalities together.

    If a part f of the cells is measured in all modalities, a part :math:`f^2` of the distances compares measurements
    only; the others compare predictions as well, which are better the more modalities agree about an axis. The share of
    the maps is therefore :math:`f^2`, less where few cells were compared, and the rest is that of the axes weighted by
    `axis_weights`.

    - `x`: Modality -> (n_m, d_m) standardized coordinates.
    - `axis_weights`: Modality -> (d_m,) factors that the predictions use.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells.
    - `batch`: (n_cells,) codes.
    """
    rows = _find_complete_cells(x, cell_index, len(batch))
    first = next(iter(x))
    share = len(rows[first]) ** 2 / max(len(batch), 1) ** 2
    batch = batch[cell_index[first][rows[first]]]
    kept = sample_cells(batch, seed)
    if not len(kept):
        identity = {m: np.diag(np.ones_like(weights)) for m, weights in axis_weights.items()}
        return DistanceMaps(identity, 0.0, np.ones(len(x)))
    batch = batch[kept]
    share *= len(kept) / (len(kept) + _PRIOR_CELLS)
    # by name, so that the folds do not depend on the order of the modalities
    centered = {m: center_batches(x[m][rows[m][kept]], batch) for m in sorted(x)}
    spread = {m: _bound_spread(values) for m, values in centered.items()}
    y = {m: values / spread[m] for m, values in centered.items()}
    predicted = _predict_twice(y, spread, batch)
    maps, dimensions = {}, {}
    for m in y:
        matrix, dimensions[m] = _map_axes(y[m], predicted[m])
        maps[m] = matrix / spread[m][:, None]
    mapped = sum(float(np.square(centered[m] @ maps[m]).sum()) for m in y)
    total = sum(float(np.square(values).sum()) for values in centered.values())
    factor = share * np.sqrt(total / mapped) if mapped > np.finfo(np.float32).tiny else share
    for m, weights in axis_weights.items():
        maps[m] = factor * maps[m] / weights[:, None] + (1 - share) * np.eye(len(weights))
    return DistanceMaps({m: maps[m].astype(np.float32) for m in x}, float(share), np.array([dimensions[m] for m in x]))


def _find_complete_cells(x: Coordinates, cell_index: CellIndex, n_cells: int) -> dict[str, NDArray[np.int64]]:
    """Find the rows of the cells that are in all modalities, in an order that does not depend on that of the cells."""
    row_of_cell = {m: np.full(n_cells, -1) for m in x}
    for m, row in row_of_cell.items():
        row[cell_index[m]] = np.arange(len(cell_index[m]))
    cells = np.flatnonzero(np.min(list(row_of_cell.values()), axis=0) >= 0)
    order = canonical_order(np.concatenate([x[m][row_of_cell[m][cells]] for m in sorted(x)], axis=1))
    return {m: row[cells[order]] for m, row in row_of_cell.items()}


def _predict_twice(y: Coordinates64, weights: Coordinates64, batch: NDArray[np.int64]) -> Coordinates64:
    """Predict all axes from neighbors, the second time under axes weighted by how well they were predicted."""
    for _ in range(_ROUNDS):
        predicted = _predict_axes(y, weights, batch)
        weights = {m: np.sqrt(_remove_chance((y[m] * predicted[m]).mean(axis=0), len(batch))) for m in y}
    return predicted


def _predict_axes(y: Coordinates64, weights: Coordinates64, batch: NDArray[np.int64]) -> Coordinates64:
    """Predict each fifth of the axes of all modalities from the neighbors under the other, weighted, axes."""
    fold = np.concatenate([np.arange(values.shape[1]) % FOLDS for values in y.values()])
    values = np.concatenate(list(y.values()), axis=1)
    weighted, predicted = values * np.concatenate(list(weights.values())), np.zeros_like(values)
    for f in range(fold.max(initial=-1) + 1):
        predicted[:, fold == f] = average_neighbors(weighted[:, fold != f], values[:, fold == f], batch)
    # relative to the mean of the other cells: without this, noise has a negative part in small batches
    n_others = (np.bincount(batch)[batch] - 1)[:, None]
    predicted = (predicted * n_others + values) / (n_others + 1)
    bounds = np.cumsum([v.shape[1] for v in y.values()])[:-1]
    return dict(zip(y, np.split(predicted, bounds, axis=1), strict=True))


def _map_axes(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the map (d, d) to uncorrelated axes times their structure, and the sum of the structure."""
    cross = y.T @ predicted / len(y)
    values, vectors = np.linalg.eigh(y.T @ y / len(y))
    root = (vectors / np.sqrt(np.maximum(values, 0) + _RIDGE)) @ vectors.T
    structure, axes = np.linalg.eigh(root @ (cross + cross.T) @ root / 2)
    structure = _remove_chance(structure, len(y), max(_STANDARD_ERRORS, np.sqrt(2 * len(structure))))
    return root @ (axes * np.maximum(structure, _MIN_STRUCTURE)) @ axes.T, float(structure.sum())


def _remove_chance(
    structure: NDArray[np.float64], n_cells: int, standard_errors: float = _STANDARD_ERRORS
) -> NDArray[np.float64]:
    """Shrink the structure (d,) measured on n cells by what noise would have by chance."""
    chance = standard_errors / np.sqrt(n_cells * NEIGHBORS)
    positive = np.clip(structure, np.finfo(np.float32).tiny, 1)
    kept: NDArray[np.float64] = positive * np.maximum(0, 1 - np.square(np.minimum(chance / positive, 1)))
    return kept


def _bound_spread(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the standard deviation (d,) of centered coordinates, bounded from below."""
    variance = np.square(y).mean(axis=0)
    least = max(_MIN_VARIANCE * float(variance.max(initial=0)), float(np.finfo(np.float32).tiny))
    spread: NDArray[np.float64] = np.sqrt(np.maximum(variance, least))
    return spread
