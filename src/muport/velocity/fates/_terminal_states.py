"""Terminal states: the sets of cells in which the flow ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from muport.velocity.fates._transition_matrix import as_transition_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["terminal_states"]

_CORE_MASS = 0.98  # fraction of the mass whose cells are considered; the rest is on scattered cells
_MASS_TOLERANCE = 1e-4  # change of the mass in one step, in total variation
_MASS_ITERATIONS = 2_000
_MIN_ENRICHMENT = 2.0  # mass of a terminal state, relative to its fraction of the cells
_MAX_LEAK = 0.01  # fraction of its mass that a set may pass on in one step and still be a terminal state


def terminal_states(kernel: Any, *, min_mass: float = 0.01) -> NDArray[np.int64]:
    """Find the terminal states of a Markov chain: the sets of cells in which the flow ends.

    Every cell starts with equal mass, and the mass is moved by the kernel until it no longer changes (by less than
    1e-4 in a step). The smallest set of cells that holds 98 % of the mass is split into strongly connected components.
    A component that passes more than 1 % of its mass to another one in a step is joined to the one that receives most.
    A component is a terminal state if it holds at least ``min_mass``, and at least twice the mass of the same number
    of average cells. Mass on a cycle stays spread out, as does mass that does not move: neither is a terminal state.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix of :func:`cell_kernel`. With ``balance=0`` the mass of a cycle gathers on hubs.
    min_mass
        Smallest fraction of the mass of a terminal state: rarer fates are not found.

    Returns
    -------
    numpy.ndarray
        (n,) int64 code of the terminal state of each cell, the one of most mass first; -1 for other cells. All are -1
        where the flow has no end.

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
    matrix = as_transition_matrix(kernel)
    if not 0 <= min_mass <= 1:
        raise ValueError(f"min_mass={min_mass} must be a fraction between 0 and 1.")
    n = matrix.shape[0]
    mass = _limit_mass(matrix)
    order = np.argsort(-mass, kind="stable")
    core = np.sort(order[: int(np.searchsorted(np.cumsum(mass[order]), _CORE_MASS)) + 1])
    component = _closed_components(matrix[core][:, core], mass[core])
    component_mass, n_cells = np.bincount(component, mass[core]), np.bincount(component)
    terminal = np.flatnonzero((component_mass >= min_mass) & (component_mass * n >= _MIN_ENRICHMENT * n_cells))
    code = np.full(len(component_mass), -1, np.int64)
    code[terminal[np.argsort(-component_mass[terminal], kind="stable")]] = np.arange(len(terminal))
    codes = np.full(n, -1, np.int64)
    codes[core] = code[component]
    return codes


def _limit_mass(kernel: sp.csr_matrix) -> NDArray[np.float64]:
    """(n,) mass of each cell once equal masses have been moved until they no longer change."""
    transposed = kernel.T.tocsr()
    mass = np.full(kernel.shape[0], 1 / kernel.shape[0])
    for _ in range(_MASS_ITERATIONS):
        # half of the mass stays in each step, so that mass that alternates between two cells converges too
        new = (mass + transposed @ mass) / 2
        change = np.abs(new - mass).sum()
        mass = new
        if change < _MASS_TOLERANCE / 2:
            break
    return mass


def _closed_components(kernel: sp.csr_matrix, mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Strongly connected component of every cell, after each leaking component is joined to the one it feeds most."""
    n = kernel.shape[0]
    count, component = csgraph.connected_components(kernel, directed=True, connection="strong")
    if count == 1:
        return np.asarray(component, np.int64)
    member = sp.csr_matrix((np.ones(n), (np.arange(n), component)), shape=(n, count))
    flow = sp.csr_matrix(member.T @ sp.diags(mass) @ kernel @ member)
    flow = sp.csr_matrix(flow - sp.diags(flow.diagonal()))
    leaks = flow.max(axis=1).toarray().ravel() > _MAX_LEAK * np.bincount(component, mass, count)
    leaking = np.flatnonzero(leaks)
    receiver = np.asarray(flow.argmax(axis=1)).ravel()[leaking]
    joins = sp.csr_matrix((np.ones(len(leaking)), (leaking, receiver)), shape=(count, count))
    _, group = csgraph.connected_components(joins, directed=False)
    joined: NDArray[np.int64] = np.asarray(group, np.int64)[component]
    return joined
