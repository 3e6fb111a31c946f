"""Cross-validation and the search for settings through the model."""

from __future__ import annotations

import numpy as np
import pandas as pd


def test_held_out_patients_are_predicted(model):
    found = model.cross_validate(n_folds=4)
    assert found.balanced_accuracy > 0.8
    assert found.auroc > 0.9
    assert found.confusion.sum() == 12
    assert np.allclose(found.probabilities.sum(1), 1)
    low, high = found.intervals["balanced_accuracy"]
    assert low <= found.balanced_accuracy <= high
    condition = model.adata.obs.groupby("sample", observed=True)["condition"].first()
    assert np.array(found.conditions)[found.condition].tolist() == condition.loc[list(found.samples)].tolist()


def test_permuted_conditions_are_chance(drawn, set_up):
    """The mean over permutations and cohorts must not be above chance: nothing leaks from the held-out patients."""
    null = []
    for seed in range(3):
        model = set_up(drawn(10, 30, random_state=seed))
        model.fit_gmm(k_comps=2, verbose=False)
        model.train_gmm(2, ridge=0.1, mix=(1.0, 0.5), offset=False)
        null.append(model.cross_validate(n_folds=5, n_permutations=6, random_state=seed).null)
    accuracy, area = np.concatenate(null).mean(0)
    assert 0.2 < accuracy < 0.62
    assert area < 0.62


def test_labels_of_a_held_out_patient_do_not_matter(drawn, set_up):
    """A change of its own label does not change its probabilities."""
    adata = drawn(10, 30)
    turned = adata.copy()
    first = turned.obs["sample"] == "P00"
    value = turned.obs.loc[first, "condition"].iloc[0]
    turned.obs["condition"] = turned.obs["condition"].astype(str)
    turned.obs.loc[first, "condition"] = {"case": "control", "control": "case"}[value]
    found = []
    for one in (adata, turned):
        model = set_up(one)
        model.fit_gmm(k_comps=2, verbose=False)
        model.train_gmm(2, ridge=(0.1, 1.0), mix=1.0, offset=False)
        found.append(model.cross_validate(n_folds=10).probabilities[0])
    assert np.array_equal(found[0], found[1])


def test_samples_of_one_person_are_held_out_together(drawn, set_up):
    adata = drawn(12, 30)
    code = adata.obs["sample"].cat.codes
    # every person has a sample of each condition, as in a study before and after
    condition = adata.obs.groupby("sample", observed=True)["condition"].first().cat.codes.to_numpy()
    rank = np.empty(12, int)
    for one in (0, 1):
        rank[condition == one] = np.arange((condition == one).sum())
    adata.obs["person"] = [f"H{rank[i]}" for i in code]
    model = set_up(adata)
    model.fit_gmm(k_comps=2, verbose=False)
    model.train_gmm(2, ridge=0.1, group_key="person")
    fold = model.cross_validate(group_key="person").fold
    assert len(np.unique(fold)) == 6
    assert pd.Series(fold).groupby(rank).nunique().max() == 1
    assert len(np.unique(model.cross_validate().fold)) == 6


def test_search_is_nested(drawn, set_up):
    model = set_up(drawn(12, 30))
    model.fit_gmm(k_comps=2, verbose=False)
    model.train_gmm(2, ridge=0.1, mix=1.0, offset=False)
    found = model.tune({"n_comps": [1, 2], "fitter__k_comps": [1, 2]}, n_folds=3, n_inner=2)
    assert list(found.table.columns) == ["n_comps", "fitter__k_comps", "balanced_accuracy", "auroc", "log_loss"]
    assert len(found.table) == 4
    assert len(found.chosen) == 3
    assert all(one.keys() == {"n_comps", "fitter__k_comps"} for one in (found.best, *found.chosen))
    row = found.table.loc[found.table["log_loss"].idxmin()]
    assert found.best == {"n_comps": row["n_comps"], "fitter__k_comps": row["fitter__k_comps"]}
    assert found.outer.probabilities.shape == (12, 2)


def test_search_keeps_the_settings_of_the_model(drawn, set_up):
    model = set_up(drawn(10, 30))
    model.fit_gmm(k_comps=2, verbose=False)
    values = []
    for ridge in (0.01, 30.0):
        model.train_gmm(2, ridge=ridge, offset=False, mix=1.0)
        values.append(model.tune({"n_comps": [1]}, n_folds=2, n_inner=2).table["log_loss"].iloc[0])
    assert values[0] != values[1]
