"""From a coupling to displacements: a translation of every prototype and a change of shape of every group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from muport._parallel import parallel_map
from muport.integration.prototypes._prototypes import soft_assign

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.shared_centers._coupling import Coupling

__all__ = [
    "SMOOTHED_OVER",
    "CenterSummary",
    "Translation",
    "compute_anchors",
    "compute_residual_covariances",
    "compute_shape_changes",
    "compute_smoothing",
    "estimate_agreement",
    "estimate_translation",
    "shrink_covariances",
    "summarize_centers",
]

_TINY = 1e-12
_RIDGE = 0.1  # fraction of the mean variance that is added to covariances before they are inverted
_MOST_WEIGHT = 5.0  # largest weight of a center at which a group has few cells
_CHANCE = 2.5  # times the expected square of a group's mean displacement under chance that count as no displacement
_NOISE_LEFT = 0.25  # of the noise of a displacement at a center, after averages over centers and prototypes
SMOOTHED_OVER = 30  # prototypes of a group over which a displacement is averaged
_BLOCK = 2**16  # number of cells whose residuals are in memory together


@dataclass(frozen=True, eq=False)
class CenterSummary:
    """Numbers and means of the cells of each group at each center.

    - `n_cells`: (B, K) number of cells of group b that are transported to center k.
    - `mean`: (B, K, d) their mean.
    - `target`: (K, d) point to which the cells at the center are moved.
    - `mean_proportions`: (K,) mean over the fitted groups of the proportion of their cells at the center.
    - `of_new_groups`: Whether the groups are new: not among those that the mean proportions were computed from.
    """

    n_cells: NDArray[np.float32]
    mean: NDArray[np.float32]
    target: NDArray[np.float32]
    mean_proportions: NDArray[np.float32]
    of_new_groups: bool = False

    @property
    def proportions(self) -> NDArray[np.float32]:
        """(B, K) proportion of the cells of each group at each center."""
        return _divide_by_row_sums(self.n_cells)


def summarize_centers(
    prototypes: Prototypes, coupling: Coupling, fixed_groups: tuple[int, ...] = (), fitted: CenterSummary | None = None
) -> CenterSummary:
    """Count and average the cells of every group at every center; targets are weighted means over the groups.

    - `prototypes`: Original positions and masses.
    - `coupling`: Transport of the prototypes to the centers.
    - `fixed_groups`: Groups whose own means are the targets wherever they have cells.
    - `fitted`: Summary of the fitted groups, whose targets and mean proportions are kept: for new groups.
    """
    flow = prototypes.mass[:, None] * coupling.plan
    n_cells = np.add.reduceat(flow, prototypes.start[:-1], axis=0)
    total = np.empty((*n_cells.shape, prototypes.position.shape[1]), np.float32)
    for group, rows in enumerate(map(prototypes.of, range(prototypes.n_groups))):
        np.matmul(flow[rows].T, prototypes.position[rows], out=total[group])
    mean: NDArray[np.float32] = np.divide(total, np.maximum(n_cells, _TINY)[..., None])
    if fitted is not None:
        return CenterSummary(n_cells, mean, fitted.target, fitted.mean_proportions, True)
    # A mean of few cells is uncertain, so n cells get the weight n / (n + 1).
    certainty = n_cells / (n_cells + 1)
    target = np.einsum("bk,bkd->kd", certainty, mean) / np.maximum(certainty.sum(axis=0), _TINY)[:, None]
    if fixed_groups:
        fixed = list(fixed_groups)
        n_fixed = n_cells[fixed].sum(axis=0)
        fixed_certainty = (n_fixed / (n_fixed + 1))[:, None]
        fixed_mean = fixed_certainty * total[fixed].sum(axis=0) / np.maximum(n_fixed, _TINY)[:, None]
        target = fixed_mean + (1 - fixed_certainty) * target
    mean_proportions = _divide_by_row_sums(n_cells).mean(axis=0)
    return CenterSummary(n_cells, mean, target.astype(np.float32), mean_proportions.astype(np.float32))


def _divide_by_row_sums(n_cells: NDArray[np.float32]) -> NDArray[np.float32]:
    total = n_cells.sum(axis=1, keepdims=True)
    return np.divide(n_cells, total, out=np.zeros_like(n_cells), where=total > 0)


def _agreement_at_centers(centers: CenterSummary, full_agreement: float) -> NDArray[np.float32]:
    """(B, K) agreement of the proportions of a group and of the other groups at a center: 0 where a type is missing.

    It is min(1, a / `full_agreement`), where a <= 1 is the ratio of the smaller to the larger proportion.
    """
    proportions, n_groups = centers.proportions, len(centers.n_cells)
    if centers.of_new_groups or n_groups == 1:
        others = np.broadcast_to(centers.mean_proportions, proportions.shape)
    else:
        # the mean over the other groups, from the mean over all groups
        others = np.maximum((n_groups * centers.mean_proportions - proportions) / (n_groups - 1), 0).astype(np.float32)
    larger = np.maximum(proportions, others)
    if full_agreement == 0:
        return np.ones_like(proportions)
    ratio = np.divide(np.minimum(proportions, others), larger, out=np.zeros_like(proportions), where=larger > 0)
    return np.minimum(ratio / np.float32(full_agreement), 1)


def estimate_agreement(
    prototypes: Prototypes, coupling: Coupling, centers: CenterSummary, full_agreement: float
) -> NDArray[np.float32]:
    """(P,) agreement of the proportions at the centers of each prototype, from 0 (no partner) to 1.

    Changes of shape and refinements are multiplied by it: a type without a partner in another group has nothing that
    its shape could be fitted to.
    """
    of_groups = _agreement_at_centers(centers, full_agreement)[prototypes.group]
    agreement: NDArray[np.float32] = np.einsum("pk,pk->p", coupling.plan, of_groups)
    return agreement


def compute_smoothing(prototypes: Prototypes) -> csr_array:
    """(P, P) kernel weights of the nearest prototypes of the same group, rows of sum 1.

    Displacements that are averaged by it differ little between neighbors, so neighbors stay neighbors.
    """

    def search_group(group: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = prototypes.of(group)
        near, weight = soft_assign(prototypes.position[rows], prototypes.position[rows], SMOOTHED_OVER)
        return near + rows.start, weight

    n = len(prototypes.mass)
    found = parallel_map(search_group, range(prototypes.n_groups), n)
    # a small group has fewer neighbors in a row
    per_row = np.concatenate([np.full(len(near), near.shape[1]) for near, _ in found])
    columns = np.concatenate([near.ravel() for near, _ in found])
    weights = np.concatenate([weight.ravel() for _, weight in found])
    return csr_array((weights, columns, np.concatenate([[0], np.cumsum(per_row)])), shape=(n, n))


@dataclass(frozen=True, eq=False)
class Translation:
    """Displacements to subtract.

    - `of_group`: (B, d) mean displacement of each group.
    - `deviation`: (P, d) displacement of each prototype beyond that of its group.
    - `certainty`: How far the mean displacements exceed chance, 0..1.
    """

    of_group: NDArray[np.float32]
    deviation: NDArray[np.float32]
    certainty: float

    def of_prototypes(
        self, group: NDArray[np.int64], group_fraction: float = 1.0, fraction: float = 1.0
    ) -> NDArray[np.float32]:
        """(P, d) displacement of each prototype.

        - `group`: (P,) group of each prototype.
        - `group_fraction`, `fraction`: Fractions (0..1) of the mean displacements and of the deviations.
        """
        displacement: NDArray[np.float32] = np.float32(group_fraction) * self.of_group[group]
        displacement += np.float32(fraction) * self.deviation
        return displacement


def estimate_translation(
    prototypes: Prototypes,
    coupling: Coupling,
    centers: CenterSummary,
    full_agreement: float,
    second_moment: NDArray[np.float64],
    smoothing: csr_array,
) -> Translation:
    """Estimate the displacements: the barycentric move of Eqs 5-7, shrunk where it is uncertain.

    The displacement of a group at a center, mean - target, is the mean displacement of the group plus a deviation. A
    deviation is multiplied by the agreement, so that a type without a partner moves with its group, and by the
    positive-part James-Stein factor 1 - noise / |deviation|^2, so that all types move alike if they differ by chance.

    - `full_agreement`: Ratio of the proportions of the group and of the others from which the agreement is 1; 0: it is
      1 everywhere, and no deviation counts as noise.
    - `second_moment`: (B,) sum over the cells of a group of their squared norms.
    - `smoothing`: (P, P) weights by which the deviations of the prototypes are averaged.
    """
    agreement = _agreement_at_centers(centers, full_agreement)
    displacement, n_cells = centers.mean - centers.target, centers.n_cells
    weight = agreement * n_cells
    of_group = np.einsum("bk,bkd->bd", weight, displacement) / np.maximum(weight.sum(axis=1), _TINY)[:, None]
    deviation = np.subtract(displacement, of_group[:, None], out=displacement)
    total = np.maximum(n_cells.sum(axis=1), _TINY)
    explained = np.einsum("bk,bkd,bkd->b", n_cells, centers.mean, centers.mean, dtype=np.float64)
    variance = np.maximum(second_moment - explained, 0) / total
    noise = _NOISE_LEFT * min(1.0, 2 * full_agreement) * variance[:, None] / np.maximum(n_cells, _TINY)
    squared = np.einsum("bkd,bkd->bk", deviation, deviation)
    factor = agreement * np.maximum(0, 1 - noise / np.maximum(squared, _TINY))
    deviation *= factor[..., None].astype(np.float32)
    moves = [coupling.plan[prototypes.of(b)] @ deviation[b] for b in range(prototypes.n_groups)]
    n_groups = 2 if centers.of_new_groups else len(n_cells)
    expected = variance.sum() * (1 - 1 / n_groups)
    found = (total * np.einsum("bd,bd->b", of_group, of_group)).sum()
    certainty = max(0.0, 1 - _CHANCE * expected / found) if found > 0 and n_groups > 1 else 0.0
    smoothed = smoothing @ np.concatenate(moves)
    return Translation(of_group.astype(np.float32), smoothed.astype(np.float32), float(certainty))


def compute_residual_covariances(
    x: NDArray[np.float32],
    start: NDArray[np.int64],
    nearest: NDArray[np.int64],
    anchor: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted covariance of the residuals of each group about the anchors of its prototypes.

    - `x`: (N, d) cells sorted by group.
    - `start`: (B + 1,) bounds of the groups.
    - `nearest`: (N,) prototype of each cell.
    - `anchor`: (P, d) mean of the cells of the same group and center.
    - `weight`: (P,) weight of the cells of a prototype.

    Returns (B, d, d) covariances and (B,) total weights.
    """
    d = x.shape[1]
    covariance, total = np.zeros((len(start) - 1, d, d)), np.zeros(len(start) - 1)
    for b, (begin, end) in enumerate(zip(start[:-1], start[1:], strict=True)):
        for low in range(begin, end, _BLOCK):
            rows = slice(low, min(low + _BLOCK, end))
            residual, w = x[rows] - anchor[nearest[rows]], weight[nearest[rows]]
            covariance[b] += (residual * w[:, None]).T @ residual
            total[b] += w.sum(dtype=np.float64)
        covariance[b] /= max(total[b], _TINY)
    return covariance, total


def compute_anchors(
    prototypes: Prototypes, coupling: Coupling, centers: CenterSummary
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(P, d) mean of the prototypes of the same group and main center, and (P,) weight that balances the centers.

    With the weight, every group counts each center as the geometric mean over the groups does, so that a difference in
    composition does not appear as a difference in shape. The weight is 0 where a group lacks the type.
    """
    main = coupling.plan.argmax(axis=1)
    _, inverse = np.unique(prototypes.group * coupling.plan.shape[1] + main, return_inverse=True)
    mass = np.bincount(inverse, prototypes.mass)
    total = np.zeros((len(mass), prototypes.position.shape[1]))
    np.add.at(total, inverse, prototypes.mass[:, None] * prototypes.position)
    proportions = np.maximum(centers.proportions, _TINY)
    balanced = centers.mean_proportions if centers.of_new_groups else np.exp(np.log(proportions).mean(axis=0))
    weight = np.clip(balanced / proportions, 0, _MOST_WEIGHT)[prototypes.group, main]
    return (total / mass[:, None])[inverse].astype(np.float32), weight.astype(np.float32)


def shrink_covariances(
    covariance: NDArray[np.float64], total: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shrink covariances (B, d, d) toward `target` (d, d) with d pseudo-counts."""
    d = covariance.shape[-1]
    n = total[:, None, None]
    shrunk: NDArray[np.float64] = (n * covariance + d * target) / (n + d)
    return shrunk


def compute_shape_changes(
    covariance: NDArray[np.float64], target: NDArray[np.float64], match_shapes: bool
) -> NDArray[np.float32]:
    """(B, d, d) change of residuals, A - I, that gives them the scale of the target, or its covariance.

    A is the optimal transport map between centered Gaussians: s I, with s^2 the ratio of the traces, if the shapes
    count as equal, which keeps the neighbors within a group; else the Bures map,
    S^-1/2 (S^1/2 target S^1/2)^1/2 S^-1/2. A ridge of a tenth of the mean variance is added to both covariances.

    - `match_shapes`: Whether the shape is changed, too.
    """
    d = target.shape[0]
    ridge = (_RIDGE * np.trace(target) / d + _TINY) * np.eye(d)
    source, wanted = covariance + ridge, target + ridge
    if not match_shapes:
        scale = np.sqrt(np.trace(wanted) / np.trace(source, axis1=1, axis2=2))
        of_scale: NDArray[np.float32] = ((scale - 1)[:, None, None] * np.eye(d)).astype(np.float32)
        return of_scale
    values, vectors = np.linalg.eigh(source)
    values = np.maximum(values, _TINY)[:, None]
    transposed = vectors.swapaxes(-1, -2)
    root = (vectors * np.sqrt(values)) @ transposed
    inverse = (vectors / np.sqrt(values)) @ transposed
    inner, basis = np.linalg.eigh(root @ wanted @ root)
    middle = (basis * np.sqrt(np.maximum(inner, 0))[:, None]) @ basis.swapaxes(-1, -2)
    change: NDArray[np.float32] = (inverse @ middle @ inverse - np.eye(d)).astype(np.float32)
    return change
