"""Where an embedding has cells, so that lines end with the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PlacesWithCells"]

_N_DENSITY = 6  # the distance to the nearest cells of this number measures their density
_DENSITY_QUANTILE = 0.97  # of these distances over the cells: a point that is farther from the cells lies in a gap
_SLACK = 1.5  # a line may be as many times farther from the cells: one missing cell is no gap
_N_TESTED = 24  # points of a step of a line that are tested


@dataclass(frozen=True, eq=False)
class PlacesWithCells:
    """A point has cells if the distance to its nearest cells is one that the cells themselves have between each other.

    - `xy`: (n, 2) positions of the cells.
    - `n_near`: Number of nearest cells.
    - `limit`: Largest distance to the last of these.
    """

    xy: NDArray[np.float64]
    n_near: int
    limit: float

    @classmethod
    def of(cls, xy: NDArray[np.float64], least: float) -> PlacesWithCells:
        """Measure the density of cells; `least` is the smallest limit."""
        n_near = min(_N_DENSITY, len(xy))
        between = knn(xy, n_near, query=xy).distances[:, -1]
        tiny = float(np.finfo(np.float32).tiny)
        return cls(xy, n_near, max(float(np.quantile(between, _DENSITY_QUANTILE)), least, tiny))

    def interrupt(self, line: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a line (m, 2) with a row of NaN, which is not drawn, wherever a step crosses a gap between cells."""
        start, step = line[:-1], np.diff(line, axis=0)
        # a shorter step cannot leave the cells at its ends
        long = np.flatnonzero(np.hypot(*step.T) > self.limit)
        part = np.linspace(0, 1, _N_TESTED + 2)[1:-1, None]
        tested = (start[long, None] + part * step[long, None]).reshape(-1, 2)
        if not len(long):
            return line
        farthest = knn(self.xy, self.n_near, query=tested).distances[:, -1].reshape(len(long), _N_TESTED).max(axis=1)
        crosses = farthest > _SLACK * self.limit
        return np.insert(line, long[crosses] + 1, np.nan, axis=0)
