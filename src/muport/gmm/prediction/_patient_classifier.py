"""Prediction of a patient's condition from several distances, weighted by their predictions of held-out patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from scipy.spatial.distance import cdist

from muport._parallel import single_threaded
from muport.gmm.metric._component_plans import component_roots, plan_components
from muport.gmm.metric._ground_metric import IDENTITY, GroundMetric, select_least_loss
from muport.gmm.metric._kernel_ridge import (
    Calibration,
    calibrate,
    inner_folds,
    ridge_scores,
    score_held_out,
    to_probabilities,
)
from muport.gmm.metric._log_ratios import CellCounts, state_ratios, type_ratios
from muport.gmm.metric._metric_candidates import fit_metric_candidates
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._nuisance import remove_covariates
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.metric._reference_states import squared_composition_distances
from muport.gmm.metric._state_moments import state_means, state_variances
from muport.gmm.prediction._view_weights import weigh_views

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from muport.gmm.metric._component_plans import ComponentPlans
    from muport.gmm.metric._reference_states import Reference
    from muport.gmm.mixtures._mixtures import Mixtures

    #: Plans among training patients, and from new ones to them, by offset and tau.
    type PlanCache = dict[tuple[bool, float], tuple[ComponentPlans, ComponentPlans]]

__all__ = [
    "FAMILIES", "CoordinateView", "PatientClassifier", "View", "assign_weights", "coordinate_distances",
    "fit_classifier", "predict_conditions", "view_distances",
]  # fmt: skip

FAMILIES = ("state", "spread", "composition", "mixture", "components", "means", "variances", "types")
_COORDINATES = ("components", "means", "variances")  # families of coordinates that need no annotation
#: Families of the views on coordinates; models of earlier versions have none, or only log-ratios.
_KNOWN_FAMILIES = [[], *([*names, *types] for names in (_COORDINATES[:1], _COORDINATES) for types in ((), ("types",)))]
_MIN_WEIGHT = 1e-3  # views of a smaller weight are not used in predictions


@dataclass(frozen=True, eq=False)
class View:
    """One distance and its classifier.

    - `metric`: The metric, learned or not.
    - `calibration`: Penalty, slope and held-out loss.
    - `weight`: Weight in the prediction.
    """

    metric: GroundMetric
    calibration: Calibration
    weight: Annotated[float, "0.."]

    @property
    def family(self) -> str:
        """``"mixture"`` (not learned), ``"composition"``, ``"state"``, or ``"spread"`` (state with covariances)."""
        if self.metric.method == IDENTITY:
            return "mixture"
        if self.metric.mix == 0:
            return "composition"
        return "spread" if self.metric.bures else "state"


@dataclass(frozen=True)
class CoordinateView:
    """Coordinates of the patients and their classifier.

    - `family`: ``"types"``: centered log-ratios of the annotated types. Of the states that all patients share:
      ``"components"``: centered log-ratios; ``"means"``: relative means; ``"variances"``: log-variances.
    - `calibration`: Penalty, slope and held-out loss.
    - `weight`: Weight in the prediction.
    """

    family: str
    calibration: Calibration
    weight: Annotated[float, "0.."]


@dataclass(frozen=True, eq=False)
class PatientClassifier:
    """Views with their weights, and the training patients that new ones are compared with.

    - `views`: All views on distances, including those of negligible weight.
    - `mixtures`: Mixtures of the P training patients.
    - `condition`: (P,) codes.
    - `n_classes`: Number C of conditions.
    - `coordinate_views`: Views on coordinates of the patients; none in models of earlier versions.
    - `counts`: Cells of the training patients, if there are views on coordinates.
    - `columns`: (P, q) covariates, whose effects are removed from all distances; None without covariates.
    """

    views: tuple[View, ...]
    mixtures: Mixtures
    condition: Annotated[NDArray[np.int64], "P", "0..<n_classes"]
    n_classes: Annotated[int, "1.."]
    coordinate_views: tuple[CoordinateView, ...] = ()
    counts: CellCounts | None = None
    columns: Annotated[NDArray[np.float64], "P *"] | None = None

    def check_consistency(self) -> None:
        """Raise a ValueError unless each patient has a mixture, and each view on coordinates its counts."""
        if len(self.mixtures) != len(self.condition):
            raise ValueError(f"there are {len(self.mixtures)} mixtures of {len(self.condition)} patients.")
        families = [view.family for view in self.coordinate_views]
        if families not in _KNOWN_FAMILIES:
            raise ValueError(f"there are views on the coordinates {families}.")
        if families and (self.counts is None or len(self.counts) != len(self.condition)):
            raise ValueError("the cells of the patients were not counted.")
        if "types" in families and self.counts is not None and not self.counts.types.any():
            raise ValueError("no cell has a type.")

    @property
    def metric(self) -> GroundMetric:
        """The metric of :func:`muport.gmm.metric._ground_metric.select_least_loss`."""
        return select_least_loss([view.metric for view in self.views])

    @property
    def all_views(self) -> list[View | CoordinateView]:
        """The views on distances, then those on coordinates."""
        return [*self.views, *self.coordinate_views]

    def family_weights(self) -> dict[str, float]:
        """Weight of each family of views in the prediction."""
        families = dict.fromkeys(FAMILIES, 0.0)
        for view in self.all_views:
            families[view.family] += view.weight
        return families

    def coordinates(self, family: str, mixtures: Mixtures, counts: CellCounts) -> NDArray[np.float64]:
        """Coordinates of patients, by the types or the states of the training patients."""
        return _coordinates(family, mixtures, counts, self.reference, _typed(self.counts))

    @property
    def reference(self) -> Reference:
        """The states that all patients share; one set for all views."""
        return self.views[0].metric.reference


@single_threaded()
def fit_classifier(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    settings: MetricSettings = MetricSettings(),
    *,
    group: NDArray[np.int64] | None = None,
    plans: CohortPlans | None = None,
    counts: CellCounts | None = None,
    columns: NDArray[np.float64] | None = None,
) -> PatientClassifier:
    """Fit all views and their weights.

    The views on distances belong to four families (state, spread, composition, mixtures without a learned metric); with
    `counts` there are coordinates: log-ratios, means and variances of the states that all patients share and, with
    annotation, log-ratios of the types. The weights are those of
    :func:`muport.gmm.prediction._view_weights.weigh_views`, shrunk toward the log-ratios of the types if there are any.
    The log-ratios of the states, which are estimated, were never better than the combination.

    - `mixtures`: Mixtures of the training patients.
    - `condition`: (P,) codes 0..C-1.
    - `settings`: Options of the metrics.
    - `group`: (P,) person of each sample, if a person has several.
    - `plans`: Plans of these mixtures, which do not depend on the conditions; computed by default.
    - `counts`: Cells of the training patients.
    - `columns`: (P, q) covariates, whose effects are removed from all distances.
    """
    code = np.asarray(condition, dtype=np.int64)
    groups = np.arange(len(code)) if group is None else np.asarray(group)
    cohort = CohortPlans(mixtures, settings.n_states, settings.random_state) if plans is None else plans
    candidates = fit_metric_candidates(mixtures, code, settings, group=groups, plans=cohort, columns=columns)
    views = [View(candidate.metric, candidate.calibration, 0.0) for candidate in candidates]
    coordinate_views, held_out = _fit_coordinate_views(mixtures, cohort, counts, code, groups, columns)
    probabilities = np.stack([*(candidate.held_out for candidate in candidates), *held_out])
    families = [view.family for view in views] + [view.family for view in coordinate_views]
    # the types come last
    simplest = families.index("types") if "types" in families else None
    weight = weigh_views(probabilities, families, simplest, code, groups)
    weighted, weighted_coordinates = assign_weights(views, coordinate_views, weight)
    return PatientClassifier(weighted, mixtures, code, int(code.max()) + 1, weighted_coordinates, counts, columns)


def assign_weights(
    views: Sequence[View], coordinate_views: Sequence[CoordinateView], weight: NDArray[np.float64]
) -> tuple[tuple[View, ...], tuple[CoordinateView, ...]]:
    """Return the views with their weights (V,): first those of the views on distances, then of those on coordinates."""
    weights = iter(weight.tolist())
    weighted = tuple(replace(view, weight=next(weights)) for view in views)
    return weighted, tuple(replace(view, weight=next(weights)) for view in coordinate_views)


def _fit_coordinate_views(
    mixtures: Mixtures,
    cohort: CohortPlans,
    counts: CellCounts | None,
    condition: NDArray[np.int64],
    group: NDArray[np.int64],
    columns: NDArray[np.float64] | None,
) -> tuple[list[CoordinateView], list[NDArray[np.float64]]]:
    """Views on coordinates, of weight 0, and their probabilities (P, C) of held-out patients."""
    families, squared = coordinate_distances(mixtures, cohort, counts)
    if not families:
        return [], []
    folds = inner_folds(condition, group)
    scores = score_held_out(lambda rows: squared[None].repeat(len(rows), 0), condition, folds, columns)
    fits = calibrate(scores, condition)
    views = [CoordinateView(family, fit, 0.0) for family, fit in zip(families, fits, strict=True)]
    return views, [to_probabilities(own[fit.penalty], fit.slope) for own, fit in zip(scores, fits, strict=True)]


def coordinate_distances(
    mixtures: Mixtures, cohort: CohortPlans, counts: CellCounts | None
) -> tuple[list[str], NDArray[np.float64]]:
    """Families of the views on coordinates, and their squared distances (V, P, P) among the training patients."""
    if counts is None:
        return [], np.zeros((0, len(mixtures), len(mixtures)))
    known = _typed(counts)
    families = [*_COORDINATES, *(["types"] if known.any() else [])]
    values = [_coordinates(family, mixtures, counts, cohort.reference, known) for family in families]
    return families, np.stack([cdist(own, own, "sqeuclidean") for own in values])


def _coordinates(
    family: str, mixtures: Mixtures, counts: CellCounts, reference: Reference, known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Coordinates of patients by the `known` types (T,), or by the states that all patients share."""
    if family == "types":
        return type_ratios(counts, known)
    of_states = {"components": state_ratios, "means": state_means, "variances": state_variances}[family]
    return of_states(mixtures, counts.total, reference)


def _typed(counts: CellCounts | None) -> NDArray[np.bool_]:
    """Which types (T,) any of the patients has."""
    return np.zeros(0, bool) if counts is None else counts.types.sum(axis=0) > 0


@single_threaded()
def predict_conditions(
    classifier: PatientClassifier,
    mixtures: Mixtures,
    cache: PlanCache | None = None,
    counts: CellCounts | None = None,
    columns: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Predict probabilities (Q, C) of the conditions of new patients; rows sum to 1.

    - `mixtures`: Mixtures of Q patients in the representation of the training patients.
    - `cache`: Plans of earlier calls with the same training and new patients, for any conditions; extended by this
      call.
    - `counts`: Cells of the new patients, needed by views on coordinates.
    - `columns`: (Q, q) covariates of the new patients, needed if the classifier removes their effects.
    """
    total = np.zeros((len(mixtures), classifier.n_classes))
    for view, train, new in view_distances(classifier, mixtures, {} if cache is None else cache, counts, columns):
        scores = ridge_scores(train, new, classifier.condition, classifier.n_classes)[view.calibration.penalty]
        total += view.weight * to_probabilities(scores, view.calibration.slope)
    p: NDArray[np.float64] = total / total.sum(axis=1, keepdims=True)
    return p


def view_distances(
    classifier: PatientClassifier,
    new: Mixtures,
    cache: PlanCache,
    counts: CellCounts | None,
    columns: NDArray[np.float64] | None = None,
) -> list[tuple[View | CoordinateView, NDArray[np.float64], NDArray[np.float64]]]:
    """Squared distances among training patients, and from new ones to them, of each view with a relevant weight."""
    distances: list[tuple[View | CoordinateView, NDArray[np.float64], NDArray[np.float64]]]
    distances = [*_metric_distances(classifier, new, cache), *_coordinate_distances(classifier, new, counts)]
    if classifier.columns is None:
        return distances
    if columns is None:
        raise ValueError("the classifier removes the effects of covariates: those of the new patients must be given.")
    return [(view, *remove_covariates(train, to, classifier.columns, columns)) for view, train, to in distances]


def _coordinate_distances(
    classifier: PatientClassifier, new: Mixtures, counts: CellCounts | None
) -> Iterator[tuple[CoordinateView, NDArray[np.float64], NDArray[np.float64]]]:
    """Squared distances among training patients, and from new ones to them, of each view with a relevant weight."""
    if not classifier.coordinate_views:
        return
    if counts is None or classifier.counts is None:
        raise ValueError("the classifier has views on coordinates: the cells of the new patients must be counted.")
    for view in classifier.coordinate_views:
        if view.weight < _MIN_WEIGHT:
            continue
        train = classifier.coordinates(view.family, classifier.mixtures, classifier.counts)
        of_new = classifier.coordinates(view.family, new, counts)
        yield view, cdist(train, train, "sqeuclidean"), cdist(of_new, train, "sqeuclidean")


def _metric_distances(
    classifier: PatientClassifier, new: Mixtures, cache: PlanCache
) -> Iterator[tuple[View, NDArray[np.float64], NDArray[np.float64]]]:
    """Squared distances among training patients, and from new ones to them, of each view with a relevant weight."""
    train = classifier.mixtures
    # views that differ only in their mix have the same state distances
    states: dict[tuple[Any, ...], list[NDArray[np.float64]]] = {}
    compositions: list[NDArray[np.float64]] = []
    for view in classifier.views:
        if view.weight < _MIN_WEIGHT:
            continue
        metric = view.metric
        key = metric.method, metric.offset, metric.tau, metric.bures, metric.ridge
        if key not in states and metric.mix > 0:
            states[key] = [plans.squared(metric.w) for plans in _view_plans(metric, train, new, cache)]
        if not compositions and metric.mix < 1:
            compositions = [squared_composition_distances(mix, train, metric.reference) for mix in (train, new)]
        squared = []
        for i in range(2):
            state = states[key][i] / metric.units[0] if metric.mix > 0 else 0.0
            composition = compositions[i] / metric.units[1] if metric.mix < 1 else 0.0
            squared.append(np.asarray(metric.mix * state + (1 - metric.mix) * composition))
        yield view, squared[0], squared[1]


def _view_plans(
    metric: GroundMetric, train: Mixtures, new: Mixtures, cache: PlanCache
) -> tuple[ComponentPlans, ComponentPlans]:
    """Plans among the training patients, and from the new ones to them, with the features of the metric."""
    key = metric.offset, metric.tau
    if key not in cache:
        first, second = (metric.reference.remove_offsets(mix) if metric.offset else mix for mix in (train, new))
        roots = component_roots(train), component_roots(new)
        options: dict[str, Any] = {"tau": metric.tau, "bures": True, "scale": metric.scale}
        own = plan_components(first, root=(roots[0], None), **options)[0]
        cache[key] = own, plan_components(second, first, root=roots[::-1], **options)[0]
    own, to_train = cache[key]
    return (own, to_train) if metric.bures else (own.means_only(), to_train.means_only())
