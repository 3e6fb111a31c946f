"""Moves that the scBIOT paper proposes: weights, bridge score, transport and sharpening, Eqs 1-12."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.integration.shared_centers._diagnostics import neighbor_entropy
from muport.ot import cost_matrix, sinkhorn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "REG",
    "REG_M",
    "compute_bridge_scores",
    "compute_damping",
    "compute_density_weights",
    "interpolate_limits",
    "compute_label_shift",
    "compute_sharpening_shift",
    "transport_to_barycenters",
]

REG = 0.028  # epsilon of Eq. 3
REG_M = 0.40  # lambda of Eq. 3
_LEAST_WEIGHT = np.float32(1e-3)  # of a duplicate, relative to the mean weight
_GATE_WIDTH = 0.8  # of the logistic function in Eq. 10

type Floats = NDArray[np.float32]
type Indices = NDArray[np.int64]


def compute_density_weights(spacing: Floats) -> Floats:
    """(n,) weights w of Eq. 1 from the mean distances (n,) to the neighbors; duplicates get a small weight."""
    mean = spacing.mean()
    return np.maximum(spacing / mean, _LEAST_WEIGHT) if mean > 0 else np.ones_like(spacing)


def compute_bridge_scores(neighbor_groups: Indices, spacing: Floats, n_groups: int) -> tuple[Floats, Floats]:
    """Compute the bridge score beta (Eqs 8-9) and the sparsity rho in [0, 1] of every point.

    - `neighbor_groups`: (n, k) groups of the neighbors of each point.
    - `spacing`: (n,) mean distance to the neighbors.
    """
    low, span = spacing.min(), np.ptp(spacing)
    sparsity = (spacing - low) / span if span > 0 else np.zeros_like(spacing)
    entropy = neighbor_entropy(neighbor_groups, n_groups) / np.log(max(n_groups, 2))
    beta = 0.5 * entropy + 0.5 * sparsity
    return beta.astype(np.float32), sparsity.astype(np.float32)


def interpolate_limits(bulk: float, bridge: float, beta: Floats) -> Floats:
    """(n,) limits between those of the bulk (beta 0) and of bridges (beta 1); an infinite limit stays infinite."""
    return np.full_like(beta, bulk) if np.isinf(bulk) else (bulk + (bridge - bulk) * beta).astype(np.float32)


def transport_to_barycenters(
    prototypes: Sequence[Floats], reference: Floats, quantile: float, *, max_iter: int, tol: float, device: str
) -> tuple[list[Floats], float, bool]:
    """Compute barycenters (Eq. 5) of the unbalanced transport (Eqs 2-4) of the prototypes onto the reference.

    The paper forbids costs above a quantile. Here they are clipped to it, and the problem is solved in the log domain,
    so that no prototype loses all its partners.

    - `prototypes`: (K_b, d) for each group; masses are uniform.
    - `reference`: (K, d) reference prototypes.
    - `quantile`: Quantile at which the cost is clipped.
    - `max_iter`, `tol`: Maximum number of Sinkhorn iterations, and the change of a potential divided by epsilon at
      which they stop.

    Returns one (K_b, d) array per group, the mean transported mass, and whether every problem converged.
    """
    target = torch.from_numpy(reference).to(device)
    size = [len(positions) for positions in prototypes]
    cost = torch.zeros(len(size), max(size), len(reference), device=device)
    mass = torch.zeros(cost.shape[:2], device=device)
    for b, positions in enumerate(prototypes):
        points = torch.from_numpy(positions).to(device)
        cost[b, : size[b]] = cost_matrix(points, target, scale="std", clip_quantile=quantile)
        mass[b, : size[b]] = 1 / size[b]
    column = torch.full((len(size), len(reference)), 1 / len(reference), device=device)
    plan = sinkhorn(
        cost, mass, column, REG, reg_m=(REG_M, REG_M), reg_type="entropy", eps_scaling=0.5, max_iter=max_iter, tol=tol
    ).to_result()
    image = plan.barycentric_projection(target).cpu().numpy()  # type: ignore[union-attr]
    return [image[b, :n] for b, n in enumerate(size)], float(plan.mass.mean()), bool(plan.converged.all())


def compute_damping(delta: Floats) -> Floats:
    """(P,) fraction s of the displacements (P, d) that is applied, Eq. 6, with their root mean square as sigma.

    The paper divides by the standard deviation about the mean. It is 0 if all prototypes move alike, which would stop
    the moves with the strongest support. The root mean square is not.
    """
    length = np.linalg.norm(delta, axis=1)
    sigma = np.sqrt(np.square(length).mean())
    fraction: Floats = 1 / (1 + length / max(sigma, np.finfo(np.float32).tiny))
    return fraction


def compute_sharpening_shift(x: Floats, centers: Floats, pull: float, push: float) -> Floats:
    """(n, d) displacement q toward the nearest center and away from the second nearest, Eqs 10-11."""
    squared = np.square(x).sum(axis=1)[:, None] - 2 * x @ centers.T + np.square(centers).sum(axis=1)
    if len(centers) == 1:
        return np.float32(pull) * (centers - x)
    near = np.argpartition(squared, 1, axis=1)[:, :2]
    distance = np.linalg.norm(x[:, None] - centers[near], axis=2)
    swap = np.argsort(distance, axis=1, kind="stable")
    near, distance = np.take_along_axis(near, swap, 1), np.take_along_axis(distance, swap, 1)
    median = max(float(np.median(distance[:, 1])), np.finfo(np.float32).tiny)
    margin = (distance[:, 1] - distance[:, 0]) / median
    gate = 1 / (1 + np.exp((margin - 1) / _GATE_WIDTH))
    shift: Floats = (pull * (centers[near[:, 0]] - x) + push * gate[:, None] * (x - centers[near[:, 1]])).astype(
        x.dtype
    )
    return shift


def compute_label_shift(x: Floats, label: Indices, mass: Floats, beta: Floats, pull: float, push: float) -> Floats:
    """(n, d) pull of labeled points toward the mean of their class, and push away from the nearest other class.

    The paper has no formula for labels. This is the formula of its code: pull (mean - x) + push (x - other), times
    1 - 0.2 beta.
    """
    shift = np.zeros_like(x)
    known = np.flatnonzero(label >= 0)
    if not len(known):
        return shift
    classes, code = np.unique(label[known], return_inverse=True)
    total = np.zeros((len(classes), x.shape[1]))
    np.add.at(total, code, mass[known, None] * x[known])
    mean = (total / np.bincount(code, mass[known])[:, None]).astype(np.float32)
    of_known = pull * (mean[code] - x[known])
    if len(classes) > 1:
        squared = np.square(mean).sum(axis=1) - 2 * x[known] @ mean.T
        squared[np.arange(len(known)), code] = np.inf
        of_known += push * (x[known] - mean[squared.argmin(axis=1)])
    shift[known] = of_known * (1 - 0.2 * beta[known, None])
    return shift
