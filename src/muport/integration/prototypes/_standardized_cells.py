"""Cells in an order that depends on the cells only, standardized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._arrays import canonical_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["StandardizedCells", "measure_scale", "order_by_group", "standardize", "standardize_cells"]


@dataclass(frozen=True, eq=False)
class StandardizedCells:
    """Standardized cells in canonical order: by group, then by coordinates, so that no result depends on their order.

    - `x`: (N, d) float32.
    - `start`: (B + 1,) int64 row offsets: group b has the rows from ``start[b]`` up to ``start[b + 1]``.
    - `group_names`: Names of the groups. Their order depends on the cells of the groups and not on the names.
    - `label`: (N,) codes, -1 where unknown; None if labels are not used.
    - `center`, `scale`: The standardization.
    """

    x: NDArray[np.float32]
    start: NDArray[np.int64]
    group_names: tuple[str, ...]
    label: NDArray[np.int64] | None
    center: NDArray[np.float32]
    scale: float

    @property
    def group(self) -> NDArray[np.int64]:
        """(N,) group of each cell."""
        return np.repeat(np.arange(len(self.group_names)), np.diff(self.start))

    @property
    def second_moment(self) -> NDArray[np.float64]:
        """(B,) sum over the cells of each group of their squared norms."""
        squared = np.einsum("nd,nd->n", self.x, self.x)
        moments: NDArray[np.float64] = np.add.reduceat(squared, self.start[:-1], dtype=np.float64)
        return moments

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Group of each of the cells in `rows`."""
        return np.searchsorted(self.start, rows, side="right") - 1

    def sample_rows(self, number: int, seed: int) -> NDArray[np.int64]:
        """Sample `number` cells at random, or all if there are not more; returns sorted rows."""
        if number >= len(self.x):
            return np.arange(len(self.x))
        return np.sort(np.random.default_rng(seed).choice(len(self.x), number, replace=False))


def standardize_cells(
    x: NDArray[np.float32],
    group: NDArray[np.int64],
    names: tuple[str, ...],
    label: NDArray[np.int64] | None = None,
    scaling: tuple[NDArray[np.float32], float] | None = None,
) -> StandardizedCells:
    """Sort cells into canonical order and standardize them to mean 0 and root mean square norm 1.

    - `x`: (N, d) cells.
    - `group`: (N,) codes into `names`.
    - `label`: (N,) labels, -1 where unknown.
    - `scaling`: Center and scale of a fitted state; computed if not given.
    """
    order, ranked = order_by_group(x, group, len(names))
    size = np.bincount(group, minlength=len(names))
    cells = x[order]
    center = cells.mean(axis=0, dtype=np.float64).astype(np.float32) if scaling is None else scaling[0]
    cells -= center
    scale = measure_scale(cells, float(np.abs(center).max(initial=0))) if scaling is None else scaling[1]
    cells /= np.float32(scale)
    return StandardizedCells(
        x=cells,
        start=np.concatenate([[0], np.cumsum(size[ranked])]).astype(np.int64),
        group_names=tuple(names[b] for b in ranked),
        label=None if label is None else label[order],
        center=center,
        scale=scale,
    )


def order_by_group(
    x: NDArray[np.float32], group: NDArray[np.int64], n_groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort cells by group, then by coordinates; groups by size, then by their first cell: names have no effect.

    - `x`: (N, d) cells.
    - `group`: (N,) codes, 0 to G - 1.

    Returns (N,) rows in that order, and the groups that have cells in that order.
    """
    order = canonical_order(x, group)
    size = np.bincount(group, minlength=n_groups)
    begin = np.concatenate([[0], np.cumsum(size)[:-1]])
    present = np.flatnonzero(size)
    first_cell = x[order[begin[present]]]
    ranked: NDArray[np.int64] = present[np.lexsort((*first_cell.T[::-1], -size[present]))]
    return np.concatenate([order[begin[b] : begin[b] + size[b]] for b in ranked]), ranked


def standardize(x: NDArray[np.float32], center: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Subtract the center from coordinates (n, d) and divide by the scale."""
    # in place, so that at most one copy is in memory
    standardized = x - center
    standardized /= np.float32(scale)
    return np.ascontiguousarray(standardized, np.float32)


def measure_scale(centered: NDArray[np.float32], offset: float) -> float:
    """Root mean square norm of centered cells (n, d); 1 for a constant representation, which has no scale.

    - `centered`: (n, d) cells minus their mean.
    - `offset`: Largest absolute coordinate of that mean: a norm of less than 1e-6 of it is rounding.
    """
    norm = float(np.sqrt(np.einsum("nd,nd->n", centered, centered).mean(dtype=np.float64)))
    return norm if norm > 1e-6 * offset else 1.0
