"""Semi-relaxed transport onto shared centres, against POT and against closed forms."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from muport._arrays import unit_rows
from muport.integration.prototypes._prototypes import Prototypes
from muport.integration.shared_centers._coupling import (
    EPSILON,
    Coupling,
    CouplingSettings,
    _pad_groups,
    fit_coupling,
    initialize_centers,
    normalize_mass,
)

D, K = 4, 5


def problem(seed: int = 0, sizes: tuple[int, ...] = (7, 12, 3)) -> tuple[Prototypes, Coupling]:
    rng = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(sizes)])
    # types in unequal parts, so that the relaxation has something to do
    position = rng.normal(size=(start[-1], D)) + np.repeat(rng.normal(size=(len(sizes), D)), sizes, axis=0)
    mass = rng.integers(1, 30, size=start[-1])
    prototypes = Prototypes(position.astype(np.float32), mass.astype(np.float32), start)
    weight = rng.dirichlet(np.full(K, 3.0)).astype(np.float32)
    centers = unit_rows(rng.normal(size=(K, D)).astype(np.float32))
    empty = np.zeros((len(sizes), K), np.float32)
    return prototypes, Coupling(centers, np.empty((0, 0), np.float32), weight, empty, True)


def solved(prototypes: Prototypes, start: Coupling, theta: float, **how) -> Coupling:
    settings = CouplingSettings(theta, frozen=True, max_iter=5000, tol=1e-6)
    return fit_coupling(prototypes.position, prototypes, start, settings, **how)


def cosine_cost(prototypes: Prototypes, start: Coupling) -> np.ndarray:
    p = prototypes.position.astype(float)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    return 2 - 2 * p @ start.centers.astype(float).T


def by_pot(cost: np.ndarray, a: np.ndarray, m: np.ndarray, theta: float) -> np.ndarray:
    plan = ot.unbalanced.sinkhorn_knopp_unbalanced(
        a, m, cost, EPSILON, reg_m=(float("inf"), theta * EPSILON), reg_type="kl", numItermax=20_000, stopThr=1e-12
    )
    return plan / a[:, None]


def by_hand(cost: np.ndarray, a: np.ndarray, m: np.ndarray, theta: float) -> np.ndarray:
    """Log-domain fixed point of Eqs 2-4 with tau = theta / (1 + theta) on the columns and 1 on the rows."""
    from scipy.special import logsumexp

    g, tau = np.zeros(len(m)), theta / (1 + theta)
    for _ in range(400):
        f = -logsumexp(g - cost / EPSILON + np.log(m), axis=1)
        g = -tau * logsumexp(f[:, None] - cost / EPSILON + np.log(a)[:, None], axis=0)
    return np.exp(f[:, None] + g - cost / EPSILON + np.log(m))


@pytest.mark.parametrize("theta", [0.3, 2.0, 8.0])
@pytest.mark.parametrize("oracle", [by_pot, by_hand])
def test_the_plan_is_the_oracles(theta, oracle):
    prototypes, start = problem()
    found = solved(prototypes, start, theta)
    assert found.converged
    a, cost, m = normalize_mass(prototypes).astype(float), cosine_cost(prototypes, start), start.weight.astype(float)
    for b in range(prototypes.n_groups):
        rows = prototypes.of(b)
        assert np.abs(found.plan[rows] - oracle(cost[rows], a[rows] / a[rows].sum(), m / m.sum(), theta)).max() < 1e-4


def test_without_relaxation_it_is_a_softmax():
    prototypes, start = problem(1)
    logit = np.log(start.weight) - cosine_cost(prototypes, start) / EPSILON
    wanted = np.exp(logit - logit.max(1, keepdims=True))
    found = solved(prototypes, start, 0.0)
    assert np.allclose(found.plan, wanted / wanted.sum(1, keepdims=True), atol=1e-5)


def test_far_relaxed_the_centres_get_their_masses_from_every_group():
    prototypes, start = problem(2)
    gaps = []
    for theta in (0.0, 1.0, 10.0, 1e4):
        flow = normalize_mass(prototypes)[:, None] * solved(prototypes, start, theta).plan
        gaps.append(np.abs(np.add.reduceat(flow, prototypes.start[:-1], axis=0) - start.weight).sum(1).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.3
    assert gaps[-1] < 2e-3


@pytest.mark.parametrize("how", [{}, {"max_iter": 1}, {"frozen": True}])
def test_rows_sum_to_one_whatever_the_stopping(how):
    prototypes, start = problem(3)
    found = fit_coupling(prototypes.position, prototypes, start, CouplingSettings(2.0, **how))
    assert np.allclose(found.plan.sum(1), 1, atol=1e-6)
    assert found.plan.min() >= 0


def test_a_penalty_acts_as_its_exponential():
    prototypes, start = problem(4)
    penalty = np.zeros((len(prototypes.mass), K), np.float32)
    penalty[3, 2] = 0.25
    free, held = (solved(prototypes, start, 0.0, penalty=p).plan for p in (None, penalty))
    odds = (held[3, 2] / held[3, 0]) / (free[3, 2] / free[3, 0])
    assert odds == pytest.approx(np.exp(-0.25 / EPSILON), rel=1e-3)
    others = np.delete(np.arange(len(penalty)), 3)
    assert np.allclose(free[others], held[others], atol=1e-6)


def test_centres_move_to_the_mean_direction_unless_frozen():
    prototypes, start = problem(5)
    found = fit_coupling(prototypes.position, prototypes, start, CouplingSettings(2.0, tol=1e-6, max_iter=5000))
    flow = normalize_mass(prototypes)[:, None] * found.plan
    wanted = flow.T @ unit_rows(prototypes.position)
    assert np.allclose(found.centers, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)
    assert np.allclose(found.weight, flow.sum(0) / 3, atol=1e-5)
    assert found.weight.sum() == pytest.approx(1, abs=1e-5)
    frozen = solved(prototypes, start, 2.0)
    assert frozen.centers is start.centers
    assert frozen.weight is start.weight


def test_groups_do_not_know_of_each_other_when_frozen():
    prototypes, start = problem(6)
    rows = prototypes.of(1)
    alone = Prototypes(prototypes.position[rows], prototypes.mass[rows], np.array([0, rows.stop - rows.start]))
    one = Coupling(start.centers, start.plan, start.weight, np.zeros((1, K), np.float32), True)
    assert np.allclose(solved(alone, one, 2.0).plan, solved(prototypes, start, 2.0).plan[rows], atol=1e-4)


def test_it_goes_on_from_potentials():
    prototypes, start = problem(7)
    found = solved(prototypes, start, 2.0)
    settings = CouplingSettings(2.0, frozen=True, max_iter=5, tol=1e-5)
    again = fit_coupling(prototypes.position, prototypes, found, settings)
    assert again.converged
    assert np.allclose(again.plan, found.plan, atol=1e-4)


def test_a_prototype_at_the_origin_and_a_single_centre():
    prototypes, start = problem(8)
    prototypes.position[2] = 0
    found = solved(prototypes, start, 2.0)
    assert np.isfinite(found.plan).all()
    one = Coupling(start.centers[:1], start.plan, np.ones(1, np.float32), np.zeros((3, 1), np.float32), True)
    assert np.allclose(fit_coupling(prototypes.position, prototypes, one, CouplingSettings(2.0)).plan, 1)


def test_padding_scatters_by_group():
    prototypes, _ = problem(9)
    padded = _pad_groups(prototypes.position, prototypes)
    assert padded.shape == (3, 12, D)
    for b in range(3):
        rows = prototypes.of(b)
        assert np.array_equal(padded[b, : rows.stop - rows.start], prototypes.position[rows])
        assert not padded[b, rows.stop - rows.start :].any()


def test_starting_centres_are_unit_and_count_groups_alike():
    prototypes, _ = problem(10)
    centers = initialize_centers(prototypes, 4, 0)
    assert centers.shape == (4, D)
    assert np.allclose(np.linalg.norm(centers, axis=1), 1, atol=1e-5)
    heavier = Prototypes(prototypes.position, prototypes.mass.copy(), prototypes.start)
    heavier.mass[prototypes.of(0)] *= 64
    assert np.array_equal(initialize_centers(heavier, 4, 0), centers)
