"""Prediction of a patient's condition from several distances, weighted by their predictions of held-out patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from muport._parallel import single_threaded
from muport.gmm.metric._component_plans import component_roots, plan_components
from muport.gmm.metric._ground_metric import IDENTITY, GroundMetric, select_least_loss
from muport.gmm.metric._kernel_ridge import Calibration, ridge_scores, to_probabilities
from muport.gmm.metric._metric_candidates import fit_metric_candidates
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._reference_states import squared_composition_distances

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.gmm.metric._component_plans import ComponentPlans
    from muport.gmm.metric._pair_scatters import CohortPlans
    from muport.gmm.mixtures._mixtures import Mixtures

    #: Plans among training patients, and from new ones to them, by offset and tau.
    type PlanCache = dict[tuple[bool, float], tuple[ComponentPlans, ComponentPlans]]

__all__ = ["FAMILIES", "PatientClassifier", "View", "fit_classifier", "predict_conditions"]

FAMILIES = ("state", "spread", "composition", "mixture")
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


@dataclass(frozen=True, eq=False)
class PatientClassifier:
    """Views with their weights, and the training patients that new ones are compared with.

    - `views`: All views, including those of negligible weight.
    - `mixtures`: Mixtures of the P training patients.
    - `condition`: (P,) codes.
    - `n_classes`: Number C of conditions.
    """

    views: tuple[View, ...]
    mixtures: Mixtures
    condition: Annotated[NDArray[np.int64], "P", "0..<n_classes"]
    n_classes: Annotated[int, "1.."]

    def check_consistency(self) -> None:
        """Raise a ValueError unless each patient has a mixture."""
        if len(self.mixtures) != len(self.condition):
            raise ValueError(f"there are {len(self.mixtures)} mixtures of {len(self.condition)} patients.")

    @property
    def metric(self) -> GroundMetric:
        """The metric of :func:`muport.gmm.metric._ground_metric.select_least_loss`."""
        return select_least_loss([view.metric for view in self.views])

    def family_weights(self) -> dict[str, float]:
        """Weight of each family of views in the prediction."""
        families = dict.fromkeys(FAMILIES, 0.0)
        for view in self.views:
            families[view.family] += view.weight
        return families


@single_threaded()
def fit_classifier(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    settings: MetricSettings = MetricSettings(),
    *,
    group: NDArray[np.int64] | None = None,
    plans: CohortPlans | None = None,
) -> PatientClassifier:
    """Fit all views and their weights.

    The four families of views (state, spread, composition, mixtures without a learned metric) have equal prior
    weights, divided evenly within a family. A view is weighted by prior x exp(-G loss), where the loss is that of the
    G held-out training groups: stacking by pseudo Bayesian model averaging (Yao et al. 2018).

    - `mixtures`: Mixtures of the training patients.
    - `condition`: (P,) codes 0..C-1.
    - `settings`: Options of the metrics.
    - `group`: (P,) person of each sample, if a person has several.
    - `plans`: Plans of these mixtures, which do not depend on the conditions; computed by default.
    """
    code = np.asarray(condition, dtype=np.int64)
    groups = np.arange(len(code)) if group is None else np.asarray(group)
    candidates = fit_metric_candidates(mixtures, code, settings, group=groups, plans=plans)
    views = [View(candidate.metric, candidate.calibration, 0.0) for candidate in candidates]
    families = [view.family for view in views]
    prior = np.array([1 / families.count(family) for family in families])
    loss = np.array([view.calibration.loss for view in views])
    weight = prior * np.exp(-len(np.unique(groups)) * (loss - loss.min()))
    weight /= weight.sum()
    weighted = tuple(View(view.metric, view.calibration, float(w)) for view, w in zip(views, weight, strict=True))
    return PatientClassifier(weighted, mixtures, code, int(code.max()) + 1)


@single_threaded()
def predict_conditions(
    classifier: PatientClassifier, mixtures: Mixtures, cache: PlanCache | None = None
) -> NDArray[np.float64]:
    """Predict probabilities (Q, C) of the conditions of new patients; rows sum to 1.

    - `mixtures`: Mixtures of Q patients in the representation of the training patients.
    - `cache`: Plans of earlier calls with the same training and new patients, for any conditions; extended by this
      call.
    """
    total = np.zeros((len(mixtures), classifier.n_classes))
    for view, train, new in _view_distances(classifier, mixtures, {} if cache is None else cache):
        scores = ridge_scores(train, new, classifier.condition, classifier.n_classes)[view.calibration.penalty]
        total += view.weight * to_probabilities(scores, view.calibration.slope)
    p: NDArray[np.float64] = total / total.sum(axis=1, keepdims=True)
    return p


def _view_distances(
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
