"""The two views of a cell: quantiles made normal, and robust z-scores within its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Views", "batch_view", "fit_views", "quantile_view", "standard_view"]

_QUANTILES = (10, 1000)
_CELLS_PER_QUANTILE = 30
_SUBSET = 100_000  # cells quantiles and medians are taken on
_CLIP = 5.0
_PSEUDO = 100.0  # cells that the global statistics count as
_GLOBAL = 0.1  # share of the global ones in every batch beyond that
_FEW = 10  # cells below which a batch is given the global ones
_MAD = 1.4826  # standard deviations of a normal per median absolute deviation
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Views:
    """What turns coordinates (n, d) into views.

    Attributes
    ----------
    center
        (d,) mean.
    scale
        Root mean square of the centred coordinates.
    quantiles
        (Q, d) values at Q evenly spaced ranks.
    location, spread
        (B + 1, d) shrunken median and standard deviation in each batch; the last row is of all cells, and serves
        batches that are not known.
    """

    center: NDArray[np.float32]
    scale: float
    quantiles: NDArray[np.float32]
    location: NDArray[np.float32]
    spread: NDArray[np.float32]


def fit_views(y: NDArray[np.float32], batch: NDArray[np.int64], n_batches: int, seed: int = 0) -> Views:
    """Take quantiles and statistics of training cells.

    Those of a batch of n_b cells are drawn toward the global ones by 100 / (100 + n_b), then by another tenth.

    Parameters
    ----------
    y
        (n, d) cells.
    batch
        (n,) batch of each.
    n_batches
        Number of batches.
    seed
        Seed of the subset, above 100,000 cells.
    """
    if len(y) > _SUBSET:
        rows = np.sort(np.random.default_rng(seed).choice(len(y), _SUBSET, replace=False))
        y, batch = y[rows], batch[rows]
    number = int(np.clip(len(y) / _CELLS_PER_QUANTILE, *_QUANTILES))
    quantiles = np.quantile(y, np.linspace(0, 1, number), axis=0)
    center, spread = _robust(y)
    location, scale = np.tile(center, (n_batches + 1, 1)), np.tile(spread, (n_batches + 1, 1))
    order = np.argsort(batch, kind="stable")
    for code, rows in enumerate(np.split(order, np.searchsorted(batch[order], np.arange(1, n_batches)))):
        if len(rows) >= _FEW:
            weight = (1 - _GLOBAL) * len(rows) / (_PSEUDO + len(rows))
            own_center, own_spread = _robust(y[rows])
            location[code] += weight * (own_center - center)
            scale[code] += weight * (own_spread - spread)
    mean = y.mean(axis=0, dtype=np.float64)
    rms = float(np.sqrt(np.square(y - mean).mean()))
    return Views(
        mean.astype(np.float32), rms if rms > 0 else 1.0, quantiles.astype(np.float32), location.astype(np.float32),
        scale.astype(np.float32),
    )  # fmt: skip


def _robust(y: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    center = np.median(y, axis=0).astype(np.float64)
    spread = _MAD * np.median(np.abs(y - center), axis=0)
    # more than half the cells at one value: the standard deviation is what is left
    return center, np.maximum(np.where(spread > 0, spread, y.std(axis=0)), _TINY)


def standard_view(y: NDArray[np.float32], views: Views) -> NDArray[np.float32]:
    """(n, d) cells relative to the mean, in units of one scale: what is decoded."""
    out: NDArray[np.float32] = (y - views.center) / np.float32(views.scale)
    return out


def quantile_view(y: NDArray[np.float32], views: Views) -> NDArray[np.float32]:
    """(n, d) normal scores of the cells' ranks among the training cells, cut off at +-5 (view 1)."""
    rank = np.linspace(0, 1, len(views.quantiles))
    out = np.empty(y.shape, np.float32)
    for j, (column, known) in enumerate(zip(y.T, views.quantiles.T, strict=True)):
        # the mean of both directions, so that a value that fills many ranks is at the middle of them
        up = np.interp(column, known, rank)
        down = np.interp(-column, -known[::-1], rank)
        out[:, j] = np.clip(ndtri((up + 1 - down) / 2), -_CLIP, _CLIP)
    return out


def batch_view(y: NDArray[np.float32], batch: NDArray[np.int64], views: Views) -> NDArray[np.float32]:
    """(n, d) z-scores within each batch (-1: unknown), cut off at +-5 (view 2)."""
    row = np.where((batch >= 0) & (batch < len(views.location) - 1), batch, len(views.location) - 1)
    out: NDArray[np.float32] = np.clip((y - views.location[row]) / views.spread[row], -_CLIP, _CLIP)
    return out
