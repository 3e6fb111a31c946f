"""The transition matrix of a Markov chain between cells that follows the velocity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from muport._arrays import normalize_rows, sum_repeats
from muport._tables import rows_by_name, rows_in_one_order, same_row_and_column_order
from muport.neighbors import as_points, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellKernel", "as_transition_matrix", "cell_kernel", "fit_kernel", "in_kernel_order", "self_tuned_weights"]

_TINY = 1e-300
_DEFAULT_STEP = 0.5  # median displacement of one step, in median distances to the k-th neighbor
_ROW_SUM_TOLERANCE = 1e-5  # rows of a float32 matrix sum to 1 up to rounding
_BALANCE_TOLERANCE = 1e-3  # change of the logarithm of a column factor in the last iteration
_BALANCE_ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class CellKernel:
    """Transition matrix between cells, and what the moves of a cell from any other position follow from.

    - `x`: (n, d) float32 cells.
    - `time`: (n,) times, or None.
    - `k`: Number of cells to move to.
    - `step`: Duration of one step, in units of time.
    - `matrix`: (n, n) transition matrix.
    - `factor`: (n,) weight of each cell as a target, from the balance of the columns.
    - `time_scale`: Time over which moves to later cells get more weight; 0 without times.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64] | None
    k: int
    step: float
    matrix: sp.csr_matrix
    factor: NDArray[np.float64]
    time_scale: float

    def moves_from(self, positions: NDArray[np.float32], velocity: NDArray[np.float32]) -> sp.csr_matrix:
        """(n, n) probabilities of the moves of each cell, if it were at another position with another velocity.

        At the positions and velocities of the fit they are the transition matrix.
        """
        indices, weight = _moves(self.x, positions + np.float32(self.step) * velocity, self.k)
        if self.time is not None:
            weight = weight * _time_weights(self.time, indices, self.time_scale)
        rows = _as_matrix(indices, weight)
        scaled = sp.csr_matrix(sp.diags(1 / (rows @ self.factor)) @ rows @ sp.diags(self.factor))
        scaled.sort_indices()
        return scaled


def cell_kernel(
    x: Any, velocity: Any, *, time: Any | None = None, k: int = 15, step: float | None = None, balance: float = 0.95
) -> sp.csr_matrix:
    """Transition matrix between cells: each cell moves to the neighbors of the position its velocity leads to.

    With y_i = x_i + step * v_i and N_i the k other cells nearest to y_i (cell i itself is left out: y_i shares the
    noise of x_i, so cell i would always be among the nearest),
    ``P_ij ~ exp(-(|y_i - x_j|^2 - min_N |y_i - x|^2) / w_i)`` for j in N_i, where w_i is the mean of the numerator over
    N_i. The width adapts to each cell, and no row can underflow. Where y_i is outside the data, its neighbors are the
    nearest cells of the data.

    In many dimensions a few cells (hubs) are neighbors of most other cells, and would decide alone which branch is
    taken at a bifurcation. Therefore P is turned into the plan of an unbalanced transport from the moved cells to the
    cells, with the same non-zero entries: P_ij = u_i P_ij b_j. Rows sum to 1 exactly; columns sum to 1 as far as
    b_j = (sum_i u_i P_ij)^-balance allows. This assumes that cells are sampled at the same rate everywhere: as many
    cells then enter a branch as leave it.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) displacement per unit of time.
    time
        (n,) times. Moves to later cells get more weight, and no move is forbidden: the weight of a move is multiplied
        by 1 / (1 + exp(-(t_j - t_i) / s)), where s is the median over cells of the standard deviation of time among
        the k neighbors of a cell.
    k
        Number of cells to move to; all other cells if there are fewer.
    step
        Duration of one step in units of time. By default the median displacement of the moving cells is half the
        median distance of a cell to its k-th neighbor, so that the neighbors still surround the cell. After a longer
        step y_i is outside the data, where hubs are nearest; a much shorter step is smaller than the noise.
    balance
        How far the column sums are brought to 1, from 0 (not at all) to below 1. A value of 1 is impossible: cells
        where the flow begins or ends cannot be balanced.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float64, k entries in each row, each row sums to 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, NaN, a single cell, velocity that is zero everywhere, ``k``, ``step`` or ``balance``
        out of range, or tables of different cells: their rows are matched by name.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import cell_kernel
    >>> x = np.arange(6.0)[:, None]
    >>> cell_kernel(x, np.ones_like(x), k=1, step=2.0).indices.tolist()
    [2, 3, 4, 5, 5, 4]
    """
    return fit_kernel(x, velocity, time=time, k=k, step=step, balance=balance).matrix


def fit_kernel(
    x: Any, velocity: Any, *, time: Any | None = None, k: int = 15, step: float | None = None, balance: float = 0.95
) -> CellKernel:
    """The transition matrix of :func:`cell_kernel`, with what the moves from other positions need."""
    x, velocity, time = rows_in_one_order(x=x, velocity=velocity, time=time)
    points, arrows = as_points(x, "x"), as_points(velocity, "velocity")
    if arrows.shape != points.shape:
        raise ValueError(f"velocity has shape {arrows.shape}, but x has {points.shape}: give one row per cell.")
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    n = len(points)
    if n < 2:
        raise ValueError("x has one cell: a Markov chain needs at least two.")
    k = min(k, n - 1)
    duration = _default_step(points, arrows, k) if step is None else float(step)
    if not 0 < duration < np.inf:
        raise ValueError(f"step={step} must be a positive, finite duration.")
    if not 0 <= balance < 1:
        raise ValueError(f"balance={balance} must be at least 0 and below 1.")
    indices, weight = _moves(points, points + np.float32(duration) * arrows, k)
    times, scale = None, 0.0
    if time is not None:
        times = _check_times(time, n)
        scale = float(np.median(times[indices].std(axis=1)))
        weight = weight * _time_weights(times, indices, scale)
    matrix, factor = _balance_columns(_as_matrix(indices, weight), balance)
    return CellKernel(points, times, k, duration, matrix, factor, scale)


def _moves(
    x: NDArray[np.float32], positions: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n, k) cells nearest to each position, without the cell of that row, and their weights."""
    neighbors = knn(x, k + 1, query=positions).without_self()
    return neighbors.indices, self_tuned_weights(neighbors.distances)


def _as_matrix(indices: NDArray[np.int64], weight: NDArray[np.float64]) -> sp.csr_matrix:
    """(n, n) row-stochastic matrix of targets (n, k) and their weights."""
    n, k = indices.shape
    entries = normalize_rows(weight).ravel(), indices.ravel(), np.arange(0, n * k + 1, k)
    matrix = sp.csr_matrix(entries, shape=(n, n))
    matrix.sort_indices()
    return matrix


def _default_step(x: NDArray[np.float32], velocity: NDArray[np.float32], k: int) -> float:
    speed = np.linalg.norm(velocity, axis=1)
    if not speed.any():
        raise ValueError("velocity is zero in every cell: there is no flow to follow.")
    radius = float(np.median(knn(x, k).distances[:, -1]))
    return _DEFAULT_STEP * (radius or 1.0) / float(np.median(speed[speed > 0]))


def self_tuned_weights(distances: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gaussian weights (n, k) of distances (n, k), the smallest first; each row has a width of its own.

    The exponent is the excess over the smallest squared distance of the row, divided by the mean excess of the row.
    """
    squared = np.square(distances, dtype=np.float64)
    excess = np.maximum(squared - squared[:, :1], 0)
    weight: NDArray[np.float64] = np.exp(-excess / np.maximum(excess.mean(axis=1, keepdims=True), _TINY))
    return weight


def _check_times(time: Any, n: int) -> NDArray[np.float64]:
    """(n,) float64 times; TypeError or ValueError for anything else."""
    dtype = np.asarray(time).dtype
    if dtype.kind in "bcMm":
        raise TypeError(f"time must be numbers, not {dtype}: convert it, for example to days as float.")
    times = np.asarray(time, np.float64)
    if times.shape != (n,) or not np.isfinite(times).all():
        raise ValueError(f"time must be {n} finite numbers, one per cell; it has shape {times.shape} or NaN.")
    return times


def _time_weights(times: NDArray[np.float64], indices: NDArray[np.int64], scale: float) -> NDArray[np.float64]:
    """(n, k) logistic weights of moves from each cell to its neighbors, larger for moves to later cells."""
    difference = times[indices] - times[:, None]
    scaled = np.clip(difference / scale, -10, 10) if scale > 0 else np.zeros_like(difference)
    return 1 / (1 + np.exp(-scaled))


def _balance_columns(kernel: sp.csr_matrix, balance: float) -> tuple[sp.csr_matrix, NDArray[np.float64]]:
    """Scale the stored entries by unbalanced Sinkhorn iterations; rows sum to 1. Also the factors of the columns."""
    factor = np.ones(kernel.shape[0])
    if balance == 0:
        return kernel, factor
    transposed = kernel.T.tocsr()
    for _ in range(_BALANCE_ITERATIONS):
        column = transposed @ (1 / (kernel @ factor))
        # a column without entries cannot be scaled
        new = np.where(column > 0, np.maximum(column, _TINY) ** -balance, 1.0)
        change = np.abs(np.log(new / factor)).max()
        factor = new
        if change < _BALANCE_TOLERANCE:
            break
    scaled = sp.csr_matrix(sp.diags(1 / (kernel @ factor)) @ kernel @ sp.diags(factor))
    scaled.sort_indices()
    return scaled, factor


def in_kernel_order(kernel: Any, **tables: Any) -> tuple[Any, ...]:
    """Tables with their rows in the order of a kernel that is a DataFrame, or of the first one with names."""
    if isinstance(kernel, pd.DataFrame):
        return tuple(rows_by_name(table, kernel.index, name) for name, table in tables.items())
    return rows_in_one_order(**tables)


def as_transition_matrix(kernel: Any) -> sp.csr_matrix:
    """Return a transition matrix as float64 CSR without stored zeros, after a check that its rows sum to 1.

    - `kernel`: (n, n) probabilities, dense or sparse. Row sums may differ from 1 by the rounding of float32.

    Raises ValueError if it is not square, not finite, negative, or a row does not sum to 1.
    """
    matrix = sum_repeats(sp.csr_matrix(same_row_and_column_order(kernel, "kernel"), dtype=np.float64))
    if matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"kernel has shape {matrix.shape}: it must be square, one row per cell.")
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise ValueError("kernel has negative, NaN or infinite entries: they must be probabilities.")
    total = np.asarray(matrix.sum(axis=1)).ravel()
    error = np.abs(total - 1)
    if error.max() > _ROW_SUM_TOLERANCE:
        row = int(error.argmax())
        raise ValueError(f"kernel row {row} sums to {total[row]:.4g}, not to 1: divide each row by its sum.")
    if error.max() > 0:
        matrix = sp.csr_matrix(sp.diags(1 / total) @ matrix)
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix
