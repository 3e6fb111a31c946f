"""Distant partners: types that lie so far apart in some groups that the transport found no partner for them.

The transport matches by nearness. If one type is shifted much farther than the others, its cells are left without a
partner, like two different types of which each group has one. Occupancy, mass, shape and distance tell these cases
apart: each group has one of the two sets of cells and lacks the other, and their proportions and covariances are
similar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import linkage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._transport import Transport

__all__ = ["DistantPartners", "find_distant_partners"]

# All constants were chosen on the simulated cells of benchmarks/integration/distant_types.py only.
_CELLS = 5_000  # on which covariances are computed
_AXES = 15  # principal axes in which shapes are compared
_MOST_PAIRS = 64  # pairs of sets whose shapes are compared
_TYPES = 8  # sets whose shapes count as those of different types
_LEAST_MASS = 0.01  # fraction of the cells that both sets need
_FEWEST_CELLS = 30  # of the sample, in both sets
_LEAST_UNLIKE = 0.01  # 1 - F that is added to both sides, so that shapes that hardly differ between types say little
_RIDGE = 0.01  # fraction of the mean variance that is added to covariances
_APART = 4.0  # weight of the occupancy, relative to the positions, in the tree of the centers
# bounds between which the certainty falls from 1 to 0, or grows from 0 to 1
_OVERLAP = (0.1, 0.3)  # of the occupancies: at most, at least
_RATIO = (0.3, 0.6)  # of the smaller to the larger proportion: two types (at most), one type (at least)
_DISTANT = (0.3, 0.4)  # distance over that of two cells: reached by the first transport (at most), distant (at least)
_SHAPE = (0.35, 0.5)  # difference of shape, relative to different types: one type (at most), two types (at least)


@dataclass(frozen=True, eq=False)
class DistantPartners:
    """Displacements that bring distant partners together, from which a second transport starts.

    - `displacement`: (P, d) displacement of each prototype, to be subtracted beyond that of the first transport.
    - `weight`: (P,) how surely the partners are of one type, 0 to 1; where there are none, the largest of these.
    - `expected_gain`: Increase of the transported mass if the second transport unites all of them.
    """

    displacement: NDArray[np.float32]
    weight: NDArray[np.float32]
    expected_gain: float


@dataclass(frozen=True, eq=False)
class _Sets:
    """Sets of centers: the nodes of a tree.

    - `members`: (M, K) whether a center is in a set.
    - `occupancy`: (M, B) proportion of the cells of each group that are in a set.
    - `mean`: (M, d) mean of the cells, with the same weight for every group.
    """

    members: NDArray[np.bool_]
    occupancy: NDArray[np.float64]
    mean: NDArray[np.float64]


def find_distant_partners(
    prototypes: Prototypes,
    transport: Transport,
    cells: StandardizedCells,
    nearest: NDArray[np.int64],
    seed: int,
) -> DistantPartners | None:
    """Find pairs of sets of centers that are one type, shifted far in some groups, and displacements that unite them.

    The sets are the nodes of a tree of the centers (Ward), in which centers that other groups occupy are far apart.
    A pair needs groups of which each has one of the sets and hardly any has both, similar proportions in these, and a
    distance. Only for such pairs the shapes are compared: by 1 - F of their covariances over that of different sets in
    the same groups, with F the fidelity (the cosine of the Bures metric). Pairs are accepted in the order of the mass
    that they would transport.

    - `transport`: The first transport.
    - `nearest`: (N,) prototype of each cell.

    Returns None if there are none.
    """
    proportions = transport.centers.proportions.astype(np.float64)
    if min(proportions.shape) < 2:
        return None
    sets = _build_tree(proportions, _mean_of_centers(transport, proportions))
    pairs, certainty, gain = _screen_pairs(sets, _cell_distance(cells, transport))
    if len(pairs) == 0:
        return None
    moments = _Moments.of_centers(prototypes, transport, cells, nearest, seed)
    certainty = certainty * _compare_shapes(sets, pairs, moments, _cut_tree(sets))
    selected = _select(sets, pairs, certainty, gain)
    if not selected:
        return None
    return _unite(sets, selected, prototypes, transport)


def _mean_of_centers(transport: Transport, proportions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, d) mean of the cells at each center after the mean displacements, with the same weight for every group."""
    total = np.einsum("bk,bkd->kd", proportions, transport.centers.mean, dtype=np.float64)
    total -= proportions.T @ transport.translation.of_group
    mean: NDArray[np.float64] = total / np.maximum(proportions.sum(axis=0), 1e-12)[:, None]
    return mean


def _cell_distance(cells: StandardizedCells, transport: Transport) -> float:
    """Root mean square distance of two cells of a group."""
    centers = transport.centers
    mean = np.einsum("bk,bkd->bd", centers.proportions, centers.mean, dtype=np.float64)
    variance = cells.second_moment / np.diff(cells.start) - np.square(mean).sum(axis=1)
    return max(float(np.sqrt(2 * np.maximum(variance, 0).mean())), 1e-12)


def _build_tree(proportions: NDArray[np.float64], mean: NDArray[np.float64]) -> _Sets:
    """Join the centers to a tree; the leaves come first, and the last set holds all centers."""
    total = proportions.sum(axis=0)
    occupancy = proportions.T / np.maximum(np.linalg.norm(proportions, axis=0), 1e-12)[:, None]
    center = (total @ mean) / total.sum()
    spread = np.sqrt(total @ np.square(mean - center).sum(axis=1) / total.sum())
    tree = linkage(np.concatenate([mean, _APART * spread * occupancy], axis=1), "ward")
    n = len(mean)
    members = np.zeros((2 * n - 1, n), bool)
    members[:n] = np.eye(n, dtype=bool)
    for number, (one, other) in enumerate(tree[:, :2].astype(int)):
        members[n + number] = members[one] | members[other]
    weight = members * total
    return _Sets(members, members @ proportions.T, weight @ mean / np.maximum(weight.sum(axis=1), 1e-12)[:, None])


def _cut_tree(sets: _Sets) -> NDArray[np.int64]:
    """The sets into which the last joins of the tree divide the centers, `_TYPES` at most."""
    taken: list[int] = []
    n_leaves = sets.members.shape[1]
    covered = np.zeros(n_leaves, bool)
    # a node stands after all nodes below it, so the last nodes but the joins of the cut come first
    last = len(sets.members) - min(_TYPES, n_leaves) + 1
    for node in range(last - 1, -1, -1):
        if not (covered & sets.members[node]).any():
            taken.append(node)
            covered |= sets.members[node]
    return np.array(taken)


def _screen_pairs(sets: _Sets, distance: float) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of sets (Q, 2) that occupancy, mass and distance allow, their certainty, and the mass they transport."""
    mass, n_groups = sets.occupancy.sum(axis=1), sets.occupancy.shape[1]
    level = np.square(sets.occupancy).sum(axis=1) / np.maximum(mass, 1e-12)
    united = _transported(sets.occupancy)
    pairs, certainty, gains = [], [], []
    # one set at a time, so that memory does not grow with the square of their number times that of the groups
    for one in np.flatnonzero(level >= _LEAST_MASS):
        others = one + 1 + np.flatnonzero(level[one + 1 :] >= _LEAST_MASS)
        both = np.minimum(sets.occupancy[one], sets.occupancy[others]).sum(axis=1)
        overlap = both / np.minimum(mass[one], mass[others])
        others, overlap = others[overlap < _OVERLAP[1]], overlap[overlap < _OVERLAP[1]]
        ratio = np.minimum(level[one], level[others]) / np.maximum(level[one], level[others])
        between = np.linalg.norm(sets.mean[one] - sets.mean[others], axis=1) / distance
        sure = (1 - _ramp(overlap, *_OVERLAP)) * _ramp(ratio, *_RATIO) * _ramp(between, *_DISTANT)
        gain = _transported(sets.occupancy[one] + sets.occupancy[others]) - united[one] - united[others]
        kept = (sure > 0) & (gain * n_groups >= _LEAST_MASS)
        pairs.append(np.stack([np.full(kept.sum(), one), others[kept]], axis=1))
        certainty.append(sure[kept])
        gains.append(gain[kept])
    if not pairs:
        return np.empty((0, 2), np.int64), np.empty(0), np.empty(0)
    found, sure, gain = np.concatenate(pairs), np.concatenate(certainty), np.concatenate(gains)
    best = np.argsort(-sure * gain, kind="stable")[:_MOST_PAIRS]
    return found[best], sure[best], gain[best]


def _transported(occupancy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) mass of sets that the groups transport to their mean occupancy (M, B)."""
    transported: NDArray[np.float64] = np.minimum(occupancy, occupancy.mean(axis=1, keepdims=True)).mean(axis=1)
    return transported


@dataclass(frozen=True, eq=False)
class _Moments:
    """Moments of a sample of the cells at each center, along principal axes.

    - `weight`: (K,) their weight; every group has the same.
    - `number`: (K,) their number.
    - `first`: (K, q) sum of z.
    - `second`: (K, q, q) sum of z z'.
    - `ridge`: What is added to the diagonal of covariances.
    """

    weight: NDArray[np.float64]
    number: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    ridge: float

    @classmethod
    def of_centers(
        cls,
        prototypes: Prototypes,
        transport: Transport,
        cells: StandardizedCells,
        nearest: NDArray[np.int64],
        seed: int,
    ) -> _Moments:
        """Sum over a sample of the cells, each at its main center, after the displacement of the first transport."""
        rows = cells.sample_rows(_CELLS, seed + 4)
        group, near = cells.group_of(rows), nearest[rows]
        x = cells.x[rows]
        x -= transport.translation.of_prototypes(prototypes.group)[near]
        weight = (1 / np.bincount(group, minlength=prototypes.n_groups)[group]).astype(np.float32)
        x -= weight @ x / weight.sum()
        values, vectors = np.linalg.eigh((x * weight[:, None]).T @ x / weight.sum())
        z, n_centers = x @ vectors[:, ::-1][:, :_AXES], transport.coupling.plan.shape[1]
        center = transport.coupling.plan.argmax(axis=1)[near]
        first, second = np.zeros((n_centers, z.shape[1])), np.zeros((n_centers, z.shape[1], z.shape[1]))
        for k in range(n_centers):
            own = center == k
            weighted = z[own] * weight[own, None]
            first[k], second[k] = weighted.sum(axis=0), weighted.T @ z[own]
        ridge = _RIDGE * float(values[::-1][: z.shape[1]].mean()) + 1e-12
        return cls(
            np.bincount(center, weight, n_centers), np.bincount(center, minlength=n_centers), first, second, ridge
        )

    def covariances(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(M, q, q) covariances of the cells of sets of centers (M, K)."""
        total = np.maximum(members @ self.weight, 1e-12)
        mean = members @ self.first / total[:, None]
        second = np.einsum("mk,kqr->mqr", members.astype(np.float64), self.second) / total[:, None, None]
        covariance: NDArray[np.float64] = second - mean[:, :, None] * mean[:, None, :]
        return covariance + self.ridge * np.eye(mean.shape[1])


def _compare_shapes(
    sets: _Sets, pairs: NDArray[np.int64], moments: _Moments, different: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(Q,) how surely the sets of each pair are of one type, by their covariances."""
    covariance = moments.covariances(sets.members[different])
    number = np.maximum(sets.members[different] @ moments.number, 1)
    codes = np.stack(np.triu_indices(len(different), 1), axis=1)
    # only sets in the same groups are different types for sure
    together = np.einsum("qb,qb->q", sets.occupancy[different][codes[:, 0]], sets.occupancy[different][codes[:, 1]])
    beyond = 1 - _fidelity(covariance, codes) - _chance(number, codes, covariance.shape[1])
    typical = max(0.0, float(together @ beyond / max(together.sum(), 1e-12)))
    nodes, inverse = np.unique(pairs, return_inverse=True)
    inverse = inverse.reshape(pairs.shape)
    shape = 1 - _fidelity(moments.covariances(sets.members[nodes]), inverse)
    enough = (sets.members[pairs] @ moments.number).min(axis=1) >= _FEWEST_CELLS
    certainty: NDArray[np.float64] = enough * (1 - _ramp((shape + _LEAST_UNLIKE) / (typical + _LEAST_UNLIKE), *_SHAPE))
    return certainty


def _chance(number: NDArray[np.int64], pairs: NDArray[np.int64], n_axes: int) -> NDArray[np.float64]:
    """About the 1 - F of the covariances of two samples of one distribution: (q + 1) / 8 (1 / n + 1 / n')."""
    chance: NDArray[np.float64] = (n_axes + 1) / 8 * (1 / number[pairs]).sum(axis=1)
    return chance


def _fidelity(covariance: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) cosine of the Bures metric between covariances: tr (S^1/2 T S^1/2)^1/2 / sqrt(tr S tr T), 0 to 1."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.swapaxes(-1, -2)
    # the singular values of S^1/2 T^1/2 are the roots of the eigenvalues of S^1/2 T S^1/2
    inner = np.linalg.svd(root[pairs[:, 0]] @ root[pairs[:, 1]], compute_uv=False).sum(axis=1)
    trace = np.trace(covariance, axis1=1, axis2=2)
    fidelity: NDArray[np.float64] = inner / np.sqrt(trace[pairs].prod(axis=1))
    return np.minimum(fidelity, 1)


def _select(
    sets: _Sets, pairs: NDArray[np.int64], certainty: NDArray[np.float64], gain: NDArray[np.float64]
) -> list[tuple[int, int, float, float]]:
    """Select pairs that share no center, by certainty times gain; returns both sets, certainty and gain."""
    selected: list[tuple[int, int, float, float]] = []
    taken = np.zeros(sets.members.shape[1], bool)
    for q in np.argsort(-certainty * gain, kind="stable"):
        one, other = pairs[q]
        members = sets.members[one] | sets.members[other]
        if certainty[q] > 0 and not (taken & members).any():
            selected.append((int(one), int(other), float(certainty[q]), float(gain[q])))
            taken |= members
    return selected


def _unite(
    sets: _Sets, selected: list[tuple[int, int, float, float]], prototypes: Prototypes, transport: Transport
) -> DistantPartners:
    """Move both sets of each pair to the barycenter of all groups."""
    mass = sets.occupancy.sum(axis=1)
    shift, weight = np.zeros((sets.members.shape[1], sets.mean.shape[1])), np.zeros(sets.members.shape[1])
    for one, other, certainty, _ in selected:
        barycenter = (mass[one] * sets.mean[one] + mass[other] * sets.mean[other]) / (mass[one] + mass[other])
        for node in (one, other):
            shift[sets.members[node]] = sets.mean[node] - barycenter
            weight[sets.members[node]] = certainty
    weight[weight == 0] = weight.max()
    plan = transport.coupling.plan
    return DistantPartners(
        plan @ shift.astype(np.float32),
        np.clip(plan @ weight.astype(np.float32), 0, 1),
        sum(gain for *_, gain in selected),
    )


def _ramp(value: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((value - low) / (high - low), 0, 1)
