"""Transfer of labels: votes of labeled neighbors, combined with a classifier on each modality's own representation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

from muport._arrays import unit_rows
from muport.integration._fitted_state import Labels
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    #: Modality -> its rows, and its own representation of them; None if that is the integrated space.
    OwnViews = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32] | None]]

__all__ = ["cross_validate_classifier", "fit_labels", "predict_labels"]

_MAX_VOTERS = 20_000  # labeled cells that are kept
_NEIGHBORS = 30
_PRIOR_VOTES = 0.5  # votes that are given to the label frequencies
_SHRINKAGE = 0.1  # of a classifier's covariance, toward its mean variance
_PSEUDO_CELLS = 10.0  # cells at the overall mean that are added to each label in a classifier
_CALIBRATION_CELLS = (50, 5_000)  # fewest and most labeled cells on which a temperature is fitted
_FOLDS = 5
_LOG_TEMPERATURE = (-3.0, 2.0)  # bounds
_TINY = 1e-12


def fit_labels(
    z: NDArray[np.float32],
    code: NDArray[np.int64],
    names: tuple[str, ...],
    views: OwnViews,
    seed: int,
    cell: NDArray[np.int64] | None = None,
    n_voting: int | None = None,
    starts: tuple[int, ...] = (),
) -> Labels:
    """Choose the labeled cells that vote, fit the classifiers, and calibrate the probabilities.

    - `z`: (n, d) integrated rows, standardized.
    - `code`: (n,) labels, -1 where unknown; at least one is known.
    - `views`: Modality -> its rows in `z`, and its own representation of them; None if that is the space of `z`.
    - `cell`: (n,) cell of each row: no row of a cell votes for another one of it. By default every row is a separate
      cell.
    - `n_voting`: Number of rows, the first ones, that may vote; by default all. The classifiers and the calibration use
      all rows.
    - `starts`: Columns of `z` from which on the coordinates form a space. In each, a linear classifier is fitted beside
      the votes; see :class:`Labels`. Empty if no cell is in several modalities: then there are no classifiers.
    """
    known = np.flatnonzero(code[:n_voting] >= 0)
    voters, weight = _sample_voters(code[known], len(names), np.random.default_rng(seed))
    voters = known[voters]
    labels = Labels(names, z[voters], code[voters], weight, {}, float("inf"), {})
    labels = replace(labels, reach=_fit_reach(labels))
    votes, _ = _count_votes(z, labels, cell)
    log_p = {modality: votes[rows] for modality, (rows, _) in views.items()}
    own = {modality: (rows, values) for modality, (rows, values) in views.items() if values is not None}
    if own and starts:
        labels, combined = _fit_linear_classifiers(z, code, labels, starts, cell, votes)
        log_p |= {modality: combined[rows] for modality, (rows, _) in own.items()}
    classifiers = {m: _fit_co_trained(log_p[m], code[rows], values) for m, (rows, values) in own.items()}
    labels = replace(labels, own=classifiers)
    return replace(labels, temperature=_calibrate(log_p, code, views, labels, seed))


def predict_labels(
    z: NDArray[np.float32], labels: Labels, views: OwnViews, cell: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Predict the probabilities (n, C) of the labels of integrated rows; each row sums to 1.

    With v the votes of the neighbors and s the log likelihood ratios of the classifier on the modality's own
    representation, two views that are taken as independent given the label, p is proportional to
    (v exp(s)) ** temperature. In a joint space, v is for modalities with an own classifier the geometric mean of the
    votes and of a linear classifier, in each of its spaces: votes can follow any shape, and a linear classifier is less
    sensitive to noise that is the same in all labels. Beyond the reach of the labeled cells, p is mixed with the
    uniform distribution, so that a cell of an unknown type does not get a confident label.

    - `z`: (n, d) integrated rows, standardized. A row that is itself a labeled cell does not vote for itself.
    - `views`: As for :func:`fit_labels`; may lack modalities.
    - `cell`: As for :func:`fit_labels`.
    """
    logit, distance = _count_votes(z, labels, cell)
    own = [rows for modality, (rows, values) in views.items() if values is not None and modality in labels.own]
    if own and labels.linear:
        combined, rows = _combine_linear(z, labels, cell, logit), np.concatenate(own)
        logit[rows] = combined[rows]
    for modality, (rows, values) in views.items():
        score = _score_own(labels.own.get(modality), values)
        logit[rows] = labels.temperature.get(modality, 1.0) * (logit[rows] + score)
    p = softmax(logit, axis=1)
    within_reach = np.minimum(1, np.square(labels.reach / np.maximum(distance, _TINY)))[:, None]
    p = within_reach * p + (1 - within_reach) / p.shape[1]
    probabilities: NDArray[np.float32] = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def cross_validate_classifier(
    z: NDArray[np.float32], code: NDArray[np.int64], n_labels: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]]:
    """Fit a linear classifier in the integrated space, and predict each labeled cell without its own label.

    - `z`: (n, d) integrated rows, standardized.
    - `code`: (n,) labels, -1 where unknown; at least one is known.

    Returns (d + 1, C) weights of calibrated log probabilities, the last row the intercepts; for the L labeled rows, the
    held-out probabilities (L, C) and the labels (L,).
    """
    known = np.flatnonzero(code >= 0)
    voters, weight = _sample_voters(code[known], n_labels, np.random.default_rng(seed))
    voters = known[voters]
    names = tuple(map(str, range(n_labels)))
    votes, _ = _count_votes(z, Labels(names, z[voters], code[voters], weight, {}, float("inf"), {}))
    prior = np.log(np.bincount(code[known], minlength=n_labels) / len(known) + _TINY)
    score = _score_held_out(votes, code, z)[known] + prior
    # with few labels the likeliest temperature may be above 1: it would make the classifier overconfident
    temperature = min(1.0, _fit_temperature(score, code[known]))
    weights = _fit_co_trained(votes, code, z)
    weights[-1] += prior.astype(np.float32)
    return np.float32(temperature) * weights, softmax(temperature * score, axis=1), code[known]


def _sample_voters(
    code: NDArray[np.int64], n_labels: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choose the rows that vote, and the number of cells that each stands for.

    All rows vote if they are not too many. Otherwise each label has an equal number of voters, and rare ones all.
    """
    if len(code) <= _MAX_VOTERS:
        return np.arange(len(code)), np.ones(len(code), np.float32)
    voters, weight = [], []
    n_cells = np.bincount(code, minlength=n_labels)
    places, labels_left = _MAX_VOTERS, int((n_cells > 0).sum())
    for label in np.argsort(n_cells, kind="stable"):
        if n_cells[label] == 0:
            continue
        n_voters = min(int(n_cells[label]), places // labels_left)
        voters.append(np.sort(rng.choice(np.flatnonzero(code == label), n_voters, replace=False)))
        weight.append(np.full(n_voters, n_cells[label] / n_voters, np.float32))
        places, labels_left = places - n_voters, labels_left - 1
    return np.concatenate(voters), np.concatenate(weight)


def _find_neighbors(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest labeled rows (n, k) of other cells, and the distances to them."""
    cell = np.arange(len(z)) if cell is None else cell
    n_voters, rows_of_cell = len(labels.position), int(np.bincount(cell).max(initial=1))
    k = min(_NEIGHBORS, max(n_voters - rows_of_cell, 1))
    query, voters = _compute_features(z), _compute_features(labels.position)
    neighbors = knn(voters, min(k + rows_of_cell, n_voters), query=query, method="exact")
    own_voters = _find_own_voters(z, labels, neighbors.indices[:, 0], cell)
    same_cell = (neighbors.indices[:, :, None] == own_voters[:, None, :]).any(axis=2)
    keep = np.argsort(same_cell, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(neighbors.indices, keep, 1), np.take_along_axis(neighbors.distances, keep, 1)


def _find_own_voters(
    z: NDArray[np.float32], labels: Labels, nearest: NDArray[np.int64], cell: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the voters (n, m) that are rows of the same cell, -1 where there are fewer than m.

    A row is recognized as a voter by equal coordinates, bit by bit.
    """
    as_voter = np.where((labels.position[nearest] == z).all(axis=1), nearest, -1)
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], cell[order])
    table = np.full((int(cell.max(initial=0)) + 1, int(np.bincount(cell).max(initial=1))), -1)
    table[cell[order], np.arange(len(cell)) - first] = as_voter[order]
    own_voters: NDArray[np.int64] = table[cell]
    return own_voters


def _compute_features(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return position and direction (n, 2d): cells of a modality with a weaker signal are nearer to the center."""
    return np.hstack([z, unit_rows(z)])


def _count_votes(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Count the weighted votes of the neighbors.

    Returns (n, C) unnormalized log probabilities, and (n,) distances to the nearest labeled cell.
    """
    indices, distances = _find_neighbors(z, labels, cell)
    n_labels = len(labels.names)
    scale = np.maximum(np.median(distances, axis=1, keepdims=True), _TINY)
    weight = labels.weight[indices] * np.exp(-distances / scale)
    weight /= labels.weight[indices].mean(axis=1, keepdims=True)
    key = np.arange(len(z))[:, None] * n_labels + labels.code[indices]
    votes = np.bincount(key.ravel(), weight.ravel(), len(z) * n_labels).reshape(len(z), n_labels)
    return np.log(votes + _PRIOR_VOTES * _compute_frequencies(labels) + _TINY), distances[:, 0]


def _compute_frequencies(labels: Labels) -> NDArray[np.float64]:
    """Compute the frequencies (C,) of the labels among labeled cells."""
    n_cells = np.bincount(labels.code, labels.weight, len(labels.names))
    return n_cells / n_cells.sum()


def _fit_linear_classifiers(
    z: NDArray[np.float32],
    code: NDArray[np.int64],
    labels: Labels,
    starts: tuple[int, ...],
    cell: NDArray[np.int64] | None,
    votes: NDArray[np.float64],
) -> tuple[Labels, NDArray[np.float64]]:
    """Fit a linear classifier in each space.

    Returns the labels with the classifiers, and (n, C) log probabilities: means over the votes and the classifiers,
    where each labeled cell is scored by classifiers that were fitted without its label.
    """
    prior = np.log(_compute_frequencies(labels) + _TINY).astype(np.float32)
    known = code >= 0
    classifiers, log_p = [], []
    for start in starts:
        x = z[:, start:]
        space_votes = _count_votes_from(z, labels, cell, start, votes)
        classifier = _fit_co_trained(space_votes, code, x)
        classifier[-1] += prior
        score = _score(classifier, x)
        score[known] = _score_held_out(space_votes, code, x)[known] + prior
        classifiers.append(classifier)
        log_p += [log_softmax(space_votes, axis=1), log_softmax(score, axis=1)]
    return replace(labels, starts=starts, linear=tuple(classifiers)), np.mean(log_p, axis=0)


def _combine_linear(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None, votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the log probabilities (n, C) of the votes and of the linear classifiers over all spaces."""
    log_p = []
    for start, classifier in zip(labels.starts, labels.linear, strict=True):
        log_p.append(log_softmax(_count_votes_from(z, labels, cell, start, votes), axis=1))
        log_p.append(log_softmax(_score(classifier, z[:, start:]), axis=1))
    return np.mean(log_p, axis=0)


def _count_votes_from(
    z: NDArray[np.float32], labels: Labels, cell: NDArray[np.int64] | None, start: int, votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Count the votes in the coordinates from column `start` on; `votes` are those in all coordinates."""
    if start == 0:
        return votes
    return _count_votes(z[:, start:], replace(labels, position=labels.position[:, start:]), cell)[0]


def _score_own(
    classifier: NDArray[np.float32] | None, values: NDArray[np.float32] | None
) -> NDArray[np.float64] | float:
    """Compute the log likelihood ratios (n, C) of a modality's own representation; 0 without one."""
    return 0.0 if classifier is None or values is None else _score(classifier, values)


def _score(classifier: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    score: NDArray[np.float64] = np.asarray(values @ classifier[:-1] + classifier[-1], dtype=np.float64)
    return score


def _fit_reach(labels: Labels) -> float:
    """Compute the 99th percentile, over labeled cells, of the distance to the nearest other one."""
    _, distances = _find_neighbors(labels.position, labels)
    reach = float(np.quantile(distances[:, 0], 0.99)) if len(labels.position) > 1 else 0.0
    return reach if reach > 0 else float("inf")


def _fit_co_trained(votes: NDArray[np.float64], code: NDArray[np.int64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a classifier on x by co-training: on labels and votes, then again on labels and votes times its own output.

    Returns (d + 1, C) weights, the last row the intercepts.
    """
    known = np.flatnonzero(code >= 0)
    classifier = np.zeros((x.shape[1] + 1, votes.shape[1]), np.float32)
    for _ in range(2):
        target = softmax(votes + x @ classifier[:-1] + classifier[-1], axis=1)
        target[known] = np.eye(votes.shape[1])[code[known]]
        classifier = _fit_discriminant(x, target)
    return classifier


def _fit_discriminant(x: NDArray[np.float32], target: NDArray[np.float64]) -> NDArray[np.float32]:
    """Fit linear discriminant analysis with soft labels.

    - `x`: (n, d) rows.
    - `target`: (n, C) probabilities of the labels.

    Returns (d + 1, C) weights of log p(x | c) up to a function of x, the last row the intercepts.
    """
    center = x.mean(axis=0, dtype=np.float64)
    centered = x - center
    size = target.sum(axis=0)
    # the mean of a label with few cells is shrunk toward the overall mean, where its score is 0
    mean = (target.T @ centered) / (size + _PSEUDO_CELLS)[:, None]
    within = (centered.T @ centered - (mean.T * size) @ mean) / len(x)
    d = x.shape[1]
    variance = max(float(np.trace(within)) / d, _TINY)
    direction = np.linalg.solve((1 - _SHRINKAGE) * within + _SHRINKAGE * variance * np.eye(d), mean.T)
    offset = -0.5 * (mean.T * direction).sum(axis=0) - center @ direction
    return np.vstack([direction, offset]).astype(np.float32)


def _calibrate(
    log_p: Mapping[str, NDArray[np.float64]], code: NDArray[np.int64], views: OwnViews, labels: Labels, seed: int
) -> dict[str, float]:
    """Fit the temperature of each modality.

    With enough labels in the modality, it is the likeliest one for held-out labels: a cell does not vote for itself,
    and the own classifier is fitted without a fifth of the labels in turn. In a modality without labels, votes and
    classifier may be less independent than their product assumes. There the mean confidence is set to the mean
    probability that votes and classifier, averaged, give to the label that the product chooses.
    """
    rng = np.random.default_rng(seed)
    temperature = {}
    for modality, (rows, values) in views.items():
        labeled = np.flatnonzero(code[rows] >= 0)
        if len(labeled) >= _CALIBRATION_CELLS[0]:
            logit = log_p[modality] + _score_held_out(log_p[modality], code[rows], values)
            sample = _subsample(labeled, rng)
            temperature[modality] = _fit_temperature(logit[sample], code[rows][sample])
        elif values is not None and len(rows):
            sample = _subsample(np.arange(len(rows)), rng)
            score = _score_own(labels.own[modality], values[sample])
            votes = log_p[modality][sample]
            temperature[modality] = _match_confidence(votes + score, votes, _compute_frequencies(labels))
    return temperature


def _score_held_out(
    votes: NDArray[np.float64], code: NDArray[np.int64], values: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Score labeled rows (n, C) by classifiers that were fitted without their labels; 0 for other rows."""
    score = np.zeros_like(votes)
    if values is None:
        return score
    labeled = np.flatnonzero(code >= 0)
    for fold in range(_FOLDS):
        held_out = labeled[fold::_FOLDS]
        kept = code.copy()
        kept[held_out] = -1
        score[held_out] = _score(_fit_co_trained(votes, kept, values), values[held_out])
    return score


def _match_confidence(logit: NDArray[np.float64], votes: NDArray[np.float64], frequency: NDArray[np.float64]) -> float:
    """Fit the temperature at which the mean confidence is that of votes and classifier, averaged."""
    choice = logit.argmax(axis=1)[:, None]
    views = (votes, logit - votes + np.log(np.maximum(frequency, _TINY)))
    confidence = np.mean([np.take_along_axis(softmax(view, axis=1), choice, 1).mean() for view in views])

    def gap(log_temperature: float) -> float:
        return float(softmax(np.exp(log_temperature) * logit, axis=1).max(axis=1).mean() - confidence)

    low, high = _LOG_TEMPERATURE
    return float(np.exp(brentq(gap, low, high) if gap(low) < 0 < gap(high) else 0.0))


def _subsample(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    most = _CALIBRATION_CELLS[1]
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _fit_temperature(logit: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Fit the temperature with the highest likelihood of the true labels."""

    def loss(log_temperature: float) -> float:
        p = softmax(np.exp(log_temperature) * logit, axis=1)
        return float(-np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-6)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded").x))
