"""Conditions of patients from distances to training patients: balanced, calibrated kernel ridge classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Calibration", "PENALTIES", "balanced_loss", "calibrate", "classify", "held_out", "inner_folds",
           "probabilities", "ridge_scores"]  # fmt: skip

PENALTIES = (0.01, 0.1, 1.0)  # of the squared norm, for a kernel of mean diagonal 1
_LOG_SLOPE = (-3.0, 3.0)
_SECTIONS, _GOLDEN = 24, (5**0.5 - 1) / 2  # to 6e-5 of the logarithm
_MAX_FOLDS = 20
_AT_ONCE = 2**18  # entries of the distance matrices, one for each fold, that are made together
_TINY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities.

    Attributes
    ----------
    penalty
        Position of the penalty in ``PENALTIES``.
    slope
        Factor of the scores before the softmax.
    loss
        Balanced log-loss (nats) of held-out patients; log C is chance.
    """

    penalty: int
    slope: float
    loss: float


def classify(
    train: ArrayLike, condition: ArrayLike, new: ArrayLike, *, group: ArrayLike | None = None, squared: bool = False
) -> NDArray[np.float64]:
    """Probabilities of the conditions of new patients, from distances to the training patients.

    The distances are embedded about the mean of the class means (classical scaling, negative directions dropped), and a
    ridge regression on the conditions, in which every condition weighs the same, gives scores.  Its penalty and the
    slope of the softmax minimise the balanced log-loss of patients left out in turn, which also settles ties: patients
    at equal distances get equal probabilities.  A condition that lies between two others on one line is masked, as in
    any linear regression on indicators: give ordered conditions two at a time.

    Parameters
    ----------
    train
        (P, P) distances between the training patients.
    condition
        (P,) codes 0..C-1.
    new
        (Q, P) distances of new patients to the training patients.
    group
        (P,) patient of each sample, where one has several: they are left out together.
    squared
        Whether the distances are squared already.

    Returns
    -------
    NDArray
        (Q, C), rows sum to 1.

    Raises
    ------
    ValueError
        If there is one condition only, or shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.array([0.0, 0.1, 0.2, 3.0, 3.1, 3.2])
    >>> p = classify(abs(at[:, None] - at), [0, 0, 0, 1, 1, 1], abs(np.array([[0.0], [3.0]]) - at))
    >>> p.argmax(axis=1).tolist()
    [0, 1]
    """
    power = 1 if squared else 2
    between, fresh = (np.asarray(x, dtype=np.float64) ** power for x in (train, new))
    code = np.asarray(condition)
    if between.shape != (len(code), len(code)) or fresh.ndim != 2 or fresh.shape[1] != len(code):
        raise ValueError(f"train {between.shape}, condition {code.shape} and new {fresh.shape} do not fit each other.")
    if len(np.unique(code)) < 2:
        raise ValueError("condition has one value only: a prediction needs patients of at least two conditions.")
    folds = inner_folds(code, code * 0 + np.arange(len(code)) if group is None else np.asarray(group))
    found = calibrate(held_out(lambda left: between[None].repeat(len(left), 0)[:, None], code, folds), code)[0]
    return probabilities(ridge_scores(between, fresh, code)[found.penalty], found.slope)


def inner_folds(
    condition: NDArray[np.int64], group: NDArray[np.int64], n_folds: int = _MAX_FOLDS
) -> list[NDArray[np.int64]]:
    """Rows to hold out in turn: each group alone, or `n_folds` sets of groups with the conditions spread evenly.

    Folds without which a condition would vanish are left out.
    """
    _, first, code = np.unique(group, return_index=True, return_inverse=True)
    order = np.lexsort((np.arange(len(first)), condition[first]))
    fold = np.empty(len(first), dtype=np.int64)
    fold[order] = np.arange(len(first)) % min(n_folds, len(first))
    sets = [np.flatnonzero(fold[code] == k) for k in range(int(fold.max()) + 1)]
    size = np.bincount(condition)
    return [rows for rows in sets if ((size > np.bincount(condition[rows], minlength=len(size))) | (size == 0)).all()]


def ridge_scores(
    train: NDArray[np.float64], new: NDArray[np.float64], condition: NDArray[np.int64], n_classes: int | None = None
) -> NDArray[np.float64]:
    """Scores (..., L, Q, C) of new patients for every penalty, from squared distances.

    With K the kernel of the embedding, scaled to mean diagonal 1, Y the centred conditions and w balanced weights, the
    scores are k' a with a = (K + penalty W^-1)^-1 Y, by one eigendecomposition of W^1/2 K W^1/2.

    Parameters
    ----------
    train
        (..., P, P) squared distances; leading axes are folds and views, solved together.
    new
        (..., Q, P) squared distances.
    condition
        (..., P) codes; leading axes as of the distances, or of length one.
    n_classes
        C; by default the largest code and 1.
    """
    classes = int(condition.max()) + 1 if n_classes is None else n_classes
    member = np.eye(classes)[condition]
    size = member.sum(axis=-2, keepdims=True)
    weight = (member / np.maximum(size, 1)).sum(axis=-1, keepdims=True)
    weight /= weight.sum(axis=-2, keepdims=True)
    mean = train @ weight
    shift = (mean - weight.swapaxes(-1, -2) @ mean).swapaxes(-1, -2)
    kernel = -0.5 * (train - mean - shift)
    fresh = -0.5 * (new - new @ weight - shift)
    root = np.sqrt(weight)
    values, vectors = np.linalg.eigh(root * (kernel + kernel.swapaxes(-1, -2)) / 2 * root.swapaxes(-1, -2))
    values = np.maximum(values, 0)
    least = _TINY * np.maximum(np.abs(train).max(axis=(-2, -1), initial=0), 1.0)
    scale = np.maximum(values.sum(axis=-1), least)[..., None]
    target = member - (size > 0) / (size > 0).sum(axis=-1, keepdims=True)
    inside = vectors.swapaxes(-1, -2) @ (root * target)
    shrunk = [inside / (values / scale + one)[..., None] for one in PENALTIES]
    alpha = root[..., None, :, :] * (vectors[..., None, :, :] @ np.stack(shrunk, axis=-3))
    found: NDArray[np.float64] = (fresh / scale[..., None])[..., None, :, :] @ alpha
    return found


def held_out(
    squared: Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float64]],
    condition: NDArray[np.int64],
    folds: Sequence[NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Scores (V, L, P, C) of training patients by classifiers, and distances, that did not see them; NaN outside folds.

    Parameters
    ----------
    squared
        Gives the (F, V, P, P) squared distances of the views to use when the rows of each of F folds are held out.
    condition
        (P,) codes.
    folds
        Rows to hold out in turn.
    """
    shape = len(PENALTIES), len(condition), int(condition.max()) + 1
    if not folds:
        return np.full((squared(folds).shape[1], *shape), np.nan)
    step = max(1, _AT_ONCE // len(condition) ** 2)
    parts = [folds[low : low + step] for low in range(0, len(folds), step)]
    found = [pair for part in parts for pair in _by_size(squared(part), condition, part, shape[2])]
    scores = np.full((len(found[0][1]), *shape), np.nan)
    for rows, one in found:
        scores[:, :, rows] = one
    return scores


def _by_size(
    squared: NDArray[np.float64], condition: NDArray[np.int64], folds: Sequence[NDArray[np.int64]], classes: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Rows held out and their scores (V, L, rows, C); folds of one size are solved together."""
    everyone = np.arange(len(condition))
    for size in sorted({len(rows) for rows in folds}):
        which = np.array([i for i, rows in enumerate(folds) if len(rows) == size])
        new = np.stack([folds[i] for i in which])
        rest = np.stack([np.setdiff1d(everyone, rows) for rows in new])
        train, fresh = (
            np.moveaxis(squared[which[:, None, None], :, rows[:, :, None], rest[:, None]], 3, 1) for rows in (rest, new)
        )
        found = np.moveaxis(ridge_scores(train, fresh, condition[rest][:, None], classes), 0, 2)
        yield new.ravel(), found.reshape(*found.shape[:2], -1, classes)


def calibrate(scores: NDArray[np.float64], condition: NDArray[np.int64]) -> list[Calibration]:
    """Penalty and slope of least balanced log-loss of the held-out scores (V, L, P, C) of each view."""
    seen = np.isfinite(scores).all((0, 1, 3))
    if not seen.any():
        return [Calibration(len(PENALTIES) - 1, 1.0, float(np.log(scores.shape[3])))] * len(scores)
    own, code = scores[:, :, seen], condition[seen]
    low, high = (np.full(scores.shape[:2], bound) for bound in _LOG_SLOPE)
    # the loss is convex in the slope, hence has one least value in its logarithm: golden section, all at once
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left, right = _losses(own, inner, code), _losses(own, outer, code)
    for _ in range(_SECTIONS):
        below = left < right
        high, low = np.where(below, outer, high), np.where(below, low, inner)
        # of the two points between one stays
        point = np.where(below, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        lost = _losses(own, point, code)
        inner, outer = np.where(below, point, outer), np.where(below, inner, point)
        left, right = np.where(below, lost, right), np.where(below, left, lost)
    middle = (low + high) / 2
    loss = _losses(own, middle, code)
    best = loss.argmin(axis=1)
    return [Calibration(int(i), float(np.exp(middle[v, i])), float(loss[v, i])) for v, i in enumerate(best)]


def _losses(
    scores: NDArray[np.float64], log_slope: NDArray[np.float64], code: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Balanced log-loss (V, L) of scores (V, L, P, C)."""
    logit = scores * np.exp(log_slope)[..., None, None]
    top = logit.max(axis=-1)
    lost = top + np.log(np.exp(logit - top[..., None]).sum(axis=-1)) - logit[..., np.arange(len(code)), code]
    weight = 1 / np.bincount(code)[code]
    total: NDArray[np.float64] = lost @ weight / weight.sum()
    return total


def probabilities(scores: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Softmax of scores (Q, C) times a slope."""
    logit = slope * scores
    p = np.exp(logit - logit.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return normalised


def balanced_loss(p: NDArray[np.float64], condition: NDArray[np.int64]) -> float:
    """Mean over conditions of the mean of -log p of the true one."""
    own = -np.log(np.maximum(p[np.arange(len(p)), condition], _TINY))
    weight = 1 / np.bincount(condition)[condition]
    return float((own * weight).sum() / weight.sum())
