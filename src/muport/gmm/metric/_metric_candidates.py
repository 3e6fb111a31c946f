"""Ground metrics for all combinations of options, with their losses on held-out patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from muport._parallel import parallel_map, single_threaded
from muport.gmm.metric._discriminant_axes import canonicalize, discriminant_axes, pair_weights
from muport.gmm.metric._gradient_training import train_metric
from muport.gmm.metric._ground_metric import IDENTITY, GroundMetric
from muport.gmm.metric._kernel_ridge import Calibration, calibrate, inner_folds, score_held_out, to_probabilities
from muport.gmm.metric._metric_settings import MetricSettings
from muport.gmm.metric._pair_scatters import CohortPlans
from muport.gmm.metric._reference_states import squared_composition_distances

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.gmm.metric._pair_scatters import PairScatters
    from muport.gmm.mixtures._mixtures import Mixtures

    #: Rows of F folds -> squared distances (F, V, P, P) of fits without these rows.
    type HeldOutDistances = Callable[[Sequence[NDArray[np.int64]]], NDArray[np.float64]]

__all__ = ["MetricCandidate", "fit_metric_candidates", "fit_metrics"]


@dataclass(frozen=True, eq=False)
class MetricCandidate:
    """A metric and how well a classifier on its distances predicts held-out patients.

    - `metric`: The metric, fitted to all patients.
    - `calibration`: Penalty, slope and loss of the classifier.
    - `held_out`: (P, C) probabilities of training patients by fits to the others; NaN for patients of no fold.
    """

    metric: GroundMetric
    calibration: Calibration
    held_out: NDArray[np.float64]


@single_threaded()
def fit_metric_candidates(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    settings: MetricSettings = MetricSettings(),
    *,
    group: NDArray[np.int64] | None = None,
    plans: CohortPlans | None = None,
    columns: NDArray[np.float64] | None = None,
) -> list[MetricCandidate]:
    """Fit metrics in which patients of one condition are near each other and far from the others.

    One metric is fitted for every combination of options. The loss of each is that of training patients for which
    metric and classifier were fitted to the other patients.

    - `mixtures`: Mixtures of the P training patients.
    - `condition`: (P,) codes 0..C-1.
    - `group`: (P,) person of each sample, if a person has several; they are held out together.
    - `plans`: Plans of these mixtures, with the same states and seed, which may be reused with other conditions.
    - `columns`: (P, q) covariates, whose effects are removed from the distances before the classifier.

    Returns the distance without a learned metric first, unless only the composition is asked for; then the learned
    ones, with the composition alone once, since it is the same for all. Raises ValueError if there is only one
    condition, or not one code for each patient.
    """
    code = np.asarray(condition)
    if code.shape != (len(mixtures),) or code.dtype.kind not in "iu" or code.min(initial=0) < 0:
        raise ValueError(f"condition must have one code >= 0 for each of the {len(mixtures)} mixtures.")
    if len(np.unique(code)) < 2:
        raise ValueError("condition has one value only: a metric that separates conditions needs at least two.")
    code = code.astype(np.int64)
    folds = inner_folds(code, np.arange(len(code)) if group is None else np.asarray(group))
    metrics, squared = fit_metrics(mixtures, code, settings, plans)
    scores = score_held_out(squared, code, folds, columns)
    calibrations = calibrate(scores, code)
    return [
        MetricCandidate(
            replace(metric, loss=calibration.loss), calibration,
            to_probabilities(own[calibration.penalty], calibration.slope),
        )
        for metric, calibration, own in zip(metrics, calibrations, scores, strict=True)
    ]  # fmt: skip


def fit_metrics(
    mixtures: Mixtures, code: NDArray[np.int64], settings: MetricSettings, plans: CohortPlans | None = None
) -> tuple[list[GroundMetric], HeldOutDistances]:
    """Fit a metric for every combination of options, without their losses.

    Returns the metrics in the order of :func:`fit_metric_candidates`, and the function that gives the squared distances
    (F, V, P, P) of the V metrics fitted without the rows of each of F folds.
    """
    cohort = CohortPlans(mixtures, settings.n_states, settings.random_state) if plans is None else plans
    composition = squared_composition_distances(mixtures, None, cohort.reference)
    families: list[_IdentityFamily | _LearnedFamily] = []
    for offset, tau, bures in product(*(settings.values(name) for name in ("offset", "tau", "bures"))):
        fitter = _MetricFitter(cohort, code, bool(offset), float(tau), bool(bures), settings)
        metrics = fitter.fit_all()
        first = not families
        if first and max(settings.values("mix")) > 0:
            families.append(_IdentityFamily.make(fitter, metrics[0]))
        families.append(_LearnedFamily.make(fitter, metrics, composition, composition_alone=first))

    def squared(held_out: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        rests = [np.setdiff1d(np.arange(len(code)), rows) for rows in held_out]
        weights = np.array([pair_weights(code, rest) for rest in rests]).reshape(-1, 2, len(code), len(code))
        return np.concatenate(parallel_map(lambda family: family.squared(rests, weights), families), axis=1)

    return [metric for family in families for metric in family.metrics], squared


@dataclass(frozen=True, eq=False)
class _MetricFitter:
    """Fits W to any subset of the patients, for every ridge, on plans that do not depend on the conditions."""

    plans: CohortPlans
    condition: NDArray[np.int64]
    offset: bool
    tau: float
    bures: bool
    settings: MetricSettings

    @property
    def scatters(self) -> PairScatters:
        """Scatters of the displacements of the plans."""
        return self.plans.scatters(self.offset, self.tau, self.bures)

    def fit_all(self) -> list[GroundMetric]:
        """The metric of each ridge, fitted to all patients; its mix, composition unit and loss are set later."""
        patients, root = np.arange(len(self.condition)), self.plans.root
        axes, ratios = self._axes(np.stack(pair_weights(self.condition))[None])
        trained, histories = self._train(axes[0], patients)
        scale, reference = self.plans.plans(self.offset, self.tau)[1], self.plans.reference
        squared = self.scatters.squared(trained.swapaxes(1, 2) @ trained)
        fits = zip(trained, self.settings.values("ridge"), squared, ratios[0], histories, strict=True)
        return [
            GroundMetric(
                canonicalize(_unwhiten(w, root)), 1.0, ridge, self.tau, self.offset, self.bures, self.settings.method,
                scale, (_median_distance(distance), 1.0), reference, ratio, history=history,
            )
            for w, ridge, distance, ratio, history in fits
        ]  # fmt: skip

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, R, P, P) of fits to F sets of patients, with weights (F, 2, P, P) of pairs."""
        axes, _ = self._axes(weights)
        if self.settings.method != "fisher":
            axes = np.stack([self._train(fold, rest)[0] for fold, rest in zip(axes, rests, strict=True)])
        grams = axes.swapaxes(2, 3) @ axes
        squared = self.scatters.squared(grams.reshape(-1, *grams.shape[2:]))
        squared = squared.reshape(*grams.shape[:2], *weights.shape[2:])
        return squared / _median_distances(squared, rests)[..., None, None]

    def _axes(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Axes (F, R, n_comps, d) in whitened coordinates, and their ratios, from the weights (F, 2, P, P) of pairs."""
        noise, between = (self.scatters.scatters(weights[:, pairs]) for pairs in range(2))
        return discriminant_axes(noise, between, self.settings.values("ridge"), self.settings.n_comps)

    def _train(
        self, axes: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """The axes (R, n_comps, d) after the gradient training on some patients, and its losses."""
        method = self.settings.method
        if method == "fisher":
            return axes, [np.zeros(0)] * len(axes)
        root, plans = self.plans.root, self.plans.plans(self.offset, self.tau)[0]
        subset = (plans if self.bures else plans.means_only()).among(rows)
        fits = [
            train_metric(subset.a, subset.plan, canonicalize(_unwhiten(w, root)), self.condition[rows],
                         self.settings.training)
            for w in axes
        ]  # fmt: skip
        return np.stack([w @ root for w, _ in fits]), [history for _, history in fits]


def _unwhiten(w: NDArray[np.float64], root: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes W R^-1 of the original coordinates, from axes W of the whitened ones."""
    axes: NDArray[np.float64] = solve_triangular(root, w.T, lower=True, trans="T").T
    return axes


@dataclass(frozen=True, eq=False)
class _IdentityFamily:
    """The distance without a learned metric, W the identity; it does not depend on the patients that are held out."""

    metrics: list[GroundMetric]
    distance: NDArray[np.float64]

    @classmethod
    def make(cls, fitter: _MetricFitter, like: GroundMetric) -> _IdentityFamily:
        """The distance with the plans of the fitter, and the other fields of a fitted metric."""
        d = like.w.shape[1]
        root = fitter.plans.root
        squared = fitter.scatters.squared((root.T @ root)[None])[0]
        unit = _median_distance(squared)
        metric = replace(like, w=np.eye(d), method=IDENTITY, units=(unit, 1.0), ratios=np.ones(d), history=np.zeros(0))
        return cls([metric], squared / unit)

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, 1, P, P)."""
        return np.broadcast_to(self.distance, (len(rests), 1, *self.distance.shape))


@dataclass(frozen=True, eq=False)
class _LearnedFamily:
    """Learned metrics with every mix of the state distance and the composition distance."""

    metrics: list[GroundMetric]
    fitter: _MetricFitter
    ridge: NDArray[np.int64]
    mix: NDArray[np.float64]
    composition: NDArray[np.float64]

    @classmethod
    def make(
        cls,
        fitter: _MetricFitter,
        metrics: list[GroundMetric],
        composition: NDArray[np.float64],
        composition_alone: bool,
    ) -> _LearnedFamily:
        """Every mix with the metric of every ridge; mix 0 only once, and only if `composition_alone`."""
        unit = _median_distance(composition)
        pairs = [
            (ridge, mix)
            for ridge in range(len(metrics))
            for mix in fitter.settings.values("mix")
            if mix > 0 or (composition_alone and ridge == 0)
        ]
        mixed = [replace(metrics[ridge], mix=mix, units=(metrics[ridge].units[0], unit)) for ridge, mix in pairs]
        ridges = np.array([ridge for ridge, _ in pairs], np.int64)
        return cls(mixed, fitter, ridges, np.array([mix for _, mix in pairs], np.float64), composition / unit)

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, V, P, P) of fits to F sets of patients, with weights (F, 2, P, P) of pairs."""
        mix = self.mix[:, None, None]
        state: NDArray[np.float64] = mix * self.fitter.squared(rests, weights)[:, self.ridge]
        return state + (1 - mix) * self.composition


def _median_distance(squared: NDArray[np.float64]) -> float:
    """Median squared distance of two patients, or 1 if all are equal."""
    return float(_median_distances(squared[None, None], [np.arange(len(squared))])[0, 0])


def _median_distances(squared: NDArray[np.float64], rests: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(F, R) median squared distance of two patients of each set; the largest if it is 0, and 1 if all are equal."""
    inside = np.zeros((len(rests), squared.shape[2]), dtype=bool)
    for row, rest in zip(inside, rests, strict=True):
        row[rest] = True
    i, j = np.triu_indices(squared.shape[2], 1)
    among = (inside[:, i] & inside[:, j])[:, None]
    count = among.sum(axis=2)
    # sorted: a 0 in front, for sets without a pair, then the pairs of the set, then infinity for the other pairs
    ordered = np.sort(np.pad(np.where(among, squared[:, :, i, j], np.inf), ((0, 0), (0, 0), (1, 0))), axis=2)
    positions = (count + 1) // 2, np.minimum(count // 2 + 1, count), count
    low, high, largest = (
        np.take_along_axis(ordered, np.broadcast_to(at[..., None], (*squared.shape[:2], 1)), 2)[..., 0]
        for at in positions
    )
    median = (low + high) / 2
    unit: NDArray[np.float64] = np.where(median > 0, median, np.where(largest > 0, largest, 1.0))
    return unit
