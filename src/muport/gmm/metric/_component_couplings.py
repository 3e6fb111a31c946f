"""Plans between patients, what they move as a function of W, and the closed form of the W that separates conditions.

The plan P between the components of two patients does not need W.  It is computed once in the whole space; then

    D_ij(W) = tr(W A_ij W'),   A_ij = sum_kl P_kl [(m_k - m_l)(m_k - m_l)' + (R_k - R_l)(R_k - R_l)'] / sum_kl P_kl,

is linear in W'W.  R are the symmetric roots of the covariances: the second term is the squared Bures distance where
covariances commute and an upper bound of it elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial.distance import cdist

from muport.gmm.distances._bures import roots
from muport.gmm.distances._mixture_wasserstein import plans, typical_cost
from muport.neighbors import kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = [
    "Coupled", "Reference", "canonical", "component_roots", "couple", "discriminants", "make_reference", "pair_weights",
]  # fmt: skip

_LEAST_SPREAD = 1e-9  # of the mean spread of patients on an axis
_TINY = 1e-12
_ROUNDING = 1e-13  # squared distances below this share of the squared norms are those of equal roots


@dataclass(frozen=True, eq=False)
class Reference:
    """States that all patients share, found in the components of the training patients.

    Attributes
    ----------
    means
        (M, d) float64 centres of the states.
    within
        (d, d) float64 mean covariance of the components.
    """

    means: NDArray[np.float64]
    within: NDArray[np.float64]

    def membership(self, mix: Mixtures) -> NDArray[np.float64]:
        """(P, K, M) probabilities of the states, by the Mahalanobis distance of component means."""
        whitener = np.linalg.inv(np.linalg.cholesky(self.within))
        offset = (mix.means[:, :, None] - self.means) @ whitener.T
        logit = -0.5 * np.square(offset).sum(-1)
        p = np.exp(logit - logit.max(axis=2, keepdims=True))
        shared: NDArray[np.float64] = p / p.sum(axis=2, keepdims=True)
        return shared

    def composition(self, mix: Mixtures) -> NDArray[np.float64]:
        """(P, M) share of each patient's cells in each state."""
        share: NDArray[np.float64] = (mix.weights[:, :, None] * self.membership(mix)).sum(1)
        return share

    def centred(self, mix: Mixtures) -> Mixtures:
        """Mixtures without the patients' offsets, the weighted medians of the components' shifts from their states."""
        shift = mix.means - self.membership(mix) @ self.means
        order = np.argsort(shift, axis=1)
        mass = np.take_along_axis(np.broadcast_to(mix.weights[:, :, None], shift.shape), order, 1).cumsum(1)
        middle = (mass < 0.5).sum(axis=1, keepdims=True).clip(max=shift.shape[1] - 1)
        median = np.take_along_axis(np.take_along_axis(shift, order, 1), middle, 1)
        return replace(mix, means=mix.means - median)


def make_reference(mix: Mixtures, n_states: int | None = None, random_state: int = 0) -> Reference:
    """Cluster the components of all patients, weighted by their cells, in the space where they are round.

    Parameters
    ----------
    mix
        Mixtures of the training patients.
    n_states
        Number of states; by default the median number of components of a patient.
    random_state
        Seed of the clustering.
    """
    alive = mix.weights > 0
    weight, means = mix.weights[alive], mix.means[alive]
    within = (mix.weights[:, :, None, None] * mix.full()).sum((0, 1)) / len(mix)
    within = within + 1e-9 * max(np.trace(within) / len(within), _TINY) * np.eye(len(within))
    factor = np.linalg.cholesky(within)
    wanted = int(np.median(mix.n_components)) if n_states is None else n_states
    white = np.linalg.solve(factor, means.T).T
    found = kmeans(white.astype(np.float32), min(wanted, len(white)), weights=weight, random_state=random_state)
    return Reference(np.asarray(found.centers, dtype=np.float64) @ factor.T, within)


@dataclass(frozen=True, eq=False)
class Coupled:
    """Transport plans between patients and what they move.

    Attributes
    ----------
    a, b
        (Pa K, d, c) and (Pb K, d, c) features of the components: the mean, and the root of the covariance.
    plan
        (Pa, Pb, K, K), each of sum 1.
    """

    a: NDArray[np.float64]
    b: NDArray[np.float64]
    plan: NDArray[np.float64]

    def squared(self, w: NDArray[np.float64]) -> NDArray[np.float64]:
        """D_ij(W), (Pa, Pb)."""
        first, second = ((w @ one).reshape(len(one), -1) for one in (self.a, self.b))
        mass = self.mass
        cross = (first @ second.T) * mass
        each = np.square(first).sum(1)[:, None] * mass - 2 * cross + np.square(second).sum(1) * mass
        shape = self.plan.shape
        squared = each.reshape(shape[0], shape[2], shape[1], shape[3]).sum((1, 3))
        np.maximum(squared, 0, out=squared)
        found: NDArray[np.float64] = squared
        return found

    @property
    def mass(self) -> NDArray[np.float64]:
        """The plans as one matrix (Pa K, Pb K)."""
        return self.plan.transpose(0, 2, 1, 3).reshape(len(self.a), len(self.b))

    def of_means(self) -> Coupled:
        """The same plans, without the part of the covariances in what they move."""
        return Coupled(self.a[:, :, :1], self.b[:, :, :1], self.plan)

    def among(self, rows: NDArray[np.int64]) -> Coupled:
        """Plans between some of the patients of one set."""
        k = self.plan.shape[2]
        part = (rows[:, None] * k + np.arange(k)).ravel()
        return Coupled(self.a[part], self.b[part], self.plan[np.ix_(rows, rows)])


def couple(
    a: Mixtures,
    b: Mixtures | None = None,
    *,
    tau: float = 1.0,
    bures: bool = False,
    scale: float | None = None,
    root: tuple[Tensor, Tensor | None] | None = None,
) -> tuple[Coupled, float]:
    """Plans between all patients in the whole space, and the price unit they were made with.

    Parameters
    ----------
    a, b
        Mixtures; `b` is `a` by default.
    tau
        Balance of :func:`muport.gmm.distances._mixture_wasserstein.plans`.
    bures
        Whether A has the part of the covariances; the plan always has.
    scale
        Price unit of the training patients.
    root
        Roots of the covariances of both, if they are known, see :func:`component_roots`.
    """
    roots_a, roots_b = (component_roots(a), None if b is None else component_roots(b)) if root is None else root
    first, second = _features(a, roots_a), None if b is None or roots_b is None else _features(b, roots_b)
    other = first if second is None else second
    mix_b = a if b is None else b
    costs = _moved(first, other).reshape(*a.weights.shape, *mix_b.weights.shape).transpose(0, 2, 1, 3)
    unit = typical_cost(costs, a, mix_b) if scale is None else scale
    plan = plans(a, b, costs=np.ascontiguousarray(costs), tau=tau, scale=unit)
    plan = plan / plan.sum((2, 3), keepdims=True)
    cut = slice(None) if bures else slice(1)
    return Coupled(first[:, :, cut], other[:, :, cut], plan), unit


def component_roots(mix: Mixtures) -> Tensor:
    """(P, K, d, d) roots of the covariances of all components."""
    return roots(torch.from_numpy(mix.full()))


def _features(mix: Mixtures, root: Tensor) -> NDArray[np.float64]:
    """(P K, d, 1 + d) means and roots of the covariances."""
    both = np.concatenate([mix.means[..., None], root.numpy()], axis=3)
    return both.reshape(-1, *both.shape[2:])


def _moved(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances of features: of means from their differences, of roots, which lie near each other, by norms."""
    first, second = (x[:, :, 1:].reshape(len(x), -1) for x in (a, b))
    size = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    spread = size - 2 * first @ second.T
    spread[spread <= _ROUNDING * size] = 0
    moved: NDArray[np.float64] = cdist(a[:, :, 0], b[:, :, 0], "sqeuclidean") + spread
    return moved


def pair_weights(
    condition: NDArray[np.int64], rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (P, P) of the pairs of one condition and of different ones; i = j has none, conditions count the same.

    Patients that are not among `rows`, by default all, have no weight.
    """
    if rows is not None:
        whole = np.zeros((2, len(condition), len(condition)))
        whole[:, rows[:, None], rows] = pair_weights(condition[rows])
        return whole[0], whole[1]
    same = condition[:, None] == condition
    size = same.sum(1)
    equal = np.where(same, 1 / np.maximum(size * (size - 1), 1)[:, None], 0.0)
    np.fill_diagonal(equal, 0)
    other = np.where(same, 0.0, 1 / (size[:, None] * size[None]))
    return equal / max(equal.sum(), _TINY), other / max(other.sum(), _TINY)


def discriminants(
    noise: NDArray[np.float64],
    between: NDArray[np.float64],
    ridges: Sequence[float],
    n_comps: int = 5,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes on which patients of different conditions differ most, for how patients of one condition differ.

    The leading solutions of B v = g (C + ridge u S) v, with B and C the mean A over pairs of different and of the same
    condition, S the mean covariance within components, and u the median eigenvalue of S^-1 C: how far patients of one
    condition differ on an ordinary axis, in units of their cells. The mean would be that of the few axes that lead from
    one state to another, on which the patients' shares weigh. In the coordinates of
    :class:`muport.gmm.metric._pair_scatters.PairScatters` S is the identity.

    Parameters
    ----------
    noise, between
        (N, d, d) C and B of N sets of patients, in these coordinates.
    ridges
        (R,) weights of S.
    n_comps
        Axes.

    Returns
    -------
    Axes v' / sqrt(v' noise v) that weigh sqrt(g), (N, R, n_comps, d), in these coordinates; and the ratios g
    (N, R, n_comps), falling.
    """
    spread, axes = np.linalg.eigh(noise)
    # scatters are differences of large sums: what rounding has made of a small one may be negative
    spread = np.maximum(spread, 0)
    least = np.maximum(1e-6 * np.trace(between, axis1=1, axis2=2) / between.shape[2], _TINY)
    unit = np.array([_typical(one) or other for one, other in zip(spread, least, strict=True)])[:, None]
    floor = _LEAST_SPREAD * np.maximum(spread.mean(axis=1, keepdims=True), unit)
    # (N, R, d)
    noises = (spread + floor)[:, None] + np.asarray(ridges, dtype=np.float64)[:, None] * unit[..., None]
    whitener = axes[:, None] / np.sqrt(noises)[:, :, None]
    whitened = whitener.swapaxes(2, 3) @ between[:, None] @ whitener
    values, vectors = np.linalg.eigh((whitened + whitened.swapaxes(2, 3)) / 2)
    ratios = values[..., ::-1][..., :n_comps]
    v = (whitener @ vectors[..., ::-1][..., :n_comps]).swapaxes(2, 3)
    return v * np.sqrt(np.maximum(ratios, 0))[..., None], ratios


def _typical(spread: NDArray[np.float64]) -> float:
    """Median of the eigenvalues that are not 0: with few patients most are."""
    seen = spread[spread > _LEAST_SPREAD * spread.max(initial=0)]
    return float(np.median(seen)) if len(seen) else 0.0


def canonical(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same W'W with orthogonal rows, the longest first, the largest entry of each positive."""
    _, size, axes = np.linalg.svd(w, full_matrices=False)
    sign = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], 1))
    rows: NDArray[np.float64] = axes * sign * size[:, None]
    return rows
