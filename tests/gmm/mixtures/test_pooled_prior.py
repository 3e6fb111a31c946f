"""The pooled prior: its arithmetic, its limits, and what it does for cells that were not seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.mixtures._em import fit_mixtures
from muport.gmm.mixtures._em_settings import EMSettings
from muport.gmm.mixtures._mixtures import Mixtures, mean_log_likelihood
from muport.gmm.mixtures._pooled_prior import Prior, fit_pooled_priors, sample_evenly


def one_component(d: int, nu: float, covariance_type: str = "full") -> Prior:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(d, d))
    covariance = root @ root.T + np.eye(d)
    covariances = covariance[None] if covariance_type == "full" else covariance.diagonal()[None].copy()
    return Prior(np.ones(1), rng.normal(size=(1, d)), covariances, covariance_type, nu)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_component_has_the_closed_form(scale: float, covariance_type: str) -> None:
    """With one component the maximum a posteriori is that of pooled cells beside the patient's own."""
    x = scale * np.random.default_rng(1).normal(size=(40, 3))
    prior = one_component(3, 15.0, covariance_type)
    found = fit_mixtures(x, None, 1, EMSettings(covariance_type), prior=prior).mixtures
    mean = (x.sum(axis=0) + 15 * prior.means[0]) / 55
    off, away = x - mean, prior.means[0] - mean
    pooled = prior.covariances[0] if covariance_type == "full" else np.diag(prior.covariances[0])
    covariance = (off.T @ off + 15 * np.outer(away, away) + 15 * pooled) / 55 + 1e-4 * np.eye(3)
    assert np.allclose(found.means[0, 0], mean)
    assert np.allclose(found.full()[0, 0], covariance if covariance_type == "full" else np.diag(np.diag(covariance)))


def test_weights_are_shrunk_too() -> None:
    x = np.concatenate([np.zeros((30, 1)), np.full((10, 1), 1e3)]) + np.random.default_rng(2).normal(size=(40, 1))
    prior = Prior(np.array([0.5, 0.5]), np.array([[0.0], [1e3]]), np.ones((2, 1, 1)), nu=20.0)
    assert np.allclose(fit_mixtures(x, None, 2, prior=prior).mixtures.weights, [[40 / 60, 20 / 60]])


def test_a_strong_prior_is_returned_and_none_is_maximum_likelihood() -> None:
    x = np.random.default_rng(3).normal(size=(50, 2))
    strong = one_component(2, 1e9)
    assert np.allclose(
        fit_mixtures(x, None, 1, EMSettings(eps=0), prior=strong).mixtures.covariances[0], strong.covariances
    )
    plain, none = fit_mixtures(x, None, 1), fit_mixtures(x, None, 1, prior=one_component(2, 0.0))
    assert np.allclose(plain.mixtures.covariances, none.mixtures.covariances)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(1.0, 200.0))
def test_covariances_are_bounded_below_by_the_prior(seed: int, nu: float) -> None:
    """S is at least nu S_0 / (n + nu), whatever the cells: a patient of few cells has no singular component."""
    rng = np.random.default_rng(seed)
    x, sample = rng.normal(size=(12, 6)), np.repeat([0, 1, 2], [1, 3, 8])
    prior = Prior(np.full(2, 0.5), rng.normal(size=(2, 6)), np.repeat(np.eye(6)[None], 2, axis=0), nu=nu)
    found = fit_mixtures(x, sample, 2, EMSettings(singularity_handling="strict"), prior=prior)
    least = np.linalg.eigvalsh(found.mixtures.covariances).min(axis=(1, 2))
    assert (least >= nu / (np.array([1, 3, 8]) + nu) * (1 - 1e-9)).all()
    assert found.n_singular.tolist() == [0, 0, 0]


def test_raises_the_likelihood_of_cells_not_seen() -> None:
    rng = np.random.default_rng(4)
    centers = rng.normal(scale=3, size=(4, 15))
    root = rng.normal(size=(4, 15, 15)) / 3
    kind = rng.integers(0, 4, (10, 160))
    noise = np.einsum("kij,pnkj->pnki", root, rng.normal(size=(10, 160, 4, 15)))
    x = centers[kind] + np.take_along_axis(noise, kind[..., None, None], axis=2)[:, :, 0]
    x += rng.normal(scale=0.3, size=(10, 1, 15))
    sample = np.repeat(np.arange(10), 80)
    train, rest = x[:, :80].reshape(-1, 15), x[:, 80:].reshape(-1, 15)
    prior = fit_pooled_priors(train, sample, [4])
    shrunk, plain = (fit_mixtures(train, sample, 4, prior=given).mixtures for given in (prior, None))
    seen, free = (mean_log_likelihood(rest, mixtures, sample) for mixtures in (shrunk, plain))
    alone = Mixtures.stack([prior[4].mixture] * 10)
    assert (seen > free + 1).all()
    assert seen.mean() > mean_log_likelihood(rest, alone, sample).mean()


def test_pooled_prior_by_candidate_and_its_strength() -> None:
    x, sample = np.random.default_rng(5).normal(size=(400, 12)), np.repeat([0, 1], 200)
    prior = fit_pooled_priors(x, sample, (1, 3))
    assert list(prior) == [1, 3]
    assert prior[3].nu == 24
    assert fit_pooled_priors(x[:, :4], sample, [1])[1].nu == 20
    assert np.allclose(prior[1].covariances[0], np.cov(x.T, bias=True) + 1e-4 * np.eye(12))
    assert np.array_equal(prior[3].means, fit_pooled_priors(x, sample, [3])[3].means)


def test_fewer_distinct_cells_than_components() -> None:
    prior = fit_pooled_priors(np.repeat([[0.0, 0.0], [4.0, 4.0]], 10, axis=0), None, [5])[5]
    assert prior.weights.sum() == pytest.approx(1)
    assert (prior.weights[2:] == 0).all()
    assert np.allclose(prior.means[2:], 2)
    assert np.isfinite(prior.covariances).all()


def test_subsample_is_even_over_patients() -> None:
    sample = np.repeat([0, 1, 2], [5, 50, 500])
    rows = sample_evenly(sample, 105, 0)
    assert np.bincount(sample[rows]).tolist() == [5, 50, 50]
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(sample_evenly(sample, 1000, 0), np.arange(555))
    assert not np.array_equal(rows, sample_evenly(sample, 105, 1))
    shuffled = np.random.default_rng(0).permutation(sample)
    assert np.bincount(shuffled[sample_evenly(shuffled, 105, 0)]).tolist() == [5, 50, 50]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="nu=-1"):
        one_component(2, -1)
    with pytest.raises(ValueError, match="has 3 dimensions and full covariances, but the fit has 2"):
        fit_mixtures(np.zeros((4, 2)), None, 1, prior=one_component(3, 1))
