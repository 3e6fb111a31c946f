"""The fit on a sample: that of memory where the sample is whole, and close to it elsewhere."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from muport.data import pack
from muport.integration._fitted_state import transform_cells
from muport.integration._hyperparameters import FitOptions, Hyperparameters
from muport.integration.atlas import _centroid_fit as atlas
from muport.integration.atlas._centroid_fit import CentroidOptions, fit_centroids
from muport.integration.atlas._sampling import CellSource
from muport.integration.prototypes._standardized_cells import standardize_cells
from muport.integration.shared_centers._fit import fit_shared_centers


def blocks_of(codes, size=500):
    return lambda: ((start, codes[start : start + size]) for start in range(0, len(codes), size))


def names_of(sim):
    return tuple(f"b{i}" for i in range(sim.batch.max() + 1))


def centroids(sim, hyperparameters=None, how=None, label=None, **kwargs):
    labels = None if label is None else blocks_of(label)
    source = CellSource(lambda a, b: sim.x[a:b], blocks_of(sim.batch), names_of(sim), sim.x.shape, labels)
    return fit_centroids(source, hyperparameters or Hyperparameters(), FitOptions(), how, **kwargs)


def same(a, b):
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_whole_sample_gives_the_state_of_memory(kit, labelled):
    sim = kit.draw(n=900, n_batches=3)
    label = np.where(np.arange(900) % 3, sim.kind, -1) if labelled else None
    found = centroids(sim, label=label)
    wanted = fit_shared_centers(
        standardize_cells(sim.x, sim.batch, names_of(sim), label), Hyperparameters(), FitOptions()
    )
    assert same(found.state, wanted.state)
    assert found.metrics["n_centroids"] == sum(len(one.position) for one in wanted.state.maps)
    assert found.metrics["n_sampled"] == 900


def test_a_sample_is_scaled_as_all_cells(kit):
    sim = kit.draw(n=6_000, shift=8.0, local=0.0, seed=1)
    sim = sim[(sim.batch == 0) | (np.arange(6_000) % 10 == 0)]
    state = centroids(sim, how=CentroidOptions(max_samples=250)).state
    center = sim.x.mean(0)
    spread = np.sqrt(np.square(sim.x - center).sum(1).mean())
    # batches taken as equally large would put the centre 0.4 of the shift, 8, away
    assert np.linalg.norm(state.center - center) < 0.8
    assert state.scale == pytest.approx(spread, rel=0.05)


def test_a_sample_moves_cells_as_all_cells_do(kit):
    sim = kit.draw(n=6_000, n_batches=3, seed=2)
    code = {}
    places = []
    for most in (500_000, 500):
        state = centroids(sim, how=CentroidOptions(max_samples=most)).state
        code = dict(zip(state.groups, range(3), strict=True))
        places.append(transform_cells(sim.x, np.array([code[name] for name in names_of(sim)])[sim.batch], state))
    difference = np.linalg.norm(places[0] - places[1], axis=1)
    assert np.median(difference) < 0.15 * np.linalg.norm(places[0] - sim.x, axis=1).mean()


@pytest.mark.parametrize("most", [1, 7, 40])
def test_no_group_has_more_centroids_than_asked(kit, most):
    sim = kit.draw(n=900, n_batches=3)
    found = centroids(sim, how=CentroidOptions(n_centroids=most))
    assert max(len(one.position) for one in found.state.maps) <= most
    assert found.metrics["n_centroids"] == sum(len(one.position) for one in found.state.maps)


def test_all_groups_have_a_bound(kit, monkeypatch):
    monkeypatch.setattr(atlas, "_TOTAL", 30)
    sim = kit.draw(n=900, n_batches=3)
    assert centroids(sim).metrics["n_centroids"] <= 33


def test_the_state_does_not_grow(kit):
    sizes = []
    for n in (3_000, 12_000):
        state = centroids(kit.draw(n=n), how=CentroidOptions(max_samples=400)).state
        tensors = {}
        pack(state, "state", tensors)
        sizes.append(sum(array.nbytes for array in tensors.values()))
    assert sizes[1] < 1.05 * sizes[0]


def test_more_centroids_carry_a_cell(kit):
    sim = kit.draw(n=600)
    few, many = (centroids(sim, how=CentroidOptions(k_interp=k)).state for k in (1, 8))
    assert (few.neighbors, many.neighbors) == (1, 8)
    a, b = (transform_cells(sim.x, sim.batch, state) for state in (few, many))
    assert np.abs(a - b).max() > 1e-3


def test_a_named_group_stays(kit):
    sim = kit.draw(n=900, n_batches=3)
    state = centroids(sim, Hyperparameters(sharpen=0), fixed=("b1",)).state
    assert not state.maps[state.groups.index("b1")].shift.any()
    assert state.maps[state.groups.index("b0")].shift.any()


def test_a_group_of_one_cell_survives(kit):
    sim = kit.draw(n=400, n_batches=3)
    sim = sim[(sim.batch < 2) | (np.arange(400) == np.flatnonzero(sim.batch == 2)[0])]
    state = centroids(sim, how=CentroidOptions(max_samples=100)).state
    assert len(state.maps[state.groups.index("b2")].position) == 1


def test_two_batches_apart_meet_half_way(kit):
    """The displacement is that of the cell's own batch: neighbours of the other one would cancel it."""
    one = kit.draw(n=2_000, n_batches=1, shift=0.0, local=0.0, noise=1.0)
    way = np.full(8, 0.5, np.float32)
    x = np.concatenate([one.x, one.x + way])
    batch = np.repeat([0, 1], len(one.x))
    sim = type(one)(x, batch, np.tile(one.kind, 2))
    hyperparameters = Hyperparameters(sharpen=0, projector=0, conservation=0)
    state = centroids(sim, hyperparameters, CentroidOptions(k_interp=8)).state
    moved = transform_cells(x, np.array([state.groups.index(name) for name in names_of(sim)])[batch], state) - x
    for code, ideal in ((0, way / 2), (1, -way / 2)):
        assert np.linalg.norm(moved[batch == code].mean(0) - ideal) < 0.01 * np.linalg.norm(ideal)
