"""Plans between days, against an independent solver and a known growth."""

from __future__ import annotations

import numpy as np
import ot as pot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.timecourse import _couplings
from muport.velocity.timecourse._couplings import CouplingOptions, couple_days
from muport.velocity.timecourse._days import Days


def two_days(x: np.ndarray, y: np.ndarray, **kwargs) -> Days:
    points = np.concatenate([x, y]).astype(np.float32)
    return Days(points, np.repeat([0.0, 1.0], [len(x), len(y)]), **kwargs)


def blobs(rng: np.random.Generator, sizes: tuple[int, int], shift: float = 0.0) -> np.ndarray:
    return np.concatenate([rng.normal(center, 0.3, (n, 2)) + shift for center, n in zip((0, 20), sizes, strict=True)])


def test_balanced_plan_is_that_of_pot():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 1
    found = couple_days(two_days(x, y), 0, 1, CouplingOptions(reg_scale=0.5, relaxation=None, denoise=False))
    cost = pot.dist(x, y)
    squared = [np.median(np.sort(pot.dist(p, p), axis=1)[:, 5]) for p in (x, y)]
    expected = pot.sinkhorn(np.full(40, 1 / 40), np.full(30, 1 / 30), cost, 0.5 * np.sqrt(np.prod(squared)))
    # entries that hold less than a hundredth of their row and column are left out
    assert np.abs(found.plan.toarray() - expected).sum() < 0.03
    assert found.converged
    assert found.growth == pytest.approx(np.ones(40), abs=0.03)


def test_a_branch_that_grows_has_more_descendants():
    """One of two groups far from each other doubles its fraction; balanced transport carries cells across."""
    rng = np.random.default_rng(1)
    days = two_days(blobs(rng, (100, 100)), blobs(rng, (50, 150), shift=1))
    relaxed = couple_days(days, 0, 1)
    crossing = relaxed.plan.toarray()[:100, 50:].sum()
    assert crossing < 0.02
    assert relaxed.growth[:100].mean() == pytest.approx(0.5, abs=0.05)
    assert relaxed.growth[100:].mean() == pytest.approx(1.5, abs=0.05)
    balanced = couple_days(days, 0, 1, CouplingOptions(relaxation=None))
    assert balanced.plan.toarray()[:100, 50:].sum() == pytest.approx(0.25, abs=0.02)


def test_push_and_pull_are_adjoint_and_pull_keeps_the_mass():
    rng = np.random.default_rng(2)
    plan = couple_days(two_days(rng.normal(size=(25, 2)), rng.normal(size=(35, 2))), 0, 1)
    p, q = rng.random(25), rng.random(35)
    assert (plan.push(p) @ q) / 25 == pytest.approx((p @ plan.pull(q)) / 35)
    assert plan.pull(q).sum() == pytest.approx(q.sum(), rel=1e-5)
    assert plan.push(np.full(25, 1 / 25)) == pytest.approx(np.full(35, 1 / 35), rel=1e-5)


def test_barycenters_of_a_translation():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 2)) * 5
    plan = couple_days(two_days(x, x + [2.0, 0.0]), 0, 1, CouplingOptions(reg_scale=0.1, relaxation=None))
    forward = plan.mean_target(x + [2.0, 0.0]) - x
    assert forward.mean(axis=0) == pytest.approx([2, 0], abs=0.05)
    assert (x + [2.0, 0.0] - plan.mean_source(x)).mean(axis=0) == pytest.approx([2, 0], abs=0.05)


def test_large_days_are_split_into_blocks(monkeypatch):
    monkeypatch.setattr(_couplings, "_BLOCK_CELLS", 50)
    rng = np.random.default_rng(4)
    days = two_days(blobs(rng, (100, 100)), blobs(rng, (60, 160), shift=1))
    found = couple_days(days, 0, 1)
    assert found.plan.shape == (200, 220)
    assert found.plan.nnz < 200 * 220 / 3
    assert found.plan.sum(axis=0) == pytest.approx(np.full((1, 220), 1 / 220), rel=1e-4)
    assert found.growth[:100].mean() == pytest.approx(120 / 220, abs=0.08)


def test_cells_are_transported_within_batches_that_span_both_days():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 2))
    days = two_days(x[:30], x[30:], batch=np.tile([0, 1], 30))
    plan = couple_days(days, 0, 1).plan.toarray()
    assert plan[::2, 1::2].sum() == plan[1::2, ::2].sum() == 0
    alone = two_days(x[:30], x[30:], batch=np.repeat([0, 1], 30))
    assert (couple_days(alone, 0, 1).plan.toarray() > 0).any(axis=0).all()


@settings(max_examples=15, deadline=None)
@given(scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6, 1e12]), shift=st.sampled_from([0.0, 1.0, 100.0]))
def test_plans_have_no_unit(scale, shift):
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(15, 2)) + shift
    plan = couple_days(two_days(x, y), 0, 1).plan.toarray()
    scaled = couple_days(two_days(x * scale, y * scale), 0, 1).plan.toarray()
    assert np.isfinite(scaled).all()
    assert scaled == pytest.approx(plan, abs=1e-4)


def test_equal_cells_have_a_plan():
    plan = couple_days(
        two_days(np.zeros((12, 2)), np.zeros((10, 2))), 0, 1, CouplingOptions(denoise=True)
    ).plan.toarray()
    assert plan == pytest.approx(np.full((12, 10), 1 / 120), rel=1e-4)
