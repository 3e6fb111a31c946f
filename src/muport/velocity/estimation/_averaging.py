"""Noise taken out of raw velocities: means over cells that are neighbours in place and time, and how much it was."""

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

__all__ = ["Averaged", "averaged", "enough_steps", "with_misfit"]

_SAMPLE = 1_000  # cells at which the spread of times and the misfit are read
_NORMAL = 0.6745  # median of the absolute value of a standard normal number
_VIEWS = 16  # times that a cell is seen in a fit whose targets are noise by half
_LEAST_STEPS = 40


@dataclass(frozen=True, eq=False)
class Averaged:
    """Raw velocities without the noise that neighbours do not share.

    Attributes
    ----------
    raw
        The raw velocities, each replaced by its mean with those of its neighbours; all else as it was.
    noise
        Variance of the raw velocities about those of their neighbours, as a multiple of their other variation about 0.
    """

    raw: RawVelocity
    noise: float


def averaged(
    x: NDArray[np.float32], time: Floats, raw: RawVelocity, noise: float, k: int = 15, *, random_state: int = 0
) -> Averaged:
    r"""Average the raw velocity of each covered cell with those of its nearest covered cells in place and time.

    Place and time are compared in units of their noise,

    .. math:: D_{ij} = |x_i - x_j|^2 + \alpha^2 (t_i - t_j)^2, \qquad \alpha = \min(s / r, |v|),

    s^2 the noise variance of a coordinate, r the spread of time among neighbours in place (from the median of the
    absolute deviations from their mean), |v| the root mean square speed. Where times are exact, neighbours in place
    differ in time because their places are noisy, r is about s / |v|, and time weighs by the distance that cells move
    in it. Where times are noisy r is larger, and cells of one place are averaged whatever their times.

    Parameters
    ----------
    x
        (n, d) coordinates, denoised.
    time
        (n,) times.
    raw
        Raw velocities.
    noise
        Variance s^2 of the noise of a coordinate.
    k
        Neighbours.
    random_state
        Seed of the cells at which r is read.

    Returns
    -------
    Averaged
        The means, and the noise in the raw velocities.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._averaging import averaged
    >>> from muport.velocity.estimation._raw_velocity import ot_velocity
    >>> from muport.velocity.estimation._windows import time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.stack([3 * time, 0 * time], axis=1).astype(np.float32)
    >>> found = averaged(x, time, ot_velocity(x, time, time_windows(time)), noise=1e-4)
    >>> found.noise < 0.1
    True
    """
    covered = np.flatnonzero(raw.weight > 0)
    k = min(k, len(covered) - 1)
    if k < 1:
        return Averaged(raw, 0.0)
    velocity, weight = raw.velocity[covered], raw.weight[covered].astype(np.float64)
    weight /= weight.sum()
    power = float(weight @ np.square(velocity, dtype=np.float64).sum(axis=1))
    spread = _time_spread(x[covered], time[covered], k, random_state)
    scale = min(np.sqrt(noise) / max(spread, np.finfo(np.float64).tiny), np.sqrt(power))
    clock = (scale * (time[covered] - time[covered].mean())).astype(np.float32)
    near = knn(np.column_stack([x[covered], clock]), k).indices
    others = _mean_over(velocity, near)
    # The mean of k others has a noise of its own, a k-th of that of one.
    left = float(weight @ np.square(velocity - others, dtype=np.float64).sum(axis=1)) * k / (k + 1)
    mean = raw.velocity.copy()
    mean[covered] = (velocity + k * others) / (k + 1)
    return Averaged(replace(raw, velocity=mean), left / max(power - left, 1e-3 * power, np.finfo(np.float64).tiny))


def enough_steps(n: int, noise: float, batch_size: int, most: int) -> int:
    """Steps after which a fit to n cells begins to learn their noise, at most `most`.

    Gradient descent for T steps is ridge regression of a weight that falls as 1 / T, and the best weight is the
    variance of the noise over the number of cells: cells are seen 16 / noise times, `noise` relative to the signal.
    """
    if noise * batch_size * most <= _VIEWS * n:
        return most
    return min(most, max(_LEAST_STEPS, round(_VIEWS * n / (batch_size * noise))))


def with_misfit(
    fit: FieldFit,
    x: NDArray[np.float32],
    time: Floats,
    mean: RawVelocity,
    back: NDArray[np.float64],
    *,
    random_state: int = 0,
) -> FieldFit:
    """The field with the root mean square distance of the averaged velocities, times `back`, from it.

    Members of a bootstrap of windows differ by what windows tell; where the field is too stiff for the velocities, or
    the means over neighbours are still noisy, all members are wrong alike.
    """
    covered = np.flatnonzero(mean.weight > 0)
    rows = np.sort(np.random.default_rng(random_state).permutation(covered)[:_SAMPLE])
    left = mean.velocity[rows] @ back - evaluate(fit.field(), x[rows], time[rows])
    weight = mean.weight[rows].astype(np.float64)
    square = np.square(left, dtype=np.float64).sum(axis=1)
    misfit = np.asarray(np.sqrt(weight @ square / weight.sum()), np.float32)
    return replace(fit, state={**fit.state, "misfit": misfit})


def _time_spread(x: NDArray[np.float32], time: Floats, k: int, random_state: int) -> float:
    """Standard deviation of time about the mean of the neighbours in place, by that of most cells."""
    rows = np.random.default_rng(random_state).permutation(len(x))[:_SAMPLE]
    # A cell of the data is its own first neighbour, or one of those at its place is.
    near = knn(x, k + 1, query=x[rows]).indices[:, 1:]
    apart = np.abs(time[rows] - time[near].mean(axis=1))
    return float(np.median(apart) / _NORMAL * np.sqrt(k / (k + 1)))


def _mean_over(values: NDArray[np.float32], near: NDArray[np.int64]) -> NDArray[np.float32]:
    total = np.zeros_like(values)
    for column in near.T:
        total += values[column]
    return total / np.float32(near.shape[1])
