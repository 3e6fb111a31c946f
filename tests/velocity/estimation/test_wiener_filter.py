"""The linear filter: Wiener's in closed form, its invariances, and the field that takes account of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from muport.datasets import simulated_dynamics
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._averaging import average_over_neighbors
from muport.velocity.estimation._field_training import fit_field
from muport.velocity.estimation._pipeline import InputCells, fit_network, pair_windows, transport_cells
from muport.velocity.estimation._wiener_filter import apply_before_field, fit_wiener_filter


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    adata = simulated_dynamics("bifurcation", 600, n_dims=20, noise=0.5, random_state=3)
    adata = adata[np.argsort(adata.obs["time"])].copy()  # the order in which the network takes the cells
    return adata.obsm["X_pca"], adata.obs["time"].to_numpy()


def test_eigenvalues_are_those_of_wieners_filter(cells):
    x, time = cells
    found = fit_wiener_filter(x, time)
    spread, axes = np.linalg.eigh(np.cov(x.astype(float), rowvar=False))
    kept = (axes.T @ found.matrix @ axes).diagonal()
    assert kept == pytest.approx(np.clip(1 - found.noise_variance / spread, 0, None), abs=1e-5)
    assert 0.1 < found.noise_variance <= 0.25  # never above the noise of .5^2: neighbors are near
    assert found.matrix == pytest.approx(found.matrix.T, abs=1e-12)


def test_noise_goes_and_places_stay(cells):
    x, time = cells
    adata = simulated_dynamics("bifurcation", 600, n_dims=20, noise=0.5, random_state=3)
    true = adata.obsm["X_true"][np.argsort(adata.obs["time"])]
    y = fit_wiener_filter(x, time)(x)
    assert np.square(y - true).sum(1).mean() < 0.5 * np.square(x - true).sum(1).mean()
    assert y.mean(axis=0) == pytest.approx(x.mean(axis=0), abs=1e-4)


def test_it_turns_scales_and_moves_with_the_data(cells):
    x, time = cells
    turn = ortho_group.rvs(20, random_state=0)
    found, other = fit_wiener_filter(x, time), fit_wiener_filter(10 * x @ turn + 7, time)
    assert other.matrix == pytest.approx(turn.T @ found.matrix @ turn, abs=1e-3)
    assert other.noise_variance == pytest.approx(100 * found.noise_variance, rel=1e-3)


def test_without_a_leading_direction_all_are_treated_alike():
    rng = np.random.default_rng(0)
    matrix = fit_wiener_filter(rng.normal(size=(20_000, 4)), rng.uniform(size=20_000)).matrix
    assert matrix == pytest.approx(matrix[0, 0] * np.eye(4), abs=0.02)
    assert matrix[0, 0] > 0.3


@pytest.mark.parametrize("x", [np.zeros((100, 2)), np.linspace(0, 1, 100)[:, None], np.eye(100)[:, :3]])
def test_no_noise_no_spread(x):
    found = fit_wiener_filter(x, np.linspace(0, 1, 100))
    assert np.isfinite(found.matrix).all()
    assert np.abs(np.linalg.eigvalsh(found.matrix) - 0.5).max() <= 0.5 + 1e-9


def test_inverse_restores_what_is_kept_by_half(cells):
    x, time = cells
    found = fit_wiener_filter(x, time)
    kept, axes = np.linalg.eigh(found.matrix)
    both = (axes.T @ (found.inverse @ found.matrix) @ axes).diagonal()
    assert (kept > 0.5).sum() >= 2
    assert (kept < 0.5).sum() >= 10
    assert both == pytest.approx(np.where(kept > 0.5, 1.0, 4 * kept.clip(0) ** 2), abs=1e-9)
    assert found.inverse == pytest.approx(found.inverse.T, abs=1e-12)


def test_the_field_of_noisy_cells_is_that_of_denoised_ones_at_full_length(cells):
    x, time = cells
    taken, settings = fit_wiener_filter(x, time), VelocityHyperparameters(n_steps=20, n_bootstrap=2)
    raw = transport_cells(InputCells(x, time), pair_windows(InputCells(x, time), settings), settings)
    fit = fit_network(InputCells(x, time), raw, settings)
    target = average_over_neighbors(taken(x), time, raw, taken.noise_variance).raw.velocity
    plain = fit_field(taken(x), time, raw, settings, target=target)
    when, back = torch.from_numpy(time.astype(np.float32)), torch.from_numpy(taken.inverse.astype(np.float32))
    given, wanted = fit.field(), plain.field()
    noisy, clean = torch.from_numpy(x.copy()), torch.from_numpy(taken(x))
    assert torch.allclose(given(noisy, when), wanted(clean, when) @ back, atol=2e-3)
    assert torch.allclose(given.members(noisy, when), wanted.members(clean, when) @ back, atol=2e-3)
    assert not torch.allclose(given(clean, when), wanted(clean, when) @ back, atol=1e-1)
    assert np.array_equal(
        plain.state["first.weight"][:, -1], apply_before_field(plain, taken).state["first.weight"][:, -1]
    )
    left = target @ taken.inverse - given(noisy, when).numpy()
    misfit = np.sqrt((raw.weight * np.square(left).sum(1)).sum() / raw.weight.sum())
    assert fit.state["misfit"] == pytest.approx(misfit, rel=1e-4)
    assert plain.state["misfit"] == 0


def test_it_can_be_left_out(cells):
    x, time = cells
    settings = VelocityHyperparameters(n_steps=20, denoise=False)
    raw = transport_cells(InputCells(x, time), pair_windows(InputCells(x, time), settings), settings)
    fit = fit_network(InputCells(x, time), raw, settings)
    plain = fit_field(x, time, raw, settings)
    assert all(np.array_equal(value, plain.state[name]) for name, value in fit.state.items())
    with pytest.raises(TypeError, match="denoise='no'"):
        VelocityHyperparameters(denoise="no")
