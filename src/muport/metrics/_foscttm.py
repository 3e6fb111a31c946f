"""Distances of true matches, relative to other cells, if the pairing of the cells is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.metrics._cell_names import match_rows
from muport.neighbors import as_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 2**23  # number of distances computed together, 64 MiB
_ROUNDING = 1e-13  # relative error of a squared distance in float64


def foscttm(a: Any, b: Any) -> float:
    r"""Fraction of samples closer than the true match, in both directions: 0 is best, 0.5 is chance.

    Rows i of `a` and `b` are the same cell; DataFrames are matched by the names of their rows. With squared distances
    :math:`d_{ij} = \|a_i - b_j\|^2`,

    .. math:: \frac{1}{2 n (n - 1)} \sum_i \big( \#\{j : d_{ij} < d_{ii}\} + \#\{j : d_{ji} < d_{ii}\} \big).

    Points are converted to float32 and distances are computed in float64; distances that differ by at most the rounding
    error count as equal. The memory is three copies of the input and at most 100 MiB.

    Parameters
    ----------
    a
        (n, d) cells in the first modality.
    b
        (n, d) the same cells in the second modality.

    Returns
    -------
    A number between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes or the names of the cells differ, there is only one cell, or an entry is not finite.

    Examples
    --------
    >>> foscttm([[0.0], [1.0]], [[0.1], [0.9]])
    0.0

    References
    ----------
    Liu et al. (2019), Jointly embedding multiple single-cell omics measurements, WABI.
    """
    a, b = match_rows(a=a, b=b)
    x, y = as_points(a, "a"), as_points(b, "b")
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(f"a has shape {x.shape} and b {y.shape}: they must be equal, with two rows or more.")
    # |x|^2 + |y|^2 - 2xy loses digits far from the origin: center the points
    center = x.mean(axis=0, dtype=np.float64)
    x, y = x - center, y - center
    squares = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    limit = np.square(x - y).sum(axis=1) - _ROUNDING * (squares[0] + squares[1])
    step = max(1, _BLOCK // len(x))
    n_closer = sum(_count_closer(x, y, squares, limit, slice(low, low + step)) for low in range(0, len(x), step))
    return n_closer / (2 * len(x) * (len(x) - 1))


def _count_closer(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    squares: tuple[NDArray[np.float64], NDArray[np.float64]],
    limit: NDArray[np.float64],
    rows: slice,
) -> int:
    """Number of closer cells than the match: to the given rows of `x`, and, among these rows, to every row of `y`."""
    distance = x[rows] @ y.T
    distance *= -2
    distance += squares[0][rows, None]
    distance += squares[1]
    return int((distance < limit[rows, None]).sum()) + int((distance < limit).sum())
