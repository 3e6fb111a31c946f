"""Fates from another position, of a flow that forks and whose direction is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.fates._combined_kernel import fit_combined_kernel
from muport.velocity.fates._perturbation import mean_change, perturbed_fates


def test_a_push_to_one_side_leads_to_its_branch(chains: Any) -> None:
    x, v, time, branch = chains.forked(0.5, 400, seed=0)
    x, v = x.astype(np.float32), v.astype(np.float32)
    kernel = fit_combined_kernel(x, v, time, 15)
    ends = chains.late_cells(time, branch, ["A", "B"])
    before, same = perturbed_fates(kernel, ends, x, v)
    assert same == pytest.approx(before, abs=1e-6)
    push = np.zeros(20, np.float32)
    push[1] = 1.5
    late_trunk = (time > 0.3) & (time < 0.45)
    to_a, to_b = (perturbed_fates(kernel, ends, x + side * push, v)[1] for side in (1, -1))
    assert to_a[late_trunk, 0].mean() > before[late_trunk, 0].mean() + 0.1
    assert to_b[late_trunk, 0].mean() < before[late_trunk, 0].mean() - 0.1
    assert (to_a[ends >= 0] == before[ends >= 0]).all()
    assert to_a.sum(axis=1) == pytest.approx(1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), n_groups=st.integers(1, 9))
def test_the_mean_is_that_of_the_cells_and_bounds_contain_it(seed: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    change, kept = rng.normal(1, 0.1, (60, 2)), rng.random(60) < 0.7
    group = rng.integers(n_groups, size=60)
    mean, lower, upper = mean_change([change], [kept], group, 30, 0.99, seed)
    assert mean == pytest.approx(change[kept].mean(axis=0))
    assert (lower <= mean + 1e-12).all()
    assert (mean <= upper + 1e-12).all()
    assert np.isnan(mean_change([change], [kept], group, 0, 0.9, seed)[1]).all()


def test_bounds_over_samples_are_wider_where_samples_differ() -> None:
    change = np.repeat([[0.0], [1.0], [0.0], [1.0]], 50, axis=0)
    kept = np.full(200, True)
    groups = (np.arange(200), np.arange(200) // 50)
    widths = [np.ptp(mean_change([change], [kept], group, 200, 0.9, 0)[1:]) for group in groups]
    assert widths[1] > 4 * widths[0]
