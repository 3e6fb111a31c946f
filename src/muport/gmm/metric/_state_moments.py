"""Means and variances of the states that all patients share, as coordinates of patients.

Symbols: P patients, K components of a patient, M states, d dimensions, n_i cells of patient i; T whitens the mean
covariance of the components; t_ik are the weights of components, and q_ikm their probabilities of the states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.gmm.metric._reference_states import Reference
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["state_means", "state_variances"]

#: Cells at the mean of a state that each patient gets in addition, so that a state without cells has a mean.
_PRIOR_CELLS = 1.0
#: Cells of the mean covariance that are added to each state. A log-variance of n cells has the error sqrt(2 / n).
_PRIOR_VARIANCE_CELLS = 5.0


def state_means(mixtures: Mixtures, n_cells: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    r"""Compute the means (P, M d) of the states of each patient, relative to the patient's mean over states.

    .. math:: z_{im} = T (\bar x_{im} - c_m) - \frac1M \sum_l T (\bar x_{il} - c_l), \quad
        \bar x_{im} = \frac{\sum_k t_{ik} q_{ikm} \mu_{ik} + c_m / n_i}{\sum_k t_{ik} q_{ikm} + 1 / n_i}

    with :math:`c_m` the mean of the state in all patients. A shift that all states of a patient share, as a batch
    causes it, is removed. The unit is the standard deviation of cells within components.

    - `mixtures`: Mixtures of P patients.
    - `n_cells`: (P,) cells of each patient.
    - `reference`: The states.
    """
    mass, whitener = _masses(mixtures, reference), reference.whitener
    means, centers = mixtures.aligned_means() @ whitener.T, reference.means @ whitener.T
    prior = (_PRIOR_CELLS / n_cells)[:, None, None]
    total = np.einsum("ikm,ikd->imd", mass, means) + prior * centers
    shift = total / (mass.sum(axis=1)[:, :, None] + prior) - centers
    relative: NDArray[np.float64] = (shift - shift.mean(axis=1, keepdims=True)).reshape(len(mixtures), -1)
    return relative


def state_variances(mixtures: Mixtures, n_cells: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    r"""Compute log-variances (P, M d) of the states of each patient, on the axes that T whitens.

    The covariance of a state is that of its components and of their means; five cells of the mean covariance are added.

    - `mixtures`: Mixtures of P patients.
    - `n_cells`: (P,) cells of each patient.
    - `reference`: The states.
    """
    mass, whitener = _masses(mixtures, reference), reference.whitener
    means = mixtures.aligned_means() @ whitener.T
    variances = np.einsum("ac,ikcd,ad->ika", whitener, mixtures.full(), whitener, optimize=True)
    share = mass.sum(axis=1)[:, :, None]
    center = np.einsum("ikm,ikd->imd", mass, means) / np.maximum(share, np.finfo(np.float64).tiny)
    second = np.einsum("ikm,ikd->imd", mass, variances + np.square(means))
    prior = (_PRIOR_VARIANCE_CELLS / n_cells)[:, None, None]
    # a difference of squares can be negative by rounding
    variance = (np.maximum(second - share * np.square(center), 0) + prior) / (share + prior)
    logarithm: NDArray[np.float64] = np.log(variance).reshape(len(mixtures), -1)
    return logarithm


def _masses(mixtures: Mixtures, reference: Reference) -> NDArray[np.float64]:
    """Fractions t q (P, K, M) of the cells of each patient in each component and state."""
    masses: NDArray[np.float64] = mixtures.weights[:, :, None] * reference.membership(mixtures)
    return masses
