"""Hyperparameters of the scBIOT paper from those of the user, annealed over the iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muport.integration.shared_centers._diagnostics import ObjectiveWeights

if TYPE_CHECKING:
    from muport.integration._hyperparameters import Hyperparameters

__all__ = ["ScbiotSettings", "anneal_settings"]


@dataclass(frozen=True)
class ScbiotSettings:
    """Hyper-parameters of one iteration; in brackets the paper's symbols.

    Attributes
    ----------
    step
        Share of the shift that is made (eta).
    cap
        Longest move, in mean distances to the neighbours (kappa).
    smooth
        Weight of the neighbours' shifts (lambda of Eq. 13).
    quantile
        Where the transport's cost is clipped.
    floor
        Overlap with the input below which J is penalised.
    bulk, bridge
        Least and largest relative length of an edge, away from bridges and at them.
    weights
        Weights of J.
    """

    step: float
    cap: float
    smooth: float
    quantile: float
    floor: float
    bulk: tuple[float, float]
    bridge: tuple[float, float]
    weights: ObjectiveWeights


def anneal_settings(hyperparameters: Hyperparameters, progress: float) -> ScbiotSettings:
    """Settings at a progress of 0..1 through the iterations: the paper's at hyperparameters of 0.5, no effect at 0."""

    def share(hyperparameter: float, start: float, end: float) -> float:
        typical = start + progress * (end - start)
        return float(1 - (1 - typical) ** (2 * hyperparameter))

    def window(low: float, high: float) -> tuple[float, float]:
        return (low ** (1 / kept), high ** (1 / kept)) if kept > 0.01 else (0.0, math.inf)

    kept, usual = 2 * hyperparameters.conservation, ObjectiveWeights()
    return ScbiotSettings(
        step=share(hyperparameters.strength, 0.78, 0.96),
        cap=2 * hyperparameters.strength * 1.05,
        smooth=share(hyperparameters.conservation, 0.52, 0.38),
        quantile=0.80 + 0.10 * progress,
        floor=share(hyperparameters.conservation, 0.60, 0.68),
        bulk=window(0.72, 1.65),
        bridge=window(0.88, 1.24),
        weights=ObjectiveWeights(kept * usual.overlap, kept * usual.strain, kept * usual.penalty, kept * usual.drop),
    )
