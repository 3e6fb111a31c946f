"""Meta-states of the flow: soft groups of cells, the chain and the directed graph between them, and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from muport.neighbors import as_points, kmeans, knn
from muport.velocity.fates._absorption import stochastic

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MetaStates", "Role", "meta_states"]

type Role = Literal["initial", "terminal", "branching", "cycling", "transient"]

_TINY = 1e-300
_CELLS_PER_MICROSTATE = 20
_MOST_MICROSTATES = 200
_LEAST_CELLS = 5  # of a microstate
_POINTS_PER_CENTER = 256  # cells that k-means fits on, per microstate
_NEAREST = 5  # microstates that a cell's membership is interpolated from
_MOST_STATES = 12
_SLOWEST = 1e-6  # rates below are the same: several parts of the data that do not exchange cells
_SMALL = 0.1  # share of a state's net flux below which a flow is noise
_STILL = 1e-3  # net flux per cell and step below which nothing flows


@dataclass(frozen=True, eq=False)
class MetaStates:
    """Meta-states in the order of the flow, from where it begins to where it ends.

    Attributes
    ----------
    membership
        (n, m) soft membership of every cell, rows sum to 1; each state is the largest of some cell.
    transition
        (m, m) coarse chain K of one step of the kernel, rows sum to 1.
    stationary
        (m,) where the mass of the cells is after infinitely many steps of K.
    mass
        (m,) share of the cells.
    flux
        (m, m) directed graph, antisymmetric: ``flux[a, b] > 0`` is the net share of cells moving from a to b in a
        step.
    roles
        (m,) names: initial, terminal, branching, cycling or transient.
    singular_values
        Of the flow between microstates, largest first.
    vamp2
        VAMP-2 score of the kept functions, the sum of their squared singular values; at most m.
    """

    membership: NDArray[np.float64]
    transition: NDArray[np.float64]
    stationary: NDArray[np.float64]
    mass: NDArray[np.float64]
    flux: NDArray[np.float64]
    roles: tuple[Role, ...]
    singular_values: NDArray[np.float64]
    vamp2: float


def meta_states(
    kernel: Any, x: Any, n_states: int | None = None, *, n_microstates: int | None = None, random_state: int = 0
) -> MetaStates:
    r"""Coarse-grain a chain of cells into a few soft states, with a role for each.

    1. k-means microstates of ``x``; C01 the share of cells that move from one microstate to another in a step, C00 and
       C11 the diagonals of its row and column sums.
    2. The singular functions of C00^-1/2 C01 C11^-1/2, which maximise the VAMP-2 score
       (Wu and Noé, 2020, J. Nonlinear Sci. 30, 23). With rates r_k = -log s_k and r_1 = 0, the number of slow functions
       is the k <= 11 of the largest ratio r_(k+1) / r_k. They tell one state from another for each end of the data
       (two for a line, A for a star of A arms); one state more, ``n_states``, lets a junction be a state of its own.
    3. Memberships: the corners of the simplex that the functions span, found one by one as the point farthest from
       those before (inner simplex: Weber and Kube, 2005), negative ones clipped; a cell's is a mean over its nearest
       microstates. A corner that is no cell's main state is dropped.
    4. With X the indicators of each cell's main state and D = 1/n: the flux F = X' D P X, its antisymmetric part F - F'
       (the graph) and the chain K = (X' D X)^-1 F (Galerkin). Soft indicators would lend a state the flux of its
       neighbours, and let mass leave where the flow ends.

    Roles, by the net flux. Of the flows between a and b those below a tenth of the lesser of the two net fluxes through
    a and b are noise. A state is

    - *cycling* if the other flows lead from it back to it;
    - *initial* if at most a tenth of its net flux comes in, *terminal* if at most a tenth goes out, or if hardly
      anything flows (less than 0.001 per cell and step);
    - *branching* if it feeds two states neither of which leads to the other;
    - *transient* otherwise.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix of :func:`cell_kernel`.
    x
        (n, d) cells.
    n_states
        Number of states, at least 2; by the rule above if not given.
    n_microstates
        By default one for every 20 cells, at most 200.
    random_state
        Seed of the k-means.

    Returns
    -------
    MetaStates
        Memberships, chain, graph and roles.

    Raises
    ------
    ValueError
        For a kernel that is not row-stochastic or does not fit ``x``, or a number of states out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import cell_kernel, meta_states
    >>> x = np.random.default_rng(0).random((400, 1))
    >>> meta_states(cell_kernel(x, np.ones_like(x)), x).roles
    ('initial', 'transient', 'terminal')
    """
    matrix, points = stochastic(kernel), as_points(x, "x")
    if matrix.shape[0] != len(points):
        raise ValueError(f"kernel has {matrix.shape[0]} cells, but x has {len(points)}.")
    label, centers = _microstates(points, n_states, n_microstates, random_state)
    singular, functions = _singular(_between(matrix, label, len(centers)))
    m = _n_slow(singular) + 1 if n_states is None else n_states
    if not 2 <= m <= len(centers):
        raise ValueError(
            f"n_states={m} is out of range: with {len(centers)} microstates it must be between 2 and {len(centers)}."
        )
    membership = _to_cells(points, centers, _corners(functions[:, :m]))
    held, main = np.unique(membership.argmax(axis=1), return_inverse=True)
    flow = _between(matrix, main, len(held))
    order = _downstream(flow - flow.T)
    membership, flow = membership[:, held[order]], flow[np.ix_(order, order)]
    membership /= membership.sum(axis=1, keepdims=True)
    mass = flow.sum(axis=1)
    transition, flux = flow / mass[:, None], flow - flow.T
    stationary = _limit(transition, mass)
    score = float(np.square(singular[:m]).sum())
    return MetaStates(membership, transition, stationary, mass, flux, _roles(flux, mass), singular, score)


def _microstates(
    x: NDArray[np.float32], n_states: int | None, n_microstates: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    n = len(x)
    least = 3 if n_states is None else n_states
    usual = min(n, max(10, 2 * least, min(_MOST_MICROSTATES, n // _CELLS_PER_MICROSTATE)))
    count = usual if n_microstates is None else n_microstates
    if not least <= count <= n:
        raise ValueError(
            f"{count} microstates are out of range: {n} cells and {least} states need between {least} and {n}."
        )
    found = kmeans(x, count, random_state=seed, max_points_per_center=_POINTS_PER_CENTER, n_threads=1)
    # a few stray cells that others hardly flow to would be a slow function of their own
    large = np.bincount(found.labels) >= _LEAST_CELLS
    if large.all() or large.sum() < 2 * least:
        return found.labels, found.centers
    centers = found.centers[large]
    return knn(centers, 1, query=x, n_threads=1).indices[:, 0], centers


def _between(kernel: sp.csr_matrix, label: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """(K, K) C01, the share of cells that move from one microstate to another in a step."""
    n = len(label)
    member = sp.csr_matrix((np.full(n, 1.0), (np.arange(n), label)), shape=(n, count))
    moved: NDArray[np.float64] = np.asarray((member.T @ kernel @ member).todense()) / n
    return moved


def _singular(moved: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values and left functions (K, K) of C00^-1/2 C01 C11^-1/2, the first of them constant."""
    before, after = moved.sum(axis=1), moved.sum(axis=0)
    scaled = moved / np.sqrt(np.maximum(np.outer(before, after), _TINY))
    left, values, _ = np.linalg.svd(scaled)
    return np.minimum(values, 1), left / np.sqrt(before)[:, None]


def _n_slow(singular: NDArray[np.float64]) -> int:
    """Functions up to the largest ratio of two rates; at least 2, at most 11."""
    rate = np.maximum(-np.log(np.maximum(singular[1:_MOST_STATES], 1e-12)), _SLOWEST)
    if len(rate) < 2:
        return len(rate)
    return int(np.argmax(rate[1:] / rate[:-1])) + 2


def _corners(functions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, m) memberships: coordinates of each microstate between the corners of the simplex."""
    away = functions - functions.mean(axis=0)
    corner = [int(np.square(away).sum(axis=1).argmax())]
    away = functions - functions[corner[0]]
    for _ in range(functions.shape[1] - 1):
        corner.append(int(np.square(away).sum(axis=1).argmax()))
        edge = away[corner[-1]]
        away = away - np.outer(away @ edge, edge) / max(float(edge @ edge), _TINY)
    soft = np.maximum(functions @ np.linalg.pinv(functions[corner]), 0)
    memberships: NDArray[np.float64] = soft / np.maximum(soft.sum(axis=1, keepdims=True), _TINY)
    return memberships


def _to_cells(
    x: NDArray[np.float32], centers: NDArray[np.float32], membership: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, m) mean of the memberships of the nearest microstates, weighted by a Gaussian as wide as they are near."""
    found = knn(centers, min(_NEAREST, len(centers)), query=x, n_threads=1)
    squared = np.square(found.distances, dtype=np.float64)
    excess = squared - squared[:, :1]
    weight = np.exp(-excess / np.maximum(excess.mean(axis=1, keepdims=True), _TINY))
    weight /= weight.sum(axis=1, keepdims=True)
    spread = np.zeros((len(x), membership.shape[1]))
    for column, share in zip(found.indices.T, weight.T, strict=True):
        spread += share[:, None] * membership[column]
    return spread


def _downstream(flux: NDArray[np.float64]) -> NDArray[np.int64]:
    """States in the order of the flow: by the potential h whose differences h_b - h_a fit the net flux best.

    Weighted by the size of the flux, so that pairs that exchange nothing say nothing.
    """
    weight = np.abs(flux)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    potential = np.linalg.pinv(laplacian, hermitian=True) @ -(weight * np.sign(flux)).sum(axis=1)
    return np.argsort(potential.round(9), kind="stable")


def _limit(transition: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where `mass` goes; half of it waits at each step, so that a chain that alternates has a limit too."""
    power = (transition + np.eye(len(transition))) / 2
    for _ in range(40):
        power = power @ power
        power /= power.sum(axis=1, keepdims=True)
    limit: NDArray[np.float64] = mass @ power
    return limit / limit.sum()


def _roles(flux: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[Role, ...]:
    forward = np.maximum(flux, 0)
    leaving, coming = forward.sum(axis=1), forward.sum(axis=0)
    through = leaving + coming
    edges = forward > np.maximum(_SMALL * np.minimum.outer(through, through), 0)
    reach = _reachable(edges)
    fork = [_forks(edges[a], reach) for a in range(len(mass))]
    roles: list[Role] = []
    for a in range(len(mass)):
        if reach[a, a]:
            roles.append("cycling")
        elif through[a] <= _STILL * mass[a] or leaving[a] <= _SMALL * through[a]:
            roles.append("terminal")
        elif coming[a] <= _SMALL * through[a]:
            roles.append("initial")
        else:
            roles.append("branching" if fork[a] else "transient")
    return tuple(roles)


def _reachable(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(m, m) whether a path of at least one edge leads from one state to another."""
    steps = np.isfinite(csgraph.shortest_path(edges.astype(float), unweighted=True))
    reach: NDArray[np.bool_] = (edges.astype(int) @ steps.astype(int)) > 0
    return reach


def _forks(targets: NDArray[np.bool_], reach: NDArray[np.bool_]) -> bool:
    fed = np.flatnonzero(targets)
    apart = ~(reach | reach.T)[np.ix_(fed, fed)]
    return bool(np.triu(apart, 1).any())
