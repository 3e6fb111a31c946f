"""Eqs 17-22 against NumPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from muport.integration.shared_centers._diagnostics import (
    Diagnostics,
    ObjectiveWeights,
    describe_metrics,
    diagnose,
    measure_batch_variance,
    measure_kept_neighbors,
    neighbor_entropy,
)


def nearest(x: np.ndarray, k: int) -> np.ndarray:
    distance = np.linalg.norm(x[:, None].astype(float) - x[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return distance.argsort(1)[:, :k]


@pytest.fixture
def two() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x0 = rng.normal(size=(90, 4)).astype(np.float32)
    return x0, (x0 + 0.4 * rng.normal(size=(90, 4))).astype(np.float32), rng.integers(3, size=90)


def test_against_numpy(two):
    x0, x, group = two
    found, k = diagnose(x0, x, group, 3), 30
    before, after = nearest(x0, k), nearest(x, k)
    for near, got in ((after, found.mix), (before, found.mix_input)):
        wanted = np.mean([entropy(np.bincount(group[row], minlength=3)) for row in near])
        assert got == pytest.approx(wanted, abs=1e-6)
    assert found.overlap == pytest.approx(np.mean([len({*a} & {*b}) / k for a, b in zip(before, after, strict=True)]))
    stretch = [
        np.clip(np.linalg.norm(x[i] - x[j]) / np.linalg.norm(x0[i] - x0[j]) - 1, -1, 1) ** 2
        for i in range(90)
        for j in before[i]
    ]
    assert found.strain == pytest.approx(np.mean(stretch), rel=1e-3)
    assert found.trustworthiness == pytest.approx(trustworthiness(x0, x, n_neighbors=k), abs=1e-6)


def test_the_objective():
    found, w = Diagnostics(mix=0.6, mix_input=0.2, overlap=0.5, strain=0.03, trustworthiness=0.9), ObjectiveWeights()
    wanted = 0.4 + w.overlap * 0.5 - w.strain * 0.03 - w.penalty * 0.1**2 - w.drop * 0.25
    assert found.objective(floor=0.6, best_overlap=0.75) == pytest.approx(wanted)
    assert Diagnostics(0.2, 0.2, 1.0, 0.0, 1.0).objective() == pytest.approx(w.overlap)


def test_identity_and_similarity(two):
    x0, _, group = two
    for x in (x0, x0 + 3):
        found = diagnose(x0, x, group, 3)
        assert found.overlap == pytest.approx(1, abs=1e-3)
        assert found.strain == pytest.approx(0, abs=1e-6)
        assert found.mix == pytest.approx(found.mix_input, abs=1e-3)
        assert found.trustworthiness == pytest.approx(1, abs=1e-3)


def test_kept_neighbors_are_those_of_the_same_group(two):
    x0, x, group = two
    kept = []
    for code in range(3):
        rows = np.flatnonzero(group == code)
        k = min(30, (len(rows) - 1) // 2)
        before, after = (
            NearestNeighbors(n_neighbors=k).fit(v[rows]).kneighbors(return_distance=False) for v in (x0, x)
        )
        kept += [len(np.intersect1d(a, b)) / k for a, b in zip(before, after, strict=True)]
    assert measure_kept_neighbors(x0, x, group, 3) == pytest.approx(np.mean(kept), abs=1e-3)
    apart = x0 + 10 * group[:, None].astype(np.float32)
    assert measure_kept_neighbors(x0, apart, group, 3) == pytest.approx(1, abs=1e-3)
    assert measure_kept_neighbors(x0[:2], x[:2], np.array([0, 1]), 2) == 1.0


def test_the_sentence_about_a_fit_holds_its_numbers():
    metrics = {"move": 0.314, "neighbors_kept": 0.957, "batch_variance": 0.25, "batch_variance_left": 0.01}
    text = describe_metrics(metrics, 2)
    assert describe_metrics(metrics, 1) == "All cells are one batch, so none was moved."
    assert all(number in text for number in ("0.31 ", "96%", "25.0%", "before and 1.0% after"))


def test_variance_that_batches_explain_does_not_count_composition():
    """Two types of unequal shares in two batches, and a shift of one batch that is removed."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 1200)
    of_type = rng.random(1200) < np.where(group == 1, 0.8, 0.2)
    x = (rng.normal(size=(1200, 5)) + 20 * of_type[:, None]).astype(np.float32)
    shift = np.float32([2, 0, 0, 0, 0]) * group[:, None]
    before, after = measure_batch_variance(x + shift.astype(np.float32), x, group, 2, seed=0)
    assert before > 0.1
    assert after < 0.01


def test_entropy_of_one_and_of_all():
    assert neighbor_entropy(np.zeros((2, 6), np.int64), 3).tolist() == [0, 0]
    assert neighbor_entropy(np.array([[0, 1, 2, 0, 1, 2]]), 3) == pytest.approx([np.log(3)])


def test_degenerate_cells(two):
    x0, x, group = two
    assert diagnose(x0[:2], x[:2], group[:2], 3).overlap == 1.0
    same = np.ones_like(x0)
    assert np.isfinite(diagnose(same, same, group, 3).strain)
    assert np.isnan(diagnose(x0, x, group, 3, ranks=False).trustworthiness)
