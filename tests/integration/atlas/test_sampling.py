"""The sample: exact sizes, uniform, and the same however the cells are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport.integration.atlas import _sampling as atlas
from muport.integration.atlas._sampling import CellSource, choose_rows, count_groups, draw_sample, split_sample


def blocks_of(codes, size):
    return lambda: ((start, codes[start : start + size]) for start in range(0, len(codes), size))


def test_the_rows_do_not_depend_on_the_blocks():
    codes = np.random.default_rng(0).integers(4, size=20_000)
    wanted = np.array([300, 1, 2_000, 50])
    found = [choose_rows(blocks_of(codes, size), np.bincount(codes), wanted, 3) for size in (20_000, 977, 64)]
    for row, group in found:
        assert np.array_equal(row, found[0][0])
        assert np.array_equal(codes[row], group)
        assert np.array_equal(np.bincount(group), wanted)
        assert (np.diff(row) > 0).all()
    other, _ = choose_rows(blocks_of(codes, 977), np.bincount(codes), wanted, 4)
    assert not np.array_equal(other, found[0][0])


def test_every_row_is_as_likely():
    codes = np.zeros(1_000, np.int64)
    drawn = np.zeros(1_000)
    for seed in range(400):
        drawn[choose_rows(blocks_of(codes, 1_000), np.array([1_000]), np.array([100]), seed)[0]] += 1
    # binomial with 400 trials of .1: variance 36, and so is that of neighbouring rows together
    assert drawn.sum() == 40_000
    assert 0.8 < drawn.var() / 36 < 1.2
    assert abs(drawn[:500].sum() - 20_000) < 5 * np.sqrt(500 * 36)


def test_too_few_candidates_are_looked_for_again(monkeypatch):
    monkeypatch.setattr(atlas, "_SLACK", -3.0)
    passes = []

    def blocks():
        passes.append(1)
        return [(0, np.zeros(5_000, np.int64))]

    row, _ = choose_rows(blocks, np.array([5_000]), np.array([500]), 0)
    monkeypatch.setattr(atlas, "_SLACK", 50.0)
    assert len(passes) == 2
    assert np.array_equal(row, choose_rows(blocks, np.array([5_000]), np.array([500]), 0)[0])


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any), st.integers(1, 70), st.integers(1, 300))
def test_shares_fill_the_room(size, most, total):
    size = np.array(size)
    found = split_sample(size, most, total)
    fits = [m for m in range(1, most + 1) if np.minimum(size, m).sum() <= total]
    assert np.array_equal(found, np.minimum(size, max(fits, default=1)))


def test_draw_reads_what_it_needs_once():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [900, 1, 99])
    x = rng.normal(size=(1_000, 3)).astype(np.float32)
    read = []

    def rows(start, stop):
        read.append((start, stop))
        return x[start:stop]

    found = draw_sample(CellSource(rows, blocks_of(codes, 128), tuple("abcd"), x.shape), 5, 0, 10)
    assert np.array_equal(found.x, x[found.row])
    assert np.bincount(found.group).tolist() == [5, 1, 5]
    assert found.size.tolist() == [900, 1, 99, 0]
    assert not found.is_complete
    assert found.weight.sum() == pytest.approx(1_000)
    assert len(read) == len(set(read)) <= 11
    whole = draw_sample(CellSource(rows, blocks_of(codes, 128), tuple("abc"), x.shape), 1_000, 0, 300)
    assert whole.is_complete
    assert np.array_equal(whole.x, x)


def test_all_samples_have_a_bound(monkeypatch):
    monkeypatch.setattr(atlas, "_SAMPLE_BYTES", 4 * 2 * 100)
    codes = np.repeat([0, 1, 2], [10, 500, 500])
    x = np.zeros((1_010, 2), np.float32)
    found = draw_sample(CellSource(lambda a, b: x[a:b], blocks_of(codes, 100), tuple("abc"), x.shape), 400, 0, 100)
    assert np.bincount(found.group).tolist() == [10, 45, 45]


def test_groups_are_counted_over_blocks():
    codes = np.array([2, 0, 2, 2, 1])
    assert count_groups(blocks_of(codes, 2), 4).tolist() == [1, 1, 3, 0]
