"""Weight of each axis of a modality in predictions: how much of its variance other axes predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order
from muport.integration.spaces._modality_weights import OWN_STRUCTURE, center_batches
from muport.integration.spaces._ridge_regression import find_paired_rows, measure_predictability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

__all__ = ["fit_axis_weights", "scale_weights"]

_FOLDS = 5  # parts of a modality's coordinates, each predicted from the others
_MAX_CELLS = 6_000  # cells on which predictions are measured
_PRIOR_CELLS = 10.0  # cells that equal weights of all axes count for
_MIN_STRUCTURE = 0.01  # an axis with less structure counts as if it had this much


def fit_axis_weights(
    x: Coordinates, cell_index: CellIndex, batch: NDArray[np.int64], seed: int
) -> dict[str, NDArray[np.float32]]:
    """Compute a factor for each coordinate of each modality, by which noise counts less in predictions.

    The structure of a coordinate is the larger of the fraction of its variance that another modality predicts on
    held-out cells, and half (`OWN_STRUCTURE`) of that which the other coordinates of its own modality predict. The
    factor is its square root. What modalities agree about is biology, not noise; coordinates of one modality may also
    depend on each other for technical reasons, for example if they sum to 1, so this counts less. All is measured
    within batches.

    - `x`: Modality -> (n_m, d_m) standardized coordinates.
    - `cell_index`: Modality -> (n_m,) index of each row in the union of all cells.
    - `batch`: (n_cells,) codes.

    Returns modality -> (d_m,) factors, after which the root mean square distance to the mean is 1 again.
    """
    centered = {m: center_batches(values, batch[cell_index[m]]).astype(np.float32) for m, values in x.items()}
    weights = {}
    for m, values in centered.items():
        measured = [_measure_own_structure(values, seed)]
        for source in x:
            rows, target_rows = find_paired_rows(centered, cell_index, source, m, len(batch))
            if source == m or not len(rows):
                continue
            predicted = measure_predictability(centered[source][rows], values[target_rows], _MAX_CELLS, seed)
            measured.append(_shrink(predicted, len(rows)))
        weights[m] = scale_weights(np.sqrt(np.maximum(np.max(measured, axis=0), _MIN_STRUCTURE)), x[m])
    return weights


def _measure_own_structure(x: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Measure the part (d,) of each coordinate that the others predict, times `OWN_STRUCTURE`."""
    structure = np.zeros(x.shape[1])
    if x.shape[1] > 1:
        x = x[canonical_order(x)]
        fold = np.arange(x.shape[1]) % min(_FOLDS, x.shape[1])
        for f in range(fold.max() + 1):
            structure[fold == f] = measure_predictability(x[:, fold != f], x[:, fold == f], _MAX_CELLS, seed)
    return OWN_STRUCTURE * _shrink(structure, len(x))


def _shrink(structure: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """Shrink toward 1, that is, toward equal weights, where few cells were compared."""
    shrunk: NDArray[np.float64] = (n_cells * structure + _PRIOR_CELLS) / (n_cells + _PRIOR_CELLS)
    return shrunk


def scale_weights(weights: NDArray[np.float64], x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale the weights such that the weighted coordinates have the total variance of the coordinates."""
    variance = x.var(axis=0, dtype=np.float64)
    weighted = float(np.square(weights) @ variance)
    if weighted <= np.finfo(np.float32).tiny:
        return np.ones(len(weights), np.float32)
    return np.asarray(weights * np.sqrt(variance.sum() / weighted), np.float32)
