"""The closed form of the metric: axes on which patients of different conditions differ most (Fisher discriminants)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["canonicalize", "discriminant_axes", "pair_weights"]

_MIN_EIGENVALUE = 1e-9  # of the mean eigenvalue: smaller eigenvalues of the noise are raised to it
_TINY = 1e-12


def pair_weights(
    condition: NDArray[np.int64], rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute weights (P, P) of the pairs of the same condition, and of the pairs of different conditions.

    The weights of all pairs sum to 1, all conditions have the same total weight, and i = j has weight 0. Patients
    outside `rows`, which are all patients by default, have weight 0.
    """
    if rows is not None:
        weights = np.zeros((2, len(condition), len(condition)))
        weights[:, rows[:, None], rows] = pair_weights(condition[rows])
        return weights[0], weights[1]
    same = condition[:, None] == condition
    size = same.sum(1)
    equal = np.where(same, 1 / np.maximum(size * (size - 1), 1)[:, None], 0.0)
    np.fill_diagonal(equal, 0)
    different = np.where(same, 0.0, 1 / (size[:, None] * size[None]))
    return equal / max(equal.sum(), _TINY), different / max(different.sum(), _TINY)


def discriminant_axes(
    noise: NDArray[np.float64], between: NDArray[np.float64], ridges: Sequence[float], n_comps: int = 5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the axes on which patients of different conditions differ most, relative to those of the same condition.

    These are the leading solutions of B v = g (C + ridge u S) v, with B and C the mean A_ij over pairs of different
    conditions and of the same condition, and S the mean covariance within components. u is the median eigenvalue of
    S^-1 C: the difference of patients of the same condition on an ordinary axis, in units of the spread of cells. The
    mean eigenvalue would be dominated by the few axes from one state to another, along which differences of
    composition are large. In the coordinates of :class:`muport.gmm.metric._pair_scatters.PairScatters` S is the
    identity.

    - `noise`, `between`: (N, d, d) C and B of N sets of patients, in these coordinates.
    - `ridges`: (R,) weights of S.
    - `n_comps`: Number of axes.

    Returns axes v' / sqrt(v' noise v) times sqrt(g), (N, R, n_comps, d), in these coordinates; and the ratios g (N, R,
    n_comps), in descending order.
    """
    values, axes = np.linalg.eigh(noise)
    # scatters are differences of large sums, so rounding may make small eigenvalues negative
    values = np.maximum(values, 0)
    least = np.maximum(1e-6 * np.trace(between, axis1=1, axis2=2) / between.shape[2], _TINY)
    unit = np.array([_median_positive(spectrum) or smallest for spectrum, smallest in zip(values, least, strict=True)])
    unit = unit[:, None]
    floor = _MIN_EIGENVALUE * np.maximum(values.mean(axis=1, keepdims=True), unit)
    # (N, R, d)
    noises = (values + floor)[:, None] + np.asarray(ridges, dtype=np.float64)[:, None] * unit[..., None]
    whitener = axes[:, None] / np.sqrt(noises)[:, :, None]
    whitened = whitener.swapaxes(2, 3) @ between[:, None] @ whitener
    gains, vectors = np.linalg.eigh((whitened + whitened.swapaxes(2, 3)) / 2)
    ratios = gains[..., ::-1][..., :n_comps]
    v = (whitener @ vectors[..., ::-1][..., :n_comps]).swapaxes(2, 3)
    return v * np.sqrt(np.maximum(ratios, 0))[..., None], ratios


def _median_positive(spectrum: NDArray[np.float64]) -> float:
    """Median of the eigenvalues that are not 0; with few patients most are 0."""
    positive = spectrum[spectrum > _MIN_EIGENVALUE * spectrum.max(initial=0)]
    return float(np.median(positive)) if len(positive) else 0.0


def canonicalize(w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the metric of the same W'W with orthogonal rows, the longest first, the largest entry of each positive."""
    _, size, axes = np.linalg.svd(w, full_matrices=False)
    sign = np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], 1))
    rows: NDArray[np.float64] = axes * sign * size[:, None]
    return rows
