"""Coordinates whose distances are those given, as far as they can be."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from muport.gmm.distances._classical_scaling import embed_distances


def test_euclidean_distances_are_reproduced():
    x = np.random.default_rng(0).normal(size=(8, 3)) * [3, 2, 1]
    distances = cdist(x, x)
    coordinates = embed_distances(distances, 8)
    np.testing.assert_allclose(cdist(coordinates, coordinates), distances, atol=1e-10)
    np.testing.assert_array_equal(coordinates[:, 3:], 0)
    size = np.linalg.norm(coordinates, axis=0)
    assert (np.diff(size) <= 0).all()
    assert (np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], 0)[0, :3] > 0).all()
