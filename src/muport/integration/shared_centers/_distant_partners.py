"""Distant partners: types that lie so far apart in two groups that the transport found no partner for them.

The transport matches by nearness. If one type is shifted much farther than the others, its cells are left without a
partner in both groups, like two different types of which each group has one. Mass, shape and distance tell these cases
apart: cells of one type have similar proportions and covariances, and are not farther apart than different types are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.integration.prototypes._prototypes import Prototypes
    from muport.integration.prototypes._standardized_cells import StandardizedCells
    from muport.integration.shared_centers._transport import Transport

__all__ = ["DistantPartners", "find_distant_partners"]

# The constants were chosen on simulated cells (types that are shifted in half of the groups, that half of the groups
# lack, and two types of which each half has one; equal and unequal proportions and covariances), and some were changed
# when measured cells were seen (kang, cellbench_5cl, hsc): figures of these sets are no test of them.
_CELLS = 10_000  # on which means and covariances are computed
_DIMENSIONS = 15  # principal axes in which shapes are compared
_MOST_CLASSES = 8  # classes of groups that are compared in pairs
_SAME_CLASS = 0.1  # mass without a partner below which two groups are in one class
_CLUSTERS = 16  # leaves of the tree of the centers without a partner
_TYPES = 8  # clusters of a class whose shapes count as those of different types
_LEAST_MASS = 0.01  # fraction of the cells of a group that needs a partner
_LEAST_UNLIKE = 0.01  # 1 - F that is added to both sides, so that shapes that hardly differ between types say little
_RIDGE = 0.01  # fraction of the mean variance that is added to covariances
_SHAPE = (0.6, 0.9)  # shape: one type (at most), two types (at least), relative to different types
_UNLIKE = (0.6, 0.75)  # unlikeness of one type (at most) and of two types (at least), relative to different types
_DISTANT = (0.3, 0.4)  # distance over that of two cells: reached by the first transport (at most), distant (at least)
_RATIO = (0.3, 0.6)  # ratio of the smaller to the larger mass: two types (at most), one type (at least)


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
class _Parts:
    """Parts of the cells of a class of groups, after the first transport.

    - `mass`: (M,) fraction of the cells of the class.
    - `mean`: (M, d) their mean.
    - `moment`: (M, q, q) mean of z z' along q principal axes.
    - `axes`: (d, q) principal axes.
    - `distance`: Root mean square distance between two cells of the class.
    - `n_cells`: Number of cells of the class of which these are the parts.
    """

    mass: NDArray[np.float64]
    mean: NDArray[np.float64]
    moment: NDArray[np.float64]
    axes: NDArray[np.float64]
    distance: float
    n_cells: int

    def merge(self, weight: NDArray[np.float64]) -> _Parts:
        """Merge parts: `weight` (M', M) is the mass that each part gives to each merged part."""
        mass = weight.sum(axis=1)
        share = weight / np.maximum(mass, 1e-12)[:, None]
        return _Parts(
            mass,
            share @ self.mean,
            np.einsum("ij,jqr->iqr", share, self.moment),
            self.axes,
            self.distance,
            self.n_cells,
        )

    def covariances(self, ridge: float) -> NDArray[np.float64]:
        """(M, q, q) covariances plus `ridge` on the diagonal."""
        z = self.mean @ self.axes
        covariance: NDArray[np.float64] = self.moment - z[:, :, None] * z[:, None, :]
        return covariance + ridge * np.eye(z.shape[1])


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Nodes of the tree of the centers of a class that have no partner in another class.

    - `members`: (M, K) 0/1: the centers of each node.
    - `parts`: Mass, mean and moments of the nodes.
    """

    members: NDArray[np.float64]
    parts: _Parts


def find_distant_partners(
    prototypes: Prototypes,
    transport: Transport,
    cells: StandardizedCells,
    nearest: NDArray[np.int64],
    full_agreement: float,
    seed: int,
) -> DistantPartners | None:
    """Find types that two classes of groups have at a distance, and the displacements that unite them.

    Groups in which about the same centers are occupied form a class. For each pair of classes, the centers without a
    partner are joined to trees (Ward), one per class, and every node of one tree is compared with every node of the
    other: by the ratio of their masses, and by their unlikeness, sqrt(a r). Here a is 1 - F of their covariances over
    that of different clusters of a class, with F the fidelity (the cosine of the Bures metric), and r the distance of
    their means over that of two cells of a class. Pairs are accepted in the order of their mass.

    - `transport`: The first transport.
    - `nearest`: (N,) prototype of each cell.
    - `full_agreement`: Ratio of proportions from which a center counts as shared.

    Returns None if there are none.
    """
    proportions = transport.centers.proportions.astype(np.float64)
    if full_agreement == 0 or proportions.shape[1] < 2:
        return None
    of_class = _classify_groups(proportions, full_agreement)
    n_classes = int(of_class.max()) + 1
    if n_classes < 2:
        return None
    n_groups = np.bincount(of_class)
    parts, ridge = _summarize_classes(prototypes, transport, cells, nearest, of_class, seed)
    typical = [_typical_unlikeness(part, ridge) for part in parts]
    shift = np.zeros((n_classes, *parts[0].mean.shape))
    weight, gain = np.zeros((n_classes, proportions.shape[1])), 0.0
    for a, b in combinations(range(n_classes), 2):
        one = _find_candidates(parts[a], parts[b], full_agreement)
        two = _find_candidates(parts[b], parts[a], full_agreement)
        if one is None or two is None:
            continue
        certainty = _compare(one.parts, two.parts, (typical[a] + typical[b]) / 2, ridge)
        fraction = n_groups[[a, b]] / len(of_class)
        for i, j, sure in _select(one, two, certainty):
            between = one.parts.mean[i] - two.parts.mean[j]
            # the barycenter of all groups
            shift[a] += fraction[1] * one.members[i][:, None] * between
            shift[b] -= fraction[0] * two.members[j][:, None] * between
            weight[a] = np.maximum(weight[a], sure * one.members[i])
            weight[b] = np.maximum(weight[b], sure * two.members[j])
            gain += 2 * float(min(one.parts.mass[i], two.parts.mass[j]) * fraction.prod())
    if gain == 0:
        return None
    weight[weight == 0] = weight.max()
    displacement, of_prototype = np.zeros_like(prototypes.position), np.zeros_like(prototypes.mass)
    for code in range(n_classes):
        rows = np.flatnonzero(of_class[prototypes.group] == code)
        plan = transport.coupling.plan[rows]
        displacement[rows], of_prototype[rows] = plan @ shift[code], plan @ weight[code]
    return DistantPartners(displacement, np.clip(of_prototype, 0, 1), gain)


def _lack(own: NDArray[np.float64], other: NDArray[np.float64], full_agreement: float) -> NDArray[np.float64]:
    """How far the other proportions (..., K) lack what the own have: 0 where they agree, 1 where they are 0."""
    smaller = np.minimum(own, other)
    ratio = np.divide(smaller, own, out=np.ones_like(smaller), where=np.broadcast_to(own > 0, smaller.shape))
    return 1 - np.minimum(1, ratio / full_agreement)


def _classify_groups(proportions: NDArray[np.float64], full_agreement: float) -> NDArray[np.int64]:
    """(B,) classes of groups that have few centers which the others in the class lack (average linkage)."""
    n_groups = len(proportions)
    if n_groups <= 2:
        return np.arange(n_groups)
    # one group at a time, so that memory grows with the square of the number of groups only
    lacking = np.stack([(own * _lack(own[None], proportions, full_agreement)).sum(axis=1) for own in proportions])
    # a type that only one of two groups has makes them no less alike: it has no partner at any distance
    distance = np.minimum(lacking, lacking.T)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    classes = fcluster(tree, _SAME_CLASS, "distance")
    if classes.max() > _MOST_CLASSES:
        classes = fcluster(tree, _MOST_CLASSES, "maxclust")
    return np.asarray(classes - 1, np.int64)


def _summarize_classes(
    prototypes: Prototypes,
    transport: Transport,
    cells: StandardizedCells,
    nearest: NDArray[np.int64],
    of_class: NDArray[np.int64],
    seed: int,
) -> tuple[list[_Parts], float]:
    """Mass, mean and moments of the cells of each class at each center after the transport, and the ridge."""
    rows = cells.sample_rows(_CELLS, seed + 4)
    group, near = cells.group_of(rows), nearest[rows]
    x = cells.x[rows] - transport.translation.of_prototypes(prototypes.group)[near]
    # every group has the same weight
    mass = 1 / np.bincount(group, minlength=len(of_class))[group]
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T, aweights=mass)))
    axes = vectors[:, ::-1][:, :_DIMENSIONS]
    z = x @ axes
    n_groups, parts = np.bincount(of_class), []
    for code in range(len(n_groups)):
        own = of_class[group] == code
        plan = transport.coupling.plan[near[own]] * (mass[own] / n_groups[code])[:, None]
        total = np.maximum(plan.sum(axis=0), 1e-12)
        outer = (z[own][:, :, None] * z[own][:, None, :]).reshape(own.sum(), -1)
        moment = (plan.T @ outer / total[:, None]).reshape(-1, axes.shape[1], axes.shape[1])
        # a class of few cells may have none in the sample
        fraction = mass[own] / max(mass[own].sum(), 1e-12)
        centered = x[own] - fraction @ x[own]
        distance = float(np.sqrt(2 * fraction @ np.square(centered).sum(axis=1)))
        parts.append(_Parts(plan.sum(axis=0), plan.T @ x[own] / total[:, None], moment, axes, distance, int(own.sum())))
    return parts, _RIDGE * float(values[::-1][: axes.shape[1]].mean()) + 1e-12


def _typical_unlikeness(part: _Parts, ridge: float) -> float:
    """Mean of 1 - F between different clusters of a class, beyond that of equal ones."""
    used = np.flatnonzero(part.mass > 0)
    clusters = np.zeros(len(part.mass), np.int64)
    if len(used) > 1:
        clusters[used] = fcluster(linkage(part.mean[used], "ward"), _TYPES, "maxclust") - 1
    merged = part.merge((clusters == np.arange(clusters.max() + 1)[:, None]) * part.mass)
    covariance = merged.covariances(ridge)
    pairs = merged.mass[:, None] * merged.mass * (1 - np.eye(len(merged.mass)))
    beyond_chance = 1 - _fidelity(covariance, covariance) - _chance(merged)
    return max(0.0, float((pairs * beyond_chance).sum() / max(pairs.sum(), 1e-12)))


def _chance(parts: _Parts) -> NDArray[np.float64]:
    """(M, M) about the 1 - F of the covariances of two samples of one distribution: (q + 1) / 8 (1 / n + 1 / n')."""
    n = np.maximum(parts.mass * parts.n_cells, 1)
    chance: NDArray[np.float64] = (parts.axes.shape[1] + 1) / 8 * (1 / n[:, None] + 1 / n)
    return chance


def _find_candidates(own: _Parts, other: _Parts, full_agreement: float) -> _Candidates | None:
    """Join the centers that the other class lacks to a tree; None if they hold too few cells."""
    mass = own.mass * _lack(own.mass, other.mass, full_agreement)
    used = np.flatnonzero(mass > 0)
    if mass.sum() < _LEAST_MASS:
        return None
    members = np.zeros((1, len(mass)))
    members[0, used] = 1
    if len(used) > 1:
        tree = linkage(own.mean[used], "ward")
        for number in range(2, min(_CLUSTERS, len(used)) + 1):
            codes = fcluster(tree, number, "maxclust")
            nodes = np.zeros((codes.max(), len(mass)))
            nodes[codes - 1, used] = 1
            members = np.concatenate([members, nodes])
        # the largest nodes come first, so that they are preferred
        members = np.unique(members, axis=0)
        members = members[np.argsort(-(members @ mass), kind="stable")]
    return _Candidates(members, own.merge(members * mass))


def _compare(one: _Parts, other: _Parts, unlike: float, ridge: float) -> NDArray[np.float64]:
    """(M, M') how surely the parts of two classes are of one type, 0 to 1."""
    distance = (one.distance + other.distance) / 2
    fidelity = _fidelity(one.covariances(ridge), other.covariances(ridge))
    shape = (1 - fidelity + _LEAST_UNLIKE) / (unlike + _LEAST_UNLIKE)
    between = np.linalg.norm(one.mean[:, None] - other.mean, axis=2) / max(distance, 1e-12)
    ratio = np.minimum(one.mass[:, None], other.mass) / np.maximum(one.mass[:, None], other.mass)
    alike = (1 - _ramp(shape, *_SHAPE)) * (1 - _ramp(np.sqrt(shape * between), *_UNLIKE))
    large_enough = np.minimum(one.mass[:, None], other.mass) >= _LEAST_MASS
    certainty: NDArray[np.float64] = alike * _ramp(between, *_DISTANT) * _ramp(ratio, *_RATIO) * large_enough
    return certainty


def _select(one: _Candidates, other: _Candidates, certainty: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """Select pairs of nodes that share no center, by certainty times mass; returns nodes and certainty."""
    gain = certainty * np.minimum(one.parts.mass[:, None], other.parts.mass)
    selected: list[tuple[int, int, float]] = []
    while gain.max() > 0:
        i, j = (int(code) for code in np.unravel_index(gain.argmax(), gain.shape))
        selected.append((i, j, float(certainty[i, j])))
        gain[one.members @ one.members[i] > 0] = 0
        gain[:, other.members @ other.members[j] > 0] = 0
    return selected


def _fidelity(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, M') cosine of the Bures metric between covariances: tr (S^1/2 T S^1/2)^1/2 / sqrt(tr S tr T), 0 to 1."""
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.swapaxes(-1, -2)
    inner = np.linalg.eigvalsh(root[:, None] @ other @ root[:, None])
    trace = np.trace(one, axis1=1, axis2=2)[:, None] * np.trace(other, axis1=1, axis2=2)
    fidelity: NDArray[np.float64] = np.sqrt(np.maximum(inner, 0)).sum(axis=-1) / np.sqrt(trace)
    return np.minimum(fidelity, 1)


def _ramp(value: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((value - low) / (high - low), 0, 1)
