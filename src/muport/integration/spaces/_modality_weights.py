"""How much each modality is believed, cell by cell: by what its neighbourhoods tell of it and of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.spaces._ridge_regression import common_rows
from muport.neighbors import kmeans, knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Weights", "explained", "fit_weights", "flat_weights", "local_weights", "told_by_modality"]

_NEIGHBORS = 10
_FOLDS = 5
_CELLS = 6_000  # cells on which neighbourhoods are compared
_LANDMARKS, _CELLS_PER_LANDMARK = 100, 60
_PRIOR = 100.0  # cells that the mean over all cells counts for at a landmark
_POWER = 2.0


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of the modalities at landmarks of the joint space.

    Attributes
    ----------
    landmarks
        (K, D) points.
    weight
        (K, M) weights at each; rows sum to 1.
    usual
        (M,) weights over all cells.
    """

    landmarks: NDArray[np.float32]
    weight: NDArray[np.float32]
    usual: NDArray[np.float32]


def explained(
    x: NDArray[np.float32], y: NDArray[np.float32] | None, batch: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Variance of y that neighbours under x tell, cell by cell, within batches.

    With p_i the mean of y over the k nearest cells of i's batch under x, and y centred within batches, the answer is
    <y_i, p_i> over the mean of |y|^2. Its mean is 0 when x and y are independent, whatever k, and though hubs be among
    the neighbours; the variance left around p_i would not be so.

    Parameters
    ----------
    x
        (n, d) cells in canonical order.
    y
        (n, e) other representation of the cells. None: x itself, each fifth of its coordinates told by the neighbours
        under the other coordinates. Uncorrelated noise does not tell its own other coordinates, structure does.
    batch
        (n,) codes.
    seed
        Seed of the subsample.

    Returns
    -------
    (q,) rows that were looked at, and (q,) the variance explained at each.
    """
    rows = _sample(batch, seed)
    batch = batch[rows]
    mine = _centred(x[rows], batch)
    if y is not None:
        return rows, _told(mine, _centred(y[rows], batch), batch)
    if x.shape[1] < 2:
        return rows[:0], np.zeros(0)
    fold = np.arange(x.shape[1]) % min(_FOLDS, x.shape[1])
    parts = [_told(mine[:, fold != f], mine[:, fold == f], batch, mine) for f in range(fold.max() + 1)]
    return rows, np.sum(parts, axis=0)


def told_by_modality(
    x: Mapping[str, NDArray[np.float32]], cell: Mapping[str, NDArray[np.int64]], batch: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance that each modality explains of itself and of the others.

    Returns
    -------
    (n_cells, M) by cell, NaN where it was not looked at, and (M,) means over cells: the means over the modalities
    explained, so that cells that lack one are not worse off for it.
    """
    told, usual = np.full((len(batch), len(x)), np.nan), np.zeros(len(x))
    for i, b in enumerate(x):
        total, number, means = np.zeros(len(batch)), np.zeros(len(batch)), []
        for m in x:
            mine, theirs = common_rows(x, cell, b, m, len(batch))
            if len(mine) < 2:
                continue
            cells = cell[b][mine]
            rows, found = explained(x[b][mine], None if m == b else x[m][theirs], batch[cells], seed)
            if len(rows):
                means.append(float(found.mean()))
                np.add.at(total, cells[rows], found - means[-1])
                np.add.at(number, cells[rows], 1)
        usual[i] = np.mean(means) if means else 0.0
        told[:, i] = np.divide(total, number, out=np.full(len(batch), np.nan), where=number > 0) + usual[i]
    return told, usual


def _sample(batch: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows of a subsample; batches too small for neighbours of their own are left out if there are larger ones."""
    rows = np.arange(len(batch))
    if len(rows) > _CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _CELLS, replace=False))
    enough = np.bincount(batch[rows])[batch[rows]] > 1
    return rows[enough]


def _centred(x: NDArray[np.float32], batch: NDArray[np.int64]) -> NDArray[np.float64]:
    one = np.unique(batch, return_inverse=True)[1]
    total = np.zeros((one.max(initial=0) + 1, x.shape[1]))
    np.add.at(total, one, x)
    mean = total / np.maximum(np.bincount(one, minlength=len(total)), 1)[:, None]
    return x - mean[one]


def _told(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    batch: NDArray[np.int64],
    unit: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Variance of y told by neighbours under x, in units of the mean of |unit|^2 (of y if not given)."""
    told = np.zeros(len(x))
    if np.square(x).sum() <= np.finfo(np.float32).tiny:
        return told
    for code in np.unique(batch):
        rows = np.flatnonzero(batch == code)
        k = min(_NEIGHBORS, len(rows) - 1)
        near = rows[knn(x[rows].astype(np.float32), k, method="exact").indices]
        told[rows] = (y[rows] * y[near].mean(axis=1)).sum(axis=1)
    total = np.square(y if unit is None else unit).sum(axis=1)
    mean = float(total.mean()) if len(total) else 0.0
    return told / mean if mean > np.finfo(np.float32).tiny else np.zeros(len(x))


def usual_weights(told: NDArray[np.float64]) -> NDArray[np.float32]:
    """(..., M) weights from the variance (..., M) that each modality explains; equal if none explains any."""
    power = np.maximum(told, 0) ** _POWER
    total = power.sum(axis=-1, keepdims=True)
    equal = np.full(power.shape, 1 / power.shape[-1])
    np.divide(power, total, out=equal, where=total > 0)
    return equal.astype(np.float32)


def flat_weights(usual: NDArray[np.float64], width: int) -> Weights:
    """Weights that are the same everywhere in a space of some width, from the variance (M,) that modalities explain."""
    weight = usual_weights(usual)
    return Weights(np.zeros((1, width), np.float32), weight[None], weight)


def fit_weights(z: NDArray[np.float32], told: NDArray[np.float64], usual: NDArray[np.float64], seed: int) -> Weights:
    """Weights at landmarks of the joint space, each from the cells around it.

    Parameters
    ----------
    z
        (n, D) cells in canonical order.
    told
        (n, M) variance that each modality explains at the cell; NaN where that is not known.
    usual
        (M,) its means over all cells, which count for some cells at every landmark.
    seed
        Seed of the landmarks.
    """
    number = int(np.clip(len(z) // _CELLS_PER_LANDMARK, 1, _LANDMARKS))
    landmarks = kmeans(z, number, n_iter=10, random_state=seed, max_points_per_center=64).centers
    near, share = soft_assign(z, landmarks)
    known = np.isfinite(told)
    held, total = np.zeros((len(landmarks), told.shape[1])), np.zeros((len(landmarks), told.shape[1]))
    for rank in range(near.shape[1]):
        np.add.at(held, near[:, rank], share[:, rank, None] * known)
        np.add.at(total, near[:, rank], share[:, rank, None] * np.where(known, told, 0))
    mean = (total + _PRIOR * usual) / (held + _PRIOR)
    return Weights(landmarks, usual_weights(mean), usual_weights(usual))


def local_weights(z: NDArray[np.float32], fitted: Weights) -> NDArray[np.float32]:
    """(n, M) weights of cells (n, D), which change smoothly between landmarks; rows sum to 1."""
    near, share = soft_assign(z, fitted.landmarks)
    weight: NDArray[np.float32] = (share[:, :, None] * fitted.weight[near]).sum(axis=1)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float32)
