"""The pooled mixture of all patients, toward which each patient's mixture is shrunk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from muport.gmm.mixtures._em import fit_mixture_candidates
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._mixtures import CovarianceType, Mixtures
from muport.gmm.mixtures._patient_cells import check_cells, check_codes, check_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Prior", "fit_pooled_priors", "sample_evenly"]

_MIN_NU = 20.0  # minimum number of cells that a prior counts as by default
_NU_PER_DIMENSION = 2.0  # cells per dimension: a covariance of more dimensions has more entries to estimate
_MAX_CELLS = 5_000  # maximum number of cells that a pooled mixture is fitted on


@dataclass(frozen=True, eq=False)
class Prior:
    """A pooled mixture, and the number of cells that it counts as in the mixture of a patient.

    - `weights`: (K,) weights of the pooled mixture.
    - `means`: (K, d) means.
    - `covariances`: (K, d, d) covariances, or (K, d) variances.
    - `covariance_type`: ``"full"`` or ``"diag"``.
    - `nu`: Number of cells that the pooled mean and covariance count as in each component, and the pooled weights in
      all components together.

    Raises ValueError if ``nu`` is negative or not finite.
    """

    weights: Annotated[NDArray[np.float64], "K", "0.."]
    means: Annotated[NDArray[np.float64], "K d"]
    covariances: Annotated[NDArray[np.float64], "K d d"] | Annotated[NDArray[np.float64], "K d"]
    covariance_type: CovarianceType = "full"
    nu: float = _MIN_NU

    def __post_init__(self) -> None:
        if not 0 <= self.nu < np.inf:
            raise ValueError(f"nu={self.nu} must be a number of cells, finite and >= 0.")

    @property
    def mixture(self) -> Mixtures:
        """The pooled mixture, as that of one patient."""
        return Mixtures(self.weights[None], self.means[None], self.covariances[None], self.covariance_type)


def sample_evenly(sample: NDArray[np.int64], maximum: int, random_state: int) -> NDArray[np.int64]:
    """Sorted positions of at most about ``maximum`` cells, the same number from each patient which has so many.

    Examples
    --------
    >>> np.bincount(np.repeat([0, 1], [2, 100])[sample_evenly(np.repeat([0, 1], [2, 100]), 10, 0)]).tolist()
    [2, 8]
    """
    if len(sample) <= maximum:
        return np.arange(len(sample))
    size = np.sort(np.bincount(sample))
    # patients up to the i-th smallest give all their cells, the others share the rest
    rest = (maximum - np.cumsum(size) + size) / np.arange(len(size), 0, -1)
    cap = max(1, int(rest[np.argmax(rest <= size)]))
    draw = np.random.default_rng(random_state).permutation(len(sample))
    order = draw[np.argsort(sample[draw], kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(sample))[:-1]])
    rank = np.arange(len(sample)) - first[sample[order]]
    return np.sort(order[rank < cap])


def fit_pooled_priors(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    settings: EMSettings = EMSettings(),
    *,
    weight: ArrayLike | None = None,
    nu: float | None = None,
) -> dict[int, Prior]:
    """Fit mixtures to the cells of all patients together, to which each patient's mixture is shrunk.

    - `x`, `sample`, `weight`: As for `fit_mixtures`. At most 5,000 cells are used, drawn evenly over patients.
    - `candidates`: Numbers of components to fit a prior for.
    - `settings`: Options of EM; one start, and singular components are always ``"guarded"``.
    - `nu`: Number of cells that the pooled mixture counts as, see `Prior`; by default twice the dimensions, at least
      20.

    Returns a `Prior` for each number of components; each covariance is shrunk to their mean.

    Examples
    --------
    >>> from muport.gmm.mixtures._em import fit_mixtures
    >>> x, sample = np.random.default_rng(0).normal(size=(90, 5)), np.repeat([0, 1, 2], 30)
    >>> priors = fit_pooled_priors(x, sample, [2])
    >>> fit_mixtures(x, sample, 2, prior=priors).mixtures.means.shape
    (3, 2, 5)
    """
    cells = check_cells(x)
    codes = check_codes(sample, len(cells))
    weights = check_weights(weight, codes)
    rows = sample_evenly(codes, _MAX_CELLS, settings.random_state)
    rows = rows[weights[rows] > 0]
    once = replace(settings, n_init=1, singularity_handling="guarded")
    fits = fit_mixture_candidates(cells[rows], None, candidates, once, weight=weights[rows])
    strength = max(_MIN_NU, _NU_PER_DIMENSION * cells.shape[1]) if nu is None else nu
    return {
        int(k): _make_prior(fit.mixtures, cells[rows], weights[rows].sum(), strength)
        for k, fit in zip(candidates, fits, strict=True)
    }


def _make_prior(mixtures: Mixtures, x: NDArray[np.float64], total: float, nu: float) -> Prior:
    """The prior from the mixture of all cells x, of the given total weight.

    Its own covariances are shrunk to their mean over components, since a component of few cells has a poor estimate.
    """
    weights, means, covariances = mixtures.weights[0], mixtures.means[0].copy(), mixtures.covariances[0]
    tail = (slice(None),) + (None,) * (covariances.ndim - 1)
    count = (weights * total)[tail]
    covariances = (count * covariances + nu * (weights[tail] * covariances).sum(0)) / np.maximum(count + nu, 1e-300)
    means[weights == 0] = x.mean(axis=0)
    if nu == 0:
        covariances[weights == 0] = mixtures.covariances[0][weights == 0]
    return Prior(weights, means, covariances, mixtures.covariance_type, nu)
