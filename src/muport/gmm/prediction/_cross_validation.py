"""Predictions for held-out patients: mixtures, metric and classifier are fitted again in each fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport._checks import check_integers
from muport.gmm.metric._kernel_ridge import balanced_loss, inner_folds
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.prediction._patient_classifier import fit_classifier, predict_conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    "CrossValidation", "bootstrap_intervals", "check_number_of_folds", "columns_of", "cross_validate",
    "describe_scores", "fit_fold", "fit_folds", "make_folds", "number_folds", "permutation_p_values", "permute_within",
    "predict_folds", "score_predictions", "summarize",
]  # fmt: skip

_N_BOOTSTRAP = 1000
_ROUNDING = 1e-12
_MIN_FOLDS = 5  # by default, if there are as many groups
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
    balanced_accuracy, log_loss
        Scores of all predictions together: mean recall, and balanced log-loss in nats.
    auroc
        Area under the ROC curve within folds, one condition against the rest if there are more than two: the fraction
        of pairs of patients of different conditions, held out in the same fold, in which the right one has the higher
        probability. One classifier predicts both, so the mean without signal is .5. NaN if no fold has such a pair.
    pooled_auroc
        The same over all pairs of patients. It is too low where patients are left out one by one: the fit without a
        patient has fewer of its condition, so that the mean without signal is about .4.
    intervals
        95 % intervals (low, high) of ``"balanced_accuracy"`` and ``"auroc"``, by a bootstrap over groups; NaN if no
        resampled set of groups has two conditions.
    families
        (F, 8) weights, in the predictions of each fold, of the state, spread, composition and unlearned mixture
        distances, of the log-ratios of components, of the means and of the variances of the states that all patients
        share, and of the log-ratios of annotated types.
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
    pooled_auroc: float = float("nan")

    def __repr__(self) -> str:
        """Describe the folds in one line, and each score in one."""
        scores = {"balanced_accuracy": self.balanced_accuracy, "auroc": self.auroc}
        title = f"CrossValidation: {len(self.condition)} patients, {self.probabilities.shape[1]} conditions"
        p_values = self.p_values if len(self.null) else {}
        return describe_scores(title, self.fold, {**scores, "log_loss": self.log_loss}, self.intervals, p_values)

    @property
    def p_values(self) -> dict[str, float]:
        """Permutation p-values of ``"balanced_accuracy"`` and ``"auroc"``: (1 + R of at least the score) / (1 + R)."""
        return permutation_p_values({"balanced_accuracy": self.balanced_accuracy, "auroc": self.auroc}, self.null)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(C, C) counts: rows are the true conditions, columns the predicted ones."""
        classes = self.probabilities.shape[1]
        pair = self.condition * classes + self.probabilities.argmax(axis=1)
        return np.bincount(pair, minlength=classes**2).reshape(classes, classes)

    def to_frame(self) -> pd.DataFrame:
        """Return the known and the predicted condition of each patient.

        Returns
        -------
        Columns ``"known"``, ``"predicted"`` and ``"fold"``, and the probability of each condition.
        """
        names = list(self.conditions or map(str, range(self.probabilities.shape[1])))
        index = pd.Index(self.samples or range(len(self.condition)))
        codes = {"known": self.condition, "predicted": self.probabilities.argmax(axis=1)}
        columns = {name: pd.Categorical.from_codes(code, categories=names) for name, code in codes.items()}
        table = pd.DataFrame({**columns, "fold": self.fold}, index=index)
        return table.join(pd.DataFrame(self.probabilities, index=index, columns=names).add_prefix("probability of "))


def describe_scores(
    title: str,
    fold: NDArray[np.int64],
    scores: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    p_values: Mapping[str, float],
) -> str:
    """Describe a validation in folds (P,): a line for each score, with its interval and p-value where there are any."""
    lines = [f"{title}, {len(np.unique(fold))} folds"]
    for name, score in scores.items():
        interval = "95 % interval {:.3f} to {:.3f}".format(*intervals[name]) if name in intervals else ""
        p_value = f"p = {p_values[name]:.3g}" if name in p_values else ""
        lines.append(", ".join(filter(None, (f"  {name:17} {score:.3f}", interval, p_value))))
    return "\n".join(lines)


def permutation_p_values(scores: Mapping[str, float], null: NDArray[np.float64]) -> dict[str, float]:
    """P-values of scores from those of R permutations (R, S): (1 + R of at least the score) / (1 + R)."""
    # sums of the same numbers in another order may differ by rounding
    reached = {name: (null[:, i] >= score - _ROUNDING).sum() for i, (name, score) in enumerate(scores.items())}
    return {name: float((1 + count) / (1 + len(null))) for name, count in reached.items()}


def cross_validate(
    cells: LabeledCells,
    fitter: Fitter,
    settings: MetricSettings = MetricSettings(),
    *,
    n_folds: int | None = None,
    n_permutations: int = 0,
    strata: NDArray[np.int64] | None = None,
    random_state: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> CrossValidation:
    """Predict every patient from the others: mixtures, metric, its options and the classifier are fitted without it.

    - `cells`: Cells and conditions of the patients. A representation that was computed from all cells, without
      conditions, is not computed again in each fold.
    - `fitter`: Fits the mixtures of each fold.
    - `settings`: Options of the metric.
    - `n_folds`: Number of folds with the conditions distributed evenly; by default that of :func:`make_folds`.
    - `n_permutations`: Number of repeats with permuted conditions, whose scores are those of chance.
    - `strata`: (P,) codes; conditions are permuted within strata.
    - `random_state`: Seed of the permutations and of the bootstrap.
    - `report`: Called with what is computed next.

    Raises ValueError if a condition has no patient outside a fold, or there are more folds than groups.
    """
    folds = make_folds(cells, n_folds)
    mixtures = fit_folds(cells, folds, fitter, report)
    rng = np.random.default_rng(random_state)
    labels = [cells.condition, *(_permute(cells.condition, folds, strata, rng) for _ in range(n_permutations))]
    p, families = predict_folds(mixtures, folds, labels, cells, settings, report)
    fold = number_folds(folds, len(cells))
    scores = [score_predictions(p[i], label, fold)[:2] for i, label in enumerate(labels[1:], start=1)]
    return summarize(p[0], cells, folds, families[0], np.array(scores).reshape(-1, 2), rng)


def score_predictions(
    p: NDArray[np.float64], condition: NDArray[np.int64], fold: NDArray[np.int64] | None = None
) -> tuple[float, float, float]:
    """Balanced accuracy, area under the ROC curve within folds and balanced log-loss of probabilities (P, C).

    - `fold`: (P,) fold of each patient; all patients are one fold by default.

    Examples
    --------
    >>> score_predictions(np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 0, 1]))[:2]
    (1.0, 1.0)
    """
    folds = np.zeros(len(condition), dtype=np.int64) if fold is None else fold
    accuracy, area = _PairScores.of(p, condition, folds).scores(np.ones(len(condition)))
    return accuracy, area, balanced_loss(p, condition)


@dataclass(frozen=True, eq=False)
class _PairScores:
    """What the scores of patients that count any number of times are computed from, by products of matrices.

    - `correct`: (P,) whether the condition was predicted.
    - `member`: (P, C) indicators of the conditions.
    - `pairs`: C matrices (P, P): which patients of a condition are compared with which others of their fold.
    - `wins`: C matrices (P, P): 1 for a pair in the right order, .5 for a tie.
    """

    correct: NDArray[np.float64]
    member: NDArray[np.float64]
    pairs: NDArray[np.float64]
    wins: NDArray[np.float64]

    @classmethod
    def of(cls, p: NDArray[np.float64], condition: NDArray[np.int64], fold: NDArray[np.int64]) -> _PairScores:
        """Compare probabilities (P, C) within folds."""
        member = np.eye(p.shape[1])[condition]
        together = fold[:, None] == fold
        pairs = member.T[:, :, None] * (1 - member.T[:, None]) * together
        order = np.sign(p.T[:, :, None] - p.T[:, None])
        return cls((p.argmax(axis=1) == condition).astype(np.float64), member, pairs, pairs * (order + 1) / 2)

    def scores(self, times: NDArray[np.float64]) -> tuple[float, float]:
        """Balanced accuracy and area, where each patient counts `times` (P,); NaN where there is nothing to compare."""
        size = times @ self.member
        recall = ((times * self.correct) @ self.member)[size > 0] / size[size > 0]
        number, won = ((matrix @ times) @ times for matrix in (self.pairs, self.wins))
        areas = won[number > 0] / number[number > 0]
        return float(recall.mean()), float(areas.mean()) if len(areas) else float("nan")


def check_number_of_folds(group: NDArray[np.int64], default: str, **numbers: int) -> None:
    """Raise a ValueError unless each number of folds is from 2 to that of the groups (P,) held out together.

    - `default`: What None stands for, for messages.
    - `numbers`: Number of folds by the name of its argument.
    """
    n_groups = len(np.unique(group))
    for name, value in numbers.items():
        check_integers(2, **{name: value})
        if value > n_groups:
            raise ValueError(
                f"{name}={value} is more than the {n_groups} patients, or groups of them, that are held out: pass at "
                f"most {n_groups}, or None for {default}."
            )


def make_folds(cells: LabeledCells, n_folds: int | None) -> list[NDArray[np.int64]]:
    """Return the patients of each fold, with the conditions distributed evenly.

    None makes as many folds as the rarest condition has groups, so that each has a group of every condition, but five
    if there are as many groups.
    """
    if n_folds is not None:
        check_number_of_folds(cells.group, "a patient of each condition in each fold", n_folds=n_folds)
    else:
        rarest = min(len(np.unique(cells.group[cells.condition == c])) for c in np.unique(cells.condition))
        n_folds = max(rarest, min(_MIN_FOLDS, int(cells.group.max()) + 1))
    folds = inner_folds(cells.condition, cells.group, n_folds)
    if sum(map(len, folds)) < len(cells):
        raise ValueError(
            "A condition would have no patient left in some fold: each needs patients of at least two groups, and more "
            "folds keep more of them."
        )
    return folds


def number_folds(folds: Sequence[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """Fold (n,) of each patient."""
    fold = np.zeros(n, dtype=np.int64)
    for index, rows in enumerate(folds):
        fold[rows] = index
    return fold


def fit_fold(cells: LabeledCells, rows: NDArray[np.int64], fitter: Fitter) -> FoldMixtures:
    """Fit the mixtures of the training patients and, from that fit, those of the held-out patients `rows`."""
    train = cells.subset(np.setdiff1d(np.arange(len(cells)), rows))
    test = cells.subset(rows)
    transform = fitter(train.x, train.sample, train.weight)
    return transform(train.x, train.sample, train.weight), transform(test.x, test.sample, test.weight)


def fit_folds(
    cells: LabeledCells,
    folds: Sequence[NDArray[np.int64]],
    fitter: Fitter,
    report: Callable[[str], None] = lambda _: None,
) -> list[FoldMixtures]:
    """Fit the mixtures of each fold, and report which one."""
    mixtures = []
    for i, rows in enumerate(folds):
        report(f"mixtures of fold {i + 1} of {len(folds)}")
        mixtures.append(fit_fold(cells, rows, fitter))
    return mixtures


def predict_folds(
    mixtures: Sequence[FoldMixtures],
    folds: Sequence[NDArray[np.int64]],
    labels: Sequence[NDArray[np.int64]],
    cells: LabeledCells,
    settings: MetricSettings,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict held-out patients under R sets of conditions; plans are computed once for all sets.

    Returns probabilities (R, P, C), and weights of the families of views (R, F, 8).
    """
    group, counts = cells.group, cells.counts()
    p = np.zeros((len(labels), len(group), max(int(label.max()) for label in labels) + 1))
    families = []
    for i, ((train, test), rows) in enumerate(zip(mixtures, folds, strict=True)):
        report(f"conditions of fold {i + 1} of {len(folds)}")
        rest = np.setdiff1d(np.arange(len(group)), rows)
        plans, weights = CohortPlans(train, settings.n_states, settings.random_state), []
        cache: PlanCache = {}
        for probabilities, label in zip(p, labels, strict=True):
            classifier = fit_classifier(
                train, label[rest], settings, group=group[rest], plans=plans, counts=counts.subset(rest),
                columns=columns_of(cells, rest),
            )  # fmt: skip
            probabilities[rows] = predict_conditions(
                classifier, test, cache, counts.subset(rows), columns_of(cells, rows)
            )
            weights.append(list(classifier.family_weights().values()))
        families.append(weights)
    return p, np.array(families).swapaxes(0, 1)


def columns_of(cells: LabeledCells, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Covariates of some patients, if there are any."""
    return None if cells.columns is None else cells.columns[rows]


def _permute(
    label: NDArray[np.int64],
    folds: Sequence[NDArray[np.int64]],
    strata: NDArray[np.int64] | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Permuted conditions, of which every one occurs outside every fold."""
    n_conditions = len(np.unique(label))
    for _ in range(_MAX_DRAWS):
        permuted = label[permute_within(strata, len(label), rng)]
        if all(len(np.unique(np.delete(permuted, rows))) == n_conditions for rows in folds):
            return permuted
    raise ValueError("No permutation leaves each fold with every condition: use more folds, or no permutations.")


def permute_within(strata: NDArray[np.int64] | None, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of n patients that keeps each in its stratum (n,); None is one stratum."""
    if strata is None:
        return rng.permutation(n)
    order = np.arange(n)
    for code in np.unique(strata):
        rows = np.flatnonzero(strata == code)
        order[rows] = rng.permutation(rows)
    return order


def summarize(
    p: NDArray[np.float64],
    cells: LabeledCells,
    folds: Sequence[NDArray[np.int64]],
    families: NDArray[np.float64],
    null: NDArray[np.float64],
    rng: np.random.Generator,
) -> CrossValidation:
    """Score predictions (P, C), with intervals by a bootstrap over groups."""
    label, fold = cells.condition, number_folds(folds, len(cells))
    pairs = _PairScores.of(p, label, fold)

    def scores(times: NDArray[np.int64]) -> tuple[float, ...]:
        return pairs.scores(times.astype(np.float64)) if _is_mixed(label, times) else (float("nan"), float("nan"))

    intervals = bootstrap_intervals(scores, ("balanced_accuracy", "auroc"), cells.group, rng)
    accuracy, area, loss = score_predictions(p, label, fold)
    pooled = score_predictions(p, label)[1]
    return CrossValidation(p, label, fold, accuracy, area, loss, intervals, families, null, pooled_auroc=pooled)


def bootstrap_intervals(
    scores: Callable[[NDArray[np.int64]], tuple[float, ...]],
    names: Sequence[str],
    group: NDArray[np.int64],
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of scores by a bootstrap over groups.

    - `scores`: Scores where each patient counts a number of times (P,); NaN where they are not defined.
    """
    n_groups = int(group.max()) + 1
    drawn = [np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups) for _ in range(_N_BOOTSTRAP)]
    resampled = np.array([scores(times[group]) for times in drawn])
    return {name: _interval(resampled[:, i]) for i, name in enumerate(names)}


def _is_mixed(label: NDArray[np.int64], times: NDArray[np.int64]) -> bool:
    """Whether patients that count `times` have at least two conditions."""
    return len(np.unique(label[times > 0])) > 1


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of the values that are not NaN."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)
