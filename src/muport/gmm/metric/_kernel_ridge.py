"""Outcomes of patients from distances to training patients: kernel ridge regression, calibrated for conditions.

Symbols: P training patients, Q new patients, C conditions, T targets, L penalties, V distances, F folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.special import softmax

from muport.gmm.metric._nuisance import remove_covariates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Calibration", "LOG_SLOPE", "PENALTIES", "balanced_loss", "calibrate", "classify", "deal_groups", "inner_folds",
    "least_loss", "regress_held_out", "ridge_regression", "ridge_scores", "score_held_out", "to_probabilities",
]  # fmt: skip

PENALTIES = (0.01, 0.1, 1.0)  # of the squared norm, for a kernel of mean diagonal 1
LOG_SLOPE = (-3.0, 3.0)  # range of the logarithm of the slope
_GOLDEN = (5**0.5 - 1) / 2
_SECTIONS = 24  # steps of golden section search: an error of 6e-5 of the logarithm
_MAX_FOLDS = 20
_MAX_ENTRIES = 2**18  # entries of distance matrices, one for each fold, that are computed at once
_TINY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities or other predictions.

    - `penalty`: Position of the penalty in ``PENALTIES``.
    - `slope`: Factor of the scores, of conditions before the softmax.
    - `loss`: Log-loss of held-out patients, in nats; of conditions it is balanced, and log C is chance.
    - `error`: Root mean squared error of held-out patients, in the unit of the target, if the target is a number.
    """

    penalty: Annotated[int, "0.."]
    slope: float
    loss: Annotated[float, "any"]
    error: Annotated[float, "0.."] = 0.0


def classify(
    train: ArrayLike, condition: ArrayLike, new: ArrayLike, *, group: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Predict probabilities of the conditions of new patients from distances to the training patients.

    The distances are embedded about the mean of the class means (classical scaling without negative directions), and
    a ridge regression on the conditions, in which every condition has the same weight, gives scores. The penalty and
    the slope of the softmax minimize the balanced log-loss of held-out patients. Patients at equal distances get equal
    probabilities. As in any linear regression on indicators, a condition that lies between two others on one line is
    masked: compare ordered conditions two at a time.

    - `train`: (P, P) distances between the training patients, not squared.
    - `condition`: (P,) codes 0..C-1.
    - `new`: (Q, P) distances of new patients to the training patients.
    - `group`: (P,) person of each sample, if a person has several; they are held out together.

    Returns (Q, C), rows sum to 1. Raises ValueError if there is only one condition, or shapes do not fit.

    Examples
    --------
    >>> x = np.array([0.0, 0.1, 0.2, 3.0, 3.1, 3.2])
    >>> p = classify(abs(x[:, None] - x), [0, 0, 0, 1, 1, 1], abs(np.array([[0.0], [3.0]]) - x))
    >>> p.argmax(axis=1).tolist()
    [0, 1]
    """
    squared, squared_new = (np.asarray(x, dtype=np.float64) ** 2 for x in (train, new))
    code = np.asarray(condition)
    if squared.shape != (len(code), len(code)) or squared_new.ndim != 2 or squared_new.shape[1] != len(code):
        raise ValueError(
            f"train {squared.shape}, condition {code.shape} and new {squared_new.shape} do not fit each other."
        )
    if len(np.unique(code)) < 2:
        raise ValueError("condition has one value only: a prediction needs patients of at least two conditions.")
    folds = inner_folds(code, code * 0 + np.arange(len(code)) if group is None else np.asarray(group))
    scores = score_held_out(lambda held_out: squared[None].repeat(len(held_out), 0)[:, None], code, folds)
    fit = calibrate(scores, code)[0]
    return to_probabilities(ridge_scores(squared, squared_new, code)[fit.penalty], fit.slope)


def inner_folds(
    condition: NDArray[np.int64], group: NDArray[np.int64], n_folds: int = _MAX_FOLDS
) -> list[NDArray[np.int64]]:
    """Make folds: each group alone, or `n_folds` sets of groups with the conditions distributed evenly.

    A fold is left out if a condition has no patient outside it.
    """
    folds = deal_groups(condition, group, n_folds)
    size = np.bincount(condition)
    return [rows for rows in folds if ((size > np.bincount(condition[rows], minlength=len(size))) | (size == 0)).all()]


def deal_groups(
    key: NDArray[np.generic], group: NDArray[np.int64], n_folds: int = _MAX_FOLDS
) -> list[NDArray[np.int64]]:
    """Deal groups to `n_folds` folds, one group after another in the order of the key (P,) of their first patient."""
    _, first, code = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort((np.arange(len(first)), key[first]))
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % min(n_folds, len(first))
    return [np.flatnonzero(fold[code] == k) for k in range(int(fold.max()) + 1)]


def ridge_scores(
    train: NDArray[np.float64], new: NDArray[np.float64], condition: NDArray[np.int64], n_classes: int | None = None
) -> NDArray[np.float64]:
    """Compute scores (..., L, Q, C) of new patients for every penalty, from squared distances.

    The scores are those of :func:`ridge_regression` on centered indicators of the conditions, with balanced weights.

    - `train`: (..., P, P) squared distances; leading axes are folds and views, solved together.
    - `new`: (..., Q, P) squared distances.
    - `condition`: (..., P) codes; leading axes as of the distances, or of length one.
    - `n_classes`: C; by default the largest code plus 1.
    """
    return ridge_regression(train, new, *_indicators(condition, n_classes))


def _indicators(
    condition: NDArray[np.int64], n_classes: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (..., P, 1) by which all conditions count the same, and centered indicators (..., P, C)."""
    classes = int(condition.max()) + 1 if n_classes is None else n_classes
    member = np.eye(classes)[condition]
    size = member.sum(axis=-2, keepdims=True)
    weight = (member / np.maximum(size, 1)).sum(axis=-1, keepdims=True)
    weight /= weight.sum(axis=-2, keepdims=True)
    return weight, member - (size > 0) / (size > 0).sum(axis=-1, keepdims=True)


def ridge_regression(
    train: NDArray[np.float64], new: NDArray[np.float64], weight: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Predict targets (..., L, Q, T) of new patients for every penalty, from squared distances.

    With K the kernel of the embedding, scaled to mean diagonal 1, Y the targets and w the weights, predictions are k' a
    with a = (K + penalty W^-1)^-1 Y, by one eigendecomposition of W^1/2 K W^1/2.

    - `train`, `new`: (..., P, P) and (..., Q, P) squared distances.
    - `weight`: (..., P, 1), positive, with sum 1.
    - `target`: (..., P, T), centered with these weights.
    """
    mean = train @ weight
    shift = (mean - weight.swapaxes(-1, -2) @ mean).swapaxes(-1, -2)
    kernel = -0.5 * (train - mean - shift)
    new_kernel = -0.5 * (new - new @ weight - shift)
    root = np.sqrt(weight)
    values, vectors = np.linalg.eigh(root * (kernel + kernel.swapaxes(-1, -2)) / 2 * root.swapaxes(-1, -2))
    values = np.maximum(values, 0)
    least = _TINY * np.maximum(np.abs(train).max(axis=(-2, -1), initial=0), 1.0)
    scale = np.maximum(values.sum(axis=-1), least)[..., None]
    projected = vectors.swapaxes(-1, -2) @ (root * target)
    shrunk = [projected / (values / scale + penalty)[..., None] for penalty in PENALTIES]
    alpha = root[..., None, :, :] * (vectors[..., None, :, :] @ np.stack(shrunk, axis=-3))
    scores: NDArray[np.float64] = (new_kernel / scale[..., None])[..., None, :, :] @ alpha
    return scores


def score_held_out(
    squared: Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float64]],
    condition: NDArray[np.int64],
    folds: Sequence[NDArray[np.int64]],
    columns: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Compute scores (V, L, P, C) of training patients by fits to the others; NaN for patients of no fold.

    - `squared`: Function that returns the (F, V, P, P) squared distances to use when the rows of each of F folds are
      held out.
    - `condition`: (P,) codes.
    - `folds`: Rows of each fold.
    - `columns`: (P, q) covariates, whose effects are removed from the distances by fits to the others.
    """
    classes = int(condition.max()) + 1

    def encode(rest: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return _indicators(condition[rest][:, None], classes)

    return _hold_out(squared, encode, len(condition), folds, columns)


def regress_held_out(
    squared: Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float64]],
    target: NDArray[np.float64],
    folds: Sequence[NDArray[np.int64]],
    columns: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Predict targets (V, L, P) of training patients by fits to the others, as :func:`score_held_out` does conditions.

    - `target`: (P,) numbers. A prediction is the difference from the mean of the patients of the fit.
    """

    def encode(rest: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = target[rest][:, None, :, None]
        return np.full(values.shape, 1 / values.shape[2]), values - values.mean(axis=2, keepdims=True)

    return _hold_out(squared, encode, len(target), folds, columns)[..., 0]


def _hold_out(
    squared: Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float64]],
    encode: Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    n: int,
    folds: Sequence[NDArray[np.int64]],
    columns: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Predictions (V, L, P, T) of held-out patients.

    - `encode`: Weights (F, 1, P', 1) and targets (F, 1, P', T) of the patients (F, P') of the fits.
    """
    if not folds:
        n_targets = encode(np.arange(n)[None])[1].shape[-1]
        return np.full((squared(folds).shape[1], len(PENALTIES), n, n_targets), np.nan)
    step = max(1, _MAX_ENTRIES // n**2)
    parts = [folds[low : low + step] for low in range(0, len(folds), step)]
    pairs = [pair for part in parts for pair in _predict_by_size(squared(part), encode, n, part, columns)]
    predictions = np.full((*pairs[0][1].shape[:2], n, pairs[0][1].shape[-1]), np.nan)
    for rows, held_out in pairs:
        predictions[:, :, rows] = held_out
    return predictions


def _predict_by_size(
    squared: NDArray[np.float64],
    encode: Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    n: int,
    folds: Sequence[NDArray[np.int64]],
    columns: NDArray[np.float64] | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Held-out rows and their predictions (V, L, rows, T); folds of one size are solved together."""
    everyone = np.arange(n)
    for size in sorted({len(rows) for rows in folds}):
        index = np.array([i for i, rows in enumerate(folds) if len(rows) == size])
        new = np.stack([folds[i] for i in index])
        rest = np.stack([np.setdiff1d(everyone, rows) for rows in new])
        train, squared_new = (
            np.moveaxis(squared[index[:, None, None], :, rows[:, :, None], rest[:, None]], 3, 1) for rows in (rest, new)
        )
        if columns is not None:
            train, squared_new = remove_covariates(train, squared_new, columns[rest][:, None], columns[new][:, None])
        predictions = np.moveaxis(ridge_regression(train, squared_new, *encode(rest)), 0, 2)
        yield new.ravel(), predictions.reshape(*predictions.shape[:2], -1, predictions.shape[-1])


def calibrate(scores: NDArray[np.float64], condition: NDArray[np.int64]) -> list[Calibration]:
    """Find the penalty and slope of the smallest balanced log-loss of the held-out scores (V, L, P, C) of each view."""
    scored = np.isfinite(scores).all((0, 1, 3))
    if not scored.any():
        return [Calibration(len(PENALTIES) - 1, 1.0, float(np.log(scores.shape[3])))] * len(scores)
    own, code = scores[:, :, scored], condition[scored]
    middle = least_loss(lambda log_slope: _losses(own, log_slope, code), scores.shape[:2])
    loss = _losses(own, middle, code)
    best = loss.argmin(axis=1)
    return [Calibration(int(i), float(np.exp(middle[v, i])), float(loss[v, i])) for v, i in enumerate(best)]


def least_loss(
    loss: Callable[[NDArray[np.float64]], NDArray[np.float64]], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Find the logarithms of slopes, an array of this shape, of the smallest losses, by golden section search.

    - `loss`: Losses of logarithms of slopes. They are convex in the slope, so each has one minimum in its logarithm.
    """
    low, high = (np.full(shape, bound) for bound in LOG_SLOPE)
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left, right = loss(inner), loss(outer)
    for _ in range(_SECTIONS):
        below = left < right
        high, low = np.where(below, outer, high), np.where(below, low, inner)
        # one of the two inner points is kept
        point = np.where(below, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        again = loss(point)
        inner, outer = np.where(below, point, outer), np.where(below, inner, point)
        left, right = np.where(below, again, right), np.where(below, left, again)
    middle: NDArray[np.float64] = (low + high) / 2
    return middle


def _losses(
    scores: NDArray[np.float64], log_slope: NDArray[np.float64], code: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Balanced log-loss (V, L) of scores (V, L, P, C)."""
    logit = scores * np.exp(log_slope)[..., None, None]
    top = logit.max(axis=-1)
    losses = top + np.log(np.exp(logit - top[..., None]).sum(axis=-1)) - logit[..., np.arange(len(code)), code]
    weight = 1 / np.bincount(code)[code]
    mean: NDArray[np.float64] = losses @ weight / weight.sum()
    return mean


def to_probabilities(scores: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Apply the softmax to scores (Q, C) times a slope."""
    p: NDArray[np.float64] = softmax(slope * scores, axis=1)
    return p


def balanced_loss(p: NDArray[np.float64], condition: NDArray[np.int64]) -> float:
    """Compute the mean over conditions of the mean of -log p of the true condition."""
    own = -np.log(np.maximum(p[np.arange(len(p)), condition], _TINY))
    weight = 1 / np.bincount(condition)[condition]
    return float((own * weight).sum() / weight.sum())
