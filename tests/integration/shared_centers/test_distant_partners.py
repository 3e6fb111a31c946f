"""A type that is shifted far in one group finds its partner; two different types do not."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.shared_centers import _distant_partners as module
from muport.neighbors import knn


def cells(kit, exclusive: bool, seed: int, n: int = 1000, d: int = 15, n_types: int = 5):
    """Types whose noise has directions of their own, in two batches.

    Type 0 is shifted in the second batch by 1.4 times the root mean square distance from the mean, or (`exclusive`)
    replaced by a type of its own.
    """
    rng = np.random.default_rng(seed)
    center = rng.normal(size=(n_types + 1, d))
    noise = np.exp(0.8 * rng.normal(size=(n_types + 1, 1, d)))
    noise = np.linalg.qr(rng.normal(size=(n_types + 1, d, d)))[0] * noise
    noise *= 2 / np.sqrt(np.square(noise).sum(axis=(1, 2), keepdims=True))
    batch, kind = rng.integers(2, size=n), rng.integers(n_types, size=n)
    target = (batch == 1) & (kind == 0)
    kind = np.where(target & exclusive, n_types, kind)
    x = center[kind] + np.einsum("nij,nj->ni", noise[kind], rng.normal(size=(n, d))) + 0.5 * batch[:, None]
    sim = type(kit.draw(n=2))(x.astype(np.float32), batch, kind)
    if not exclusive:
        way = rng.normal(size=d)
        sim.x[target] += (1.4 * sim.rms * way / np.linalg.norm(way)).astype(np.float32)
    return sim


def mixing(sim, z: np.ndarray) -> float:
    """Fraction of the neighbors of type 0 that are of this type and of the other batch, over that by chance."""
    of_type = sim.kind == 0
    near = knn(z, 20, query=z[of_type], method="exact").indices
    other = of_type[near] & (sim.batch[near] != sim.batch[of_type][:, None])
    return float(2 * other.mean())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_type_shifted_far_in_one_batch_is_united(kit, monkeypatch, seed):
    sim = cells(kit, exclusive=False, seed=seed)
    assert mixing(sim, kit.integrate(sim)[0]) > 0.9
    monkeypatch.setattr(module, "_LEAST_MASS", 2.0)
    assert mixing(sim, kit.integrate(sim)[0]) < 0.3


@pytest.mark.parametrize("seed", range(2))
def test_two_types_of_which_each_batch_has_one_stay_apart(kit, seed):
    sim = cells(kit, exclusive=True, seed=seed)
    assert (kit.neighbor_accuracy(kit.integrate(sim)[0], sim.kind) > 0.95).all()


def test_fidelity_is_one_for_equal_shapes_whatever_their_scale_and_the_bures_cosine_otherwise():
    diagonal = np.array([np.diag([4.0, 1.0, 1.0]), np.diag([1.0, 1.0, 4.0])])
    fidelity = module._fidelity(diagonal, np.concatenate([3 * diagonal, np.eye(3)[None]]))
    assert np.allclose(np.diag(fidelity), 1)
    # commuting: the sum of the roots of the products of the variances
    assert fidelity[0, 1] == pytest.approx((2 + 1 + 2) / 6)
    assert fidelity[0, 2] == pytest.approx(4 / np.sqrt(18))


def test_chance_is_about_the_unlikeness_of_two_samples():
    rng = np.random.default_rng(0)
    n, q = 100, 10
    draws = [np.cov(rng.normal(size=(n, q)).T) for _ in range(40)]
    found = 1 - module._fidelity(np.array(draws[:20]), np.array(draws[20:])).mean()
    parts = module._Parts(np.ones(1), np.zeros((1, q)), np.eye(q)[None], np.eye(q), 1.0, n)
    assert module._chance(parts)[0, 0] == pytest.approx(found, rel=0.35)


def test_groups_that_occupy_the_same_centers_form_a_class():
    with_one, with_other = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.0, 0.5])
    classes = module._classify_groups(np.stack([with_one, with_other, with_one, with_other]), 0.5)
    assert (classes == classes[[2, 3, 0, 1]]).all()
    assert classes[0] != classes[1]
    # a type that half of the groups lack, without another type in its place, makes no class
    lacking = np.array([1.0, 0.0, 0.0])
    assert len(set(module._classify_groups(np.stack([with_one, lacking, with_one]), 0.5))) == 1


def test_merged_parts_have_the_moments_of_all_their_cells():
    rng = np.random.default_rng(0)
    x, axes = rng.normal(size=(30, 4)) + 2, np.eye(4)[:, :3]
    halves = [x[:10], x[10:]]
    moment = np.stack([half[:, :3].T @ half[:, :3] / len(half) for half in halves])
    parts = module._Parts(np.array([1, 2]) / 3, np.stack([half.mean(0) for half in halves]), moment, axes, 1.0, 30)
    merged = parts.merge(parts.mass[None])
    assert np.allclose(merged.mean, x.mean(0))
    assert np.allclose(merged.covariances(0.0)[0], np.cov(x[:, :3].T, bias=True))


def test_pairs_are_selected_by_mass_and_share_no_center():
    members = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    parts = module._Parts(members.sum(1) / 4, np.zeros((3, 1)), np.zeros((3, 1, 1)), np.eye(1), 1.0, 10)
    side = module._Candidates(members, parts)
    assert module._select(side, side, np.ones((3, 3))) == [(0, 0, 1.0)]
    without_root = np.ones((3, 3)) * (np.arange(3) > 0) * (np.arange(3) > 0)[:, None]
    assert module._select(side, side, without_root) == [(1, 1, 1.0), (2, 2, 1.0)]
