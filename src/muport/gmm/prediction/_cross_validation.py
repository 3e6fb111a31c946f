"""Predictions for held-out patients: mixtures, metric and classifier are fitted again in each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from muport.gmm.metric._kernel_ridge import balanced_loss, inner_folds
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.prediction._patient_classifier import fit_classifier, predict_conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.gmm.mixtures._mixtures import Mixtures
    from muport.gmm.prediction._labeled_cells import LabeledCells
    from muport.gmm.prediction._patient_classifier import PlanCache

    #: Mixtures of a set of patients, from their cells (n, d), patients (n,) and weights (n,) or None.
    type Transform = Callable[[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None], Mixtures]
    #: Fit to the cells of the training patients; the result makes mixtures of these and of any other patients.
    type Fitter = Callable[[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None], Transform]
    #: Mixtures of the training patients and of the held-out patients of a fold.
    type FoldMixtures = tuple[Mixtures, Mixtures]

__all__ = [
    "CrossValidation", "cross_validate", "fit_fold", "make_folds", "predict_folds", "score_predictions", "summarize",
]  # fmt: skip

_N_BOOTSTRAP = 1000
_MAX_DRAWS = 1000  # permutations that are tried to find one with every condition in every fold


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Predictions for held-out patients, with everything fitted to the other patients.

    Attributes
    ----------
    probabilities
        (P, C) probabilities of the conditions.
    condition
        (P,) codes of the true conditions.
    fold
        (P,) fold in which each patient was held out.
    balanced_accuracy, auroc, log_loss
        Scores of all predictions together: mean recall, area under the ROC curve (one against the rest if there are
        more than two conditions), and balanced log-loss in nats.
    intervals
        95 % intervals (low, high) of ``"balanced_accuracy"`` and ``"auroc"``, by a bootstrap over groups.
    families
        (F, 6) weights, in the predictions of each fold, of the state, spread, composition and unlearned mixture
        distances, and of the log-ratios of components and of annotated types.
    null
        (R, 2) balanced accuracy and area under the ROC curve with permuted conditions; (0, 2) without permutations.
    samples, conditions
        Names of the P patients and of the C conditions.
    """

    probabilities: NDArray[np.float64]
    condition: NDArray[np.int64]
    fold: NDArray[np.int64]
    balanced_accuracy: float
    auroc: float
    log_loss: float
    intervals: dict[str, tuple[float, float]]
    families: NDArray[np.float64]
    null: NDArray[np.float64]
    samples: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C) counts: rows are the true conditions, columns the predicted ones."""
        classes = self.probabilities.shape[1]
        pair = self.condition * classes + self.probabilities.argmax(axis=1)
        return np.bincount(pair, minlength=classes**2).reshape(classes, classes)


def cross_validate(
    cells: LabeledCells,
    fitter: Fitter,
    settings: MetricSettings = MetricSettings(),
    *,
    n_folds: int | None = None,
    n_permutations: int = 0,
    random_state: int = 0,
) -> CrossValidation:
    """Predict every patient from the others: mixtures, metric, its options and the classifier are fitted without it.

    - `cells`: Cells and conditions of the patients. A representation that was computed from all cells, without
      conditions, is not computed again in each fold.
    - `fitter`: Fits the mixtures of each fold.
    - `settings`: Options of the metric.
    - `n_folds`: Number of folds with the conditions distributed evenly; by default each group is a fold.
    - `n_permutations`: Number of repeats with permuted conditions, whose scores are those of chance.
    - `random_state`: Seed of the permutations and of the bootstrap.

    Raises ValueError if a condition has no patient outside a fold.
    """
    folds = make_folds(cells, n_folds)
    mixtures = [fit_fold(cells, rows, fitter) for rows in folds]
    rng = np.random.default_rng(random_state)
    labels = [cells.condition, *(_permute(cells.condition, folds, rng) for _ in range(n_permutations))]
    p, families = predict_folds(mixtures, folds, labels, cells, settings)
    null = [score_predictions(probabilities, label)[:2] for probabilities, label in zip(p[1:], labels[1:], strict=True)]
    return summarize(p[0], cells, folds, families[0], np.array(null).reshape(-1, 2), rng)


def score_predictions(p: NDArray[np.float64], condition: NDArray[np.int64]) -> tuple[float, float, float]:
    """Balanced accuracy, area under the ROC curve and balanced log-loss of probabilities (P, C).

    Examples
    --------
    >>> score_predictions(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 0, 1]))[:2]
    (1.0, 1.0)
    """
    present = np.unique(condition)
    correct = p.argmax(axis=1) == condition
    accuracy = float(np.mean([correct[condition == code].mean() for code in present]))
    areas = [_auroc(p[:, code], condition == code) for code in present]
    return accuracy, float(np.mean(areas)), balanced_loss(p, condition)


def _auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney); ties count half.

    scikit-learn's function gives the same value up to rounding, but its checks are too slow for a bootstrap.
    """
    n = int(positive.sum())
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def make_folds(cells: LabeledCells, n_folds: int | None) -> list[NDArray[np.int64]]:
    """Return the patients of each fold; None makes a fold of each group."""
    if n_folds is not None and n_folds < 2:
        raise ValueError(f"n_folds={n_folds} must be at least 2, or None to leave out each group.")
    folds = inner_folds(cells.condition, cells.group, int(cells.group.max()) + 1 if n_folds is None else n_folds)
    if sum(map(len, folds)) < len(cells):
        raise ValueError(
            "A condition would have no patient left in some fold: each needs patients of at least two groups, and more "
            "folds keep more of them."
        )
    return folds


def fit_fold(cells: LabeledCells, rows: NDArray[np.int64], fitter: Fitter) -> FoldMixtures:
    """Fit the mixtures of the training patients and, from that fit, those of the held-out patients `rows`."""
    train = cells.subset(np.setdiff1d(np.arange(len(cells)), rows))
    test = cells.subset(rows)
    transform = fitter(train.x, train.sample, train.weight)
    return transform(train.x, train.sample, train.weight), transform(test.x, test.sample, test.weight)


def predict_folds(
    mixtures: Sequence[FoldMixtures],
    folds: Sequence[NDArray[np.int64]],
    labels: Sequence[NDArray[np.int64]],
    cells: LabeledCells,
    settings: MetricSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict held-out patients under R sets of conditions; plans are computed once for all sets.

    Returns probabilities (R, P, C), and weights of the families of views (R, F, 6).
    """
    group, counts = cells.group, cells.counts()
    p = np.zeros((len(labels), len(group), max(int(label.max()) for label in labels) + 1))
    families = []
    for (train, test), rows in zip(mixtures, folds, strict=True):
        rest = np.setdiff1d(np.arange(len(group)), rows)
        plans, weights = CohortPlans(train, settings.n_states, settings.random_state), []
        cache: PlanCache = {}
        for probabilities, label in zip(p, labels, strict=True):
            classifier = fit_classifier(
                train, label[rest], settings, group=group[rest], plans=plans, counts=counts.subset(rest)
            )
            probabilities[rows] = predict_conditions(classifier, test, cache, counts.subset(rows))
            weights.append(list(classifier.family_weights().values()))
        families.append(weights)
    return p, np.array(families).swapaxes(0, 1)


def _permute(
    label: NDArray[np.int64], folds: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Permuted conditions, of which every one occurs outside every fold."""
    n_conditions = len(np.unique(label))
    for _ in range(_MAX_DRAWS):
        permuted = rng.permutation(label)
        if all(len(np.unique(np.delete(permuted, rows))) == n_conditions for rows in folds):
            return permuted
    raise ValueError("No permutation leaves each fold with every condition: use more folds, or no permutations.")


def summarize(
    p: NDArray[np.float64],
    cells: LabeledCells,
    folds: Sequence[NDArray[np.int64]],
    families: NDArray[np.float64],
    null: NDArray[np.float64],
    rng: np.random.Generator,
) -> CrossValidation:
    """Score predictions (P, C), with intervals by a bootstrap over groups."""
    label = cells.condition
    fold = np.zeros(len(label), dtype=np.int64)
    for index, rows in enumerate(folds):
        fold[rows] = index
    members = [np.flatnonzero(cells.group == group) for group in range(int(cells.group.max()) + 1)]
    resampled = []
    for _ in range(_N_BOOTSTRAP):
        rows = np.concatenate([members[group] for group in rng.integers(len(members), size=len(members))])
        if len(np.unique(label[rows])) > 1:
            resampled.append(score_predictions(p[rows], label[rows])[:2])
    low, high = (
        np.quantile(np.array(resampled), [0.025, 0.975], axis=0) if resampled else np.full((2, 2), np.nan)
    )  # fmt: skip
    accuracy, area, loss = score_predictions(p, label)
    names = ("balanced_accuracy", "auroc")
    intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return CrossValidation(p, label, fold, accuracy, area, loss, intervals, families, null)
