"""New batches, mapped onto the centres of a fitted state."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from muport.integration._fitted_state import transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers import _new_groups
from muport.integration.shared_centers._new_groups import fit_new_groups

HYPERPARAMETERS = {"strength": 0.5, "conservation": 0.5, "prototypes": 0.5, "sharpen": 0.0, "projector": 0.0}


@pytest.fixture(scope="module")
def fitted(kit):
    sim = kit.draw(n=900, n_batches=3, seed=4)
    z, found = kit.integrate(sim)
    return sim, z, found.state


def mapped(x: np.ndarray, group: np.ndarray, names: tuple[str, ...], state, **hyperparameters: float) -> np.ndarray:
    cells = standardize_cells(x, group, names, scaling=(state.center, state.scale))
    maps = fit_new_groups(cells, state, Hyperparameters(**{**HYPERPARAMETERS, **hyperparameters}), FitOptions())
    order = [cells.group_names.index(name) for name in names]
    return transform_cells(x, np.array(order)[group], state, maps=maps)


def test_a_known_shift_is_undone(fitted):
    sim, z, state = fitted
    way = np.zeros(8, np.float32)
    way[:3] = 3.0
    zero = np.zeros(len(sim.x), np.int64)
    got = mapped(z + way, zero, ("new",), state)
    away, left = np.linalg.norm(way), np.linalg.norm(got - z, axis=1)
    assert np.mean(left < 0.2 * away) > 0.95
    assert left.mean() < 0.2 * away


def test_cells_already_in_place_stay(fitted):
    _, z, state = fitted
    half = z[::2]
    got = mapped(half, np.zeros(len(half), np.int64), ("new",), state)
    assert np.abs(got - half).max() <= 1e-4 * state.scale


def test_off_means_off(fitted):
    sim, z, state = fitted
    zero = np.zeros(len(sim.x), np.int64)
    assert np.array_equal(mapped(z + 3, zero, ("new",), state, strength=0.0), z + 3)


def test_a_new_batch_does_not_know_of_another(fitted):
    sim, z, state = fitted
    one, two = z[:400] + 2, z[400:700] - 3
    both = mapped(np.concatenate([one, two]), np.repeat([0, 1], [400, 300]), ("p", "q"), state, projector=0.5)
    alone = mapped(one, np.zeros(400, np.int64), ("p",), state, projector=0.5)
    assert np.array_equal(both[:400], alone)


def test_the_state_stays(fitted):
    sim, z, state = fitted
    before = {k: np.copy(v) for k, v in vars(state.reference).items()}
    mapped(z + 1, np.zeros(len(z), np.int64), ("new",), state, projector=1.0)
    assert asdict(state).keys() == vars(state).keys()
    assert all(np.array_equal(before[k], v) for k, v in vars(state.reference).items())


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_new_cells(fitted, n):
    _, z, state = fitted
    got = mapped(z[:n] + 5, np.zeros(n, np.int64), ("new",), state, projector=0.5)
    assert np.isfinite(got).all()


def test_a_type_the_fit_never_saw_stays_itself(kit):
    before, after, kept = [], [], []
    for seed in range(4):
        sim = kit.draw(n=900, n_batches=3, n_types=6, seed=seed)
        known, new = sim[(sim.kind != 5) & (sim.batch < 2)], sim[sim.batch == 2]
        z, found = kit.integrate(known)
        kind = np.concatenate([known.kind, new.kind])
        group = np.zeros(len(new.x), np.int64)
        for out, c in ((after, 0.5), (kept, 1.0)):
            y = mapped(new.x, group, ("new",), found.state, conservation=c)
            out.append(kit.neighbor_accuracy(np.concatenate([z, y]), kind)[5])
        before.append(kit.neighbor_accuracy(np.concatenate([known.x, new.x]), kind)[5])
    # what shares a centre with a known type is drawn toward it a little
    assert np.mean(after) >= np.mean(before) - 0.2
    # with conservation 1 nothing changes shape, and the new type moves as its batch does
    assert np.mean(kept) >= np.mean(before) - 0.02


def test_a_new_batch_moves_the_whole_way_to_its_neighbors(fitted, monkeypatch):
    """Two fitted groups share the way between mutual neighbors; the fitted neighbors of a new one do not move."""
    sim, _, state = fitted
    state = replace(state, reference=replace(state.reference, refinement_kept=1.0))
    monkeypatch.setattr(_new_groups, "estimate_mnn_shift", lambda _, image, fixed: np.ones_like(image))
    x = sim.x[sim.batch == 0] + np.float32(5)
    cells = standardize_cells(x, np.zeros(len(x), np.int64), ("new",), scaling=(state.center, state.scale))
    off, on = (Hyperparameters(**{**HYPERPARAMETERS, "projector": share}) for share in (0.0, 0.5))
    without, refined = (fit_new_groups(cells, state, values, FitOptions())[0] for values in (off, on))
    moved = (without.shift - refined.shift).mean(axis=1).sum() / without.agreement.sum()
    assert moved == pytest.approx(2 * on.mnn_fraction * on.step * on.step_factor(1.0), rel=1e-3)
