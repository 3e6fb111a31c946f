"""A learnt distance between patients: states moved under W, and composition, apart and mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial.distance import cdist

from muport._threads import single_threaded
from muport.gmm._coupled import Coupled, Reference, canonical, couple, discriminants, make_reference, pair_weights
from muport.gmm._predict import Calibration, calibrate, held_out, inner_folds
from muport.gmm._triplet import polish

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm._mixture import Mixtures

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
        Arguments of the polishing, see :mod:`muport.gmm._triplet`.
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
) -> list[Candidate]:
    """Fit the metric with every combination of settings, see :func:`fit_metric`.

    The distance without a learnt metric comes first, unless composition alone is asked for; that comes once.
    """
    given = {"ridge": ridge, "tau": tau, "offset": offset, "mix": mix, "bures": bures}
    grid = {name: _several(value) for name, value in given.items()}
    _check(mixtures, condition, method, n_comps, grid)
    code = np.asarray(condition, dtype=np.int64)
    folds = inner_folds(code, np.arange(len(code)) if group is None else np.asarray(group))
    reference = make_reference(mixtures, n_states, random_state)
    composition = composition_distances(mixtures, None, reference)
    settings = {"n_comps": n_comps, "method": method, "training": dict(training or {})}
    found: list[Candidate] = []
    for one_offset, one_tau in product(grid["offset"], grid["tau"]):
        # the plan sees the covariances in either case
        whole, scale = couple(reference.centred(mixtures) if one_offset else mixtures, tau=one_tau, bures=True)
        for one_bures in grid["bures"]:
            coupled = whole if one_bures else whole.of_means()
            learner = _Learner(coupled, code, reference.within, grid["ridge"], **settings)  # type: ignore[arg-type]
            fits = learner.fit(np.arange(len(code)))
            metrics = [
                GroundMetric(w, 1.0, one, one_tau, bool(one_offset), bool(one_bures), method, scale, (1.0, 1.0),
                             reference, ratios, history=history)
                for one, (w, ratios, history) in zip(grid["ridge"], fits, strict=True)
            ]  # fmt: skip
            first = not found
            if first and max(grid["mix"]) > 0:
                found.append(_as_it_is(coupled, metrics[0], code, folds))
            found += _mixed(metrics, learner, composition, folds, grid["mix"], first)
    return found


def _as_it_is(
    coupled: Coupled, like: GroundMetric, condition: NDArray[np.int64], folds: list[NDArray[np.int64]]
) -> Candidate:
    """The distance of the mixtures in the space they were fitted in: W is the identity."""
    d = like.w.shape[1]
    squared = coupled.squared(np.eye(d))
    unit = _unit(squared)
    calibration = calibrate(held_out(lambda _: squared[None] / unit, condition, folds), condition)[0]
    metric = replace(like, w=np.eye(d), method=IDENTITY, units=(unit, 1.0), ratios=np.ones(d), loss=calibration.loss,
                     history=np.zeros(0))  # fmt: skip
    return Candidate(metric, calibration)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value,)


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
    for name, low, high in (("ridge", 0, np.inf), ("tau", 0, 1), ("mix", 0, 1)):
        for value in grid[name]:
            if not low <= value <= high or (name == "tau" and value == 0):
                raise ValueError(f"{name}={value} is outside {'(' if name == 'tau' else '['}{low}, {high}].")


@dataclass(frozen=True, eq=False)
class _Learner:
    """Fits W to any part of the patients, for every ridge, on plans that do not depend on the conditions."""

    coupled: Coupled
    condition: NDArray[np.int64]
    within: NDArray[np.float64]
    ridges: tuple[float, ...]
    n_comps: int
    method: str
    training: Mapping[str, Any]

    def fit(
        self, rows: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """W, its ratios and the history of the polishing, for each ridge."""
        weights = pair_weights(self.condition, rows)
        found = discriminants(self.coupled, weights, self.within, self.ridges, self.n_comps)
        if self.method == "fisher":
            return [(w, ratios, np.zeros(0)) for w, ratios in found]
        part, code = self.coupled.among(rows), self.condition[rows]
        polished = [polish(part.a, part.plan, w, code, self.method, **self.training) for w, _ in found]
        return [
            (canonical(w), ratios, history) for (w, history), (_, ratios) in zip(polished, found, strict=True)
        ]  # fmt: skip

    def squared(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Squared distances (R, P, P), with the given patients held out of the fit, in units of the others."""
        rest = np.setdiff1d(np.arange(len(self.condition)), rows)
        squared = np.stack([self.coupled.squared(w) for w, _, _ in self.fit(rest)])
        unit = np.array([_unit(one[np.ix_(rest, rest)]) for one in squared])
        scaled: NDArray[np.float64] = squared / unit[:, None, None]
        return scaled


def _mixed(
    metrics: list[GroundMetric],
    learner: _Learner,
    composition: NDArray[np.float64],
    folds: list[NDArray[np.int64]],
    mixes: tuple[float, ...],
    first: bool,
) -> list[Candidate]:
    """The metrics with every weight of the state distance; the composition alone is the same in all and comes once."""
    unit = _unit(composition)
    pairs = [
        (ridge, mix) for ridge in range(len(metrics)) for mix in mixes if mix > 0 or (first and ridge == 0)
    ]  # fmt: skip
    if not pairs:
        return []
    index, share = np.array([ridge for ridge, _ in pairs]), np.array([mix for _, mix in pairs])[:, None, None]

    def squared(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        state: NDArray[np.float64] = share * learner.squared(rows)[index]
        return state + (1 - share) * composition / unit

    found = calibrate(held_out(squared, learner.condition, folds), learner.condition)
    units = [(_unit(learner.coupled.squared(metric.w)), unit) for metric in metrics]
    return [
        Candidate(replace(metrics[ridge], mix=mix, units=units[ridge], loss=calibration.loss), calibration)
        for (ridge, mix), calibration in zip(pairs, found, strict=True)
    ]


def _unit(squared: NDArray[np.float64]) -> float:
    """Median squared distance of two patients, or 1 where all are equal."""
    above = squared[np.triu_indices(len(squared), 1)]
    value = float(np.median(above)) if len(above) else 0.0
    return value if value > 0 else max(float(squared.max(initial=0)), 0.0) or 1.0
