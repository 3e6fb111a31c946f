"""Predicted populations against lines, curves and growth that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.timecourse._couplings import couple_days
from muport.velocity.timecourse._days import Days
from muport.velocity.timecourse._interpolation import Population, population_at


def predict(days: Days, time: float, **kwargs) -> Population:
    return population_at(days, lambda day: couple_days(days, day, day + 1), time, **kwargs)


def on_curve(times: list[float], place, n: int = 80, noise: float = 0.05) -> Days:
    rng = np.random.default_rng(0)
    time = np.repeat(np.asarray(times, np.float64), n)
    return Days((place(time) + rng.normal(0, noise, (len(time), 2))).astype(np.float32), time)


def line(time: np.ndarray) -> np.ndarray:
    return np.stack([3 * time, -time], axis=1)


def parabola(time: np.ndarray) -> np.ndarray:
    return np.stack([time, time**2], axis=1)


@settings(max_examples=20, deadline=None)
@given(time=st.floats(0.05, 59.9), n=st.integers(1, 300))
def test_cells_between_the_days_of_a_line_are_on_it(time, n):
    found = predict(on_curve([0, 10, 30, 60], line, n=20), time, n_cells=n)
    assert found.x.shape == (n, 2)
    assert found.x.mean(axis=0) == pytest.approx(line(np.array([time]))[0], abs=0.2)
    assert found.mass.sum() == pytest.approx(20)


def test_paths_are_bent_by_the_days_on_either_side():
    days = on_curve([0, 1, 3, 4], parabola)
    straight = predict(days.take((days.time > 0) & (days.time < 4)), 2.0).x.mean(axis=0)
    bent = predict(days, 2.0).x.mean(axis=0)
    assert straight == pytest.approx([2, 5], abs=0.05)
    # half of the way from the chord to the curve, times the shrinkage by the shorter gap, 1/2
    assert bent == pytest.approx([2, 5 - 0.25], abs=0.06)


def test_a_short_interval_far_away_bends_little():
    """The slope over a short interval is mostly noise, and would be extrapolated over a long one."""
    days = on_curve([0, 0.1, 10, 10.1], line, noise=0.3)
    assert np.abs(predict(days, 5.0).x - line(np.array([5.0]))).max() < 2


def test_mass_changes_along_the_path():
    """One of two groups grows from 50 to 150 cells, the other stays at 100: shares and total at half time."""
    rng = np.random.default_rng(1)
    sizes = {0.0: (50, 100), 2.0: (150, 100)}
    x = [rng.normal(center, 0.3, (n, 2)) for pair in sizes.values() for center, n in zip((0, 20), pair, strict=True)]
    days = Days(np.concatenate(x).astype(np.float32), np.repeat([0.0, 2.0], [150, 250]))
    found = predict(days, 1.0, n_cells=4000)
    grown = found.mass[found.x[:, 0] < 10].sum() / found.mass.sum()
    expected = 50 * 3**0.5 / (50 * 3**0.5 + 100)
    assert grown == pytest.approx(expected, abs=0.03)
    assert found.mass.sum() == pytest.approx((150 * 250) ** 0.5)


@pytest.mark.parametrize("time", [-1.0, 4.0])
def test_cells_move_on_beyond_the_measured_days(time):
    days = on_curve([0, 1, 2, 3], line)
    found = predict(days, time)
    start, end = (line(np.array([at]))[0] for at in ((3, 4) if time > 0 else (0, -1)))
    persistence = (0.5 * 0.4 + 2) / 2.5  # of two intervals, and what is assumed
    assert found.x.mean(axis=0) == pytest.approx(start + 0.5 * persistence * (1 - np.exp(-1)) * (end - start), abs=0.1)
    known, absent = (found.origin, found.destination) if time > 0 else (found.destination, found.origin)
    assert (absent == -1).all()
    assert (known >= 0).all()


def test_far_beyond_they_stop():
    days = on_curve([0, 1], line)
    assert predict(days, 1e6).x.mean(axis=0) == pytest.approx(line(np.array([1.2]))[0], abs=0.1)


@pytest.mark.parametrize("time", [-1.0, 4.0])
def test_shifts_that_each_day_has_of_its_own_do_not_go_on(time):
    """Days that go to and fro: what was seen in the last interval was reverted before."""
    days = on_curve([0, 1, 2, 3], lambda time: np.stack([time % 2, 0 * time], axis=1))
    last = days.cells(3 if time > 0 else 0)
    assert predict(days, time).x.mean(axis=0) == pytest.approx(last.mean(axis=0), abs=0.02)


def test_noise_is_reduced_beyond_the_measured_days_and_not_at_once():
    rng = np.random.default_rng(0)
    days = Days(rng.normal(size=(400, 30)).astype(np.float32), np.repeat([0.0, 1.0], 200))
    spread = [predict(days, time).x.var(axis=0).sum() / days.cells(1).var(axis=0).sum() for time in (1.001, 20)]
    assert spread[0] == pytest.approx(1, abs=0.01)
    assert 0.45 < spread[1] < 0.75


def test_measured_days_are_returned():
    days = on_curve([0, 1], line)
    assert predict(days, 1.0).x.tolist() == days.cells(1).tolist()
    few = predict(days, 1.0, n_cells=20)
    assert few.mass.tolist() == [4.0] * 20
    assert len(np.unique(few.origin)) == 20


def test_one_day_has_no_future():
    with pytest.raises(ValueError, match="time=2 is beyond the only measured time 1"):
        predict(on_curve([1], line), 2.0)
