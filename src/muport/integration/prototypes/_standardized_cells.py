"""Cells in an order that depends on nothing but the cells, standardised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StandardizedCells", "standardize_cells"]


@dataclass(frozen=True, eq=False)
class StandardizedCells:
    """Standardised cells in canonical order: by group, then by coordinates, so that no result depends on their order.

    Attributes
    ----------
    x
        (N, d) float32.
    start
        (B + 1,) int64 bounds of the groups.
    names
        Names of the groups in this order, which depends on their cells and not on their names.
    label
        (N,) codes, -1 where unknown; None if labels take no part.
    center, scale
        The standardisation.
    """

    x: NDArray[np.float32]
    start: NDArray[np.int64]
    names: tuple[str, ...]
    label: NDArray[np.int64] | None
    center: NDArray[np.float32]
    scale: float

    @property
    def group(self) -> NDArray[np.int64]:
        """(N,) group of each cell."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.start))


def standardize_cells(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    label: NDArray[np.int64] | None = None,
    scaling: tuple[NDArray[np.float32], float] | None = None,
) -> StandardizedCells:
    """Sort cells by what they are, and standardise them: mean 0 and root mean square distance to it 1.

    Parameters
    ----------
    x
        (N, d) cells.
    group
        (N,) codes into `names`.
    names
        Names of the groups.
    label
        (N,) labels, -1 where unknown.
    scaling
        Centre and scale of a fitted state; computed if not given.
    """
    order = _order(x, group)
    size = np.bincount(group, minlength=len(names))
    begin = np.concatenate([[0], np.cumsum(size)[:-1]])
    held = np.flatnonzero(size)
    first = x[order[begin[held]]]
    ranked = held[np.lexsort((*first.T[::-1], -size[held]))]
    order = np.concatenate([order[begin[b] : begin[b] + size[b]] for b in ranked])
    cells = x[order]
    center = cells.mean(axis=0, dtype=np.float64).astype(np.float32) if scaling is None else scaling[0]
    cells -= center
    scale = measure_scale(cells, float(np.abs(center).max(initial=0))) if scaling is None else scaling[1]
    cells /= np.float32(scale)
    return StandardizedCells(
        x=cells,
        start=np.concatenate([[0], np.cumsum(size[ranked])]).astype(np.int64),
        names=tuple(names[b] for b in ranked),
        label=None if label is None else label[order],
        center=center,
        scale=scale,
    )


def _order(x: NDArray[np.float32], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order by group, then by coordinates; those beyond the second are read only where the first two are tied."""
    keys = (group, x[:, 0], x[:, min(1, x.shape[1] - 1)])
    order = np.lexsort(keys[::-1])
    same = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[tied]
    order[tied] = rows[np.lexsort((*x[rows].T[::-1], group[rows]))]
    return order


def measure_scale(centred: NDArray[np.float32], offset: float) -> float:
    """Root mean square norm; 1 for a constant representation, which has no scale."""
    spread = float(np.sqrt(np.einsum("nd,nd->n", centred, centred).mean(dtype=np.float64)))
    return spread if spread > 1e-6 * offset else 1.0
