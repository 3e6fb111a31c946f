"""The pooled mixture of all patients, toward which each patient's mixture is shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muport.gmm._mixture import CovarianceType, Mixtures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Prior"]

NU = 20.0  # cells that the pooled covariance counts
KAPPA = 1.0  # cells that the pooled mean counts
ALPHA = 1.0  # cells that the pooled weights count, together


@dataclass(frozen=True, eq=False)
class Prior:
    """A pooled mixture and how many of a patient's cells each of its parts outweighs.

    Attributes
    ----------
    weights
        (K,) weights of the pooled mixture.
    means
        (K, d) means.
    covariances
        (K, d, d) covariances, or (K, d) variances.
    covariance_type
        ``"full"`` or ``"diag"``.
    nu
        Cells that the pooled covariance counts in each component.
    kappa
        Cells that the pooled mean counts in each component.
    alpha
        Cells that the pooled weights count, in all components together.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    covariance_type: CovarianceType = "full"
    nu: float = NU
    kappa: float = KAPPA
    alpha: float = ALPHA

    @property
    def mixture(self) -> Mixtures:
        """The pooled mixture, as that of one patient."""
        return Mixtures(self.weights[None], self.means[None], self.covariances[None], self.covariance_type)
