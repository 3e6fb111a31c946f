"""The canonical order: nothing but the cells decides it."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.prototypes._standardized_cells import standardize_cells


@pytest.fixture
def cells() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, size=(90, 4)).astype(np.float32), rng.integers(3, size=90)


def test_neither_order_nor_names_matter(cells):
    x, group = cells
    one = standardize_cells(x, group, ("a", "b", "c"), np.arange(90))
    order = np.random.default_rng(1).permutation(90)
    codes = np.array([2, 0, 1])
    two = standardize_cells(x[order], codes[group[order]], ("z", "y", "x"), order)
    assert np.array_equal(one.x, two.x)
    assert np.array_equal(one.start, two.start)
    assert np.array_equal(one.label, two.label)
    assert two.group_names == tuple({"a": "x", "b": "z", "c": "y"}[name] for name in one.group_names)


@pytest.mark.parametrize("values", ["integer", "two equal columns first"])
def test_cells_that_agree_in_their_first_coordinates(values):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, size=(80, 5)).astype(np.float32)
    if values != "integer":
        x[:, :2] = 1.0
    group = rng.integers(2, size=80)
    order = rng.permutation(80)
    one, two = standardize_cells(x, group, ("a", "b")), standardize_cells(x[order], group[order], ("a", "b"))
    assert np.array_equal(one.x, two.x)


def test_standardised(cells):
    x, group = cells
    found = standardize_cells(x, group, ("a", "b", "c"))
    assert found.x.dtype == np.float32
    assert np.abs(found.x.mean(0)).max() < 1e-6
    assert np.isclose(np.square(found.x).sum(1).mean(), 1, atol=1e-5)
    assert np.allclose(found.center, x.mean(0), atol=1e-5)
    assert np.isclose(found.scale, np.sqrt(np.square(x - x.mean(0)).sum(1).mean()), rtol=1e-5)
    assert np.array_equal(np.bincount(found.group), np.diff(found.start))


def test_a_fitted_standardisation_stands(cells):
    x, group = cells
    found = standardize_cells(x, group, ("a", "b", "c"), scaling=(np.ones(4, np.float32), 2.0))
    assert np.allclose(np.sort(found.x[:, 0]), np.sort((x[:, 0] - 1) / 2), atol=1e-6)
    assert found.scale == 2.0


def test_the_input_stays(cells):
    x, group = cells
    before = x.copy()
    standardize_cells(x, group, ("a", "b", "c"))
    assert np.array_equal(x, before)


def test_constant_cells_have_no_scale():
    found = standardize_cells(np.full((5, 3), 1e6, np.float32), np.array([0, 0, 1, 1, 1]), ("a", "b"))
    assert found.scale == 1.0
    assert not found.x.any()


def test_larger_groups_come_first_and_empty_ones_last():
    x = np.arange(6, dtype=np.float32)[:, None]
    found = standardize_cells(x, np.array([0, 2, 2, 2, 0, 3]), ("a", "none", "b", "c"))
    assert found.group_names == ("b", "a", "c")
    assert found.start.tolist() == [0, 3, 5, 6]
