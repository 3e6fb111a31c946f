"""Prediction of a patient's condition from several views of the distances, weighed by what held-out patients say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._threads import single_threaded
from muport.gmm._coupled import couple
from muport.gmm._metric import IDENTITY, GroundMetric, composition_distances, fit_candidates, least_loss
from muport.gmm._predict import Calibration, probabilities, ridge_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.gmm._mixture import Mixtures

__all__ = ["FAMILIES", "PatientClassifier", "View", "fit_classifier", "predict"]

FAMILIES = ("state", "spread", "composition", "mixture")
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, eq=False)
class View:
    """One distance and its classifier.

    Attributes
    ----------
    metric
        The metric, learnt or not.
    calibration
        Penalty, slope and held-out loss.
    weight
        Share in the prediction.
    """

    metric: GroundMetric
    calibration: Calibration
    weight: float

    @property
    def family(self) -> str:
        """``"mixture"`` (nothing learnt), ``"composition"``, ``"state"``, or ``"spread"``: covariances move too."""
        if self.metric.method == IDENTITY:
            return "mixture"
        if self.metric.mix == 0:
            return "composition"
        return "spread" if self.metric.bures else "state"


@dataclass(frozen=True, eq=False)
class PatientClassifier:
    """Views with their weights, and the training patients that they compare with.

    Attributes
    ----------
    views
        All views, also those of no weight.
    mixtures
        Mixtures of the P training patients.
    condition
        (P,) codes.
    n_classes
        C.
    """

    views: tuple[View, ...]
    mixtures: Mixtures
    condition: NDArray[np.int64]
    n_classes: int

    @property
    def metric(self) -> GroundMetric:
        """The learnt metric of least held-out loss, see :func:`muport.gmm._metric.least_loss`."""
        return least_loss([view.metric for view in self.views])

    def family_weights(self) -> dict[str, float]:
        """Share of each family of views in the prediction."""
        families = dict.fromkeys(FAMILIES, 0.0)
        for view in self.views:
            families[view.family] += view.weight
        return families


@single_threaded()
def fit_classifier(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    *,
    group: NDArray[np.int64] | None = None,
    **settings: Any,
) -> PatientClassifier:
    """Fit every view and weigh it.

    The four families of views (state, spread, composition, mixtures without a learnt metric) have equal prior weights,
    shared evenly within a family, and each view is weighed by its likelihood exp(-G loss) of the G training patients
    when these are left out: stacking by pseudo Bayesian model averaging (Yao et al. 2018).

    Parameters
    ----------
    mixtures
        Mixtures of the training patients.
    condition
        (P,) codes 0..C-1.
    group
        (P,) patient of each sample, where one has several.
    settings
        As for :func:`muport.gmm._metric.fit_metric`.

    Returns
    -------
    PatientClassifier
    """
    code = np.asarray(condition, dtype=np.int64)
    groups = np.arange(len(code)) if group is None else np.asarray(group)
    learnt = fit_candidates(mixtures, code, group=groups, **settings)
    views = [View(one.metric, one.calibration, 0.0) for one in learnt]
    families = [view.family for view in views]
    prior = np.array([1 / families.count(family) for family in families])
    loss = np.array([view.calibration.loss for view in views])
    weight = prior * np.exp(-len(np.unique(groups)) * (loss - loss.min()))
    weight /= weight.sum()
    weighed = tuple(View(view.metric, view.calibration, float(w)) for view, w in zip(views, weight, strict=True))
    return PatientClassifier(weighed, mixtures, code, int(code.max()) + 1)


@single_threaded()
def predict(classifier: PatientClassifier, mixtures: Mixtures) -> NDArray[np.float64]:
    """Probabilities (Q, C) of the conditions of new patients; rows sum to 1.

    Parameters
    ----------
    classifier
        The fitted classifier.
    mixtures
        Mixtures of Q patients in the representation of the training patients.
    """
    out = np.zeros((len(mixtures), classifier.n_classes))
    for view, train, new in _distances(classifier, mixtures):
        scores = ridge_scores(train, new, classifier.condition, classifier.n_classes)[view.calibration.penalty]
        out += view.weight * probabilities(scores, view.calibration.slope)
    p: NDArray[np.float64] = out / out.sum(axis=1, keepdims=True)
    return p


def _distances(
    classifier: PatientClassifier, new: Mixtures
) -> Iterator[tuple[View, NDArray[np.float64], NDArray[np.float64]]]:
    """Squared distances within the training patients and to them, of each view that counts; plans are made once."""
    train = classifier.mixtures
    made: dict[tuple[bool, float], tuple[Any, Any]] = {}
    for view in classifier.views:
        if view.weight < _NEGLIGIBLE:
            continue
        metric = view.metric
        key = (metric.offset, metric.tau)
        if key not in made and metric.mix > 0:
            first, second = (metric.reference.centred(mix) if metric.offset else mix for mix in (train, new))
            how = {"tau": metric.tau, "bures": True, "scale": metric.scale}
            made[key] = couple(first, **how)[0], couple(second, first, **how)[0]  # type: ignore[arg-type]
        parts = []
        for whole, mix in zip(made[key] if metric.mix > 0 else (None, None), (train, new), strict=True):
            composition = composition_distances(mix, train, metric.reference) / metric.units[1]
            coupled = whole if whole is None or metric.bures else whole.of_means()
            state = 0.0 if coupled is None else coupled.squared(metric.w) / metric.units[0]
            parts.append(metric.mix * state + (1 - metric.mix) * composition)
        yield view, parts[0], parts[1]
