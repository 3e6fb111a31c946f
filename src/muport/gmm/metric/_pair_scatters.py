"""The displacements between every pair of patients, as one matrix per pair from which all metrics are computed.

The squared distance D_ij(W) = tr(W A_ij W') of :mod:`_component_plans` takes (K d)^2 operations for each pair and W,
and so does the scatter of weighted pairs. From the d (d + 1) / 2 entries of each A_ij both are products of matrices, so
that additional folds, ridges and permutations of the conditions take little time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from muport.gmm.metric._component_plans import component_roots, plan_components
from muport.gmm.metric._reference_states import fit_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.gmm.metric._component_plans import ComponentPlans
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["CohortPlans", "PairScatters"]

_ROUNDING = 1e-9  # whitened coordinates below are rounding errors and set to 0
_MAX_STORED = 2**26  # float64 numbers that are stored, 512 MiB; if there are more, they are computed at each use


class PairScatters:
    """The matrices A_ij of all pairs of one set of patients, in coordinates whitened by the cells' covariance.

    - `plans`: Plans between the patients and the features of their components; that of (j, i) is the transpose of (i,
      j).
    - `root`: (d, d) lower Cholesky factor R of the mean covariance within components: A_ij is that of the features R^-1
      F.

    Examples
    --------
    >>> from muport.gmm.metric._component_plans import ComponentPlans
    >>> features = np.array([0.0, 3.0, 4.0]).reshape(3, 1, 1)
    >>> pairs = PairScatters(ComponentPlans(features, features, np.ones((3, 3, 1, 1))), np.eye(1))
    >>> pairs.squared(np.ones((1, 1, 1)))[0].tolist()
    [[0.0, 9.0, 16.0], [9.0, 0.0, 1.0], [16.0, 1.0, 0.0]]
    """

    def __init__(self, plans: ComponentPlans, root: NDArray[np.float64]) -> None:
        n_features, self.n, d, c = len(plans.a), len(plans.plan), plans.a.shape[1], plans.a.shape[2]
        self.plan = plans.plan
        self.upper = np.triu_indices(d)
        white = solve_triangular(root, plans.a.transpose(1, 0, 2).reshape(d, -1), lower=True, check_finite=False)
        # (P, K, c, d); means are centered, against cancellation
        feature = np.ascontiguousarray(white.reshape(d, n_features, c).transpose(1, 2, 0))
        feature[:, 0] -= feature[:, 0].mean(axis=0)
        # if every patient's offset was removed, the rest may be only rounding
        feature[:, 0][np.abs(feature[:, 0]) < _ROUNDING] = 0
        own = (feature.swapaxes(1, 2) @ feature)[:, *self.upper]
        self.feature, self.own = (x.reshape(self.n, -1, *x.shape[1:]) for x in (feature, own))
        fits = self.n * (self.n - 1) // 2 * len(self.upper[0]) <= _MAX_STORED
        self._stored = list(self._compute()) if fits else None

    def scatters(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over pairs of weight_ij A_ij, (N, d, d), for N sets of symmetric weights (N, P, P)."""
        total = np.zeros((len(weights), len(self.upper[0])))
        for i, entries in enumerate(self._rows()):
            total += weights[:, i, i + 1 :] @ entries
        d = self.feature.shape[3]
        out = np.empty((len(weights), d, d))
        rows, columns = self.upper
        out[:, rows, columns] = out[:, columns, rows] = 2 * total
        return out

    def squared(self, grams: NDArray[np.float64]) -> NDArray[np.float64]:
        """D_ij = tr(A_ij W'W), (N, P, P), for N matrices W'W, (N, d, d), of these coordinates."""
        rows, columns = self.upper
        # an entry off the diagonal stands for two
        coefficients = grams[:, rows, columns] * (2.0 - (rows == columns))
        out = np.zeros((len(grams), self.n, self.n))
        for i, entries in enumerate(self._rows()):
            out[:, i, i + 1 :] = out[:, i + 1 :, i] = coefficients @ entries.T
        np.maximum(out, 0, out=out)
        return out

    def _rows(self) -> Iterator[NDArray[np.float64]]:
        """Entries (P - 1 - i, d (d + 1) / 2) of the pairs of each patient i with those after it."""
        return self._compute() if self._stored is None else iter(self._stored)

    def _compute(self) -> Iterator[NDArray[np.float64]]:
        """A_ij = sum_k a_k F_k F_k' + sum_l b_l F_l F_l' - sum_kl P_kl (F_k F_l' + F_l F_k'), a and b the marginals."""
        k, c, d = self.feature.shape[1:]
        for i in range(self.n - 1):
            plan = self.plan[i, i + 1 :]
            transported = plan @ self.feature[i + 1 :].reshape(-1, k, c * d)
            cross = self.feature[i].reshape(k * c, d).T @ transported.reshape(-1, k * c, d)
            cross += cross.swapaxes(1, 2)
            first, second = plan.sum(2) @ self.own[i], (plan.sum(1)[:, None] @ self.own[i + 1 :])[:, 0]
            yield first + second - cross[:, *self.upper]


class CohortPlans:
    """What of a cohort does not depend on the conditions: states, plans and scatters, computed at first use.

    - `mixtures`: Mixtures of the P patients.
    - `n_states`, `random_state`: As for :func:`muport.gmm.metric._reference_states.fit_reference`.
    """

    def __init__(self, mixtures: Mixtures, n_states: int | None = None, random_state: int = 0) -> None:
        self.mixtures = mixtures
        self.reference = fit_reference(mixtures, n_states, random_state)
        self.root: NDArray[np.float64] = np.linalg.cholesky(self.reference.within)
        self._roots = component_roots(mixtures)
        self._plans: dict[tuple[bool, float], tuple[ComponentPlans, float]] = {}
        self._scatters: dict[tuple[bool, float, bool], PairScatters] = {}

    def plans(self, offset: bool, tau: float) -> tuple[ComponentPlans, float]:
        """Plans between the patients, without their offsets if `offset`, and the unit of costs."""
        if (offset, tau) not in self._plans:
            mixtures = self.reference.remove_offsets(self.mixtures) if offset else self.mixtures
            self._plans[offset, tau] = plan_components(mixtures, tau=tau, bures=True, root=(self._roots, None))
        return self._plans[offset, tau]

    def scatters(self, offset: bool, tau: float, bures: bool) -> PairScatters:
        """Scatters of the displacements of means alone, or of means and covariances if `bures`."""
        key = offset, tau, bures
        if key not in self._scatters:
            plans, _ = self.plans(offset, tau)
            self._scatters[key] = PairScatters(plans if bures else plans.means_only(), self.root)
        return self._scatters[key]
