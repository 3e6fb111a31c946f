"""MNN refinement: the shift that remains between mutual nearest prototypes of different groups after the transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport._parallel import count_cores
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.shared_centers._coupling import normalize_mass
from muport.integration.shared_centers._displacement import SMOOTHED_OVER
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes

__all__ = ["estimate_mnn_shift"]

_NEIGHBORS_PER_GROUP = 5  # of each other group
_MOST_NEIGHBORS = 30
_BLOCK = 1_024  # number of prototypes that are searched together


def estimate_mnn_shift(
    prototypes: Prototypes, image: NDArray[np.float32], fixed: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(P, d) shift of each prototype to its mutual nearest neighbors of other groups, smoothed within its group.

    A prototype without a mutual nearest neighbor, such as one of a type that only its group has, gets the kernel mean
    of the nearest prototypes of its group that have one.

    - `prototypes`: Original positions, over which the shifts are smoothed.
    - `image`: (P, d) positions after the transport.
    - `fixed`: (F, d) fitted prototypes after the transport. If given, they are the only other group, and they do not
      move.
    """
    mass, total = _sum_mutual_neighbors(prototypes, image) if fixed is None else _sum_fixed_neighbors(image, fixed)
    has_neighbor = mass > 0
    shift = np.zeros_like(image)
    shift[has_neighbor] = total[has_neighbor] / mass[has_neighbor, None] - image[has_neighbor]
    smoothed = np.zeros_like(image)
    for b in range(prototypes.n_groups):
        rows = prototypes.of(b)
        source = np.flatnonzero(has_neighbor[rows]) + rows.start
        if len(source):
            near, weight = soft_assign(prototypes.position[rows], prototypes.position[source], SMOOTHED_OVER)
            smoothed[rows] = np.einsum("pk,pkd->pd", weight, shift[source[near]])
    return smoothed


def _sum_mutual_neighbors(
    prototypes: Prototypes, image: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P,) mass of the mutual nearest neighbors in other groups, and (P, d) their mass-weighted sum of positions."""
    n, n_groups = len(image), prototypes.n_groups
    largest = int(np.diff(prototypes.start).max())
    k = min(_NEIGHBORS_PER_GROUP * (n_groups - 1), _MOST_NEIGHBORS, n - largest)
    if k < 1:
        return np.zeros(n, np.float32), np.zeros_like(image)

    group = prototypes.group
    blocks = [slice(low, low + _BLOCK) for low in range(0, n, _BLOCK)]
    neighbors = np.concatenate([_search_other_groups(image, group, rows, k) for rows in blocks])
    graph = csr_array((np.ones(n * k, np.float32), (np.repeat(np.arange(n), k), neighbors.ravel())), shape=(n, n))
    mutual = graph.multiply(graph.T).tocsr()
    mass = normalize_mass(prototypes)
    return mutual @ mass, mutual @ (mass[:, None] * image)


def _search_other_groups(
    image: NDArray[np.float32], group: NDArray[np.int64], rows: slice, k: int
) -> NDArray[np.int64]:
    """Rows of the k nearest prototypes of other groups, for each of the prototypes in `rows`.

    One search of all groups finds them for most prototypes: twice as many neighbors are searched, and those of the own
    group are left out. The other prototypes are searched again, among the other groups only.
    """
    near = knn(image, min(2 * k, len(image)), query=image[rows], method="exact", n_threads=count_cores()).indices
    is_own = group[near] == group[rows, None]
    nearest = np.take_along_axis(near, np.argsort(is_own, axis=1, kind="stable")[:, :k], axis=1)
    too_few = (~is_own).sum(axis=1) < k
    for code in np.unique(group[rows][too_few]):
        own = too_few & (group[rows] == code)
        others = np.flatnonzero(group != code)
        nearest[own] = others[knn(image[others], k, query=image[rows][own], method="exact").indices]
    return nearest


def _sum_fixed_neighbors(
    image: NDArray[np.float32], fixed: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P,) number of mutual nearest neighbors among the fixed prototypes, and (P, d) their sum of positions."""
    k = min(_NEIGHBORS_PER_GROUP, len(image), len(fixed))
    to_fixed = knn(fixed, k, query=image, method="exact").indices
    back = knn(image, k, query=fixed, method="exact").indices
    mutual = (back[to_fixed] == np.arange(len(image))[:, None, None]).any(axis=2)
    weight = mutual.astype(np.float32)
    return weight.sum(axis=1), np.einsum("pk,pkd->pd", weight, fixed[to_fixed])
