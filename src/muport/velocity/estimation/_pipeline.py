"""From cells and times to a fitted field: windows, transport, network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._arrays import canonical_order
from muport.neighbors import knn
from muport.velocity.estimation._averaging import add_misfit, average_over_neighbors, limit_steps
from muport.velocity.estimation._field_training import fit_field
from muport.velocity.estimation._raw_velocity import RawVelocity, estimate_raw_velocity
from muport.velocity.estimation._wiener_filter import WienerFilter, apply_before_field, fit_wiener_filter
from muport.velocity.estimation._windows import Windows, pair_spatial_windows, pair_time_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from muport.velocity._hyperparameters import VelocityHyperparameters
    from muport.velocity.estimation._field_training import FieldFit

__all__ = ["InputCells", "find_outliers", "fit_network", "pair_windows", "transport_cells", "warn_of_outliers"]

_MIN_CELLS = 20  # two windows need that many
_MAX_FITTED = 50_000  # cells that the network is fitted to: with more, most of the time is the search for neighbors
_TYPICAL, _FAR = 0.98, 10  # a cell is far from all others if it is 10 times farther from the mean than 98 % of them
_CELLS_PER_BLOCK = 2**16  # whose distances from the mean are computed at once
_COST_NEIGHBORS = 30  # with lambda_knn, a transport between cells that are not among these costs more


@dataclass(frozen=True)
class InputCells:
    """Cells that a velocity field is estimated from.

    - `x`: (n, d) float32 coordinates.
    - `time`: (n,) float64 times, in the user's unit.
    - `batch`, `spatial`: (n,) int64 codes, or None: one batch; regions found by k-means.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    batch: NDArray[np.int64] | None = None
    spatial: NDArray[np.int64] | None = None

    @cached_property
    def fitted_rows(self) -> NDArray[np.int64]:
        """Rows of the cells that the field is fitted to: all but those that are far from all others.

        They are in an order of their own, by time and coordinates: what is drawn does not depend on the order of the
        input.
        """
        rows = np.delete(np.arange(len(self.x)), find_outliers(self.x))
        return rows[canonical_order(self.x[rows], self.time[rows])]

    @cached_property
    def fitted(self) -> InputCells:
        """These cells; the object itself if they are all, in the same order."""
        return self if np.array_equal(self.fitted_rows, np.arange(len(self.x))) else self.take(self.fitted_rows)

    @cached_property
    def wiener_filter(self) -> WienerFilter:
        """The filter of these coordinates."""
        return fit_wiener_filter(self.x, self.time)

    @cached_property
    def denoised(self) -> NDArray[np.float32]:
        """(n, d) float32 coordinates after the filter."""
        return self.wiener_filter(self.x)

    @classmethod
    def from_rows(cls, rows: Any) -> InputCells:
        """Take the cells of :class:`muport.data.Rows` with a time."""
        batch = rows.batch if len(rows.batches) > 1 else None
        return cls(rows.x, rows.time[rows.cell], batch, None if rows.spatial is None else rows.spatial[rows.cell])

    def take(self, rows: NDArray[np.int64]) -> InputCells:
        """Some of the cells, or all in another order."""
        batch, spatial = (None if codes is None else codes[rows] for codes in (self.batch, self.spatial))
        return InputCells(np.ascontiguousarray(self.x[rows]), self.time[rows], batch, spatial)


def find_outliers(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows of the cells that are ten times farther from the mean than 98 % of the cells are; usually none.

    One such cell determines the scales of the network and the largest costs of its windows. At ten times that distance
    it turns the velocities of a simulation by 12 degrees, at three hundred times by 53 degrees.
    """
    center = x.mean(axis=0, dtype=np.float64)
    blocks = (x[low : low + _CELLS_PER_BLOCK] - center for low in range(0, len(x), _CELLS_PER_BLOCK))
    squared = np.concatenate([np.einsum("nd,nd->n", block, block) for block in blocks])
    rank = int(_TYPICAL * (len(x) - 1))
    return np.flatnonzero(squared > _FAR**2 * np.partition(squared, rank)[rank])


def warn_of_outliers(cells: InputCells, names: pd.Index) -> None:
    """Warn of the cells, with the names (n,), that are left out of the fit."""
    outliers = np.delete(np.arange(len(names)), cells.fitted_rows)
    if len(outliers):
        warnings.warn(
            f"{len(outliers)} cells are more than {_FAR} times farther from the mean than {_TYPICAL:.0%} of the cells, "
            f"for example {names[outliers[0]]!r}: the field is fitted without them; remove them from the data.",
            stacklevel=3,
        )


def pair_windows(cells: InputCells, hyperparameters: VelocityHyperparameters) -> Windows:
    """Pair time windows, or spatial windows, as the hyperparameters say; cells far from all others are in none."""
    fitted = cells.fitted
    if len(fitted.x) < _MIN_CELLS:
        raise ValueError(f"there are {len(fitted.x)} cells: two windows need at least {_MIN_CELLS} cells.")
    if hyperparameters.windows == "time":
        windows = pair_time_windows(fitted.time, fitted.batch, hyperparameters)
    else:
        windows = pair_spatial_windows(fitted.x, fitted.time, fitted.spatial, fitted.batch, hyperparameters)
    return windows if fitted is cells else windows.among_all(cells.fitted_rows, len(cells.x))


def transport_cells(
    cells: InputCells, windows: Windows, hyperparameters: VelocityHyperparameters, device: str = "cpu"
) -> RawVelocity:
    """Estimate raw velocities from the transport between paired windows, after the filter if ``denoise`` is set."""
    fitted = cells.fitted
    if fitted is not cells:
        windows = windows.of_some(cells.fitted_rows)
    x = fitted.denoised if hyperparameters.denoise else fitted.x
    neighbors = knn(x, min(_COST_NEIGHBORS, len(x) - 1)).indices if hyperparameters.lambda_knn > 0 else None
    raw = estimate_raw_velocity(x, fitted.time, windows, hyperparameters, neighbors=neighbors, device=device)
    return raw if fitted is cells else raw.among_all(cells.fitted_rows, cells.time)


def fit_network(
    cells: InputCells,
    raw: RawVelocity,
    hyperparameters: VelocityHyperparameters,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> FieldFit:
    """Fit the field to the raw velocities; the field takes the coordinates as they are, before the filter.

    With more than 50,000 cells it is fitted to a random sample of that size, which limits time and memory.
    """
    if cells.fitted is not cells:
        cells, raw = cells.fitted, raw.of_some(cells.fitted_rows)
    seed, k_smooth = hyperparameters.random_state, hyperparameters.k_smooth
    x, averaged = cells.x, None
    raw = _sample_weights(raw, seed)
    if hyperparameters.denoise:
        x, noise_variance = cells.denoised, cells.wiener_filter.noise_variance
        averaged = average_over_neighbors(x, cells.time, raw, noise_variance, k_smooth, random_state=seed)
        n_steps = limit_steps(
            int((raw.weight > 0).sum()), averaged.noise_ratio, hyperparameters.batch_size, hyperparameters.n_steps
        )
        hyperparameters = replace(hyperparameters, n_steps=n_steps)
    neighbors = knn(x, min(k_smooth, len(x) - 1)).indices if hyperparameters.lambda_smooth > 0 else None
    target = None if averaged is None else averaged.raw.velocity
    fit = fit_field(
        x, cells.time, raw, hyperparameters, target=target, neighbors=neighbors, device=device, progress=progress
    )
    if averaged is None:
        return fit
    fit = apply_before_field(fit, cells.wiener_filter)
    return add_misfit(fit, cells.x, cells.time, averaged.raw, cells.wiener_filter.inverse, random_state=seed)


def _sample_weights(raw: RawVelocity, random_state: int) -> RawVelocity:
    """Raw velocities in which a random sample of `_MAX_FITTED` covered cells keep their weight."""
    covered = np.flatnonzero(raw.weight > 0)
    if len(covered) <= _MAX_FITTED:
        return raw
    weight = np.zeros_like(raw.weight)
    kept = np.random.default_rng(random_state).permutation(covered)[:_MAX_FITTED]
    weight[kept] = raw.weight[kept]
    return replace(raw, weight=weight)
