"""Separation of labeled types: how predictable they are, how far they are moved, and the fit with some labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import polar
from sklearn.metrics import silhouette_score

from muport.integration._fitted_state import Types, predict_type_probabilities
from muport.integration.labels import _type_separation
from muport.integration.labels._type_separation import fit_types, separate_types

HYPERPARAMETERS = {"sharpen": 0.5, "projector": 0.5, "max_iter": 8}


def blobs(n: int = 400, apart: float = 6.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    code = rng.integers(3, size=n)
    return (apart * np.eye(3, 5)[code] + rng.normal(size=(n, 5))).astype(np.float32), code


def half(code: np.ndarray, share: float = 0.5, seed: int = 0) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(len(code)) < share, code, -1)


def test_predictability_is_a_loop():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=60)
    p = rng.dirichlet(np.ones(3), 60) + 3 * np.eye(3)[truth]
    p /= p.sum(1, keepdims=True)
    weight = _type_separation._compute_predictability(p, truth)
    for c in range(3):
        parts = [p[truth == c, c], p[truth != c, c]]
        mean = [(x.sum() + 0.5) / (len(x) + 1) for x in parts]
        error = np.sqrt(sum(m * (1 - m) / (len(x) + 1) for m, x in zip(mean, parts, strict=True)))
        assert weight[c] == pytest.approx(np.clip(2 * (mean[0] - mean[1] - 3 * error), 0, 1))


def test_few_labels_weigh_less_and_noise_nothing():
    z, code = blobs()
    most, some = (fit_types(z, half(code, s), 0)[1][:2].min() for s in (0.5, 0.05))
    assert 0.8 < most <= 1
    assert 0 < some < most
    noise = np.random.default_rng(1).permutation(code)
    assert not fit_types(z, half(noise), 0)[1].any()


def test_a_label_of_one_cell_weighs_nothing():
    z, code = blobs()
    code[0] = 3
    weight = fit_types(z, code, 0)[1]
    assert weight[3] == 0
    assert weight[:3].min() > 0.8


def test_probabilities_are_those_of_the_types():
    z, code = blobs()
    types, _ = fit_types(z, half(code), 0)
    p = predict_type_probabilities(z, types)
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    assert (p.argmax(1) == code).mean() > 0.97
    shifted = Types(types.weights + np.float32(5), types.shift)
    assert np.allclose(predict_type_probabilities(z, shifted), p, atol=1e-5)


def test_close_types_move_to_the_wanted_distance():
    y, code = blobs(3000, apart=1.0)
    p = np.eye(3, dtype=np.float32)[code]
    moved = y + p @ separate_types(y, p, np.ones(3), 1.0)
    mean = np.stack([moved[code == c].mean(0) for c in range(3)])
    radius = np.sqrt(np.mean(np.square(moved - mean[code]).sum(1)))
    distance = np.linalg.norm(mean[[0, 1, 2]] - mean[[1, 2, 0]], axis=1) / radius
    # distances along the frame add to those there were, so they are at least R and at most sqrt(2) R
    assert distance.min() >= 4 - 0.05
    assert distance.max() <= 4 * np.sqrt(2)


def test_spread_is_along_the_polar_factor():
    y, code = blobs(apart=1.0)
    p = np.eye(3, dtype=np.float32)[code]
    shift = separate_types(y, p, np.ones(3), 0.5)
    mean = np.stack([y[code == c].mean(0) for c in range(3)])
    mean -= mean.mean(0)
    left, size, right = np.linalg.svd(mean.astype(float), full_matrices=False)
    wanted = left[:, :2] @ right[:2]
    for c in range(3):
        assert shift[c] / np.linalg.norm(shift[c]) == pytest.approx(wanted[c] / np.linalg.norm(wanted[c]), abs=1e-3)
    full = np.random.default_rng(0).normal(size=(3, 5))
    assert np.allclose(_type_separation._fit_frame(full), polar(full)[0], atol=1e-6)


def test_far_types_and_unsure_types_stay():
    y, code = blobs(apart=40.0)
    p = np.eye(3, dtype=np.float32)[code]
    assert not separate_types(y, p, np.ones(3), 0.5).any()
    near, code = blobs(apart=1.0)
    p = np.eye(3, dtype=np.float32)[code]
    shift = separate_types(near, p, np.array([1.0, 0.0, 1.0]), 0.5)
    assert not shift[1].any()
    assert shift[[0, 2]].any(axis=1).all()
    assert not separate_types(near, p, np.array([1.0, 0.0, 0.0]), 1.0).any()


@pytest.fixture(scope="module")
def sim(kit):
    """Types wide enough to touch."""
    return kit.draw(n=500, n_batches=2, shift=3.0, local=1.0, noise=2.2, seed=3)


def separation(sim, z: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
    return float(silhouette_score(z[rows], sim.kind[rows]))


def test_supervision_separates_types(kit, sim):
    label = half(sim.kind)
    strengths = (0, 0.25, 0.5, 1)
    integrated = [kit.integrate(sim, label, supervision=s, **HYPERPARAMETERS)[0] for s in strengths]
    scores = [separation(sim, z, label < 0) for z in integrated]
    assert (np.diff(scores) > -0.01).all()
    assert scores[2] > scores[0] + 0.08
    assert scores[3] > scores[2] + 0.04


def test_permuted_labels_change_nothing(kit, sim):
    plain = kit.integrate(sim, **HYPERPARAMETERS)[0]
    noise = np.random.default_rng(2).permutation(sim.kind)
    z, fit = kit.integrate(sim, half(noise), supervision=1.0, **HYPERPARAMETERS)
    assert np.array_equal(z, plain)
    assert fit.state.types is None


def test_one_label_alone_changes_nothing(kit, sim):
    only = np.where(sim.kind == 2, 0, -1)
    assert np.array_equal(
        kit.integrate(sim, only, supervision=1.0, **HYPERPARAMETERS)[0], kit.integrate(sim, **HYPERPARAMETERS)[0]
    )


def test_wrong_labels_cost_no_more_than_their_share(kit, sim):
    label = half(sim.kind)
    rng = np.random.default_rng(4)
    known = np.flatnonzero(label >= 0)
    wrong = rng.choice(known, len(known) // 10, replace=False)
    flipped = label.copy()
    flipped[wrong] = (label[wrong] + 1 + rng.integers(4, size=len(wrong))) % 5
    plain, right, some = (
        separation(sim, kit.integrate(sim, some_labels, supervision=0.5, **HYPERPARAMETERS)[0], label < 0)
        for some_labels in (np.full_like(label, -1), label, flipped)
    )
    assert some > plain + 0.5 * (right - plain)


def test_labels_of_one_batch_serve_the_other(kit, sim):
    label = np.where(sim.batch == 0, sim.kind, -1)
    plain, supervised = (
        kit.integrate(sim, some_labels, supervision=0.5, **HYPERPARAMETERS)[0] for some_labels in (None, label)
    )
    assert separation(sim, supervised, sim.batch == 1) > separation(sim, plain, sim.batch == 1) + 0.05
    gain = [kit.neighbor_accuracy(z, sim.kind).mean() for z in (plain, supervised)]
    assert gain[1] >= gain[0] - 0.01


@pytest.mark.parametrize("rare", [None, 0.03])
def test_a_type_of_one_batch_is_not_swallowed(kit, rare):
    sim = kit.draw(n=600, n_batches=2, rare=rare, lacking=((1, 0),), noise=1.0, seed=5)
    plain, supervised = (
        kit.integrate(sim, some_labels, supervision=1.0, **HYPERPARAMETERS)[0] for some_labels in (None, half(sim.kind))
    )
    lost = kit.neighbor_accuracy(plain, sim.kind) - kit.neighbor_accuracy(supervised, sim.kind)
    assert lost.max() <= 0.03


def test_same_seed_and_any_order(kit, sim):
    label = half(sim.kind)
    z = kit.integrate(sim, label, supervision=0.5, **HYPERPARAMETERS)[0]
    assert np.array_equal(kit.integrate(sim, label, supervision=0.5, **HYPERPARAMETERS)[0], z)
    order = np.random.default_rng(0).permutation(len(z))
    again = kit.integrate(sim[order], label[order], supervision=0.5, **HYPERPARAMETERS)[0]
    assert np.abs(again - z[order]).max() <= 1e-3


def test_one_batch_is_left_alone(kit, sim):
    one = sim[sim.batch == 0]
    assert np.array_equal(kit.integrate(one, half(one.kind), supervision=1.0, **HYPERPARAMETERS)[0], one.x)


def test_many_cells_are_sampled(monkeypatch):
    monkeypatch.setattr(_type_separation, "_MAX_CELLS", 100)
    z, code = blobs()
    for share in (0.05, 0.5, 1.0):
        rows = _type_separation._sample_cells(half(code, share), 0)
        assert len(rows) <= 100
        assert len(np.unique(rows)) == len(rows)
        assert (half(code, share)[rows] >= 0).sum() >= min(50, (half(code, share) >= 0).sum())
    types, weight = fit_types(z, half(code), 0)
    assert (predict_type_probabilities(z, types).argmax(1) == code).mean() > 0.95
    assert weight.min() > 0.4
