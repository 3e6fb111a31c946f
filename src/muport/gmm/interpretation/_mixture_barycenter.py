"""The mean mixture of a group of patients: a barycenter under the mixture Wasserstein distance.

Symbols: P patients, K components of the barycenter, L components of a patient, d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport._arrays import describe_fields
from muport._checks import check_integers, check_seed
from muport._parallel import single_threaded
from muport.gmm.distances._mixture_wasserstein import compute_plans, pair_costs
from muport.gmm.interpretation._component_groups import fixed_point_step, group_weights
from muport.gmm.mixtures._mixtures import Mixtures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.gmm.interpretation._component_groups import ComponentGroups

__all__ = ["Barycenter", "fit_barycenter"]

_MAX_STEPS = 100
_TOLERANCE = 1e-9  # relative decrease of the cost at which the steps end
_MIN_MASS = 1e-12  # of a plan: less is a rounding error


@dataclass(frozen=True, eq=False)
class Barycenter:
    """The mean mixture of a group of patients, and synthetic cells of it.

    Attributes
    ----------
    weights
        (K,) weights of the components, which sum to 1; the largest is first.
    means, covariances
        (K, d) and (K, d, d) means and covariances, in the coordinates of the representation.
    cost
        Mean squared MW2 distance of the patients from the barycenter, in squared units of the representation.
    converged
        Whether the steps ended because the cost no longer decreased.
    samples
        Names of the patients.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    cost: float
    converged: bool
    samples: tuple[str, ...]

    __repr__ = describe_fields

    def __len__(self) -> int:
        return len(self.weights)

    def sample(self, n_cells: int = 1000, random_state: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw synthetic cells from the mixture.

        Parameters
        ----------
        n_cells
            Number of cells.
        random_state
            Seed.

        Returns
        -------
        (n_cells, d) coordinates, and the (n_cells,) component of each cell.

        Raises
        ------
        ValueError
            If `n_cells` is not a positive integer.

        Examples
        --------
        >>> mean = Barycenter(np.ones(1), np.array([[5.0, 0.0]]), np.eye(2)[None], 0.0, True, ("P0",))
        >>> cells, component = mean.sample(4)
        >>> cells.shape, component.tolist()
        ((4, 2), [0, 0, 0, 0])
        """
        check_integers(n_cells=n_cells)
        check_seed(random_state)
        rng = np.random.default_rng(random_state)
        component = rng.choice(len(self), n_cells, p=self.weights / self.weights.sum())
        values, vectors = np.linalg.eigh(self.covariances)
        factor = vectors * np.sqrt(np.maximum(values, 0))[:, None]
        noise = rng.standard_normal((n_cells, self.means.shape[1]))
        cells = self.means[component]
        for k in range(len(self)):
            own = component == k
            cells[own] += noise[own] @ factor[k].T
        return cells, component.astype(np.int64)


@single_threaded()
def fit_barycenter(mixtures: Mixtures, groups: ComponentGroups, samples: Sequence[str]) -> Barycenter:
    r"""Fit the mixture of least mean squared MW2 distance from P patients, among those of given weights.

    The weights :math:`a_k` are the mean shares of the matched components. Two steps alternate, and neither increases
    the cost :math:`\frac1P \sum_i \mathrm{MW}_2^2(\nu, \mu_i)`: the exact plans :math:`P^i` from the components of the
    barycenter to those of each patient; and one step of each component's fixed-point iteration toward the
    Bures-Wasserstein barycenter of all components (i, l), with weights :math:`P^i_{kl}` (Delon and Desolneux 2020,
    section 5, with a support of K components, as in Cuturi and Doucet 2014, algorithm 2). The result is a local
    minimum; the matched components are the start.

    - `mixtures`: Mixtures of P patients.
    - `groups`: Their matched components.
    - `samples`: Names of the patients.

    Examples
    --------
    >>> from muport.gmm.interpretation._component_groups import match_components
    >>> two = Mixtures(np.ones((2, 1)), np.array([[[0.0]], [[4.0]]]), np.array([[[[1.0]]], [[[9.0]]]]))
    >>> mean = fit_barycenter(two, match_components(two), ["a", "b"])
    >>> mean.means.tolist(), mean.covariances.round(6).tolist(), round(mean.cost, 6)
    ([[2.0]], [[[4.0]]], 5.0)
    """
    full = Mixtures(mixtures.weights, mixtures.means, mixtures.full(), "full", mixtures.eps)
    weights = groups.shares.mean(axis=0)
    kept = weights > 0
    weights, means, covariances = weights[kept], groups.means[kept], groups.covariances[kept]
    before, converged = np.inf, False
    for _ in range(_MAX_STEPS):
        center = Mixtures(weights[None], means[None], covariances[None], "full", 0.0)
        costs = pair_costs(center, full)
        plans = compute_plans(center, full, costs)
        cost = float((plans * costs).sum() / len(full))
        converged = before - cost <= _TOLERANCE * max(cost, _MIN_MASS)
        if converged:
            break
        before = cost
        means, covariances = _move_components(full, plans[0], covariances)
    order = np.argsort(-weights, kind="stable")
    return Barycenter(weights[order], means[order], covariances[order], cost, converged, tuple(samples))


def _move_components(
    mixtures: Mixtures, plans: NDArray[np.float64], covariances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means (K, d), and covariances (K, d, d) after a step, of what plans (P, K, L) transport from each component."""
    patient, component, target = (plans > _MIN_MASS).nonzero()
    label = torch.from_numpy(component)
    weights = group_weights(torch.from_numpy(plans[patient, component, target]), label)
    sources = torch.from_numpy(mixtures.covariances[patient, target])
    moved = fixed_point_step(torch.from_numpy(covariances), sources, weights, label)
    return (weights @ torch.from_numpy(mixtures.means[patient, target])).numpy(), moved.numpy()
