"""From a coupling to displacements: a translation of every prototype and a change of shape of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.shared_centers._coupling import Coupling

__all__ = [
    "CenterSummary",
    "compute_bures_maps",
    "summarize_centers",
    "compute_residual_covariances",
    "compute_anchors",
    "shrink_covariances",
    "estimate_translation",
    "estimate_trust",
]

_TINY = 1e-12
_RIDGE = 0.1  # of the mean variance, added to covariances before they are inverted
_MOST_WEIGHT = 5.0  # of a cluster that a group has few cells of


@dataclass(frozen=True, eq=False)
class CenterSummary:
    """What the groups hold at each centre.

    Attributes
    ----------
    count
        (B, K) cells of group b at centre k.
    mean
        (B, K, d) their mean.
    target
        (K, d) where the centre's cells are to meet.
    mean_proportions
        (K,) mean over the groups of the share of their cells at the centre.
    """

    count: NDArray[np.float32]
    mean: NDArray[np.float32]
    target: NDArray[np.float32]
    mean_proportions: NDArray[np.float32]

    @property
    def proportions(self) -> NDArray[np.float32]:
        """(B, K) share of each group's cells at each centre."""
        return _part(self.count)


def summarize_centers(
    prototypes: Prototypes, coupling: Coupling, reference: tuple[int, ...] = (), frozen: CenterSummary | None = None
) -> CenterSummary:
    """Cells and means of every (group, centre); targets are weighted means over the groups.

    Parameters
    ----------
    prototypes
        Original positions and masses.
    coupling
        Where they go.
    reference
        Groups whose own means are the targets wherever they have cells.
    frozen
        Fitted clusters whose targets and usual shares stand: for new groups.
    """
    flow = prototypes.mass[:, None] * coupling.plan
    count = np.add.reduceat(flow, prototypes.start[:-1], axis=0)
    total = np.stack(
        [flow[rows].T @ prototypes.position[rows] for rows in map(prototypes.of, range(prototypes.n_groups))]
    )
    mean = total / np.maximum(count, _TINY)[..., None]
    if frozen is not None:
        return CenterSummary(count, mean.astype(np.float32), frozen.target, frozen.mean_proportions)
    sure = count / (count + 1)
    target = np.einsum("bk,bkd->kd", sure, mean) / np.maximum(sure.sum(axis=0), _TINY)[:, None]
    if reference:
        chosen = list(reference)
        held = count[chosen].sum(axis=0)
        known = (held / (held + 1))[:, None]
        target = known * total[chosen].sum(axis=0) / np.maximum(held, _TINY)[:, None] + (1 - known) * target
    usual = _part(count).mean(axis=0)
    return CenterSummary(count, mean.astype(np.float32), target.astype(np.float32), usual.astype(np.float32))


def _part(count: NDArray[np.float32]) -> NDArray[np.float32]:
    total = count.sum(axis=1, keepdims=True)
    return np.divide(count, total, out=np.zeros_like(count), where=total > 0)


def _trust(clusters: CenterSummary, caution: float, new: bool) -> NDArray[np.float32]:
    """(B, K) how far a group's cells at a centre have partners in the others: 0 where a type is missing.

    With a the ratio, at most 1, of the group's share of cells there and the others', trust is min(1, a / caution).
    """
    part, groups = clusters.proportions, len(clusters.count)
    if new or groups == 1:
        others = np.broadcast_to(clusters.mean_proportions, part.shape)
    else:
        others = np.maximum((groups * clusters.mean_proportions - part) / (groups - 1), 0).astype(np.float32)
    most = np.maximum(part, others)
    if caution == 0:
        return np.ones_like(part)
    ratio = np.divide(np.minimum(part, others), most, out=np.zeros_like(part), where=most > 0)
    return np.minimum(ratio / np.float32(caution), 1)


def estimate_trust(
    prototypes: Prototypes, coupling: Coupling, clusters: CenterSummary, caution: float, *, new: bool = False
) -> NDArray[np.float32]:
    """(P,) how far the cells of each prototype have partners in other groups, 0..1.

    Changes of shape and refinements are scaled by it: where a type has no partner, nothing says what it should look
    like.
    """
    trust: NDArray[np.float32] = np.einsum("pk,pk->p", coupling.plan, _trust(clusters, caution, new)[prototypes.group])
    return trust


def estimate_translation(
    prototypes: Prototypes, coupling: Coupling, clusters: CenterSummary, caution: float, *, new: bool = False
) -> NDArray[np.float32]:
    """(P, d) displacement to subtract from each prototype (the barycentric move of Eqs 5-7, shrunk where it is unsure).

    The displacement of a centre, mean - target, is trusted by c / (c + 1), for c cells, times its trust. What is not
    trusted is replaced by the group's mean displacement, so that a type without a partner moves with its batch.

    Parameters
    ----------
    prototypes, coupling, clusters
        The transport.
    caution
        Share of cells, relative to the other groups', below which a centre is not fully trusted; 0 trusts every one.
    new
        The groups are not among those the usual shares were taken over.
    """
    trust = _trust(clusters, caution, new)
    delta = clusters.mean - clusters.target
    weight = trust * clusters.count
    common = np.einsum("bk,bkd->bd", weight, delta) / np.maximum(weight.sum(axis=1), _TINY)[:, None]
    kappa = (clusters.count / (clusters.count + 1) * trust)[..., None]
    delta = kappa * delta + (1 - kappa) * common[:, None]
    moves = [coupling.plan[prototypes.of(b)] @ delta[b] for b in range(prototypes.n_groups)]
    return np.concatenate(moves).astype(np.float32)


def compute_residual_covariances(
    x: NDArray[np.float32],
    start: NDArray[np.int64],
    nearest: NDArray[np.int64],
    anchor: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted covariance of each group's residuals about the anchors of its prototypes.

    Parameters
    ----------
    x
        (N, d) cells sorted by group.
    start
        (B + 1,) bounds of the groups.
    nearest
        (N,) prototype of each cell.
    anchor
        (P, d) mean of the (group, centre) a prototype belongs to.
    weight
        (P,) weight of a prototype's cells.

    Returns
    -------
    (B, d, d) covariances and (B,) total weights.
    """
    d = x.shape[1]
    covariance, total = np.zeros((len(start) - 1, d, d)), np.zeros(len(start) - 1)
    block = 2**16
    for b, (begin, end) in enumerate(zip(start[:-1], start[1:], strict=True)):
        for low in range(begin, end, block):
            rows = slice(low, min(low + block, end))
            residual, w = x[rows] - anchor[nearest[rows]], weight[nearest[rows]]
            covariance[b] += (residual * w[:, None]).T @ residual
            total[b] += w.sum(dtype=np.float64)
        covariance[b] /= max(total[b], _TINY)
    return covariance, total


def compute_anchors(
    prototypes: Prototypes, coupling: Coupling, clusters: CenterSummary, *, new: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P, d) mean of the prototypes of the same group and main centre, and (P,) weight that balances the centres.

    The weight makes every group count each centre as the geometric mean over groups does, so that a difference in
    composition is not taken for a difference in shape; it vanishes where a group lacks the type.
    """
    main = coupling.plan.argmax(axis=1)
    n_centers = coupling.plan.shape[1]
    key = prototypes.group * n_centers + main
    _, inverse = np.unique(key, return_inverse=True)
    mass = np.bincount(inverse, prototypes.mass)
    total = np.zeros((len(mass), prototypes.position.shape[1]))
    np.add.at(total, inverse, prototypes.mass[:, None] * prototypes.position)
    part = clusters.proportions
    usual = clusters.mean_proportions if new else np.exp(np.log(np.maximum(part, _TINY)).mean(axis=0))
    weight = np.clip(usual / np.maximum(part, _TINY), 0, _MOST_WEIGHT)[prototypes.group, main]
    return (total / mass[:, None])[inverse].astype(np.float32), weight.astype(np.float32)


def shrink_covariances(
    covariance: NDArray[np.float64], total: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariances (B, d, d) pulled toward `target` (d, d) with d pseudo-counts."""
    d = covariance.shape[-1]
    n = total[:, None, None]
    out: NDArray[np.float64] = (n * covariance + d * target) / (n + d)
    return out


def compute_bures_maps(covariance: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float32]:
    """(B, d, d) A - I, with A the optimal transport map between centred Gaussians, A S A = target.

    A = S^-1/2 (S^1/2 target S^1/2)^1/2 S^-1/2; a ridge of a tenth of the mean variance is added to both.
    """
    d = target.shape[0]
    ridge = (_RIDGE * np.trace(target) / d + _TINY) * np.eye(d)
    values, vectors = np.linalg.eigh(covariance + ridge)
    values = np.maximum(values, _TINY)[:, None]
    transposed = vectors.swapaxes(-1, -2)
    root = (vectors * np.sqrt(values)) @ transposed
    inverse = (vectors / np.sqrt(values)) @ transposed
    inner, basis = np.linalg.eigh(root @ (target + ridge) @ root)
    middle = (basis * np.sqrt(np.maximum(inner, 0))[:, None]) @ basis.swapaxes(-1, -2)
    change: NDArray[np.float32] = (inverse @ middle @ inverse - np.eye(d)).astype(np.float32)
    return change
