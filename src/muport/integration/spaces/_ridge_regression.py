"""Ridge regression from one representation to another, linear in the coordinates and in memberships of landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport._arrays import canonical_order
from muport.integration.prototypes._prototypes import soft_assign
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.integration.spaces._scaling import Coordinates

    #: Modality -> (n_m,) index of each row in the union of all cells.
    type CellIndex = Mapping[str, NDArray[np.int64]]

__all__ = ["RidgeRegression", "find_paired_rows", "fit_ridge", "measure_predictability"]

_MAX_CELLS = 20_000  # cells that a regression is fitted on
_MAX_LANDMARKS, _CELLS_PER_LANDMARK = 200, 20
_LANDMARKS_PER_CELL = 6  # landmarks of which a cell is a member
_FOLDS = 5
_MIN_CELLS = 4  # fewer cells are not cross-validated: every target is then predicted by its mean
_PENALTIES = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf])  # in units of a feature's variance
_BLOCK = 2**14  # cells predicted together: bounds the memory


@dataclass(frozen=True, eq=False)
class RidgeRegression:
    """Fitted regression of one representation on another.

    - `landmarks`: (K, d) landmarks; K may be 0.
    - `center`: (d + K,) mean of the features.
    - `coef`: (d + K, e) coefficients.
    - `intercept`: (e,) mean of the targets.
    - `r2`: Fraction of the targets' variance that is predicted on held-out cells, 0..1.
    """

    landmarks: Annotated[NDArray[np.float32], "K D"]
    center: Annotated[NDArray[np.float32], "D+K"]
    coef: Annotated[NDArray[np.float32], "D+K E"]
    intercept: Annotated[NDArray[np.float32], "E"]
    r2: float

    @property
    def widths(self) -> tuple[int, int]:
        """Number of coordinates of the cells, and of the targets."""
        return self.landmarks.shape[1], len(self.intercept)

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict the targets (n, e) of cells (n, d), a block at a time."""
        out = np.empty((len(x), self.coef.shape[1]), np.float32)
        for low in range(0, len(x), _BLOCK):
            rows = slice(low, low + _BLOCK)
            out[rows] = (_compute_features(x[rows], self.landmarks) - self.center) @ self.coef
        out += self.intercept
        return out


def find_paired_rows(
    x: Coordinates, cell_index: CellIndex, source: str, target: str, n_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the rows of two modalities that are the same cells.

    - `x`: Modality -> (n_m, d_m) coordinates. They set the order of the pairs, which depends neither on that of the
      cells nor on which of the two is the source.

    Returns (p,) rows of the source, and (p,) rows of the target.
    """
    row_of_cell = np.full(n_cells, -1)
    row_of_cell[cell_index[target]] = np.arange(len(cell_index[target]))
    source_rows = np.flatnonzero(row_of_cell[cell_index[source]] >= 0)
    target_rows = row_of_cell[cell_index[source][source_rows]]
    if not len(source_rows):
        return source_rows, target_rows
    sides = {source: x[source][source_rows], target: x[target][target_rows]}
    order = canonical_order(np.concatenate([sides[m] for m in sorted(sides)], axis=1))
    return source_rows[order], target_rows[order]


def fit_ridge(x: NDArray[np.float32], y: NDArray[np.float32], seed: int) -> RidgeRegression:
    """Fit y on x by ridge regression; the penalty of each target is chosen on held-out cells.

    The features are the coordinates and, times sqrt(K), the soft memberships of K landmarks. With few cells there are
    no landmarks, and the regression is linear; with more it can follow curves. A target that no feature predicts is
    predicted by its mean.

    - `x`: (n, d) inputs of unit scale, in canonical order (see :func:`muport._arrays.canonical_order`).
    - `y`: (n, e) targets, row by row.
    """
    x, y = _sample_rows(x, y, _MAX_CELLS, seed)
    features, landmarks = _expand(x, seed)
    center, intercept = features.mean(axis=0), y.mean(axis=0, dtype=np.float64)
    features -= center
    target = y - intercept
    penalty, unexplained = _cross_validate(features, target)
    total = max(np.square(target).sum(), np.finfo(float).tiny)
    r2 = float(np.clip(1 - unexplained.sum() / total, 0, 1))
    values, vectors = np.linalg.eigh(features.T @ features / len(x))
    coef = _solve_ridge(values, vectors, features.T @ target / len(x), penalty)
    return RidgeRegression(
        landmarks, center.astype(np.float32), coef.astype(np.float32), intercept.astype(np.float32), r2
    )


def measure_predictability(
    x: NDArray[np.float32], y: NDArray[np.float32], max_cells: int, seed: int
) -> NDArray[np.float64]:
    """Measure which fraction (e,) of the variance of each target a regression as in :func:`fit_ridge` predicts.

    It is measured on held-out cells, and is 0 for a constant target.

    - `x`: (n, d) inputs of unit scale, in canonical order.
    - `y`: (n, e) targets, row by row.
    - `max_cells`: Number of cells that are sampled if there are more.
    """
    x, y = _sample_rows(x, y, max_cells, seed)
    features, _ = _expand(x, seed)
    target = np.asarray(y - y.mean(axis=0, dtype=np.float64), np.float64)
    unexplained = _cross_validate(features - features.mean(axis=0), target)[1]
    total = np.square(target).sum(axis=0)
    varies = total > np.finfo(np.float32).tiny
    return np.where(varies, np.clip(1 - unexplained / np.where(varies, total, 1), 0, 1), 0.0)


def _sample_rows(
    x: NDArray[np.float32], y: NDArray[np.float32], max_cells: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if len(x) <= max_cells:
        return x, y
    rows = np.sort(np.random.default_rng(seed).choice(len(x), max_cells, replace=False))
    return x[rows], y[rows]


def _expand(x: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Fit the landmarks of cells (n, d), and return the features (n, d + K) and the landmarks (K, d)."""
    n_landmarks = min(_MAX_LANDMARKS, len(x) // _CELLS_PER_LANDMARK)
    landmarks = np.empty((0, x.shape[1]), np.float32)
    if n_landmarks > 1:
        landmarks = kmeans(x, n_landmarks, n_iter=10, random_state=seed, max_points_per_center=64).centers
    return _compute_features(x, landmarks).astype(np.float64), landmarks


def _compute_features(x: NDArray[np.float32], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    # inputs of unit scale have coordinates of scale 1 / sqrt(d): times sqrt(d), each feature has about unit variance
    scaled = x * np.float32(np.sqrt(x.shape[1]))
    if not len(landmarks):
        return scaled
    neighbors, weight = soft_assign(x, landmarks, min(_LANDMARKS_PER_CELL, len(landmarks)))
    membership = np.zeros((len(x), len(landmarks)), np.float32)
    np.put_along_axis(membership, neighbors, weight * np.float32(np.sqrt(len(landmarks))), axis=1)
    return np.concatenate([scaled, membership], axis=1)


def _cross_validate(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose the penalty (e,) of each target with the least error on held-out cells; return also its squared error."""
    if len(x) < _MIN_CELLS:
        return np.full(y.shape[1], np.inf), np.square(y).sum(axis=0)
    fold = np.arange(len(x)) % _FOLDS
    error = np.zeros((len(_PENALTIES), y.shape[1]))
    for held_out in range(min(_FOLDS, len(x))):
        train, test = fold != held_out, fold == held_out
        values, vectors = np.linalg.eigh(x[train].T @ x[train] / train.sum())
        cross = x[train].T @ y[train] / train.sum()
        for i, penalty in enumerate(_PENALTIES):
            residual = y[test] - x[test] @ _solve_ridge(values, vectors, cross, np.full(y.shape[1], penalty))
            error[i] += np.square(residual).sum(axis=0)
    best = error.argmin(axis=0)
    return _PENALTIES[best], error[best, np.arange(y.shape[1])]


def _solve_ridge(
    values: NDArray[np.float64], vectors: NDArray[np.float64], cross: NDArray[np.float64], penalty: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solve for the coefficients (F, e), given the eigendecomposition of the features' covariance."""
    coef: NDArray[np.float64] = vectors @ ((vectors.T @ cross) / (np.maximum(values, 0)[:, None] + penalty))
    return coef
