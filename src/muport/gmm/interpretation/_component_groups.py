"""Components matched across patients: the components of all patients, grouped by their Wasserstein distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport._arrays import describe_fields
from muport._checks import check_integers
from muport._parallel import single_threaded
from muport.gmm.distances._bures import roots
from muport.gmm.distances._mixture_wasserstein import pair_costs_of
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = [
    "ComponentGroups",
    "check_number_of_groups",
    "compute_barycenters",
    "fixed_point_step",
    "group_weights",
    "find_groups",
    "match_components",
]

_MIN_EIGENVALUE = 1e-12  # of the largest eigenvalue: smaller ones are rounding errors
_MAX_ROUNDS = 50  # assignments of components to barycenters
_MAX_STEPS = 200  # fixed-point steps of a barycenter
_SAME = 1e-6  # by which shares and means of the same components may differ, for example after they were stored
_TOLERANCE = 1e-8  # relative change of the covariances at which the fixed-point steps end


@dataclass(frozen=True, eq=False)
class ComponentGroups:
    """Components that P patients have in common; the group with the largest mass is first.

    Attributes
    ----------
    group
        (P, K) int64 group of each component, -1 for padding.
    means, covariances
        (M, d) and (M, d, d): Wasserstein barycenter of each group, with components weighted by their mass.
    shares
        (P, M) fraction of each patient's cells in each group; rows sum to 1, and a group that a patient does not have
        is 0.
    distance
        (P, K) Wasserstein distance of each component from the barycenter of its group; 0 for padding.
    """

    group: NDArray[np.int64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    shares: NDArray[np.float64]
    distance: NDArray[np.float64]

    __repr__ = describe_fields

    def __len__(self) -> int:
        return len(self.means)

    def subset(self, patients: NDArray[np.int64]) -> ComponentGroups:
        """The same groups, for some of the patients.

        Parameters
        ----------
        patients
            Positions of the patients.
        """
        return ComponentGroups(
            self.group[patients], self.means, self.covariances, self.shares[patients], self.distance[patients]
        )  # fmt: skip


@single_threaded()
def match_components(mixtures: Mixtures, n_groups: int | None = None, *, random_state: int = 0) -> ComponentGroups:
    """Group the components of all patients: k-means of Gaussians in the Wasserstein space.

    Two steps alternate: each component is assigned to the nearest barycenter in Bures-Wasserstein distance,
    |m - m'|^2 + B^2(S, S'), and each barycenter takes one step of its fixed-point iteration (Alvarez-Esteban et al.
    2016, eq. 7). The start is k-means of (m, S^1/2), in which the distance is an upper bound of Bures-Wasserstein.

    - `mixtures`: Mixtures of P patients.
    - `n_groups`: Number of groups; by default the largest number of components of a patient.
    - `random_state`: Seed of the start.

    Returns fewer groups than `n_groups` if there are fewer different components. Raises ValueError if `n_groups` is not
    positive, or above the number of components of all patients.

    Examples
    --------
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> means = np.array([[[0.0], [9.0]], [[9.1], [0.1]]])
    >>> match_components(Mixtures(np.full((2, 2), 0.5), means, np.ones((2, 2, 1)), "diag")).group.tolist()
    [[0, 1], [1, 0]]
    """
    has_mass = mixtures.weights > 0
    if n_groups is not None:
        check_number_of_groups(mixtures, n_groups=n_groups)
    mass = torch.from_numpy(mixtures.weights[has_mass])
    mean, covariance = torch.from_numpy(mixtures.means[has_mass]), torch.from_numpy(mixtures.full()[has_mass])
    number = n_groups or int(mixtures.n_components.max())
    start = _start_labels(mean, covariance, mass, number, random_state)
    label, cost = _alternate(mean, covariance, mass, start)
    label = _order_by_mass(mean, mass, label)
    center_mean, center_covariance = compute_barycenters(mean, covariance, mass, label)
    group, distance = np.full(has_mass.shape, -1), np.zeros(has_mass.shape)
    group[has_mass], distance[has_mass] = label.numpy(), np.sqrt(cost.numpy())
    shares = group_shares(mixtures, group, len(center_mean))
    return ComponentGroups(group, center_mean.numpy(), center_covariance.numpy(), shares, distance)


def check_number_of_groups(mixtures: Mixtures, **values: int) -> None:
    """Raise a ValueError unless every value is from 1 to the number of components of all patients."""
    check_integers(**values)
    total = int((mixtures.weights > 0).sum())
    for name, value in values.items():
        if value > total:
            raise ValueError(f"{name}={value} is above {total}, the number of components of all patients: lower it.")


def compute_barycenters(mean: Tensor, covariance: Tensor, mass: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the Wasserstein barycenters of groups of Gaussians.

    - `mean`, `covariance`, `mass`: (N, d), (N, d, d) and (N,) > 0.
    - `label`: (N,) group of each, 0..M-1, none empty.

    Returns means (M, d) and covariances (M, d, d).
    """
    weights = group_weights(mass, label)
    center = torch.einsum("mn,nij->mij", weights, covariance)
    for _ in range(_MAX_STEPS):
        before, center = center, fixed_point_step(center, covariance, weights, label)
        if (center - before).norm() <= _TOLERANCE * center.norm():
            break
    return weights @ mean, center


def _order_by_mass(mean: Tensor, mass: Tensor, label: Tensor) -> Tensor:
    """The same groups, numbered from the largest mass on; among equal masses by the coordinates of the mean."""
    total = torch.zeros(int(label.max()) + 1, dtype=mass.dtype).index_add(0, label, mass)
    center = (group_weights(mass, label) @ mean).numpy()
    rounded = np.round(total.numpy() / float(total.sum()), 9)
    order = np.lexsort((*center.T[::-1], -rounded))
    return torch.from_numpy(np.argsort(order))[label]


def _start_labels(mean: Tensor, covariance: Tensor, mass: Tensor, n_groups: int, random_state: int) -> Tensor:
    """Labels (N,) by k-means of means and roots of covariances."""
    flat = torch.cat([mean, roots(covariance).flatten(1)], dim=1)
    clusters = kmeans((flat - flat.mean(0)).numpy(), n_groups, weights=mass.numpy(), random_state=random_state)
    return torch.from_numpy(clusters.labels)


def _alternate(mean: Tensor, covariance: Tensor, mass: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (N,) without gaps, and squared distances (N,) from the barycenters."""
    weights = group_weights(mass, label)
    center = torch.einsum("mn,nij->mij", weights, covariance)
    for _ in range(_MAX_ROUNDS):
        center = fixed_point_step(center, covariance, weights, label)
        nearest = pair_costs_of(mean, covariance, weights @ mean, center).argmin(dim=1)
        kept, nearest = torch.unique(nearest, return_inverse=True)
        stable = len(kept) == len(center) and bool((nearest == label).all())
        label, center = nearest, center[kept]
        weights = group_weights(mass, label)
        if stable:
            break
    cost = pair_costs_of(mean, covariance, *compute_barycenters(mean, covariance, mass, label))
    return label, cost.gather(1, label[:, None])[:, 0]


def group_weights(mass: Tensor, label: Tensor) -> Tensor:
    """(M, N) mass of each member relative to its group, rows sum to 1."""
    member = torch.zeros(int(label.max()) + 1, len(label), dtype=mass.dtype)
    member[label, torch.arange(len(label))] = mass
    return member / member.sum(1, keepdim=True)


def fixed_point_step(center: Tensor, covariance: Tensor, weights: Tensor, label: Tensor) -> Tensor:
    """S <- S^-1/2 (sum_n a_n (S^1/2 S_n S^1/2)^1/2)^2 S^-1/2, for groups of weights a (M, N) and labels (N,)."""
    values, vectors = torch.linalg.eigh(center)
    values = values.clamp(min=_MIN_EIGENVALUE * float(values.max()) or _MIN_EIGENVALUE)
    root = (vectors * values.sqrt()[:, None]) @ vectors.mT
    inverse_root = (vectors * values.rsqrt()[:, None]) @ vectors.mT
    inner = roots(root[label] @ covariance @ root[label])
    summed = torch.einsum("mn,nij->mij", weights, inner)
    step: Tensor = inverse_root @ summed @ summed @ inverse_root
    return (step + step.mT) / 2


def find_groups(groups: ComponentGroups | None, mixtures: Mixtures, random_state: int) -> ComponentGroups:
    """The groups that a user passed, or those of :func:`match_components`; ValueError if they are of other mixtures."""
    if groups is None:
        return match_components(mixtures, random_state=random_state)
    shape = mixtures.weights.shape
    if not isinstance(groups, ComponentGroups) or groups.group.shape != shape:
        found = getattr(getattr(groups, "group", None), "shape", type(groups).__name__)
        raise ValueError(
            f"groups are of {found}, not of the {shape} patients and components of this model: pass "
            "model.match_components(), or None."
        )
    if not _are_of(groups, mixtures):
        raise ValueError(
            "groups are of other mixtures: their shares or means are not those of the components of this model. Pass "
            "model.match_components() of this fit, or None."
        )
    return groups


def _are_of(groups: ComponentGroups, mixtures: Mixtures) -> bool:
    """Whether the shares, and the means, of the groups are those of these mixtures."""
    has_mass, n = mixtures.weights > 0, len(groups.means)
    if groups.means.shape[1:] != mixtures.means.shape[2:] or groups.shares.shape != (len(has_mass), n):
        return False
    label = groups.group[has_mass]
    if (groups.group[~has_mass] != -1).any() or not np.array_equal(np.unique(label), np.arange(n)):
        return False
    shares = group_shares(mixtures, groups.group, n)
    weights = group_weights(torch.from_numpy(mixtures.weights[has_mass]), torch.from_numpy(label)).numpy()
    means = weights @ mixtures.means[has_mass]
    size = np.abs(means).max(initial=0)
    return np.allclose(shares, groups.shares, atol=_SAME) and np.allclose(means, groups.means, atol=_SAME * size)


def group_shares(mixtures: Mixtures, group: NDArray[np.int64], n_groups: int) -> NDArray[np.float64]:
    """(P, M) mass of each patient in each group, of groups (P, K) of the components."""
    has_mass = mixtures.weights > 0
    shares = np.zeros((len(has_mass), n_groups))
    np.add.at(shares, (has_mass.nonzero()[0], group[has_mass]), mixtures.weights[has_mass])
    return shares
