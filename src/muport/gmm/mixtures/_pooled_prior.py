"""The pooled mixture of all patients, toward which each patient's mixture is shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.gmm.mixtures._em import fit_candidates
from muport.gmm.mixtures._mixtures import Mixtures
from muport.gmm.mixtures._patient_cells import as_cells, as_codes, as_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.mixtures._mixtures import CovarianceType

__all__ = ["Prior", "pooled_prior", "spread_over"]

_LEAST, _PER_DIMENSION = 20.0, 2.0  # cells that a prior counts: the more, the more entries a covariance has


@dataclass(frozen=True, eq=False)
class Prior:
    """A pooled mixture, and how many of a patient's cells it outweighs.

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
        Cells that the pooled mean and covariance count in each component, and the pooled weights in all together.

    Raises
    ------
    ValueError
        If ``nu`` is negative or not finite.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    covariance_type: CovarianceType = "full"
    nu: float = _LEAST

    def __post_init__(self) -> None:
        if not 0 <= self.nu < np.inf:
            raise ValueError(f"nu={self.nu} must be a number of cells, finite and >= 0.")

    @property
    def mixture(self) -> Mixtures:
        """The pooled mixture, as that of one patient."""
        return Mixtures(self.weights[None], self.means[None], self.covariances[None], self.covariance_type)


def spread_over(sample: NDArray[np.int64], most: int, random_state: int) -> NDArray[np.int64]:
    """Sorted positions of at most about ``most`` cells, the same number of each patient that has so many.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._pooled_prior import spread_over
    >>> np.bincount(np.repeat([0, 1], [2, 100])[spread_over(np.repeat([0, 1], [2, 100]), 10, 0)]).tolist()
    [2, 8]
    """
    if len(sample) <= most:
        return np.arange(len(sample))
    size = np.sort(np.bincount(sample))
    # Patients up to the i-th give all their cells, the others share what is left.
    share = (most - np.cumsum(size) + size) / np.arange(len(size), 0, -1)
    cap = max(1, int(share[np.argmax(share <= size)]))
    draw = np.random.default_rng(random_state).permutation(len(sample))
    order = draw[np.argsort(sample[draw], kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(sample))[:-1]])
    rank = np.arange(len(sample)) - first[sample[order]]
    return np.sort(order[rank < cap])


def pooled_prior(
    x: ArrayLike,
    sample: ArrayLike | None,
    candidates: Sequence[int],
    *,
    weight: ArrayLike | None = None,
    covariance_type: CovarianceType = "full",
    max_iter: int = 100,
    tol: float = 1e-3,
    eps: float = 1e-4,
    nu: float | None = None,
    max_cells: int = 5_000,
    random_state: int = 0,
    device: str = "cpu",
) -> dict[int, Prior]:
    """Fit the mixtures of all patients' cells together, to shrink each patient's mixture to.

    Parameters
    ----------
    x, sample, weight, covariance_type, max_iter, tol, eps, random_state, device
        As for `fit_mixtures`.
    candidates
        Numbers of components to fit a prior for.
    nu
        Cells that the pooled mixture counts, see `Prior`; by default twice the dimensions, at least 20.
    max_cells
        Most cells to fit on, drawn evenly over patients.

    Returns
    -------
    dict
        A `Prior` for each number of components; each covariance is shrunk to their mean.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._em import fit_mixtures
    >>> from muport.gmm.mixtures._pooled_prior import pooled_prior
    >>> x, sample = np.random.default_rng(0).normal(size=(90, 5)), np.repeat([0, 1, 2], 30)
    >>> prior = pooled_prior(x, sample, [2])
    >>> fit_mixtures(x, sample, 2, prior=prior).mixtures.means.shape
    (3, 2, 5)
    """
    cells = as_cells(x)
    codes = as_codes(sample, len(cells))
    mass = as_weight(weight, codes)
    rows = spread_over(codes, max_cells, random_state)
    rows = rows[mass[rows] > 0]
    fits = fit_candidates(
        cells[rows], None, candidates, weight=mass[rows], covariance_type=covariance_type, max_iter=max_iter, tol=tol,
        eps=eps, random_state=random_state, device=device,
    )  # fmt: skip
    strength = max(_LEAST, _PER_DIMENSION * cells.shape[1]) if nu is None else nu
    return {
        int(k): _as_prior(fit.mixtures, cells[rows], mass[rows].sum(), strength)
        for k, fit in zip(candidates, fits, strict=True)
    }


def _as_prior(mixtures: Mixtures, x: NDArray[np.float64], total: float, nu: float) -> Prior:
    """The prior from the mixture of all cells, of that total weight.

    Its own covariances are shrunk, to their mean over components, so that one of few cells is not taken at its word.
    """
    weights, means, covariances = mixtures.weights[0], mixtures.means[0].copy(), mixtures.covariances[0]
    tail = (slice(None),) + (None,) * (covariances.ndim - 1)
    count = (weights * total)[tail]
    covariances = (count * covariances + nu * (weights[tail] * covariances).sum(0)) / np.maximum(count + nu, 1e-300)
    means[weights == 0] = x.mean(axis=0)
    if nu == 0:
        covariances[weights == 0] = mixtures.covariances[0][weights == 0]
    return Prior(weights, means, covariances, mixtures.covariance_type, nu)
