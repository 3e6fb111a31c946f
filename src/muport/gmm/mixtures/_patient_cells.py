"""The cells of each patient: checked, sorted by patient, and handed out in padded blocks of similar patients."""

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

__all__ = ["SMALL", "Clouds", "as_cells", "as_codes", "as_weight", "blocks", "make_clouds", "single_thread"]

SMALL = 2**23  # numbers of a problem up to which one thread is as fast
_WASTE = 1.25  # a block's largest patient is at most so many times its smallest


@dataclass(frozen=True, eq=False)
class Clouds:
    """Cells sorted by patient.

    Attributes
    ----------
    x
        (n, d) float64 cells on the device of the computation.
    weight
        (n,) float64 weights.
    start
        (P + 1,) int64: patient p holds the rows ``start[p]:start[p + 1]``.
    order
        (n,) int64 the caller's row of each sorted row.
    """

    x: Tensor
    weight: Tensor
    start: NDArray[np.int64]
    order: NDArray[np.int64]

    @property
    def size(self) -> NDArray[np.int64]:
        """(P,) cells of each patient."""
        return np.diff(self.start)

    def rows(self, patients: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Sorted rows (B, m) of some patients, padded by repeats, and which of them are real (B, m)."""
        size = self.size[patients]
        step = np.arange(int(size.max()))
        rows = self.start[patients][:, None] + np.minimum(step, size[:, None] - 1)
        device = self.x.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(step < size[:, None]).to(device)

    def padded(self, patients: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Cells (B, m, d) and weights (B, m), zero for padding, of some patients."""
        rows, real = self.rows(patients)
        return self.x[rows], self.weight[rows] * real


def make_clouds(x: ArrayLike, sample: ArrayLike | None, weight: ArrayLike | None = None, device: str = "cpu") -> Clouds:
    """Check cells, patient codes and weights and sort them by patient.

    Raises
    ------
    TypeError, ValueError
        For cells that are no finite matrix, codes that are no integers 0 to P - 1 or miss one, weights that do not fit
        or leave a patient without any.
    """
    cells = as_cells(x)
    codes = as_codes(sample, len(cells))
    mass = as_weight(weight, codes)
    order = np.argsort(codes, kind="stable").astype(np.int64)
    start = np.concatenate([[0], np.cumsum(np.bincount(codes))]).astype(np.int64)
    return Clouds(
        torch.from_numpy(cells[order]).to(device), torch.from_numpy(mass[order]).to(device), start, order
    )  # fmt: skip


def as_cells(x: ArrayLike) -> NDArray[np.float64]:
    """Return cells as a finite (n, d) float64 matrix."""
    if hasattr(x, "toarray"):
        raise TypeError("x is sparse: pass a dense embedding, e.g. its principal components.")
    try:
        cells = np.ascontiguousarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"x must be a numeric matrix, not {type(x).__name__}: {error}") from error
    if cells.ndim != 2 or 0 in cells.shape:
        raise ValueError(f"x has shape {cells.shape}: it must have two axes, (cells, dimensions), none of them empty.")
    # Squares must stay finite too.
    bad = ~(np.abs(cells) < 1e100)
    if bad.any():
        raise ValueError(f"x has a NaN, infinite or huge entry in cell {np.argwhere(bad)[0, 0]} ({bad.sum()} in all).")
    return cells


def as_codes(sample: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Return (n,) patient codes, each of 0 to P - 1 present; all cells are one patient's by default."""
    if sample is None:
        return np.zeros(n, np.int64)
    codes = np.asarray(sample)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"sample must hold integer codes of patients, 0 to P - 1, not {codes.dtype}.")
    if codes.shape != (n,):
        raise ValueError(f"sample has shape {codes.shape}, but x has {n} cells.")
    if codes.min() < 0:
        raise ValueError(f"sample has the code {codes.min()} at cell {codes.argmin()}: codes start at 0.")
    empty = np.flatnonzero(np.bincount(codes) == 0)
    if len(empty):
        raise ValueError(f"sample {empty[0]} has no cells ({len(empty)} such in all): renumber the codes without gaps.")
    return codes.astype(np.int64)


def as_weight(weight: ArrayLike | None, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) weights >= 0, positive somewhere in every patient; 1 by default."""
    if weight is None:
        return np.ones(len(codes))
    mass = np.asarray(weight, dtype=np.float64)
    if mass.shape != codes.shape:
        raise ValueError(f"weight has shape {mass.shape}, but x has {len(codes)} cells.")
    bad = ~((mass >= 0) & (mass < np.inf))
    if bad.any():
        raise ValueError(f"weight has the entry {mass[bad][0]} at cell {bad.argmax()}: weights are finite and >= 0.")
    none = np.flatnonzero(np.bincount(codes, mass) == 0)
    if len(none):
        raise ValueError(f"all cells of sample {none[0]} have weight 0 ({len(none)} such in all).")
    return mass


@contextmanager
def single_thread(largest: int) -> Iterator[bool]:
    """Keep torch and BLAS to one thread where even the largest problem holds few numbers; then give them back.

    Threads inside products of small matrices wait for each other longer than they compute, the more so on a busy
    machine. Yields whether it is so.
    """
    if largest > SMALL:
        yield False
        return
    with single_threaded():
        yield True


def blocks(
    size: NDArray[np.int64], kind: NDArray[np.int64], width: Sequence[int] | NDArray[np.int64], budget: int
) -> Iterator[NDArray[np.int64]]:
    """Positions of problems to solve together: of one kind, of similar sizes, and within a budget of numbers.

    Parameters
    ----------
    size
        (Q,) cells of each problem.
    kind
        (Q,) problems of different kinds never share a block.
    width
        (Q,) numbers that one cell of a problem takes.
    budget
        Most numbers of a block; one problem alone may take more.
    """
    order = np.lexsort((size, kind))
    low = 0
    while low < len(order):
        first = order[low]
        inside = (kind[order[low:]] == kind[first]) & (size[order[low:]] <= _WASTE * size[first] + 8)
        # Sizes rise, so that a block of the first c problems takes c times the size of its last.
        cost = np.arange(1, len(inside) + 1) * size[order[low:]] * np.asarray(width)[first]
        high = low + max(1, int(np.argmin(np.append(inside & (cost <= budget), False))))
        yield order[low:high]
        low = high
