"""Terminal states: the sets of cells in which the flow ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from muport.velocity.fates._persistent_maxima import persistent_maxima
from muport.velocity.fates._transition_matrix import as_transition_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["terminal_states"]

_TINY = 1e-300
_CORE_MASS = 0.98  # fraction of the mass whose cells are considered; the rest is on scattered cells
_MASS_TOLERANCE = 1e-4  # change of the mass in one step, in total variation
_MASS_ITERATIONS = 2_000
_MIN_ENRICHMENT = 2.0  # mass of a terminal state, relative to its fraction of the cells
# Chosen on simulated lines, cycles, and branches of two to three arms, of 300 to 2,000 cells:
_EARLY_TOLERANCE = 1e-2  # change of the mass in one step, once it has gathered and before it leaks between ends
_SMOOTHINGS = 3  # averages over neighboring cells, after which single cells of much mass are no maxima
_MIN_RATIO = 2.0  # of the mass per cell at an end to that on the way to another end
_MAX_LEAK = 0.01  # fraction of its mass that a set may pass on in one step and still be a terminal state


def terminal_states(kernel: Any, *, min_mass: float = 0.01) -> NDArray[np.int64]:
    """Find the terminal states of a Markov chain: the sets of cells in which the flow ends.

    Every cell starts with equal mass, and the mass is moved by the kernel until it no longer changes (by less than
    1e-4 in a step). The smallest set of cells that holds 98 % of the mass is split into strongly connected components.
    A component that passes more than 1 % of its mass to another one in a step is joined to the one that receives most.
    A component is a terminal state if it holds at least ``min_mass``, and at least twice the mass of the same number
    of average cells. Mass on a cycle stays spread out, as does mass that does not move: neither is a terminal state.

    In measured cells, mass leaks slowly from one end into another, where all of it is in the limit. Therefore the mass
    is also considered as soon as it has gathered (a change below 1 % in a step). Where the mass per cell, averaged over
    neighbors, has further maxima, at least twice as high as the way to the next one and as the average, these are
    terminal states, too.

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
    early, mass = _move_mass(matrix, _EARLY_TOLERANCE), _move_mass(matrix, _MASS_TOLERANCE)
    order = np.argsort(-mass, kind="stable")
    core = np.sort(order[: int(np.searchsorted(np.cumsum(mass[order]), _CORE_MASS)) + 1])
    component = _closed_components(matrix[core][:, core], mass[core])
    component_mass, n_cells = np.bincount(component, mass[core]), np.bincount(component)
    terminal = np.flatnonzero((component_mass >= min_mass) & (component_mass * n >= _MIN_ENRICHMENT * n_cells))
    code = np.full(len(component_mass), -1, np.int64)
    code[terminal[np.argsort(-component_mass[terminal], kind="stable")]] = np.arange(len(terminal))
    codes = np.full(n, -1, np.int64)
    codes[core] = code[component]
    return _sort_by_mass(_add_gathered(codes, matrix, early, min_mass), early)


def _add_gathered(
    codes: NDArray[np.int64], kernel: sp.csr_matrix, early: NDArray[np.float64], min_mass: float
) -> NDArray[np.int64]:
    """Split terminal states in which the mass gathered at several places, and add places that lose it slowly."""
    n = len(codes)
    graph = sp.csr_matrix(kernel + kernel.T)
    averaging = sp.csr_matrix((np.ones_like(graph.data), graph.indices, graph.indptr), shape=(n, n)) + sp.eye(n)
    averaging = sp.csr_matrix(sp.diags(1 / np.asarray(averaging.sum(axis=1)).ravel()) @ averaging)
    density = early * n
    for _ in range(_SMOOTHINGS):
        density = averaging @ density
    maximum = persistent_maxima(np.log(np.maximum(density, _TINY)), graph, np.log(_MIN_RATIO))
    gathered = density[maximum] >= _MIN_ENRICHMENT
    updated, count = codes.copy(), int(codes.max()) + 1
    for top in np.unique(maximum[gathered]):
        basin = maximum == top
        inside, around = basin & (codes >= 0), basin & (density >= density[top] / _MIN_RATIO)
        # the cells around the maximum are the state, if hardly any mass is left there in the limit
        state = inside if early[inside].sum() >= early[around].sum() / 2 else around
        if early[state].sum() >= min_mass:
            updated[inside] = -1
            updated[state] = count
            count += 1
    return updated


def _sort_by_mass(codes: NDArray[np.int64], mass: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the states from that of most mass; -1 stays."""
    found, position = np.unique(codes, return_inverse=True)
    total = np.where(found >= 0, np.bincount(position, mass), -1.0)
    rank = np.argsort(np.argsort(-total, kind="stable"), kind="stable")
    return np.where(codes >= 0, rank[position], -1)


def _move_mass(kernel: sp.csr_matrix, tolerance: float) -> NDArray[np.float64]:
    """(n,) mass of each cell once equal masses have been moved until they change by less than `tolerance` in a step."""
    transposed = kernel.T.tocsr()
    mass = np.full(kernel.shape[0], 1 / kernel.shape[0])
    for _ in range(_MASS_ITERATIONS):
        # half of the mass stays in each step, so that mass that alternates between two cells converges too
        new = (mass + transposed @ mass) / 2
        change = np.abs(new - mass).sum()
        mass = new
        if change < tolerance / 2:
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
