"""Moments of patients against closed forms, and patients whose cells are split in two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein
from muport.gmm.distances._moment_distances import _signal_fractions, moment_coordinates
from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._mixtures import Mixtures
from muport.gmm.mixtures._pooled_prior import fit_pooled_priors
from muport.metrics import replicate_retrieval

CENTERS = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])


def halves(n_patients: int, n_cells: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of three states, of which the first has a mean of its own in each patient; samples 2 p and 2 p + 1."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2 * n_cells)
    state = rng.integers(0, 3, len(patient))
    own = 2 * rng.normal(size=(n_patients, 3))
    x = CENTERS[state] + rng.normal(size=(len(patient), 3)) + (state == 0)[:, None] * own[patient]
    return x, 2 * patient + np.arange(len(patient)) % 2, np.repeat(np.arange(n_patients), 2)


def pooled(k: int = 3) -> Mixtures:
    """Components at the first `k` centers."""
    return Mixtures(np.full((1, k), 1 / k), CENTERS[None, :k], np.broadcast_to(np.eye(3), (1, k, 3, 3)), "full", 0.0)


def test_halves_of_a_patient_are_nearest_although_mw2_misses_them() -> None:
    x, sample, person = halves(12, 100)
    priors = fit_pooled_priors(x, sample, [3])
    found = moment_coordinates(x, sample, priors[3].mixture)
    assert replicate_retrieval(cdist(found, found), person) > 0.9
    mixtures = fit_mixtures(x, sample, 3, prior=priors).mixtures
    assert replicate_retrieval(mixture_wasserstein(mixtures), person) < 0.7


def test_patients_without_differences_coincide() -> None:
    rng = np.random.default_rng(0)
    x = CENTERS[rng.integers(0, 3, 4000)] + rng.normal(size=(4000, 3))
    found = moment_coordinates(x, rng.permutation(np.arange(4000) % 20), pooled())
    # within-patient standard deviations are 1: the sampling error of 200 cells is .07 on each of 24 axes
    assert cdist(found, found).max() < 0.2


def test_one_component_gives_the_shift_in_standard_deviations() -> None:
    rng = np.random.default_rng(1)
    x = 5 * rng.normal(size=(8000, 3))
    sample = np.arange(8000) % 8
    x[:, 1] += 20 * (sample % 2)
    found = moment_coordinates(x, sample, pooled(1))
    between = cdist(found, found)
    # the mean counts once over all cells, and once in the component; the variance of the component adds some
    assert np.allclose(between[0, 2::2], 0, atol=0.15)
    assert between[0, 1] >= np.sqrt(2) * 4 * 0.95


def test_signal_is_that_of_the_spiked_model() -> None:
    gamma = 0.5
    truth = np.array([1.8, 3.0, 20.0])
    # eigenvalue that a true eigenvalue gives in the limit
    value = truth * (1 + gamma / (truth - 1))
    cosine = (1 - gamma / (truth - 1) ** 2) / (1 + gamma / (truth - 1))
    assert np.allclose(_signal_fractions(value, gamma), cosine * (truth - 1) / truth)
    assert (_signal_fractions(np.array([0.0, 1.0, (1 + np.sqrt(gamma)) ** 2]), gamma) == 0).all()


@settings(max_examples=8, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), n_patients=st.integers(1, 6), seed=st.integers(0, 9)
)  # fmt: skip
def test_units_and_origin_do_not_matter(scale: float, shift: float, n_patients: int, seed: int) -> None:
    x, sample, _ = halves(n_patients, 20, seed)
    mixture = pooled()
    moved = Mixtures(mixture.weights, scale * mixture.means + shift, scale**2 * mixture.covariances, "full", 0.0)
    found = moment_coordinates(x, sample, mixture)
    other = moment_coordinates(scale * x + shift, sample, moved)
    assert np.isfinite(found).all()
    assert np.allclose(cdist(found, found), cdist(other, other), atol=1e-3)


def test_weights_count_cells() -> None:
    x, sample, _ = halves(5, 20)
    count = np.random.default_rng(0).integers(1, 4, len(x))
    found = moment_coordinates(x, sample, pooled(), weight=count.astype(np.float64))
    repeated = moment_coordinates(np.repeat(x, count, 0), np.repeat(sample, count), pooled())
    assert np.allclose(cdist(found, found), cdist(repeated, repeated), atol=1e-8)


def test_moments_in_a_subspace_are_those_of_the_projected_cells() -> None:
    x, sample, _ = halves(5, 40)
    found = moment_coordinates(x, sample, pooled(1), w=[[0.0, 1.0, 0.0]])
    flat = Mixtures(np.ones((1, 1)), np.zeros((1, 1, 1)), np.ones((1, 1, 1, 1)), "full", 0.0)
    alone = moment_coordinates(x[:, 1:2], sample, flat)
    assert np.allclose(cdist(found, found), cdist(alone, alone), atol=1e-8)


def test_single_cells_have_no_sampling_error() -> None:
    with pytest.raises(ValueError, match="5 patients have 5 cells"):
        moment_coordinates(np.eye(5, 3), np.arange(5), pooled())
