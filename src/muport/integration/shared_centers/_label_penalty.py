"""Known labels in the transport: a penalty for transport to a center whose cells have other labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport.integration.shared_centers._coupling import normalize_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.shared_centers._coupling import Coupling

__all__ = ["average_over_prototypes", "compute_label_penalty"]

_FULL_PENALTY = 2.0  # at a supervision of 1, in units of the cost 2 - 2 cos


def average_over_prototypes(
    p: NDArray[np.float32], nearest: NDArray[np.int64], n_prototypes: int
) -> NDArray[np.float32]:
    """(P, C) mean over the cells of each prototype of the probabilities of their types.

    - `p`: (N, C) probabilities of the types of the cells.
    - `nearest`: (N,) prototype of each cell.
    """
    membership = csr_array((np.ones(len(p), np.float32), (nearest, np.arange(len(p)))), shape=(n_prototypes, len(p)))
    size = np.maximum(np.bincount(nearest, minlength=n_prototypes), 1)
    mean: NDArray[np.float32] = ((membership @ p) / size[:, None]).astype(np.float32)
    return mean


def compute_label_penalty(
    type_probabilities: NDArray[np.float32], prototypes: Prototypes, coupling: Coupling, supervision: float
) -> NDArray[np.float32]:
    """(P, K) addition to the cost: the probability that the labels of the prototype and of the center disagree.

    It is 0 for unlabeled prototypes and for centers without labeled cells.
    """
    labeled_mass = (normalize_mass(prototypes)[:, None] * coupling.plan).T @ type_probabilities
    total = labeled_mass.sum(axis=1, keepdims=True)
    proportions = np.divide(labeled_mass, total, out=np.zeros_like(labeled_mass), where=total > 0)
    labeled = type_probabilities.sum(axis=1, keepdims=True)
    disagreement = labeled * (total > 0).T - type_probabilities @ proportions.T
    penalty: NDArray[np.float32] = (_FULL_PENALTY * supervision * np.maximum(disagreement, 0)).astype(np.float32)
    return penalty
