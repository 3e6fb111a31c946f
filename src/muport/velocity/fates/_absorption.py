"""Markov chains with absorbing sets: where a chain ends, by one sparse linear system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Absorption", "absorption", "stochastic"]

_DIRECT = 4_000  # transient cells up to which the system is factorised: beyond, a factor fills in
_PLAIN_STEPS = 500  # iterations before a preconditioner is made
_LEAST_REACH = 1e-3  # probability to be absorbed below which a cell counts as reaching no terminal


@dataclass(frozen=True, eq=False)
class Absorption:
    """Probability that a chain is absorbed in each terminal set, and how well it is known.

    Attributes
    ----------
    probabilities
        (n, f) probability of each terminal given that one is reached; rows sum to 1, or are 0 where none is reached.
    reach
        (n,) probability that any terminal is reached: below 1 where the flow can be caught elsewhere.
    reached
        (n,) whether ``reach`` is at least 0.001; the rows of ``probabilities`` that are not are 0.
    residual
        Largest entry of (I - Q) q - R.
    n_iter
        Iterations of the solvers over all columns; 0 of a direct one.
    converged
        Whether the residual is below the tolerance.
    """

    probabilities: NDArray[np.float64]
    reach: NDArray[np.float64]
    reached: NDArray[np.bool_]
    residual: float
    n_iter: int
    converged: bool


def absorption(kernel: Any, terminal: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> Absorption:
    """Solve (I - Q) q = R, Q the kernel among transient cells and R their moves into each terminal set.

    Up to 4,000 transient cells by a sparse factorisation. Beyond by BiCGSTAB, a few tens of iterations where the chain
    drifts; should that not do, preconditioned by an incomplete factorisation, and at last by the iteration
    q <- Q q + R, whose error only falls. Memory and the cost of an iteration are linear in the entries of the kernel.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix.
    terminal
        (n,) integer code of the terminal set of a cell, 0 to f - 1; -1 where it is transient.
    tol
        Largest residual.
    max_iter
        Iterations of each solver and column.

    Returns
    -------
    Absorption
        Probabilities (n, f), reach and convergence.

    Raises
    ------
    ValueError
        If ``kernel`` is not row-stochastic, or ``terminal`` does not fit or holds no terminal cell.
    TypeError
        If ``terminal`` is not integer.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.fates._absorption import absorption
    >>> chain = np.array([[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0, 1]])
    >>> absorption(chain, [0, -1, -1, 1]).probabilities[1].round(3).tolist()
    [0.667, 0.333]
    """
    matrix = stochastic(kernel)
    codes, n_fates = _codes(terminal, matrix.shape[0])
    n = len(codes)
    q = np.zeros((n, n_fates))
    fixed = np.flatnonzero(codes >= 0)
    q[fixed, codes[fixed]] = 1
    free = np.flatnonzero(_reaching(matrix, fixed) & (codes < 0))
    rows = matrix[free]
    inner, target = rows[:, free], rows @ q
    solution, residual, n_iter = _solve(inner, target, tol, max_iter)
    q[free] = np.clip(solution, 0, 1)
    reach = q.sum(axis=1)
    reached = reach >= _LEAST_REACH
    share = np.divide(q, reach[:, None], out=np.zeros_like(q), where=reached[:, None])
    return Absorption(share, np.minimum(reach, 1), reached, residual, n_iter, residual <= tol)


def _reaching(kernel: sp.csr_matrix, fixed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) cells with a path to a fixed one: a search backwards from one more node that leads to all of these."""
    n = kernel.shape[0]
    backward = kernel.T.tocsr()
    root = sp.csr_matrix((np.ones(len(fixed)), (np.zeros(len(fixed), int), fixed)), shape=(1, n))
    graph = sp.vstack([sp.hstack([backward, sp.csr_matrix((n, 1))]), sp.hstack([root, sp.csr_matrix((1, 1))])]).tocsr()
    found = csgraph.breadth_first_order(graph, n, directed=True, return_predecessors=False)
    reaching = np.zeros(n + 1, np.bool_)
    reaching[found] = True
    return reaching[:n]


def _solve(
    inner: sp.csr_matrix, target: NDArray[np.float64], tol: float, max_iter: int
) -> tuple[NDArray[np.float64], float, int]:
    """Solution of (I - Q) q = R, its residual and the iterations."""
    n = inner.shape[0]
    if n == 0:
        return target, 0.0, 0
    system = sp.identity(n, format="csr") - inner
    n_iter = 0
    if n <= _DIRECT:
        q = sparse_linalg.splu(system.tocsc()).solve(target)
    else:
        q, n_iter = _bicgstab(system, target, tol, min(max_iter, _PLAIN_STEPS), None)
        if _residual(system, q, target) > tol:
            factor = sparse_linalg.spilu(system.tocsc(), drop_tol=1e-2, fill_factor=3)
            before = sparse_linalg.LinearOperator(system.shape, factor.solve)
            q, made = _bicgstab(system, target, tol, max_iter, before)
            n_iter += made
    residual = _residual(system, q, target)
    if residual > tol:
        q, made = _stationary(inner, target, np.clip(np.nan_to_num(q), 0, 1), tol, max_iter)
        residual, n_iter = _residual(system, q, target), n_iter + made
    return q, residual, n_iter


def _residual(system: sp.csr_matrix, q: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    gap = float(np.abs(system @ q - target).max())
    return gap if np.isfinite(gap) else np.inf


def _bicgstab(
    system: sp.csr_matrix, target: NDArray[np.float64], tol: float, max_iter: int, before: Any
) -> tuple[NDArray[np.float64], int]:
    """Solution of every column, and all iterations; `before` is a preconditioner."""
    made = 0

    def count(_: NDArray[np.float64]) -> None:
        nonlocal made
        made += 1

    # the norm of a column's residual bounds its largest entry, so this meets the tolerance
    columns = [
        sparse_linalg.bicgstab(system, column, rtol=0.0, atol=tol / 2, maxiter=max_iter, M=before, callback=count)[0]
        for column in target.T
    ]
    return np.stack(columns, axis=1), made


def _stationary(
    inner: sp.csr_matrix, target: NDArray[np.float64], q: NDArray[np.float64], tol: float, max_iter: int
) -> tuple[NDArray[np.float64], int]:
    made, change = 0, np.inf
    while change > tol / 2 and made < max_iter:
        new = inner @ q + target
        change = float(np.abs(new - q).max())
        q, made = new, made + 1
    return q, made


def stochastic(kernel: Any) -> sp.csr_matrix:
    """Return a transition matrix as float64 CSR without stored zeros, its rows known to sum to 1.

    Parameters
    ----------
    kernel
        (n, n) probabilities, dense or sparse; rows may be off 1 by the rounding of float32.

    Raises
    ------
    ValueError
        If it is not square, not finite, negative, or a row does not sum to 1.
    """
    matrix = sp.csr_matrix(kernel, dtype=np.float64)
    if matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"kernel has shape {matrix.shape}: it must be square, one row per cell.")
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise ValueError("kernel has negative, NaN or infinite entries: they must be probabilities.")
    total = np.asarray(matrix.sum(axis=1)).ravel()
    off = np.abs(total - 1)
    if off.max() > 1e-5:
        row = int(off.argmax())
        raise ValueError(f"kernel row {row} sums to {total[row]:.4g}, not to 1: divide each row by its sum.")
    if off.max() > 0:
        matrix = sp.csr_matrix(sp.diags(1 / total) @ matrix)
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix


def _codes(terminal: Any, n: int) -> tuple[NDArray[np.int64], int]:
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
