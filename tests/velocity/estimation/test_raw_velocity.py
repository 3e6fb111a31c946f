"""Raw velocity against closed forms and POT: units, mean reversion, growth, penalties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch

from muport.datasets import simulated_dynamics
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._raw_velocity import (
    _compute_penalties,
    _TransportInputs,
    _WindowPairs,
    estimate_raw_velocity,
)
from muport.velocity.estimation._windows import Windows, pair_spatial_windows, pair_time_windows


def moving(n: int = 600, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cells around a point that moves by (6, 0, 0, 0) in unit time."""
    rng = np.random.default_rng(seed)
    time = rng.random(n)
    return (6 * time[:, None] * np.eye(4)[0] + noise * rng.normal(size=(n, 4))).astype(np.float32), time


def two_days(n: int = 40) -> Windows:
    cells = np.arange(n)[None]
    return Windows(
        cells[:, : n // 2],
        cells[:, n // 2 :],
        np.ones(1, np.int8),
        np.ones(1, bool),
        np.repeat([0, 1], n // 2),
        np.repeat([0, 1], n // 2),
        "time",
    )


@pytest.mark.parametrize("reg", [0.05, 0.3])
def test_forward_difference_is_the_barycentre_of_pots_plan(reg):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    time = np.repeat([1.0, 3.0], 20)
    raw = estimate_raw_velocity(x, time, two_days(), VelocityHyperparameters(reg=reg, tau=1, difference="forward"))
    cost = ot.dist(x[:20].astype(float), x[20:].astype(float))
    plan = ot.solve(cost, reg=reg * cost.max(), reg_type="KL", max_iter=10_000, tol=1e-12).plan
    wanted = (20 * plan @ x[20:] - x[:20]) / 2
    np.testing.assert_allclose(raw.velocity[:20], wanted, atol=0.02)
    assert not raw.velocity[20:].any()
    np.testing.assert_allclose(raw.weight, np.repeat([2, 0], 20), atol=1e-5)
    assert raw.converged == 1


def test_units_are_those_of_x_per_time():
    x, time = moving(3_000)
    windows = pair_time_windows(time)
    balanced = estimate_raw_velocity(x, time, windows, VelocityHyperparameters(tau=1))
    assert balanced.velocity.mean(axis=0) == pytest.approx([6, 0, 0, 0], abs=0.15)
    raw = estimate_raw_velocity(x, time, windows)
    assert raw.velocity.mean(axis=0) == pytest.approx([6, 0, 0, 0], abs=0.6)
    slower = estimate_raw_velocity(x, 10 * time + 3, windows)
    np.testing.assert_allclose(10 * slower.velocity, raw.velocity, atol=5e-2)
    larger = estimate_raw_velocity(100 * x, time, windows)
    np.testing.assert_allclose(larger.velocity / 100, raw.velocity, atol=5e-2)
    # The difference spans two bins, in the first and the last bin one.
    np.testing.assert_allclose(np.median(raw.weight), 0.1, rtol=0.1)


def test_forward_difference_reverts_noise_and_central_does_not():
    x, time = moving(noise=0.8)
    noise = x - x.mean(axis=0) - 6 * (time - time.mean())[:, None] * np.eye(4)[0]
    windows = pair_time_windows(time)
    slope = {}
    for difference in ("central", "forward"):
        velocity = estimate_raw_velocity(x, time, windows, VelocityHyperparameters(difference=difference)).velocity
        slope[difference] = (velocity[:, 1:] * noise[:, 1:]).sum() / (noise[:, 1:] ** 2).sum()
    assert slope["forward"] < -2
    assert abs(slope["central"]) < 1


def test_growth_is_the_change_of_shares():
    """Two branches far apart, from 1:1 to 3:1 in two days: logs of 1.5 and .5 over two days."""
    rng = np.random.default_rng(0)
    branch = np.r_[np.repeat([0, 1], 60), np.repeat([0, 1], [90, 30])]
    x = (50 * branch[:, None] * np.eye(3)[0] + rng.normal(size=(240, 3))).astype(np.float32)
    day = np.repeat([2.0, 4.0], 120)
    raw = estimate_raw_velocity(x, day, pair_time_windows(day), VelocityHyperparameters(tau=0.95))
    early = day == 2
    assert raw.growth[early & (branch == 0)].mean() == pytest.approx(np.log(1.5) / 2, abs=0.02)
    assert raw.growth[early & (branch == 1)].mean() == pytest.approx(np.log(0.5) / 2, abs=0.02)
    # The relaxed plans need not cross.
    assert np.abs(raw.velocity[:, 0]).max() < 2
    assert not estimate_raw_velocity(x, day, pair_time_windows(day), VelocityHyperparameters(tau=1)).growth.any()


def test_relaxed_plans_survive_uneven_growth():
    adata = simulated_dynamics("bifurcation", 2_000, growth=0.94, random_state=1)
    x, time, truth = adata.obsm["X_pca"], adata.obs["time"].to_numpy(), adata.obsm["velocity"]
    late = (adata.obs["branch"] == "A").to_numpy() & (time > 0.7)
    cosine = {}
    for tau in (0.9, 1.0):
        v = estimate_raw_velocity(x, time, pair_time_windows(time), VelocityHyperparameters(tau=tau)).velocity
        norm = np.linalg.norm(v, axis=1) * np.linalg.norm(truth, axis=1)
        cosine[tau] = ((v * truth).sum(1) / norm)[late].mean()
    assert cosine[0.9] > max(0.95, cosine[1.0])


def test_a_cell_at_the_edge_is_no_match_for_itself():
    """Were it its own match, its noise would come back through the missing side, divided by the gap of about .05."""
    x, time = moving(noise=1.0)
    noise = (x - 6 * time[:, None] * np.eye(4)[0])[:, 1:]
    velocity = estimate_raw_velocity(x, time, pair_time_windows(time), VelocityHyperparameters(reg_scale=0.1)).velocity
    for edge in (time < 0.04, time > 0.96):
        slope = (velocity[:, 1:] * noise)[edge].sum() / (noise[edge] ** 2).sum()
        assert abs(slope) < 5
    # a cell alone in its window has no other match
    single = Windows(
        np.array([[0], [0]]), np.array([[1], [0]]), np.array([1, 0], np.int8), np.array([True, False]),
        np.array([0, 1]), np.array([0, 1]), "time",
    )  # fmt: skip
    alone = estimate_raw_velocity(np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([0.0, 0.5]), single)
    assert np.allclose(alone.velocity[0], [2.0, 4.0])


def test_penalties_per_pair():
    """Backward in time, and not neighbours either way; never a cell with itself."""
    time = torch.tensor([0.0, 1.0, 2.0])
    near = torch.tensor([[1], [2], [1]])
    options = VelocityHyperparameters(lambda_time=2.0, lambda_knn=5.0)
    inputs = _TransportInputs(torch.zeros(3, 1), time, 0.0, 1.0, options, near)
    cells, is_cell = torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool)
    forward = torch.ones(1, dtype=torch.int8)
    pairs = _WindowPairs((cells, cells), (is_cell, is_cell), forward, forward > 0)
    penalty, allowed_pairs = _compute_penalties(inputs, pairs)
    assert penalty[0].tolist() == [[0, 0, 5], [2, 0, 0], [7, 2, 0]]
    assert allowed_pairs is not None
    assert allowed_pairs[0].tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_penalties_act_and_the_unreachable_get_nothing():
    x, time = moving(n=400, noise=1.0)
    windows = pair_spatial_windows(x, time, np.zeros(400), hyperparameters=VelocityHyperparameters(window_size=100))
    settings = VelocityHyperparameters(reg=0.05, difference="forward")
    free = estimate_raw_velocity(x, time, windows, settings)
    near = np.argsort(((x[:, None] - x) ** 2).sum(-1), axis=1)[:, 1:4]
    ahead = estimate_raw_velocity(x, time, windows, replace(settings, lambda_time=1.0))
    linked = estimate_raw_velocity(x, time, windows, replace(settings, lambda_knn=1.0), neighbors=near)
    for penalized in (ahead, linked):
        assert (penalized.velocity != free.velocity).any()
    assert (linked.weight > 0).sum() < (free.weight > 0).sum()


def test_same_bits_again_and_row_order_only_matters_through_ties():
    x, time = moving()
    windows = pair_time_windows(time)
    one, two = (estimate_raw_velocity(x, time, windows) for _ in range(2))
    np.testing.assert_array_equal(one.velocity, two.velocity)
    order = np.random.default_rng(1).permutation(len(x))
    mixed = estimate_raw_velocity(x[order], time[order], pair_time_windows(time[order]))
    np.testing.assert_allclose(mixed.velocity, one.velocity[order], atol=1e-2)


def test_identical_cells_give_no_nan():
    time = np.linspace(0, 1, 200)
    raw = estimate_raw_velocity(np.zeros((200, 3)), time, pair_time_windows(time))
    assert not raw.velocity.any()
    assert np.isfinite(raw.confidence).all()


@pytest.mark.parametrize(
    ("neighbors", "match"),
    [(None, "lambda_knn needs neighbors"), (np.full((600, 2), 600), "neighbors has shape")],
)
def test_bad_input(neighbors, match):
    x, time = moving()
    with pytest.raises(ValueError, match=match):
        estimate_raw_velocity(
            x, time, pair_time_windows(time), VelocityHyperparameters(lambda_knn=1.0), neighbors=neighbors
        )
    with pytest.raises(ValueError, match="NaN"):
        estimate_raw_velocity(np.where(x > 5, np.nan, x), time, pair_time_windows(time))


@pytest.mark.parametrize("tau", [0.5, 0.98, 1.0])
def test_days_of_unequal_numbers_leave_no_gap(tau):
    """Windows are padded to the longest: what stands beside the padding stays finite."""
    adata = simulated_dynamics("linear", n_cells=500, n_dims=8, days=(2.0, 4.0, 6.0, 8.0), random_state=1)
    time = adata.obs["time"].to_numpy()
    raw = estimate_raw_velocity(adata.obsm["X_pca"], time, pair_time_windows(time), VelocityHyperparameters(tau=tau))
    assert (raw.weight > 0).all()
    assert np.isfinite(raw.velocity).all()
    assert np.isfinite(raw.growth).all()


def test_windows_of_one_day_have_no_growth():
    adata = simulated_dynamics("cycle", n_cells=374, n_dims=6, days=(0.0, 1.0, 7.0), random_state=0)
    time = adata.obs["time"].to_numpy()
    windows = pair_spatial_windows(
        adata.obsm["X_pca"], time, hyperparameters=VelocityHyperparameters(n_clusters=4, window_size=20)
    )
    means = [np.where(one >= 0, time[one], np.nan) for one in (windows.source, windows.target)]
    assert (np.nanmean(means[0], axis=1) == np.nanmean(means[1], axis=1)).any()
    growth = estimate_raw_velocity(adata.obsm["X_pca"], time, windows, VelocityHyperparameters(tau=0.5)).growth
    assert np.isfinite(growth).all()
    assert np.abs(growth).max() < 1e3


@pytest.mark.parametrize("times", [(0, 1, 5, 6), (0, 1, 20, 21), (0, 10, 30, 60)])
def test_unequal_days_have_the_velocity_of_a_line(times):
    """Gaps that differ by twenty times: the first and the last day are covered too."""
    time = np.repeat(np.asarray(times, np.float64), 30)
    rng = np.random.default_rng(0)
    x = np.stack([10 * time, rng.normal(size=len(time))], axis=1)
    raw = estimate_raw_velocity(x, time, pair_time_windows(time))
    assert (raw.weight > 0).all()
    assert raw.velocity[:, 0] == pytest.approx(np.full(len(time), 10), rel=0.01)
