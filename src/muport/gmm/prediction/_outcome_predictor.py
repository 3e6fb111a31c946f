"""Prediction of an outcome that is not a class, from the views of the classifier.

Symbols: V views, P training patients, Q new patients, C levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.special import ndtri

from muport._parallel import single_threaded
from muport.gmm.metric._kernel_ridge import regress_held_out, ridge_regression
from muport.gmm.metric._metric_candidates import fit_metrics
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.prediction._outcome_fits import (
    fit_predictions,
    level_probabilities,
    outcome_densities,
    thresholds,
)
from muport.gmm.prediction._outcomes import Outcome, cumulative_hazard, outcome_folds
from muport.gmm.prediction._patient_classifier import (
    CoordinateView,
    PatientClassifier,
    View,
    assign_weights,
    coordinate_distances,
    view_distances,
)
from muport.gmm.prediction._view_weights import weigh_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm.metric._ground_metric import GroundMetric
    from muport.gmm.metric._log_ratios import CellCounts
    from muport.gmm.mixtures._mixtures import Mixtures
    from muport.gmm.prediction._patient_classifier import PlanCache

__all__ = ["OutcomePrediction", "OutcomePredictor", "fit_outcome", "predict_outcome"]

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class OutcomePredictor:
    """Views with their regressions and weights, and the training patients that new ones are compared with.

    - `views`: The views, fitted to slices of the outcome, with their weights.
    - `outcome`: The outcome of the P training patients.
    - `center`: Mean target of the training patients.
    - `cuts`: (C - 1,) thresholds between levels; empty for other outcomes.
    - `times`, `hazard`: (S,) steps of the cumulative hazard of patients of log-hazard 0; empty for other outcomes.
    """

    views: PatientClassifier
    outcome: Outcome
    center: Annotated[float, "any"]
    cuts: Annotated[NDArray[np.float64], "*"]
    times: Annotated[NDArray[np.float64], "S", "0.."]
    hazard: Annotated[NDArray[np.float64], "S", "0.."]

    def check_consistency(self) -> None:
        """Raise a ValueError unless each patient has an outcome, and levels have thresholds."""
        if len(self.outcome) != len(self.views.mixtures) or np.isnan(self.outcome.values).any():
            raise ValueError("a training patient has no outcome.")
        if len(self.cuts) != max(len(self.outcome.levels) - 1, 0):
            raise ValueError(f"there are {len(self.cuts)} thresholds of {len(self.outcome.levels)} levels.")

    @property
    def metric(self) -> GroundMetric:
        """The metric of the smallest held-out loss among those with a state distance."""
        return self.views.metric

    def family_weights(self) -> dict[str, float]:
        """Weight of each family of views in the prediction."""
        return self.views.family_weights()


@dataclass(frozen=True, eq=False)
class OutcomePrediction:
    """Predictions for Q patients.

    - `value`: (Q,) predicted number, mean rank of the level from 0 to 1, or log-hazard.
    - `error`: (Q,) standard deviation of the prediction; 0 for times.
    - `probabilities`: (Q, C) of the levels; C is 0 for other outcomes.
    - `deviation`: (Q,) difference of the prediction from that for the mean of the training patients.
    """

    value: NDArray[np.float64]
    error: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def interval(self, coverage: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper ends (Q,) of the intervals that hold the value with this probability."""
        reach = float(ndtri((1 + coverage) / 2)) * self.error
        return self.value - reach, self.value + reach


@single_threaded()
def fit_outcome(
    mixtures: Mixtures,
    outcome: Outcome,
    settings: MetricSettings = MetricSettings(),
    *,
    group: NDArray[np.int64] | None = None,
    plans: CohortPlans | None = None,
    counts: CellCounts | None = None,
    columns: NDArray[np.float64] | None = None,
) -> OutcomePredictor:
    """Fit all views and their weights, as :func:`muport.gmm.prediction._patient_classifier.fit_classifier` for classes.

    Metrics are fitted to slices of the outcome. Each view predicts the target of the outcome by ridge regression on its
    distances, and the views are weighted by the densities of the outcomes of held-out training patients.

    - `mixtures`: Mixtures of the P training patients.
    - `outcome`: Their outcomes, all known.
    - `settings`, `group`, `plans`, `counts`, `columns`: As for the classifier.
    """
    slices, groups = outcome.slices(), np.arange(len(outcome)) if group is None else np.asarray(group)
    cohort = CohortPlans(mixtures, settings.n_states, settings.random_state) if plans is None else plans
    metrics, squared = fit_metrics(mixtures, slices, settings, cohort)
    families, squared_coordinates = coordinate_distances(mixtures, cohort, counts)
    folds, target = outcome_folds(outcome, groups), outcome.target()
    predictions = regress_held_out(squared, target, folds, columns)
    if families:
        ratios = regress_held_out(lambda rows: squared_coordinates[None].repeat(len(rows), 0), target, folds, columns)
        predictions = np.concatenate([predictions, ratios])
    fits = fit_predictions(predictions, outcome)
    values = np.array([fit.slope * own[fit.penalty] for own, fit in zip(predictions, fits, strict=True)])
    errors = np.array([fit.error for fit in fits])
    densities = outcome_densities(values, errors, outcome)
    losses = -np.log(np.maximum(densities, _TINY))
    means = [float(np.nanmean(own)) if np.isfinite(own).any() else 0.0 for own in losses]
    parts = [replace(fit, loss=loss) for fit, loss in zip(fits, means, strict=True)]
    views = [View(replace(metric, loss=part.loss), part, 0.0) for metric, part in zip(metrics, parts, strict=False)]
    coordinate_views = [
        CoordinateView(family, part, 0.0) for family, part in zip(families, parts[len(views) :], strict=True)
    ]
    names = [view.family for view in views] + families
    simplest = names.index("types") if "types" in names else None
    # of a density there is one column: the outcome that was seen
    weight = weigh_views(densities[:, :, None], names, simplest, np.zeros(len(outcome), dtype=np.int64), groups)
    weighted, weighted_coordinates = assign_weights(views, coordinate_views, weight)
    classifier = PatientClassifier(
        weighted, mixtures, slices, int(slices.max()) + 1, weighted_coordinates, counts, columns
    )
    return _calibrated(classifier, outcome, weight, values, errors)


def _calibrated(
    classifier: PatientClassifier,
    outcome: Outcome,
    weight: NDArray[np.float64],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> OutcomePredictor:
    """The predictor with what the combination of the views needs: thresholds of levels, or the hazard.

    - `weight`, `errors`: (V,) weights and errors of the views.
    - `values`: (V, P) predictions of held-out training patients; NaN for those of no fold.
    """
    center = float(outcome.target().mean()) if outcome.kind != "survival" else 0.0
    known = np.isfinite(values).all(axis=0)
    combined = weight @ np.where(known, values, 0.0)
    cuts, times, hazard = np.zeros(0), np.zeros(0), np.zeros(0)
    if outcome.kind == "survival":
        times, hazard = cumulative_hazard(outcome.values, outcome.event, combined)
    elif outcome.kind == "ordinal":
        shares = np.bincount(outcome.values.astype(np.int64), minlength=len(outcome.levels)) / len(outcome)
        error = _combined_errors(weight, values[:, known], errors)
        cuts = thresholds(combined[known], error, shares) if known.any() else thresholds(
            np.zeros(1), np.array([1.0]), shares
        )  # fmt: skip
    return OutcomePredictor(classifier, outcome, center, cuts, times, hazard)


def _combined_errors(
    weight: NDArray[np.float64], values: NDArray[np.float64], errors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard deviations (P,) of mixtures of normal distributions, of weights (V,), means (V, P) and errors (V,)."""
    spread = np.square(values - weight @ values)
    variance: NDArray[np.float64] = weight @ (np.square(errors)[:, None] + spread) / max(weight.sum(), _TINY)
    return np.sqrt(variance)


@single_threaded()
def predict_outcome(
    predictor: OutcomePredictor,
    mixtures: Mixtures,
    cache: PlanCache | None = None,
    counts: CellCounts | None = None,
    columns: NDArray[np.float64] | None = None,
) -> OutcomePrediction:
    """Predict the outcomes of Q new patients; arguments as for the classifier."""
    outcome = predictor.outcome
    target = outcome.target()[:, None]
    target = target - target.mean(axis=0)
    weight = np.full(target.shape, 1 / len(target))
    values, weights, errors = [], [], []
    for view, train, new in view_distances(predictor.views, mixtures, {} if cache is None else cache, counts, columns):
        fit = view.calibration
        values.append(fit.slope * ridge_regression(train, new, weight, target)[fit.penalty, :, 0])
        weights.append(view.weight)
        errors.append(fit.error)
    share = np.array(weights) / np.sum(weights)
    own = np.array(values)
    deviation = share @ own
    error = _combined_errors(share, own, np.array(errors))
    p = np.zeros((len(deviation), 0))
    if outcome.kind == "ordinal":
        p = level_probabilities(deviation, error, predictor.cuts)
    return OutcomePrediction(predictor.center + deviation, error, p, deviation)
