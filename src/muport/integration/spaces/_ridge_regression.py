"""Ridge regression from one representation to another, linear in coordinates and in memberships of landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._prototypes import soft_assign
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Regressor", "common_rows", "fit_regressor", "ordered", "regress"]

_ROWS = 20_000  # cells a regression is fitted on
_LANDMARKS, _CELLS_PER_LANDMARK, _MEMBERS = 200, 20, 6
_FOLDS, _FEWEST = 5, 4
_RIDGE = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf])  # in units of a feature's variance
_BLOCK = 2**14  # cells predicted together


@dataclass(frozen=True, eq=False)
class Regressor:
    """Map of one representation to another.

    Attributes
    ----------
    landmarks
        (K, d) points; K may be 0.
    center
        (d + K,) mean of the features.
    coef
        (d + K, e) coefficients.
    mean
        (e,) mean of the targets.
    explained
        Share of the targets' variance that is predicted on held-out cells, 0..1.
    """

    landmarks: NDArray[np.float32]
    center: NDArray[np.float32]
    coef: NDArray[np.float32]
    mean: NDArray[np.float32]
    explained: float


def ordered(*parts: NDArray[np.float32]) -> NDArray[np.int64]:
    """Order of rows that depends on what they hold and not on how they come: by coordinates, the first first."""
    x = np.concatenate(parts, axis=1)
    keys = (x[:, 0], x[:, min(1, x.shape[1] - 1)])
    order = np.lexsort(keys[::-1])
    same = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[tied]
    order[tied] = rows[np.lexsort(x[rows].T[::-1])]
    return order


def common_rows(
    x: Mapping[str, NDArray[np.float32]], cell: Mapping[str, NDArray[np.int64]], b: str, m: str, n_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of b and of m that are the same cells, in an order that does not depend on that of the cells."""
    row = np.full(n_cells, -1)
    row[cell[m]] = np.arange(len(cell[m]))
    mine = np.flatnonzero(row[cell[b]] >= 0)
    theirs = row[cell[b][mine]]
    rank = ordered(x[b][mine], x[m][theirs]) if len(mine) else mine
    return mine[rank], theirs[rank]


def fit_regressor(x: NDArray[np.float32], y: NDArray[np.float32], seed: int) -> Regressor:
    """Fit y ~ x by ridge regression, the penalty of every target chosen on held-out cells.

    The features are the coordinates and, times sqrt(K), the soft memberships of K landmarks, so that the map is linear
    where the cells are few and bends where there are enough. A target that nothing predicts gets its mean.

    Parameters
    ----------
    x
        (n, d) inputs of unit scale, in canonical order (see :func:`ordered`).
    y
        (n, e) targets, row by row.
    seed
        Seed of the landmarks and of the subsample.
    """
    if len(x) > _ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(x), _ROWS, replace=False))
        x, y = x[rows], y[rows]
    n_landmarks = min(_LANDMARKS, len(x) // _CELLS_PER_LANDMARK)
    landmarks = np.empty((0, x.shape[1]), np.float32)
    if n_landmarks > 1:
        landmarks = kmeans(x, n_landmarks, n_iter=10, random_state=seed, max_points_per_center=64).centers
    features = _features(x, landmarks).astype(np.float64)
    center, mean = features.mean(axis=0), y.mean(axis=0, dtype=np.float64)
    features -= center
    target = y - mean
    ridge, explained = _held_out(features, target)
    values, vectors = np.linalg.eigh(features.T @ features / len(x))
    coef = _solve(values, vectors, features.T @ target / len(x), ridge)
    narrow = (center.astype(np.float32), coef.astype(np.float32), mean.astype(np.float32))
    return Regressor(landmarks, *narrow, explained)


def regress(x: NDArray[np.float32], fitted: Regressor) -> NDArray[np.float32]:
    """(n, e) predictions for cells (n, d), a block at a time."""
    out = np.empty((len(x), fitted.coef.shape[1]), np.float32)
    for low in range(0, len(x), _BLOCK):
        rows = slice(low, low + _BLOCK)
        out[rows] = (_features(x[rows], fitted.landmarks) - fitted.center) @ fitted.coef
    out += fitted.mean
    return out


def _features(x: NDArray[np.float32], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    # the scale of a coordinate is 1 / sqrt(d): features then have about unit variance each
    scaled = x * np.float32(np.sqrt(x.shape[1]))
    if not len(landmarks):
        return scaled
    near, weight = soft_assign(x, landmarks, min(_MEMBERS, len(landmarks)))
    member = np.zeros((len(x), len(landmarks)), np.float32)
    np.put_along_axis(member, near, weight * np.float32(np.sqrt(len(landmarks))), axis=1)
    return np.concatenate([scaled, member], axis=1)


def _held_out(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """(e,) ridge of every target with the least error on held-out cells, and the variance explained with it."""
    total = np.square(y).sum(axis=0)
    if len(x) < _FEWEST:
        return np.full(y.shape[1], np.inf), 0.0
    fold = np.arange(len(x)) % _FOLDS
    error = np.zeros((len(_RIDGE), y.shape[1]))
    for held in range(min(_FOLDS, len(x))):
        fit, test = fold != held, fold == held
        values, vectors = np.linalg.eigh(x[fit].T @ x[fit] / fit.sum())
        cross = x[fit].T @ y[fit] / fit.sum()
        for i, ridge in enumerate(_RIDGE):
            missed = y[test] - x[test] @ _solve(values, vectors, cross, np.full(y.shape[1], ridge))
            error[i] += np.square(missed).sum(axis=0)
    best = error.argmin(axis=0)
    left = error[best, np.arange(y.shape[1])].sum()
    return _RIDGE[best], float(np.clip(1 - left / max(total.sum(), np.finfo(float).tiny), 0, 1))


def _solve(
    values: NDArray[np.float64], vectors: NDArray[np.float64], cross: NDArray[np.float64], ridge: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(F, e) coefficients from the eigendecomposition of the features' covariance."""
    found: NDArray[np.float64] = vectors @ ((vectors.T @ cross) / (np.maximum(values, 0)[:, None] + ridge))
    return found
