"""Densities of cells under mixtures against SciPy, and the container of mixtures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from muport.gmm.mixtures._mixtures import Mixtures, log_density, mean_log_likelihood, responsibilities


def random_mixtures(p: int, k: int, d: int, covariance_type: str = "full", seed: int = 0) -> Mixtures:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(p, k, d, d))
    covariances = root @ root.swapaxes(2, 3) + 0.1 * np.eye(d)
    if covariance_type == "diag":
        covariances = np.diagonal(covariances, axis1=2, axis2=3).copy()
    return Mixtures(rng.dirichlet(np.ones(k), p), rng.normal(size=(p, k, d)), covariances, covariance_type)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_log_density_is_that_of_scipy(covariance_type: str) -> None:
    mixtures = random_mixtures(3, 4, 5, covariance_type)
    rng = np.random.default_rng(1)
    x, sample = rng.normal(size=(50, 5)), rng.integers(0, 3, 50)
    found = log_density(x, mixtures, sample)
    full = mixtures.full()
    for cell, p, row in zip(x, sample, found, strict=True):
        for k in range(4):
            normal = multivariate_normal(mixtures.means[p, k], full[p, k])
            assert row[k] == pytest.approx(np.log(mixtures.weights[p, k]) + normal.logpdf(cell), abs=1e-9)
    r = responsibilities(x, mixtures, sample)
    assert np.allclose(r, np.exp(found - logsumexp(found, axis=1, keepdims=True)), atol=1e-12)


def test_mean_log_likelihood_weighs_cells() -> None:
    mixtures = random_mixtures(2, 3, 2)
    rng = np.random.default_rng(2)
    x, sample, weight = rng.normal(size=(30, 2)), np.repeat([0, 1], 15), rng.random(30)
    each = logsumexp(log_density(x, mixtures, sample), axis=1)
    expected = [np.average(each[sample == p], weights=weight[sample == p]) for p in (0, 1)]
    assert np.allclose(mean_log_likelihood(x, mixtures, sample, weight=weight), expected)


def test_one_mixture_serves_every_cell_and_patients_may_be_missing() -> None:
    mixtures = random_mixtures(3, 2, 2)
    x = np.random.default_rng(3).normal(size=(8, 2))
    alone = log_density(x, mixtures.subset(2))
    assert np.array_equal(alone, log_density(x, mixtures.subset(2), np.full(8, 0)))
    assert np.allclose(alone, log_density(x, mixtures, np.full(8, 2)), atol=1e-12)


def test_many_cells_are_taken_in_pieces() -> None:
    mixtures = random_mixtures(1, 8, 40)
    x = np.random.default_rng(4).normal(size=(9000, 40))
    whole = log_density(x, mixtures)
    few = [0, 4500, 8999]
    assert np.allclose(whole[few], log_density(x[few], mixtures), atol=1e-9)


@settings(max_examples=40)
@given(
    st.floats(-1e9, 1e9), st.floats(1e-6, 1e6), st.integers(0, 2), st.sampled_from(["full", "diag"]),
)  # fmt: skip
def test_responsibilities_are_probabilities_wherever_a_cell_is(
    place: float, scale: float, padding: int, covariance_type: str
) -> None:
    base = random_mixtures(1, 3, 2, covariance_type)
    mixtures = Mixtures(base.weights, base.means, base.covariances * scale, covariance_type).padded(3 + padding)
    r = responsibilities([[place, -place], [0.0, place]], mixtures)
    assert np.isfinite(r).all()
    assert (r >= 0).all()
    assert np.allclose(r.sum(axis=1), 1)
    assert (r[:, 3:] == 0).all()


def test_padding_stacking_and_subsets() -> None:
    small, large = random_mixtures(2, 2, 3), random_mixtures(1, 4, 3, seed=5)
    both = Mixtures.stack([small, large])
    assert len(both) == 3
    assert both.n_components.tolist() == [2, 2, 4]
    assert np.array_equal(both.covariances[0, 3], np.eye(3))
    assert np.array_equal(both.subset([2, 0]).means[0], large.means[0])
    assert np.array_equal(both.subset(np.array([True, False, False])).weights[0, :2], small.weights[0])
    # K d + K d (d + 1) / 2 + K - 1
    assert both.n_parameters().tolist() == [2 * 3 + 2 * 6 + 1] * 2 + [4 * 3 + 4 * 6 + 3]
    assert random_mixtures(1, 4, 3, "diag").n_parameters().tolist() == [4 * 3 + 4 * 3 + 3]
    x = np.random.default_rng(6).normal(size=(5, 3))
    wide = log_density(x, small.padded(5), np.zeros(5, int))
    assert np.allclose(wide[:, :2], log_density(x, small, np.zeros(5, int)))
    assert (wide[:, 2:] == -np.inf).all()


def test_offsets_follow_their_patients() -> None:
    small, large = random_mixtures(2, 2, 3), random_mixtures(1, 4, 3, seed=5)
    shifted = replace(small, offsets=np.array([[1.0, 0, 0], [2.0, 0, 0]]))
    both = Mixtures.stack([shifted, large]).subset([2, 1])
    assert both.offsets is not None
    assert both.offsets[:, 0].tolist() == [0.0, 2.0]
    assert np.array_equal(both.aligned_means()[1, :2], small.means[1] - [2.0, 0, 0])
    assert Mixtures.stack([small, large]).offsets is None
    assert small.aligned_means() is small.means
    with pytest.raises(ValueError, match=r"need offsets \(2, 3\), not \(1, 3\)"):
        replace(small, offsets=np.zeros((1, 3)))


def test_refusals() -> None:
    mixtures = random_mixtures(2, 2, 3)
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match="x has 2 dimensions, but the mixtures have 3"):
        log_density(x[:, :2], mixtures, np.zeros(4, int))
    with pytest.raises(ValueError, match="sample is missing"):
        log_density(x, mixtures)
    with pytest.raises(ValueError, match="integers 0 to 1"):
        log_density(x, mixtures, [0, 1, 2, 0])
    with pytest.raises(ValueError, match="NaN, infinite or huge entry in cell 1"):
        log_density(np.array([[0.0, 0, 0], [0, np.nan, 0]]), mixtures, [0, 1])
    with pytest.raises(ValueError, match="need weights"):
        Mixtures(np.ones((1, 2)), np.zeros((1, 2, 3)), np.ones((1, 2, 3)), "full")
    with pytest.raises(ValueError, match="same dimensions"):
        Mixtures.stack([mixtures, random_mixtures(1, 2, 2)])
