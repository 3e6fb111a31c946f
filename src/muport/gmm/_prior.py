"""The pooled mixture of all patients, toward which each patient's mixture is shrunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.gmm._mixture import Mixtures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm._mixture import CovarianceType

__all__ = ["Prior", "spread_over"]

NU = 20.0


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
    nu: float = NU

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
    >>> from muport.gmm._prior import spread_over
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
