"""Paths of a representation follow the cells of an embedding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from muport.pl.drawing._embedded_paths import _shortest, embed_paths


def two_islands() -> tuple[np.ndarray, np.ndarray]:
    """A line of cells whose even cells lie on one island of the embedding, and odd ones on another."""
    x = np.linspace(0, 1, 400)[:, None]
    island = np.where(np.arange(400) % 2, 50.0, 0.0)
    return x, np.column_stack([10 * x[:, 0], island])


def test_a_path_stays_on_one_island_between_which_a_mean_would_lie():
    x, xy = two_islands()
    points = np.linspace(0.1, 0.9, 30)[None, :, None]
    drawn = embed_paths(x, xy, points, np.array([30]), unit=1.0)[0]
    assert len(set(drawn[:, 1].round(6))) == 1
    assert drawn[0, 1].round(6) in {0.0, 50.0}
    assert np.abs(drawn[:, 0] - 10 * points[0, :, 0]).max() < 0.3
    assert (np.diff(drawn[:, 0]) > 0).all()


def test_points_beyond_the_length_change_nothing():
    x, xy = two_islands()
    points = np.linspace(0.1, 0.9, 30)[None, :, None].repeat(2, axis=0)
    other = points.copy()
    other[0, 20:] = 0.3
    length = np.array([20, 30])
    first, second = (embed_paths(x, xy, p, length, unit=1.0) for p in (points, other))
    assert np.array_equal(first[0, :20], second[0, :20])
    assert np.array_equal(first[1], second[1])


def test_fewer_cells_than_neighbors():
    xy = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    drawn = embed_paths(xy, xy, np.array([[[0.0, 0.0], [2.0, 0.0]]]), np.array([2]), unit=5.0)
    assert np.isfinite(drawn).all()
    assert drawn[0, 0, 0] < drawn[0, 1, 0]


@given(st.integers(0, 10_000))
def test_the_chosen_candidates_have_the_least_cost_of_all(seed):
    rng = np.random.default_rng(seed)
    cost, positions = rng.random((1, 4, 3)), rng.normal(size=(1, 4, 3, 2))
    choices = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    t = np.arange(4)
    step = np.square(np.diff(positions[0, t, choices], axis=1)).sum(axis=(1, 2))
    total = cost[0, t, choices].sum(axis=1) + 0.5 * step
    assert np.array_equal(_shortest(cost, positions, np.array([4]))[0], choices[total.argmin()])
