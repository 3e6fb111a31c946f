"""Options of expectation-maximization, with their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from muport._checks import check_integers, check_option
from muport.gmm.mixtures._mixtures import CovarianceType  # noqa: TC001 - part of the documented fields

__all__ = ["EMSettings", "SingularityHandling"]

type SingularityHandling = Literal["guarded", "robust", "strict"]


@dataclass(frozen=True)
class EMSettings:
    """How mixtures are fitted by EM.

    - `covariance_type`: ``"full"`` or ``"diag"``.
    - `max_iter`: Maximum number of iterations.
    - `tol`: Change of the mean log-likelihood per cell, in nats, below which the fit of a patient ends.
    - `n_init`: Number of starts; the fit of highest likelihood is kept.
    - `eps`: Added to the diagonal of every covariance.
    - `singularity_handling`: What to do with a component whose covariance is singular before ``eps`` is added:
      ``"guarded"`` adds to the diagonal only where the Cholesky factorization fails; ``"robust"`` adds a hundredth of
      the patient's mean variance and warns; ``"strict"`` raises an error.
    - `random_state`: Seed of the starts.
    - `device`: Device of the computation.
    """

    covariance_type: CovarianceType = "full"
    max_iter: int = 100
    tol: float = 1e-3
    n_init: int = 1
    eps: float = 1e-4
    singularity_handling: SingularityHandling = "guarded"
    random_state: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_option("covariance_type", self.covariance_type, ("full", "diag"))
        check_option("singularity_handling", self.singularity_handling, ("guarded", "robust", "strict"))
        check_integers(max_iter=self.max_iter, n_init=self.n_init)
        for name in ("tol", "eps"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be finite and >= 0.")

    @property
    def full(self) -> bool:
        """Whether covariances are full matrices."""
        return self.covariance_type == "full"
