"""Raw velocities averaged over cells that are neighbors in place and time, and how noisy they were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from muport.neighbors import knn
from muport.velocity.estimation._field import evaluate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.estimation._field_training import FieldFit
    from muport.velocity.estimation._raw_velocity import RawVelocity

    type Floats = NDArray[np.float64]

__all__ = ["AveragedVelocity", "add_misfit", "average_over_neighbors", "limit_steps"]

_SAMPLE = 1_000  # cells in which the spread of times and the misfit are measured
_NORMAL_MAD = 0.6745  # median of the absolute value of a standard normal number
_VIEWS = 16  # times that a fit sees each cell where the noise variance equals that of the signal
_MIN_STEPS = 40


@dataclass(frozen=True, eq=False)
class AveragedVelocity:
    """Raw velocities after averaging over neighbors.

    - `raw`: The raw velocities, each replaced by its mean with those of its neighbors; all other fields are unchanged.
    - `noise_ratio`: Variance of the raw velocities around those of their neighbors, divided by the rest of their mean
      square.
    """

    raw: RawVelocity
    noise_ratio: float


def average_over_neighbors(
    x: NDArray[np.float32], time: Floats, raw: RawVelocity, noise_variance: float, k: int = 15, *, random_state: int = 0
) -> AveragedVelocity:
    r"""Average the raw velocity of each covered cell with those of its nearest covered cells in place and time.

    Place and time are compared in units of their noise,

    .. math:: D_{ij} = |x_i - x_j|^2 + \alpha^2 (t_i - t_j)^2, \qquad \alpha = \min(s / r, |v|),

    s^2 the noise variance of a coordinate, r the spread of time among neighbors in place (from the median of the
    absolute deviations from their mean), |v| the root mean square speed. Where times are exact, neighbors in place
    differ in time because their places are noisy, r is about s / |v|, and time is weighted by the distance that cells
    move in it. Where times are noisy r is larger, and cells at one place are averaged whatever their times.

    - `x`: (n, d) coordinates, denoised.
    - `time`: (n,) times.
    - `noise_variance`: Variance s^2 of the noise of a coordinate.
    - `k`: Number of neighbors.
    - `random_state`: Seed of the cells in which r is measured.

    Returns the means, and how noisy the raw velocities were.

    Examples
    --------
    >>> from muport.velocity.estimation._raw_velocity import estimate_raw_velocity
    >>> from muport.velocity.estimation._windows import pair_time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.stack([3 * time, 0 * time], axis=1).astype(np.float32)
    >>> raw = estimate_raw_velocity(x, time, pair_time_windows(time))
    >>> average_over_neighbors(x, time, raw, noise_variance=1e-4).noise_ratio < 0.1
    True
    """
    covered = np.flatnonzero(raw.weight > 0)
    k = min(k, len(covered) - 1)
    if k < 1:
        return AveragedVelocity(raw, 0.0)
    velocity, weight = raw.velocity[covered], raw.weight[covered].astype(np.float64)
    weight /= weight.sum()
    power = float(weight @ np.square(velocity, dtype=np.float64).sum(axis=1))
    spread = _time_spread(x[covered], time[covered], k, random_state)
    scale = min(np.sqrt(noise_variance) / max(spread, np.finfo(np.float64).tiny), np.sqrt(power))
    scaled_time = (scale * (time[covered] - time[covered].mean())).astype(np.float32)
    neighbors = knn(np.column_stack([x[covered], scaled_time]), k).indices
    neighbor_mean = _mean_of_rows(velocity, neighbors)
    # The mean of k neighbors has noise of its own, 1 / k of that of a single one.
    noise = float(weight @ np.square(velocity - neighbor_mean, dtype=np.float64).sum(axis=1)) * k / (k + 1)
    mean = raw.velocity.copy()
    mean[covered] = (velocity + k * neighbor_mean) / (k + 1)
    signal = max(power - noise, 1e-3 * power, np.finfo(np.float64).tiny)
    return AveragedVelocity(replace(raw, velocity=mean), noise / signal)


def limit_steps(n_cells: int, noise_ratio: float, batch_size: int, n_steps: int) -> int:
    """Number of steps, at most `n_steps`, before a fit starts to learn the noise of its cells.

    Gradient descent for T steps is ridge regression with a weight that falls as 1 / T, and the best weight is the
    variance of the noise divided by the number of cells: each cell is seen ``16 / noise_ratio`` times.
    """
    if noise_ratio * batch_size * n_steps <= _VIEWS * n_cells:
        return n_steps
    return min(n_steps, max(_MIN_STEPS, round(_VIEWS * n_cells / (batch_size * noise_ratio))))


def add_misfit(
    fit: FieldFit,
    x: NDArray[np.float32],
    time: Floats,
    target: RawVelocity,
    inverse: NDArray[np.float64],
    *,
    random_state: int = 0,
) -> FieldFit:
    """Set the misfit of a field: the root mean square distance from it to the averaged velocities times `inverse`.

    The members of a bootstrap of windows differ by the sampling of windows only. Where the field cannot follow the
    velocities, or the means over neighbors are still noisy, all members have the same error, which the misfit measures.
    """
    covered = np.flatnonzero(target.weight > 0)
    rows = np.sort(np.random.default_rng(random_state).permutation(covered)[:_SAMPLE])
    residual = target.velocity[rows] @ inverse - evaluate(fit.field(), x[rows], time[rows])
    weight = target.weight[rows].astype(np.float64)
    square = np.square(residual, dtype=np.float64).sum(axis=1)
    misfit = np.asarray(np.sqrt(weight @ square / weight.sum()), np.float32)
    return replace(fit, state={**fit.state, "misfit": misfit})


def _time_spread(x: NDArray[np.float32], time: Floats, k: int, random_state: int) -> float:
    """Robust standard deviation of time around the mean time of the neighbors in place."""
    rows = np.random.default_rng(random_state).permutation(len(x))[:_SAMPLE]
    # The first neighbor of a cell of the data is the cell itself, or one at the same place.
    neighbors = knn(x, k + 1, query=x[rows]).indices[:, 1:]
    deviation = np.abs(time[rows] - time[neighbors].mean(axis=1))
    return float(np.median(deviation) / _NORMAL_MAD * np.sqrt(k / (k + 1)))


def _mean_of_rows(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, d) mean of the k rows of `values` that each row of (n, k) names, summed in one order."""
    total = np.zeros_like(values)
    for column in rows.T:
        total += values[column]
    return total / np.float32(rows.shape[1])
