"""Absorption probabilities of a Markov chain, by a sparse linear system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from muport.velocity.fates._transition_matrix import as_transition_matrix, in_kernel_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MIN_REACH", "Absorption", "solve_absorption"]

_FACTORIZE_UP_TO = 4_000  # transient cells; the factor of a larger system has too many non-zero entries
_PLAIN_ITERATIONS = 500  # of BiCGSTAB without a preconditioner
MIN_REACH = 1e-3  # a cell with a smaller probability to be absorbed counts as reaching no terminal set


@dataclass(frozen=True, eq=False)
class Absorption:
    """Probability that a chain is absorbed in each terminal set, and the accuracy of the solution.

    - `probabilities`: (n, f) probability of each terminal set, given that one is reached. Rows sum to 1, or are 0 where
      none is reached.
    - `reach`: (n,) probability that any terminal set is reached: below 1 where the chain can stay elsewhere forever.
    - `reached`: (n,) whether ``reach`` is at least 0.001; the other rows of ``probabilities`` are 0.
    - `residual`: Largest absolute entry of (I - Q) q - R.
    - `n_iter`: Iterations of the solvers over all columns; 0 for the direct solver.
    - `converged`: Whether the residual is at most the tolerance.
    """

    probabilities: NDArray[np.float64]
    reach: NDArray[np.float64]
    reached: NDArray[np.bool_]
    residual: float
    n_iter: int
    converged: bool


def solve_absorption(kernel: Any, terminal: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> Absorption:
    """Solve (I - Q) q = R, with Q the transitions among transient cells and R those into each terminal set.

    Up to 4,000 transient cells the system is solved by a sparse LU factorization. A larger one is solved by BiCGSTAB,
    which needs a few tens of iterations where the chain has a direction. If the residual stays above the tolerance,
    BiCGSTAB is repeated with an incomplete LU factorization as preconditioner, and at last the fixed-point iteration
    q <- Q q + R is run, whose error decreases in every iteration. Memory and the cost of an iteration are linear in
    the number of non-zero entries.

    - `kernel`: (n, n) row-stochastic matrix.
    - `terminal`: (n,) integer code of the terminal set of a cell, 0 to f - 1; -1 where it is transient.
    - `tol`: Largest residual.
    - `max_iter`: Maximum iterations of each solver and column.

    Returns probabilities (n, f), reach and convergence. Raises ValueError if ``kernel`` is not row-stochastic, or
    ``terminal`` does not fit or holds no terminal cell; TypeError if ``terminal`` is not integer.

    Examples
    --------
    >>> chain = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])
    >>> solve_absorption(chain, [0, -1, -1, 1]).probabilities[1].round(3).tolist()
    [0.667, 0.333]
    """
    (terminal,) = in_kernel_order(kernel, terminal=terminal)
    matrix = as_transition_matrix(kernel)
    codes, n_fates = _check_codes(terminal, matrix.shape[0])
    q = np.zeros((len(codes), n_fates))
    absorbing = np.flatnonzero(codes >= 0)
    q[absorbing, codes[absorbing]] = 1
    # cells that cannot reach a terminal set would make the system singular
    transient = np.flatnonzero(_can_reach(matrix, absorbing) & (codes < 0))
    rows = matrix[transient]
    solution, residual, n_iter = _solve(rows[:, transient], rows @ q, tol, max_iter)
    q[transient] = np.clip(solution, 0, 1)
    reach = q.sum(axis=1)
    reached = reach >= MIN_REACH
    probabilities = np.divide(q, reach[:, None], out=np.zeros_like(q), where=reached[:, None])
    return Absorption(probabilities, np.minimum(reach, 1), reached, residual, n_iter, residual <= tol)


def _check_codes(terminal: Any, n: int) -> tuple[NDArray[np.int64], int]:
    """Codes (n,) of the terminal sets, and the number of sets."""
    codes = np.asarray(terminal)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"terminal is {codes.dtype}: give integer codes, 0 to f - 1, and -1 for transient cells.")
    if codes.shape != (n,):
        raise ValueError(f"terminal has shape {codes.shape}, but the kernel has {n} cells.")
    n_fates = int(codes.max()) + 1
    if n_fates < 1:
        raise ValueError("terminal holds no terminal cell: all codes are negative, so there is no fate to reach.")
    empty = np.setdiff1d(np.arange(n_fates), codes)
    if len(empty):
        raise ValueError(f"terminal codes must be 0 to {n_fates - 1}, each with a cell: {empty[0]} has none.")
    return codes.astype(np.int64), n_fates


def _can_reach(kernel: sp.csr_matrix, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a path leads from a cell to one of the targets.

    A breadth-first search on the reversed graph, from an additional node with an edge to each target.
    """
    n = kernel.shape[0]
    backward = kernel.T.tocsr()
    root = sp.csr_matrix((np.ones(len(targets)), (np.zeros(len(targets), int), targets)), shape=(1, n))
    graph = sp.vstack([sp.hstack([backward, sp.csr_matrix((n, 1))]), sp.hstack([root, sp.csr_matrix((1, 1))])]).tocsr()
    visited = csgraph.breadth_first_order(graph, n, directed=True, return_predecessors=False)
    reaches = np.zeros(n + 1, np.bool_)
    reaches[visited] = True
    return reaches[:n]


def _solve(
    inner: sp.csr_matrix, target: NDArray[np.float64], tol: float, max_iter: int
) -> tuple[NDArray[np.float64], float, int]:
    """Solution q of (I - Q) q = R, its residual and the number of iterations."""
    n = inner.shape[0]
    if n == 0:
        return target, 0.0, 0
    system = sp.identity(n, format="csr") - inner
    n_iter = 0
    if n <= _FACTORIZE_UP_TO:
        q = sparse_linalg.splu(system.tocsc()).solve(target)
    else:
        q, n_iter = _bicgstab(system, target, tol, min(max_iter, _PLAIN_ITERATIONS), None)
        if _residual(system, q, target) > tol:
            factor = sparse_linalg.spilu(system.tocsc(), drop_tol=1e-2, fill_factor=3)
            preconditioner = sparse_linalg.LinearOperator(system.shape, factor.solve)
            q, n_more = _bicgstab(system, target, tol, max_iter, preconditioner)
            n_iter += n_more
    residual = _residual(system, q, target)
    if residual > tol:
        q, n_more = _fixed_point(inner, target, np.clip(np.nan_to_num(q), 0, 1), tol, max_iter)
        residual, n_iter = _residual(system, q, target), n_iter + n_more
    return q, residual, n_iter


def _residual(system: sp.csr_matrix, q: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    largest = float(np.abs(system @ q - target).max())
    return largest if np.isfinite(largest) else np.inf


def _bicgstab(
    system: sp.csr_matrix, target: NDArray[np.float64], tol: float, max_iter: int, preconditioner: Any
) -> tuple[NDArray[np.float64], int]:
    """Solution of every column, and the iterations over all columns."""
    n_iter = 0

    def count(_: NDArray[np.float64]) -> None:
        nonlocal n_iter
        n_iter += 1

    # the tolerance bounds the norm of a residual, and with it the largest entry
    settings = {"rtol": 0.0, "atol": tol / 2, "maxiter": max_iter, "M": preconditioner, "callback": count}
    columns = [sparse_linalg.bicgstab(system, column, **settings)[0] for column in target.T]
    return np.stack(columns, axis=1), n_iter


def _fixed_point(
    inner: sp.csr_matrix, target: NDArray[np.float64], q: NDArray[np.float64], tol: float, max_iter: int
) -> tuple[NDArray[np.float64], int]:
    """Iterate q <- Q q + R; the solution and the number of iterations."""
    n_iter, change = 0, np.inf
    while change > tol / 2 and n_iter < max_iter:
        new = inner @ q + target
        change = float(np.abs(new - q).max())
        q, n_iter = new, n_iter + 1
    return q, n_iter
