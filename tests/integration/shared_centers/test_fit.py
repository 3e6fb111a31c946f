"""The fit on cells whose batch effect is known: hyperparameters, references, identity, rare types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muport.integration.shared_centers._diagnostics import diagnose, measure_kept_neighbors
from muport.neighbors import kmeans, knn

VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)


def distance_between(sim, z: np.ndarray) -> float:
    """Mean distance between mutual nearest cells of different batches."""
    found = []
    for b in range(1, sim.batch.max() + 1):
        one, two = z[sim.batch == 0], z[sim.batch == b]
        there, back = knn(two, 1, query=one, method="exact"), knn(one, 1, query=two, method="exact")
        mutual = back.indices[there.indices[:, 0], 0] == np.arange(len(one))
        found.append(there.distances[mutual, 0].mean())
    return float(np.mean(found))


def within(sim, z: np.ndarray) -> float:
    return float(np.mean([np.square(z[sim.kind == t] - z[sim.kind == t].mean(0)).sum(1).mean() for t in range(5)]))


def agreement(sim, z: np.ndarray) -> float:
    """Share of cells whose nearest cell of another batch is of their type."""
    right = []
    for b in range(sim.batch.max() + 1):
        own, other = sim.batch == b, sim.batch != b
        near = knn(z[other], 1, query=z[own], method="exact").indices[:, 0]
        right.append(sim.kind[other][near] == sim.kind[own])
    return float(np.concatenate(right).mean())


def rising(values: list[float], tolerance: float, gain: float) -> None:
    assert (np.diff(values) >= -tolerance).all(), values
    assert values[-1] - values[0] >= gain, values


def averaged(kit, name: str, score, seeds: int = 3, **draw: float) -> list[float]:
    """Mean over seeds of a score at five values of one hyperparameter, the others as in `conftest.OFF`."""
    rows = []
    for seed in range(seeds):
        sim = kit.draw(n=400, n_batches=3, seed=seed, **draw)
        rows.append([score(sim, *kit.integrate(sim, max_iter=8, **{name: v})) for v in VALUES])
    return np.mean(rows, axis=0).tolist()


def test_strength_mixes(kit):
    rising(averaged(kit, "strength", lambda _s, _z, found: found.metrics["mix"]), 0.02, 0.5)


def test_conservation_keeps(kit):
    kept = averaged(kit, "conservation", lambda _s, _z, f: f.metrics["overlap"], shift=1.0, lacking=((0, 1), (1, 2)))
    rising(kept, 0.02, 0.03)
    trust = averaged(
        kit, "conservation", lambda _s, _z, f: f.metrics["trustworthiness"], shift=1.0, lacking=((0, 1), (1, 2))
    )
    rising(trust, 0.005, 0.005)


def test_sharpening_narrows_types(kit):
    rising(averaged(kit, "sharpen", lambda sim, z, _: -within(sim, z), seeds=2), 0.0, 1.0)


def test_the_projector_brings_mutual_neighbours_together(kit):
    rising(averaged(kit, "projector", lambda sim, z, _: -distance_between(sim, z)), 0.01, 0.03)


def test_prototypes_resolve(kit):
    number = averaged(kit, "prototypes", lambda _s, _z, f: sum(len(m.position) for m in f.state.maps), seeds=1)
    assert number[0] == 3
    assert (np.diff(number) > 0).all()


def test_supervision_makes_labels_agree(kit):
    rows = []
    for seed in range(6):
        # types wide enough to touch, and each shifted on its own
        sim = kit.draw(n=400, n_batches=2 + seed % 2, shift=3.0, local=1.5, noise=2.0, seed=seed // 2)
        rows.append([agreement(sim, kit.integrate(sim, label=sim.kind, max_iter=8, supervision=v)[0]) for v in VALUES])
    rising(np.mean(rows, axis=0).tolist(), 0.01, 0.04)


def test_no_strength_is_the_input(kit):
    sim = kit.draw(n=300)
    z, found = kit.integrate(sim, strength=0.0, sharpen=1.0, projector=1.0)
    assert np.array_equal(z, sim.x)
    assert found.metrics["move"] == 0


def test_no_sharpening_has_no_centres(kit):
    assert len(kit.integrate(kit.draw(n=200), sharpen=0.0)[1].state.sharpening_centers) == 0


def test_every_batch_counts_the_same_in_the_sharpening(kit, monkeypatch):
    from muport.integration.shared_centers import _sharpening

    seen = []

    def record(x, k, **how):
        seen.append(how.get("weights"))
        return kmeans(x, k, **how)

    monkeypatch.setattr(_sharpening, "kmeans", record)
    sim = kit.draw(n=300)
    uneven = sim[np.flatnonzero((sim.batch == 0) | (np.arange(300) % 4 == 0))]
    kit.integrate(uneven, sharpen=0.5)
    size = np.bincount(uneven.batch)
    assert np.sort(seen[-1]) == pytest.approx(np.sort(1 / size[uneven.batch]))


def test_no_supervision_is_no_labels(kit):
    sim = kit.draw(n=300)
    assert np.array_equal(kit.integrate(sim)[0], kit.integrate(sim, label=sim.kind)[0])


def test_no_projector_adds_nothing(kit, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("called")

    monkeypatch.setattr("muport.integration.shared_centers._group_maps.estimate_mnn_shift", never)
    kit.integrate(kit.draw(n=200), projector=0.0)
    with pytest.raises(AssertionError):
        kit.integrate(kit.draw(n=200), projector=0.1)


def test_no_prototypes_is_one_affine_map_per_batch(kit):
    sim = kit.draw(n=300, n_batches=3)
    z, found = kit.integrate(sim, prototypes=0.0, conservation=1.0)
    # without its change of shape (conservation 1) it is a translation
    for b in range(3):
        move = (z - sim.x)[sim.batch == b]
        assert np.abs(move - move.mean(0)).max() < 1e-4
    z, _ = kit.integrate(sim, prototypes=0.0)
    for b in range(3):
        x = np.column_stack([sim.x, np.ones(300)])[sim.batch == b]
        fitted = x @ np.linalg.lstsq(x, z[sim.batch == b], rcond=None)[0]
        assert np.abs(fitted - z[sim.batch == b]).max() < 1e-3


def test_no_conservation_holds_nothing_back(kit):
    sim = kit.draw(n=300, shift=0)
    assert kit.integrate(sim)[1].metrics["evidence"] < 0.1
    moved = [kit.integrate(sim, conservation=c)[1].metrics["move"] for c in (0.0, 0.25, 0.5)]
    assert moved[0] > 0.03
    assert 0 < moved[1] < moved[0]
    assert moved[2] < 0.1 * moved[0]


@pytest.mark.parametrize("fixed", ["b0", "b2"])
def test_the_reference_stays_and_the_others_come(kit, fixed):
    sim = kit.draw(n=450, n_batches=3, local=0.3)
    z, _ = kit.integrate(sim, reference=(fixed,), projector=0.5)
    own = sim.batch == int(fixed[1])
    assert np.array_equal(z[own], sim.x[own])
    for t in range(5):
        target = sim.x[own & (sim.kind == t)].mean(0)
        for other in set(range(3)) - {int(fixed[1])}:
            chosen = (sim.batch == other) & (sim.kind == t)
            before = np.linalg.norm(sim.x[chosen].mean(0) - target)
            assert np.linalg.norm(z[chosen].mean(0) - target) < 0.2 * before


def test_history_tells_the_annealing(kit):
    _, found = kit.integrate(kit.draw(n=300), max_iter=10)
    theta = [row[0] for row in found.history]
    assert theta[0] == 2.0
    assert theta == sorted(theta, reverse=True)
    assert len(found.history) == found.metrics["iteration"] <= 10


def test_metrics_are_those_of_the_latent(kit):
    sim = kit.draw(n=300, n_batches=3)
    z, found = kit.integrate(sim, sharpen=0.5, projector=0.5)
    wanted = diagnose(sim.x, z, sim.batch, 3)
    for name in ("mix", "mix_input", "overlap", "strain", "trustworthiness"):
        assert found.metrics[name] == pytest.approx(getattr(wanted, name), abs=2e-3), name
    assert found.metrics["objective"] == pytest.approx(wanted.objective(), abs=5e-3)
    move = np.linalg.norm(z - sim.x, axis=1).mean() / sim.rms
    assert found.metrics["move"] == pytest.approx(move, rel=1e-3)


def is_identity(kit, x: np.ndarray, seed: int, n_batches: int) -> None:
    batch = np.random.default_rng(seed).integers(n_batches, size=len(x))
    sim = type(kit.draw(n=10))(x, batch, np.zeros(len(x), np.int64))
    z, _ = kit.integrate(sim, seed=seed, sharpen=0.5, projector=0.5)
    move = np.linalg.norm(z - x, axis=1).mean() / sim.rms
    before, after = (knn(one, 15, method="exact").indices for one in (x, z))
    overlap = (before[:, :, None] == after[:, None, :]).any(2).mean()
    assert move <= 0.03
    assert overlap >= 0.97


@pytest.mark.parametrize("seed", range(4))
def test_random_batches_stay(kit, seed):
    is_identity(kit, kit.draw(n=500, shift=0, seed=seed).x, seed, 2 + seed)


@pytest.mark.parametrize("name", ["cellbench_3cl_3tech", "pancreas_wang_xin_scclassify"])
def test_random_batches_of_measured_cells_stay(kit, measured, name):
    sim = measured(name)
    largest = sim.x[sim.batch == np.bincount(sim.batch).argmax()]
    for seed in range(2):
        is_identity(kit, largest, seed, 3)
    # a batch effect that both halves share is none between them
    is_identity(kit, sim.x, 0, 2)


DEFAULTS = {"sharpen": 0.5, "projector": 0.5}


@pytest.mark.promise("A shift of a whole batch is removed, and nothing else is changed")
@pytest.mark.parametrize("name", ["asap_pbmc_protein_4batch", "hsc_young_old_unioncom"])
def test_a_known_shift_of_measured_cells_is_removed_in_proportion(kit, measured, name, record_property):
    sim = measured(name)
    x = sim.x[sim.batch == np.bincount(sim.batch).argmax()][:2000]
    rng = np.random.default_rng(0)
    batch, way = rng.integers(2, size=len(x)), rng.normal(size=x.shape[1]) * x.std(axis=0)
    rms = np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean())
    steps, errors = np.concatenate([np.arange(0, 0.31, 0.02), [0.5, 1.0]]), []
    for step in steps:
        shift = (step * rms / np.linalg.norm(way) * batch[:, None] * way).astype(np.float32)
        z, _ = kit.integrate(replace(sim, x=x + shift, batch=batch, kind=batch), **DEFAULTS)
        # a translation of all cells is none
        residual = z - x - (z - x).mean(axis=0)
        errors.append(np.sqrt(np.square(residual).sum(axis=1).mean()) / rms)
    record_property("tries", len(steps))
    assert errors[0] <= 1e-3
    # half of the shift is what is left without a correction
    assert (np.array(errors) <= np.minimum(steps / 2 + 1e-3, 0.08)).all(), errors
    assert errors[-1] <= 0.06
    assert np.abs(np.diff(errors[:-2])).max() <= 0.05, errors


@pytest.mark.promise(
    "The default pull toward cluster centers costs at most a hundredth of the neighbors within batches"
)
def test_the_default_pull_is_gentle(kit, measured):
    for name in ("pancreas_wang_xin_scclassify", "hsc_young_old_unioncom"):
        sim = measured(name)
        kept = [
            measure_kept_neighbors(sim.x, kit.integrate(sim, sharpen=value)[0], sim.batch, 2)
            for value in (0.0, 0.5, 0.75, 1.0)
        ]
        assert kept[0] >= 0.94
        assert kept[0] - kept[1] <= 0.01
        assert (np.diff(kept) <= 2e-3).all(), kept
        assert kept[3] <= kept[0] - 0.1


@pytest.mark.parametrize(("sharpen", "projector"), [(0.0, 0.0), (0.5, 0.5)])
def test_rare_types_stay_themselves(kit, sharpen, projector):
    before, after = [], []
    for seed in range(4):
        # the last type is .5 % of each batch, the first is in the second batch only
        sim = kit.draw(n=4000, rare=0.005, lacking=((0, 0),), seed=seed)
        z, _ = kit.integrate(sim, sharpen=sharpen, projector=projector)
        before.append(kit.neighbor_accuracy(sim.x, sim.kind)[[0, -1]])
        after.append(kit.neighbor_accuracy(z, sim.kind)[[0, -1]])
    assert (np.mean(after, axis=0) >= np.mean(before, axis=0) - 0.02).all(), (before, after)
    assert np.min(np.array(after) - before) >= -0.06


def test_rare_types_of_measured_cells_stay_themselves(kit, measured):
    sim = measured("pancreas_wang_xin_scclassify")
    before = kit.neighbor_accuracy(sim.x, sim.kind, 15)
    after = kit.neighbor_accuracy(kit.integrate(sim, sharpen=0.5, projector=0.5)[0], sim.kind, 15)
    alone = [t for t in range(sim.kind.max() + 1) if len(np.unique(sim.batch[sim.kind == t])) == 1]
    assert len(alone) >= 2
    assert (after[alone] >= before[alone] - 0.02).all(), (before[alone], after[alone])
