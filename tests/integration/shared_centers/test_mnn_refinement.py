"""The residual refinement between mutual nearest prototypes, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.prototypes._prototypes import Prototypes, soft_assign
from muport.integration.shared_centers._coupling import normalize_mass
from muport.integration.shared_centers._mnn_refinement import estimate_mnn_shift


def make(sizes: tuple[int, ...] = (20, 14, 9), seed: int = 0) -> Prototypes:
    rng = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(sizes)])
    position = rng.normal(size=(start[-1], 3)).astype(np.float32)
    return Prototypes(position, rng.integers(1, 9, start[-1]).astype(np.float32), start)


def spread(prototypes: Prototypes, shift: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Kernel mean over the nearest prototypes of the group that have met another group."""
    out = np.zeros_like(shift)
    for b in range(prototypes.n_groups):
        rows = prototypes.of(b)
        source = np.flatnonzero(met[rows]) + rows.start
        if len(source):
            near, weight = soft_assign(prototypes.position[rows], prototypes.position[source], 30)
            out[rows] = np.einsum("pk,pkd->pd", weight, shift[source[near]])
    return out


def nearest(points: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    return np.linalg.norm(query[:, None] - points[None], axis=2).argsort(1)[:, :k]


def test_mutual_neighbours_are_loops():
    prototypes = make()
    image, group, weight = prototypes.position * 1.5, prototypes.group, normalize_mass(prototypes)
    k, n = min(10, 43 - 20), len(image)
    sets = []
    for p in range(n):
        others = np.flatnonzero(group != group[p])
        sets.append(set(others[nearest(image[others], image[[p]], k)[0]].tolist()))
    shift, met = np.zeros_like(image), np.zeros(n, bool)
    for p in range(n):
        mutual = [q for q in sets[p] if p in sets[q]]
        met[p] = bool(mutual)
        if mutual:
            shift[p] = np.average(image[mutual], axis=0, weights=weight[mutual]) - image[p]
    assert met.any()
    assert np.allclose(estimate_mnn_shift(prototypes, image), spread(prototypes, shift, met), atol=1e-5)


def test_onto_fixed_prototypes():
    prototypes, fixed = make((12,)), make((30,), seed=1).position
    image = prototypes.position
    to, back = nearest(fixed, image, 5), nearest(image, fixed, 5)
    shift, met = np.zeros_like(image), np.zeros(12, bool)
    for p in range(12):
        mutual = [q for q in to[p] if p in back[q]]
        met[p] = bool(mutual)
        if mutual:
            shift[p] = fixed[mutual].mean(0) - image[p]
    assert np.allclose(estimate_mnn_shift(prototypes, image, fixed=fixed), spread(prototypes, shift, met), atol=1e-5)


def test_a_residual_between_far_pairs_is_closed_half_by_each():
    far = 100 * np.arange(30, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    image = np.concatenate([far, far + np.float32([1, 0, 0])])
    prototypes = Prototypes(image, np.ones(60, np.float32), np.array([0, 30, 60]))
    # five neighbours each: a symmetric window around the partner leaves the partner's offset
    inner = estimate_mnn_shift(prototypes, image)[10:20]
    assert np.allclose(inner, [1, 0, 0], atol=0.2)


def test_nothing_to_meet():
    alone = make((9,))
    assert not estimate_mnn_shift(alone, alone.position).any()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 6), (2, 1, 1)])
def test_few_prototypes(sizes):
    prototypes = make(sizes)
    found = estimate_mnn_shift(prototypes, prototypes.position)
    assert found.shape == prototypes.position.shape
    assert np.isfinite(found).all()


def test_one_without_a_partner_inherits_from_its_group():
    rng = np.random.default_rng(3)
    near = rng.normal(size=(40, 3)).astype(np.float32)
    position = np.concatenate([near, np.float32([[60, 0, 0]]), near + np.float32([0.3, 0, 0])])
    prototypes = Prototypes(position, np.ones(81, np.float32), np.array([0, 41, 81]))
    found = estimate_mnn_shift(prototypes, position)
    assert np.isfinite(found).all()
    # it moves as those of its group do, not onto the far cells of the other
    assert np.linalg.norm(found[40]) <= np.linalg.norm(found[:40], axis=1).max() + 1e-5
