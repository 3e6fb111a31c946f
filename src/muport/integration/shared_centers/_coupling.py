"""Transport of the prototypes of every group onto centers that all groups share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from muport._arrays import unit_rows
from muport.neighbors import kmeans
from muport.ot import sinkhorn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes

__all__ = [
    "Coupling",
    "CouplingSettings",
    "fit_coupling",
    "initialize_centers",
    "initialize_coupling",
    "normalize_mass",
]

EPSILON = 0.1  # entropic regularization, in units of the cost 2 - 2 cos
_MOST_CENTERS = 100
_CELLS_PER_CENTER = 30
_COSTS_PER_CHUNK = 2**18  # solved together: more would take more memory than the cells themselves


@dataclass(frozen=True, eq=False)
class Coupling:
    """Semi-relaxed transport onto shared centers.

    - `centers`: (K, d) float32 unit vectors.
    - `plan`: (P, K) float32: the fraction of each prototype that is transported to each center; rows sum to 1.
    - `weight`: (K,) float32 mass of the centers; the sum is 1.
    - `log_scale`: (B, K) float32 column potentials divided by epsilon, from which the next solution starts.
    - `converged`: Whether the transport of every group converged.
    """

    centers: NDArray[np.float32]
    plan: NDArray[np.float32]
    weight: NDArray[np.float32]
    log_scale: NDArray[np.float32]
    converged: bool


@dataclass(frozen=True)
class CouplingSettings:
    """How one transport is solved.

    - `theta`: Marginal relaxation divided by regularization, lambda / epsilon.
    - `frozen`: Keep the centers and their masses: new groups are transported onto fitted centers.
    - `max_iter`: Maximum number of Sinkhorn iterations.
    - `tol`: Largest change of a potential, divided by epsilon, at which the iterations stop.
    - `device`: Torch device of the transport.
    """

    theta: float
    frozen: bool = False
    max_iter: int = 200
    tol: float = 1e-3
    device: str = "cpu"


def normalize_mass(prototypes: Prototypes) -> NDArray[np.float32]:
    """Return the (P,) mass of each prototype as a fraction of the mass of its group."""
    total = np.add.reduceat(prototypes.mass, prototypes.start[:-1])
    return (prototypes.mass / total[prototypes.group]).astype(np.float32)


def initialize_centers(prototypes: Prototypes, number: int, seed: int) -> NDArray[np.float32]:
    """Cluster the directions of the prototypes, with the same weight for every group; returns (K, d) unit vectors."""
    mass = normalize_mass(prototypes)
    clusters = kmeans(unit_rows(prototypes.position), number, weights=mass, n_iter=10, random_state=seed)
    return unit_rows(clusters.centers)


def initialize_coupling(prototypes: Prototypes, n_cells: int, resolution: float, seed: int) -> Coupling:
    """Return the centers from which the iterations start, with equal masses and no plan yet."""
    number = round(min(_MOST_CENTERS, max(2.0, n_cells / _CELLS_PER_CENTER)) * resolution)
    centers = initialize_centers(prototypes, int(np.clip(number, 1, len(prototypes.mass))), seed)
    k = len(centers)
    no_plan, no_potentials = np.empty((0, 0), np.float32), np.zeros((prototypes.n_groups, k), np.float32)
    return Coupling(centers, no_plan, np.full(k, 1 / k, np.float32), no_potentials, True)


def fit_coupling(
    position: NDArray[np.float32],
    prototypes: Prototypes,
    previous: Coupling,
    settings: CouplingSettings,
    penalty: NDArray[np.float32] | None = None,
) -> Coupling:
    """Transport the prototypes of the groups onto the shared centers, then update the centers.

    For each group, with masses a and center masses m (Eqs 2-5; hard rows, columns relaxed by lambda = theta epsilon)::

        min_T <C, T> + epsilon KL(T | a m') + lambda KL(T' 1 | m),   T 1 = a,   C_pk = 2 - 2 cos(p, y_k)

    A type that a batch lacks costs it only lambda, so theta sets how strongly groups are forced onto absent types.

    - `position`: (P, d) current positions of the prototypes.
    - `prototypes`: Their masses and groups.
    - `previous`: Centers, masses and potentials to start from.
    - `penalty`: (P, K) array that is added to the cost.
    """
    direction = unit_rows(position)
    mass = normalize_mass(prototypes)
    log_scale, converged = _solve_groups(direction, mass, prototypes, previous, settings, penalty)
    # The rows are hard constraints. A softmax of the column potentials meets them exactly, converged or not. Arrays of
    # this size are the largest of a fit of many small groups, so it is computed in place.
    plan = _compute_cost(direction, previous.centers, penalty)
    plan /= -EPSILON
    plan += log_scale[prototypes.group]
    plan += np.log(previous.weight)
    plan -= plan.max(axis=1, keepdims=True)
    np.exp(plan, out=plan)
    plan /= plan.sum(axis=1, keepdims=True)
    centers, weight = previous.centers, previous.weight
    if not settings.frozen:
        flow: NDArray[np.float32] = mass[:, None] * plan
        weight = np.maximum(flow.sum(axis=0) / prototypes.n_groups, 1e-8)
        weight /= weight.sum()
        centers = unit_rows(flow.T @ direction)
    return Coupling(centers, plan, weight, log_scale, converged)


def _compute_cost(
    direction: NDArray[np.float32], centers: NDArray[np.float32], penalty: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """(..., K) costs 2 - 2 cos of unit vectors (..., d), plus the penalty (..., K)."""
    cost: NDArray[np.float32] = direction @ (-2 * centers.T)
    cost += 2
    if penalty is not None:
        cost += penalty
    return cost


def _solve_groups(
    direction: NDArray[np.float32],
    mass: NDArray[np.float32],
    prototypes: Prototypes,
    previous: Coupling,
    settings: CouplingSettings,
    penalty: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], bool]:
    """Solve the transport of each group; returns (B, K) column potentials over epsilon, and whether all converged."""
    device = settings.device
    padded_penalty = None if penalty is None else _pad_groups(penalty, prototypes)
    cost = _compute_cost(_pad_groups(direction, prototypes), previous.centers, padded_penalty)
    padded_mass = _pad_groups(mass, prototypes)
    solution = sinkhorn(
        torch.from_numpy(cost).to(device),
        torch.from_numpy(padded_mass).to(device),
        torch.from_numpy(previous.weight[None]).to(device),
        EPSILON,
        reg_m=(np.inf, settings.theta * EPSILON),
        init=(torch.zeros(padded_mass.shape, device=device), torch.from_numpy(previous.log_scale * EPSILON).to(device)),
        max_iter=settings.max_iter,
        tol=settings.tol,
        chunk_size=max(1, _COSTS_PER_CHUNK // cost[0].size) if device == "cpu" else None,
    )
    return (solution.g / EPSILON).cpu().numpy(), bool(solution.converged.all())


def _pad_groups(values: NDArray[np.float32], prototypes: Prototypes) -> NDArray[np.float32]:
    """(P, ...) -> (B, P of the largest group, ...), with zeros after the prototypes of a smaller group."""
    group = prototypes.group
    padded = np.zeros((prototypes.n_groups, int(np.diff(prototypes.start).max()), *values.shape[1:]), values.dtype)
    padded[group, np.arange(len(group)) - prototypes.start[group]] = values
    return padded
