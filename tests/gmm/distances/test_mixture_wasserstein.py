"""Distances between mixtures, against closed forms and POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.distances._mixture_wasserstein import compute_plans, mixture_wasserstein, pair_costs, solve_transport
from muport.gmm.mixtures._mixtures import Mixtures


def mixtures(seed: int, p: int = 3, k: int = 4, d: int = 3, kind: str = "full", padded: bool = True) -> Mixtures:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(k, 2.0), size=p)
    if padded and k > 1:
        weights[0, -1] = 0
        weights /= weights.sum(1, keepdims=True)
    means = rng.normal(size=(p, k, d)) * 2
    if kind == "full":
        factor = rng.normal(size=(p, k, d, d + 1))
        return Mixtures(weights, means, factor @ factor.swapaxes(2, 3), "full", 0.0)
    return Mixtures(weights, means, rng.uniform(0.1, 2, size=(p, k, d)), "diag", 0.0)


def plans(a: Mixtures, b: Mixtures | None = None, **options: float) -> np.ndarray:
    return compute_plans(a, b, pair_costs(a, b), **options)


def by_pot(a: Mixtures, b: Mixtures, i: int, j: int) -> float:
    left, right = a.weights[i] > 0, b.weights[j] > 0
    return float(np.sqrt(ot.gmm.gmm_ot_loss(
        a.means[i][left], b.means[j][right], a.full()[i][left], b.full()[j][right],
        a.weights[i][left], b.weights[j][right],
    )))  # fmt: skip


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_distances_are_pots(kind):
    a, b = mixtures(0, kind=kind), mixtures(1, p=2, k=3, kind=kind)
    wanted = [[by_pot(a, b, i, j) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(mixture_wasserstein(a, b), wanted, rtol=1e-6, atol=1e-6)
    own = [[by_pot(a, a, i, j) if i != j else 0 for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(mixture_wasserstein(a), own, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_metric_is_a_change_of_coordinates(kind):
    a, w = mixtures(2, kind=kind), np.random.default_rng(3).normal(size=(2, 3))
    moved = Mixtures(a.weights, a.means @ w.T, w @ a.full() @ w.T, "full", 0.0)
    np.testing.assert_allclose(mixture_wasserstein(a, w=w), mixture_wasserstein(moved), atol=1e-9)


def test_one_component_each_is_bures_wasserstein():
    a = mixtures(4, p=4, k=1, padded=False)
    wanted = [
        [ot.gaussian.bures_wasserstein_distance(a.means[i, 0], a.means[j, 0], s[0], t[0])
         for j, t in enumerate(a.covariances)] for i, s in enumerate(a.covariances)
    ]  # fmt: skip
    np.testing.assert_allclose(mixture_wasserstein(a), wanted, atol=1e-6)


def test_equal_covariances_are_discrete_transport():
    a = mixtures(5, p=4, k=5)
    same = Mixtures(a.weights, a.means, np.broadcast_to(a.covariances[0, 0], a.covariances.shape).copy(), "full", 0.0)
    both = list(zip(a.weights, a.means, strict=True))
    wanted = [[ot.emd2(x, y, ot.dist(m, n)) for y, n in both] for x, m in both]
    np.testing.assert_allclose(mixture_wasserstein(same), np.sqrt(wanted), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.sampled_from(["full", "diag"]))
def test_metric_axioms(seed, k, d, kind):
    mix = mixtures(seed, p=4, k=k, d=d, kind=kind)
    distance = mixture_wasserstein(mix)
    np.testing.assert_array_equal(distance, distance.T)
    assert (distance[~np.eye(4, dtype=bool)] > 1e-6).all()
    assert (distance[:, None] <= distance[:, :, None] + distance.T[None] + 1e-8).all()
    # zero iff equal, also where components are in another order or one is given as two halves
    order = np.random.default_rng(seed).permutation(k)
    parts = [np.concatenate([x[:, order], x[:, order]], 1) for x in (mix.weights / 2, mix.means, mix.covariances)]
    np.testing.assert_allclose(mixture_wasserstein(mix, Mixtures(*parts, kind, 0.0)).diagonal(), 0, atol=1e-5)


def test_a_distance_of_zero_needs_equal_covariances():
    a = mixtures(6, p=1, k=2)
    b = Mixtures(a.weights, a.means, a.covariances * 1.01, "full", 0.0)
    assert mixture_wasserstein(a, b)[0, 0] > 1e-3


def test_padding_changes_nothing():
    a = mixtures(7, p=2, k=3, padded=False)
    np.testing.assert_allclose(mixture_wasserstein(a.padded(6)), mixture_wasserstein(a), atol=1e-12)
    assert (pair_costs(a.padded(6))[..., 3:] == 0).all()


def test_costs_of_all_pairs():
    a, b = mixtures(8), mixtures(9, p=2)
    both = Mixtures.stack([a, b])
    np.testing.assert_allclose(pair_costs(both)[:3, 3:], pair_costs(a, b), atol=1e-9)
    np.testing.assert_allclose(pair_costs(both), pair_costs(both).transpose(1, 0, 3, 2), atol=0)


def test_plans_have_the_weights_as_marginals():
    a, b = mixtures(10), mixtures(11, p=2, k=3)
    plan = plans(a, b)
    np.testing.assert_allclose(plan.sum(3), np.broadcast_to(a.weights[:, None], plan.shape[:3]), atol=1e-9)
    np.testing.assert_allclose(plan.sum(2), np.broadcast_to(b.weights[None], (3, 2, 3)), atol=1e-9)
    own = plans(a)
    np.testing.assert_allclose(own, own.transpose(1, 0, 3, 2), atol=0)
    np.testing.assert_allclose(own[1, 1], np.diag(a.weights[1]), atol=0)


def test_a_state_that_one_patient_lacks_stays_unmatched():
    means = np.array([[[0.0], [10.0], [20.0]], [[0.5], [10.5], [20.5]]])
    weights = np.array([[0.5, 0.5, 0.0], [0.5, 0.2, 0.3]])
    mix = Mixtures(weights, means, np.ones((2, 3, 1)), "diag", 0.0)
    balanced, loose = plans(mix)[0, 1], plans(mix, tau=0.5)[0, 1]
    assert balanced[1, 2] == pytest.approx(0.3)
    np.testing.assert_allclose(loose, np.diag([0.5, 0.2, 0.0]), atol=1e-12)
    moved = (loose * pair_costs(mix)[0, 1]).sum() / loose.sum()
    assert np.sqrt(moved) == pytest.approx(0.5)
    assert plans(mix, tau=0.999)[0, 1].sum() == pytest.approx(1)


def test_partial_transport_is_pots():
    """With a price lam on either side, min <C, T> + lam (2 - 2 |T|): POT's partial transport of the same mass."""
    rng = np.random.default_rng(12)
    cost, a, b = rng.uniform(size=(4, 5)), rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(5))
    plan = solve_transport(*(torch.from_numpy(x[None]) for x in (cost, a, b)), price=0.1)[0].numpy()
    mass = plan.sum()
    assert 0.1 < mass < 1
    wanted = ot.partial.partial_wasserstein2(a, b, cost, m=mass)
    assert (plan * cost).sum() == pytest.approx(wanted, abs=1e-8)
    best = min(ot.partial.partial_wasserstein2(a, b, cost, m=m) + 0.2 * (1 - m) for m in np.linspace(0.05, 0.999, 60))
    assert (plan * cost).sum() + 0.2 * (1 - mass) <= best + 1e-8


def test_a_plan_is_never_empty():
    cost = torch.full((1, 2, 2), 5.0, dtype=torch.float64)
    mass = torch.full((1, 2), 0.5, dtype=torch.float64)
    assert solve_transport(cost, mass, mass, price=1.0).sum() == pytest.approx(1)


def test_bad_input():
    with pytest.raises(ValueError, match="tau"):
        plans(mixtures(0), tau=0.0)
    with pytest.raises(ValueError, match="w has shape"):
        mixture_wasserstein(mixtures(0), w=np.ones((2, 5)))


def test_other_coordinates_are_refused():
    with pytest.raises(ValueError, match="coordinates"):
        mixture_wasserstein(mixtures(0), mixtures(0, d=2))
    with pytest.raises(ValueError, match="covariances"):
        mixture_wasserstein(mixtures(0), mixtures(0, kind="diag"))
