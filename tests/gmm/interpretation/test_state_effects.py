"""Movement of components in the Wasserstein space, and what covariates and strata do to its tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from muport.gmm.distances._bures import roots
from muport.gmm.interpretation._component_groups import ComponentGroups
from muport.gmm.interpretation._state_effects import state_coordinates, state_effects
from muport.gmm.mixtures._mixtures import Mixtures

D = 3


def cohort(p: int = 12, seed: int = 0, **change: float) -> tuple[Mixtures, ComponentGroups, np.ndarray]:
    """Two components of each patient; condition 1 changes the first."""
    rng = np.random.default_rng(seed)
    condition = np.arange(p) % 2
    means = 0.3 * rng.normal(size=(p, 2, D))
    means[:, 0, 0] += change.get("shift", 0) * condition
    noise = rng.normal(size=(p, 2, D, 40))
    covariances = noise @ noise.swapaxes(2, 3) / 40
    covariances[:, 0] *= np.exp(change.get("spread", 0) * condition)[:, None, None]
    half, group = np.full((p, 2), 0.5), np.tile([0, 1], (p, 1))
    groups = ComponentGroups(group, means.mean(0), covariances.mean(0), half, 0 * half)
    return Mixtures(half, means, covariances, "full", 1e-4), groups, condition


def test_coordinates_have_the_wasserstein_distance_as_norm():
    mix, groups, _ = cohort(spread=1.0)
    mean, root, present = state_coordinates(mix, groups)
    assert present.all()
    inverse = np.linalg.inv(np.linalg.cholesky(groups.covariances[0]))
    white = inverse @ mix.covariances[:, 0] @ inverse.T
    center = inverse @ (mix.means[:, 0] - groups.means[0])[:, :, None]
    bures = np.trace(white + np.eye(D) - 2 * roots(torch.from_numpy(white)).numpy(), axis1=1, axis2=2)
    np.testing.assert_allclose(np.square(root[:, 0]).sum(1), bures, atol=1e-9)
    np.testing.assert_allclose(np.square(mean[:, 0]).sum(1), np.square(center).sum((1, 2)))


@pytest.mark.parametrize(("change", "found"), [({"shift": 1.5}, "mean_p"), ({"spread": 1.0}, "covariance_p")])
def test_movements_are_found_and_distinguished(change, found):
    table = state_effects(*cohort(**change), ["a", "b"], n_permutations=199)
    other = {"mean_p", "covariance_p"} - {found}
    assert table.loc["a", found] <= 0.01
    assert table.loc["a", other.pop()] > 0.05
    assert table.loc["a", "p"] <= 0.05
    assert table.loc["b", "p"] > 0.05


def test_without_effect_p_values_are_those_of_chance():
    values = [state_effects(*cohort(seed=seed), ["a", "b"], n_permutations=39)["p"].to_numpy() for seed in range(30)]
    assert 0.4 < np.mean(values) < 0.62


def test_covariates_and_strata():
    mix, groups, condition = cohort(shift=1.5)
    batch = (np.arange(12) >= 6).astype(float)[:, None]
    moved = Mixtures(mix.weights, mix.means + 20 * batch[:, None], mix.covariances, "full", 1e-4)
    shifted = ComponentGroups(groups.group, moved.means.mean(0), groups.covariances, groups.shares, groups.distance)
    assert state_effects(moved, shifted, condition, ["a", "b"], n_permutations=99).loc["a", "p"] > 0.05
    kept = state_effects(moved, shifted, condition, ["a", "b"], columns=batch, n_permutations=99)
    assert kept.loc["a", "p"] <= 0.02
    fixed = state_effects(mix, groups, condition, ["a", "b"], strata=np.arange(12), n_permutations=9)
    assert (fixed["p"] == 1).all()


def test_a_component_that_few_samples_have():
    mix, groups, condition = cohort()
    shares = groups.shares.copy()
    shares[2:, 1], group = 0, groups.group.copy()
    group[2:, 1] = -1
    few = ComponentGroups(group, groups.means, groups.covariances, shares, groups.distance)
    table = state_effects(mix, few, condition, ["a", "b"], n_permutations=19)
    assert table["n_samples"].tolist() == [12, 2]
    assert np.isfinite(table.to_numpy()).all()
