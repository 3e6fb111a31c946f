"""Cells that follow the paths around them against populations whose movement and growth are known."""

from __future__ import annotations

import numpy as np
import pytest

from muport.velocity.timecourse._couplings import CouplingOptions, couple_days
from muport.velocity.timecourse._days import Days
from muport.velocity.timecourse._followed_cells import follow_cells, options_to_follow
from muport.velocity.timecourse._held_out_days import compare_populations


@pytest.fixture(scope="module")
def days() -> Days:
    """Two groups far from each other: one turns and doubles each day, the other stays."""
    rng = np.random.default_rng(0)
    parts, time = [], []
    for t in range(3):
        angle = 0.6 * t + rng.normal(0, 0.1, 20 * 2**t)
        turning = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        cells = np.concatenate([turning, rng.normal(0, 0.1, (30, 2)) - 30])
        parts.append(cells.astype(np.float32))
        time.append(np.full(len(cells), float(t)))
    return Days(np.concatenate(parts), np.concatenate(time))


@pytest.fixture(scope="module")
def follow(days):
    options = options_to_follow(CouplingOptions())
    plans = {day: couple_days(days, day, day + 1, options) for day in (0, 1)}
    return lambda day, time: follow_cells(days, plans.__getitem__, day, time)


def test_followed_cells_have_the_places_and_the_mass_of_later_days(days, follow):
    for day in (1, 2):
        x, mass = follow(0, float(day))
        assert compare_populations(x.astype(np.float64), days.cells(day).astype(np.float64), mass)["w1"] < 0.25
        assert mass[:20].sum() == pytest.approx(20 * 2**day, rel=0.05)
        assert mass[20:].sum() == pytest.approx(30, rel=0.05)


def test_cells_are_followed_back(days, follow):
    x, mass = follow(2, 0.0)
    turning, resting = days.cells(0)[:20], days.cells(0)[20:]
    ancestors = np.average(x[:80], axis=0, weights=mass[:80])
    assert ancestors == pytest.approx(turning.mean(axis=0), abs=0.15)
    assert x[80:].mean(axis=0) == pytest.approx(resting.mean(axis=0), abs=0.05)
    assert mass[:80].sum() == pytest.approx(20, rel=0.05)


def test_no_cell_moves_farther_than_a_path(follow):
    x, _ = follow(0, 0.5)
    assert np.abs(x[:20]).max() < 5.6  # on a chord or a bent path, never past the circle and its noise


def test_cells_of_a_day_stay_at_its_time(days, follow):
    x, mass = follow(1, 1.0)
    assert (x == days.cells(1)).all()
    assert (mass == 1).all()
