"""A learnt distance between patients: states moved under W, and composition, apart and mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial.distance import cdist

from muport.gmm._coupled import Coupled, Reference, canonical, couple, discriminant, make_reference
from muport.gmm._predict import Calibration, calibrate, held_out, inner_folds
from muport.gmm._triplet import polish

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm._mixture import Mixtures

    Method = Literal["fisher", "nca", "triplet"]

__all__ = ["Candidate", "GroundMetric", "composition_distances", "distances", "fit_candidates", "fit_metric",
           "state_distances"]  # fmt: skip

RIDGES = (0.3, 3.0, 30.0)
MIXES = (1.0, 0.75, 0.5, 0.25, 0.0)
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


def distances(mix_a: Mixtures, mix_b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Learnt distances (Pa, Pb), not squared; `mix_b` is `mix_a` where it is None."""
    state = state_distances(mix_a, mix_b, metric) / metric.units[0]
    composition = composition_distances(mix_a, mix_b, metric.reference) / metric.units[1]
    return np.sqrt(metric.mix * state + (1 - metric.mix) * composition)


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
    bures: bool = False,
    group: NDArray[np.int64] | None = None,
    n_states: int | None = None,
    training: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> GroundMetric:
    """Learn the metric in which patients of one condition are near each other and far from the rest.

    Where several values are given, the one is taken whose classifier has the least balanced log-loss on training
    patients that neither it nor its metric has seen.

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
        Weight of the cells' covariance within components, against that of patients of one condition.
    tau
        1 moves all mass; less lets mass without counterpart stay. Comparing several values on held-out patients,
        of which there are few, costs more than it gains: hence 1.
    offset
        Whether to take from each patient the median shift of its components.
    mix
        Weight of the state distance against the composition's.
    bures
        Whether W sees changes of covariance.
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
    return min(found, key=lambda one: one.calibration.loss).metric


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
    bures: bool = False,
    group: NDArray[np.int64] | None = None,
    n_states: int | None = None,
    training: Mapping[str, Any] | None = None,
    random_state: int = 0,
) -> list[Candidate]:
    """Fit the metric with every combination of settings, see :func:`fit_metric`; composition alone comes once."""
    grid = {name: _several(value) for name, value in (("ridge", ridge), ("tau", tau), ("offset", offset), ("mix", mix))}
    _check(mixtures, condition, method, n_comps, grid)
    code = np.asarray(condition, dtype=np.int64)
    folds = inner_folds(code, np.arange(len(code)) if group is None else np.asarray(group))
    reference = make_reference(mixtures, n_states, random_state)
    composition = composition_distances(mixtures, None, reference)
    settings = {"n_comps": n_comps, "method": method, "training": dict(training or {})}
    found: list[Candidate] = []
    for one_offset, one_tau in product(grid["offset"], grid["tau"]):
        coupled, scale = couple(reference.centred(mixtures) if one_offset else mixtures, tau=one_tau, bures=bures)
        for one_ridge in grid["ridge"]:
            learner = _Learner(coupled, code, reference.within, one_ridge, **settings)  # type: ignore[arg-type]
            w, ratios, history = learner.fit(np.arange(len(code)))
            metric = GroundMetric(
                w, 1.0, one_ridge, one_tau, bool(one_offset), bures, method, scale, (1.0, 1.0), reference, ratios,
                history=history,
            )  # fmt: skip
            # The composition alone is the same in every setting.
            mixes = tuple(one for one in grid["mix"] if one > 0 or not found)
            found += _mixed(metric, coupled.squared(w), composition, learner, folds, mixes)
    return found


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
    """Fits W to any part of the patients, on plans that do not depend on the conditions."""

    coupled: Coupled
    condition: NDArray[np.int64]
    within: NDArray[np.float64]
    ridge: float
    n_comps: int
    method: str
    training: Mapping[str, Any]

    def fit(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """W, its ratios and the history of the polishing."""
        part, code = self.coupled.among(rows), self.condition[rows]
        w, ratios = discriminant(part, code, self.within, n_comps=self.n_comps, ridge=self.ridge)
        if self.method == "fisher":
            return w, ratios, np.zeros(0)
        w, history = polish(part.a, part.plan, w, code, self.method, **self.training)
        return canonical(w), ratios, history

    def squared(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Squared distances between all patients, with the given ones held out of the fit, in units of the others."""
        rest = np.setdiff1d(np.arange(len(self.condition)), rows)
        squared = self.coupled.squared(self.fit(rest)[0])
        return squared / _unit(squared[np.ix_(rest, rest)])


def _mixed(
    metric: GroundMetric,
    state: NDArray[np.float64],
    composition: NDArray[np.float64],
    learner: _Learner,
    folds: list[NDArray[np.int64]],
    mixes: tuple[float, ...],
) -> list[Candidate]:
    """The metric with every weight of the state distance."""
    units = _unit(state), _unit(composition)
    without = {int(rows[0]): learner.squared(rows) for rows in folds}
    found: list[Candidate] = []
    for mix in mixes:

        def squared(rows: NDArray[np.int64], mix: float = mix) -> NDArray[np.float64]:
            return mix * without[int(rows[0])] + (1 - mix) * composition / units[1]

        calibration = calibrate(held_out(squared, learner.condition, folds), learner.condition)
        found.append(Candidate(replace(metric, mix=mix, units=units, loss=calibration.loss), calibration))
    return found


def _unit(squared: NDArray[np.float64]) -> float:
    """Median squared distance of two patients, or 1 where all are equal."""
    above = squared[np.triu_indices(len(squared), 1)]
    value = float(np.median(above)) if len(above) else 0.0
    return value if value > 0 else max(float(squared.max(initial=0)), 0.0) or 1.0
