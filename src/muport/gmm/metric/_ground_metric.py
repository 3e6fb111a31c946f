"""A distance between patients from where their components lie (state) and how frequent they are (composition).

A patient is a mixture of components in d dimensions, such as cell states. The distance D has two parts::

    D^2 = mix D_state^2 / u + (1 - mix) D_composition^2 / v

- D_state^2 is the mean squared distance, after the projection W (r, d), of components that a transport plan matches.
- D_composition is the Hellinger distance of the proportions of the reference states, which all patients share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from muport._parallel import single_threaded
from muport.gmm.metric._component_plans import plan_components
from muport.gmm.metric._reference_states import Reference, squared_composition_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["IDENTITY", "GroundMetric", "metric_distances", "select_least_loss", "squared_state_distances"]

IDENTITY = "identity"  # the method of a metric that is not learned
_SAME_LOSS = 1e-6  # losses are equal if they differ by less than this, plus this times the loss


@dataclass(frozen=True, eq=False)
class GroundMetric:
    """A distance between patients: learned or, if the method is ``IDENTITY``, with W the identity.

    - `w`: (r, d) projection W, canonical: orthogonal rows, the longest first, the largest entry of each positive.
    - `mix`: Weight of the state distance, 0..1; the rest is the weight of the composition distance.
    - `ridge`: Weight of the covariance within components in the fit of W.
    - `tau`: Balance of the plans: 1 matches all mass, a smaller value leaves mass without a counterpart unmatched.
    - `offset`: Whether the median shift of a patient's components from the reference states is first subtracted.
    - `bures`: Whether the state distance includes changes of the covariances.
    - `method`: ``"fisher"`` or ``"triplet"``, as in ``MetricSettings``, or ``IDENTITY``; ``"nca"`` in older models.
    - `scale`: Cost by which the costs of the plans are divided.
    - `units`: u and v, the median squared distances of the training patients.
    - `reference`: The reference states.
    - `ratios`: (r,) Fisher ratio of each row of `w`: squared differences between conditions over those within
      conditions.
    - `loss`: Log-loss, in nats, of the classifier on these distances for held-out training patients; all conditions
      have the same weight, and guessing among C conditions gives log C. NaN before it is measured.
    - `history`: Loss of each step of the gradient training; empty if there was none.
    """

    w: Annotated[NDArray[np.float64], "R d"]
    mix: Annotated[float, "0..1"]
    ridge: Annotated[float, "0.."]
    tau: float
    offset: bool
    bures: bool
    method: str
    scale: Annotated[float, "0.."]
    units: tuple[float, float]
    reference: Reference
    ratios: Annotated[NDArray[np.float64], "R", "any"]
    loss: Annotated[float, "any"] = float("nan")
    history: Annotated[NDArray[np.float64], "*", "any"] = field(default_factory=lambda: np.zeros(0))

    def latent(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Project cells (n, d) by W, (n, r)."""
        projected: NDArray[np.float64] = np.asarray(x, dtype=np.float64) @ self.w.T
        return projected


def squared_state_distances(a: Mixtures, b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Compute D_state^2 (Pa, Pb) of the patients in `a` and `b`; `b` is `a` if it is None."""
    if metric.offset:
        a, b = metric.reference.remove_offsets(a), None if b is None else metric.reference.remove_offsets(b)
    plans, _ = plan_components(a, b, tau=metric.tau, bures=metric.bures, scale=metric.scale)
    return plans.squared(metric.w)


@single_threaded()
def metric_distances(a: Mixtures, b: Mixtures | None, metric: GroundMetric) -> NDArray[np.float64]:
    """Compute D (Pa, Pb), not squared, of the patients in `a` and `b`; `b` is `a` if it is None."""
    state = squared_state_distances(a, b, metric) / metric.units[0]
    composition = squared_composition_distances(a, b, metric.reference) / metric.units[1]
    return np.sqrt(metric.mix * state + (1 - metric.mix) * composition)


def select_least_loss(metrics: Sequence[GroundMetric]) -> GroundMetric:
    """Select the learned metric of the smallest held-out loss; at least one metric must be learned and have a loss.

    Metrics that use the state distance (mix > 0) are preferred: the composition distance does not depend on W, so its
    loss says nothing about W. Among equal losses the first is selected, so that the result does not depend on rounding.
    """
    learned = [metric for metric in metrics if metric.method != IDENTITY]
    candidates = [metric for metric in learned if metric.mix > 0] or learned
    losses = np.array([metric.loss for metric in candidates])
    least = losses[np.nanargmin(losses)]
    return candidates[int(np.argmax(losses <= least + _SAME_LOSS * (1 + abs(least))))]
