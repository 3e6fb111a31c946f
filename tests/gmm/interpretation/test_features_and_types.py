"""Features, cell types and conditions of components, against closed forms, SciPy and a simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from muport.gmm.interpretation._component_groups import ComponentGroups, match_components
from muport.gmm.interpretation._features_and_types import (
    axis_loadings,
    component_shifts,
    component_types,
    condition_effects,
    group_responsibilities,
    rank_features,
)
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


def test_axis_loadings_are_the_slopes_of_the_axes():
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=(9, 4)), rng.normal(size=(2, 4))
    x = rng.normal(size=(5, 9))
    assert axis_loadings(w, v) == pytest.approx(v @ w.T)
    assert (x @ v) @ w.T == pytest.approx(x @ axis_loadings(w, v))
    with pytest.raises(ValueError, match=r"w \(2, 4\) and loadings \(9, 3\)"):
        axis_loadings(w, v[:, :3])


def test_ranks():
    scores = np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 5.0]])
    table = rank_features(scores, ["A", "B", "C"], ["x", "y"])
    assert table["feature"].tolist() == ["B", "C", "A", "C", "A", "B"]
    assert table["score"].tolist() == [-3, 2, 1, 5, 0, 0]
    assert table["rank"].tolist() == [1, 2, 3] * 2
    assert table["item"].tolist() == ["x"] * 3 + ["y"] * 3
    assert rank_features(scores, ["A", "B", "C"], by="up", n=1)["feature"].tolist() == ["C", "C"]
    assert rank_features(scores, ["A", "B", "C"], by="down", n=1)["feature"].tolist() == ["B", "A"]
    for bad, words in (({"by": "size"}, "by='size'"), ({"names": ["x"]}, "names has 1 entries for 2")):
        with pytest.raises(ValueError, match=words):
            rank_features(scores, ["A", "B", "C"], **bad)
    with pytest.raises(ValueError, match="do not fit 2 features"):
        rank_features(scores, ["A", "B"])


@given(st.integers(2, 6), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_shifts_are_differences_of_means(m, seed):
    rng = np.random.default_rng(seed)
    means, mass = rng.normal(size=(m, 3)), rng.uniform(0.1, 1, m)
    shift = component_shifts(means, mass)
    for k in range(m):
        rest = np.delete(np.arange(m), k)
        assert shift[k] == pytest.approx(means[k] - np.average(means[rest], axis=0, weights=mass[rest]), abs=1e-9)
    whole = component_shifts(means, mass, reference="global")
    assert whole == pytest.approx(means - np.average(means, axis=0, weights=mass), abs=1e-9)
    assert mass @ whole == pytest.approx(0, abs=1e-9)


def test_shifts_of_one_component_and_in_a_subspace():
    assert component_shifts([[5.0, 1.0]], [1.0]).tolist() == [[0, 0]]
    assert component_shifts([[5.0], [1.0]], [1.0, 0.0]).tolist() == [[0], [-4]]
    seen = component_shifts([[2.0, 1.0], [0.0, 0.0]], [1.0, 1.0], w=[[3.0, 3.0]])
    assert seen == pytest.approx(np.array([[1.5, 1.5], [-1.5, -1.5]]))
    with pytest.raises(ValueError, match="reference='all'"):
        component_shifts([[1.0]], [1.0], reference="all")
    with pytest.raises(ValueError, match=r"mass \(2,\)"):
        component_shifts([[1.0]], [1.0, 1.0])


def test_types_are_weighted_by_responsibility():
    r = np.array([[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0], [0.5, 0.5, 0]])
    found = component_types(r, np.array(["B", "B", "T", None], dtype=object))
    assert found.share.to_numpy() == pytest.approx(np.array([[1, 0], [3 / 7, 4 / 7], [0, 0]]))
    assert found.mass.tolist() == [1.25, 1.75, 0]
    assert found.purity == pytest.approx([1, 4 / 7, 0])
    assert found.entropy == pytest.approx([0, stats.entropy([3, 4], base=2), 0])
    assert component_types(r, ["B"] * 4).entropy.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="3 labels"):
        component_types(r, ["B", "B", "T"])
    with pytest.raises(ValueError, match="no cell has a type"):
        component_types(r, [None] * 4)


def test_group_responsibilities_follow_the_patients():
    mixtures, _, order = cohort(4)
    groups = match_components(mixtures)
    rng = np.random.default_rng(1)
    r, sample = rng.dirichlet(np.ones(3), 30), rng.integers(4, size=30)
    summed = group_responsibilities(r, sample, groups)
    assert summed.sum(axis=1) == pytest.approx(1)
    of = [groups.group[0][order[0] == c][0] for c in range(3)]
    for i in range(30):
        assert summed[i, of] == pytest.approx(r[i, np.argsort(order[sample[i]])])


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
    seen = condition_effects(mixtures, groups, condition, w=[[0, 0, 0, 2.0]])
    assert seen.loc[moving, "state_shift"] == pytest.approx(1.5, abs=0.4)
    assert seen.loc[moving, "state_effect"] > table.loc[moving, "state_effect"]
    blind = condition_effects(mixtures, groups, condition, w=[[1.0, 0, 0, 0]])
    assert blind.loc[moving, "state_q"] > 0.05


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


def test_chances_are_even_without_an_effect():
    found = []
    for seed in range(40):
        mixtures, condition, _ = cohort(10, seed=seed)
        found.append(condition_effects(mixtures, match_components(mixtures), condition, n_permutations=199))
    p = np.concatenate([table[key] for table in found for key in ("state_p", "share_p")])
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
