"""Means over neighbours in place and time against plain NumPy, the noise they leave out, and the steps it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from muport.datasets import simulated_dynamics
from muport.velocity._fitted_state import speed_and_uncertainty
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._averaging import average_over_neighbors, limit_steps
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._field_training import fit_field
from muport.velocity.estimation._pipeline import InputCells, fit_network, pair_windows, transport_cells
from muport.velocity.estimation._raw_velocity import RawVelocity


def raw_of(velocity: np.ndarray, weight: np.ndarray | None = None) -> RawVelocity:
    n = len(velocity)
    ones = np.ones(n, np.float32) if weight is None else weight.astype(np.float32)
    return RawVelocity(velocity.astype(np.float32), ones, ones, 0 * ones, np.zeros(n, np.int64), 1.0)


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(120, 3)).astype(np.float32), rng.uniform(size=120), rng.normal(size=(120, 3))


def plainly(x: np.ndarray, time: np.ndarray, v: np.ndarray, w: np.ndarray, noise: float, k: int) -> tuple:
    """The formulas, cell by cell, by full tables of distances."""
    place = np.square(x[:, None] - x[None]).sum(2) + np.diag(np.full(len(x), np.inf))
    spread = [time[i] - time[np.argsort(place[i])[:k]].mean() for i in range(len(x))]
    r = np.median(np.abs(spread)) / 0.6745 * np.sqrt(k / (k + 1))
    power = (w * np.square(v).sum(1)).sum() / w.sum()
    alpha = min(np.sqrt(noise) / r, np.sqrt(power))
    both = place + alpha**2 * np.square(time[:, None] - time[None])
    others = np.array([v[np.argsort(row)[:k]].mean(0) for row in both])
    left = (w * np.square(v - others).sum(1)).sum() / w.sum() * k / (k + 1)
    return (v + k * others) / (k + 1), left / (power - left)


@pytest.mark.parametrize("noise", [0.01, 0.2, 1e6])
def test_means_and_noise_are_those_of_the_formulas(cells, noise):
    x, time, v = cells
    v = v + [3.0, 0, 0]
    weight = np.random.default_rng(1).uniform(0.5, 1.5, len(x))
    found = average_over_neighbors(x, time, raw_of(v, weight), noise, 7)
    mean, ratio = plainly(x.astype(float), time, v, weight, noise, 7)
    assert found.raw.velocity == pytest.approx(mean, abs=1e-4)
    assert found.noise_ratio == pytest.approx(ratio, rel=1e-3)


def test_cells_without_velocity_neither_give_nor_take(cells):
    x, time, v = cells
    inside = np.arange(len(x)) < 80
    spoilt = np.where(inside[:, None], v, 1e6)
    found = average_over_neighbors(x, time, raw_of(spoilt, inside), 0.1)
    alone = average_over_neighbors(x[inside], time[inside], raw_of(v[inside]), 0.1)
    np.testing.assert_array_equal(found.raw.velocity[inside], alone.raw.velocity)
    np.testing.assert_array_equal(found.raw.velocity[~inside], spoilt[~inside].astype(np.float32))
    assert found.noise_ratio == alone.noise_ratio


def test_noise_is_separated_from_signal():
    rng = np.random.default_rng(0)
    x, time = rng.normal(size=(3_000, 2)).astype(np.float32), rng.uniform(size=3_000)
    v = np.array([2.0, 0.0]) + rng.normal(size=x.shape)
    assert average_over_neighbors(x, time, raw_of(v), 0.1).noise_ratio == pytest.approx(2 / 4, rel=0.1)


def test_noisy_times_are_averaged_over_exact_ones_are_not():
    """Velocities that follow time alone: kept where time is exact, equalised where it says nothing of the place."""
    rng = np.random.default_rng(0)
    exact = rng.uniform(size=2_000)
    x = np.column_stack([10 * exact, np.zeros((2_000, 9))]) + rng.normal(scale=0.5, size=(2_000, 10))
    for time, kept in ((exact, True), (rng.permutation(exact), False)):
        v = np.column_stack([np.full(2_000, 10.0), 10 * time, np.zeros((2_000, 8))])
        mean = average_over_neighbors(x.astype(np.float32), time, raw_of(v), 0.25).raw.velocity[:, 1]
        share = mean.std() / v[:, 1].std()
        assert share > 0.9 if kept else share < 0.7


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_cells(n):
    v = np.arange(2.0 * n).reshape(n, 2)
    found = average_over_neighbors(np.zeros((n, 2), np.float32), np.arange(n, dtype=float), raw_of(v), 0.0)
    expected = v if n == 1 else np.broadcast_to(v.mean(0), v.shape)
    assert found.raw.velocity == pytest.approx(expected)
    assert np.isfinite(found.noise_ratio)


def test_steps_grow_with_cells_and_fall_with_noise():
    assert limit_steps(1_000, 1.0, 100, 400) == 160
    assert limit_steps(2_000, 2.0, 100, 400) == 160
    assert limit_steps(10**9, 0.0, 256, 400) == 400
    assert limit_steps(10, 100.0, 256, 400) == 40
    assert limit_steps(10, 100.0, 256, 5) == 5


def test_the_field_of_few_noisy_cells_does_not_learn_their_noise():
    adata = simulated_dynamics("bifurcation", 300, noise=1.0, random_state=31)
    truth, cells = adata.obsm["velocity"], InputCells(adata.obsm["X_pca"], adata.obs["time"].to_numpy())
    points, when = torch.from_numpy(cells.x.copy()), torch.from_numpy(cells.time.astype(np.float32))

    def cosine(fit) -> float:
        v = fit.field()(points, when).numpy()
        return float(((v * truth).sum(1) / np.linalg.norm(v, axis=1) / np.linalg.norm(truth, axis=1)).mean())

    settings = VelocityHyperparameters(n_bootstrap=0)
    raw = transport_cells(cells, pair_windows(cells, settings), settings)
    fit = fit_network(cells, raw, settings)
    assert 40 <= len(fit.history["loss"]) < 200
    assert cosine(fit) > 0.85 > 0.8 > cosine(fit_field(cells.x, cells.time, raw, settings))


def test_members_differ_by_the_raw_velocities():
    adata = simulated_dynamics("linear", 600, n_dims=5, random_state=0)
    cells, settings = InputCells(adata.obsm["X_pca"], adata.obs["time"].to_numpy()), VelocityHyperparameters()
    raw = transport_cells(cells, pair_windows(cells, settings), settings)
    few_steps = VelocityHyperparameters(n_steps=20)
    flat = np.broadcast_to(raw.velocity.mean(0), raw.velocity.shape).copy()
    fits = [fit_field(cells.x, cells.time, raw, few_steps, target=t).state for t in (flat, raw.velocity)]
    spread = [s["member_bias"].std(0) * s["v_scale"] for s in fits]
    assert spread[0].mean() > 0.2 * spread[1].mean()
    same = fit_field(cells.x, cells.time, replace(raw), few_steps).state
    assert all(np.array_equal(value, same[name]) for name, value in fits[1].items())


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_most_true_velocities_are_within_two_standard_deviations(noise):
    shares, lengths = [], []
    for seed in (0, 1):
        adata = simulated_dynamics("bifurcation", 700, noise=noise, random_state=seed)
        truth, cells = adata.obsm["velocity"], InputCells(adata.obsm["X_pca"], adata.obs["time"].to_numpy())
        settings = VelocityHyperparameters(random_state=seed)
        field = fit_network(cells, transport_cells(cells, pair_windows(cells, settings), settings), settings).field()
        _, spread = speed_and_uncertainty(field, cells.x, cells.time)
        velocity = evaluate(field, cells.x, cells.time)
        shares.append((np.linalg.norm(velocity - truth, axis=1) <= 2 * spread).mean())
        lengths.append(np.median(spread / np.linalg.norm(truth, axis=1)))
    assert 0.85 <= np.mean(shares) <= 1
    assert np.mean(lengths) < 0.25
