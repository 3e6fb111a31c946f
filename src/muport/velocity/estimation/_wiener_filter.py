"""Noise taken out of coordinates by one linear map: what lies along no direction of the data is drawn to their mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport.neighbors import as_points
from muport.velocity.estimation._raw_velocity import bandwidth
from muport.velocity.estimation._windows import time_windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.estimation._field_training import FieldFit

__all__ = ["Shrinkage", "folded", "shrinkage"]

_HALF = 0.5  # share of a direction's variance above which its velocities are given their length back


@dataclass(frozen=True, eq=False)
class Shrinkage:
    """The map y = c + M (x - c).

    Attributes
    ----------
    center
        (d,) mean c of the data.
    matrix
        (d, d) symmetric matrix M, its eigenvalues from 0 to 1.
    noise
        Variance of the noise in each coordinate, in squared units of the data.
    """

    center: NDArray[np.float64]
    matrix: NDArray[np.float64]
    noise: float

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """(d, d) map that gives velocities of denoised places their length: M u = v is solved where M keeps half.

        With f an eigenvalue of M the inverse has 1 / f where f is above 1 / 2, and below, where a velocity is more
        noise than motion, 4 f, which falls to 0.
        """
        kept, axes = np.linalg.eigh(self.matrix)
        gain = np.where(kept > _HALF, 1 / np.maximum(kept, _HALF), np.maximum(kept, 0) / _HALF**2)
        out: NDArray[np.float64] = (axes * gain) @ axes.T
        return out

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cells (n, d) without the noise that can be told from the data."""
        center = self.center.astype(np.float32)
        return (x - center) @ self.matrix.astype(np.float32) + center


def shrinkage(x: Any, time: Any) -> Shrinkage:
    r"""Posterior mean of a cell's place, given its noisy coordinates, under a Gaussian law of all places.

    Neighbours in space and time differ by their noise at least by half: the noise variance of a coordinate is taken to
    be s^2 = q / 2d, with q the median over cells of the squared distance to the fifth neighbour inside a time window.
    With lambda_k and u_k the eigenvalues and eigenvectors of the data's covariance,

    .. math:: M = \sum_k \frac{(\lambda_k - s^2)_+}{\lambda_k} u_k u_k^T ,

    Wiener's filter. Directions that vary no more than neighbours do hold no place and no motion; in fifty dimensions
    they would rule the distances between cells. Where all directions vary alike M is a multiple of the identity, and
    no distance is changed against another. The map follows the data when they are turned.

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) pseudotime or real time.

    Returns
    -------
    Shrinkage
        The map, and the noise variance.

    Raises
    ------
    ValueError
        For arrays that do not fit, or a single value of time.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._wiener_filter import shrinkage
    >>> time = np.linspace(0, 1, 400)
    >>> noise = np.random.default_rng(0).normal(size=(400, 20))
    >>> noise[:, 0] += 20 * time
    >>> shrinkage(noise, time).matrix.diagonal().round(1)[:3].tolist()
    [1.0, 0.2, 0.2]
    """
    points = as_points(x)
    center = points.mean(axis=0, dtype=np.float64)
    centred = points - center.astype(np.float32)
    spread, axes = np.linalg.eigh(np.atleast_2d(np.cov(centred, rowvar=False)))
    noise = bandwidth(torch.from_numpy(centred), time_windows(time)) / (2 * points.shape[1])
    kept = np.maximum(spread - noise, 0) / np.maximum(spread, np.finfo(np.float64).tiny)
    return Shrinkage(center, (axes * kept) @ axes.T, noise)


def folded(fit: FieldFit, taken: Shrinkage) -> FieldFit:
    """The field of noisy coordinates: that fitted to denoised ones, between the map and its inverse.

    The map is put into the first layer of the network, the inverse into the last and into those of the members.
    """
    state = dict(fit.state)
    d = len(taken.center)
    # x_center is the mean of the cells, which the map leaves in place.
    first = state["first.weight"].copy()
    first[:, :d] = first[:, :d] @ taken.matrix
    back = taken.inverse.astype(np.float32)
    changed = {"first.weight": first} | {name: back @ state[name] for name in ("last.weight", "member_weight")}
    changed |= {name: state[name] @ back for name in ("last.bias", "member_bias")}
    return replace(fit, state=state | changed)
