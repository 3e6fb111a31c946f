from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from muport.integration._batch_effects import Centers, LocatedCells, fit_centers, fit_effects

N, N_BATCHES, N_PLACES = 900, 3, 4


@pytest.fixture
def cells() -> LocatedCells:
    """Cells at four places, far apart, without differences between batches in the integrated space."""
    rng = np.random.default_rng(0)
    place, batch = rng.integers(N_PLACES, size=N), rng.integers(N_BATCHES, size=N)
    y = (10 * np.eye(N_PLACES, 5)[place] + 1e-3 * rng.normal(size=(N, 5))).astype(np.float32)
    return LocatedCells(y + np.eye(N_BATCHES, 5, dtype=np.float32)[batch], y, batch)


@pytest.fixture
def centers() -> Centers:
    position = (10 * np.eye(N_PLACES, 5)).astype(np.float32)
    return Centers(position, np.full(N_PLACES, 0.01, np.float32), np.zeros(N_BATCHES, bool), 1.0)


def place_of(cells: LocatedCells) -> np.ndarray:
    return cells.y[:, :N_PLACES].argmax(axis=1)


def test_differences_without_noise_are_recovered(cells, centers):
    rng = np.random.default_rng(1)
    level, effect = rng.normal(size=(N_PLACES, 6)), rng.normal(size=(N_BATCHES, 6))
    effect -= effect.mean(axis=0)
    values = level[place_of(cells)] + effect[cells.batch]
    effects = fit_effects(values, cells, centers)
    assert np.allclose(effects.of_batch, effect, atol=1e-5)
    assert np.allclose(effects.near_center, 0, atol=1e-5)
    assert np.allclose(values - effects.at(centers, cells.y, cells.batch), level[place_of(cells)], atol=1e-4)
    sparse_effects = fit_effects(sparse.csr_matrix(values), cells, centers)
    assert np.allclose(sparse_effects.of_batch, effects.of_batch, atol=1e-6)


def test_differences_of_places_are_recovered_and_shrunk(cells, centers):
    rng = np.random.default_rng(2)
    local = rng.normal(size=(N_PLACES, N_BATCHES, 200))
    clean = local[place_of(cells), cells.batch]
    noise = rng.normal(size=clean.shape)
    effects = fit_effects(clean + noise, cells, centers)
    corrected = clean - effects.at(centers, cells.y, cells.batch)

    def between(x: np.ndarray) -> float:
        means = np.stack([[x[(place_of(cells) == p) & (cells.batch == b)].mean(0) for b in range(3)] for p in range(4)])
        return float(np.square(means - means.mean(axis=1, keepdims=True)).mean())

    assert between(corrected) < 0.03 * between(clean)
    # without such differences, their estimates are noise and are shrunk
    alone = fit_effects(noise, cells, centers)
    raw = np.square(np.stack([[noise[(place_of(cells) == p) & (cells.batch == b)].mean(0) for b in range(3)]
                              for p in range(4)])).mean()  # fmt: skip
    assert np.square(alone.near_center).mean() < 0.2 * raw


def test_factors_without_noise_are_recovered(cells, centers):
    rng = np.random.default_rng(3)
    rate, factor = 50 * np.exp(rng.normal(size=(N_PLACES, 6))), np.exp(0.5 * rng.normal(size=(N_BATCHES, 6)))
    factor /= factor.mean(axis=0)
    size = rng.uniform(0.5, 2, N)
    values = size[:, None] * rate[place_of(cells)] * factor[cells.batch]
    effects = fit_effects(values, cells, centers, size)
    assert np.allclose(np.exp(effects.of_batch), factor, rtol=2e-3)
    corrected = values * np.exp(-effects.at(centers, cells.y, cells.batch))
    assert np.allclose(corrected, size[:, None] * rate[place_of(cells)], rtol=5e-3)


@pytest.mark.parametrize("counts", [False, True])
def test_a_new_batch_is_compared_with_the_levels(cells, centers, counts):
    rng = np.random.default_rng(4)
    level = rng.uniform(20, 40, (N_PLACES, 6))
    values = level[place_of(cells)]
    size = np.ones(N) if counts else None
    new = LocatedCells(cells.x, cells.y, cells.batch + N_BATCHES)
    shifted = values * 2 if counts else values + 5
    effects = fit_effects(values, cells, centers, size, (shifted, new, size))
    effect = effects.at(centers, new.y, new.batch)
    assert np.allclose(shifted / np.exp(effect) if counts else shifted - effect, values, rtol=2e-3)
    assert np.allclose(effects.of_batch[:N_BATCHES], fit_effects(values, cells, centers, size).of_batch)


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_effects_are_removed_as_far_as_the_cells_moved(cells, amount):
    moved = LocatedCells(cells.x, cells.x + np.float32(amount) * (cells.y - cells.x), cells.batch)
    centers = fit_centers(moved, N_BATCHES, 0)
    assert centers.fixed.all() == (amount == 0)
    values = np.arange(3.0)[cells.batch][:, None] + np.zeros((N, 2))
    effects = fit_effects(values, moved, centers)
    expected = amount * (np.arange(3.0) - 1)
    assert np.allclose(effects.of_batch, expected[:, None], atol=0.05)


def test_batches_are_corrected_to_those_that_do_not_move(cells):
    y = cells.y + np.eye(N_BATCHES, 5, dtype=np.float32)[0]
    y[cells.batch == 0] = cells.x[cells.batch == 0]
    moved = LocatedCells(cells.x, y, cells.batch)
    centers = fit_centers(moved, N_BATCHES, 0)
    assert centers.fixed.tolist() == [True, False, False]
    values = np.arange(3.0)[cells.batch][:, None] + np.zeros((N, 2))
    effects = fit_effects(values, moved, centers)
    assert not effects.at(centers, y, cells.batch)[cells.batch == 0].any()
    assert np.allclose(effects.of_batch, np.arange(3.0)[:, None], atol=0.05)


def test_batches_without_a_common_center_are_not_compared(centers):
    rng = np.random.default_rng(5)
    place = np.repeat(np.arange(4), 50)
    y = (10 * np.eye(4, 5)[place]).astype(np.float32)
    # batches 0 and 1 are at the first two places, batch 2 alone at the others
    batch = np.where(place < 2, rng.integers(2, size=200), 2)
    values = np.array([1.0, 3.0, 100.0])[batch][:, None] + np.zeros((200, 1))
    effects = fit_effects(values, LocatedCells(y + 1, y, batch), centers)
    assert np.allclose(effects.of_batch.ravel(), [-1, 1, 0], atol=1e-5)
    assert np.allclose(effects.near_center, 0, atol=1e-5)
