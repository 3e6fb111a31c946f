"""Labels for cells: votes of labelled neighbours after integration, joined with each modality's own evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from muport._arrays import unit_rows
from muport.integration._fitted_state import Labels
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    #: Modality -> its rows, and its own representation of them if that is another space than the integrated one.
    Views = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32] | None]]

__all__ = ["fit_labels", "held_out_classifier", "label_probabilities"]

_VOTERS = 20_000  # labelled cells that are kept
_NEIGHBORS = 30
_PRIOR = 0.5  # votes that the label frequencies have from the start
_SHRINKAGE = 0.1  # of the own classifier's covariance, toward its mean variance
_PSEUDO = 10.0  # cells at the overall mean, added to each label's mean in the own classifier
_CALIBRATION = (50, 5_000)  # fewest and most labelled cells a temperature is fitted on
_FOLDS = 5
_LOG_TEMPERATURE = (-3.0, 2.0)
_TINY = 1e-12


def fit_labels(
    z: NDArray[np.float32],
    code: NDArray[np.int64],
    names: tuple[str, ...],
    views: Views,
    seed: int,
    cell: NDArray[np.int64] | None = None,
    n_voting: int | None = None,
    starts: tuple[int, ...] = (),
) -> Labels:
    """Choose the voters, fit the classifiers, and calibrate.

    Parameters
    ----------
    z
        (n, d) integrated rows, standardised.
    code
        (n,) labels, -1 where unknown; at least one is known.
    names
        Names of the labels.
    views
        Modality -> its rows in `z`, and its own representation of them, if that is another space than that of `z`.
    seed
        Seed of the choice of voters.
    cell
        (n,) cell of each row: no row of a cell votes for another. By default every row is a cell of its own.
    n_voting
        Rows that may vote come first; the others teach the classifiers and calibrate. All may by default.
    starts
        Columns of `z` from which on it is a space of its own, in which a linear classifier is fitted beside the votes;
        see :class:`Labels`. None where no cell is in several modalities: there nothing first-hand teaches it.
    """
    known = np.flatnonzero(code[:n_voting] >= 0)
    voters, weight = _voters(code[known], len(names), np.random.default_rng(seed))
    voters = known[voters]
    votes = Labels(names, z[voters], code[voters], weight, {}, float("inf"), {})
    votes = replace(votes, reach=_reach(votes))
    logit, _ = _votes(z, votes, cell)
    told = {modality: logit[rows] for modality, (rows, _) in views.items()}
    own = {modality: (rows, values) for modality, (rows, values) in views.items() if values is not None}
    if own and starts:
        votes, both = _with_linear(z, code, votes, starts, cell, logit)
        told |= {modality: both[rows] for modality, (rows, _) in own.items()}
    classifiers = {m: _co_trained(told[m], code[rows], values) for m, (rows, values) in own.items()}
    votes = replace(votes, own=classifiers)
    return replace(votes, temperature=_temperatures(told, code, views, votes, seed))


def label_probabilities(
    z: NDArray[np.float32],
    labels: Labels,
    views: Views,
    cell: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """Probabilities (n, C) of the labels of integrated rows; each row sums to 1.

    With v the votes of the neighbours and s the own classifier's log likelihood ratios, two views taken as independent
    given the label, p is proportional to (v exp(s)) ** temperature. In a joint space v is, for modalities with an own
    classifier, the geometric mean of the votes and of a linear classifier, in each of its spaces: votes follow any
    shape, the classifier sees through noise that is alike in all labels. Beyond the reach of the labelled cells p is
    mixed with the uniform distribution, so that a cell of an unknown type is not given a label with confidence.

    Parameters
    ----------
    z
        (n, d) integrated rows, standardised. A row that is itself a labelled cell does not vote for itself.
    labels
        The fitted labels.
    views
        As for :func:`fit_labels`; may lack modalities.
    cell
        As for :func:`fit_labels`.
    """
    logit, distance = _votes(z, labels, cell)
    own = [rows for modality, (rows, values) in views.items() if values is not None and modality in labels.own]
    if own and labels.linear:
        told, rows = _told(z, labels, cell, logit), np.concatenate(own)
        logit[rows] = told[rows]
    for modality, (rows, values) in views.items():
        logit[rows] = labels.temperature.get(modality, 1.0) * (logit[rows] + _own(labels.own.get(modality), values))
    p = _softmax(logit)
    within = np.minimum(1, np.square(labels.reach / np.maximum(distance, _TINY)))[:, None]
    p = within * p + (1 - within) / p.shape[1]
    out: NDArray[np.float32] = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    return out


def held_out_classifier(
    z: NDArray[np.float32], code: NDArray[np.int64], n_labels: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Linear classifier in the integrated space, and what it says of labelled cells that it was not taught by.

    Parameters
    ----------
    z
        (n, d) integrated rows, standardised.
    code
        (n,) labels, -1 where unknown; at least one is known.
    n_labels
        Number of labels, C.
    seed
        Seed of the choice of voters.

    Returns
    -------
    (d + 1, C) weights of calibrated log probabilities, the last row the intercepts; and of the L labelled rows the
    held-out probabilities (L, C) and labels (L,).
    """
    known = np.flatnonzero(code >= 0)
    voters, weight = _voters(code[known], n_labels, np.random.default_rng(seed))
    voters = known[voters]
    names = tuple(map(str, range(n_labels)))
    logit, _ = _votes(z, Labels(names, z[voters], code[voters], weight, {}, float("inf"), {}))
    prior = np.log(np.bincount(code[known], minlength=n_labels) / len(known) + _TINY)
    score = _held_out(logit, code, z)[known] + prior
    # a classifier is never surer than its own model says: few labels would have it so
    temperature = min(1.0, _likeliest(score, code[known]))
    weights = _co_trained(logit, code, z)
    weights[-1] += prior.astype(np.float32)
    return np.float32(temperature) * weights, _softmax(temperature * score), code[known]


def _voters(
    code: NDArray[np.int64], n_labels: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows that vote and how many cells each stands for: all, or an equal share of each label, rare ones whole."""
    if len(code) <= _VOTERS:
        return np.arange(len(code)), np.ones(len(code), np.float32)
    chosen, weight = [], []
    size = np.bincount(code, minlength=n_labels)
    left, waiting = _VOTERS, int((size > 0).sum())
    for label in np.argsort(size, kind="stable"):
        if size[label] == 0:
            continue
        number = min(int(size[label]), left // waiting)
        chosen.append(np.sort(rng.choice(np.flatnonzero(code == label), number, replace=False)))
        weight.append(np.full(number, size[label] / number, np.float32))
        left, waiting = left - number, waiting - 1
    return np.concatenate(chosen), np.concatenate(weight)


def _neighbors(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labelled neighbours (n, k) and distances, without the rows of the same cell."""
    cell = np.arange(len(z)) if cell is None else cell
    most, rows_of_cell = len(labels.position), int(np.bincount(cell).max(initial=1))
    wanted = min(_NEIGHBORS, max(most - rows_of_cell, 1))
    found = knn(_features(labels.position), min(wanted + rows_of_cell, most), query=_features(z), method="exact")
    same = (found.indices[:, :, None] == _own_voters(z, labels, found.indices[:, 0], cell)[:, None, :]).any(axis=2)
    keep = np.argsort(same, axis=1, kind="stable")[:, :wanted]
    return np.take_along_axis(found.indices, keep, 1), np.take_along_axis(found.distances, keep, 1)


def _own_voters(
    z: NDArray[np.float32], labels: Labels, nearest: NDArray[np.int64], cell: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n, m) voters that are rows of the same cell, -1 where there are fewer: known by their place, bit by bit."""
    itself = np.where((labels.position[nearest] == z).all(axis=1), nearest, -1)
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], cell[order])
    table = np.full((int(cell.max(initial=0)) + 1, int(np.bincount(cell).max(initial=1))), -1)
    table[cell[order], np.arange(len(cell)) - first] = itself[order]
    own: NDArray[np.int64] = table[cell]
    return own


def _features(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 2d) position beside direction: a modality with a weaker signal lies nearer the centre, but not elsewhere."""
    return np.hstack([z, unit_rows(z)])


def _votes(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Unnormalised log probabilities (n, C) by the votes alone, and the distance to the nearest labelled cell."""
    indices, distances = _neighbors(z, labels, cell)
    n_labels = len(labels.names)
    frequency = np.bincount(labels.code, labels.weight, n_labels)
    scale = np.maximum(np.median(distances, axis=1, keepdims=True), _TINY)
    weight = labels.weight[indices] * np.exp(-distances / scale)
    weight /= labels.weight[indices].mean(axis=1, keepdims=True)
    key = np.arange(len(z))[:, None] * n_labels + labels.code[indices]
    votes = np.bincount(key.ravel(), weight.ravel(), len(z) * n_labels).reshape(len(z), n_labels)
    return np.log(votes + _PRIOR * frequency / frequency.sum() + _TINY), distances[:, 0]


def _with_linear(
    z: NDArray[np.float32],
    code: NDArray[np.int64],
    labels: Labels,
    starts: tuple[int, ...],
    cell: NDArray[np.int64] | None,
    votes: NDArray[np.float64],
) -> tuple[Labels, NDArray[np.float64]]:
    """Fit the linear classifiers; and log probabilities (n, C) by votes and by classifiers that saw not the label."""
    frequency = np.bincount(labels.code, labels.weight, len(labels.names))
    prior = np.log(frequency / frequency.sum() + _TINY).astype(np.float32)
    known = code >= 0
    linear, parts = [], []
    for start in starts:
        x = z[:, start:]
        here = _votes_from(z, labels, cell, start, votes)
        weights = _co_trained(here, code, x)
        weights[-1] += prior
        score = _score(weights, x)
        score[known] = _held_out(here, code, x)[known] + prior
        linear.append(weights)
        parts += [_log_softmax(here), _log_softmax(score)]
    return replace(labels, starts=starts, linear=tuple(linear)), np.mean(parts, axis=0)


def _told(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None, votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log probabilities (n, C): means over the votes and the linear classifiers of every space."""
    parts = []
    for start, weights in zip(labels.starts, labels.linear, strict=True):
        parts.append(_log_softmax(_votes_from(z, labels, cell, start, votes)))
        parts.append(_log_softmax(_score(weights, z[:, start:])))
    return np.mean(parts, axis=0)


def _votes_from(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None, start: int, votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Votes in the coordinates from `start` on; `votes` are those in all."""
    if start == 0:
        return votes
    return _votes(z[:, start:], replace(labels, position=labels.position[:, start:]), cell)[0]


def _own(classifier: NDArray[np.float32] | None, values: NDArray[np.float32] | None) -> NDArray[np.float64] | float:
    """Log likelihood ratios (n, C) of a modality's own representation; 0 without one."""
    return 0.0 if classifier is None or values is None else _score(classifier, values)


def _score(classifier: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    score: NDArray[np.float64] = np.asarray(values @ classifier[:-1] + classifier[-1], dtype=np.float64)
    return score


def _log_softmax(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = logit - logit.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
    return normalised


def _softmax(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.exp(logit - logit.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return normalised


def _reach(labels: Labels) -> float:
    """99th percentile over labelled cells of the distance to the nearest other one."""
    _, distances = _neighbors(labels.position, labels)
    reach = float(np.quantile(distances[:, 0], 0.99)) if len(labels.position) > 1 else 0.0
    return reach if reach > 0 else float("inf")


def _co_trained(votes: NDArray[np.float64], code: NDArray[np.int64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Classifier in a modality's own space, taught by the votes, then once more by the votes and itself together."""
    known = np.flatnonzero(code >= 0)
    classifier = np.zeros((x.shape[1] + 1, votes.shape[1]), np.float32)
    for _ in range(2):
        target = _softmax(votes + x @ classifier[:-1] + classifier[-1])
        target[known] = np.eye(votes.shape[1])[code[known]]
        classifier = _discriminant(x, target)
    return classifier


def _discriminant(x: NDArray[np.float32], target: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear discriminant analysis with soft labels: (d + 1, C) weights of log p(x | c) up to a function of x.

    Parameters
    ----------
    x
        (n, d) rows.
    target
        (n, C) probabilities of the labels.
    """
    center = x.mean(axis=0, dtype=np.float64)
    centred = x - center
    size = target.sum(axis=0)
    # A label with few cells is drawn toward the overall mean, where it says nothing.
    mean = (target.T @ centred) / (size + _PSEUDO)[:, None]
    within = (centred.T @ centred - (mean.T * size) @ mean) / len(x)
    d = x.shape[1]
    variance = max(float(np.trace(within)) / d, _TINY)
    direction = np.linalg.solve((1 - _SHRINKAGE) * within + _SHRINKAGE * variance * np.eye(d), mean.T)
    offset = -0.5 * (mean.T * direction).sum(axis=0) - center @ direction
    return np.vstack([direction, offset]).astype(np.float32)


def _temperatures(
    told: Mapping[str, NDArray[np.float64]], code: NDArray[np.int64], views: Views, labels: Labels, seed: int
) -> dict[str, float]:
    """Temperature of each modality: by the held-out likelihood of its known labels, where it has enough of them.

    Votes leave the cell itself out, and the own classifier is fitted without a fifth of the labels in turn. In a
    modality without labels the two views are less independent than the product takes them for. There the mean
    confidence is set to the mean probability that the views, averaged, give to the product's choice.
    """
    rng = np.random.default_rng(seed)
    out = {}
    for modality, (rows, values) in views.items():
        labelled = np.flatnonzero(code[rows] >= 0)
        if len(labelled) >= _CALIBRATION[0]:
            logit = told[modality] + _held_out(told[modality], code[rows], values)
            chosen = _some(labelled, rng)
            out[modality] = _likeliest(logit[chosen], code[rows][chosen])
        elif values is not None and len(rows):
            chosen = _some(np.arange(len(rows)), rng)
            own = _own(labels.own[modality], values[chosen])
            out[modality] = _as_confident(told[modality][chosen] + own, told[modality][chosen], labels)
    return out


def _held_out(
    votes: NDArray[np.float64], code: NDArray[np.int64], values: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Scores (n, C) of labelled rows by classifiers that did not see their labels."""
    score = np.zeros_like(votes)
    if values is None:
        return score
    labelled = np.flatnonzero(code >= 0)
    for fold in range(_FOLDS):
        hidden = labelled[fold::_FOLDS]
        kept = code.copy()
        kept[hidden] = -1
        score[hidden] = _own(_co_trained(votes, kept, values), values[hidden])
    return score


def _as_confident(logit: NDArray[np.float64], votes: NDArray[np.float64], labels: Labels) -> float:
    frequency = np.bincount(labels.code, labels.weight, len(labels.names))
    choice = logit.argmax(axis=1)[:, None]
    views = (votes, logit - votes + np.log(np.maximum(frequency / frequency.sum(), _TINY)))
    wanted = np.mean([np.take_along_axis(_softmax(view), choice, 1).mean() for view in views])

    def gap(log_temperature: float) -> float:
        return float(_softmax(np.exp(log_temperature) * logit).max(axis=1).mean() - wanted)

    low, high = _LOG_TEMPERATURE
    return float(np.exp(brentq(gap, low, high) if gap(low) < 0 < gap(high) else 0.0))


def _some(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= _CALIBRATION[1] else np.sort(rng.choice(rows, _CALIBRATION[1], replace=False))


def _likeliest(logit: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    def loss(log_temperature: float) -> float:
        p = _softmax(np.exp(log_temperature) * logit)
        return float(-np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-6)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded").x))
