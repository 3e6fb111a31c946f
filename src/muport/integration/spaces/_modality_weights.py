"""Weight of each modality in each cell: how well neighborhoods in it, and in the others, predict the cell's values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.spaces._ridge_regression import find_paired_rows
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.spaces._ridge_regression import CellIndex
    from muport.integration.spaces._scaling import Coordinates

__all__ = [
    "FOLDS",
    "NEIGHBORS",
    "OWN_STRUCTURE",
    "ModalityWeights",
    "average_neighbors",
    "center_batches",
    "fit_constant_weights",
    "fit_weights",
    "interpolate_weights",
    "normalize_scores",
    "sample_cells",
    "score_modalities",
    "score_neighborhoods",
]

#: Neighbors that predict a cell.
NEIGHBORS = 10
#: Parts of the coordinates, each predicted by neighbors under the others.
FOLDS = 5
_MAX_CELLS = 6_000  # cells whose neighborhoods are scored
_MAX_LANDMARKS, _CELLS_PER_LANDMARK = 100, 60
_PRIOR_CELLS = 100.0  # cells that the mean score counts for at each landmark, and a score of no pairs in that mean
_POWER = 2.0  # of the scores, in the weights
#: How much it counts that a modality predicts itself, relative to that another one predicts it. Chosen on simulations
#: of shared types, private types and unrelated variation, with measured pairs beside them.
OWN_STRUCTURE = 0.5


@dataclass(frozen=True, eq=False)
class ModalityWeights:
    """Weights of M modalities at landmarks of the joint space.

    - `landmarks`: (K, D) landmarks.
    - `weights`: (K, M) weights at each landmark; rows sum to 1.
    - `mean_weights`: (M,) weights from the mean scores over all cells.
    """

    landmarks: Annotated[NDArray[np.float32], "K *"]
    weights: Annotated[NDArray[np.float32], "K M", "0.."]
    mean_weights: Annotated[NDArray[np.float32], "M", "0.."]


def score_neighborhoods(
    x: NDArray[np.float32], y: NDArray[np.float32] | None, batch: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Score, for each cell, how well its neighbors under x predict its values of y, within batches.

    With y centered within batches, and p_i the mean of y over the k nearest cells under x in the batch of cell i, the
    score is <y_i, p_i> over the mean of |y|^2. If x and y are independent its mean is 0, for any k and also if some
    cells are neighbors of many others. The residual variance around p_i would not have this property.

    - `x`: (n, d) cells in canonical order.
    - `y`: (n, e) other representation of the cells. None: x itself, each fifth of its coordinates predicted by the
      neighbors under the others. Such neighbors do not predict uncorrelated noise, but they predict structure.
    - `batch`: (n,) codes.

    Returns (q,) rows that were scored, and their (q,) scores.
    """
    rows = sample_cells(batch, seed)
    batch = batch[rows]
    centered = center_batches(x[rows], batch)
    if y is not None:
        return rows, _score_targets(centered, center_batches(y[rows], batch), batch)
    if x.shape[1] < 2:
        return rows[:0], np.zeros(0)
    fold = np.arange(x.shape[1]) % min(FOLDS, x.shape[1])
    scores = [
        _score_targets(centered[:, fold != f], centered[:, fold == f], batch, centered) for f in range(fold.max() + 1)
    ]
    return rows, np.sum(scores, axis=0)


def score_modalities(
    x: Coordinates, cell_index: CellIndex, batch: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score how well each modality is predicted, by neighborhoods in the others and in itself.

    The score of a modality is the mean over the other modalities of how well neighborhoods in them predict its values,
    and over itself with the weight `OWN_STRUCTURE`. It is 0 for noise, and low for a modality that has structure which
    no other one has, as technical effects do.

    - `x`: Modality -> (n_m, d_m) standardized coordinates, with the weights of their axes.
    - `batch`: (n_cells,) codes.

    Returns (n_cells, M) scores of each cell, NaN where it was not scored, and (M,) means over the cells. Both are means
    over the modalities that the cell has, so that a cell that lacks some of them does not get lower scores.
    """
    scores, mean_scores = np.full((len(batch), len(x)), np.nan), np.zeros(len(x))
    for i, target in enumerate(x):
        total, count, means, factors = np.zeros(len(batch)), np.zeros(len(batch)), [], []
        for source in x:
            source_rows, target_rows = find_paired_rows(x, cell_index, source, target, len(batch))
            if len(source_rows) < 2:
                continue
            cells = cell_index[source][source_rows]
            y = None if target == source else x[target][target_rows]
            rows, score = score_neighborhoods(x[source][source_rows], y, batch[cells], seed)
            if len(rows):
                means.append(float(score.mean()))
                # few pairs say little of what one modality predicts in another
                factors.append(OWN_STRUCTURE if source == target else len(cells) / (len(cells) + _PRIOR_CELLS))
                np.add.at(total, cells[rows], factors[-1] * (score - means[-1]))
                np.add.at(count, cells[rows], factors[-1])
        mean_scores[i] = np.average(means, weights=factors) if means else 0.0
        scores[:, i] = np.divide(total, count, out=np.full(len(batch), np.nan), where=count > 0) + mean_scores[i]
    return scores, mean_scores


def sample_cells(batch: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw a sorted subsample of rows, without those that are alone in their batch and so have no neighbors there."""
    rows = np.arange(len(batch))
    if len(rows) > _MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MAX_CELLS, replace=False))
    has_neighbors = np.bincount(batch[rows])[batch[rows]] > 1
    return rows[has_neighbors]


def center_batches(x: NDArray[np.float32], batch: NDArray[np.int64]) -> NDArray[np.float64]:
    """Subtract from cells (n, d) the mean of their batch (n,)."""
    code = np.unique(batch, return_inverse=True)[1]
    total = np.zeros((code.max(initial=0) + 1, x.shape[1]))
    np.add.at(total, code, x)
    mean = total / np.maximum(np.bincount(code, minlength=len(total)), 1)[:, None]
    return x - mean[code]


def _score_targets(
    x: NDArray[np.float64], y: NDArray[np.float64], batch: NDArray[np.int64], unit: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Score the prediction of y by neighbors under x, in units of the mean of |unit|^2 (of y if not given)."""
    score = (y * average_neighbors(x, y, batch)).sum(axis=1)
    total = np.square(y if unit is None else unit).sum(axis=1)
    mean = float(total.mean()) if len(total) else 0.0
    return score / mean if mean > np.finfo(np.float32).tiny else np.zeros(len(x))


def average_neighbors(x: NDArray[np.float64], y: NDArray[np.float64], batch: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average the values y (n, e) over the nearest other cells under x (n, d) in the batch; 0 if all x are 0."""
    average = np.zeros(y.shape)
    if np.square(x).sum() <= np.finfo(np.float32).tiny:
        return average
    for code in np.unique(batch):
        rows = np.flatnonzero(batch == code)
        k = min(NEIGHBORS, len(rows) - 1)
        average[rows] = y[rows[knn(x[rows].astype(np.float32), k, method="exact").indices]].mean(axis=1)
    return average


def normalize_scores(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Turn scores (..., M) into weights (..., M) that sum to 1; equal weights if no score is positive."""
    power = np.maximum(scores, 0) ** _POWER
    total = power.sum(axis=-1, keepdims=True)
    weights = np.full(power.shape, 1 / power.shape[-1])
    np.divide(power, total, out=weights, where=total > 0)
    return weights.astype(np.float32)


def fit_constant_weights(mean_scores: NDArray[np.float64], width: int) -> ModalityWeights:
    """Compute weights from mean scores (M,), the same everywhere in a space of `width` dimensions."""
    weights = normalize_scores(mean_scores)
    return ModalityWeights(np.zeros((1, width), np.float32), weights[None], weights)


def fit_weights(
    z: NDArray[np.float32], scores: NDArray[np.float64], mean_scores: NDArray[np.float64], seed: int
) -> ModalityWeights:
    """Compute weights at landmarks of the joint space, each from the cells around it.

    - `z`: (n, D) cells in canonical order.
    - `scores`: (n, M) scores of the modalities in each cell; NaN where they are not known.
    - `mean_scores`: (M,) means over all cells; at each landmark they count as much as 100 cells.
    """
    n_landmarks = int(np.clip(len(z) // _CELLS_PER_LANDMARK, 1, _MAX_LANDMARKS))
    landmarks = kmeans(z, n_landmarks, n_iter=10, random_state=seed, max_points_per_center=64).centers
    neighbors, membership = soft_assign(z, landmarks)
    known = np.isfinite(scores)
    count, total = np.zeros((len(landmarks), scores.shape[1])), np.zeros((len(landmarks), scores.shape[1]))
    for rank in range(neighbors.shape[1]):
        np.add.at(count, neighbors[:, rank], membership[:, rank, None] * known)
        np.add.at(total, neighbors[:, rank], membership[:, rank, None] * np.where(known, scores, 0))
    mean = (total + _PRIOR_CELLS * mean_scores) / (count + _PRIOR_CELLS)
    return ModalityWeights(landmarks, normalize_scores(mean), normalize_scores(mean_scores))


def interpolate_weights(z: NDArray[np.float32], fitted: ModalityWeights) -> NDArray[np.float32]:
    """Interpolate the weights (n, M) of cells (n, D) between landmarks; rows sum to 1."""
    neighbors, membership = soft_assign(z, fitted.landmarks)
    weights: NDArray[np.float32] = (membership[:, :, None] * fitted.weights[neighbors]).sum(axis=1)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
