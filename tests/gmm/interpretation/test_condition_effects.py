"""Tests between conditions, against SciPy and a simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from muport.gmm.interpretation._component_groups import ComponentGroups, match_components
from muport.gmm.interpretation._condition_effects import condition_effects
from muport.gmm.mixtures._mixtures import Mixtures


def cohort(n_patients=16, moved=0.0, more=0.0, seed=0):
    """Three components in 4-D, in random order; in odd patients the second moves and the third grows."""
    rng = np.random.default_rng(seed)
    condition = np.arange(n_patients) % 2
    centers = 20 * np.eye(4)[:3]
    means = centers + 0.3 * rng.normal(size=(n_patients, 3, 4))
    means[condition == 1, 1, 3] += moved
    shares = np.full((n_patients, 3), 1 / 3) * np.exp(0.1 * rng.normal(size=(n_patients, 3)))
    shares[condition == 1, 2] *= np.exp(more)
    shares /= shares.sum(axis=1, keepdims=True)
    root = np.eye(4) + 0.1 * rng.normal(size=(n_patients, 3, 4, 4))
    order = rng.permuted(np.tile(np.arange(3), (n_patients, 1)), axis=1)
    rows = np.arange(n_patients)[:, None]
    mixtures = Mixtures(shares[rows, order], means[rows, order], (root @ root.swapaxes(2, 3))[rows, order])
    return mixtures, condition, order


def test_the_component_that_moves_and_the_one_that_grows_are_found():
    mixtures, condition, order = cohort(moved=1.5, more=0.8, seed=1)
    groups = match_components(mixtures)
    table = condition_effects(mixtures, groups, condition)
    moving, growing = (groups.group[0][order[0] == c][0] for c in (1, 2))
    assert table["state_q"].argmin() == moving
    assert table.loc[moving, "state_q"] < 0.01
    assert table.loc[moving, "state_shift"] == pytest.approx(1.5, abs=0.4)
    assert (table["state_q"].drop(moving) > 0.05).all()
    assert table["share_effect"].argmax() == growing
    assert table.loc[growing, "share_q"] < 0.01
    assert table.loc[growing, "share_shift"] == pytest.approx(0.19, abs=0.04)


def test_one_axis_is_the_analysis_of_variance():
    """With one dimension the statistic orders permutations as F does, and the effect is R^2 corrected."""
    rng = np.random.default_rng(0)
    condition = np.repeat([0, 1, 2], 6)
    y = rng.normal(size=18) + 0.8 * condition
    mixtures = Mixtures(np.ones((18, 1)), y[:, None, None], np.full((18, 1, 1), 4.0), "diag")
    table = condition_effects(mixtures, match_components(mixtures), condition, n_permutations=4999)
    parts = [y[condition == c] for c in range(3)]
    f, p = stats.f_oneway(*parts)
    assert table.loc[0, "state_p"] == pytest.approx(p, abs=4 * np.sqrt(p / 5000) + 2e-4)
    r2 = f * 2 / (f * 2 + 15)
    assert table.loc[0, "state_effect"] == pytest.approx(1 - (1 - r2) * 17 / 15)
    means = [part.mean() for part in parts]
    assert table.loc[0, "state_shift"] == pytest.approx((max(means) - min(means)) / 2)
    assert table.loc[0, ["share_effect", "share_p"]].tolist() == [0, 1]


def test_p_values_are_uniform_without_an_effect():
    tables = []
    for seed in range(40):
        mixtures, condition, _ = cohort(10, seed=seed)
        tables.append(condition_effects(mixtures, match_components(mixtures), condition, n_permutations=199))
    p = np.concatenate([table[key] for table in tables for key in ("state_p", "share_p")])
    assert 0.4 < p.mean() < 0.6
    assert (p < 0.05).mean() < 0.12


def test_a_group_that_few_have():
    """Absent components are left out of the state, and never NaN."""
    weights = np.array([[1, 0], [1, 0], [0.5, 0.5], [1, 0]])
    mixtures = Mixtures(weights, np.zeros((4, 2, 2)), np.ones((4, 2, 2)), "diag")
    groups = ComponentGroups(
        np.array([[0, -1], [0, -1], [0, 1], [0, -1]]), np.zeros((2, 2)), np.tile(np.eye(2), (2, 1, 1)),
        weights, np.zeros((4, 2)),
    )  # fmt: skip
    table = condition_effects(mixtures, groups, [0, 0, 1, 1])
    assert table["n_patients"].tolist() == [4, 1]
    assert table["state_p"].tolist() == [1, 1]
    assert table["state_effect"].tolist() == [0, 0]
    assert np.isfinite(table.to_numpy()).all()


def test_same_seed_same_table_and_bad_conditions():
    mixtures, condition, _ = cohort()
    groups = match_components(mixtures)
    assert condition_effects(mixtures, groups, condition).equals(condition_effects(mixtures, groups, condition))
    with pytest.raises(ValueError, match="same for all patients"):
        condition_effects(mixtures, groups, 0 * condition)
    with pytest.raises(ValueError, match="each of the 16 patients"):
        condition_effects(mixtures, groups, condition[:5])
