"""Paths between coupled cells against their ends, and against differences of their places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.timecourse._coupled_paths import CoupledPaths, coupled_paths, draw_pairs, draw_systematically
from muport.velocity.timecourse._couplings import couple_days
from muport.velocity.timecourse._days import Days


@pytest.fixture(scope="module")
def paths() -> CoupledPaths:
    rng = np.random.default_rng(0)
    time = np.repeat([0.0, 1.0, 3.0, 4.0], 40)
    days = Days((np.stack([time, time**2], axis=1) + rng.normal(0, 0.1, (160, 2))).astype(np.float32), time)
    plans = {day: couple_days(days, day, day + 1) for day in range(3)}
    pairs = draw_pairs(days, plans[1], 1, 0.5, 200, rng)
    assert (days.cells(1)[pairs.first[pairs.rank_i]] == days.cells(1)[pairs.i]).all()
    found = coupled_paths(days, plans.__getitem__, 1, pairs)
    assert found.at(0.0) == pytest.approx(days.cells(1)[pairs.i])
    assert found.at(found.length) == pytest.approx(days.cells(2)[pairs.j])
    return found


@settings(max_examples=20, deadline=None)
@given(passed=st.floats(0.01, 1.99))
def test_velocity_is_the_derivative_of_the_place(paths, passed):
    step = 1e-4
    difference = (paths.at(passed + step) - paths.at(passed - step)) / (2 * step)
    assert paths.velocity(passed) == pytest.approx(difference, abs=1e-6)


def test_cells_are_drawn_as_often_as_their_mass_says():
    drawn = draw_systematically(np.array([1.0, 0.0, 3.0]), 400, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=3).tolist() == [100, 0, 300]
