"""Macrostates of the flow: soft groups of cells, the Markov chain and the directed graph between them, their roles.

:class:`MetaStates` holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

from muport._arrays import normalize_rows
from muport.neighbors import as_points, kmeans, knn
from muport.velocity.fates._transition_matrix import as_transition_matrix, in_kernel_order, self_tuned_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MetaStates", "Role", "meta_states"]

type Role = Literal["initial", "terminal", "branching", "cycling", "transient"]

_TINY = 1e-300
_CELLS_PER_MICROSTATE = 20
_MAX_MICROSTATES = 200
_MIN_CELLS = 5  # cells of a microstate
_KMEANS_CELLS = 256  # cells per microstate that k-means is fitted on
_NEAREST_MICROSTATES = 5  # microstates that the membership of a cell is averaged over
_MAX_MACROSTATES = 12
_MIN_RATE = 1e-6  # smaller rates count as equal: groups of cells that exchange none
_NOISE_FLUX = 0.1  # fraction of the net flux of a macrostate below which a flux is noise
_NO_FLUX = 1e-3  # net flux per cell and step below which nothing flows


@dataclass(frozen=True, eq=False)
class MetaStates:
    """Macrostates in the order of the flow, from its beginning to its end.

    Attributes
    ----------
    membership
        (n, m) soft membership of every cell, rows sum to 1; each macrostate is the main one of some cell.
    transition
        (m, m) transition matrix K between macrostates for one step of the kernel, rows sum to 1.
    stationary
        (m,) distribution of the cells after infinitely many steps of K.
    mass
        (m,) fraction of the cells.
    flux
        (m, m) directed graph, antisymmetric: ``flux[a, b] > 0`` is the net fraction of cells that moves from a to b in
        a step.
    roles
        (m,) names: initial, terminal, branching, cycling or transient.
    singular_values
        Of the transitions between microstates, largest first.
    vamp2
        VAMP-2 score of the kept functions, the sum of their squared singular values; at most m.
    names
        (n,) names of the cells, if they are known.
    """

    membership: NDArray[np.float64]
    transition: NDArray[np.float64]
    stationary: NDArray[np.float64]
    mass: NDArray[np.float64]
    flux: NDArray[np.float64]
    roles: tuple[Role, ...]
    singular_values: NDArray[np.float64]
    vamp2: float
    names: NDArray[Any] | None = None

    def __repr__(self) -> str:
        """Describe the macrostates in a few lines."""
        lines = [f"MetaStates: {len(self.mass)} macrostates of {len(self.membership)} cells, VAMP-2 {self.vamp2:.2f}"]
        for i, (role, mass) in enumerate(zip(self.roles, self.mass, strict=True)):
            targets = [f"{j} ({self.flux[i, j]:.2g})" for j in np.argsort(-self.flux[i]) if self.flux[i, j] > 0][:3]
            lines.append(f"  {i}: {role}, {mass:.0%} of the cells" + (f", to {', '.join(targets)}" if targets else ""))
        return "\n".join(lines)


def meta_states(
    kernel: Any, x: Any, n_states: int | None = None, *, n_microstates: int | None = None, random_state: int = 0
) -> MetaStates:
    r"""Coarse-grain a Markov chain of cells into a few soft macrostates, with a role for each.

    1. Microstates are k-means clusters of ``x``. C01 is the fraction of cells that moves from one microstate to another
       in a step; C00 and C11 are the diagonal matrices of its row and column sums.
    2. The singular functions of C00^-1/2 C01 C11^-1/2 maximize the VAMP-2 score (Wu and Noé, 2020, J. Nonlinear Sci.
       30, 23). With rates r_k = -log s_k and r_1 = 0, the number of slow functions is the k <= 11 of the largest ratio
       r_(k+1) / r_k. This number is one for each end of the data (two for a line, A for a star of A arms); ``n_states``
       is one more, so that a branching point can be a macrostate of its own.
    3. Memberships come from the corners of the simplex that the functions span. Each corner is the point farthest from
       the corners before it (inner simplex algorithm: Weber and Kube, 2005), and negative memberships are set to 0. The
       membership of a cell is a weighted mean over its nearest microstates. A corner that is the main macrostate of no
       cell is dropped.
    4. With X the indicators of each cell's main macrostate and D = 1/n: the flux is F = X' D P X, the graph is its
       antisymmetric part F - F', and the transition matrix is K = (X' D X)^-1 F (Galerkin). Soft indicators would count
       the flux of neighboring macrostates, and let mass leave where the flow ends.

    Roles follow from the net flux. A flux between a and b is noise if it is below a tenth of the smaller net flux
    through a and b. A macrostate is

    - *cycling* if the other fluxes lead from it back to it;
    - *initial* if at most a tenth of its net flux comes in, *terminal* if at most a tenth goes out, or if hardly
      anything flows (less than 0.001 per cell and step);
    - *branching* if it feeds two macrostates, neither of which leads to the other;
    - *transient* otherwise.

    Parameters
    ----------
    kernel
        (n, n) row-stochastic matrix of :func:`cell_kernel`.
    x
        (n, d) cells.
    n_states
        Number of macrostates, at least 2; by the rule of point 2 if not given.
    n_microstates
        Number of microstates; by default one for every 20 cells, at most 200.
    random_state
        Seed of the k-means.

    Returns
    -------
    MetaStates
        Memberships, transition matrix, graph and roles.

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
    (x,) = in_kernel_order(kernel, x=x)
    matrix, points = as_transition_matrix(kernel), as_points(x, "x")
    if matrix.shape[0] != len(points):
        raise ValueError(f"kernel has {matrix.shape[0]} cells, but x has {len(points)}.")
    microstate, centers = _find_microstates(points, n_states, n_microstates, random_state)
    singular, functions = _decompose(_coarse_flow(matrix, microstate, len(centers)))
    m = _count_slow_functions(singular) + 1 if n_states is None else n_states
    if not 2 <= m <= len(centers):
        raise ValueError(
            f"n_states={m} is out of range: with {len(centers)} microstates it must be between 2 and {len(centers)}."
        )
    membership = _interpolate_membership(points, centers, _simplex_membership(functions[:, :m]))
    kept, main = np.unique(membership.argmax(axis=1), return_inverse=True)
    flow = _coarse_flow(matrix, main, len(kept))
    order = _order_by_flow(flow - flow.T)
    membership, flow = normalize_rows(membership[:, kept[order]]), flow[np.ix_(order, order)]
    mass = flow.sum(axis=1)
    transition, flux = flow / mass[:, None], flow - flow.T
    stationary = _limit_distribution(transition, mass)
    score = float(np.square(singular[:m]).sum())
    return MetaStates(membership, transition, stationary, mass, flux, _assign_roles(flux, mass), singular, score)


def _find_microstates(
    x: NDArray[np.float32], n_states: int | None, n_microstates: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Microstate (n,) of every cell, and centers (K, d) of the microstates."""
    n = len(x)
    least = 3 if n_states is None else n_states
    default = min(n, max(10, 2 * least, min(_MAX_MICROSTATES, n // _CELLS_PER_MICROSTATE)))
    count = default if n_microstates is None else n_microstates
    if not least <= count <= n:
        raise ValueError(
            f"{count} microstates are out of range: {n} cells and {least} states need between {least} and {n}."
        )
    clusters = kmeans(x, count, random_state=seed, max_points_per_center=_KMEANS_CELLS, n_threads=1)
    # a few scattered cells, to which hardly any cell moves, would give a slow function of their own
    large = np.bincount(clusters.labels) >= _MIN_CELLS
    if large.all() or large.sum() < 2 * least:
        return clusters.labels, clusters.centers
    centers = clusters.centers[large]
    return knn(centers, 1, query=x, n_threads=1).indices[:, 0], centers


def _coarse_flow(kernel: sp.csr_matrix, group: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """(K, K) C01, the fraction of cells that moves from one group of cells to another in a step."""
    n = len(group)
    member = sp.csr_matrix((np.full(n, 1.0), (np.arange(n), group)), shape=(n, count))
    flow: NDArray[np.float64] = np.asarray((member.T @ kernel @ member).todense()) / n
    return flow


def _decompose(flow: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values and left functions (K, K) of C00^-1/2 C01 C11^-1/2, the first of them constant."""
    before, after = flow.sum(axis=1), flow.sum(axis=0)
    scaled = flow / np.sqrt(np.maximum(np.outer(before, after), _TINY))
    left, values, _ = np.linalg.svd(scaled)
    return np.minimum(values, 1), left / np.sqrt(before)[:, None]


def _count_slow_functions(singular: NDArray[np.float64]) -> int:
    """Number of functions before the largest ratio of two successive rates; at least 2, at most 11."""
    rate = np.maximum(-np.log(np.maximum(singular[1:_MAX_MACROSTATES], 1e-12)), _MIN_RATE)
    if len(rate) < 2:
        return len(rate)
    return int(np.argmax(rate[1:] / rate[:-1])) + 2


def _simplex_membership(functions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, m) memberships: coordinates of each microstate between the corners of the simplex."""
    offset = functions - functions.mean(axis=0)
    corners = [int(np.square(offset).sum(axis=1).argmax())]
    offset = functions - functions[corners[0]]
    for _ in range(functions.shape[1] - 1):
        corners.append(int(np.square(offset).sum(axis=1).argmax()))
        edge = offset[corners[-1]]
        offset = offset - np.outer(offset @ edge, edge) / max(float(edge @ edge), _TINY)
    return normalize_rows(np.maximum(functions @ np.linalg.pinv(functions[corners]), 0))


def _interpolate_membership(
    x: NDArray[np.float32], centers: NDArray[np.float32], membership: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, m) weighted mean of the memberships of the nearest microstates."""
    neighbors = knn(centers, min(_NEAREST_MICROSTATES, len(centers)), query=x, n_threads=1)
    weights = normalize_rows(self_tuned_weights(neighbors.distances))
    mean = np.zeros((len(x), membership.shape[1]))
    for column, weight in zip(neighbors.indices.T, weights.T, strict=True):
        mean += weight[:, None] * membership[column]
    return mean


def _order_by_flow(flux: NDArray[np.float64]) -> NDArray[np.int64]:
    """Macrostates in the order of the flow: by the potential h whose differences h_b - h_a fit the net flux best.

    Each pair of macrostates has the weight of its flux, so that pairs without exchange have none.
    """
    weight = np.abs(flux)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    potential = np.linalg.pinv(laplacian, hermitian=True) @ -(weight * np.sign(flux)).sum(axis=1)
    return np.argsort(potential.round(9), kind="stable")


def _limit_distribution(transition: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distribution of `mass` after infinitely many steps; half of it stays in each, so that an alternation converges.

    Each squaring doubles the number of steps.
    """
    power = (transition + np.eye(len(transition))) / 2
    for _ in range(40):
        power = normalize_rows(power @ power)
    limit: NDArray[np.float64] = mass @ power
    return limit / limit.sum()


def _assign_roles(flux: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[Role, ...]:
    forward = np.maximum(flux, 0)
    outflow, inflow = forward.sum(axis=1), forward.sum(axis=0)
    throughput = outflow + inflow
    edges = forward > np.maximum(_NOISE_FLUX * np.minimum.outer(throughput, throughput), 0)
    reachable = _reachable(edges)
    roles: list[Role] = []
    for a in range(len(mass)):
        if reachable[a, a]:
            roles.append("cycling")
        elif throughput[a] <= _NO_FLUX * mass[a] or outflow[a] <= _NOISE_FLUX * throughput[a]:
            roles.append("terminal")
        elif inflow[a] <= _NOISE_FLUX * throughput[a]:
            roles.append("initial")
        else:
            roles.append("branching" if _is_branching(edges[a], reachable) else "transient")
    return tuple(roles)


def _reachable(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(m, m) whether a path of at least one edge leads from one macrostate to another."""
    steps = np.isfinite(csgraph.shortest_path(edges.astype(float), unweighted=True))
    reachable: NDArray[np.bool_] = (edges.astype(int) @ steps.astype(int)) > 0
    return reachable


def _is_branching(targets: NDArray[np.bool_], reachable: NDArray[np.bool_]) -> bool:
    """Whether two of the targets (m,) do not lead to each other."""
    fed = np.flatnonzero(targets)
    separate = ~(reachable | reachable.T)[np.ix_(fed, fed)]
    return bool(np.triu(separate, 1).any())
