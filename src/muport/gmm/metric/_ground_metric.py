"""A learned distance between patients: a state distance under W and a composition distance, mixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._parallel import single_threaded
from muport.gmm.metric._component_plans import plan_components
from muport.gmm.metric._reference_states import Reference, composition_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["IDENTITY", "GroundMetric", "metric_distances", "select_least_loss", "state_distances"]

IDENTITY = "identity"  # the method of a metric that is not learned
_SAME_LOSS = 1e-6  # relative difference below which two losses are equal


@dataclass(frozen=True, eq=False)
class GroundMetric:
    """A learned distance between patients: D^2 = mix D_state^2 / u + (1 - mix) D_composition^2 / v.

    Attributes
    ----------
    w
        (r, d) float64 metric of the states, canonical: orthogonal rows, the longest first, the largest entry positive.
    mix
        Weight of the state distance, in [0, 1]; the rest is the weight of the composition.
    ridge, tau, offset, bures, method
        Options of the fit, see :class:`muport.gmm.metric._metric_settings.MetricSettings`.
    scale
        Unit of costs of the plans.
    units
        u and v, the median squared distances of the training patients.
    reference
        States for compositions and offsets.
    ratios
        (r,) ratio on each axis of the squared differences between conditions to those within conditions.
    loss
        Balanced log-loss of held-out training patients, in nats; log C is chance for C conditions.
    history
        Loss of each step of the gradient training; empty without.
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
        """Cells (n, d) in the learned subspace, (n, r)."""
        projected: NDArray[np.float64] = np.asarray(x, dtype=np.float64) @ self.w.T
        return projected


def state_distances(a: Mixtures, b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Compute squared distances (Pa, Pb) under W of the components that the plans match."""
    first, second = (
        mix if mix is None or not metric.offset else metric.reference.remove_offsets(mix) for mix in (a, b)
    )  # fmt: skip
    assert first is not None
    plans, _ = plan_components(first, second, tau=metric.tau, bures=metric.bures, scale=metric.scale)
    return plans.squared(metric.w)


@single_threaded()
def metric_distances(mix_a: Mixtures, mix_b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Compute learned distances (Pa, Pb), not squared; `mix_b` is `mix_a` if it is None."""
    state = state_distances(mix_a, mix_b, metric) / metric.units[0]
    composition = composition_distances(mix_a, mix_b, metric.reference) / metric.units[1]
    return np.sqrt(metric.mix * state + (1 - metric.mix) * composition)


def select_least_loss(metrics: Sequence[GroundMetric]) -> GroundMetric:
    """Select the learned metric of the smallest held-out loss, if possible among those with a state distance.

    W has no effect on the composition distance, so its loss says nothing about W. The first metric is selected among
    losses that are equal to six digits, so that the result does not depend on rounding.

    Parameters
    ----------
    metrics
        Metrics, at least one of them learned.
    """
    learned = [metric for metric in metrics if metric.method != IDENTITY]
    candidates = [metric for metric in learned if metric.mix > 0] or learned
    least = min(metric.loss for metric in candidates)
    return next(metric for metric in candidates if metric.loss <= least + _SAME_LOSS * (1 + abs(least)))
