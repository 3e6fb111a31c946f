"""Growth rates: known rates of simulated branches, limits, units, uncertainty."""

import numpy as np
import pytest

from muport.velocity.timecourse._days import Days
from muport.velocity.timecourse._growth import GrowthField, GrowthOptions, fit_growth, mass_along

FAST = GrowthOptions(n_replicates=0)


def branches(rate, n=120, unit=1.0, seed=0):
    """Cells of four days in two branches, of which the first divides."""
    rng = np.random.default_rng(seed)
    x, time, first = [], [], []
    for day in range(4):
        in_first = np.arange(n + round(n * np.exp(rate * day))) >= n
        cells = rng.normal(0, 0.5, (len(in_first), 5))
        cells[:, 0] += 2 * day
        cells[:, 1] += np.where(in_first, 6, -6)
        x.append(cells)
        time.append(np.full(len(cells), day * unit))
        first.append(in_first)
    return Days(np.concatenate(x).astype(np.float32), np.concatenate(time)), np.concatenate(first)


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_the_rate_of_a_branch_that_divides_is_known_within_15_percent(rate):
    days, first = branches(rate)
    got, _ = fit_growth(days, FAST).evaluate(days.x, days.time)
    assert got[first].mean() == pytest.approx(rate, rel=0.15)
    assert abs(got[~first].mean()) < 0.15 * rate


def test_close_branches_keep_their_rates_although_they_move_farther_than_they_are_apart():
    days, first = branches(0.5)
    close = Days(
        days.x + np.where(first, -4, 4)[:, None].astype(np.float32) * np.eye(5, dtype=np.float32)[1], days.time
    )
    got, _ = fit_growth(close, FAST).evaluate(close.x, close.time)
    assert got[first].mean() == pytest.approx(0.5, rel=0.15)
    assert abs(got[~first].mean()) < 0.075


def test_rates_are_per_unit_of_time():
    days, _ = branches(0.5, n=60)
    hours, _ = branches(0.5, n=60, unit=24.0)
    per_day, per_hour = (fit_growth(d, FAST).evaluate(d.x, d.time)[0] for d in (days, hours))
    np.testing.assert_allclose(per_day, 24 * per_hour, rtol=1e-4, atol=1e-5)


def test_a_prior_that_is_right_is_kept_and_moves_rates_toward_it():
    days, first = branches(0.8)
    close = Days(
        days.x * np.array([1, 0.15, 1, 1, 1], np.float32), days.time
    )  # branches overlap: cells may have moved between them
    with_prior = Days(close.x, close.time, growth=np.where(first, 0.8, 0.0))
    errors = []
    for cells in (close, with_prior):
        got, _ = fit_growth(cells, FAST).evaluate(cells.x, cells.time)
        errors.append(abs(got[first].mean() - got[~first].mean() - 0.8))
    assert errors[1] < 0.5 * errors[0]


def test_the_uncertainty_falls_with_the_number_of_cells():
    sds = []
    for n in (30, 120):
        days, _ = branches(0.5, n=n)
        sds.append(fit_growth(days, GrowthOptions(n_replicates=4)).evaluate(days.x, days.time)[1].mean())
    assert 0 < sds[1] < sds[0]


def test_rates_are_interpolated_between_days_and_constant_beyond_them():
    field = GrowthField(np.zeros((2, 1), np.float32), np.array([0.0, 2.0]), np.array([[1.0], [3.0]], np.float32), True)
    rate, sd = field.evaluate(np.zeros((4, 1), np.float32), np.array([-1.0, 0.5, 2.0, 9.0]))
    assert rate.tolist() == [1.0, 1.5, 3.0, 3.0]
    assert np.isnan(sd).all()


def test_mass_along_a_path_is_the_exponential_of_the_rate():
    field = GrowthField(np.zeros((2, 1), np.float32), np.array([0.0, 2.0]), np.full((2, 1), 0.5, np.float32), True)
    mass = mass_along(field, np.zeros((1, 5, 1), np.float32), np.linspace(0, 2, 5, dtype=np.float32)[None])
    np.testing.assert_allclose(mass[0], np.exp(0.5 * np.linspace(0, 2, 5)), rtol=1e-5)


def test_batches_of_other_sizes_do_not_look_like_growth():
    days, _ = branches(0.0, n=60)
    batch = np.arange(len(days.x)) % 2
    kept = (batch == 0) | (days.time < 2) | (np.arange(len(days.x)) % 4 == 1)  # half of batch 1 is lost on later days
    cells = Days(days.x, days.time, batch.astype(np.int64)).take(kept)
    rate, _ = fit_growth(cells, FAST).evaluate(cells.x, cells.time)
    assert abs(rate[cells.batch == 1].mean() - rate[cells.batch == 0].mean()) < 0.05


def test_rates_do_not_depend_on_the_number_of_cores(monkeypatch):
    days, _ = branches(0.5, n=40)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr("muport._parallel.count_cores", lambda cores=cores: cores)
        found.append(fit_growth(days, GrowthOptions(n_replicates=3)).rate)
    np.testing.assert_array_equal(*found)
