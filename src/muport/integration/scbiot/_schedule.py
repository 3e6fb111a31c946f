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
    """Hyperparameters of one iteration; the symbols of the paper are in brackets.

    - `step`: Fraction of the shift that is applied (eta).
    - `cap`: Largest move, in mean distances to the neighbors (kappa).
    - `smooth`: Weight of the shifts of the neighbors (lambda of Eq. 13).
    - `quantile`: Quantile at which the cost of the transport is clipped.
    - `floor`: Overlap with the input below which J is penalized.
    - `bulk`, `bridge`: Smallest and largest relative length of an edge, between cells of the bulk and at bridges.
    - `weights`: Weights of J.
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
    """Return the settings after a fraction `progress` of the iterations.

    They are those of the paper if the hyperparameters are 0.5, and have no effect at 0.
    """

    def scale_fraction(hyperparameter: float, start: float, end: float) -> float:
        of_paper = start + progress * (end - start)
        return float(1 - (1 - of_paper) ** (2 * hyperparameter))

    def widen_limits(low: float, high: float) -> tuple[float, float]:
        return (low ** (1 / factor), high ** (1 / factor)) if factor > 0.01 else (0.0, math.inf)

    factor, paper = 2 * hyperparameters.conservation, ObjectiveWeights()
    return ScbiotSettings(
        step=scale_fraction(hyperparameters.strength, 0.78, 0.96),
        cap=2 * hyperparameters.strength * 1.05,
        smooth=scale_fraction(hyperparameters.conservation, 0.52, 0.38),
        quantile=0.80 + 0.10 * progress,
        floor=scale_fraction(hyperparameters.conservation, 0.60, 0.68),
        bulk=widen_limits(0.72, 1.65),
        bridge=widen_limits(0.88, 1.24),
        weights=ObjectiveWeights(
            factor * paper.overlap, factor * paper.strain, factor * paper.penalty, factor * paper.drop
        ),
    )
