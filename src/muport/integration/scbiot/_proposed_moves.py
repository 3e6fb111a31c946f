"""Where the scBIOT paper wants to move a cell: weights, bridge score, transport and sharpening, Eqs 1-12."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from muport.integration.shared_centers._diagnostics import neighbor_entropy
from muport.ot import OTResult, cost_matrix, sinkhorn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "REG",
    "REG_M",
    "bridge_score",
    "damping",
    "density_weights",
    "interpolated",
    "label_shift",
    "sharpening",
    "transport",
]

REG = 0.028  # epsilon of Eq. 3
REG_M = 0.40  # lambda of Eq. 3
_LEAST_WEIGHT = np.float32(1e-3)
_WIDTH = 0.8  # of the logistic in Eq. 10

type Floats = NDArray[np.float32]
type Indices = NDArray[np.int64]


def density_weights(spacing: Floats) -> Floats:
    """(n,) weights w of Eq. 1 from the mean distances (n,) to the neighbours; duplicates keep a little weight."""
    mean = spacing.mean()
    return np.maximum(spacing / mean, _LEAST_WEIGHT) if mean > 0 else np.ones_like(spacing)


def bridge_score(neighbor_groups: Indices, spacing: Floats, n_groups: int) -> tuple[Floats, Floats]:
    """Bridge score beta (Eqs 8-9) and the sparsity rho in [0, 1] of every point.

    Parameters
    ----------
    neighbor_groups
        (n, k) groups of each point's neighbours.
    spacing
        (n,) mean distance to them.
    n_groups
        Number of groups, B.
    """
    low, span = spacing.min(), np.ptp(spacing)
    sparsity = (spacing - low) / span if span > 0 else np.zeros_like(spacing)
    entropy = neighbor_entropy(neighbor_groups, n_groups) / np.log(max(n_groups, 2))
    beta = 0.5 * entropy + 0.5 * sparsity
    return beta.astype(np.float32), sparsity.astype(np.float32)


def interpolated(bulk: float, bridge: float, beta: Floats) -> Floats:
    """(n,) limits between those of the bulk (beta 0) and of bridges (beta 1); an infinite one stays so."""
    return np.full_like(beta, bulk) if np.isinf(bulk) else (bulk + (bridge - bulk) * beta).astype(np.float32)


def transport(
    prototypes: Sequence[Floats], reference: Floats, quantile: float, *, max_iter: int, tol: float, device: str
) -> tuple[list[Floats], float, bool]:
    """Barycentres (Eq. 5) of the unbalanced transport (Eqs 2-4) of each group's prototypes onto the reference.

    The cost is flattened above its quantile, not forbidden there, and the problem is solved in the log domain, so that
    no prototype loses all its partners.

    Parameters
    ----------
    prototypes
        (K_b, d) for each group; masses are uniform.
    reference
        (K, d) reference prototypes.
    quantile
        Where the cost is clipped.
    max_iter, tol
        Sweeps of the solver, and the change of a potential over epsilon at which they stop.
    device
        Torch device.

    Returns
    -------
    One (K_b, d) array per group, the mean transported mass, and whether every problem converged.
    """
    target = torch.from_numpy(reference).to(device)
    size = [len(one) for one in prototypes]
    cost = torch.zeros(len(size), max(size), len(reference), device=device)
    mass = torch.zeros(cost.shape[:2], device=device)
    for b, one in enumerate(prototypes):
        points = torch.from_numpy(one).to(device)
        cost[b, : size[b]] = cost_matrix(points, target, scale="std", clip_quantile=quantile)
        mass[b, : size[b]] = 1 / size[b]
    column = torch.full((len(size), len(reference)), 1 / len(reference), device=device)
    tau = REG_M / (REG_M + REG)
    found = sinkhorn(cost, mass, column, REG, tau, tau, reg_type="entropy", eps_scaling=0.5, max_iter=max_iter, tol=tol)
    reg = torch.full_like(mass[:, 0], REG)
    plan = OTResult(mass, column, cost, found.n_iter, found.converged, found.f, found.g, reg, (REG_M, REG_M), "entropy")
    image = plan.barycentric_projection(target).cpu().numpy()  # type: ignore[union-attr]
    return [image[b, :n] for b, n in enumerate(size)], float(plan.mass.mean()), bool(found.converged.all())


def damping(delta: Floats) -> Floats:
    """(P,) share s of the displacements (P, d) that is trusted, Eq. 6, with their root mean square as sigma.

    The paper divides by the standard deviation about the mean.  That is zero when all prototypes agree, and would stop
    exactly the moves that are surest; about zero it never vanishes.
    """
    length = np.linalg.norm(delta, axis=1)
    sigma = np.sqrt(np.square(length).mean())
    share: Floats = 1 / (1 + length / max(sigma, np.finfo(np.float32).tiny))
    return share


def sharpening(x: Floats, centers: Floats, pull: float, push: float) -> Floats:
    """(n, d) displacement q toward the nearest centre and away from the second nearest, Eqs 10-11."""
    squared = np.square(x).sum(axis=1)[:, None] - 2 * x @ centers.T + np.square(centers).sum(axis=1)
    if len(centers) == 1:
        return np.float32(pull) * (centers - x)
    near = np.argpartition(squared, 1, axis=1)[:, :2]
    distance = np.linalg.norm(x[:, None] - centers[near], axis=2)
    swap = np.argsort(distance, axis=1, kind="stable")
    near, distance = np.take_along_axis(near, swap, 1), np.take_along_axis(distance, swap, 1)
    typical = max(float(np.median(distance[:, 1])), np.finfo(np.float32).tiny)
    margin = (distance[:, 1] - distance[:, 0]) / typical
    gate = 1 / (1 + np.exp((margin - 1) / _WIDTH))
    shift: Floats = (pull * (centers[near[:, 0]] - x) + push * gate[:, None] * (x - centers[near[:, 1]])).astype(
        x.dtype
    )
    return shift


def label_shift(x: Floats, label: Indices, mass: Floats, beta: Floats, pull: float, push: float) -> Floats:
    """(n, d) pull of labelled points to the mean of their class, and repulsion from the nearest other class.

    The paper names no formula for labels; these are those of its code: pull (mean - x) + push (x - other), times
    1 - 0.2 beta.
    """
    out = np.zeros_like(x)
    known = np.flatnonzero(label >= 0)
    if not len(known):
        return out
    classes, code = np.unique(label[known], return_inverse=True)
    total = np.zeros((len(classes), x.shape[1]))
    np.add.at(total, code, mass[known, None] * x[known])
    mean = (total / np.bincount(code, mass[known])[:, None]).astype(np.float32)
    shift = pull * (mean[code] - x[known])
    if len(classes) > 1:
        squared = np.square(mean).sum(axis=1) - 2 * x[known] @ mean.T
        squared[np.arange(len(known)), code] = np.inf
        shift += push * (x[known] - mean[squared.argmin(axis=1)])
    out[known] = shift * (1 - 0.2 * beta[known, None])
    return out
