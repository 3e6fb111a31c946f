"""Plans between the components of patients, and squared distances as a function of the metric W.

The plan P between the components of two patients does not depend on W and is computed once, in the whole space. Then

    D_ij(W) = tr(W A_ij W'),   A_ij = sum_kl P_kl [(m_k - m_l)(m_k - m_l)' + (R_k - R_l)(R_k - R_l)'] / sum_kl P_kl,

is linear in W'W. R are the symmetric roots of the covariances: the second term is the squared Bures distance where
covariances commute, and an upper bound of it elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from muport.gmm.distances._bures import roots
from muport.gmm.distances._mixture_wasserstein import compute_plans, typical_cost

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["ComponentPlans", "component_roots", "plan_components"]

_ROUNDING = 1e-13  # a squared distance below this fraction of the squared norms is that of equal roots


@dataclass(frozen=True, eq=False)
class ComponentPlans:
    """Transport plans between patients, and the features of the components that they move.

    - `a`, `b`: (Pa K, d, c) and (Pb K, d, c) features of the components: the mean, and the root of the covariance.
    - `plan`: (Pa, Pb, K, K), each with sum 1.
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    plan: NDArray[np.float64]

    def squared(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distances D_ij(W), (Pa, Pb)."""
        first, second = ((w @ features).reshape(len(features), -1) for features in (self.a, self.b))
        # the plans as one matrix (Pa K, Pb K)
        mass = self.plan.transpose(0, 2, 1, 3).reshape(len(self.a), len(self.b))
        cross = (first @ second.T) * mass
        moved = np.square(first).sum(1)[:, None] * mass - 2 * cross + np.square(second).sum(1) * mass
        shape = self.plan.shape
        squared: NDArray[np.float64] = moved.reshape(shape[0], shape[2], shape[1], shape[3]).sum((1, 3))
        np.maximum(squared, 0, out=squared)
        return squared

    def means_only(self) -> ComponentPlans:
        """The same plans, with features without the covariances."""
        return ComponentPlans(self.a[:, :, :1], self.b[:, :, :1], self.plan)

    def among(self, patients: NDArray[np.int64]) -> ComponentPlans:
        """Plans between some of the patients; `a` and `b` must be of the same patients."""
        k = self.plan.shape[2]
        rows = (patients[:, None] * k + np.arange(k)).ravel()
        return ComponentPlans(self.a[rows], self.b[rows], self.plan[np.ix_(patients, patients)])


def plan_components(
    a: Mixtures,
    b: Mixtures | None = None,
    *,
    tau: float = 1.0,
    bures: bool = False,
    scale: float | None = None,
    root: tuple[Tensor, Tensor | None] | None = None,
) -> tuple[ComponentPlans, float]:
    """Compute plans between all patients in the whole space, and the unit of costs that was used.

    - `a`, `b`: Mixtures; `b` is `a` by default.
    - `tau`: Balance of :func:`muport.gmm.distances._mixture_wasserstein.compute_plans`.
    - `bures`: Whether the features include the roots of the covariances; the plans depend on covariances in both cases.
    - `scale`: Unit of costs of the training patients; by default that of these mixtures.
    - `root`: Roots of the covariances of `a` and `b`, if they are known, see :func:`component_roots`.
    """
    if root is None:
        root = component_roots(a), None if b is None else component_roots(b)
    first = _features(a, root[0])
    second = first if b is None or root[1] is None else _features(b, root[1])
    mix_b = a if b is None else b
    costs = _feature_costs(first, second).reshape(*a.weights.shape, *mix_b.weights.shape).transpose(0, 2, 1, 3)
    unit = typical_cost(costs, a, mix_b) if scale is None else scale
    plan = compute_plans(a, b, np.ascontiguousarray(costs), tau=tau, scale=unit)
    plan = plan / plan.sum((2, 3), keepdims=True)
    columns = slice(None) if bures else slice(1)
    return ComponentPlans(first[:, :, columns], second[:, :, columns], plan), unit


def component_roots(mix: Mixtures) -> Tensor:
    """Compute the (P, K, d, d) symmetric roots of the covariances of all components."""
    return roots(torch.from_numpy(mix.full()))


def _features(mix: Mixtures, root: Tensor) -> NDArray[np.float64]:
    """(P K, d, 1 + d) means and roots of the covariances."""
    both = np.concatenate([mix.means[..., None], root.numpy()], axis=3)
    return both.reshape(-1, *both.shape[2:])


def _feature_costs(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of features: those of means from differences, those of roots from norms, which is faster."""
    first, second = (x[:, :, 1:].reshape(len(x), -1) for x in (a, b))
    norms = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    between_roots = norms - 2 * first @ second.T
    between_roots[between_roots <= _ROUNDING * norms] = 0
    costs: NDArray[np.float64] = cdist(a[:, :, 0], b[:, :, 0], "sqeuclidean") + between_roots
    return costs
