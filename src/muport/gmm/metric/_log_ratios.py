"""The composition of patients as centered log-ratios, of annotated cell types or of the states that all patients share.

Symbols: P patients, T types or states, n_i cells of patient i, p_it the fraction of type t in patient i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from muport.gmm.metric._reference_states import Reference
    from muport.gmm.mixtures._mixtures import Mixtures

__all__ = ["CellCounts", "centered_log_ratios", "state_ratios", "type_ratios"]

#: Fraction of the detection limit, one cell, that replaces a smaller share: the usual choice for counts.
_REPLACEMENT = 0.65


@dataclass(frozen=True, eq=False)
class CellCounts:
    """Cells of each patient, weighted if cells have weights.

    - `total`: (P,) number of cells.
    - `types`: (P, T) number of cells of each annotated type; T is 0 without annotation.
    """

    total: Annotated[NDArray[np.float64], "P", "0.."]
    types: Annotated[NDArray[np.float64], "P T", "0.."]

    @classmethod
    def count(
        cls,
        sample: NDArray[np.int64],
        n_samples: int,
        cell_type: NDArray[np.int64] | None = None,
        n_types: int = 0,
        weight: NDArray[np.float64] | None = None,
    ) -> CellCounts:
        """Count the cells of `sample` (n,) codes, and those of `cell_type` (n,) codes, -1 for a cell without a type."""
        mass = np.ones(len(sample)) if weight is None else weight
        total = np.bincount(sample, mass, n_samples)
        types = np.zeros((n_samples, n_types))
        if cell_type is not None:
            known = cell_type >= 0
            np.add.at(types, (sample[known], cell_type[known]), mass[known])
        return cls(total, types)

    @property
    def n_types(self) -> int:
        """Number of annotated types."""
        return int(self.types.shape[1])

    def __len__(self) -> int:
        return len(self.total)

    def subset(self, patients: NDArray[np.int64]) -> CellCounts:
        """The counts of some patients."""
        return CellCounts(self.total[patients], self.types[patients])


def centered_log_ratios(shares: ArrayLike, n_cells: ArrayLike) -> NDArray[np.float64]:
    r"""Compute centered log-ratios (P, T) of compositions, with multiplicative replacement of zeros.

    .. math:: z_{it} = \log p_{it} - \frac1T \sum_u \log p_{iu}

    A share below the limit :math:`\delta_i = .65 / n_i` is first set to it, and the other shares of the patient are
    multiplied by one factor so that they sum to 1 again; their ratios do not change (Martín-Fernández et al. 2003).

    - `shares`: (P, T) shares, or counts, of each patient; each row has a positive entry.
    - `n_cells`: (P,) cells that the shares were counted in.

    Examples
    --------
    >>> ratios = centered_log_ratios([[30, 10, 0], [20, 20, 20]], [40, 60])
    >>> round(float(ratios[0, 0] - ratios[0, 1]), 3), ratios[1].tolist()
    (1.099, [0.0, 0.0, 0.0])
    """
    counts = np.asarray(shares, dtype=np.float64)
    fraction = counts / counts.sum(axis=1, keepdims=True)
    # a patient of few cells keeps more than half of its mass in the types that it has
    limit = np.minimum(_REPLACEMENT / np.asarray(n_cells, dtype=np.float64), 0.5 / counts.shape[1])[:, None]
    small = fraction < limit
    kept = np.where(small, 0.0, fraction)
    factor = (1 - small.sum(axis=1, keepdims=True) * limit) / kept.sum(axis=1, keepdims=True)
    logarithm = np.log(np.where(small, limit, kept * factor))
    ratios: NDArray[np.float64] = logarithm - logarithm.mean(axis=1, keepdims=True)
    return ratios


def state_ratios(mixtures: Mixtures, n_cells: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    """Compute centered log-ratios (P, M) of the states that all patients share."""
    return centered_log_ratios(reference.composition(mixtures), n_cells)


def type_ratios(counts: CellCounts, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute centered log-ratios of the annotated types that `known` (T,) selects.

    A patient without a cell of these types has the ratios of an even composition.
    """
    types = counts.types[:, known]
    typed = types.sum(axis=1)
    types = np.where(typed[:, None] > 0, types, 1.0)
    return centered_log_ratios(types, np.where(typed > 0, typed, types.shape[1]))
