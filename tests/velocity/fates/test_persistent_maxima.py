"""Maxima of functions on paths and grids, whose persistence is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from muport.velocity.fates._persistent_maxima import persistent_maxima


def path(n: int) -> sp.csr_matrix:
    return sp.csr_matrix(sp.diags([np.ones(n - 1), np.ones(n - 1)], [-1, 1]))


@pytest.mark.parametrize(("persistence", "expected"), [(0.5, {1, 4, 6}), (1.5, {1, 6}), (3.5, {6})])
def test_maxima_of_a_path(persistence: float, expected: set[int]) -> None:
    values = np.array([0.0, 4.0, 1.0, 2.0, 3.0, 2.0, 5.0, 0.0])
    assert set(persistent_maxima(values, path(8), persistence)) == expected


def test_each_node_belongs_to_the_maximum_above_it() -> None:
    values = np.array([1.0, 5.0, 2.0, 0.0, 3.0, 6.0, 1.0])
    assert persistent_maxima(values, path(7), 1.0).tolist() == [1, 1, 1, 5, 5, 5, 5]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.floats(0, 4))
def test_the_saddle_between_two_maxima_is_deep(values: list[float], persistence: float) -> None:
    """Oracle: between maxima of a path, the lowest value on the way is at least the persistence below the lower one."""
    heights = np.array(values)
    maxima = np.unique(persistent_maxima(heights, path(len(heights)), persistence))
    for first, second in zip(maxima[:-1], maxima[1:], strict=True):
        saddle = heights[first : second + 1].min()
        assert min(heights[first], heights[second]) - saddle >= persistence


def test_parts_without_a_path_between_them_have_a_maximum_each() -> None:
    graph = sp.block_diag([path(3), path(4)], format="csr")
    assert set(persistent_maxima(np.arange(7.0), graph, 100.0)) == {2, 6}
