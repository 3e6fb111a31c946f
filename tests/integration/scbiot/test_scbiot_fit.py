"""Each equation against a plain formula, and the loop on data whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration._fitted_state import apply_map, transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.prototypes._prototypes import Prototypes
from muport.integration.prototypes._standardized_cells import StandardizedCells, standardize_cells
from muport.integration.scbiot import _iterations as loop
from muport.integration.scbiot._iterations import Iterate, build_problem, run_iterations, score_iterate
from muport.integration.scbiot._move_limits import build_edges, cap_moves, compute_moments, guard_edges, postscale
from muport.integration.scbiot._proposed_moves import (
    compute_bridge_scores,
    compute_damping,
    compute_density_weights,
    compute_label_shift,
    compute_sharpening_shift,
    interpolate_limits,
    transport_to_barycenters,
)
from muport.integration.scbiot._scbiot_fit import build_landmarks, count_landmarks, fit_scbiot
from muport.integration.scbiot._schedule import anneal_settings
from muport.integration.shared_centers._diagnostics import Diagnostics, ObjectiveWeights
from muport.integration.shared_centers._fit import IntegrationFit
from muport.integration.shared_centers._new_groups import fit_new_groups
from muport.neighbors import knn

OFF = Hyperparameters(sharpen=0, projector=0)


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def batches(
    n: int = 600, d: int = 8, shift: float = 0.6, n_groups: int = 2, seed: int = 0
) -> tuple[StandardizedCells, np.ndarray]:
    """Four types, each batch shifted as a whole; returns the cells and their types in the same order."""
    rng = np.random.default_rng(seed)
    types, group = rng.integers(0, 4, n), rng.integers(0, n_groups, n)
    center = 4 * rng.normal(size=(4, d))
    x = center[types] + rng.normal(size=(n, d)) + 3 * shift * rng.normal(size=(n_groups, d))[group]
    cells = standardize_cells(x.astype(np.float32), group, tuple(map(str, range(n_groups))), types)
    assert cells.label is not None
    return replace(cells, label=None), cells.label


def embedded(found: IntegrationFit, cells: StandardizedCells) -> np.ndarray:
    plain = replace(found.state, center=np.zeros_like(found.state.center), scale=1.0)
    return transform_cells(cells.x, cells.group, plain)


# Eqs 1-16, one by one


def test_density_weights_are_eq_1() -> None:
    x = points(40, 3)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    spacing = np.sort(distance, axis=1)[:, 1:6].mean(axis=1)
    found = compute_density_weights(knn(x, 5, method="exact").distances.mean(axis=1))
    np.testing.assert_allclose(found, spacing / spacing.mean(), rtol=1e-4)
    np.testing.assert_array_equal(compute_density_weights(np.zeros(3, np.float32)), 1)


def test_bridge_score_is_eqs_8_and_9() -> None:
    rng = np.random.default_rng(0)
    groups, spacing = rng.integers(0, 3, (20, 7)), rng.random(20).astype(np.float32)
    rho = (spacing - spacing.min()) / (spacing.max() - spacing.min())
    share = np.array([[np.mean(row == c) for c in range(3)] for row in groups])
    entropy = -(share * np.log(share + 1e-12)).sum(axis=1) / np.log(3)
    beta, sparsity = compute_bridge_scores(groups, spacing, 3)
    np.testing.assert_allclose(sparsity, rho, atol=1e-6)
    np.testing.assert_allclose(beta, 0.5 * entropy + 0.5 * rho, atol=1e-6)


def test_transport_is_eqs_2_to_5() -> None:
    sizes, reference = (7, 4), points(6, 3, seed=9)
    sources = [points(n, 3, seed=n) + 1 for n in sizes]
    image, mass, converged = transport_to_barycenters(sources, reference, 0.8, max_iter=5000, tol=1e-6, device="cpu")
    assert converged
    expected, total = [], []
    for b in sources:
        cost = ((b[:, None].astype(float) - reference[None]) ** 2).sum(axis=2)
        cost /= cost.std()
        cost = np.minimum(cost, np.quantile(cost, 0.8, method="higher"))
        kernel, tau = np.exp(-cost / 0.028), 0.40 / (0.40 + 0.028)
        u, v = np.ones(len(b)), np.ones(len(reference))
        for _ in range(20_000):
            u = (1 / len(b) / (kernel @ v)) ** tau
            v = (1 / len(reference) / (kernel.T @ u)) ** tau
        plan = u[:, None] * kernel * v
        expected.append(plan @ reference / plan.sum(axis=1, keepdims=True))
        total.append(plan.sum())
    for one, other in zip(image, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert mass == pytest.approx(np.mean(total), rel=1e-3)


def test_no_prototype_is_lost_when_the_reference_is_far() -> None:
    image, _, _ = transport_to_barycenters(
        [points(5, 2) + 500], points(4, 2), 0.9, max_iter=1000, tol=1e-5, device="cpu"
    )
    low, high = points(4, 2).min(axis=0), points(4, 2).max(axis=0)
    assert (image[0] >= low - 1e-4).all()
    assert (image[0] <= high + 1e-4).all()
    assert np.linalg.norm(image[0], axis=1).min() > 1e-3, "the origin is where an underflowing kernel sends them"


def test_damping_is_eq_6_about_zero() -> None:
    delta = points(9, 3)
    length = np.linalg.norm(delta, axis=1)
    np.testing.assert_allclose(compute_damping(delta), 1 / (1 + length / np.sqrt((length**2).mean())), rtol=1e-5)
    np.testing.assert_allclose(compute_damping(np.ones((4, 2), np.float32)), 0.5)
    np.testing.assert_allclose(compute_damping(np.zeros((4, 2), np.float32)), 1)


def test_sharpening_is_eqs_10_and_11() -> None:
    x, centers, pull, push = points(15, 3), points(5, 3, seed=1), 0.78, 0.34
    ordered = [sorted(centers, key=lambda c, one=one: float(np.linalg.norm(one - c))) for one in x]
    near = np.array([[np.linalg.norm(one - c) for c in row[:2]] for one, row in zip(x, ordered, strict=True)])
    gate = 1 / (1 + np.exp(((near[:, 1] - near[:, 0]) / np.median(near[:, 1]) - 1) / 0.8))
    expected = [pull * (row[0] - one) + g * push * (one - row[1]) for one, row, g in zip(x, ordered, gate, strict=True)]
    np.testing.assert_allclose(compute_sharpening_shift(x, centers, pull, push), expected, atol=1e-5)
    np.testing.assert_allclose(
        compute_sharpening_shift(x, centers[:1], pull, push), pull * (centers[:1] - x), atol=1e-6
    )


def test_labels_pull_to_their_mean_and_push_from_the_nearest_other() -> None:
    x = np.float32([[0, 0], [2, 0], [5, 0], [9, 9]])
    label, mass = np.array([0, 0, 1, -1]), np.float32([1, 3, 1, 1])
    beta = np.float32([0.0, 0.5, 1.0, 1.0])
    mean = np.array([[1.5, 0], [5, 0]])
    expected = np.array([0.6 * (mean[label[i]] - x[i]) + 0.2 * (x[i] - mean[1 - label[i]]) for i in range(3)])
    found = compute_label_shift(x, label, mass, beta, 0.6, 0.2)
    np.testing.assert_allclose(found[:3], expected * (1 - 0.2 * beta[:3, None]), atol=1e-6)
    assert not found[3].any()


def test_cap_is_eq_14() -> None:
    shift, limit = points(12, 3), np.full(12, 1.2, np.float32)
    length = np.linalg.norm(shift, axis=1)
    expected = shift * np.minimum(1, limit / length)[:, None]
    np.testing.assert_allclose(cap_moves(shift, limit), expected, atol=1e-6)
    assert not cap_moves(shift, np.zeros(12, np.float32)).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.1, 3))
def test_guard_satisfies_eq_15_on_every_edge(seed: int, d: int, size: float) -> None:
    x, beta = points(60, d, seed), np.random.default_rng(seed).random(60).astype(np.float32)
    graph = knn(x, 6, method="exact")
    low, high = interpolate_limits(0.72, 0.88, beta), interpolate_limits(1.65, 1.24, beta)
    wanted = size * points(60, d, seed + 1)
    y = x + guard_edges(x, wanted, build_edges(graph), low, high, np.ones(60, bool))
    ratio = np.linalg.norm(y[:, None] - y[graph.indices], axis=2) / graph.distances
    assert (ratio >= low[:, None] - 1e-3).all()
    assert (ratio <= high[:, None] + 1e-3).all()


def test_guard_lets_what_stretches_nothing_pass() -> None:
    x = points(50, 4)
    edges, free = build_edges(knn(x, 5, method="exact")), np.ones(50, bool)
    low, high = np.full(50, 0.8, np.float32), np.full(50, 1.3, np.float32)
    together = np.full_like(x, 7)
    np.testing.assert_allclose(guard_edges(x, together, edges, low, high, free), together, atol=1e-4)
    slight = 0.01 * points(50, 4, seed=1)
    np.testing.assert_allclose(guard_edges(x, slight, edges, low, high, free), slight, atol=1e-6)


def test_guard_moves_a_stretched_cloud_and_not_what_is_fixed() -> None:
    x = points(80, 2)
    edges, free = build_edges(knn(x, 6, method="exact")), np.arange(80) >= 20
    move_ = points(80, 2, seed=1) * free[:, None]
    found = guard_edges(x, move_, edges, np.full(80, 0.5, np.float32), np.full(80, 2, np.float32), free)
    assert not found[:20].any()
    assert np.abs(found).max() < 10


def test_guard_keeps_the_common_move_of_a_component() -> None:
    cloud = points(60, 2)
    x = np.concatenate([cloud, cloud + 100])
    shift = np.repeat(np.float32([[5, 0], [0, -3]]), 60, axis=0)
    low, high = np.full(120, 0.98, np.float32), np.full(120, 1.02, np.float32)
    edges = build_edges(knn(x, 6, method="exact"))
    found = guard_edges(x, shift + 2 * points(120, 2, seed=1), edges, low, high, np.ones(120, bool))
    np.testing.assert_allclose(found[:60].mean(axis=0), shift[0], atol=0.8)
    np.testing.assert_allclose(found[60:].mean(axis=0), shift[60], atol=0.8)


def test_guard_gives_up_less_than_halving_would() -> None:
    x = points(300, 10)
    edges, free = build_edges(knn(x, 10, method="exact")), np.ones(300, bool)
    low, high = np.full(300, 0.8, np.float32), np.full(300, 1.25, np.float32)
    wanted = 0.4 * points(300, 10, seed=1)
    found = guard_edges(x, wanted, edges, low, high, free)
    assert np.linalg.norm(found - wanted) < 0.5 * np.linalg.norm(wanted), "halving alone gives up .63"


def test_postscale_is_eq_16() -> None:
    x0, x, mass = points(30, 3), 2 * points(30, 3, seed=1) + 5, np.ones(30, np.float32)
    found = postscale(x, mass, *compute_moments(x0, mass))
    np.testing.assert_allclose(found, (x - x.mean(0)) / x.std(0) * x0.std(0) + x0.mean(0), atol=1e-4)
    np.testing.assert_allclose(found.mean(0), x0.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.std(0), x0.std(0), rtol=1e-4)


def test_moments_count_the_cells_of_a_landmark() -> None:
    x, mass = points(5, 2), np.float32([1, 2, 3, 4, 5])
    cells = np.repeat(x, mass.astype(int), axis=0)
    mean, std = compute_moments(x, mass)
    np.testing.assert_allclose(mean, cells.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, cells.std(0), atol=1e-6)


# Eqs 17-21


def test_objective_is_eqs_20_and_21() -> None:
    found = Diagnostics(mix=0.5, mix_input=0.2, overlap=0.4, strain=0.05, trustworthiness=0.9)
    penalty = 1.4 * (0.6 - 0.4) ** 2 + 0.45 * (0.7 - 0.4)
    expected = (0.5 - 0.2) + 0.18 * 0.4 - 1.0 * 0.05 - penalty
    assert found.objective(0.6, 0.7, ObjectiveWeights()) == pytest.approx(expected)


def test_score_is_eqs_17_to_20_by_hand() -> None:
    x0, group = points(90, 3), np.arange(90) // 45
    x = x0 + 0.4 * points(90, 3, seed=1)
    problem = build_problem(Prototypes(x0, np.ones(90, np.float32), np.array([0, 45, 90])), None, OFF, FitOptions())

    def nearest(z: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(z[:, None] - z[None], axis=2) + np.diag(np.full(90, np.inf))
        return np.argsort(distance, axis=1)[:, :30]

    def mix(near: np.ndarray) -> float:
        p = np.array([[(group[row] == c).mean() for c in (0, 1)] for row in near])
        return float(-(p * np.log(p + 1e-12)).sum(axis=1).mean())

    before, after = nearest(x0), nearest(x)
    kept = np.mean([len(np.intersect1d(a, b)) / 30 for a, b in zip(before, after, strict=True)])
    old = np.linalg.norm(x0[:, None] - x0[before], axis=2)
    strain = np.mean(np.clip(np.linalg.norm(x[:, None] - x[before], axis=2) / old - 1, -1, 1) ** 2)
    penalty = 1.4 * max(0, 0.6 - kept) ** 2 + 0.45 * max(0, 0.9 - kept)
    expected = mix(after) - mix(before) + 0.18 * kept - strain - penalty
    found = score_iterate(problem, Iterate(1, x, 1.0, True, 0.0, 0.0), anneal_settings(Hyperparameters(), 0.0), 0.9)
    assert found.overlap == pytest.approx(kept, abs=1e-3)
    assert found.objective == pytest.approx(expected, abs=2e-3)


def test_settings_are_the_papers_at_one_half_and_off_at_zero() -> None:
    first, last = anneal_settings(Hyperparameters(), 0.0), anneal_settings(Hyperparameters(), 1.0)
    assert (first.step, last.step) == pytest.approx((0.78, 0.96))
    assert (first.smooth, last.smooth) == pytest.approx((0.52, 0.38))
    assert (first.quantile, last.quantile) == pytest.approx((0.80, 0.90))
    assert (first.floor, last.floor) == pytest.approx((0.60, 0.68))
    assert first.cap == pytest.approx(1.05)
    assert first.bulk == pytest.approx((0.72, 1.65))
    assert first.bridge == pytest.approx((0.88, 1.24))
    assert first.weights == ObjectiveWeights()
    off = anneal_settings(Hyperparameters(strength=0, conservation=0), 0.0)
    assert (off.step, off.cap, off.smooth, off.floor) == (0, 0, 0, 0)
    assert off.bulk == off.bridge == (0.0, np.inf)
    assert off.weights == ObjectiveWeights(0, 0, 0, 0)


def test_settings_grow_with_their_hyperparameters() -> None:
    grid = np.linspace(0, 1, 6)
    for progress in (0.0, 0.5, 1.0):
        strong = [anneal_settings(Hyperparameters(strength=float(s)), progress) for s in grid]
        careful = [anneal_settings(Hyperparameters(conservation=float(c)), progress) for c in grid]
        assert (np.diff([[one.step, one.cap] for one in strong], axis=0) > 0).all()
        rising = [[one.smooth, one.floor, one.bulk[0], -one.bridge[1], one.weights.strain] for one in careful[1:]]
        assert (np.diff(rising, axis=0) > 0).all()


# The loop


@pytest.mark.parametrize("reference", [(0,), ()])
def test_one_move_is_eqs_6_to_16(monkeypatch: pytest.MonkeyPatch, reference: tuple[int, ...]) -> None:
    cells, _ = batches(300)
    marks, _ = build_landmarks(cells, 0)
    x0, v = marks.position, 0.15 * np.float32([3, -2, 1, 0, 0, 0, 0, 1])
    monkeypatch.setattr(
        loop, "transport_to_barycenters", lambda batch, *_, **__: ([one + v for one in batch], 1.0, True)
    )
    monkeypatch.setattr(loop, "guard_edges", lambda x, move_, *_: move_)
    monkeypatch.setattr(loop, "score_iterate", lambda _, one, *__: replace(one, objective=float(one.number)))
    hyperparameters = replace(OFF, strength=0.3)
    best, _ = run_iterations(
        build_problem(marks, None, hyperparameters, FitOptions(max_iter=1, fixed_groups=reference)), lambda _: None
    )

    near, now = knn(x0, 20, method="exact"), anneal_settings(hyperparameters, 0.0)
    spacing = near.distances[:, :15].mean(axis=1)
    beta, rho = compute_bridge_scores(marks.group[near.indices[:, :15]], spacing, 2)
    shift = 0.5 * v * (1 - 0.35 * beta[:, None])
    shift[np.isin(marks.group, reference)] = 0
    rare = (rho > np.quantile(rho, 0.85))[:, None]
    shift = np.where(rare, shift, (1 - now.smooth) * shift + now.smooth * shift[near.indices].mean(axis=1))
    expected = x0 + cap_moves(now.step * shift, now.cap * spacing)
    longer = np.linalg.norm(now.step * shift, axis=1) > now.cap * spacing
    assert 0 < longer.mean() < 0.9, "some moves are capped, some not"
    if reference:
        expected[np.isin(marks.group, reference)] = x0[np.isin(marks.group, reference)]
    else:
        expected = postscale(expected, marks.mass, *compute_moments(x0, marks.mass))
    np.testing.assert_allclose(best.x, expected, atol=1e-4)


def test_iterations_stop_when_j_no_longer_rises() -> None:
    cells, _ = batches(300, shift=0)
    assert len(fit_scbiot(cells, Hyperparameters(), FitOptions(max_iter=15)).history) < 8


def test_batches_far_apart_are_not_given_up_before_they_meet() -> None:
    cells, _ = batches(600, shift=0.8, seed=2)
    found = fit_scbiot(cells, Hyperparameters(projector=0), FitOptions())
    assert found.metrics["mix_input"] < 0.01
    assert found.metrics["mix"] > 0.3
    assert found.metrics["iteration"] > 3


def test_batch_shift_is_removed() -> None:
    cells, types = batches()
    found = fit_scbiot(cells, Hyperparameters(), FitOptions())
    z = embedded(found, cells)

    def gap(x: np.ndarray) -> float:
        means = [[x[(cells.group == b) & (types == t)].mean(axis=0) for t in range(4)] for b in range(2)]
        return float(np.linalg.norm(np.subtract(*means), axis=1).mean())

    assert gap(z) < 0.35 * gap(cells.x)
    assert found.metrics["mix"] > found.metrics["mix_input"] + 0.3
    assert found.metrics["iteration"] >= 1
    near = knn(z, 15, method="exact").indices
    assert (types[near] == types[:, None]).mean() > 0.95


def test_every_iterate_keeps_to_the_bulk_limits() -> None:
    cells, _ = batches(400)
    marks, _ = build_landmarks(cells, 0)
    problem = build_problem(marks, None, Hyperparameters(projector=0), FitOptions())
    best, history = run_iterations(problem, lambda _: None)
    assert best.number > 0
    assert len(history) <= 15
    near = knn(marks.position, 20, method="exact")
    ratio = np.linalg.norm(best.x[:, None] - best.x[near.indices], axis=2) / near.distances
    assert ratio.min() > 0.72 - 1e-3
    assert ratio.max() < 1.65 + 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_identity_wins_without_a_batch_effect(seed: int) -> None:
    cells, _ = batches(shift=0, seed=seed)
    found = fit_scbiot(cells, Hyperparameters(), FitOptions())
    assert found.metrics["iteration"] == 0
    assert found.metrics["move"] == 0
    np.testing.assert_array_equal(embedded(found, cells), cells.x)


def test_strength_0_moves_nothing() -> None:
    cells, _ = batches(300)
    found = fit_scbiot(cells, Hyperparameters(strength=0), FitOptions(max_iter=2))
    np.testing.assert_array_equal(embedded(found, cells), cells.x)
    assert found.history == ()


def test_prototypes_0_moves_each_batch_as_one_block_before_the_guard() -> None:
    cells, _ = batches(200)
    marks, _ = build_landmarks(cells, 0)
    hyperparameters = Hyperparameters(strength=1, conservation=0, prototypes=0, sharpen=0, projector=0)
    problem = build_problem(marks, None, hyperparameters, FitOptions(max_iter=1, fixed_groups=(0,)))
    best, _ = run_iterations(problem, lambda _: None)
    moved = (best.x - marks.position)[marks.of(1)]
    direction = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(direction, direction[:1].repeat(len(moved), 0), atol=1e-4)


@pytest.mark.parametrize("hyperparameter", ["sharpen", "projector", "supervision"])
def test_a_hyperparameter_at_0_is_off_and_acts_above(hyperparameter: str) -> None:
    cells, types = batches(300)
    cells = replace(cells, label=types)
    base = {"sharpen": 0.0, "projector": 0.0, "supervision": 0.0, "conservation": 0.0}
    off = embedded(fit_scbiot(cells, Hyperparameters(**base), FitOptions(max_iter=3)), cells)
    unlabelled = embedded(
        fit_scbiot(replace(cells, label=None), Hyperparameters(**base), FitOptions(max_iter=3)), cells
    )
    np.testing.assert_array_equal(off, unlabelled)
    on = embedded(fit_scbiot(cells, Hyperparameters(**{**base, hyperparameter: 1.0}), FitOptions(max_iter=3)), cells)
    assert np.abs(on - off).max() > 1e-3


def test_supervision_draws_classes_together() -> None:
    cells, types = batches(300)
    cells = replace(cells, label=types)

    def spread(supervision: float) -> float:
        hyperparameters = Hyperparameters(conservation=0, sharpen=0, projector=0, supervision=supervision)
        z = embedded(fit_scbiot(cells, hyperparameters, FitOptions(max_iter=3)), cells)
        return float(np.mean([z[types == t].std(axis=0).mean() for t in range(4)]))

    assert spread(1.0) < spread(0.5) < spread(0.0)


@pytest.mark.parametrize("reference", [(0,), (1, 2)])
def test_reference_stays_in_place(reference: tuple[int, ...]) -> None:
    cells, _ = batches(500, n_groups=3)
    found = fit_scbiot(cells, Hyperparameters(), FitOptions(fixed_groups=reference))
    z = embedded(found, cells)
    still = np.isin(cells.group, reference)
    np.testing.assert_array_equal(z[still], cells.x[still])
    assert np.abs(z[~still] - cells.x[~still]).max() > 0.1


def test_same_seed_same_bits() -> None:
    cells, _ = batches(300)
    first, second = (fit_scbiot(cells, Hyperparameters(), FitOptions(max_iter=4)) for _ in range(2))
    np.testing.assert_array_equal(embedded(first, cells), embedded(second, cells))
    assert first.metrics == second.metrics
    assert first.history == second.history


def test_approximate_stays_near() -> None:
    cells, _ = batches(300)
    exact, fast = (fit_scbiot(cells, Hyperparameters(), FitOptions(max_iter=3, approximate=a)) for a in (False, True))
    assert np.abs(embedded(exact, cells) - embedded(fast, cells)).mean() < 0.05


def test_large_groups_are_summarised() -> None:
    sizes = np.array([50_000, 3_000, 40])
    assert count_landmarks(sizes).tolist() == [2048, 2048, 40]
    many = count_landmarks(np.full(100, 400))
    assert many.sum() <= 8192
    assert (many >= 80).all()
    cells, _ = batches(6_000, d=3)
    marks, _ = build_landmarks(cells, 0)
    assert np.diff(marks.start).tolist() == [2048, 2048]
    assert marks.mass.sum() == 6_000


def test_landmarks_take_the_commonest_known_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muport.integration.scbiot._scbiot_fit._PER_GROUP", 4)
    x = np.repeat(np.arange(4), 3)[:, None] + np.tile([0, 0.01, 0.02], 4)[:, None] * np.ones((1, 2))
    label = np.array([0, 0, 1, -1, -1, -1, 2, -1, -1, 0, 1, 1])
    cells = StandardizedCells(x.astype(np.float32), np.array([0, 12]), ("a",), label, np.zeros(2, np.float32), 1.0)
    marks, found = build_landmarks(cells, 0)
    assert found is not None
    order = np.argsort(marks.position[:, 0])
    assert marks.mass[order].tolist() == [3, 3, 3, 3]
    assert found[order].tolist() == [0, -1, 2, 1]


def test_a_new_group_meets_the_fitted_ones() -> None:
    cells, _ = batches(900, n_groups=3)
    known = cells.group < 2
    part = StandardizedCells(cells.x[known], cells.start[:3], cells.group_names[:2], None, cells.center, cells.scale)
    found = fit_scbiot(part, Hyperparameters(), FitOptions())
    new = StandardizedCells(
        cells.x[~known], np.array([0, (~known).sum()]), cells.group_names[2:], None, cells.center, cells.scale
    )
    y = apply_map(new.x, fit_new_groups(new, found.state, Hyperparameters(), FitOptions())[0])
    z = embedded(found, part)
    before = knn(z, 5, query=new.x, method="exact").distances.mean()
    assert knn(z, 5, query=y, method="exact").distances.mean() < 0.9 * before


# Degenerate data


@pytest.mark.parametrize(
    ("x", "group"),
    [
        (np.ones((30, 3)), np.arange(30) % 2),
        (points(30, 3), np.zeros(30, int)),
        (points(30, 3), (np.arange(30) == 4).astype(int)),
        (points(2, 3), np.arange(2)),
        (np.repeat(points(2, 3), 30, axis=0), np.repeat([0, 1], 30)),
        (np.concatenate([np.zeros((30, 2)), points(30, 2)]), np.repeat([0, 1], 30)),
        (points(12, 1), np.arange(12) % 4),
    ],
    ids=["constant", "one batch", "a batch of one cell", "two cells", "two points", "a constant batch", "one column"],
)
@pytest.mark.parametrize("hyperparameter", [0.0, 0.5, 1.0])
def test_nothing_is_nan(x: np.ndarray, group: np.ndarray, hyperparameter: float) -> None:
    names = tuple(map(str, range(int(group.max()) + 1)))
    cells = standardize_cells(x.astype(np.float32), group.astype(np.int64), names)
    hyperparameters = Hyperparameters(
        1.0, hyperparameter, hyperparameter, hyperparameter, hyperparameter, hyperparameter
    )
    found = fit_scbiot(cells, hyperparameters, FitOptions(max_iter=4))
    assert np.isfinite(embedded(found, cells)).all()
    assert np.isfinite(list(found.metrics.values())).all()
    assert np.isfinite(found.state.reference.target).all()
