"""Prediction of a patient's condition from several views of the distances, weighed by what held-out patients say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._parallel import single_threaded
from muport.gmm.metric._component_couplings import component_roots, couple
from muport.gmm.metric._ground_metric import IDENTITY, GroundMetric, composition_distances, fit_candidates, least_loss
from muport.gmm.metric._kernel_ridge import Calibration, probabilities, ridge_scores
from muport.gmm.metric._pair_scatters import Couplings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from muport.gmm.metric._component_couplings import Coupled
    from muport.gmm.mixtures._mixtures import Mixtures

    #: Plans among training patients, and from new ones to them, by offset and tau.
    type Plans = dict[tuple[bool, float], tuple[Coupled, Coupled]]

__all__ = ["FAMILIES", "PatientClassifier", "View", "couplings_of", "fit_classifier", "predict"]

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
        """The learnt metric of least held-out loss, see :func:`muport.gmm.metric._ground_metric.least_loss`."""
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
    couplings: Couplings | None = None,
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
    couplings
        Of these mixtures, see :func:`couplings_of`; made if not given.
    settings
        As for :func:`muport.gmm.metric._ground_metric.fit_metric`.

    Returns
    -------
    PatientClassifier
    """
    code = np.asarray(condition, dtype=np.int64)
    groups = np.arange(len(code)) if group is None else np.asarray(group)
    learnt = fit_candidates(mixtures, code, group=groups, couplings=couplings, **settings)
    views = [View(one.metric, one.calibration, 0.0) for one in learnt]
    families = [view.family for view in views]
    prior = np.array([1 / families.count(family) for family in families])
    loss = np.array([view.calibration.loss for view in views])
    weight = prior * np.exp(-len(np.unique(groups)) * (loss - loss.min()))
    weight /= weight.sum()
    weighed = tuple(View(view.metric, view.calibration, float(w)) for view, w in zip(views, weight, strict=True))
    return PatientClassifier(weighed, mixtures, code, int(code.max()) + 1)


@single_threaded()
def couplings_of(mixtures: Mixtures, settings: Mapping[str, Any]) -> Couplings:
    """What all classifiers of these patients share under some settings, whatever the conditions."""
    return Couplings(mixtures, **{name: settings[name] for name in ("n_states", "random_state") if name in settings})


@single_threaded()
def predict(classifier: PatientClassifier, mixtures: Mixtures, plans: Plans | None = None) -> NDArray[np.float64]:
    """Probabilities (Q, C) of the conditions of new patients; rows sum to 1.

    Parameters
    ----------
    classifier
        The fitted classifier.
    mixtures
        Mixtures of Q patients in the representation of the training patients.
    plans
        What earlier calls with the same patients, old and new, have left here, whatever their conditions.
    """
    out = np.zeros((len(mixtures), classifier.n_classes))
    for view, train, new in _distances(classifier, mixtures, {} if plans is None else plans):
        scores = ridge_scores(train, new, classifier.condition, classifier.n_classes)[view.calibration.penalty]
        out += view.weight * probabilities(scores, view.calibration.slope)
    p: NDArray[np.float64] = out / out.sum(axis=1, keepdims=True)
    return p


def _distances(
    classifier: PatientClassifier, new: Mixtures, plans: Plans
) -> Iterator[tuple[View, NDArray[np.float64], NDArray[np.float64]]]:
    """Squared distances within the training patients and to them, of each view that counts; plans are made once."""
    train = classifier.mixtures
    # views that differ in their mix only share what they move
    moved: dict[tuple[Any, ...], list[NDArray[np.float64]]] = {}
    shares: list[NDArray[np.float64]] = []
    for view in classifier.views:
        if view.weight < _NEGLIGIBLE:
            continue
        metric = view.metric
        key = metric.method, metric.offset, metric.tau, metric.bures, metric.ridge
        if key not in moved and metric.mix > 0:
            moved[key] = [one.squared(metric.w) for one in _coupled(metric, train, new, plans)]
        if not shares and metric.mix < 1:
            shares = [composition_distances(mix, train, metric.reference) for mix in (train, new)]
        parts = []
        for i in range(2):
            state = moved[key][i] / metric.units[0] if metric.mix > 0 else 0.0
            share = shares[i] / metric.units[1] if metric.mix < 1 else 0.0
            parts.append(np.asarray(metric.mix * state + (1 - metric.mix) * share))
        yield view, parts[0], parts[1]


def _coupled(metric: GroundMetric, train: Mixtures, new: Mixtures, plans: Plans) -> tuple[Coupled, Coupled]:
    """Plans among the training patients, and from the new ones to them, in the coordinates of a view."""
    key = metric.offset, metric.tau
    if key not in plans:
        first, second = (metric.reference.centred(mix) if metric.offset else mix for mix in (train, new))
        roots = component_roots(train), component_roots(new)
        how: dict[str, Any] = {"tau": metric.tau, "bures": True, "scale": metric.scale}
        own = couple(first, root=(roots[0], None), **how)[0]
        plans[key] = own, couple(second, first, root=roots[::-1], **how)[0]
    own, other = plans[key]
    return (own, other) if metric.bures else (own.of_means(), other.of_means())
