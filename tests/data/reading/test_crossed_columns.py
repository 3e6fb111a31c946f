"""Several columns as one, of combinations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muport._keys import join_levels, split_levels
from muport.data.reading._columns import Column
from muport.data.reading._crossed_columns import cross_columns, match_combinations

LEVELS = st.lists(st.text("ab|%2", max_size=4), min_size=1, max_size=3)


@given(LEVELS, LEVELS)
def test_names_of_combinations_are_unique_and_can_be_split(first, second):
    assert split_levels(join_levels(first)) == tuple(first)
    if first != second:
        assert join_levels(first) != join_levels(second)


def test_only_combinations_that_occur_are_named_in_order():
    donor = Column(np.array([1, 0, 1, -1]), ("a", "b"))
    platform = Column(np.array([0, 1, 0, 1]), ("v2", "v3"))
    crossed = cross_columns([donor, platform])
    assert crossed.names == ("a|v3", "b|v2")
    assert crossed.codes.tolist() == [1, 0, 1, -1]


@given(st.integers(0, 100))
def test_codes_name_the_levels_of_each_cell(seed):
    rng = np.random.default_rng(seed)
    names = [tuple(f"{v}{i}" for i in range(4)) for v in "xyz"]
    columns = [Column(rng.integers(-1, 4, 30), levels) for levels in names]
    crossed = cross_columns(columns)
    for cell, code in enumerate(crossed.codes):
        levels = [column.codes[cell] for column in columns]
        if min(levels) < 0:
            assert code == -1
        else:
            assert split_levels(crossed.names[code]) == tuple(n[i] for n, i in zip(names, levels, strict=True))


@pytest.mark.parametrize(("name", "known", "expected"), [("1.0|a", "1|a", "1|a"), ("2|a", "1|a", "2|a")])
def test_levels_get_the_spelling_of_the_model(name, known, expected):
    assert match_combinations([name], [known]) == [expected]


def test_a_new_combination_of_known_levels_gets_their_spelling():
    crossed = cross_columns([Column(np.array([0]), ("1.0",)), Column(np.array([0]), ("b",))])
    assert crossed.with_names_of(["1|a", "2|b"]).names == ("1|b",)
