"""One set of components for a cohort: the patients' own components, grouped by their Wasserstein distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport._parallel import single_threaded
from muport.gmm.distances._bures import roots
from muport.gmm.distances._mixture_wasserstein import pair_costs_of
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["ComponentGroups", "barycenters", "match_components"]

_TINY = 1e-12  # of the largest eigenvalue: smaller ones are rounding


@dataclass(frozen=True, eq=False)
class ComponentGroups:
    """Components that P patients have in common; the group of most mass comes first.

    Attributes
    ----------
    group
        (P, K) int64 group of each component, -1 where it is padding.
    means, covariances
        (M, d) and (M, d, d): Wasserstein barycentre of each group, components weighted by their mass.
    shares
        (P, M) mass of each group in each patient; rows sum to 1, 0 where a patient has no such component.
    distance
        (P, K) Wasserstein distance of each component to its group's barycentre; 0 for padding.
    """

    group: NDArray[np.int64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    shares: NDArray[np.float64]
    distance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.means)


@single_threaded()
def match_components(
    mixtures: Mixtures,
    n_groups: int | None = None,
    *,
    w: ArrayLike | None = None,
    n_iter: int = 50,
    random_state: int = 0,
) -> ComponentGroups:
    """Group the components of all patients: k-means of Gaussians in the Wasserstein space.

    Each component goes to the barycentre nearest in Bures-Wasserstein distance, |m - m'|^2 + B^2(S, S'), and each
    barycentre takes one step of its fixed-point iteration (Alvarez-Esteban et al. 2016, eq. 7), in turn. The start is
    k-means of (m, S^1/2), where the distance bounds Bures-Wasserstein from above.

    Parameters
    ----------
    mixtures
        Mixtures of P patients.
    n_groups
        Number of groups; by default the most components that a patient has.
    w
        (r, d) metric under which components are compared; by default the identity. Barycentres are always in the
        coordinates of the mixtures.
    n_iter
        Most rounds.
    random_state
        Seed of the start.

    Returns
    -------
    ComponentGroups
        Fewer than `n_groups` where there are fewer different components.

    Raises
    ------
    ValueError
        If `n_groups` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> means = np.array([[[0.0], [9.0]], [[9.1], [0.1]]])
    >>> match_components(Mixtures(np.full((2, 2), 0.5), means, np.ones((2, 2, 1)), "diag")).group.tolist()
    [[0, 1], [1, 0]]
    """
    if n_groups is not None and n_groups < 1:
        raise ValueError(f"n_groups={n_groups}: must be at least 1.")
    alive = mixtures.weights > 0
    mass = torch.from_numpy(mixtures.weights[alive])
    mean, covariance = torch.from_numpy(mixtures.means[alive]), torch.from_numpy(mixtures.full()[alive])
    seen = (
        (mean, covariance) if w is None else _under(torch.as_tensor(np.asarray(w, dtype=np.float64)), mean, covariance)
    )
    wanted = n_groups or int(mixtures.n_components.max())
    label, cost = _lloyd(*seen, mass, _start(*seen, mass, wanted, random_state), n_iter)
    label = _by_mass(mean, mass, label)
    centers = barycenters(mean, covariance, mass, label)
    group, distance = np.full(alive.shape, -1), np.zeros(alive.shape)
    group[alive], distance[alive] = label.numpy(), np.sqrt(cost.numpy())
    shares = np.zeros((len(alive), len(centers[0])))
    np.add.at(shares, (alive.nonzero()[0], group[alive]), mixtures.weights[alive])
    return ComponentGroups(group, centers[0].numpy(), centers[1].numpy(), shares, distance)


def barycenters(
    mean: Tensor, covariance: Tensor, mass: Tensor, label: Tensor, *, tol: float = 1e-8, n_iter: int = 200
) -> tuple[Tensor, Tensor]:
    """Wasserstein barycentres of groups of Gaussians.

    Parameters
    ----------
    mean, covariance, mass
        (N, d), (N, d, d) and (N,) > 0.
    label
        (N,) group of each, 0..M-1, none empty.
    tol
        Relative change of a covariance at which to stop.
    n_iter
        Most steps of the fixed point.

    Returns
    -------
    tuple
        Means (M, d) and covariances (M, d, d).
    """
    share = _shares(mass, label)
    center = share @ mean
    found = torch.einsum("mn,nij->mij", share, covariance)
    for _ in range(n_iter):
        before, found = found, _fixed_point(found, covariance, share, label)
        if (found - before).norm() <= tol * found.norm():
            break
    return center, found


def _by_mass(mean: Tensor, mass: Tensor, label: Tensor) -> Tensor:
    """The same groups, numbered from the largest on; of equal ones, the one whose mean has the smaller coordinates."""
    total = torch.zeros(int(label.max()) + 1, dtype=mass.dtype).index_add(0, label, mass)
    center = (_shares(mass, label) @ mean).numpy()
    rounded = np.round(total.numpy() / float(total.sum()), 9)
    order = np.lexsort((*center.T[::-1], -rounded))
    return torch.from_numpy(np.argsort(order))[label]


def _start(mean: Tensor, covariance: Tensor, mass: Tensor, n_groups: int, random_state: int) -> Tensor:
    flat = torch.cat([mean, roots(covariance).flatten(1)], dim=1)
    found = kmeans((flat - flat.mean(0)).numpy(), n_groups, weights=mass.numpy(), random_state=random_state)
    return torch.from_numpy(found.labels)


def _lloyd(mean: Tensor, covariance: Tensor, mass: Tensor, label: Tensor, n_iter: int) -> tuple[Tensor, Tensor]:
    """Labels (N,) without gaps, and squared distances (N,) to the barycentres."""
    share = _shares(mass, label)
    center = torch.einsum("mn,nij->mij", share, covariance)
    for _ in range(n_iter):
        center = _fixed_point(center, covariance, share, label)
        nearest = pair_costs_of(mean, covariance, share @ mean, center).argmin(dim=1)
        kept, nearest = torch.unique(nearest, return_inverse=True)
        stable = len(kept) == len(center) and bool((nearest == label).all())
        label, center = nearest, center[kept]
        share = _shares(mass, label)
        if stable:
            break
    final = barycenters(mean, covariance, mass, label)
    cost = pair_costs_of(mean, covariance, *final)
    return label, cost.gather(1, label[:, None])[:, 0]


def _shares(mass: Tensor, label: Tensor) -> Tensor:
    """(M, N) mass of each member, rows sum to 1."""
    member = torch.zeros(int(label.max()) + 1, len(label), dtype=mass.dtype)
    member[label, torch.arange(len(label))] = mass
    return member / member.sum(1, keepdim=True)


def _fixed_point(center: Tensor, covariance: Tensor, share: Tensor, label: Tensor) -> Tensor:
    """S <- S^-1/2 (sum_n a_n (S^1/2 S_n S^1/2)^1/2)^2 S^-1/2."""
    values, vectors = torch.linalg.eigh(center)
    values = values.clamp(min=_TINY * float(values.max()) or _TINY)
    root = (vectors * values.sqrt()[:, None]) @ vectors.mT
    back = (vectors * values.rsqrt()[:, None]) @ vectors.mT
    inner = roots(root[label] @ covariance @ root[label])
    summed = torch.einsum("mn,nij->mij", share, inner)
    step: Tensor = back @ summed @ summed @ back
    return (step + step.mT) / 2


def _under(w: ArrayLike, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    metric = torch.from_numpy(np.asarray(w, dtype=np.float64))
    return mean @ metric.T, metric @ covariance @ metric.T
