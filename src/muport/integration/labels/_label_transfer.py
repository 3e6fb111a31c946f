"""Transfer of labels by votes of labeled neighbors and by linear classifiers, with calibrated probabilities.

- Votes: the nearest labeled rows in the integrated space vote for a row of any modality.
- Modality classifiers: one in each modality's own representation, if that is another space.
- Joint classifier: one in the integrated space, if that is made of the own representations, for modalities with an own
  classifier.
- Calibration: an inverse temperature for each modality, fitted to held-out labels.
- Reach: distance to the labeled rows from which on the probabilities approach the uniform distribution.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

from muport._arrays import canonical_order, unit_rows
from muport.integration._fitted_state import LabelModel
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    #: Modality -> its rows, and their own representation; None if that is the integrated space.
    Representations = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float32] | None]]

__all__ = ["cross_validate_classifier", "fit_labels", "predict_labels"]

_MAX_VOTERS = 20_000  # labeled rows that are kept to vote, at most
_NEIGHBORS = 30  # labeled rows that vote for a row, at most
_PRIOR_VOTES = 0.5  # votes that are divided among the labels by their frequencies
_SHRINKAGE = 0.1  # weight of the mean variance in the covariance of a classifier
_PSEUDO_CELLS = 10.0  # rows at the overall mean that are added to each label in a classifier
_CALIBRATION_CELLS = (50, 5_000)  # fewest labeled rows to which an inverse temperature is fitted, and most rows used
_FOLDS = 5  # parts of the labels that are held out in turn
_LOG_INVERSE_TEMPERATURE = (-3.0, 2.0)  # bounds of its natural logarithm
_CANDIDATES = 3  # nearest voters, of which one may be the row itself
_SAME_PLACE = 1e-3  # distance of a row to itself as a voter, as a fraction of the reach, at most
_WEIGHT_OF_CONTAINED = 0.5  # of the classifiers in own representations of which the integrated space is made
_TINY = 1e-12  # keeps logarithms and quotients finite


def fit_labels(
    z: NDArray[np.float32],
    code: NDArray[np.int64],
    names: tuple[str, ...],
    representations: Representations,
    seed: int,
    cell: NDArray[np.int64] | None = None,
    n_voting: int | None = None,
    made_of_own: bool = False,
) -> LabelModel:
    """Choose the labeled rows that vote, fit the classifiers, and calibrate the probabilities.

    - `z`: (n, d) integrated rows, standardized.
    - `code`: (n,) labels, -1 where unknown; at least one is known.
    - `cell`: (n,) cell of each row; the rows of a cell do not vote for one another. By default each row is a cell.
    - `n_voting`: Only the first `n_voting` rows may vote; by default all. Classifiers and calibration use all rows.
    - `made_of_own`: Whether the integrated space is made of the own representations. Then a classifier is fitted in it
      too, and the modality classifiers count half, because votes and own representations are not independent given the
      label.
    """
    model = _choose_voters(z, code[:n_voting], names, seed)
    model = replace(model, reach=_fit_reach(model))
    log_votes, _ = _compute_log_votes(z, model, cell)
    log_p = {modality: log_votes[rows] for modality, (rows, _) in representations.items()}
    own = {modality: (rows, values) for modality, (rows, values) in representations.items() if values is not None}
    own_weight = _WEIGHT_OF_CONTAINED if made_of_own else 1.0
    if own and made_of_own:
        model, combined = _fit_joint_classifier(z, code, model, log_votes)
        log_p |= {modality: combined[rows] for modality, (rows, _) in own.items()}
    classifiers = {m: own_weight * _fit_co_trained(log_p[m], code[rows], values) for m, (rows, values) in own.items()}
    model = replace(model, modality_classifiers=classifiers)
    return replace(model, inverse_temperature=_calibrate(log_p, code, representations, model, own_weight, seed))


def predict_labels(
    z: NDArray[np.float32], model: LabelModel, representations: Representations, cell: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Predict the probabilities (n, C) of the labels of integrated rows; each row sums to 1.

    With v_c the votes for label c and, from the classifier on the modality's own representation h, s_c = log p(h | c)
    times its weight, up to a term that is the same for all labels::

        p_c is proportional to (v_c exp(s_c)) ** inverse_temperature

    With the weight 1, z and h are taken as independent given the label. With a joint classifier, v is, for modalities
    with an own classifier, the geometric mean of the votes and the joint classifier: votes can follow any shape, and a
    linear classifier is less sensitive to noise that is the same in all labels. At distance D from the
    nearest labeled row, the result is w p + (1 - w) / C with w = min(1, (reach / D)^2), so that a cell of an unknown
    type does not get a confident label.

    - `z`: (n, d) integrated rows, standardized. A row at the place of a labeled row is taken for it, and that row does
      not vote: no cell votes for itself.
    - `representations`, `cell`: As for :func:`fit_labels`; modalities may be missing.
    """
    logit, distance = _compute_log_votes(z, model, cell)
    scores = {
        modality: (rows, _score(model.modality_classifiers[modality], values))
        for modality, (rows, values) in representations.items()
        if values is not None and modality in model.modality_classifiers
    }
    if scores and model.joint_classifiers:
        rows = np.concatenate([rows for rows, _ in scores.values()])
        logit[rows] = _average_joint_log_p(z, model, cell, logit)[rows]
    for rows, score in scores.values():
        logit[rows] += score
    for modality, (rows, _) in representations.items():
        logit[rows] *= model.inverse_temperature.get(modality, 1.0)
    p = softmax(logit, axis=1)
    within_reach = np.minimum(1, np.square(model.reach / np.maximum(distance, _TINY)))[:, None]
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
    model = _choose_voters(z, code, tuple(map(str, range(n_labels))), seed)
    log_votes, _ = _compute_log_votes(z, model)
    prior = np.log(np.bincount(code[known], minlength=n_labels) / len(known) + _TINY)
    score = _score_held_out(log_votes, code, z)[known] + prior
    # With few labels the likeliest inverse temperature may be above 1, which would make the classifier overconfident.
    inverse_temperature = min(1.0, _fit_inverse_temperature(score, code[known]))
    weights = _fit_co_trained(log_votes, code, z)
    weights[-1] += prior.astype(np.float32)
    return np.float32(inverse_temperature) * weights, softmax(inverse_temperature * score, axis=1), code[known]


def _choose_voters(z: NDArray[np.float32], code: NDArray[np.int64], names: tuple[str, ...], seed: int) -> LabelModel:
    """Make a model of the rows that vote, without classifiers; only the rows that `code` (n,) covers may vote."""
    known = _find_labeled(z, code)
    voters, weight = _sample_voters(code[known], len(names), np.random.default_rng(seed))
    return LabelModel(names=names, position=z[known[voters]], code=code[known[voters]], weight=weight)


def _find_labeled(x: NDArray[np.floating], code: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the labeled rows of x (n, d), in an order that does not depend on that of the rows."""
    labeled = np.flatnonzero(code >= 0)
    return labeled[canonical_order(x[labeled])]


def _sample_voters(
    code: NDArray[np.int64], n_labels: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choose the rows that vote, and the number of rows that each stands for.

    All rows vote if they are not too many. Otherwise each label has an equal number of voters, and rare ones all.
    """
    if len(code) <= _MAX_VOTERS:
        return np.arange(len(code)), np.ones(len(code), np.float32)
    voters, weight = [], []
    n_rows = np.bincount(code, minlength=n_labels)
    n_left, labels_left = _MAX_VOTERS, int((n_rows > 0).sum())
    for label in np.argsort(n_rows, kind="stable"):
        if n_rows[label] == 0:
            continue
        n_voters = min(int(n_rows[label]), n_left // labels_left)
        voters.append(np.sort(rng.choice(np.flatnonzero(code == label), n_voters, replace=False)))
        weight.append(np.full(n_voters, n_rows[label] / n_voters, np.float32))
        n_left, labels_left = n_left - n_voters, labels_left - 1
    return np.concatenate(voters), np.concatenate(weight)


def _find_neighbors(
    z: NDArray[np.float32], model: LabelModel, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest labeled rows (n, k) of other cells, and the distances to them."""
    cell = np.arange(len(z)) if cell is None else cell
    n_voters, rows_of_cell = len(model.position), int(np.bincount(cell).max(initial=1))
    k = min(_NEIGHBORS, max(n_voters - rows_of_cell, 1))
    query, voters = _compute_features(z), _compute_features(model.position)
    neighbors = knn(voters, min(k + rows_of_cell, n_voters), query=query, method="exact")
    own_voters = _find_own_voters(z, model, neighbors.indices[:, :_CANDIDATES], cell)
    same_cell = (neighbors.indices[:, :, None] == own_voters[:, None, :]).any(axis=2)
    keep = np.argsort(same_cell, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(neighbors.indices, keep, 1), np.take_along_axis(neighbors.distances, keep, 1)


def _find_own_voters(
    z: NDArray[np.float32], model: LabelModel, nearest: NDArray[np.int64], cell: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the voters (n, m) that are rows of the same cell, -1 where there are fewer than m.

    A row is taken for the nearest voter if their distance is at most a thousandth of the reach. That is far below the
    distance of two cells, and above the rounding of coordinates, which differs with the number of rows of a query.

    - `nearest`: (n, c) candidates, the nearest voters up to the rounding of a search.
    """
    tolerance = _SAME_PLACE * model.reach if np.isfinite(model.reach) else 0.0
    distance = np.stack([np.linalg.norm(model.position[column] - z, axis=1) for column in nearest.T], axis=1)
    best = distance.argmin(axis=1)[:, None]
    is_voter = np.take_along_axis(distance, best, 1)[:, 0] <= tolerance
    as_voter = np.where(is_voter, np.take_along_axis(nearest, best, 1)[:, 0], -1)
    order = np.argsort(cell, kind="stable")
    first = np.searchsorted(cell[order], cell[order])
    table = np.full((int(cell.max(initial=0)) + 1, int(np.bincount(cell).max(initial=1))), -1)
    table[cell[order], np.arange(len(cell)) - first] = as_voter[order]
    own_voters: NDArray[np.int64] = table[cell]
    return own_voters


def _compute_features(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return position and direction (n, 2d), as cells of a modality with a weaker signal are nearer to the center."""
    return np.hstack([z, unit_rows(z)])


def _compute_log_votes(
    z: NDArray[np.float32], model: LabelModel, cell: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Compute the logarithms (n, C) of the neighbors' weighted votes, and the distances (n,) to the nearest voters."""
    indices, distances = _find_neighbors(z, model, cell)
    n_labels = len(model.names)
    scale = np.maximum(np.median(distances, axis=1, keepdims=True), _TINY)
    weight = model.weight[indices] * np.exp(-distances / scale)
    weight /= model.weight[indices].mean(axis=1, keepdims=True)
    key = np.arange(len(z))[:, None] * n_labels + model.code[indices]
    votes = np.bincount(key.ravel(), weight.ravel(), len(z) * n_labels).reshape(len(z), n_labels)
    return np.log(votes + _PRIOR_VOTES * _compute_frequencies(model) + _TINY), distances[:, 0]


def _compute_frequencies(model: LabelModel) -> NDArray[np.float64]:
    """Compute the frequencies (C,) of the labels among labeled rows."""
    n_rows = np.bincount(model.code, model.weight, len(model.names))
    return n_rows / n_rows.sum()


def _fit_joint_classifier(
    z: NDArray[np.float32], code: NDArray[np.int64], model: LabelModel, log_votes: NDArray[np.float64]
) -> tuple[LabelModel, NDArray[np.float64]]:
    """Fit a linear classifier in the integrated space.

    Returns the model with the classifier, and (n, C) log probabilities: means over the votes and the classifier, where
    each labeled row is scored by a classifier that was fitted without its label.
    """
    prior = np.log(_compute_frequencies(model) + _TINY).astype(np.float32)
    known = code >= 0
    classifier = _fit_co_trained(log_votes, code, z)
    classifier[-1] += prior
    score = _score(classifier, z)
    score[known] = _score_held_out(log_votes, code, z)[known] + prior
    log_p = np.mean([log_softmax(log_votes, axis=1), log_softmax(score, axis=1)], axis=0)
    return replace(model, subspace_starts=(0,), joint_classifiers=(classifier,)), log_p


def _average_joint_log_p(
    z: NDArray[np.float32], model: LabelModel, cell: NDArray[np.int64] | None, log_votes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average the log probabilities (n, C) of the votes and of the joint classifiers.

    Models of older versions have a second classifier, in a sub-space of z.
    """
    log_p = []
    for start, classifier in zip(model.subspace_starts, model.joint_classifiers, strict=True):
        log_p.append(log_softmax(_compute_subspace_log_votes(z, model, cell, start, log_votes), axis=1))
        log_p.append(log_softmax(_score(classifier, z[:, start:]), axis=1))
    return np.mean(log_p, axis=0)


def _compute_subspace_log_votes(
    z: NDArray[np.float32], model: LabelModel, cell: NDArray[np.int64] | None, start: int, log_p: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the log votes in the sub-space z[:, start:]; `log_p` are those in all coordinates."""
    if start == 0:
        return log_p
    return _compute_log_votes(z[:, start:], replace(model, position=model.position[:, start:]), cell)[0]


def _score(classifier: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the scores (n, C) of a linear classifier."""
    score: NDArray[np.float64] = np.asarray(values @ classifier[:-1] + classifier[-1], dtype=np.float64)
    return score


def _fit_reach(model: LabelModel) -> float:
    """Compute the 99th percentile, over the voters, of the distance to the nearest other voter."""
    _, distances = _find_neighbors(model.position, model)
    reach = float(np.quantile(distances[:, 0], 0.99)) if len(model.position) > 1 else 0.0
    return reach if reach > 0 else float("inf")


def _fit_co_trained(log_p: NDArray[np.float64], code: NDArray[np.int64], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a classifier on x by co-training: on labels and votes, then again on labels and votes times its own output.

    Returns (d + 1, C) weights, the last row the intercepts.
    """
    known = np.flatnonzero(code >= 0)
    classifier = np.zeros((x.shape[1] + 1, log_p.shape[1]), np.float32)
    for _ in range(2):
        target = softmax(log_p + x @ classifier[:-1] + classifier[-1], axis=1)
        target[known] = np.eye(log_p.shape[1])[code[known]]
        classifier = _fit_discriminant(x, target)
    return classifier


def _fit_discriminant(x: NDArray[np.float32], target: NDArray[np.float64]) -> NDArray[np.float32]:
    """Fit linear discriminant analysis of rows x (n, d) to probabilities `target` (n, C) of the labels.

    Returns (d + 1, C) weights of log p(x | c) up to a function of x, the last row the intercepts.
    """
    center = x.mean(axis=0, dtype=np.float64)
    centered = x - center
    size = target.sum(axis=0)
    # The mean of a label with few rows is shrunk toward the overall mean, where its score is 0. What its shrunken mean
    # does not explain of the scatter counts as scatter within labels.
    mean = (target.T @ centered) / (size + _PSEUDO_CELLS)[:, None]
    within = (centered.T @ centered - (mean.T * size) @ mean) / len(x)
    d = x.shape[1]
    total = float(np.square(centered).sum()) / (len(x) * d)
    variance = max(float(np.trace(within)) / d, _TINY * total) or 1.0
    direction = np.linalg.solve((1 - _SHRINKAGE) * within + _SHRINKAGE * variance * np.eye(d), mean.T)
    intercept = -0.5 * (mean.T * direction).sum(axis=0) - center @ direction
    return np.vstack([direction, intercept]).astype(np.float32)


def _calibrate(
    log_p: Mapping[str, NDArray[np.float64]],
    code: NDArray[np.int64],
    representations: Representations,
    model: LabelModel,
    own_weight: float,
    seed: int,
) -> dict[str, float]:
    """Fit the inverse temperature of each modality.

    With enough labels, it is the likeliest one for held-out labels: a row does not vote for itself, and the modality
    classifier is fitted without a fifth of the labels in turn. With fewer labels and an own representation, votes and
    classifier may be less independent than their product assumes: the mean confidence is set to the mean of the
    probabilities that each of them alone gives to the label that the product chooses. Otherwise there is no entry.
    """
    rng = np.random.default_rng(seed)
    inverse_temperature = {}
    for modality, (rows, values) in representations.items():
        labeled = np.flatnonzero(code[rows] >= 0)
        if len(labeled) >= _CALIBRATION_CELLS[0]:
            logit = log_p[modality] + own_weight * _score_held_out(log_p[modality], code[rows], values)
            sample = _subsample(labeled[canonical_order(logit[labeled])], rng)
            inverse_temperature[modality] = _fit_inverse_temperature(logit[sample], code[rows][sample])
        elif values is not None and len(rows):
            sample = _subsample(canonical_order(values), rng)
            log_votes = log_p[modality][sample]
            logit = log_votes + _score(model.modality_classifiers[modality], values[sample])
            of_classifier = (logit - log_votes) / own_weight + np.log(np.maximum(_compute_frequencies(model), _TINY))
            inverse_temperature[modality] = _match_confidence(logit, (log_votes, of_classifier))
    return inverse_temperature


def _score_held_out(
    log_p: NDArray[np.float64], code: NDArray[np.int64], values: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Score labeled rows (n, C) by classifiers that were fitted without their labels; 0 for other rows.

    Held-out labels still vote for the other rows, and these votes are targets of the classifiers.
    """
    score = np.zeros_like(log_p)
    if values is None:
        return score
    labeled = _find_labeled(values, code)
    for fold in range(_FOLDS):
        held_out = labeled[fold::_FOLDS]
        kept = code.copy()
        kept[held_out] = -1
        score[held_out] = _score(_fit_co_trained(log_p, kept, values), values[held_out])
    return score


def _match_confidence(logit: NDArray[np.float64], predictors: tuple[NDArray[np.float64], ...]) -> float:
    """Fit the inverse temperature of `logit` at which the mean confidence is the mean of the predictors' own.

    - `predictors`: (n, C) log probabilities, up to a term that is the same for all labels.
    """
    choice = logit.argmax(axis=1)[:, None]
    confidence = np.mean([np.take_along_axis(softmax(values, axis=1), choice, 1).mean() for values in predictors])

    def gap(log_inverse_temperature: float) -> float:
        return float(softmax(np.exp(log_inverse_temperature) * logit, axis=1).max(axis=1).mean() - confidence)

    low, high = _LOG_INVERSE_TEMPERATURE
    if not gap(low) < 0 < gap(high):
        return 1.0
    return float(np.exp(brentq(gap, low, high)))


def _subsample(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows, or a sample of them if they are too many to calibrate on."""
    most = _CALIBRATION_CELLS[1]
    return rows if len(rows) <= most else rng.choice(rows, most, replace=False)


def _fit_inverse_temperature(logit: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Fit the inverse temperature with the highest likelihood of the true labels."""

    def loss(log_inverse_temperature: float) -> float:
        p = softmax(np.exp(log_inverse_temperature) * logit, axis=1)
        return float(-np.log(np.maximum(p[np.arange(len(truth)), truth], 1e-6)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_INVERSE_TEMPERATURE, method="bounded").x))
