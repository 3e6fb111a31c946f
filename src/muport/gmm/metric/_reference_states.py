"""States that all patients share: clusters of the components of the training patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import softmax

from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["Reference", "squared_composition_distances", "fit_reference"]

_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Reference:
    """States that all patients share, found in the components of the training patients, without their offsets.

    - `means`: (M, d) float64 centers of the states.
    - `within`: (d, d) float64 mean covariance of the components.
    """

    means: Annotated[NDArray[np.float64], "* d"]
    within: Annotated[NDArray[np.float64], "d d"]

    @property
    def whitener(self) -> NDArray[np.float64]:
        """(d, d) map under which the mean covariance of the components is the identity."""
        return np.linalg.inv(np.linalg.cholesky(self.within))

    def membership(self, mix: Mixtures) -> NDArray[np.float64]:
        """(P, K, M) probabilities of the states, from the Mahalanobis distance of component means."""
        offset = (mix.aligned_means()[:, :, None] - self.means) @ self.whitener.T
        probabilities: NDArray[np.float64] = softmax(-0.5 * np.square(offset).sum(-1), axis=2)
        return probabilities

    def composition(self, mix: Mixtures) -> NDArray[np.float64]:
        """(P, M) fraction of each patient's cells in each state."""
        fractions: NDArray[np.float64] = (mix.weights[:, :, None] * self.membership(mix)).sum(1)
        return fractions

    def remove_offsets(self, mix: Mixtures) -> Mixtures:
        """Mixtures without the patients' offsets: weighted medians of the components' shifts from their states."""
        shift = mix.means - self.membership(mix) @ self.means
        order = np.argsort(shift, axis=1)
        mass = np.take_along_axis(np.broadcast_to(mix.weights[:, :, None], shift.shape), order, 1).cumsum(1)
        middle = (mass < 0.5).sum(axis=1, keepdims=True).clip(max=shift.shape[1] - 1)
        median = np.take_along_axis(np.take_along_axis(shift, order, 1), middle, 1)
        return replace(mix, means=mix.means - median, offsets=None)


def fit_reference(mix: Mixtures, n_states: int | None = None, random_state: int = 0) -> Reference:
    """Cluster the components of all patients, weighted by their cells, after whitening by their mean covariance.

    - `mix`: Mixtures of the training patients.
    - `n_states`: Number of states; by default the median number of components of a patient.
    - `random_state`: Seed of the clustering.
    """
    has_mass = mix.weights > 0
    weight, means = mix.weights[has_mass], mix.aligned_means()[has_mass]
    within = (mix.weights[:, :, None, None] * mix.full()).sum((0, 1)) / len(mix)
    within = within + 1e-9 * max(np.trace(within) / len(within), _TINY) * np.eye(len(within))
    factor = np.linalg.cholesky(within)
    number = int(np.median(mix.n_components)) if n_states is None else n_states
    white = np.linalg.solve(factor, means.T).T
    clusters = kmeans(white.astype(np.float32), min(number, len(white)), weights=weight, random_state=random_state)
    return Reference(np.asarray(clusters.centers, dtype=np.float64) @ factor.T, within)


def squared_composition_distances(a: Mixtures, b: Mixtures | None, reference: Reference) -> NDArray[np.float64]:
    """Compute squared Hellinger distances (Pa, Pb) of the compositions, in [0, 1]; `b` is `a` if it is None."""
    first, second = (np.sqrt(reference.composition(mix)) for mix in (a, a if b is None else b))
    squared: NDArray[np.float64] = 0.5 * cdist(first, second, "sqeuclidean")
    return squared
