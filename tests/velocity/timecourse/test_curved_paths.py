"""Paths between cells against curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.velocity.timecourse._curved_paths import bends_along_cells


def bend(x: np.ndarray, y: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    pairs = np.arange(min(len(x), len(y)))
    return bends_along_cells(x, y, pairs, pairs, alpha, np.random.default_rng(0))


def half_circle(n: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Days that overlap: each cell has moved on by a third of the half circle."""
    angle = np.linspace(0, np.pi, n)
    points = scale * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points[: 2 * n // 3], points[n - 2 * n // 3 :]


@settings(max_examples=20, deadline=None)
@given(alpha=st.floats(0.05, 0.95), scale=st.sampled_from([1e-3, 1.0, 1e6]))
def test_paths_follow_the_cells_of_a_half_circle(alpha, scale):
    x, y = half_circle(90, scale)
    straight = (1 - alpha) * x + alpha * y
    radius = [np.linalg.norm(points, axis=1) / scale for points in (straight, straight + bend(x, y, alpha))]
    assert np.abs(1 - radius[1]).max() < 0.25 * np.abs(1 - radius[0]).max() + 0.01


def test_paths_across_a_gap_are_straight():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.1, (60, 3)), rng.normal(0, 0.1, (80, 3)) + 5
    assert np.abs(bend(x, y)).max() < 0.05


def test_noise_in_many_dimensions_bends_no_path():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 50)), rng.normal(size=(80, 50)) + 0.3
    assert np.linalg.norm(bend(x, y), axis=1).max() < 0.05 * np.linalg.norm(y - x, axis=1).mean()


@pytest.mark.parametrize("n", [1, 2, 10])
def test_few_or_equal_cells_give_finite_paths(n):
    assert (bend(np.zeros((n, 2)), np.zeros((10, 2))) == 0).all()
    found = bend(np.arange(2.0 * n).reshape(n, 2), np.arange(20.0).reshape(10, 2))
    assert found.shape == (n, 2)
    assert np.isfinite(found).all()
