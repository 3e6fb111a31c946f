"""The order of patients, and tests of what changes along it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from muport.gmm.distances._mixture_wasserstein import mixture_wasserstein, pair_costs
from muport.gmm.interpretation._component_groups import match_components
from muport.gmm.interpretation._patient_trajectory import (
    component_programs,
    distances_without,
    feature_programs,
    find_end,
    log_odds,
    patient_affinities,
    time_from,
)
from muport.gmm.mixtures._mixtures import Mixtures


def test_affinities_connect_all_patients_and_are_symmetric():
    x = np.array([0.0, 0.0, 1.0, 1e6])
    affinity = patient_affinities(np.abs(x[:, None] - x), 2)
    np.testing.assert_array_equal(affinity, affinity.T)
    assert (affinity[~np.eye(4, dtype=bool)] >= 1e-6).all()
    assert not affinity.diagonal().any()
    scaled = patient_affinities(7 * np.abs(x[:, None] - x), 2)
    np.testing.assert_allclose(affinity, scaled)


def test_the_root_is_the_end_of_the_lower_outcome():
    coordinates = np.column_stack([np.linspace(0, 1, 6), np.linspace(0, 0.1, 6) ** 2])
    assert find_end(coordinates, np.arange(6.0)) == 0
    assert find_end(coordinates, -np.arange(6.0)) == 5
    assert find_end(coordinates, np.array([np.nan, 3, np.nan, np.nan, 1, np.nan])) == 5
    assert find_end(coordinates, None) in {0, 5}
    assert time_from(coordinates, 5)[[0, 5]].tolist() == [1.0, 0.0]


def test_distances_without_a_component_do_not_depend_on_it():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]) + rng.normal(size=(5, 3, 2))
    weights = rng.dirichlet(np.ones(3), size=5)
    mixtures = Mixtures(weights, means, np.tile(np.eye(2), (5, 3, 1, 1)))
    groups = match_components(mixtures)
    left = int(groups.group[0, 0])
    found, kept = distances_without(left, mixtures, groups, pair_costs(mixtures))
    rest = Mixtures(
        weights[:, 1:] / weights[:, 1:].sum(1, keepdims=True), means[:, 1:], np.tile(np.eye(2), (5, 2, 1, 1))
    )
    assert kept.all()
    np.testing.assert_allclose(found, mixture_wasserstein(rest), atol=1e-6)


def test_programs_are_found_with_the_statistics_of_scipy():
    rng = np.random.default_rng(1)
    t = rng.uniform(size=30)
    times = np.column_stack([t, t])
    times[0] = np.nan
    shares = np.column_stack([0.2 + 0.5 * t, rng.uniform(0.2, 0.3, 30)])
    odds = log_odds(shares, np.full(30, 100.0))
    states = rng.normal(size=(30, 2, 4))
    states[:, 1, 2] += 4 * t
    present = np.ones((30, 2), bool)
    table = component_programs(odds, states, present, times, ["a", "b"], 199, 0)
    assert table.loc["a", "share_rho"] == pytest.approx(spearmanr(odds[1:, 0], t[1:]).statistic)
    assert table.loc["a", "share_low"] > 0.9
    assert table.loc["b", "share_low"] < 0 < table.loc["b", "share_high"]
    assert table.loc["b", "state_p"] == 1 / 200
    assert table.loc["a", "state_p"] > 0.02
    means, loadings = states, rng.normal(size=(3, 4))
    features = feature_programs(means, present, times, loadings, ["x", "y", "z"], ["a", "b"])
    own = linregress(t[1:], states[1:, 1] @ loadings[2])
    row = features[(features["item"] == "b") & (features["feature"] == "z")].iloc[0]
    assert row["slope"] == pytest.approx(own.slope)
    assert row["p"] == pytest.approx(own.pvalue)
    assert row["low"] < row["slope"] < row["high"]


def test_log_odds_of_absent_components_are_finite():
    odds = log_odds(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([50.0, 50.0]))
    assert np.isfinite(odds).all()
    assert odds[1].tolist() == [0.0, 0.0]
    assert odds[0, 0] == pytest.approx(-odds[0, 1])
