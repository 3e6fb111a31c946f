from __future__ import annotations

import numpy as np

from muport.pl.drawing._smooth_lines import smooth_line


def test_noise_is_smoothed_and_the_ends_stay():
    rng = np.random.default_rng(0)
    angle = np.linspace(0, np.pi, 60)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noisy = arc + 0.05 * rng.normal(size=arc.shape)
    curve = smooth_line(noisy)
    np.testing.assert_allclose(curve[[0, -1]], noisy[[0, -1]], atol=1e-6)
    inner = curve[20:-20]
    assert abs(np.hypot(*inner.T) - 1).max() < 0.1
    turns = np.diff(np.unwrap(np.arctan2(*np.diff(curve, axis=0).T[::-1])))
    assert abs(turns).max() < 0.4


def test_a_curve_stays_between_points_at_uneven_distances():
    x = np.r_[np.arange(8) * 1e-5, 1, 1 + np.arange(8) * 1e-5]
    curve = smooth_line(np.stack([x, np.linspace(0, 1e-5, 17)], axis=1))
    assert curve.min() > -0.05
    assert curve.max() < 1.05


def test_gaps_few_points_and_a_path_that_stands_still():
    line = np.arange(40.0).reshape(20, 2)
    line[10] = np.nan
    curve = smooth_line(line)
    assert np.isnan(curve).all(axis=1).sum() == 1
    gap = int(np.flatnonzero(np.isnan(curve[:, 0]))[0])
    np.testing.assert_allclose(curve[[0, gap - 1, gap + 1, -1]], line[[0, 9, 11, 19]], atol=1e-6)
    few, still = line[:4], np.ones((30, 2))
    assert np.array_equal(smooth_line(few), few)
    np.testing.assert_allclose(smooth_line(still), 1)
