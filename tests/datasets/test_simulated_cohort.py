"""The simulated cohort is what its truth says."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from muport.datasets import simulated_cohort


@pytest.fixture(scope="module")
def adata():
    return simulated_cohort(n_patients=12, n_cells=400, state_effect=3.0, random_state=1)


def state_means(adata, state):
    """Patients' means of one state (P, d), without the patients' offsets, and the patients' conditions (P,)."""
    truth, obs = adata.uns["simulation"], adata.obs
    rows = (obs["cell_type"] == state).to_numpy()
    sample = obs["sample"].cat.codes.to_numpy()
    mean = np.stack([adata.obsm["X_pca"][rows & (sample == i)].mean(0) for i in range(sample.max() + 1)])
    condition = obs.groupby("sample", observed=True)["condition"].first()
    return mean - truth["patient_offsets"], condition.to_numpy()


def test_every_patient_has_its_cells_and_one_condition(adata):
    assert adata.shape == (4800, 150)
    assert (adata.obs["sample"].value_counts() == 400).all()
    assert (adata.obs.groupby("sample", observed=True)["condition"].nunique() == 1).all()
    per_condition = adata.obs.groupby("condition", observed=True)["sample"].nunique()
    assert per_condition.to_dict() == {"control": 6, "case": 6}
    sizes = simulated_cohort(n_patients=30, n_cells=(5, 9)).obs["sample"].value_counts()
    assert (sizes.min(), sizes.max()) == (5, 9)


def test_only_the_affected_state_moves_and_along_the_signal_axis(adata):
    truth = adata.uns["simulation"]
    for state in adata.obs["cell_type"].cat.categories:
        mean, condition = state_means(adata, state)
        gap = mean[condition == "case"].mean(0) - mean[condition == "control"].mean(0)
        expected = 3.0 * truth["signal_axes"][0] if state == truth["affected_state"] else 0 * gap
        # 6 patients x ~80 cells x 2 conditions, standard deviation up to 3
        assert np.abs(gap - expected).max() < 5 * 3 * np.sqrt(2 / 480)
        assert abs((gap - expected) @ truth["signal_axes"][0]) < 5 * np.sqrt(2 / 480)


def test_the_signal_is_hidden_under_noisy_axes(adata):
    truth, code = adata.uns["simulation"], adata.obs["cell_type"].cat.codes.to_numpy()
    values, vectors = np.linalg.eigh(np.cov((adata.obsm["X_pca"] - truth["state_means"][code]).T))
    on_leading = vectors[:, values > 4].T @ truth["signal_axes"][0]
    assert (values > 4).sum() == 20
    assert np.linalg.norm(on_leading) < 0.5
    assert np.abs(adata.uns["simulation"]["signal_axes"]).max() < 0.8, "the axes of the data are rotated"


def test_composition_moves_the_odds_of_one_state():
    adata = simulated_cohort(400, 3, state_effect=0, composition_effect=1.5, composition_noise=0.4)
    truth = adata.uns["simulation"]
    case = (adata.obs.groupby("sample", observed=True)["condition"].first() == "case").to_numpy()
    logit = np.log(truth["shares"])
    states = [f"S{s}" for s in range(5)]
    moved = states.index(truth["enriched_states"][0])
    rest = [s for s in range(5) if s != moved]
    odds = logit[:, moved] - logit[:, rest].mean(1)
    assert odds[case].mean() - odds[~case].mean() == pytest.approx(1.5, abs=0.2)
    assert truth["enriched_states"][0] != truth["affected_state"]
    within = logit[:, rest] - logit[:, rest].mean(1, keepdims=True)
    assert within.std() == pytest.approx(0.4 * np.sqrt(3 / 4), rel=0.1)
    assert np.abs(within[case].mean(0) - within[~case].mean(0)).max() < 0.2


def test_shares_are_those_of_the_cells():
    adata = simulated_cohort(4, 20_000, n_dims=3, n_genes=3)
    code = adata.obs["cell_type"].cat.codes.to_numpy()
    share = np.stack([np.bincount(code[adata.obs["sample"] == f"P{i:02}"], minlength=5) / 20_000 for i in range(4)])
    assert np.abs(share - adata.uns["simulation"]["shares"]).max() < 0.02


def test_genes_of_the_signal_are_known(adata):
    pcs = adata.varm["PCs"]
    assert np.abs(pcs.T @ pcs - np.eye(30)).max() < 1e-5
    assert np.abs(adata.X - adata.obsm["X_pca"] @ pcs.T).max() < 1e-3
    on_signal = np.abs(pcs @ adata.uns["simulation"]["signal_axes"][0])
    assert on_signal[adata.var["signal"]].min() > 0.1
    assert on_signal[~adata.var["signal"]].max() < 1e-5


def test_three_conditions_have_an_axis_each():
    adata = simulated_cohort(9, 300, conditions=("a", "b", "c"), state_effect=4.0, patient_offset=0.0, noise=1.0)
    truth = adata.uns["simulation"]
    assert np.abs(truth["signal_axes"] @ truth["signal_axes"].T - np.eye(2)).max() < 1e-9
    mean, condition = state_means(adata, truth["affected_state"])
    for axis, name in zip(truth["signal_axes"], "bc", strict=True):
        gap = mean[condition == name].mean(0) - mean[condition == "a"].mean(0)
        assert np.abs(gap - 4 * axis).max() < 0.6


def test_seed_and_file(tmp_path, adata):
    again = simulated_cohort(n_patients=12, n_cells=400, state_effect=3.0, random_state=1)
    assert (again.X == adata.X).all()
    assert not (simulated_cohort(12, 400, state_effect=3.0, random_state=2).X == adata.X).any()
    adata.write_h5ad(tmp_path / "cohort.h5ad")
    read = anndata.read_h5ad(tmp_path / "cohort.h5ad")
    assert (read.uns["simulation"]["signal_axes"] == adata.uns["simulation"]["signal_axes"]).all()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"conditions": ("a",)}, "conditions="),
        ({"conditions": ("a", "a")}, "two or more different"),
        ({"n_patients": 1}, "n_patients=1 must be an integer of at least 2"),
        ({"n_cells": 0}, "n_cells="),
        ({"n_cells": (9, 5)}, "n_cells="),
        ({"n_dims": 1}, "n_dims=1"),
        ({"n_states": 1}, "n_states=1"),
        ({"n_genes": 29}, "n_genes=29"),
        ({"noise": -1.0}, "noise=-1"),
        ({"patient_offset": float("nan")}, "patient_offset=nan"),
        ({"state_effect": float("nan")}, "state_effect=nan"),
        ({"conditions": "ab"}, "conditions='ab'"),
        ({"random_state": None}, "random_state=None"),
    ],
)
def test_bad_numbers_are_named(bad, words):
    with pytest.raises(ValueError, match=words):
        simulated_cohort(**bad)
