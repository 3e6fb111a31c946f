"""Coordinates denoised by one linear map, Wiener's filter, and a field that takes account of the map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport.neighbors import as_points
from muport.velocity.estimation._raw_velocity import median_squared_neighbor_distance
from muport.velocity.estimation._windows import pair_time_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.estimation._field_training import FieldFit

__all__ = ["WienerFilter", "apply_before_field", "fit_wiener_filter"]

_HALF = 0.5  # share of a direction's variance kept by the filter above which velocities get their full length back


@dataclass(frozen=True, eq=False)
class WienerFilter:
    """The map y = c + M (x - c).

    - `center`: (d,) mean c of the data.
    - `matrix`: (d, d) symmetric matrix M, its eigenvalues from 0 to 1.
    - `noise_variance`: Variance of the noise in each coordinate, in squared units of the data.
    """

    center: NDArray[np.float64]
    matrix: NDArray[np.float64]
    noise_variance: float

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """(d, d) map from velocities of denoised coordinates to velocities of full length.

        With f an eigenvalue of M the map has the eigenvalue 1 / f where f is above 1 / 2. Below, a velocity is more
        noise than motion, and the eigenvalue is 4 f, which falls to 0.
        """
        kept, axes = np.linalg.eigh(self.matrix)
        gain = np.where(kept > _HALF, 1 / np.maximum(kept, _HALF), np.maximum(kept, 0) / _HALF**2)
        inverse: NDArray[np.float64] = (axes * gain) @ axes.T
        return inverse

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Denoised coordinates (n, d)."""
        center = self.center.astype(np.float32)
        return (x - center) @ self.matrix.astype(np.float32) + center


def fit_wiener_filter(x: Any, time: Any) -> WienerFilter:
    r"""Fit the map to the posterior mean of a cell's place, given its noisy coordinates and Gaussian places.

    Half the squared distance of neighbors in space and time is at least their noise: the noise variance of a coordinate
    is taken to be s^2 = q / 2d, with q the median over cells of the squared distance to the fifth neighbor in a time
    window. With lambda_k and u_k the eigenvalues and eigenvectors of the data's covariance,

    .. math:: M = \sum_k \frac{(\lambda_k - s^2)_+}{\lambda_k} u_k u_k^T ,

    which is Wiener's filter. Directions in which the data vary no more than neighbors do carry neither place nor
    motion; in fifty dimensions they would dominate the distances between cells. Where all directions vary alike, M is a
    multiple of the identity, and no distance changes relative to another. The map rotates with the data.

    - `x`: (n, d) coordinates.
    - `time`: (n,) pseudotime or real time.

    Returns the map, and the noise variance. Raises ValueError for arrays that do not fit, or a single value of time.

    Examples
    --------
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.random.default_rng(0).normal(size=(400, 20))
    >>> x[:, 0] += 20 * time
    >>> fit_wiener_filter(x, time).matrix.diagonal().round(1)[:2].tolist()
    [1.0, 0.2]
    """
    points = as_points(x)
    center = points.mean(axis=0, dtype=np.float64)
    centered = points - center.astype(np.float32)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(centered, rowvar=False)))
    neighbor_distance = median_squared_neighbor_distance(torch.from_numpy(centered), pair_time_windows(time))
    noise_variance = neighbor_distance / (2 * points.shape[1])
    kept = np.maximum(variance - noise_variance, 0) / np.maximum(variance, np.finfo(np.float64).tiny)
    return WienerFilter(center, (axes * kept) @ axes.T, noise_variance)


def apply_before_field(fit: FieldFit, wiener_filter: WienerFilter) -> FieldFit:
    """The field of noisy coordinates: filter them, evaluate the field of denoised ones, undo the filter.

    The filter is multiplied into the first layer of the network, its inverse into the last one and the members'.
    """
    state = dict(fit.state)
    d = len(wiener_filter.center)
    # x_center is the mean of the cells, which the filter does not change.
    first = state["first.weight"].copy()
    first[:, :d] = first[:, :d] @ wiener_filter.matrix
    inverse = wiener_filter.inverse.astype(np.float32)
    changed = {"first.weight": first} | {name: inverse @ state[name] for name in ("last.weight", "member_weight")}
    changed |= {name: state[name] @ inverse for name in ("last.bias", "member_bias")}
    return replace(fit, state=state | changed)
