"""Evidence for a batch effect: none by chance, all where batches lie apart."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.shared_centers._batch_effect_test import _chi_squared, measure_batch_effect


def test_random_splits_give_none(kit):
    found = []
    for seed in range(12):
        sim = kit.draw(n=400, shift=0, seed=seed)
        batch = np.random.default_rng(seed).integers(2 + seed % 3, size=400)
        found.append(measure_batch_effect(sim.x, batch, 2 + seed % 3, seed))
    assert max(found) <= 0.02
    assert np.mean(found) <= 0.005


@pytest.mark.parametrize("seed", range(4))
def test_batches_apart_give_all(kit, seed):
    sim = kit.draw(n=400, seed=seed)
    assert measure_batch_effect(sim.x, sim.batch, 2, seed) == 1.0


def test_it_rises_with_the_shift(kit):
    sim = kit.draw(n=400, shift=0)
    way = np.ones(8, np.float32) / np.sqrt(8)
    shifts = (0, 0.2, 0.4, 0.6, 0.8, 1, 3)
    found = [measure_batch_effect(sim.x + np.float32(s) * way * sim.batch[:, None], sim.batch, 2, 0) for s in shifts]
    assert found == sorted(found)
    assert found[0] == 0
    assert any(0.05 < one < 0.95 for one in found)
    assert found[-1] == 1


def test_what_it_does_not_depend_on(kit):
    sim = kit.draw(n=400, shift=0)
    sim.x[sim.batch == 1] += np.float32(0.7 / np.sqrt(8))
    one = measure_batch_effect(sim.x, sim.batch, 2, 0)
    assert 0 < one < 1
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    assert measure_batch_effect(4 * sim.x + 7, sim.batch, 2, 0) == pytest.approx(one, abs=1e-3)
    assert measure_batch_effect(sim.x @ turn, sim.batch, 2, 0) == pytest.approx(one, abs=1e-3)
    assert measure_batch_effect(sim.x, 1 - sim.batch, 2, 0) == pytest.approx(one, abs=1e-6)
    # a name that no cell bears is no group
    assert measure_batch_effect(sim.x, 2 * sim.batch, 4, 0) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "group"), [(2, [0, 1]), (1, [0]), (50, [0] * 50), (50, [1] * 50)], ids=["two cells", "one", "all 0", "all 1"]
)
def test_nothing_to_tell(n, group):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    assert measure_batch_effect(x, np.array(group), 2, 0) == 0.0


def test_a_few_cells_far_apart_are_evidence():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    group = np.arange(40) % 2
    assert measure_batch_effect(x + 20 * group[:, None].astype(np.float32), group, 2, 0) == 1.0


def test_a_cell_is_not_its_own_neighbour(kit, monkeypatch):
    from muport.integration.shared_centers import _batch_effect_test as _evidence

    seen = []

    def record(neighbors, expected):
        seen.append(neighbors)
        return _chi_squared(neighbors, expected)

    monkeypatch.setattr(_evidence, "_chi_squared", record)
    x = kit.draw(n=200).x
    # every cell its own group: groups are names of cells
    measure_batch_effect(x, np.arange(200), 200, 0)
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert np.array_equal(np.sort(seen[0], axis=1), np.sort(distance.argsort(1)[:, :30], axis=1))


def test_chi_squared_is_scipys(kit):
    from scipy.stats import chisquare

    rng = np.random.default_rng(0)
    neighbors, expected = rng.integers(3, size=(20, 30)), np.array([15.0, 9.0, 6.0])
    wanted = [chisquare(np.bincount(row, minlength=3), expected).statistic for row in neighbors]
    assert _chi_squared(neighbors, expected) == pytest.approx(np.mean(wanted))
