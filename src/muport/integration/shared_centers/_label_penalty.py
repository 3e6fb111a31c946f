"""Known labels in the transport: a prototype pays for a centre whose cells have other labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport.integration.shared_centers._coupling import normalize_mass

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.shared_centers._coupling import Coupling

__all__ = ["compute_label_penalty", "average_over_prototypes"]

_MOST = 2.0  # penalty at full supervision, in units of 2 - 2 cos


def average_over_prototypes(
    p: NDArray[np.float32], nearest: NDArray[np.int64], n_prototypes: int
) -> NDArray[np.float32]:
    """(P, C) mean over each prototype's cells of the probabilities of their types.

    Parameters
    ----------
    p
        (N, C) probabilities of the cells' types.
    nearest
        (N,) prototype of each cell.
    n_prototypes
        Number of prototypes, P.
    """
    member = csr_array((np.ones(len(p), np.float32), (nearest, np.arange(len(p)))), shape=(n_prototypes, len(p)))
    size = np.maximum(np.bincount(nearest, minlength=n_prototypes), 1)
    mean: NDArray[np.float32] = ((member @ p) / size[:, None]).astype(np.float32)
    return mean


def compute_label_penalty(
    known: NDArray[np.float32], prototypes: Prototypes, coupling: Coupling, supervision: float
) -> NDArray[np.float32]:
    """(P, K) addition to the cost: the probability that labels of the prototype and of the centre's cells disagree.

    Unlabelled prototypes, and centres without labelled cells, pay and cost nothing.
    """
    held = (normalize_mass(prototypes)[:, None] * coupling.plan).T @ known
    labelled = held.sum(axis=1, keepdims=True)
    part = np.divide(held, labelled, out=np.zeros_like(held), where=labelled > 0)
    disagree = known.sum(axis=1, keepdims=True) * (labelled > 0).T - known @ part.T
    penalty: NDArray[np.float32] = (_MOST * supervision * np.maximum(disagree, 0)).astype(np.float32)
    return penalty
