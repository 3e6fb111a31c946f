"""The cells of each patient: checked, sorted by patient, and padded in blocks of patients of similar size."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport._parallel import single_threaded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ONE_THREAD_SIZE", "PatientCells", "check_cells", "check_codes", "check_weights", "iterate_blocks",
    "single_thread_if_small", "sort_by_patient",
]  # fmt: skip

ONE_THREAD_SIZE = 2**23  # numbers of one problem up to which one thread is as fast as several
_MAX_SIZE_RATIO = 1.25  # largest over smallest patient of a block: bounds the memory that padding wastes


@dataclass(frozen=True, eq=False)
class PatientCells:
    """Cells sorted by patient.

    - `x`: (n, d) float64 cells on the device of the computation.
    - `weight`: (n,) float64 weights.
    - `start`: (P + 1,) int64: patient p has the rows ``start[p]:start[p + 1]``.
    - `order`: (n,) int64 row of the caller's array for each sorted row.
    """

    x: Tensor
    weight: Tensor
    start: NDArray[np.int64]
    order: NDArray[np.int64]

    @property
    def size(self) -> NDArray[np.int64]:
        """(P,) number of cells of each patient."""
        return np.diff(self.start)

    def rows(self, patients: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Sorted rows (B, m) of some patients, padded by repeats, and which of them are not padding (B, m)."""
        size = self.size[patients]
        step = np.arange(int(size.max()))
        rows = self.start[patients][:, None] + np.minimum(step, size[:, None] - 1)
        device = self.x.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(step < size[:, None]).to(device)

    def padded(self, patients: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Cells (B, m, d) and weights (B, m) of some patients; padding has weight 0."""
        rows, real = self.rows(patients)
        return self.x[rows], self.weight[rows] * real


def sort_by_patient(
    x: ArrayLike, sample: ArrayLike | None, weight: ArrayLike | None = None, device: str = "cpu"
) -> PatientCells:
    """Check cells, patient codes and weights, and sort them by patient.

    Raises TypeError or ValueError if the cells are not a finite matrix, the codes are not the integers 0 to P - 1, or
    the weights do not fit or are all 0 for a patient.
    """
    cells = check_cells(x)
    codes = check_codes(sample, len(cells))
    weights = check_weights(weight, codes)
    order = np.argsort(codes, kind="stable").astype(np.int64)
    start = np.concatenate([[0], np.cumsum(np.bincount(codes))]).astype(np.int64)
    return PatientCells(
        torch.from_numpy(cells[order]).to(device), torch.from_numpy(weights[order]).to(device), start, order
    )  # fmt: skip


def check_cells(x: ArrayLike) -> NDArray[np.float64]:
    """Return cells as a finite (n, d) float64 matrix."""
    if hasattr(x, "toarray"):
        raise TypeError("x is sparse: pass a dense embedding, e.g. its principal components.")
    try:
        cells = np.ascontiguousarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"x must be a numeric matrix, not {type(x).__name__}: {error}") from error
    if cells.ndim != 2 or 0 in cells.shape:
        raise ValueError(f"x has shape {cells.shape}: it must have two axes, (cells, dimensions), none of them empty.")
    # squares must be finite too
    bad = ~(np.abs(cells) < 1e100)
    if bad.any():
        raise ValueError(f"x has a NaN, infinite or huge entry in cell {np.argwhere(bad)[0, 0]} ({bad.sum()} in all).")
    return cells


def check_codes(sample: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Return (n,) patient codes, in which each of 0 to P - 1 occurs; by default all cells are of one patient."""
    if sample is None:
        return np.zeros(n, np.int64)
    codes = np.asarray(sample)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"sample must be integer codes of patients, 0 to P - 1, not {codes.dtype}.")
    if codes.shape != (n,):
        raise ValueError(f"sample has shape {codes.shape}, but x has {n} cells.")
    if codes.min() < 0:
        raise ValueError(f"sample has the code {codes.min()} at cell {codes.argmin()}: codes start at 0.")
    empty = np.flatnonzero(np.bincount(codes) == 0)
    if len(empty):
        raise ValueError(f"sample {empty[0]} has no cells ({len(empty)} such in all): renumber the codes without gaps.")
    return codes.astype(np.int64)


def check_weights(weight: ArrayLike | None, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) weights >= 0 with a positive sum for every patient; 1 by default."""
    if weight is None:
        return np.ones(len(codes))
    weights = np.asarray(weight, dtype=np.float64)
    if weights.shape != codes.shape:
        raise ValueError(f"weight has shape {weights.shape}, but x has {len(codes)} cells.")
    bad = ~((weights >= 0) & (weights < np.inf))
    if bad.any():
        raise ValueError(f"weight has the entry {weights[bad][0]} at cell {bad.argmax()}: weights are finite and >= 0.")
    empty = np.flatnonzero(np.bincount(codes, weights) == 0)
    if len(empty):
        raise ValueError(f"all cells of sample {empty[0]} have weight 0 ({len(empty)} such in all).")
    return weights


@contextmanager
def single_thread_if_small(largest: int) -> Iterator[bool]:
    """Limit torch and BLAS to one thread if the largest problem has at most `ONE_THREAD_SIZE` numbers.

    Threads inside products of small matrices spend more time waiting than computing. Yields whether the limit is set.
    """
    if largest > ONE_THREAD_SIZE:
        yield False
        return
    with single_threaded():
        yield True


def iterate_blocks(
    size: NDArray[np.int64], group: NDArray[np.int64], width: Sequence[int] | NDArray[np.int64], budget: int
) -> Iterator[NDArray[np.int64]]:
    """Positions of problems to solve together: of one group, of similar sizes, and within a memory budget.

    - `size`: (Q,) number of cells of each problem.
    - `group`: (Q,) group of each problem; problems of different groups never share a block.
    - `width`: (Q,) numbers that one cell of a problem needs in memory.
    - `budget`: Maximum numbers of a block; a single problem may need more.
    """
    order = np.lexsort((size, group))
    low = 0
    while low < len(order):
        first = order[low]
        inside = (group[order[low:]] == group[first]) & (size[order[low:]] <= _MAX_SIZE_RATIO * size[first] + 8)
        # sizes are sorted, so a block of the first c problems is padded to the size of its last
        cost = np.arange(1, len(inside) + 1) * size[order[low:]] * np.asarray(width)[first]
        high = low + max(1, int(np.argmin(np.append(inside & (cost <= budget), False))))
        yield order[low:high]
        low = high
