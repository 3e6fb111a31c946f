"""Where cells go: a Markov chain of cells along the flow, its ends, and the probability to reach each of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from muport.neighbors import as_points, knn
from muport.velocity.fates._absorption import Absorption, absorption, stochastic

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Absorption", "absorption", "cell_kernel", "committor", "fate_probabilities", "terminal_states"]

_TINY = 1e-300
_STEP = 0.5  # median displacement of a step, in median distances to the k-th neighbour
_MASS = 0.98  # of the mass that has flowed to its ends is looked at: the rest sits on stragglers
_SETTLED = 1e-4  # change of the mass in one step, in total variation
_MOST_STEPS = 2_000
_RISE = 2.0  # an end holds at least this many times its share of the cells
_LEAK = 0.01  # of its mass a set passes on in a step, beyond which it is no end by itself
_BALANCED = 1e-3  # change of a column's factor at which the balance is met
_MOST_BALANCING = 100


def cell_kernel(
    x: Any, velocity: Any, *, time: Any | None = None, k: int = 15, step: float | None = None, balance: float = 0.95
) -> sp.csr_matrix:
    """Transition matrix between cells: from each cell to the neighbours of the point the flow takes it to.

    With y_i = x_i + step * v_i and N_i the k other cells nearest to y_i (y_i shares the noise of x_i, and would find
    cell i too near),
    ``P_ij ~ exp(-(|y_i - x_j|^2 - min_N |y_i - x|^2) / w_i)`` for j in N_i, where w_i is the mean of the numerator over
    N_i: the width tunes itself, and no row can underflow. Flow that leaves the data comes back to its nearest cells.

    In many dimensions a few cells (hubs) are neighbours of most, and would decide alone which way the flow goes at a
    fork. So P becomes the plan of an unbalanced transport from the flowed cells to the cells, along the same entries:
    P_ij = u_i P_ij b_j, rows to 1 exactly, columns to 1 as far as b_j = (sum_i u_i P_ij)^-balance allows. It rests on
    cells being sampled alike everywhere: a branch is then entered by as many cells as it passes on.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) displacement per unit of time.
    time
        (n,) times that orient the moves without forbidding any: each is weighted by 1 / (1 + exp(-(t_j - t_i) / s)),
        s the median over cells of the spread (standard deviation) of time among a cell's k candidates.
    k
        Cells to move to; all others if there are fewer.
    step
        Duration of one step in units of time. By default the median displacement of the cells that move is half the
        median distance of a cell to its k-th neighbour, so that its candidates still surround the cell: longer steps
        leave the data, and what is near them there is decided by hubs; much shorter ones stay in the noise.
    balance
        How far columns are brought to 1, from 0 (not at all) to below 1; cells where the flow begins or ends, which
        cannot be balanced, bound it.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float64, k entries a row, each row sums to 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, NaN, a single cell, velocity that is zero everywhere, or ``k``, ``step`` or
        ``balance`` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import cell_kernel
    >>> x = np.arange(6.0)[:, None]
    >>> cell_kernel(x, np.ones_like(x), k=1, step=2.0).indices.tolist()
    [2, 3, 4, 5, 5, 4]
    """
    points, flow = as_points(x, "x"), as_points(velocity, "velocity")
    if flow.shape != points.shape:
        raise ValueError(f"velocity has shape {flow.shape}, but x has {points.shape}: give one row per cell.")
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    n = len(points)
    if n < 2:
        raise ValueError("x has one cell: a chain needs at least two.")
    k = min(k, n - 1)
    duration = _step_of(points, flow, k) if step is None else float(step)
    if not 0 < duration < np.inf:
        raise ValueError(f"step={step} must be a positive, finite duration.")
    if not 0 <= balance < 1:
        raise ValueError(f"balance={balance} must be at least 0 and below 1.")
    distances, indices = _others(points, points + np.float32(duration) * flow, k)
    weight = _self_tuned(distances)
    if time is not None:
        weight = weight * _oriented(_numbers(time, n, "time"), indices)
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = sp.csr_matrix((weight.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    matrix.sort_indices()
    return _balanced(matrix, balance)


def _balanced(kernel: sp.csr_matrix, balance: float) -> sp.csr_matrix:
    """Unbalanced Sinkhorn scaling of the stored entries; rows sum to 1."""
    if balance == 0:
        return kernel
    transposed = kernel.T.tocsr()
    factor = np.ones(kernel.shape[0])
    for _ in range(_MOST_BALANCING):
        column = transposed @ (1 / (kernel @ factor))
        # a cell that nothing flows to has no entry to scale
        new = np.where(column > 0, np.maximum(column, _TINY) ** -balance, 1.0)
        change = np.abs(np.log(new / factor)).max()
        factor = new
        if change < _BALANCED:
            break
    scaled = sp.csr_matrix(sp.diags(1 / (kernel @ factor)) @ kernel @ sp.diags(factor))
    scaled.sort_indices()
    return scaled


def _step_of(x: NDArray[np.float32], velocity: NDArray[np.float32], k: int) -> float:
    speed = np.linalg.norm(velocity, axis=1)
    if not speed.any():
        raise ValueError("velocity is zero in every cell: there is no flow to follow.")
    local = float(np.median(knn(x, k).distances[:, -1]))
    return _STEP * (local or 1.0) / float(np.median(speed[speed > 0]))


def _others(
    x: NDArray[np.float32], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances (n, k) and indices (n, k) of the k cells nearest to each flowed cell, without the cell itself."""
    found = knn(x, k + 1, query=query)
    own = found.indices == np.arange(len(x))[:, None]
    own[~own.any(axis=1), -1] = True
    return found.distances[~own].reshape(-1, k), found.indices[~own].reshape(-1, k)


def _self_tuned(distances: NDArray[np.float32]) -> NDArray[np.float64]:
    squared = np.square(distances, dtype=np.float64)
    excess = np.maximum(squared - squared[:, :1], 0)
    weight: NDArray[np.float64] = np.exp(-excess / np.maximum(excess.mean(axis=1, keepdims=True), _TINY))
    return weight


def _oriented(time: NDArray[np.float64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    spread = float(np.median(time[indices].std(axis=1)))
    ahead = time[indices] - time[:, None]
    scaled = np.clip(ahead / spread, -10, 10) if spread > 0 else np.zeros_like(ahead)
    return 1 / (1 + np.exp(-scaled))


def _numbers(values: Any, n: int, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {n} finite numbers, one per cell; it has shape {array.shape} or NaN.")
    return array


def terminal_states(kernel: Any, *, min_mass: float = 0.01) -> NDArray[np.int64]:
    """Find the cells where the flow ends.

    Every cell starts with equal mass, and the mass follows the kernel until it settles (a change below 1e-4 a step).
    The fewest cells that hold 98 % of it fall into strongly connected sets; a set that passes more than 1 % of its
    mass to another in a step is joined to the one it feeds most. A set is an end if it holds at least ``min_mass`` and
    at least twice its share of the cells. Mass on a cycle stays spread, as does mass that does not flow: neither is an
    end.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix of :func:`cell_kernel`. Without its balance the mass of a cycle gathers on hubs.
    min_mass
        Least share of the mass of an end: rarer fates are not found.

    Returns
    -------
    numpy.ndarray
        (n,) int64 code of the end each cell belongs to, the end of most mass first; -1 elsewhere. All -1 where the
        flow has no end.

    Raises
    ------
    ValueError
        If ``kernel`` is not a row-stochastic matrix, or ``min_mass`` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import terminal_states
    >>> terminal_states(np.eye(7)[[1, 2, 2, 2, 5, 5, 5]]).tolist()
    [-1, -1, 0, -1, -1, 1, -1]
    """
    matrix = stochastic(kernel)
    if not 0 <= min_mass <= 1:
        raise ValueError(f"min_mass={min_mass} must be a share between 0 and 1.")
    n = matrix.shape[0]
    mass = _settled_mass(matrix)
    order = np.argsort(-mass, kind="stable")
    held = np.sort(order[: int(np.searchsorted(np.cumsum(mass[order]), _MASS)) + 1])
    part = _gathered(matrix[held][:, held], mass[held])
    share, cells = np.bincount(part, mass[held]), np.bincount(part)
    ends = np.flatnonzero((share >= min_mass) & (share * n >= _RISE * cells))
    code = np.full(len(share), -1, np.int64)
    code[ends[np.argsort(-share[ends], kind="stable")]] = np.arange(len(ends))
    codes = np.full(n, -1, np.int64)
    codes[held] = code[part]
    return codes


def _gathered(kernel: sp.csr_matrix, mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Strongly connected set of every cell, once each set is joined to the one it leaks to."""
    n = kernel.shape[0]
    count, part = csgraph.connected_components(kernel, directed=True, connection="strong")
    if count == 1:
        return np.asarray(part, np.int64)
    member = sp.csr_matrix((np.ones(n), (np.arange(n), part)), shape=(n, count))
    between = sp.csr_matrix(member.T @ sp.diags(mass) @ kernel @ member)
    between = sp.csr_matrix(between - sp.diags(between.diagonal()))
    leaks = between.max(axis=1).toarray().ravel() > _LEAK * np.bincount(part, mass, count)
    source = np.flatnonzero(leaks)
    fed = np.asarray(between.argmax(axis=1)).ravel()[source]
    joined = sp.csr_matrix((np.ones(len(source)), (source, fed)), shape=(count, count))
    _, group = csgraph.connected_components(joined, directed=False)
    whole: NDArray[np.int64] = np.asarray(group, np.int64)[part]
    return whole


def _settled_mass(kernel: sp.csr_matrix) -> NDArray[np.float64]:
    """(n,) where equal masses have gone once they stop moving."""
    transposed = kernel.T.tocsr()
    mass = np.full(kernel.shape[0], 1 / kernel.shape[0])
    for _ in range(_MOST_STEPS):
        # half of the mass waits, so that what alternates between two cells settles too
        moved = (mass + transposed @ mass) / 2
        change = np.abs(moved - mass).sum()
        mass = moved
        if change < _SETTLED / 2:
            break
    return mass


def fate_probabilities(kernel: Any, terminal: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> NDArray[np.float64]:
    """Probability that each cell ends in each terminal state.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix, e.g. of :func:`cell_kernel`.
    terminal
        (n,) integer code of the terminal state of a cell, 0 to f - 1; -1 where it is transient. From labels, or of
        :func:`terminal_states`.
    tol, max_iter
        As in :func:`absorption`, which also reports reach and convergence.

    Returns
    -------
    numpy.ndarray
        (n, f) float64; rows sum to 1, given that a terminal is reached. Rows of cells that reach none are 0.

    Raises
    ------
    ValueError, TypeError
        As :func:`absorption`.

    Warns
    -----
    UserWarning
        If some cells reach no terminal, or the solver did not converge.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import fate_probabilities
    >>> chain = np.array([[0.2, 0.2, 0.6], [0, 1, 0], [0, 0, 1]])
    >>> fate_probabilities(chain, [-1, 0, 1])[0].round(3).tolist()
    [0.25, 0.75]
    """
    found = absorption(kernel, terminal, tol=tol, max_iter=max_iter)
    lost = int((~found.reached).sum())
    if lost:
        warnings.warn(
            f"{lost} of {len(found.reached)} cells reach no terminal state: their fate probabilities are 0.",
            stacklevel=2,
        )
    _warn_unless_converged(found)
    return found.probabilities


def committor(kernel: Any, source: Any, sink: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> NDArray[np.float64]:
    """Probability to reach the sink before the source: q = P q between them, 0 on the source and 1 on the sink.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix.
    source, sink
        Cells of each: (n,) booleans, or positions. They may not overlap.
    tol, max_iter
        As in :func:`absorption`.

    Returns
    -------
    numpy.ndarray
        (n,) float64 in 0..1; 0 also where neither is reached.

    Raises
    ------
    ValueError
        If source or sink is empty or out of range, or they overlap.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import committor
    >>> chain = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])
    >>> committor(chain, [0], [3]).round(3).tolist()
    [0.0, 0.333, 0.667, 1.0]
    """
    matrix = stochastic(kernel)
    start, end = (_chosen(rows, matrix.shape[0], name) for rows, name in ((source, "source"), (sink, "sink")))
    if (start & end).any():
        raise ValueError(f"source and sink share {int((start & end).sum())} cells: they must not overlap.")
    found = absorption(matrix, np.where(end, 1, np.where(start, 0, -1)), tol=tol, max_iter=max_iter)
    _warn_unless_converged(found)
    return found.probabilities[:, 1]


def _warn_unless_converged(found: Absorption) -> None:
    if not found.converged:
        warnings.warn(
            f"The probabilities did not converge (residual {found.residual:.1e}): raise max_iter.", stacklevel=3
        )


def _chosen(rows: Any, n: int, name: str) -> NDArray[np.bool_]:
    array = np.asarray(rows)
    if array.dtype == np.bool_:
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape}, but the kernel has {n} cells.")
        chosen = array.copy()
    else:
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= n):
            raise ValueError(f"{name} must be booleans, or positions between 0 and {n - 1}.")
        chosen = np.zeros(n, np.bool_)
        chosen[array.astype(np.int64)] = True
    if not chosen.any():
        raise ValueError(f"{name} holds no cell.")
    return chosen
