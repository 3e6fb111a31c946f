"""One map for every cell: the formula, and that nothing but the cell enters it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muport.integration import _fitted_state as _state
from muport.integration._fitted_state import GroupMap, apply_map, sharpen, transform_cells
from muport.integration.prototypes._prototypes import soft_assign


@pytest.fixture(scope="module")
def fitted(kit):
    sim = kit.draw(n=300, n_batches=3)
    z, found = kit.integrate(sim, sharpen=0.5, projector=0.5)
    names = found.state.groups
    code = np.array([names.index(f"b{b}") for b in range(3)])[sim.batch]
    return sim, code, found.state, z


def test_the_formula(fitted):
    sim, code, state, z = fitted
    one = state.maps[code[0]]
    x = (sim.x[:1].astype(float) - state.center) / state.scale
    near, weight = soft_assign(x.astype(np.float32), one.position)
    y = x[0] - weight[0] @ one.shift[near[0]] + one.agreement[near[0, 0]] * one.shape @ (x[0] - one.anchor[near[0, 0]])
    there, pull = soft_assign(y[None].astype(np.float32), state.sharpening_centers, 5)
    y = (1 - state.sharpening) * y + state.sharpening * pull[0] @ state.sharpening_centers[there[0]]
    assert np.allclose(z[0], y * state.scale + state.center, atol=1e-4)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_chunks_are_the_whole(fitted, monkeypatch, block):
    sim, code, state, z = fitted
    monkeypatch.setattr(_state, "_BLOCK", block)
    assert np.abs(transform_cells(sim.x, code, state) - z).max() <= 1e-5
    parts = [transform_cells(sim.x[low : low + block], code[low : low + block], state) for low in range(0, 60, block)]
    assert np.abs(np.concatenate(parts)[:60] - z[:60]).max() <= 1e-5


def test_order_and_company_do_not_matter(fitted):
    sim, code, state, z = fitted
    order = np.random.default_rng(0).permutation(len(code))
    assert np.abs(transform_cells(sim.x[order], code[order], state) - z[order]).max() <= 1e-5
    assert np.abs(transform_cells(sim.x[code == 1], code[code == 1], state) - z[code == 1]).max() <= 1e-5
    assert transform_cells(sim.x[:0], code[:0], state).shape == (0, 8)


def test_the_input_stays(fitted):
    sim, code, state, _ = fitted
    before = sim.x.copy()
    transform_cells(sim.x, code, state)
    assert np.array_equal(sim.x, before)


def test_a_map_that_does_nothing_returns_the_cells_themselves(fitted):
    sim, code, state, _ = fitted
    still = tuple(replace(m, shift=np.zeros_like(m.shift), shape=np.zeros_like(m.shape)) for m in state.maps)
    assert np.array_equal(transform_cells(sim.x, code, replace(state, sharpening=0.0), maps=still), sim.x)


def test_a_constant_shift_shifts():
    rng = np.random.default_rng(0)
    x, points = rng.normal(size=(20, 2)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    one = GroupMap(
        points, np.tile(np.float32([1, -2]), (6, 1)), points, np.ones(6, np.float32), np.zeros((2, 2), np.float32)
    )
    assert np.allclose(apply_map(x, one), x - [1, -2], atol=1e-5)


def test_sharpening_is_off_at_zero_and_a_mixture_between():
    rng = np.random.default_rng(0)
    y, centers = rng.normal(size=(20, 2)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)
    assert sharpen(y, centers, 0.0) is y
    assert sharpen(y, centers[:0], 0.7) is y
    full = sharpen(y, centers, 1.0)
    assert np.allclose(sharpen(y, centers, 0.3), 0.7 * y + 0.3 * full, atol=1e-5)
    assert full.min(0)[0] >= centers.min(0)[0] - 1e-5
