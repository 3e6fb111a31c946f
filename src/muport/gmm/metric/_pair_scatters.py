"""What every pair of patients moves, as one matrix for each pair: all that is learnt is a sum or a trace of these.

The squared distance D_ij(W) = tr(W A_ij W') of :mod:`_component_couplings` needs (K d)^2 steps for each pair and W, and
the scatter of any weighted pairs as many.  With the d (d + 1) / 2 entries of each A_ij at hand both are products of
matrices, so that every fold, ridge and relabelling of the patients costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

from muport.gmm.metric._component_couplings import component_roots, couple, make_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from muport.gmm.metric._component_couplings import Coupled
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["Couplings", "PairScatters"]

_ROUNDING = 1e-9
_KEPT = 2**26  # numbers that are kept: 512 MiB; beyond, they are made again for each use


class PairScatters:
    """The matrices A_ij of all pairs of one set of patients, in the coordinates in which cells are round.

    Parameters
    ----------
    coupled
        Plans between the patients and the features of their components; that of (j, i) is the transpose of (i, j).
    root
        (d, d) lower Cholesky factor R of the mean covariance within components: A_ij is that of the features R^-1 F.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.metric._component_couplings import Coupled
    >>> features = np.array([0.0, 3.0, 4.0]).reshape(3, 1, 1)
    >>> pairs = PairScatters(Coupled(features, features, np.ones((3, 3, 1, 1))), np.eye(1))
    >>> pairs.squared(np.ones((1, 1, 1)))[0].tolist()
    [[0.0, 9.0, 16.0], [9.0, 0.0, 1.0], [16.0, 1.0, 0.0]]
    """

    def __init__(self, coupled: Coupled, root: NDArray[np.float64]) -> None:
        many, self.n, d, c = len(coupled.a), len(coupled.plan), coupled.a.shape[1], coupled.a.shape[2]
        self.plan = coupled.plan
        self.upper = np.triu_indices(d)
        white = solve_triangular(root, coupled.a.transpose(1, 0, 2).reshape(d, -1), lower=True, check_finite=False)
        # (P, K, c, d); means are taken about their centre, so that little cancels
        feature = np.ascontiguousarray(white.reshape(d, many, c).transpose(1, 2, 0))
        feature[:, 0] -= feature[:, 0].mean(axis=0)
        # in units of the cells' spread: where every patient's offset is taken away, what is left may be rounding alone
        feature[:, 0][np.abs(feature[:, 0]) < _ROUNDING] = 0
        own = (feature.swapaxes(1, 2) @ feature)[:, *self.upper]
        self.feature, self.own = (x.reshape(self.n, -1, *x.shape[1:]) for x in (feature, own))
        fits = self.n * (self.n - 1) // 2 * len(self.upper[0]) <= _KEPT
        self._blocks = list(self._made()) if fits else None

    def scatters(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over pairs of weight_ij A_ij, (N, d, d), for N sets of symmetric weights (N, P, P)."""
        total = np.zeros((len(weights), len(self.upper[0])))
        for i, block in enumerate(self._rows()):
            total += weights[:, i, i + 1 :] @ block
        d = self.feature.shape[3]
        out = np.empty((len(weights), d, d))
        rows, columns = self.upper
        out[:, rows, columns] = out[:, columns, rows] = 2 * total
        return out

    def squared(self, grams: NDArray[np.float64]) -> NDArray[np.float64]:
        """D_ij = tr(A_ij W'W), (N, P, P), for N matrices W'W, (N, d, d), of these coordinates."""
        rows, columns = self.upper
        # an entry off the diagonal stands for two
        entries = grams[:, rows, columns] * (2.0 - (rows == columns))
        out = np.zeros((len(grams), self.n, self.n))
        for i, block in enumerate(self._rows()):
            out[:, i, i + 1 :] = out[:, i + 1 :, i] = entries @ block.T
        np.maximum(out, 0, out=out)
        return out

    def _rows(self) -> Iterator[NDArray[np.float64]]:
        """Entries (P - 1 - i, d (d + 1) / 2) of the pairs of each patient i with those after it."""
        return self._made() if self._blocks is None else iter(self._blocks)

    def _made(self) -> Iterator[NDArray[np.float64]]:
        """A_ij = sum_k a_k F_k F_k' + sum_l b_l F_l F_l' - sum_kl P_kl (F_k F_l' + F_l F_k'), a and b the marginals."""
        k, c, d = self.feature.shape[1:]
        for i in range(self.n - 1):
            plan = self.plan[i, i + 1 :]
            there = plan @ self.feature[i + 1 :].reshape(-1, k, c * d)
            cross = self.feature[i].reshape(k * c, d).T @ there.reshape(-1, k * c, d)
            cross += cross.swapaxes(1, 2)
            mine, theirs = plan.sum(2) @ self.own[i], (plan.sum(1)[:, None] @ self.own[i + 1 :])[:, 0]
            yield mine + theirs - cross[:, *self.upper]


class Couplings:
    """What of a cohort does not depend on the conditions, made when first asked for and then kept.

    Parameters
    ----------
    mixtures
        Mixtures of the P patients.
    n_states, random_state
        As for :func:`muport.gmm.metric._component_couplings.make_reference`.
    """

    def __init__(self, mixtures: Mixtures, n_states: int | None = None, random_state: int = 0) -> None:
        self.mixtures = mixtures
        self.reference = make_reference(mixtures, n_states, random_state)
        self.root: NDArray[np.float64] = np.linalg.cholesky(self.reference.within)
        self._roots = component_roots(mixtures)
        self._coupled: dict[tuple[bool, float], tuple[Coupled, float]] = {}
        self._pairs: dict[tuple[bool, float, bool], PairScatters] = {}

    def among(self, offset: bool, tau: float) -> tuple[Coupled, float]:
        """Plans between the patients, with or without their offsets, and the price unit; see `couple`."""
        if (offset, tau) not in self._coupled:
            mixtures = self.reference.centred(self.mixtures) if offset else self.mixtures
            # the plan sees the covariances in either case
            self._coupled[offset, tau] = couple(mixtures, tau=tau, bures=True, root=(self._roots, None))
        return self._coupled[offset, tau]

    def pairs(self, offset: bool, tau: float, bures: bool) -> PairScatters:
        """What these plans move, of the means alone or of means and covariances."""
        key = offset, tau, bures
        if key not in self._pairs:
            coupled, _ = self.among(offset, tau)
            self._pairs[key] = PairScatters(coupled if bures else coupled.of_means(), self.root)
        return self._pairs[key]
