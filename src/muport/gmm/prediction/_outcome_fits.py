"""How predictions of one view become probabilities of an outcome: slopes, errors and densities.

Symbols: P patients, V views, L penalties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr
from scipy.stats import norm

from muport.gmm.metric._kernel_ridge import PENALTIES, Calibration, least_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm.prediction._outcomes import Outcome

__all__ = ["fit_predictions", "level_probabilities", "outcome_densities", "thresholds"]

_TINY = 1e-12
_MAX_SLOPE = 20.0
_MIN_ERROR = 1e-3  # in units of the standard deviation of the outcome: no density may grow without limit
_BISECTIONS = 60


def fit_predictions(predictions: NDArray[np.float64], outcome: Outcome) -> list[Calibration]:
    """Find the penalty and slope of each view with the smallest loss of held-out predictions (V, L, P).

    The loss is the squared error or, for times, the negative log-likelihood of Cox's model with the cumulative hazard
    of the model without predictors; the number of events of a patient then has a Poisson distribution. The `loss` of
    the result is set later.
    """
    scored = np.isfinite(predictions).all((0, 1))
    if not scored.any():
        error = float(np.std(outcome.target())) if outcome.kind != "survival" else 0.0
        return [Calibration(len(PENALTIES) - 1, 0.0, float("nan"), error)] * len(predictions)
    own, target = predictions[:, :, scored], outcome.target()[scored]
    if outcome.kind == "survival":
        event, hazard = outcome.event[scored], outcome.hazard()[scored]

        def loss(log_slope: NDArray[np.float64]) -> NDArray[np.float64]:
            risk = own * np.exp(log_slope)[..., None]
            mean: NDArray[np.float64] = (hazard * np.exp(np.clip(risk, -30, 30)) - event * risk).mean(axis=-1)
            return mean

        log_slopes = least_loss(loss, own.shape[:2])
        slopes, losses = np.exp(log_slopes), loss(log_slopes)
        # without a relation the best slope is 0, which has no logarithm
        none = np.array(loss(np.full(own.shape[:2], -np.inf)))
        slopes, losses = np.where(none <= losses, 0.0, slopes), np.minimum(none, losses)
        errors = np.zeros(slopes.shape)
    else:
        centered = target - outcome.target().mean()
        slopes = (own * centered).sum(axis=-1) / np.maximum(np.square(own).sum(axis=-1), _TINY)
        slopes = slopes.clip(0, _MAX_SLOPE)
        losses = np.square(centered - slopes[..., None] * own).mean(axis=-1)
        errors = np.maximum(np.sqrt(losses), _MIN_ERROR * max(float(np.std(outcome.target())), _TINY))
    best = losses.argmin(axis=1)
    return [Calibration(int(i), float(slopes[v, i]), float("nan"), float(errors[v, i])) for v, i in enumerate(best)]


def outcome_densities(
    values: NDArray[np.float64], errors: NDArray[np.float64], outcome: Outcome
) -> NDArray[np.float64]:
    """Density or probability (V, P) of the outcome of each patient under the prediction of each view.

    - `values`: (V, P) predictions: slope times the prediction of the view; NaN for patients that were not held out.
    - `errors`: (V,) errors.
    """
    if outcome.kind == "survival":
        hazard = outcome.hazard() * np.exp(np.clip(values, -30, 30))
        density: NDArray[np.float64] = np.exp(-hazard) * np.maximum(hazard, _TINY) ** outcome.event
        return density
    target = outcome.target()
    if outcome.kind == "continuous":
        density = norm.pdf(target - target.mean(), values, errors[:, None])
        return density
    levels = outcome.values.astype(np.int64)
    rows = []
    for own, error in zip(values, errors, strict=True):
        known = np.isfinite(own)
        shares = np.bincount(levels, minlength=len(outcome.levels)) / len(levels)
        cuts = thresholds(own[known], np.full(known.sum(), error), shares)
        p = level_probabilities(own, np.full(len(own), error), cuts)
        rows.append(p[np.arange(len(own)), levels])
    return np.array(rows)


def thresholds(
    values: NDArray[np.float64], errors: NDArray[np.float64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the thresholds (C - 1,) by which the mean probabilities of the levels are their shares (C,).

    The level is that interval between thresholds in which the prediction plus a normal error lies: a cumulative probit
    model. Thresholds are found by bisection, so they exist also where predictions separate the levels.

    - `values`, `errors`: (P,) predictions, and their errors.
    """
    cumulative = np.cumsum(shares)[:-1].clip(1e-6, 1 - 1e-6)
    reach = 10 * errors.max(initial=_TINY)
    low = np.full(len(cumulative), values.min(initial=0) - reach)
    high = np.full(len(cumulative), values.max(initial=0) + reach)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = ndtr((middle[:, None] - values) / errors).mean(axis=1) < cumulative
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    cuts: NDArray[np.float64] = (low + high) / 2
    return cuts


def level_probabilities(
    values: NDArray[np.float64], errors: NDArray[np.float64], cuts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities (P, C) of the levels between thresholds (C - 1,), for predictions and errors (P,)."""
    below = ndtr((cuts - values[:, None]) / errors[:, None])
    edges = np.hstack([np.zeros((len(values), 1)), below, np.ones((len(values), 1))])
    p: NDArray[np.float64] = np.diff(edges, axis=1).clip(0)
    return p
