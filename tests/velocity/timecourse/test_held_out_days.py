from __future__ import annotations

import numpy as np
import ot as pot
import pytest

from muport.velocity.timecourse._couplings import CouplingOptions
from muport.velocity.timecourse._days import Days
from muport.velocity.timecourse._held_out_days import (
    HeldOutOptions,
    _predictions,
    compare_populations,
    held_out_table,
    mccann_interpolation,
    select_coupling,
)


def on_a_circle(n: int = 60) -> Days:
    rng = np.random.default_rng(0)
    time = np.repeat(np.arange(5.0), n)
    angle = 0.4 * time + rng.normal(0, 0.03, len(time))
    x = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, 0.1, (len(time), 2))
    return Days(x.astype(np.float32), time)


def test_scores_are_those_of_pot():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 1, rng.random(30)
    scores = compare_populations(x, y, weight)
    a, b = weight / weight.sum(), np.full(40, 1 / 40)
    assert scores["w1"] == pytest.approx(pot.emd2(a, b, pot.dist(x, y, "euclidean")))
    assert scores["w2"] == pytest.approx(pot.emd2(a, b, pot.dist(x, y)) ** 0.5)
    assert compare_populations(y, y)["mmd"] == pytest.approx(0, abs=1e-6)
    assert compare_populations(x + 50, y)["mmd"] > 1


def test_mccann_of_a_translation_is_the_translation():
    x = np.random.default_rng(1).normal(size=(20, 2))
    points, mass = mccann_interpolation(x, x + [4.0, 0.0], 0.25)
    assert mass.sum() == pytest.approx(1)
    assert sorted(points[:, 0]) == pytest.approx(sorted(x[:, 0] + 1))


@pytest.fixture(scope="module")
def table():
    return held_out_table(on_a_circle(), [1, 2, 3], CouplingOptions())


def test_a_curved_path_is_better_than_the_chord(table):
    mean = table.groupby("prediction")["w1"].mean()
    assert mean["predicted"] < mean["mccann"] < mean["day before"]
    assert mean["forecast"] < mean["day before"]
    assert table.groupby("time").size().to_dict() == {1.0: 5, 2.0: 6, 3.0: 6}


def test_predictions_are_sorted_by_the_metric(table):
    for metric in ("w1", "mmd"):
        sorted_by = held_out_table(on_a_circle(), [2], CouplingOptions(), HeldOutOptions(metric))
        assert sorted_by[metric].is_monotonic_increasing
    assert (table["n_cells"] == 60).all()
    assert table["mass_error"].max() == pytest.approx(0)


def test_the_held_out_day_does_not_enter_its_prediction():
    days = on_a_circle()
    other = days.x.copy()
    # far from the others, on its own: no prediction can follow it
    other[days.time == 2] += 100
    options = CouplingOptions(), HeldOutOptions()
    found = [_predictions(course, 2, *options) for course in (days, Days(other, days.time))]
    for prediction in ("predicted", "forecast", "mccann"):
        assert (found[0][prediction][0] == found[1][prediction][0]).all()


def test_large_days_are_sampled():
    table = held_out_table(on_a_circle(), [2], CouplingOptions(), HeldOutOptions(max_cells=25))
    assert np.isfinite(table[["w1", "w2", "mmd", "mass_error"]].to_numpy()).all()


def test_the_coupling_with_the_smallest_distance_is_selected():
    rng = np.random.default_rng(0)
    time = np.repeat(np.arange(3.0), 24)
    # one branch grows from a tenth to nine tenths: nearly balanced plans cross between the branches
    side = np.where(rng.random(len(time)) < 0.1 + 0.4 * time, 8.0, -8.0)
    x = np.stack([4 * time, side], axis=1) + rng.normal(0, 0.3, (len(time), 2))
    days, options = Days(x.astype(np.float32), time), HeldOutOptions()
    nearly_balanced = CouplingOptions(relaxation=16.0)
    selected, table = select_coupling(days, nearly_balanced, options)
    assert selected.relaxation <= 1
    assert len(table) == 10
    assert table["ratio"].is_monotonic_increasing
    assert table["ratio"][0] < 0.9
    best = held_out_table(days, [1], selected).set_index("prediction")["w1"]
    assert table["w1"][0] == pytest.approx(best["predicted"])
    # options outside the grid are a candidate of their own, and win if all are equal
    own = CouplingOptions(reg_scale=0.3)
    still = Days(np.zeros((60, 2), np.float32), np.repeat(np.arange(3.0), 20))
    assert select_coupling(still, own, options)[0] == own
