"""Fate probabilities and committor: the probability of each cell to reach a terminal state."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.velocity.fates._absorption import Absorption, solve_absorption
from muport.velocity.fates._transition_matrix import as_transition_matrix, in_kernel_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["committor", "fate_probabilities"]


def fate_probabilities(kernel: Any, terminal: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> NDArray[np.float64]:
    """Probability that each cell ends in each terminal state.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix, e.g. of :func:`cell_kernel`.
    terminal
        (n,) integer code of the terminal state of a cell, 0 to f - 1; -1 where it is transient. From labels, or of
        :func:`terminal_states`.
    tol
        Largest residual of the linear system.
    max_iter
        Maximum iterations of each solver and column of the linear system.

    Returns
    -------
    numpy.ndarray
        (n, f) float64; rows sum to 1, given that a terminal state is reached. Rows of cells that reach none are 0.

    Raises
    ------
    ValueError
        If the rows of ``kernel`` do not sum to 1, or ``terminal`` is not of the same cells or has no terminal cell.
    TypeError
        If ``terminal`` is not integer.

    Warns
    -----
    UserWarning
        If some cells reach no terminal state, or the solver did not converge.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import fate_probabilities
    >>> chain = np.array([[0.2, 0.2, 0.6], [0, 1, 0], [0, 0, 1]])
    >>> fate_probabilities(chain, [-1, 0, 1])[0].round(3).tolist()
    [0.25, 0.75]
    """
    absorption = solve_absorption(kernel, terminal, tol=tol, max_iter=max_iter)
    n_lost = int((~absorption.reached).sum())
    if n_lost:
        warnings.warn(
            f"{n_lost} of {len(absorption.reached)} cells reach no terminal state: their fate probabilities are 0.",
            stacklevel=2,
        )
    _warn_unless_converged(absorption)
    return absorption.probabilities


def committor(kernel: Any, source: Any, sink: Any, *, tol: float = 1e-8, max_iter: int = 5_000) -> NDArray[np.float64]:
    """Probability to reach the sink before the source: q = P q between them, 0 on the source and 1 on the sink.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix.
    source, sink
        Cells of each: (n,) booleans, or positions. They may not overlap. A Series of booleans is matched by name to
        that of the other, and to a kernel that is a DataFrame.
    tol, max_iter
        As in :func:`fate_probabilities`.

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
    masks = {name: cells for name, cells in (("source", source), ("sink", sink)) if _is_named_mask(cells)}
    in_order = dict(zip(masks, in_kernel_order(kernel, **masks), strict=True))
    source, sink = in_order.get("source", source), in_order.get("sink", sink)
    matrix = as_transition_matrix(kernel)
    start, end = (_as_mask(cells, matrix.shape[0], name) for cells, name in ((source, "source"), (sink, "sink")))
    if (start & end).any():
        raise ValueError(f"source and sink share {int((start & end).sum())} cells: they must not overlap.")
    absorption = solve_absorption(matrix, np.where(end, 1, np.where(start, 0, -1)), tol=tol, max_iter=max_iter)
    _warn_unless_converged(absorption)
    return absorption.probabilities[:, 1]


def _warn_unless_converged(absorption: Absorption) -> None:
    if not absorption.converged:
        warnings.warn(
            f"The probabilities did not converge (residual {absorption.residual:.1e}): raise max_iter.", stacklevel=3
        )


def _is_named_mask(cells: Any) -> bool:
    return isinstance(cells, pd.Series) and pd.api.types.is_bool_dtype(cells.dtype)


def _as_mask(cells: Any, n: int, name: str) -> NDArray[np.bool_]:
    """(n,) booleans of cells that were given as booleans or as positions."""
    array = np.asarray(cells)
    if array.dtype == np.bool_:
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape}, but the kernel has {n} cells.")
        mask = array.copy()
    else:
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= n):
            raise ValueError(f"{name} must be booleans, or positions between 0 and {n - 1}.")
        mask = np.zeros(n, np.bool_)
        mask[array.astype(np.int64)] = True
    if not mask.any():
        raise ValueError(f"{name} holds no cell.")
    return mask
