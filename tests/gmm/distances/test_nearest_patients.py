"""Nearest patients: exact distances, and neighbors that the linearized distance finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein
from muport.gmm.distances._nearest_patients import linear_coordinates, nearest_patients
from muport.gmm.mixtures._mixtures import Mixtures


def drawn(seed: int, p: int = 12, k: int = 4, d: int = 3) -> Mixtures:
    """Patients on a line, with noise; one component is missing in some."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(size=p)
    means = 4 * rng.normal(size=(1, k, d)) + 3 * t[:, None, None] + 0.3 * rng.normal(size=(p, k, d))
    factor = rng.normal(size=(p, k, d, d))
    weights = rng.dirichlet(np.full(k, 4.0), size=p)
    weights[::3, -1] = 0
    return Mixtures(weights / weights.sum(1, keepdims=True), means, factor @ factor.swapaxes(2, 3) + 0.2 * np.eye(d))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_with_all_candidates_the_neighbors_are_those_of_the_full_matrix(seed, d):
    mixtures = drawn(seed, d=d)
    full = mixture_wasserstein(mixtures)
    np.fill_diagonal(full, np.inf)
    found = nearest_patients(mixtures, 5, n_candidates=11)
    np.testing.assert_allclose(found.distances, np.sort(full, axis=1)[:, :5], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(full, found.indices, 1), found.distances, rtol=1e-5, atol=1e-6)


def test_a_metric_is_a_change_of_coordinates():
    mixtures, w = drawn(1), np.random.default_rng(2).normal(size=(2, 3))
    found = nearest_patients(mixtures, 3, w, n_candidates=11)
    full = mixture_wasserstein(mixtures, w=w)
    np.testing.assert_allclose(np.take_along_axis(full, found.indices, 1), found.distances, rtol=1e-5, atol=1e-6)


def test_linearized_distances_are_near_and_find_the_neighbors():
    mixtures = drawn(3, p=60)
    full = mixture_wasserstein(mixtures)
    linear = cdist(*[linear_coordinates(mixtures)] * 2)
    upper = np.triu_indices(60, 1)
    assert np.corrcoef(full[upper], linear[upper])[0, 1] > 0.9
    np.fill_diagonal(full, np.inf)
    nearest = np.argsort(full, axis=1)[:, :10]
    found = nearest_patients(mixtures, 10).indices
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(nearest, found, strict=True)])
    assert recall > 0.85


def test_diagonal_covariances_are_those_of_full_matrices():
    full = drawn(4)
    variances = np.diagonal(full.covariances, axis1=2, axis2=3).copy()
    diagonal = Mixtures(full.weights, full.means, variances, "diag")
    same = Mixtures(full.weights, full.means, variances[..., None] * np.eye(3))
    np.testing.assert_array_equal(linear_coordinates(diagonal), linear_coordinates(same))
    assert nearest_patients(diagonal, 4).indices.tolist() == nearest_patients(same, 4).indices.tolist()
    with pytest.raises(ValueError, match="k=0"):
        nearest_patients(same, 0, n_candidates=0)
