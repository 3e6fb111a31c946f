"""A type that is shifted far in one group finds its partner; two different types do not."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.shared_centers import _distant_partners as module
from muport.integration.shared_centers import _fit as fit
from muport.integration.shared_centers import _transport as module_of_transport
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


def test_the_move_of_a_type_shifted_far_grows_with_the_strength(kit):
    sim = cells(kit, exclusive=False, seed=1)
    mixed = [mixing(sim, kit.integrate(sim, strength=strength)[0]) for strength in (0.25, 0.5, 1)]
    assert mixed[0] < mixed[1] <= mixed[2] + 0.02


@pytest.mark.parametrize("seed", range(2))
def test_two_types_of_which_each_batch_has_one_stay_apart(kit, seed):
    sim = cells(kit, exclusive=True, seed=seed)
    assert (kit.neighbor_accuracy(kit.integrate(sim)[0], sim.kind) > 0.95).all()


def test_without_distant_partners_there_is_one_transport(kit, monkeypatch):
    calls = []
    monkeypatch.setattr(fit, "fit_transport", lambda *args: calls.append(args) or transport(*args))
    transport = module_of_transport.fit_transport
    kit.integrate(kit.draw())
    assert len(calls) == 1


def test_fidelity_is_one_for_equal_shapes_whatever_their_scale_and_the_bures_cosine_otherwise():
    covariance = np.array([np.diag([4.0, 1.0, 1.0]), np.diag([1.0, 1.0, 4.0]), np.diag([12.0, 3.0, 3.0]), np.eye(3)])
    fidelity = module._fidelity(covariance, np.array([[0, 2], [0, 1], [0, 3]]))
    # commuting: the sum of the roots of the products of the variances
    assert np.allclose(fidelity, [1, (2 + 1 + 2) / 6, 4 / np.sqrt(18)])


def test_chance_is_about_the_unlikeness_of_two_samples():
    rng = np.random.default_rng(0)
    n, q = 100, 10
    covariance = np.array([np.cov(rng.normal(size=(n, q)).T) for _ in range(40)])
    pairs = np.arange(40).reshape(20, 2)
    found = 1 - module._fidelity(covariance, pairs).mean()
    assert module._chance(np.full(40, n), pairs, q) == pytest.approx(found, rel=0.35)


def sets(*occupancy: tuple[float, ...], distance: float = 2.0):
    """One set for each row of occupancy, at equal distances."""
    n = len(occupancy)
    return module._Sets(np.eye(n, dtype=bool), np.array(occupancy), distance / np.sqrt(2) * np.eye(n))


@pytest.mark.parametrize(
    ("occupancy", "found"),
    [
        (((0.5, 0.0), (0.0, 0.5)), True),  # each group has one
        (((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.5, 0.4)), True),
        (((0.5, 0.0, 0.5), (0.0, 0.5, 0.0)), True),
        (((0.5, 0.4), (0.4, 0.5)), False),  # both groups have both
        (((0.5, 0.0), (0.0, 0.1)), False),  # different proportions
        (((0.5, 0.0, 0.0), (0.5, 0.0, 0.0)), False),  # one group has both
        (((0.005, 0.0), (0.0, 0.005)), False),  # too few cells
    ],
)
def test_pairs_need_groups_of_which_each_has_one_set(occupancy, found):
    assert bool(len(module._screen_pairs(sets(*occupancy), 1.0)[0])) == found


def test_sets_that_are_near_are_no_distant_partners():
    near = sets((0.5, 0.0), (0.0, 0.5), distance=0.25)
    assert len(module._screen_pairs(near, 1.0)[0]) == 0


def test_covariances_of_sets_are_those_of_all_their_cells():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(30, 3)) + 2
    halves = [z[:10], z[10:]]
    moments = module._Moments(
        np.array([10.0, 20.0]),
        np.array([10, 20]),
        np.stack([half.sum(0) for half in halves]),
        np.stack([half.T @ half for half in halves]),
        0.0,
    )
    assert np.allclose(moments.covariances(np.ones((1, 2), bool))[0], np.cov(z.T, bias=True))


def test_the_tree_has_all_centers_and_is_cut_into_disjoint_sets():
    rng = np.random.default_rng(0)
    proportions = rng.dirichlet(np.ones(12), size=3)
    tree = module._build_tree(proportions, rng.normal(size=(12, 4)))
    assert tree.members[-1].all()
    assert np.allclose(tree.occupancy[-1], 1)
    cut = module._cut_tree(tree)
    assert len(cut) == 8
    assert (tree.members[cut].sum(axis=0) == 1).all()


def test_pairs_are_selected_by_mass_and_share_no_center():
    members = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]], bool)
    some = module._Sets(members, np.ones((5, 2)), np.zeros((5, 1)))
    pairs = np.array([[0, 2], [1, 3], [4, 2], [0, 3]])
    selected = module._select(some, pairs, np.array([1.0, 1.0, 0.5, 0.0]), np.array([0.1, 0.2, 0.3, 1.0]))
    assert [pair[:2] for pair in selected] == [(1, 3), (0, 2)]
