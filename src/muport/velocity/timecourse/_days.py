"""The cells of each measured time of a course."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.velocity.estimation._wiener_filter import fit_wiener_filter

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

__all__ = ["MAX_DAYS", "MIN_CELLS", "Days", "is_time_course"]

MAX_DAYS = 100  # distinct times up to which cells are a time course
MIN_CELLS = 10  # cells that a day needs


@dataclass(frozen=True, eq=False)
class Days:
    """Cells in groups of equal time.

    - `x`: (n, d) float32 coordinates.
    - `time`: (n,) float64 times.
    - `batch`: (n,) int64 batch of each cell, or None.
    - `growth`: (n,) float64 prior growth rate of each cell, or None.
    - `clones`: (n, C) sparse float64 membership of the cells in clones, or None.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    batch: NDArray[np.int64] | None = None
    growth: NDArray[np.float64] | None = None
    clones: sp.csr_array | None = None

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """(D,) distinct times, ascending."""
        return np.unique(self.time)

    @cached_property
    def members(self) -> list[NDArray[np.int64]]:
        """Rows of the cells of each day."""
        return [np.flatnonzero(self.time == time) for time in self.times]

    @cached_property
    def denoised(self) -> NDArray[np.float32]:
        """(n, d) float32 coordinates after the Wiener filter of these cells."""
        return fit_wiener_filter(self.x, self.time)(self.x)

    @property
    def n_cells(self) -> NDArray[np.int64]:
        """(D,) number of cells of each day."""
        return np.array([len(rows) for rows in self.members], np.int64)

    def cells(self, day: int) -> NDArray[np.float32]:
        """(n_day, d) coordinates of the cells of a day."""
        return self.x[self.members[day]]

    def position(self, time: Any, argument: str) -> int:
        """Position of a measured time among the days; KeyError if no cell has it."""
        found = np.zeros(0, np.int64)
        try:
            if not isinstance(time, bool | np.bool_):
                found = np.flatnonzero(self.times == float(time))
        except (TypeError, ValueError):
            pass
        if len(found) == 0:
            value = time.item() if isinstance(time, np.generic) else time
            raise KeyError(f"{argument}={value!r} is not a measured time: the times are {self.times.tolist()}.")
        return int(found[0])

    def without(self, day: int) -> Days:
        """The cells of all other days."""
        kept = self.time != self.times[day]
        return self.take(kept)

    def until(self, day: int) -> Days:
        """The cells of this day and of those before it."""
        return self.take(self.time <= self.times[day])

    def since(self, day: int) -> Days:
        """The cells of this day and of those after it."""
        return self.take(self.time >= self.times[day])

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Days:
        """The cells of a mask (n,), or some rows."""
        batch = None if self.batch is None else self.batch[kept]
        growth = None if self.growth is None else self.growth[kept]
        clones = None if self.clones is None else self.clones[kept]
        return Days(self.x[kept], self.time[kept], batch, growth, clones)

    def digest(self) -> bytes:
        """Digest of all values, which changes with any of them."""
        digest = hashlib.blake2b(digest_size=16)
        clones = () if self.clones is None else (self.clones.indptr, self.clones.indices, self.clones.data)
        for values in (self.x, self.time, self.batch, self.growth, *clones):
            if values is not None:
                digest.update(np.ascontiguousarray(values).data)
        return digest.digest()

    def check(self) -> None:
        """Raise a ValueError unless there are 2 to `MAX_DAYS` times with `MIN_CELLS` cells each."""
        if len(self.times) > MAX_DAYS:
            raise ValueError(
                f"the cells have {len(self.times)} distinct times: couplings need a time course of at most {MAX_DAYS} "
                "times with many cells each; round the times, or follow the field with compute_trajectories."
            )
        if len(self.times) < 2:
            raise ValueError(f"the cells have one time ({self.times[0]:g}): a time course needs at least two.")
        small = int(self.n_cells.argmin())
        if self.n_cells[small] < MIN_CELLS:
            raise ValueError(
                f"time {self.times[small]:g} has {self.n_cells[small]} cells, but a day needs at least {MIN_CELLS}: "
                "leave it out, or merge it with another."
            )


def is_time_course(time: NDArray[np.float64]) -> bool:
    """Whether cells were measured at a few times, each with enough cells, rather than along a pseudotime."""
    count = np.unique(time, return_counts=True)[1]
    return 2 <= len(count) <= MAX_DAYS and int(count.min()) >= MIN_CELLS
