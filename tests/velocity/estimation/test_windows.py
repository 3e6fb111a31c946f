"""Windows: every cell on both sides, ties together, batches apart, and each parameter of the spatial ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._windows import Windows, pair_spatial_windows, pair_time_windows


def sides(windows: Windows, n: int) -> dict[int, np.ndarray]:
    """(n,) number of windows in which each cell is seen from itself (0), toward later (1), toward earlier (-1)."""
    out = {side: np.zeros(n, int) for side in (0, 1, -1)}
    for source, target, direction, mutual in zip(
        windows.source, windows.target, windows.direction, windows.mutual, strict=True
    ):
        np.add.at(out[int(direction)], source[source >= 0], 1)
        if mutual:
            np.add.at(out[-1], target[target >= 0], 1)
    return out


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(45, 400),
    values=st.sampled_from([2, 3, 7, 10**6]),
    batches=st.integers(1, 4),
    width=st.sampled_from([16, 64, 128]),
)
@settings(max_examples=30, deadline=None)
def test_time_windows_hold_every_cell_on_both_sides(seed, n, values, batches, width):
    rng = np.random.default_rng(seed)
    time = np.r_[0, 1, rng.integers(0, values, n - 2) / (values - 1)]
    batch = rng.integers(0, batches, n)
    windows = pair_time_windows(time, batch, VelocityHyperparameters(window_size=width, random_state=seed))
    seen = sides(windows, n)
    assert ((seen[1] > 0) | (seen[0] > 0)).all()
    assert ((seen[-1] > 0) | (seen[0] > 0)).all()
    assert ((seen[1] > 0) | (seen[-1] > 0)).all()
    assert (windows.block >= 0).all()
    # Ties stay together, and bins follow time.
    order = np.argsort(time, kind="stable")
    assert (np.diff(windows.cluster[order]) >= 0).all()
    assert all(len(set(windows.cluster[time == value])) == 1 for value in np.unique(time))
    for source, target, direction in zip(windows.source, windows.target, windows.direction, strict=True):
        gap = windows.cluster[target[target >= 0]][:, None] - windows.cluster[source[source >= 0]]
        assert (gap == direction).all()


def test_blocks_are_thin_samples_of_the_bin():
    time = np.random.default_rng(0).random(5_000)
    windows = pair_time_windows(time, None, VelocityHyperparameters(window_fraction=0.1, window_size=100))
    for b in range(10):
        blocks = [time[windows.block == r] for r in np.unique(windows.block[windows.cluster == b])]
        assert len(blocks) == 5
        assert all(len(one) == 100 for one in blocks)
        assert np.ptp([one.mean() for one in blocks]) < 0.003
    assert windows.n_pairs == 9 * 5 + 2 * 5


def test_a_large_tie_is_split_in_an_order_of_the_seed_not_of_the_rows():
    time = np.repeat([2.0, 4.0, 6.0], [100, 1_000, 1_000])
    first, again, other = (
        pair_time_windows(time, None, VelocityHyperparameters(random_state=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.source, again.source)
    assert (first.source != other.source).any()
    rows = np.arange(len(time))
    middles = [rows[first.block == b].mean() for b in np.unique(first.block[time == 4])]
    assert len(middles) == 8
    assert np.ptp(middles) < 250
    # The small day begins again for each of the blocks of the next.
    assert (first.direction == 1).sum() == 16


def test_batches_are_paired_with_themselves_where_they_hold_both_bins():
    rng = np.random.default_rng(1)
    time, batch = rng.random(2_000), rng.choice(["a", "b"], 2_000)
    windows = pair_time_windows(time, batch)
    for source, target in zip(windows.source, windows.target, strict=True):
        assert len(set(batch[source[source >= 0]]) | set(batch[target[target >= 0]])) == 1


def test_batches_of_one_day_each_are_pooled():
    day = np.repeat([0.0, 1.0, 2.0], 60)
    windows = pair_time_windows(day, day.astype(int))
    assert not windows.mutual.any()
    assert sorted(windows.direction.tolist()) == [-1, -1, 0, 0, 1, 1]


def test_cost_is_linear_in_cells():
    rng = np.random.default_rng(0)
    few, many = (pair_time_windows(rng.random(n)) for n in (20_000, 80_000))
    assert few.source.shape[1] == pytest.approx(many.source.shape[1], abs=8)
    assert many.n_pairs == pytest.approx(4 * few.n_pairs, rel=0.05)


@pytest.mark.parametrize(
    ("time", "batch", "match"),
    [
        ([1.0, np.nan] * 30, None, "not finite for 30 cells, e.g. cell 1"),
        ([3.0] * 60, None, "single value"),
        (np.ones((3, 2)), None, "one number per cell"),
        (np.arange(60.0), np.zeros(3), "batch has shape"),
    ],
)
def test_bad_time_windows(time, batch, match):
    with pytest.raises(ValueError, match=match):
        pair_time_windows(time, batch)


def test_time_that_is_text():
    with pytest.raises(TypeError, match="time must be numbers"):
        pair_time_windows(["day 2"] * 60)


def spatial(n: int, **options) -> list[tuple[int, int]]:
    """First and last time of the windows of one region of n cells with times 0..n-1."""
    time = np.arange(float(n))
    windows = pair_spatial_windows(
        time[:, None], time, ["only"] * n, hyperparameters=VelocityHyperparameters(**options)
    )
    pairs = windows.direction == 1
    tables = [*windows.source[pairs], windows.target[pairs][-1]]
    return [(int(one[one >= 0].min()), int(one.max())) for one in tables]


def test_spatial_windows_overlap_and_tails():
    assert spatial(100, window_size=40) == [(0, 39), (20, 59), (40, 79), (60, 99)]
    assert spatial(100, window_size=40, overlap_fraction=0) == [(0, 39), (40, 79), (60, 99)]
    assert spatial(100, window_size=40, overlap_fraction=0, tail_handling="drop") == [(0, 39), (40, 79)]
    assert spatial(100, window_size=40, overlap_fraction=0, tail_handling="split") == [(0, 39), (40, 79), (80, 99)]
    short = {"window_size": 40, "overlap_fraction": 0, "tail_handling": "split", "tail_threshold": 21}
    assert spatial(100, **short) == [(0, 39), (40, 99)]
    assert spatial(100, window_size=80) == [(0, 49), (25, 74), (50, 99)]
    assert spatial(100, window_size=10, min_window_size=30, overlap_fraction=0) == [
        (0, 29),
        (30, 59),
        (60, 89),
        (70, 99),
    ]


def test_spatial_windows_stay_in_region_and_batch():
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 20]
    time, batch = rng.random(600), rng.integers(0, 2, 600)
    windows = pair_spatial_windows(
        x, time, batch=batch, hyperparameters=VelocityHyperparameters(n_clusters=2, window_size=50)
    )
    assert set(windows.cluster) == {0, 1}
    for source, target in zip(windows.source, windows.target, strict=True):
        cells = np.r_[source[source >= 0], target[target >= 0]]
        assert len(set(zip(windows.cluster[cells], batch[cells], strict=True))) == 1
    later = windows.direction == 1
    assert (time[windows.target[later]].mean(1) > time[windows.source[later]].mean(1)).all()


def test_a_region_too_small_is_left_out():
    cluster = np.r_[np.zeros(100), np.ones(30)]
    windows = pair_spatial_windows(np.zeros((130, 1)), np.arange(130.0), cluster)
    assert (windows.block[:100] >= 0).all()
    assert (windows.block[100:] == -1).all()
    with pytest.raises(ValueError, match="no region has two windows of min_window_size=90"):
        pair_spatial_windows(
            np.zeros((130, 1)), np.arange(130.0), cluster, hyperparameters=VelocityHyperparameters(min_window_size=90)
        )


def test_small_days_beside_large_ones_are_bins_of_their_own():
    time = np.repeat([0.0, 1.0, 5.0, 6.0], [12, 15, 2000, 2000])
    windows = pair_time_windows(time)
    assert np.unique(windows.cluster[time < 5]).tolist() == [0, 1]
    assert len(np.unique(windows.cluster)) == 4
