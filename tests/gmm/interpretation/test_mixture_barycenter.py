"""The mean mixture of a group, against POT and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein
from muport.gmm.interpretation._component_groups import match_components
from muport.gmm.interpretation._mixture_barycenter import Barycenter, fit_barycenter
from muport.gmm.mixtures._mixtures import Mixtures


def drawn(seed: int, n_patients: int = 4, k: int = 3, d: int = 2, spread: float = 0.5) -> Mixtures:
    """Components that are far apart, moved a little in each patient."""
    rng = np.random.default_rng(seed)
    means = 10 * rng.normal(size=(1, k, d)) + spread * rng.normal(size=(n_patients, k, d))
    factor = rng.normal(size=(n_patients, k, d, d))
    covariances = factor @ factor.swapaxes(2, 3) + 0.1 * np.eye(d)
    weights = rng.dirichlet(np.full(k, 5.0), size=n_patients)
    return Mixtures(weights, means, covariances)


def fitted(mixtures: Mixtures, **options: int) -> Barycenter:
    return fit_barycenter(mixtures, match_components(mixtures, **options), [f"P{i}" for i in range(len(mixtures))])


def mixture_of(mean: Barycenter) -> Mixtures:
    return Mixtures(mean.weights[None], mean.means[None], mean.covariances[None], "full", 0.0)


def test_equals_the_fixed_point_of_pot():
    gmm = pytest.importorskip("ot.gmm")
    mixtures = drawn(0, n_patients=3, k=2)
    groups = match_components(mixtures)
    mean = fitted(mixtures)
    assert mean.converged
    weights = groups.shares.mean(0)
    order = np.argsort(-weights, kind="stable")
    means, covariances = gmm.gmm_barycenter_fixed_point(
        list(mixtures.means), list(mixtures.covariances), list(mixtures.weights), groups.means[order].copy(),
        groups.covariances[order].copy(), np.full(3, 1 / 3), w_bar=weights[order], iterations=2,
        barycentric_proj_method="bures",
    )  # fmt: skip
    other = Barycenter(weights[order], means, covariances, 0.0, True, ())
    # POT takes barycenters of barycenters of each patient, so its cost may only be larger
    cost = float(np.mean(mixture_wasserstein(mixture_of(other), mixtures) ** 2))
    assert mean.cost <= cost * (1 + 1e-6)
    np.testing.assert_allclose(mean.means, means, atol=1e-3)


def test_one_component_is_the_barycenter_of_gaussians():
    gaussian = pytest.importorskip("ot.gaussian")
    mixtures = drawn(1, k=1, d=3)
    mean = fitted(mixtures)
    position, covariance = gaussian.bures_wasserstein_barycenter(
        mixtures.means[:, 0], mixtures.covariances[:, 0], num_iter=500, eps=1e-12
    )
    np.testing.assert_allclose(mean.means[0], np.ravel(position), atol=1e-8)
    np.testing.assert_allclose(mean.covariances[0], np.reshape(covariance, (3, 3)), atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3))
def test_no_patient_and_no_start_is_nearer(seed, k, d):
    mixtures = drawn(seed, k=k, d=d, spread=3.0)
    groups = match_components(mixtures)
    mean = fit_barycenter(mixtures, groups, ["a"] * 4)
    assert mean.weights.sum() == pytest.approx(1)
    assert np.linalg.eigvalsh(mean.covariances).min() > 0
    cost = float(np.mean(mixture_wasserstein(mixture_of(mean), mixtures) ** 2))
    assert cost == pytest.approx(mean.cost, rel=1e-6, abs=1e-9)
    start = Mixtures(groups.shares.mean(0)[None], groups.means[None], groups.covariances[None], "full", 0.0)
    assert cost <= np.mean(mixture_wasserstein(start, mixtures) ** 2) + 1e-9


def test_equal_patients_are_their_own_mean():
    one = drawn(2, n_patients=1)
    same = Mixtures.stack([one, one, one])
    mean = fitted(same)
    assert mean.cost == pytest.approx(0, abs=1e-9)
    assert float(mixture_wasserstein(mixture_of(mean), one)[0, 0]) == pytest.approx(0, abs=1e-4)


def test_synthetic_cells_have_the_moments_of_the_mixture():
    mean = fitted(drawn(3))
    cells, component = mean.sample(40_000, random_state=1)
    np.testing.assert_array_equal(cells, mean.sample(40_000, random_state=1)[0])
    np.testing.assert_allclose(np.bincount(component) / len(cells), mean.weights, atol=0.02)
    for k in range(len(mean)):
        np.testing.assert_allclose(cells[component == k].mean(0), mean.means[k], atol=0.15)
        np.testing.assert_allclose(np.cov(cells[component == k].T), mean.covariances[k], rtol=0.15, atol=0.15)
    with pytest.raises(ValueError, match="n_cells=0"):
        mean.sample(0)
