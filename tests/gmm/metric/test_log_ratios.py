"""Log-ratios of compositions: what changes them, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from muport.gmm.metric._log_ratios import CellCounts, centered_log_ratios, type_ratios


@given(arrays(np.int64, (3, 4), elements=st.integers(0, 60)).filter(lambda a: (a.sum(1) > 0).all()))
def test_ratios_are_centered_and_finite_and_keep_the_ratios_of_counted_types(counts):
    z = centered_log_ratios(counts, counts.sum(1))
    np.testing.assert_allclose(z.sum(1), 0, atol=1e-9)
    for row, ratios in zip(counts, z, strict=True):
        seen = np.flatnonzero(row)
        expected = np.log(row[seen] / row[seen[0]])
        np.testing.assert_allclose(ratios[seen] - ratios[seen[0]], expected, atol=1e-9)
        assert (ratios[row == 0] <= ratios[seen].min() + 1e-9).all()


def test_without_zeros_the_number_of_cells_does_not_matter():
    shares = np.array([[0.2, 0.3, 0.5]])
    expected = np.log(shares) - np.log(shares).mean()
    for n in (10, 10_000):
        np.testing.assert_allclose(centered_log_ratios(shares, [n]), expected)


def test_a_share_below_one_cell_is_replaced():
    z = centered_log_ratios([[50, 50, 0]], [100])
    share = np.exp(z[0]) / np.exp(z[0]).sum()
    assert share[2] == pytest.approx(0.0065)


def test_counts_leave_out_cells_without_a_type_and_add_weights():
    counts = CellCounts.count(np.array([0, 0, 1, 1]), 2, np.array([1, -1, 0, 0]), 2, np.array([1.0, 2.0, 0.5, 0.5]))
    assert counts.total.tolist() == [3.0, 1.0]
    assert counts.types.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert len(counts.subset(np.array([1]))) == 1


def test_a_patient_without_typed_cells_has_even_ratios():
    counts = CellCounts(np.array([5.0, 4.0]), np.array([[3.0, 2.0, 0.0], [0.0, 0.0, 4.0]]))
    z = type_ratios(counts, np.array([True, True, False]))
    assert z[1].tolist() == [0.0, 0.0]
