"""Components of many patients grouped in the Wasserstein space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ot
import pytest
import torch

from muport.gmm.interpretation._component_groups import compute_barycenters, find_groups, match_components
from muport.gmm.mixtures._mixtures import Mixtures


def random_covariances(n, d, seed=0):
    root = np.random.default_rng(seed).normal(size=(n, d, d + 2))
    return root @ root.swapaxes(1, 2) / d


def test_barycenter_is_pots():
    rng = np.random.default_rng(0)
    mean, cov, mass = rng.normal(size=(6, 3)), random_covariances(6, 3), rng.uniform(0.2, 1, 6)
    label = torch.tensor([0, 0, 0, 0, 1, 1])
    centers, found = compute_barycenters(*map(torch.from_numpy, (mean, cov, mass)), label)
    for m, rows in enumerate((slice(0, 4), slice(4, 6))):
        share = mass[rows] / mass[rows].sum()
        expected = ot.gaussian.bures_wasserstein_barycenter(mean[rows], cov[rows], weights=share, eps=1e-12)
        assert centers[m].numpy() == pytest.approx(expected[0])
        assert found[m].numpy() == pytest.approx(expected[1], abs=1e-6)


def test_barycenter_of_commuting_covariances():
    cov = torch.diag_embed(torch.tensor([[1.0, 4.0], [9.0, 16.0]], dtype=torch.float64))
    mass, label = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    _, found = compute_barycenters(torch.zeros(2, 2, dtype=torch.float64), cov, mass, label)
    assert found[0].numpy() == pytest.approx(np.diag([4.0, 9.0]))


def mixed(n_patients=12, seed=0):
    """Two components differ by their means, two only by their shapes; the fourth is rare and missing in some."""
    rng = np.random.default_rng(seed)
    means = np.array([[8.0, 0], [-8, 0], [0, 0], [0, 0]]) + 0.2 * rng.normal(size=(n_patients, 4, 2))
    shape = np.array([np.eye(2), np.eye(2), np.diag([9, 0.1]), np.diag([0.1, 9])])
    weights = np.tile([0.3, 0.25, 0.25, 0.2], (n_patients, 1))
    weights[::3, 3] = 0
    means[::3, 3], covariances = 0, np.tile(shape, (n_patients, 1, 1, 1))
    covariances[::3, 3] = np.eye(2)
    weights /= weights.sum(axis=1, keepdims=True)
    return Mixtures(weights, means, covariances)


def test_groups_by_mean_and_by_shape():
    mixtures = mixed()
    groups = match_components(mixtures)
    alive = mixtures.weights > 0
    assert len(groups) == 4
    assert (groups.group[~alive] == -1).all()
    assert (groups.distance[~alive] == 0).all()
    for column in range(4):
        assert len(set(groups.group[alive[:, column], column])) == 1
    of = groups.group[1]
    assert sorted(of) == [0, 1, 2, 3]
    assert groups.shares[:, of] == pytest.approx(mixtures.weights)
    assert (np.diff(groups.shares.sum(axis=0)) <= 1e-12).all(), "the largest first"
    assert groups.covariances[of[2]] == pytest.approx(np.diag([9, 0.1]))
    offset = mixtures.means[1, 0] - groups.means[of[0]]
    assert groups.distance[1, 0] == pytest.approx(np.linalg.norm(offset))


def test_order_of_patients_and_components_does_not_matter():
    mixtures = mixed()
    groups = match_components(mixtures)
    back = match_components(
        Mixtures(mixtures.weights[::-1, ::-1], mixtures.means[::-1, ::-1], mixtures.covariances[::-1, ::-1])
    )
    assert back.group[::-1, ::-1].tolist() == groups.group.tolist()
    assert back.means == pytest.approx(groups.means)


def test_groups_of_some_patients():
    groups = match_components(mixed())
    part = groups.subset(np.array([1, 4]))
    assert part.group.tolist() == groups.group[[1, 4]].tolist()
    assert part.shares.tolist() == groups.shares[[1, 4]].tolist()
    assert part.means is groups.means


def test_diagonal_covariances_and_more_groups_than_components():
    mixtures = Mixtures(np.ones((3, 1)), np.array([[[0.0]], [[0.0]], [[5.0]]]), np.ones((3, 1, 1)), "diag")
    groups = match_components(mixtures, 3)
    assert groups.group.ravel().tolist() == [0, 0, 1]
    assert groups.shares.tolist() == [[1, 0], [1, 0], [0, 1]]


def test_same_seed_same_groups_and_bad_number():
    first, second = match_components(mixed(), 3, random_state=5), match_components(mixed(), 3, random_state=5)
    assert (first.covariances == second.covariances).all()
    with pytest.raises(ValueError, match="n_groups=0"):
        match_components(mixed(), 0)
    total = int((mixed().weights > 0).sum())
    assert len(match_components(mixed(), total)) <= total
    with pytest.raises(ValueError, match=f"n_groups={total + 1} is above {total}, the number of components"):
        match_components(mixed(), total + 1)


def test_groups_of_other_mixtures_of_equal_size_are_refused():
    mixtures = mixed()
    groups = match_components(mixtures, 3)
    assert find_groups(groups, mixtures, 0) is groups
    moved = replace(mixtures, means=mixtures.means + 0.1)
    permuted = replace(mixtures, weights=mixtures.weights[::-1], means=mixtures.means[::-1])
    for other in (mixed(seed=1), moved, permuted):
        assert other.weights.shape == mixtures.weights.shape
        with pytest.raises(ValueError, match="groups are of other mixtures"):
            find_groups(groups, other, 0)
