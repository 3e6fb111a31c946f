"""Displacements and changes of shape, against loops, SciPy and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.sparse import csr_array

from muport.integration.prototypes._prototypes import Prototypes, soft_assign
from muport.integration.shared_centers._coupling import Coupling
from muport.integration.shared_centers._displacement import (
    _CHANCE,
    _NOISE_LEFT,
    _RIDGE,
    CenterSummary,
    compute_anchors,
    compute_residual_covariances,
    compute_shape_changes,
    compute_smoothing,
    estimate_agreement,
    estimate_translation,
    shrink_covariances,
    summarize_centers,
)

D = 3


def coupled(plan: np.ndarray, groups: int) -> Coupling:
    k = plan.shape[1]
    return Coupling(
        np.eye(k, D, dtype=np.float32), plan.astype(np.float32), np.full(k, 1 / k, np.float32),
        np.zeros((groups, k), np.float32), True,
    )  # fmt: skip


def twins(shift: np.ndarray, alone: bool) -> tuple[Prototypes, Coupling]:
    """Two groups with the same prototypes, the second moved by `shift`; if `alone`, it lacks the last type."""
    rng = np.random.default_rng(0)
    centre = np.repeat(5 * rng.normal(size=(3, D)), 4, axis=0)
    x = centre + 0.3 * rng.normal(size=(12, D))
    keep = 8 if alone else 12
    position = np.concatenate([x, x[:keep] + shift]).astype(np.float32)
    plan = np.eye(3)[np.concatenate([np.repeat(range(3), 4), np.repeat(range(3), 4)[:keep]])]
    mass = np.full(len(position), 50, np.float32)
    return Prototypes(position, mass, np.array([0, 12, 12 + keep])), coupled(plan, 2)


def random_problem(seed: int = 0, k: int = 4) -> tuple[Prototypes, Coupling]:
    rng = np.random.default_rng(seed)
    mass = rng.integers(1, 9, size=15).astype(np.float32)
    prototypes = Prototypes(rng.normal(size=(15, D)).astype(np.float32), mass, np.array([0, 4, 9, 15]))
    return prototypes, coupled(rng.dirichlet(np.full(k, 0.5), size=15), 3)


SHIFT = np.array([1.0, -2.0, 0.5])


def moments(prototypes: Prototypes, within: float = 0.0) -> np.ndarray:
    """(B,) sums of squared norms of the cells, whose variance about their prototype is `within`."""
    squared = prototypes.mass * (np.square(prototypes.position).sum(axis=1) + within)
    return np.add.reduceat(squared, prototypes.start[:-1]).astype(float)


def translate(prototypes: Prototypes, coupling: Coupling, centers: CenterSummary, caution: float) -> np.ndarray:
    """Displacements in full, averaged over no other prototype."""
    n = len(prototypes.mass)
    found = estimate_translation(
        prototypes, coupling, centers, caution, moments(prototypes), csr_array(np.eye(n, dtype=np.float32))
    )
    return found.of_prototypes(prototypes.group)


@pytest.mark.parametrize("caution", [0.0, 0.5, 1.0])
def test_a_known_shift_is_found(caution):
    prototypes, coupling = twins(SHIFT, alone=False)
    move = translate(prototypes, coupling, summarize_centers(prototypes, coupling), caution)
    # both groups go half of the way
    assert np.allclose(move[:12], -SHIFT / 2, atol=1e-4)
    assert np.allclose(move[12:], SHIFT / 2, atol=1e-4)


@pytest.mark.parametrize("fixed", [0, 1])
def test_with_a_reference_the_other_goes_all_the_way(fixed):
    prototypes, coupling = twins(SHIFT, alone=False)
    move = translate(prototypes, coupling, summarize_centers(prototypes, coupling, fixed_groups=(fixed,)), 0.5)
    wanted = np.where(np.arange(24)[:, None] < 12, -SHIFT * (fixed == 1), SHIFT * (fixed == 0))
    # the reference's own mean is the target up to one pseudo-cell in 200
    assert np.abs(move - wanted).max() < 0.01 * np.linalg.norm(SHIFT)


@pytest.mark.parametrize("caution", [0.5, 1.0])
def test_a_type_without_a_partner_moves_with_its_batch(caution):
    prototypes, coupling = twins(SHIFT, alone=True)
    move = translate(prototypes, coupling, summarize_centers(prototypes, coupling), caution)
    assert np.allclose(move[8:12], move[:8].mean(0), atol=1e-4)
    assert np.allclose(move[8:12], -SHIFT / 2, atol=1e-3)


def test_without_conservation_every_centre_is_trusted():
    prototypes, coupling = twins(SHIFT, alone=True)
    move = translate(prototypes, coupling, summarize_centers(prototypes, coupling), 0.0)
    # alone at its centre, it is where it should be, but for one pseudo-cell in 200
    assert np.abs(move[8:12]).max() < 0.02


def test_clusters_are_loops():
    prototypes, coupling = random_problem()
    found = summarize_centers(prototypes, coupling)
    count, mean = np.zeros((3, 4)), np.zeros((3, 4, D))
    for b in range(3):
        for p in range(prototypes.start[b], prototypes.start[b + 1]):
            count[b] += prototypes.mass[p] * coupling.plan[p]
            mean[b] += (prototypes.mass[p] * coupling.plan[p])[:, None] * prototypes.position[p]
    mean /= count[..., None]
    sure = count / (count + 1)
    assert np.allclose(found.n_cells, count, rtol=1e-4)
    assert np.allclose(found.mean, mean, atol=1e-3)
    assert np.allclose(found.target, (sure[..., None] * mean).sum(0) / sure.sum(0)[:, None], atol=1e-3)
    part = count / count.sum(1, keepdims=True)
    assert np.allclose(found.proportions, part, atol=1e-5)
    assert np.allclose(found.mean_proportions, part.mean(0), atol=1e-5)


def test_fitted_clusters_stand_for_new_groups():
    prototypes, coupling = random_problem()
    fitted = summarize_centers(prototypes, coupling)
    moved = replace(prototypes, position=prototypes.position + 1)
    new = summarize_centers(moved, coupling, fitted=fitted)
    assert new.target is fitted.target
    assert new.mean_proportions is fitted.mean_proportions
    assert np.allclose(new.mean, fitted.mean + 1, atol=1e-3)


@pytest.mark.parametrize("caution", [0.2, 1.0])
def test_translation_and_trust_are_loops(caution):
    prototypes, coupling = random_problem(1)
    clusters, squares = summarize_centers(prototypes, coupling), moments(prototypes, within=3.0)
    smoothing = compute_smoothing(prototypes)
    part, groups, deviations, trusts, variances = clusters.proportions.astype(float), [], [], [], []
    for b in range(3):
        rows = prototypes.of(b)
        other = np.mean([part[c] for c in range(3) if c != b], axis=0)
        trust = np.minimum(1, np.minimum(part[b], other) / np.maximum(part[b], other) / caution)
        delta, c = (clusters.mean[b] - clusters.target).astype(float), clusters.n_cells[b].astype(float)
        common = ((trust * c)[:, None] * delta).sum(0) / (trust * c).sum()
        variance = (squares[b] - (c * np.square(clusters.mean[b]).sum(1)).sum()) / c.sum()
        noise = _NOISE_LEFT * min(1, 2 * caution) * variance / c
        factor = trust * np.maximum(0, 1 - noise / np.square(delta - common).sum(1))
        deviations.append(coupling.plan[rows] @ (factor[:, None] * (delta - common)))
        groups.append(common)
        variances.append(variance)
        trusts.append(coupling.plan[rows] @ trust)
    found = estimate_translation(prototypes, coupling, clusters, caution, squares, smoothing)
    assert np.allclose(found.of_group, groups, atol=1e-3)
    assert np.allclose(found.deviation, smoothing @ np.concatenate(deviations), atol=1e-3)
    whole = sum(clusters.n_cells[b].sum() * np.square(groups[b]).sum() for b in range(3))
    assert found.certainty == pytest.approx(max(0, 1 - _CHANCE * sum(variances) * 2 / 3 / whole), abs=1e-3)
    some = found.of_prototypes(prototypes.group, 0.5, 0.2)
    assert np.allclose(some, 0.5 * found.of_group[prototypes.group] + 0.2 * found.deviation, atol=1e-6)
    assert np.allclose(estimate_agreement(prototypes, coupling, clusters, caution), np.concatenate(trusts), atol=1e-4)


def test_deviations_by_chance_vanish_and_large_ones_remain():
    prototypes, coupling = twins(SHIFT, alone=False)
    position = prototypes.position.copy()
    position[20:] += 3.0  # the last type of the second group is elsewhere
    prototypes = replace(prototypes, position=position)
    clusters, smoothing = summarize_centers(prototypes, coupling), compute_smoothing(prototypes)
    near, far = (
        estimate_translation(prototypes, coupling, clusters, 0.5, moments(prototypes, within), smoothing)
        for within in (0.1, 1e5)
    )
    assert np.linalg.norm(near.deviation[20:], axis=1).min() > 0.8
    assert not far.deviation.any()
    assert near.certainty > 0.9
    assert far.certainty == 0


def test_smoothing_averages_within_groups():
    prototypes, _ = random_problem(2)
    smoothing = compute_smoothing(prototypes).toarray()
    assert np.allclose(smoothing.sum(axis=1), 1, atol=1e-5)
    assert not smoothing[prototypes.group[:, None] != prototypes.group].any()
    for b in range(3):
        rows = prototypes.of(b)
        near, weight = soft_assign(prototypes.position[rows], prototypes.position[rows], 30)
        for row, (columns, values) in enumerate(zip(near, weight, strict=True)):
            assert np.allclose(smoothing[rows.start + row, rows.start + columns], values, atol=1e-6)


def test_covariance_is_numpys():
    rng = np.random.default_rng(0)
    x, nearest = rng.normal(size=(70, D)).astype(np.float32), rng.integers(4, size=70)
    nearest[30:] += 4
    anchor, weight = rng.normal(size=(8, D)).astype(np.float32), rng.uniform(0.1, 2, size=8).astype(np.float32)
    covariance, total = compute_residual_covariances(x, np.array([0, 30, 70]), nearest, anchor, weight)
    for b, rows in enumerate((slice(0, 30), slice(30, 70))):
        e, w = (x - anchor[nearest])[rows].astype(float), weight[nearest[rows]].astype(float)
        assert total[b] == pytest.approx(w.sum(), rel=1e-5)
        assert np.allclose(covariance[b], (w[:, None] * e).T @ e / w.sum(), atol=1e-5)


def test_anchor_is_the_mean_of_the_main_centre_and_missing_types_weigh_nothing():
    prototypes, coupling = twins(SHIFT, alone=True)
    anchor, weight = compute_anchors(prototypes, coupling, summarize_centers(prototypes, coupling))
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16), slice(16, 20)):
        assert np.allclose(anchor[rows], prototypes.position[rows].mean(0), atol=1e-4)
    assert weight[8:12].max() < 1e-3
    assert weight[:8].min() > 0.5


def spd(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.normal(size=(n, D, D))
    return root @ root.swapaxes(1, 2) + 0.05 * np.eye(D)


def test_bures_map_is_scipys_and_carries_one_covariance_to_the_other():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(4, D, D))
    covariance, target = roots[:3] @ roots[:3].swapaxes(1, 2), roots[3] @ roots[3].T
    change = compute_shape_changes(covariance, target, True)
    ridge = _RIDGE * np.trace(target) / D * np.eye(D)
    for b in range(3):
        one, two = covariance[b] + ridge, target + ridge
        inverse = np.linalg.inv(sqrtm(one))
        bures = change[b] + np.eye(D)
        assert np.allclose(bures, inverse @ sqrtm(sqrtm(one) @ two @ sqrtm(one)) @ inverse, atol=1e-5)
        assert np.allclose(bures @ one @ bures, two, atol=1e-4)


def test_shape_of_equals_stays_and_that_of_multiples_is_the_scale():
    root = np.random.default_rng(0).normal(size=(D, D))
    target = root @ root.T
    for match_shapes in (False, True):
        assert np.abs(compute_shape_changes(np.stack([target, target]), target, match_shapes)).max() < 1e-6
        scaled = compute_shape_changes(4 * np.eye(D)[None], np.eye(D), match_shapes)[0] + np.eye(D)
        assert np.allclose(scaled, np.sqrt((1 + _RIDGE) / (4 + _RIDGE)) * np.eye(D), atol=1e-6)
        assert np.isfinite(compute_shape_changes(np.zeros((1, D, D)), np.zeros((D, D)), match_shapes)).all()


def test_without_shapes_only_the_total_variance_is_matched():
    root = np.random.default_rng(1).normal(size=(D, D))
    change = compute_shape_changes((root @ root.T)[None], np.eye(D), False)[0]
    ratio = (D + _RIDGE * D) / (np.trace(root @ root.T) + _RIDGE * D)
    assert np.allclose(change + np.eye(D), np.sqrt(ratio) * np.eye(D), atol=1e-6)


def test_shrinkage_has_d_pseudo_counts():
    rng = np.random.default_rng(2)
    covariance, target = spd(rng, 2), spd(rng, 1)[0]
    found = shrink_covariances(covariance, np.array([0.0, 9.0]), target)
    assert np.allclose(found[0], target)
    assert np.allclose(found[1], (9 * covariance[1] + 3 * target) / 12)


def test_only_what_is_shared_is_trusted():
    prototypes, coupling = twins(SHIFT, alone=True)
    trust = estimate_agreement(prototypes, coupling, summarize_centers(prototypes, coupling), 0.5)
    assert np.allclose(trust[8:12], 0, atol=1e-6)
    assert np.allclose(np.delete(trust, range(8, 12)), 1, atol=1e-6)
    assert np.allclose(estimate_agreement(prototypes, coupling, summarize_centers(prototypes, coupling), 0.0), 1)


def test_new_groups_are_compared_with_the_fitted_shares():
    prototypes, coupling = random_problem(2)
    clusters = summarize_centers(prototypes, coupling)
    fitted = replace(clusters, mean_proportions=np.float32([0.7, 0.1, 0.1, 0.1]))
    part, usual = clusters.proportions, fitted.mean_proportions
    ratio = np.minimum(part, usual) / np.maximum(part, usual)
    wanted = np.concatenate([coupling.plan[prototypes.of(b)] @ ratio[b] for b in range(3)])
    assert np.allclose(
        estimate_agreement(prototypes, coupling, replace(fitted, of_new_groups=True), 1.0), wanted, atol=1e-5
    )
