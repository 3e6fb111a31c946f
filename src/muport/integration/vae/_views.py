"""The two views of a cell: normal scores of its coordinates, and robust z-scores within its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ViewStatistics", "compute_batch_view", "compute_quantile_view", "fit_statistics", "standardize_view"]

_N_QUANTILES = (10, 1000)  # bounds of their number
_CELLS_PER_QUANTILE = 30
_MAX_CELLS = 100_000  # cells on which the statistics are computed
_CLIP = 5.0  # largest absolute value of a view
_PRIOR_CELLS = 100.0  # cells that the global statistics count for in each batch
_GLOBAL_WEIGHT = 0.1  # further weight of the global statistics, whatever the number of cells
_MIN_CELLS = 10  # a batch with fewer cells has the global statistics
_MAD = 1.4826  # standard deviations of a normal per median absolute deviation
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class ViewStatistics:
    """Statistics of the training cells, from which the views of coordinates (n, d) are computed.

    - `center`: (d,) mean of the coordinates.
    - `scale`: Root mean square of the centered coordinates.
    - `quantiles`: (Q, d) values at Q evenly spaced ranks.
    - `location`, `spread`: (B + 1, d) median and standard deviation in each batch, shrunk toward those of all cells.
      The last row is of all cells, for batches that are not known.
    """

    center: Annotated[NDArray[np.float32], "V"]
    scale: Annotated[float, "0.."]
    quantiles: Annotated[NDArray[np.float32], "* V"]
    location: Annotated[NDArray[np.float32], "B V"]
    spread: Annotated[NDArray[np.float32], "B V", "0.."]


def fit_statistics(y: NDArray[np.float32], batch: NDArray[np.int64], n_batches: int, seed: int = 0) -> ViewStatistics:
    """Compute the statistics of training cells.

    Those of a batch of n_b cells are shrunk toward the global ones by 100 / (100 + n_b), then by another tenth.

    - `y`: (n, d) cells.
    - `batch`: (n,) batch of each.
    """
    if len(y) > _MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(len(y), _MAX_CELLS, replace=False))
        y, batch = y[rows], batch[rows]
    n_quantiles = int(np.clip(len(y) / _CELLS_PER_QUANTILE, *_N_QUANTILES))
    quantiles = np.quantile(y, np.linspace(0, 1, n_quantiles), axis=0)
    center, spread = _compute_robust(y)
    locations, spreads = np.tile(center, (n_batches + 1, 1)), np.tile(spread, (n_batches + 1, 1))
    order = np.argsort(batch, kind="stable")
    for code, rows in enumerate(np.split(order, np.searchsorted(batch[order], np.arange(1, n_batches)))):
        if len(rows) >= _MIN_CELLS:
            weight = (1 - _GLOBAL_WEIGHT) * len(rows) / (_PRIOR_CELLS + len(rows))
            own_center, own_spread = _compute_robust(y[rows])
            locations[code] += weight * (own_center - center)
            spreads[code] += weight * (own_spread - spread)
    mean = y.mean(axis=0, dtype=np.float64)
    rms = float(np.sqrt(np.square(y - mean).mean()))
    return ViewStatistics(
        mean.astype(np.float32),
        rms if rms > 0 else 1.0,
        quantiles.astype(np.float32),
        locations.astype(np.float32),
        spreads.astype(np.float32),
    )


def _compute_robust(y: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the median (d,), and the standard deviation (d,) from the median absolute deviation."""
    center = np.median(y, axis=0).astype(np.float64)
    spread = _MAD * np.median(np.abs(y - center), axis=0)
    # where more than half of the cells have one value, the median absolute deviation is 0
    return center, np.maximum(np.where(spread > 0, spread, y.std(axis=0)), _TINY)


def standardize_view(y: NDArray[np.float32], statistics: ViewStatistics) -> NDArray[np.float32]:
    """Subtract the mean from cells (n, d) and divide by one scale: the target of the decoder."""
    out: NDArray[np.float32] = (y - statistics.center) / np.float32(statistics.scale)
    return out


def compute_quantile_view(y: NDArray[np.float32], statistics: ViewStatistics) -> NDArray[np.float32]:
    """Compute normal scores (n, d) from the ranks of cells among the training cells, clipped at +-5 (view 1)."""
    rank = np.linspace(0, 1, len(statistics.quantiles))
    out = np.empty(y.shape, np.float32)
    for j, (column, quantiles) in enumerate(zip(y.T, statistics.quantiles.T, strict=True)):
        # the mean of both directions: a value that many cells have gets the middle of their ranks
        up = np.interp(column, quantiles, rank)
        down = np.interp(-column, -quantiles[::-1], rank)
        out[:, j] = np.clip(ndtri((up + 1 - down) / 2), -_CLIP, _CLIP)
    return out


def compute_batch_view(
    y: NDArray[np.float32], batch: NDArray[np.int64], statistics: ViewStatistics
) -> NDArray[np.float32]:
    """Compute z-scores (n, d) within each batch (-1: unknown), clipped at +-5 (view 2)."""
    row = np.where((batch >= 0) & (batch < len(statistics.location) - 1), batch, len(statistics.location) - 1)
    out: NDArray[np.float32] = np.clip((y - statistics.location[row]) / statistics.spread[row], -_CLIP, _CLIP)
    return out
