"""Lines between recorded points, smoothed for drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["smooth_line"]

_LEAST_POINTS = 5  # of a piece that is smoothed: with fewer, its points are the path
_WIDTH = 0.08  # of the Gaussian, as a fraction of the points of a piece, but at least 1 point
_POINTS_PER_POINT = 4  # of the curve


def smooth_line(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a curve (m, 2) through a line (n, 2); each piece between rows of NaN is smoothed and keeps its ends."""
    gaps = np.flatnonzero(np.isnan(line).any(axis=1))
    pieces = np.split(line, np.union1d(gaps, gaps + 1))
    return np.concatenate([piece if np.isnan(piece).any() else _smooth(piece) for piece in pieces])


def _smooth(piece: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(piece) < _LEAST_POINTS:
        return piece
    smoothed = _filter(piece, max(_WIDTH * len(piece), 1))
    position = np.r_[0, np.cumsum(np.hypot(*np.diff(smoothed, axis=0).T))]
    even = np.linspace(0, position[-1], _POINTS_PER_POINT * len(piece))
    # a spline through points at uneven distances would leave the cells; rounded corners do not
    corners = np.stack([np.interp(even, position, coordinate) for coordinate in smoothed.T], axis=1)
    return _filter(corners, _POINTS_PER_POINT)


def _filter(points: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Average the points (n, 2) of a line over their neighbors on it; the ends stay where they are."""
    pad = min(int(np.ceil(4 * width)), len(points) - 1)
    padded = np.pad(points, ((pad, pad), (0, 0)), mode="reflect", reflect_type="odd")
    filtered: NDArray[np.float64] = gaussian_filter1d(padded, width, axis=0)[pad:-pad]
    return filtered
