"""The transition matrix that fates are computed from: moves along the velocity, to neighbors and to descendants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from muport.neighbors import knn
from muport.velocity.fates._transition_matrix import CellKernel, fit_kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CombinedKernel", "fit_combined_kernel"]


@dataclass(frozen=True, eq=False)
class CombinedKernel:
    """Equal parts of several kinds of moves. The errors of single velocities average out over the neighbors.

    - `flow`: Moves along the velocity.
    - `around`: Moves to the neighbors of a cell, which have more weight if they are later.
    - `couplings`: (n, n) transition matrix by the plans between days; None where cells were not measured at few times.
    """

    flow: CellKernel
    around: CellKernel
    couplings: sp.csr_matrix | None

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """(n, n) transition matrix."""
        return self._mean([self.flow.matrix, self.around.matrix], self.couplings)

    def moves_from(self, positions: NDArray[np.float32], velocity: NDArray[np.float32]) -> sp.csr_matrix:
        """(n, n) probabilities of the moves of each cell, if it were at another position with another velocity.

        There it has the descendants of the nearest cell of its day. At the positions and velocities of the fit the
        moves are the transition matrix.
        """
        moves = [self.flow.moves_from(positions, velocity), self.around.moves_from(positions, np.zeros_like(velocity))]
        couplings = None if self.couplings is None else self.couplings[self._nearest_of_day(positions)]
        return self._mean(moves, couplings)

    def _nearest_of_day(self, positions: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n,) cell of the same day nearest to each position; the cell itself where it was not moved."""
        x, time = self.flow.x, self.flow.time
        assert time is not None  # for mypy: couplings have days  # nosec B101
        nearest = np.arange(len(x))
        moved = (positions != x).any(axis=1)
        for day in np.unique(time[moved]):
            cells, queries = np.flatnonzero(time == day), np.flatnonzero(moved & (time == day))
            nearest[queries] = cells[knn(x[cells], 1, query=positions[queries]).indices[:, 0]]
        return nearest

    @staticmethod
    def _mean(parts: Sequence[sp.csr_matrix], couplings: sp.csr_matrix | None) -> sp.csr_matrix:
        kinds = [*parts] if couplings is None else [*parts, couplings]
        total = kinds[0]
        for part in kinds[1:]:
            total = total + part
        mean = sp.csr_matrix(total / len(kinds))
        mean.sort_indices()
        return mean


def fit_combined_kernel(
    x: NDArray[np.float32],
    velocity: NDArray[np.float32],
    time: NDArray[np.float64],
    k: int,
    couplings: sp.csr_matrix | None = None,
) -> CombinedKernel:
    """The kinds of moves of cells (n, d) with velocities (n, d) and times (n,), to k neighbors each.

    Moves to neighbors are those of :func:`cell_kernel` at a velocity of zero.

    Examples
    --------
    >>> x = np.arange(6, dtype=np.float32)[:, None]
    >>> kernel = fit_combined_kernel(x, np.ones_like(x), np.arange(6.0), k=2)
    >>> kernel.matrix[2].toarray().round(2).tolist()
    [[0.0, 0.12, 0.0, 0.87, 0.01, 0.0]]
    """
    around = fit_kernel(x, np.zeros_like(velocity), time=time, k=k, step=1.0)
    return CombinedKernel(fit_kernel(x, velocity, time=time, k=k), around, couplings)
