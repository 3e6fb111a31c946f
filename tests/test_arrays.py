"""Operations on arrays: unit vectors, and an order of rows that does not depend on the input."""

import numpy as np
import pytest

from muport._arrays import canonical_order, unit_rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
def test_unit_rows_have_norm_one(dtype, shape):
    unit = unit_rows(np.random.default_rng(0).normal(size=shape).astype(dtype))
    assert unit.dtype == dtype
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)


def test_a_zero_vector_stays_zero():
    np.testing.assert_array_equal(unit_rows(np.array([[0.0, 0.0], [3.0, 4.0]])), [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize("n_dims", [1, 2, 4])
@pytest.mark.parametrize("grouped", [False, True])
def test_canonical_order_does_not_depend_on_the_order_of_the_input(n_dims, grouped):
    rng = np.random.default_rng(0)
    # few distinct values, so that many rows are tied in the first two coordinates
    x, group = rng.integers(3, size=(200, n_dims)).astype(float), rng.integers(4, size=200)
    permuted = rng.permutation(200)
    rows = np.column_stack([group, x]) if grouped else x
    first = canonical_order(x, group if grouped else None)
    second = canonical_order(x[permuted], group[permuted] if grouped else None)
    np.testing.assert_array_equal(np.sort(first), np.arange(200))
    np.testing.assert_array_equal(rows[first], rows[permuted][second])


def test_canonical_order_sorts_by_group_first():
    x, group = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), np.array([1, 0, 1])
    assert canonical_order(x, group).tolist() == [1, 2, 0]
