"""Transport of every group's prototypes onto centres that all groups share."""

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

__all__ = ["Coupling", "Padding", "fit_coupling", "normalize_mass", "initialize_centers"]

EPSILON = 0.1  # regularisation, in units of 2 - 2 cos


@dataclass(frozen=True, eq=False)
class Coupling:
    """Semi-relaxed transport onto shared centres.

    Attributes
    ----------
    centers
        (K, d) float32 unit vectors.
    plan
        (P, K) float32: the share of each prototype that goes to each centre; rows sum to 1.
    weight
        (K,) float32 mass of the centres, summing to 1.
    log_scale
        (B, K) float32 column potentials over epsilon, from which the next solution starts.
    converged
        Whether every group's transport did.
    """

    centers: NDArray[np.float32]
    plan: NDArray[np.float32]
    weight: NDArray[np.float32]
    log_scale: NDArray[np.float32]
    converged: bool


class Padding:
    """Scatter rows sorted by group into one padded (B, longest, ...) tensor, and back."""

    def __init__(self, prototypes: Prototypes) -> None:
        self.group = prototypes.group
        self.slot = np.arange(len(self.group)) - prototypes.start[self.group]
        self.shape = (prototypes.n_groups, int(np.diff(prototypes.start).max()))

    def pad(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P, ...) -> (B, longest, ...), zeros where a group is shorter."""
        out = np.zeros(self.shape + values.shape[1:], dtype=values.dtype)
        out[self.group, self.slot] = values
        return out


def normalize_mass(prototypes: Prototypes) -> NDArray[np.float32]:
    """(P,) mass of each prototype as a share of its group's."""
    total = np.add.reduceat(prototypes.mass, prototypes.start[:-1])
    return (prototypes.mass / total[prototypes.group]).astype(np.float32)


def initialize_centers(prototypes: Prototypes, number: int, seed: int) -> NDArray[np.float32]:
    """(K, d) unit centres of the prototypes' directions, every group counting the same."""
    found = kmeans(
        unit_rows(prototypes.position), number, weights=normalize_mass(prototypes), n_iter=10, random_state=seed
    )
    return unit_rows(found.centers)


def fit_coupling(
    position: NDArray[np.float32],
    prototypes: Prototypes,
    previous: Coupling,
    theta: float,
    *,
    penalty: NDArray[np.float32] | None = None,
    frozen: bool = False,
    max_iter: int = 200,
    tol: float = 1e-3,
    device: str = "cpu",
) -> Coupling:
    """Transport the groups' prototypes onto the shared centres, then move the centres.

    For each group, with masses a and centre masses m (Eqs 2-5; hard rows, columns relaxed by lambda = theta epsilon)::

        min_T <C, T> + epsilon KL(T | a m') + lambda KL(T' 1 | m),   T 1 = a,   C_pk = 2 - 2 cos(p, y_k)

    A type that a batch lacks costs it only lambda, so theta says how strongly absent types are dragged along.

    Parameters
    ----------
    position
        (P, d) where the prototypes are now.
    prototypes
        Their masses and groups.
    previous
        Centres, masses and potentials to start from.
    theta
        lambda / epsilon.
    penalty
        (P, K) added to the cost.
    frozen
        Keep centres and their masses: new groups are transported onto fitted centres.
    max_iter, tol
        Sweeps, and the largest change of a potential over epsilon at which they stop.
    device
        Torch device of the transport.
    """
    direction = unit_rows(position)
    cost = 2 - 2 * direction @ previous.centers.T
    if penalty is not None:
        cost += penalty
    padding, mass = Padding(prototypes), normalize_mass(prototypes)
    found = sinkhorn(
        torch.from_numpy(padding.pad(cost)).to(device),
        torch.from_numpy(padding.pad(mass)).to(device),
        torch.from_numpy(previous.weight[None]).to(device),
        EPSILON,
        tau_b=theta / (1 + theta),
        init=(
            torch.zeros(padding.shape, device=device),
            torch.from_numpy(previous.log_scale * EPSILON).to(device),
        ),
        max_iter=max_iter,
        tol=tol,
    )
    log_scale = (found.g / EPSILON).cpu().numpy()
    # The row constraint is exact whatever the stopping: a row-wise softmax of the column potentials.
    plan = log_scale[padding.group] - cost / EPSILON + np.log(previous.weight)
    plan = np.exp(plan - plan.max(axis=1, keepdims=True))
    plan /= plan.sum(axis=1, keepdims=True)
    centers, weight = previous.centers, previous.weight
    if not frozen:
        flow = mass[:, None] * plan
        weight = np.maximum(flow.sum(axis=0) / prototypes.n_groups, 1e-8)
        weight /= weight.sum()
        centers = unit_rows(flow.T @ direction)
    return Coupling(centers, plan, weight, log_scale, bool(found.converged.all()))
