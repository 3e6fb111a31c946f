"""Predictions of outcomes for held-out patients, with everything fitted again in each fold.

Symbols: P patients, F folds, R permutations, S scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.prediction._cross_validation import (
    bootstrap_intervals,
    check_number_of_folds,
    columns_of,
    describe_scores,
    fit_fold,
    number_folds,
    permutation_p_values,
    permute_within,
)
from muport.gmm.prediction._outcome_predictor import OutcomePrediction, fit_outcome, predict_outcome
from muport.gmm.prediction._outcomes import outcome_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.prediction._cross_validation import Fitter, FoldMixtures
    from muport.gmm.prediction._labeled_cells import LabeledCells
    from muport.gmm.prediction._outcomes import Outcome
    from muport.gmm.prediction._patient_classifier import PlanCache

__all__ = ["OutcomeValidation", "validate_outcome"]

_N_FOLDS = 5
_MAX_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class OutcomeValidation:
    """Predictions of an outcome for held-out patients, with everything fitted to the other patients.

    Attributes
    ----------
    outcome
        The outcomes of the P patients.
    value
        (P,) predicted number, mean rank of the level (0 to 1), or log-hazard.
    error
        (P,) standard deviation of a predicted number; 0 for times.
    probabilities
        (P, C) of the levels; C is 0 for other outcomes.
    fold
        (P,) fold in which each patient was held out.
    scores
        Continuous: ``"spearman"``, the rank correlation of the outcomes with the predictions, each less the mean of the
        training patients of its fold, and ``"r2"``, 1 - (squared error) / (squared error of that mean). Ordinal:
        ``"concordance"`` and ``"spearman"``. Survival: ``"c_index"`` (Harrell). Concordance and C-index compare
        patients of one fold, which one model predicts: the fraction of the pairs in the right order. Without signal the
        mean of the rank correlation is 0 and that of concordance and C-index .5; R2 is at most 0 on average.
    intervals
        95 % intervals (low, high) of the scores, by a bootstrap over groups.
    families
        (F, 8) weights of the families of views in each fold, as in :class:`muport.gmm.CrossValidation`.
    null
        (R, S) scores with permuted outcomes, in the order of `scores`; (0, S) without permutations.
    samples
        Names of the P patients.
    """

    outcome: Outcome
    value: NDArray[np.float64]
    error: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    fold: NDArray[np.int64]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    families: NDArray[np.float64]
    null: NDArray[np.float64]
    samples: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Describe the folds in one line, and each score in one."""
        title = f"OutcomeValidation: {len(self.value)} patients, {self.outcome.kind} outcome"
        p_values = self.p_values if len(self.null) else {}
        return describe_scores(title, self.fold, self.scores, self.intervals, p_values)

    @property
    def p_values(self) -> dict[str, float]:
        """Permutation p-values of the scores: (1 + R of at least the score) / (1 + R)."""
        return permutation_p_values(self.scores, self.null)

    def to_frame(self) -> pd.DataFrame:
        """Return the known and the predicted outcome of each patient.

        Returns
        -------
        Columns ``"known"``, ``"predicted"`` and ``"fold"``; with ``"lower"`` and ``"upper"`` ends of 95 % intervals of
        a number, or ``"event"`` of a time, whose prediction is the log-hazard.
        """
        table = pd.DataFrame({"known": self.outcome.values, "predicted": self.value, "fold": self.fold})
        table.index = pd.Index(self.samples or range(len(self.value)))
        if self.outcome.kind == "continuous":
            low, high = OutcomePrediction(self.value, self.error, self.probabilities, self.value).interval()
            return table.assign(lower=low, upper=high)
        if self.outcome.kind == "survival":
            return table.assign(event=self.outcome.event)
        predicted = self.probabilities.argmax(axis=1)
        for name, codes in (("known", self.outcome.values.astype(np.int64)), ("predicted", predicted)):
            table[name] = pd.Categorical.from_codes(codes, categories=list(self.outcome.levels), ordered=True)
        return table


def validate_outcome(
    cells: LabeledCells,
    outcome: Outcome,
    fitter: Fitter,
    settings: MetricSettings = MetricSettings(),
    *,
    n_folds: int | None = None,
    n_permutations: int = 0,
    strata: NDArray[np.int64] | None = None,
    random_state: int = 0,
) -> OutcomeValidation:
    """Predict the outcome of every patient from the others; arguments as for classes.

    - `outcome`: Outcomes of the patients of `cells`, all known.
    - `n_folds`: Number of folds, each over the range of the outcome; 5 by default, or one for each group if there are
      fewer.
    - `strata`: (P,) codes; outcomes are permuted within strata.

    Raises ValueError if `n_folds` is less than 2 or more than the groups, or the patients outside a fold have no
    outcomes that differ.
    """
    if n_folds is not None:
        check_number_of_folds(cells.group, f"{_N_FOLDS}, or fewer if there are fewer patients", n_folds=n_folds)
    folds = outcome_folds(outcome, cells.group, _N_FOLDS if n_folds is None else n_folds)
    for rows in folds:
        outcome.subset(np.setdiff1d(np.arange(len(cells)), rows)).check_variation("the outcome outside a fold")
    rng = np.random.default_rng(random_state)
    mixtures = [fit_fold(cells, rows, fitter) for rows in folds]
    outcomes = [outcome, *(_permute(outcome, folds, strata, rng) for _ in range(n_permutations))]
    predictions, families = _predict_folds(mixtures, folds, outcomes, cells, settings)
    fold = number_folds(folds, len(cells))
    names, everyone = _score_names(outcome), np.ones(len(cells), dtype=np.int64)
    scorers = [_Scorer.of(own, p, fold) for own, p in zip(outcomes, predictions, strict=True)]
    scores, *null = (scorer.scores(everyone) for scorer in scorers)
    intervals = bootstrap_intervals(scorers[0].scores, names, cells.group, rng)
    own = predictions[0]
    return OutcomeValidation(
        outcome, own.value, own.error, own.probabilities, fold, dict(zip(names, scores, strict=True)), intervals,
        families, np.array(null).reshape(-1, len(names)),
    )  # fmt: skip


def _score_names(outcome: Outcome) -> tuple[str, ...]:
    return {
        "continuous": ("spearman", "r2"), "ordinal": ("concordance", "spearman"), "survival": ("c_index",),
    }[outcome.kind]  # fmt: skip


def _permute(
    outcome: Outcome, folds: Sequence[NDArray[np.int64]], strata: NDArray[np.int64] | None, rng: np.random.Generator
) -> Outcome:
    """Permuted outcomes, that differ outside every fold."""
    everyone = np.arange(len(outcome))
    for _ in range(_MAX_DRAWS):
        permuted = outcome.subset(permute_within(strata, len(outcome), rng))
        try:
            for rows in folds:
                permuted.subset(np.setdiff1d(everyone, rows)).check_variation("the outcome")
        except ValueError:
            continue
        return permuted
    raise ValueError("No permutation leaves outcomes that differ outside each fold: use no permutations.")


def _predict_folds(
    mixtures: Sequence[FoldMixtures],
    folds: Sequence[NDArray[np.int64]],
    outcomes: Sequence[Outcome],
    cells: LabeledCells,
    settings: MetricSettings,
) -> tuple[list[OutcomePrediction], NDArray[np.float64]]:
    """Predictions of held-out patients for each of the outcomes, and weights (F, 8) of families for the first."""
    counts, n = cells.counts(), len(cells)
    n_levels = len(outcomes[0].levels)
    results = [
        OutcomePrediction(np.zeros(n), np.zeros(n), np.zeros((n, n_levels)), np.zeros(n)) for _ in outcomes
    ]  # fmt: skip
    families = []
    for (train, test), rows in zip(mixtures, folds, strict=True):
        rest = np.setdiff1d(np.arange(n), rows)
        plans = CohortPlans(train, settings.n_states, settings.random_state)
        cache: PlanCache = {}
        for index, (outcome, result) in enumerate(zip(outcomes, results, strict=True)):
            predictor = fit_outcome(
                train, outcome.subset(rest), settings, group=cells.group[rest], plans=plans, counts=counts.subset(rest),
                columns=columns_of(cells, rest),
            )  # fmt: skip
            own = predict_outcome(predictor, test, cache, counts.subset(rows), columns_of(cells, rows))
            for name in ("value", "error", "probabilities", "deviation"):
                getattr(result, name)[rows] = getattr(own, name)
            if index == 0:
                families.append(list(predictor.family_weights().values()))
    return results, np.array(families)


@dataclass(frozen=True, eq=False)
class _Scorer:
    """What the scores of patients that count any number of times are computed from.

    - `pairs`, `wins`: (P, P) whether a pair is compared, and 1 for a pair in the right order, .5 for a tie.
    - `squared`: (P, 2) squared errors of the prediction and of the mean of the training patients.
    """

    outcome: Outcome
    deviation: NDArray[np.float64]
    pairs: NDArray[np.float64]
    wins: NDArray[np.float64]
    squared: NDArray[np.float64]

    @classmethod
    def of(cls, outcome: Outcome, prediction: OutcomePrediction, fold: NDArray[np.int64]) -> _Scorer:
        """Compare predictions with outcomes."""
        values, event = outcome.values, outcome.event
        if outcome.kind == "survival":
            # the first patient of a pair had the event before the second, or when the second was last seen
            later = (values[:, None] < values) | ((values[:, None] == values) & (event == 0))
            ordered = later & (event[:, None] == 1)
        else:
            ordered = values[:, None] > values
        pairs = (ordered & (fold[:, None] == fold)).astype(np.float64)
        np.fill_diagonal(pairs, 0)
        order = np.sign(prediction.deviation[:, None] - prediction.deviation)
        mean = prediction.value - prediction.deviation
        squared = np.square(np.stack([values - prediction.value, values - mean], axis=1))
        return cls(outcome, prediction.deviation, pairs, pairs * (order + 1) / 2, squared)

    def scores(self, times: NDArray[np.int64]) -> tuple[float, ...]:
        """The scores, where each patient counts `times` (P,); NaN where there is nothing to compare."""
        if self.outcome.kind == "continuous":
            own, mean = times @ self.squared
            return self._spearman(times), 1 - float(own / mean) if mean > 0 else float("nan")
        number, won = ((matrix @ times) @ times for matrix in (self.pairs, self.wins))
        concordance = float(won / number) if number > 0 else float("nan")
        return (concordance,) if self.outcome.kind == "survival" else (concordance, self._spearman(times))

    def _spearman(self, times: NDArray[np.int64]) -> float:
        """Rank correlation; 0 if all predictions are equal."""
        rows = np.repeat(np.arange(len(times)), times)
        first, second = (rankdata(x[rows]) for x in (self.outcome.values, self.deviation))
        first, second = first - first.mean(), second - second.mean()
        norm = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
        return float(first @ second) / norm if norm > 0 else 0.0
