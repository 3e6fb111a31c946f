"""The nearest patients of each patient in large cohorts: a linearized distance first, then exact distances.

Symbols: P patients, K components, d dimensions, c candidates, N pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from muport._parallel import single_threaded
from muport.gmm.distances._bures import fidelities, roots
from muport.gmm.distances._mixture_wasserstein import solve_transport
from muport.neighbors import Neighbors, kmeans, knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["linear_coordinates", "nearest_patients"]

_BLOCK = 4096  # pairs of patients that are solved at once
_MASS = 1e-12  # of a plan: less is a rounding error
_CANDIDATES = 2  # for each neighbor


@dataclass(frozen=True, eq=False)
class _Components:
    """Components of all patients under the metric.

    - `weight`: (P, K); 0 for padding.
    - `mean`: (P, K, r).
    - `covariance`, `root`: (P, K, r, r).
    - `scale`: (P, K, r) sorted roots of the eigenvalues.
    """

    weight: Tensor
    mean: Tensor
    covariance: Tensor
    root: Tensor
    scale: Tensor


def _components(mixtures: Mixtures, w: ArrayLike | None) -> _Components:
    mean, covariance = torch.from_numpy(mixtures.means), torch.from_numpy(mixtures.full())
    if w is not None:
        metric = torch.as_tensor(np.asarray(w, dtype=np.float64))
        mean, covariance = mean @ metric.T, metric @ covariance @ metric.T
    root = roots(covariance)
    scale = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    return _Components(torch.from_numpy(mixtures.weights), mean, covariance, root, scale)


@single_threaded()
def linear_coordinates(mixtures: Mixtures, w: ArrayLike | None = None, random_state: int = 0) -> NDArray[np.float64]:
    r"""Compute coordinates of patients whose Euclidean distances approximate MW2: linearized transport.

    The reference are the K centers of all components, by k-means of (m, S^{1/2}), with their mean masses a. With the
    plan P from the reference to a patient, the coordinates are :math:`a_k^{-1/2} \sum_l P_{kl} (m_l, S_l^{1/2})` (Wang
    et al. 2013, linear optimal transport). The time is linear in the number of patients.

    - `mixtures`: Mixtures of P patients.
    - `w`: (r, d) metric; by default the identity.
    - `random_state`: Seed of the k-means.

    Returns (P, K (r + r^2)).
    """
    own = _components(mixtures, w)
    p, k = own.weight.shape
    flat = torch.cat([own.mean, own.root.flatten(2)], dim=2)
    has_mass = (own.weight > 0).numpy()
    points, mass = flat.numpy()[has_mass], mixtures.weights[has_mass]
    clusters = kmeans(points - points.mean(axis=0), k, weights=mass, random_state=random_state)
    share = np.bincount(clusters.labels, mass, int(clusters.labels.max()) + 1)
    kept = np.flatnonzero(share > 0)
    center = np.stack(
        [np.average(points[clusters.labels == m], axis=0, weights=mass[clusters.labels == m]) for m in kept]
    )
    a = torch.from_numpy(share[kept] / share.sum())
    costs = torch.from_numpy(cdist(center, flat.flatten(0, 1).numpy(), "sqeuclidean")).reshape(len(kept), p, k)
    plan = solve_transport(costs.transpose(0, 1).contiguous(), a.expand(p, -1).contiguous(), own.weight)
    coordinates: NDArray[np.float64] = ((plan @ flat) / a.sqrt()[:, None]).flatten(1).numpy()
    return coordinates


@single_threaded()
def nearest_patients(
    mixtures: Mixtures, n_neighbors: int, w: ArrayLike | None = None, *, n_candidates: int | None = None,
    random_state: int = 0,
) -> Neighbors:  # fmt: skip
    """Find the nearest patients of each patient in MW2 distance.

    Candidates are the nearest patients in :func:`linear_coordinates`; their distances are exact.

    - `mixtures`, `w`, `random_state`: As for :func:`linear_coordinates`.
    - `n_neighbors`: Number of neighbors of each patient, below P.
    - `n_candidates`: Number of candidates; by default twice as many. With P - 1 the neighbors are exact.

    Returns distances and positions (P, n_neighbors), nearest first.
    """
    p = len(mixtures)
    number = min(p - 1, max(n_neighbors, _CANDIDATES * n_neighbors if n_candidates is None else n_candidates))
    coordinates = linear_coordinates(mixtures, w, random_state)
    candidates = knn(coordinates.astype(np.float32), number, method="exact").indices
    first = np.repeat(np.arange(p), number)
    pairs = np.sort(np.column_stack([first, candidates.ravel()]), axis=1)
    unique, position = np.unique(pairs, axis=0, return_inverse=True)
    own = _components(mixtures, w)
    squared = _nearest_squared(own, unique, position.reshape(p, number), n_neighbors)
    distance = np.sqrt(np.maximum(squared, 0))[position.ravel()].reshape(p, number)
    order = np.argsort(distance, axis=1, kind="stable")[:, :n_neighbors]
    found = np.take_along_axis(distance, order, 1).astype(np.float32)
    return Neighbors(found, np.take_along_axis(candidates, order, 1))


def _nearest_squared(
    own: _Components, pairs: NDArray[np.int64], position: NDArray[np.int64], n_neighbors: int
) -> NDArray[np.float64]:
    """Squared distances (N,) of the pairs (N, 2), infinite for pairs that cannot be among the nearest.

    The candidates of the smallest lower bounds are solved first, then those whose bound is below the largest distance
    among them.

    - `position`: (P, c) pair of each patient and candidate.
    """
    first, second = torch.from_numpy(pairs).unbind(1)
    bounds, plans = _in_blocks(lambda i, j: _lower_bounds(own, i, j), first, second)
    bound = bounds.numpy()[position]
    squared = np.full(len(pairs), np.inf)

    def solve_pairs(wanted: NDArray[np.int64]) -> None:
        rows = np.unique(wanted)
        rows = rows[np.isinf(squared[rows])]
        if len(rows):
            chosen = (array[torch.from_numpy(rows)] for array in (first, second, plans))
            exact = _in_blocks(lambda *block: (_pair_distances(own, *block),), *chosen)[0]
            squared[rows] = exact.numpy()

    solve_pairs(np.take_along_axis(position, np.argsort(bound, axis=1, kind="stable")[:, :n_neighbors], 1))
    farthest = np.sort(squared[position], axis=1)[:, n_neighbors - 1 : n_neighbors]
    # bounds are sums in another order than distances
    solve_pairs(position[bound <= farthest * (1 + _MASS)])
    return squared


def _in_blocks(function: Callable[..., tuple[Tensor, ...]], *arrays: Tensor) -> list[Tensor]:
    """Results of a function of arrays over pairs, computed for a block of pairs at a time."""
    blocks = zip(*(torch.split(array, _BLOCK) for array in arrays), strict=True)
    found = [function(*block) for block in blocks]
    return [torch.cat(values) for values in zip(*found, strict=True)]


def _bound_costs(own: _Components, i: Tensor, j: Tensor) -> Tensor:
    """Lower bounds (N, K, K) of the costs between components: |m - m'|^2 + |s - s'|^2, roots s of the eigenvalues."""
    return torch.cdist(own.mean[i], own.mean[j]).square() + torch.cdist(own.scale[i], own.scale[j]).square()


def _lower_bounds(own: _Components, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Lower bounds (N,) of the squared distances of the pairs (i, j), and their plans (N, K, K)."""
    costs = _bound_costs(own, i, j)
    plan = solve_transport(costs, own.weight[i], own.weight[j])
    return (plan * costs).sum((1, 2)) / plan.sum((1, 2)), plan


def _pair_distances(own: _Components, i: Tensor, j: Tensor, plan: Tensor) -> Tensor:
    """Squared MW2 distances (N,) of the pairs (i, j).

    Bures distances take most of the time, and most pairs of components are never matched. A plan is therefore solved
    with lower bounds of the costs; those of the components that it matches are replaced by exact ones, until it matches
    no other. The plan is then optimal: its cost is exact, and no other plan costs less even at the lower bounds.

    - `plan`: (N, K, K) plans of :func:`_lower_bounds`; changed in place.
    """
    k = own.weight.shape[1]
    costs = _bound_costs(own, i, j)
    is_exact = torch.zeros(costs.shape, dtype=torch.bool)
    trace = own.scale.square().sum(-1)
    root, covariance = own.root.flatten(0, 1), own.covariance.flatten(0, 1)
    active = torch.arange(len(i))
    while len(active):
        needed = (plan[active] > _MASS) & ~is_exact[active]
        pair, row, column = needed.nonzero().unbind(1)
        pair = active[pair]
        cross = fidelities(root, covariance, i[pair] * k + row, j[pair] * k + column)
        bures = (trace[i[pair], row] + trace[j[pair], column] - 2 * cross).clamp(min=0)
        between = (own.mean[i[pair], row] - own.mean[j[pair], column]).square().sum(-1)
        costs[pair, row, column] = between + bures
        is_exact[pair, row, column] = True
        active = torch.unique(pair)
        plan[active] = solve_transport(costs[active], own.weight[i[active]], own.weight[j[active]])
    return (plan * costs).sum((1, 2)) / plan.sum((1, 2))
