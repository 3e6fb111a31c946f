"""A learnt distance between patients: states moved under W, and composition, apart and mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist

from muport._parallel import parallel_map, single_threaded
from muport.gmm.metric._component_couplings import Reference, canonical, couple, discriminants, pair_weights
from muport.gmm.metric._gradient_training import polish
from muport.gmm.metric._kernel_ridge import Calibration, calibrate, held_out, inner_folds
from muport.gmm.metric._pair_scatters import Couplings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm.metric._pair_scatters import PairScatters
    from muport.gmm.mixtures._mixtures import Mixtures

    Method = Literal["fisher", "nca", "triplet"]

__all__ = [
    "BURES", "IDENTITY", "MIXES", "RIDGES", "Candidate", "GroundMetric", "composition_distances", "distances",
    "fit_candidates", "fit_metric", "least_loss", "state_distances",
]  # fmt: skip

RIDGES = (0.1, 1.0, 10.0)
MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)
BURES = (False, True)
_SAME_LOSS = 1e-6
IDENTITY = "identity"  # the method of a metric that is not learnt
_METHODS = ("fisher", "nca", "triplet")


@dataclass(frozen=True, eq=False)
class GroundMetric:
    """A learnt distance between patients: D^2 = mix D_state^2 / u + (1 - mix) D_composition^2 / v.

    Attributes
    ----------
    w
        (r, d) float64 metric of the states, canonical: orthogonal rows, the longest first, the largest entry positive.
    mix
        Weight of the state distance, in [0, 1]; the rest is the composition's.
    ridge, tau, offset, bures, method
        What it was fitted with: see :func:`fit_metric`.
    scale
        Price unit of the plans.
    units
        u and v, the median squared distances of the training patients.
    reference
        States for compositions and offsets.
    ratios
        (r,) how much further apart patients of different conditions are than those of the same, on each axis.
    loss
        Balanced log-loss of held-out training patients, nats; log C is chance.
    history
        Loss of each polishing step; empty without polishing.
    """

    w: NDArray[np.float64]
    mix: float
    ridge: float
    tau: float
    offset: bool
    bures: bool
    method: str
    scale: float
    units: tuple[float, float]
    reference: Reference
    ratios: NDArray[np.float64]
    loss: float = float("nan")
    history: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def latent(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Cells (n, d) in the learnt subspace, (n, r)."""
        shown: NDArray[np.float64] = np.asarray(x, dtype=np.float64) @ self.w.T
        return shown


@dataclass(frozen=True, eq=False)
class Candidate:
    """One setting of a metric and how well it tells held-out patients.

    Attributes
    ----------
    metric
        The metric, fitted to all patients.
    calibration
        Penalty, slope and loss of the classifier on its distances.
    """

    metric: GroundMetric
    calibration: Calibration


def state_distances(a: Mixtures, b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Squared distances (Pa, Pb) that matched components move under W."""
    first, second = (mix if mix is None or not metric.offset else metric.reference.centred(mix) for mix in (a, b))
    assert first is not None
    coupled, _ = couple(first, second, tau=metric.tau, bures=metric.bures, scale=metric.scale)
    return coupled.squared(metric.w)


def composition_distances(a: Mixtures, b: Mixtures | None, reference: Reference) -> NDArray[np.float64]:
    """Squared Hellinger distances (Pa, Pb) of the shares of the reference's states, in [0, 1]."""
    first, second = (np.sqrt(reference.composition(mix)) for mix in (a, a if b is None else b))
    squared: NDArray[np.float64] = 0.5 * cdist(first, second, "sqeuclidean")
    return squared


@single_threaded()
def distances(mix_a: Mixtures, mix_b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Learnt distances (Pa, Pb), not squared; `mix_b` is `mix_a` where it is None."""
    state = state_distances(mix_a, mix_b, metric) / metric.units[0]
    composition = composition_distances(mix_a, mix_b, metric.reference) / metric.units[1]
    return np.sqrt(metric.mix * state + (1 - metric.mix) * composition)


@single_threaded()
def fit_metric(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    *,
    n_comps: int = 5,
    method: Method = "fisher",
    ridge: float | Sequence[float] = RIDGES,
    tau: float | Sequence[float] = 1.0,
    offset: bool | Sequence[bool] = (False, True),
    mix: float | Sequence[float] = MIXES,
    bures: bool | Sequence[bool] = BURES,
    group: NDArray[np.int64] | None = None,
    n_states: int | None = None,
    training: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> GroundMetric:
    """Learn the metric in which patients of one condition are near each other and far from the rest.

    Where several values are given, the one is taken whose classifier has the least balanced log-loss on training
    patients that neither it nor its metric has seen, among those in which the states have a part.

    Parameters
    ----------
    mixtures
        Mixtures of the P training patients.
    condition
        (P,) codes 0..C-1.
    n_comps
        Rows of W.
    method
        ``"fisher"``, the closed form; ``"nca"`` polishes it by neighbourhood components; ``"triplet"`` trains the
        objective of ggml-ot, with its plans under W.
    ridge
        Weight of the cells' covariance within components; 1 is as much as patients of one condition differ on an
        ordinary axis.
    tau
        1 moves all mass; less lets mass without counterpart stay. Comparing several values on held-out patients,
        of which there are few, costs more than it gains: hence 1.
    offset
        Whether to take from each patient the median shift of its components.
    mix
        Weight of the state distance against the composition's.
    bures
        Whether W sees changes of covariance beside those of means.
    group
        (P,) patient of each sample, where one has several.
    n_states
        States of the reference; by default the median number of components.
    training
        Arguments of the polishing, see :mod:`muport.gmm.metric._gradient_training`.
    random_state
        Seed of the reference.

    Returns
    -------
    GroundMetric

    Raises
    ------
    ValueError
        If there is only one condition, or a setting is out of its range.

    References
    ----------
    Goldberger et al. (2004) for ``"nca"``.
    """
    found = fit_candidates(
        mixtures, condition, n_comps=n_comps, method=method, ridge=ridge, tau=tau, offset=offset, mix=mix, bures=bures,
        group=group, n_states=n_states, training=training, random_state=random_state,
    )  # fmt: skip
    return least_loss([one.metric for one in found])


def least_loss(metrics: Sequence[GroundMetric]) -> GroundMetric:
    """The learnt metric of least held-out loss in which W has a part, if there is one: composition tells nothing of W.

    Of losses that agree to six digits the first is taken, so that rounding does not choose.

    Parameters
    ----------
    metrics
        Metrics, at least one of them learnt.
    """
    learnt = [metric for metric in metrics if metric.method != IDENTITY]
    moving = [metric for metric in learnt if metric.mix > 0]
    candidates = moving or learnt
    least = min(metric.loss for metric in candidates)
    return next(metric for metric in candidates if metric.loss <= least + _SAME_LOSS * (1 + abs(least)))


def fit_candidates(
    mixtures: Mixtures,
    condition: NDArray[np.int64],
    *,
    n_comps: int = 5,
    method: Method = "fisher",
    ridge: float | Sequence[float] = RIDGES,
    tau: float | Sequence[float] = 1.0,
    offset: bool | Sequence[bool] = (False, True),
    mix: float | Sequence[float] = MIXES,
    bures: bool | Sequence[bool] = BURES,
    group: NDArray[np.int64] | None = None,
    n_states: int | None = None,
    training: Mapping[str, Any] | None = None,
    random_state: int = 0,
    couplings: Couplings | None = None,
) -> list[Candidate]:
    """Fit the metric with every combination of settings, see :func:`fit_metric`.

    The distance without a learnt metric comes first, unless composition alone is asked for; that comes once.
    `couplings` of these mixtures, with the same states and seed, serve again for other conditions.
    """
    given = {"ridge": ridge, "tau": tau, "offset": offset, "mix": mix, "bures": bures}
    grid = {name: _several(value) for name, value in given.items()}
    _check(mixtures, condition, method, n_comps, grid)
    code = np.asarray(condition, dtype=np.int64)
    folds = inner_folds(code, np.arange(len(code)) if group is None else np.asarray(group))
    made = Couplings(mixtures, n_states, random_state) if couplings is None else couplings
    composition = composition_distances(mixtures, None, made.reference)
    views: list[_Fixed | _Mixed] = []
    for one_offset, one_tau, one_bures in product(grid["offset"], grid["tau"], grid["bures"]):
        kind = bool(one_offset), float(one_tau), bool(one_bures)
        learner = _Learner(made, code, *kind, grid["ridge"], n_comps, method, dict(training or {}))
        metrics = learner.metrics()
        first = not views
        if first and max(grid["mix"]) > 0:
            views.append(_as_it_is(learner, metrics[0]))
        views.append(_mixed(metrics, learner, composition, grid["mix"], first))

    def squared(left: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        rests = [np.setdiff1d(np.arange(len(code)), rows) for rows in left]
        weights = np.array([pair_weights(code, rest) for rest in rests]).reshape(-1, 2, len(code), len(code))
        return np.concatenate(parallel_map(lambda view: view.squared(rests, weights), views), axis=1)

    calibrations = calibrate(held_out(squared, code, folds), code)
    metrics = [metric for view in views for metric in view.metrics]
    return [
        Candidate(replace(metric, loss=calibration.loss), calibration)
        for metric, calibration in zip(metrics, calibrations, strict=True)
    ]


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else (value,)


def _check(
    mixtures: Mixtures, condition: NDArray[np.int64], method: str, n_comps: int, grid: Mapping[str, tuple[Any, ...]]
) -> None:
    code, d = np.asarray(condition), mixtures.means.shape[2]
    if code.shape != (len(mixtures),) or code.dtype.kind not in "iu" or code.min(initial=0) < 0:
        raise ValueError(f"condition must hold one code >= 0 for each of the {len(mixtures)} mixtures.")
    if len(np.unique(code)) < 2:
        raise ValueError("condition has one value only: a metric that separates conditions needs at least two.")
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is unknown: use one of {', '.join(map(repr, _METHODS))}.")
    if not 1 <= n_comps:
        raise ValueError(f"n_comps={n_comps} must be at least 1 (at most the {d} coordinates are used).")
    for name, values in grid.items():
        if not values:
            raise ValueError(f"{name}={list(values)} is empty: give one value or several.")
    for name in ("offset", "bures"):
        for value in grid[name]:
            if value not in (False, True):
                raise ValueError(f"{name}={value!r} must be True or False, or both.")
    for name, low, high in (("ridge", 0, np.inf), ("tau", 0, 1), ("mix", 0, 1)):
        for value in grid[name]:
            if not low <= value <= high or (name == "tau" and value == 0):
                raise ValueError(f"{name}={value} is outside {'(' if name == 'tau' else '['}{low}, {high}].")


@dataclass(frozen=True, eq=False)
class _Learner:
    """Fits W to any part of the patients, for every ridge, on plans that do not depend on the conditions."""

    couplings: Couplings
    condition: NDArray[np.int64]
    offset: bool
    tau: float
    bures: bool
    ridges: tuple[float, ...]
    n_comps: int
    method: str
    training: Mapping[str, Any]

    @property
    def pairs(self) -> PairScatters:
        """What the plans move."""
        return self.couplings.pairs(self.offset, self.tau, self.bures)

    def metrics(self) -> list[GroundMetric]:
        """The metric of each ridge, fitted to all patients; its units and loss are yet to be found."""
        everyone, root = np.arange(len(self.condition)), self.couplings.root
        axes, ratios = self._axes(np.stack(pair_weights(self.condition))[None])
        polished, histories = self._polished(axes[0], everyone)
        scale, reference = self.couplings.among(self.offset, self.tau)[1], self.couplings.reference
        squared = self.pairs.squared(polished.swapaxes(1, 2) @ polished)
        return [
            GroundMetric(canonical(_unwhitened(w, root)), 1.0, ridge, self.tau, self.offset, self.bures, self.method,
                         scale, (_unit(one), 1.0), reference, ratio, history=history)
            for w, ridge, one, ratio, history in zip(polished, self.ridges, squared, ratios[0], histories, strict=True)
        ]  # fmt: skip

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, R, P, P) of fits to F sets of patients, with weights (F, 2, P, P) of pairs."""
        axes, _ = self._axes(weights)
        if self.method != "fisher":
            axes = np.stack([self._polished(one, rest)[0] for one, rest in zip(axes, rests, strict=True)])
        grams = axes.swapaxes(2, 3) @ axes
        squared = self.pairs.squared(grams.reshape(-1, *grams.shape[2:])).reshape(*grams.shape[:2], *weights.shape[2:])
        return squared / _units(squared, rests)[..., None, None]

    def _axes(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Axes (F, R, n_comps, d) where cells are round, and their ratios, from the weights (F, 2, P, P) of pairs."""
        noise, between = (self.pairs.scatters(weights[:, kind]) for kind in range(2))
        return discriminants(noise, between, self.ridges, self.n_comps)

    def _polished(
        self, axes: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """The axes (R, n_comps, d) after the polishing on some patients, and its losses."""
        if self.method == "fisher":
            return axes, [np.zeros(0)] * len(axes)
        root, coupled = self.couplings.root, self.couplings.among(self.offset, self.tau)[0]
        part = (coupled if self.bures else coupled.of_means()).among(rows)
        found = [
            polish(part.a, part.plan, canonical(_unwhitened(one, root)), self.condition[rows], self.method,
                   **self.training)
            for one in axes
        ]  # fmt: skip
        return np.stack([w @ root for w, _ in found]), [history for _, history in found]


def _unwhitened(w: NDArray[np.float64], root: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes W R^-1 of the coordinates as they are, of axes W where cells are round."""
    axes: NDArray[np.float64] = solve_triangular(root, w.T, lower=True, trans="T").T
    return axes


@dataclass(frozen=True, eq=False)
class _Fixed:
    """The distance of the mixtures in the space they were fitted in, whoever is held out."""

    metrics: list[GroundMetric]
    distance: NDArray[np.float64]

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, 1, P, P)."""
        return np.broadcast_to(self.distance, (len(rests), 1, *self.distance.shape))


def _as_it_is(learner: _Learner, like: GroundMetric) -> _Fixed:
    """W is the identity."""
    d = like.w.shape[1]
    root = learner.couplings.root
    squared = learner.pairs.squared((root.T @ root)[None])[0]
    unit = _unit(squared)
    metric = replace(like, w=np.eye(d), method=IDENTITY, units=(unit, 1.0), ratios=np.ones(d), history=np.zeros(0))
    return _Fixed([metric], squared / unit)


@dataclass(frozen=True, eq=False)
class _Mixed:
    """Learnt metrics with every weight of the state distance against the composition's."""

    metrics: list[GroundMetric]
    learner: _Learner
    ridge: NDArray[np.int64]
    share: NDArray[np.float64]
    composition: NDArray[np.float64]

    def squared(self, rests: Sequence[NDArray[np.int64]], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances (F, V, P, P)."""
        share = self.share[:, None, None]
        state: NDArray[np.float64] = share * self.learner.squared(rests, weights)[:, self.ridge]
        return state + (1 - share) * self.composition


def _mixed(
    metrics: list[GroundMetric],
    learner: _Learner,
    composition: NDArray[np.float64],
    mixes: tuple[float, ...],
    first: bool,
) -> _Mixed:
    """Every weight with every ridge; the composition alone is the same in all and comes once."""
    unit = _unit(composition)
    pairs = [
        (ridge, mix) for ridge in range(len(metrics)) for mix in mixes if mix > 0 or (first and ridge == 0)
    ]  # fmt: skip
    named = [replace(metrics[ridge], mix=mix, units=(metrics[ridge].units[0], unit)) for ridge, mix in pairs]
    index, share = np.array([ridge for ridge, _ in pairs], np.int64), np.array([mix for _, mix in pairs], np.float64)
    return _Mixed(named, learner, index, share, composition / unit)


def _unit(squared: NDArray[np.float64]) -> float:
    """Median squared distance of two patients, or 1 where all are equal."""
    return float(_units(squared[None, None], [np.arange(len(squared))])[0, 0])


def _units(squared: NDArray[np.float64], rests: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(F, R) median squared distance of two patients of each set; the largest where it is 0, 1 where all are equal."""
    inside = np.zeros((len(rests), squared.shape[2]), dtype=bool)
    for row, rest in zip(inside, rests, strict=True):
        row[rest] = True
    i, j = np.triu_indices(squared.shape[2], 1)
    among = (inside[:, i] & inside[:, j])[:, None]
    count = among.sum(axis=2)
    # pairs outside come last, and before all stands a 0, for want of any
    ordered = np.sort(np.pad(np.where(among, squared[:, :, i, j], np.inf), ((0, 0), (0, 0), (1, 0))), axis=2)
    places = (count + 1) // 2, np.minimum(count // 2 + 1, count), count
    low, high, largest = (
        np.take_along_axis(ordered, np.broadcast_to(at[..., None], (*squared.shape[:2], 1)), 2)[..., 0] for at in places
    )
    median = (low + high) / 2
    found: NDArray[np.float64] = np.where(median > 0, median, np.where(largest > 0, largest, 1.0))
    return found
