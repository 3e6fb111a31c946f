"""Lines end where an embedding has no cells."""

from __future__ import annotations

import numpy as np
import pytest

from muport.pl.drawing._places_with_cells import PlacesWithCells


@pytest.fixture(scope="module")
def places() -> PlacesWithCells:
    """Two strips of cells along x, from 0 to 1 and from 3 to 4."""
    x = np.concatenate([np.linspace(0, 1, 200), np.linspace(3, 4, 200)])
    return PlacesWithCells.of(np.column_stack([x, np.zeros(400)]), least=0.0)


def test_the_limit_is_a_distance_between_the_cells(places):
    assert 2.9 / 199 <= places.limit <= 6 / 199
    assert PlacesWithCells.of(places.xy, least=0.3).limit == 0.3


def test_a_line_over_cells_is_not_interrupted(places):
    line = np.column_stack([np.linspace(0, 1, 6), np.zeros(6)])
    assert np.array_equal(places.interrupt(line), line)
    short = np.column_stack([np.linspace(0.5, 0.51, 3), np.zeros(3)])
    assert places.interrupt(short) is short


def test_a_line_is_interrupted_at_the_step_over_the_gap(places):
    line = np.column_stack([[0.0, 0.5, 1.0, 3.0, 4.0], np.zeros(5)])
    drawn = places.interrupt(line)
    assert np.array_equal(drawn[[0, 1, 2, 4, 5]], line)
    assert np.isnan(drawn[3]).all()


def test_a_step_beside_the_cells_is_interrupted(places):
    line = np.array([[0.0, 0.0], [0.5, 0.4], [1.0, 0.0]])
    assert np.isnan(places.interrupt(line)).all(axis=1).tolist() == [False, True, False, True, False]


def test_few_and_equal_cells():
    places = PlacesWithCells.of(np.zeros((3, 2)), least=0.0)
    assert places.limit > 0
    assert np.isnan(places.interrupt(np.array([[0.0, 0.0], [1.0, 0.0]]))).any()
