"""Residual refinement: what still separates mutual nearest prototypes of different groups after the transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport._parallel import parallel_map
from muport.integration.prototypes._prototypes import soft_assign
from muport.integration.shared_centers._coupling import normalize_mass
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes

__all__ = ["estimate_mnn_shift"]

_PER_GROUP = 5  # neighbours for each other group
_MOST = 30


def estimate_mnn_shift(
    prototypes: Prototypes, image: NDArray[np.float32], fixed: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(P, d) shift that takes each prototype to its mutual nearest neighbours of other groups, smoothed in its group.

    A prototype without a mutual neighbour, such as one of a type that only its group has, inherits the kernel mean of
    the nearest prototypes of its group that have one.

    Parameters
    ----------
    prototypes
        Original positions, over which shifts are smoothed.
    image
        (P, d) where the transport puts them.
    fixed
        (F, d) fitted prototypes, already in place: then these alone are the other group. They do not move.
    """
    count, target = _mutual_means(prototypes, image) if fixed is None else _fixed_means(image, fixed)
    met = count > 0
    shift = np.zeros_like(image)
    shift[met] = target[met] / count[met, None] - image[met]
    out = np.zeros_like(image)
    for b in range(prototypes.n_groups):
        rows = prototypes.of(b)
        source = np.flatnonzero(met[rows]) + rows.start
        if len(source):
            near, weight = soft_assign(prototypes.position[rows], prototypes.position[source])
            out[rows] = np.einsum("pk,pkd->pd", weight, shift[source[near]])
    return out


def _mutual_means(
    prototypes: Prototypes, image: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Total share and share-weighted sum of positions of each prototype's mutual neighbours in other groups."""
    total, groups = len(image), prototypes.n_groups
    largest = int(np.diff(prototypes.start).max())
    k = min(_PER_GROUP * (groups - 1), _MOST, total - largest)
    if k < 1:
        return np.zeros(total, np.float32), np.zeros_like(image)

    def search(group: int) -> NDArray[np.int64]:
        rows = prototypes.of(group)
        others = np.r_[0 : rows.start, rows.stop : total]
        near: NDArray[np.int64] = others[knn(image[others], k, query=image[rows], method="exact").indices]
        return near

    found = np.concatenate(parallel_map(search, range(groups), groups * total))
    graph = csr_array(
        (np.ones(total * k, np.float32), (np.repeat(np.arange(total), k), found.ravel())), shape=(total, total)
    )
    mutual = graph.multiply(graph.T).tocsr()
    weight = normalize_mass(prototypes)
    return mutual @ weight, mutual @ (weight[:, None] * image)


def _fixed_means(
    image: NDArray[np.float32], fixed: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    k = min(_PER_GROUP, len(image), len(fixed))
    to_fixed = knn(fixed, k, query=image, method="exact").indices
    back = knn(image, k, query=fixed, method="exact").indices
    mutual = (back[to_fixed] == np.arange(len(image))[:, None, None]).any(axis=2)
    weight = mutual.astype(np.float32)
    return weight.sum(axis=1), np.einsum("pk,pkd->pd", weight, fixed[to_fixed])
