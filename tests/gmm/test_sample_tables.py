"""Patients as an AnnData, and abundance tests through the model."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest

import muport
from muport import GMM


@pytest.fixture(scope="module")
def typed(drawn, set_up) -> GMM:
    """Not to be changed."""
    adata = drawn(12, 60, state_effect=0.0, composition_effect=2.5, composition_noise=0.3)
    code = adata.obs["sample"].cat.codes
    adata.obs["age"] = 40.0 + code
    adata.obs["batch"] = np.array(["x", "y", "y"])[code % 3]
    adata.obs["same"] = adata.obs["condition"].astype(str)
    adata.obs["mixed"] = np.arange(adata.n_obs) % 2
    model = set_up(adata, cell_type_key="cell_type")
    model.fit_gmm(k_comps=3, verbose=False)
    return model


def test_patients_are_rows(typed):
    patients = typed.to_adata()
    assert list(patients.obs_names) == list(typed.state_.samples)
    assert patients.obs["n_cells"].tolist() == [60] * 12
    assert {"condition", "age", "batch"} <= set(patients.obs)
    assert not {"mixed", "cell_type"} & set(patients.obs)
    np.testing.assert_allclose(np.asarray(patients.X).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(patients.obsm["X_types"].sum(axis=1), 1)
    distances = patients.obsp["sample_distances"]
    np.testing.assert_array_equal(distances, typed.get_sample_distances("mw2"))
    # all coordinates of a metric of 12 points give the distances again, up to directions of negative eigenvalue
    assert patients.obsm["X_mds"].shape == (12, 10)


def test_scanpy_works_on_patients(typed, tmp_path):
    sc = pytest.importorskip("scanpy")
    patients = typed.to_adata()
    sc.pp.neighbors(patients, n_neighbors=4, use_rep="X_mds")
    sc.tl.diffmap(patients, n_comps=3)
    assert patients.obsm["X_diffmap"].shape[0] == 12
    assert patients.obsp["sample_distances"].shape == (12, 12)
    patients.write_h5ad(tmp_path / "patients.h5ad")


def test_the_changed_type_is_found(typed):
    table = typed.test_abundance(covariate_keys=["age", "batch"])
    enriched = typed.adata.uns["simulation"]["enriched_states"][0]
    assert table["p"].idxmin() == enriched
    assert list(table.index) == ["S0", "S1", "S2"]
    components = typed.test_abundance("components")
    assert list(components.index) == [f"component {i}" for i in range(len(components))]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"by": "cells"}, ValueError, "by='cells'"),
        ({"covariate_keys": ["sex"]}, KeyError, "sex"),
        ({"covariate_keys": "age"}, TypeError, "must be a list"),
        ({"covariate_keys": ["same"]}, ValueError, "cannot be distinguished"),
        ({"covariate_keys": ["mixed"]}, ValueError, "covariate_keys='mixed'.*more than one value"),
        ({"covariate_keys": ["sample"]}, ValueError, "cannot be distinguished"),
    ],
)
def test_bad_designs_are_refused(typed, options, error, match):
    with pytest.raises(error, match=match):
        typed.test_abundance(**options)


def test_types_are_needed(drawn, set_up):
    model = set_up(drawn(6, 30))
    model.fit_gmm(k_comps=2, verbose=False)
    with pytest.raises(ValueError, match="set up a cell_type_key"):
        model.test_abundance("types")
    assert "X_types" not in model.to_adata().obsm


def test_pseudobulk_adds_up_the_counts(typed):
    adata = typed.adata
    adata.X = np.random.default_rng(0).poisson(2.0, size=adata.shape).astype(np.float32)
    sums = typed.to_pseudobulk(min_cells=1)
    total = np.asarray(adata.X).sum()
    assert sums.X.sum() == total
    assert set(sums.obs["cell_type"]) == {"S0", "S1", "S2"}
    cells = (adata.obs["sample"] == "P03") & (adata.obs["cell_type"] == "S1")
    row = sums[(sums.obs["sample"] == "P03") & (sums.obs["cell_type"] == "S1")]
    np.testing.assert_array_equal(row.X[0], np.asarray(adata.X)[cells.to_numpy()].sum(0))
    assert {"condition", "age", "batch", "n_cells"} <= set(sums.obs)
    components = typed.to_pseudobulk("components", min_cells=1)
    assert components.X.sum() == total
    assert set(components.obs["component"]) <= {f"component {i}" for i in range(3)}
    with pytest.raises(ValueError, match="no row"):
        typed.to_pseudobulk(min_cells=1000)


def test_a_moved_state_is_found(drawn, set_up):
    adata = drawn(12, 60)
    code = adata.obs["sample"].cat.codes
    adata.obs["batch"] = np.array(["x", "y", "y"])[code % 3]
    adata.obs["same"] = adata.obs["condition"].astype(str)
    model = set_up(adata)
    model.fit_gmm(k_comps=3, refit="full", verbose=False)
    table = model.test_state(covariate_keys=["batch"], n_permutations=199)
    types = model.get_component_types("cell_type").share
    moved = f"component {int(types[adata.uns['simulation']['affected_state']].to_numpy().argmax())}"
    assert table["shift"].idxmax() == table["mean_shift"].idxmax() == moved
    assert table.loc[moved, "q"] < 0.05
    assert (table["p"] >= 1 / 200).all()
    np.testing.assert_array_equal(model.test_state(["batch"], n_permutations=199)["p"], table["p"])
    with pytest.raises(ValueError, match="determine the outcome"):
        model.test_state(["same"])
    for test in (model.test_state, model.test_components):
        with pytest.raises(ValueError, match="strata_key='sample': no stratum has samples of two conditions"):
            test(strata_key="sample")
    with pytest.raises(ValueError, match="n_groups='a' must be an integer"):
        model.match_components("a")
    with pytest.raises(ValueError, match="n_components=True must be an integer"):
        model.get_sample_embedding(True)
    with pytest.raises(ValueError, match="n_permutations=0"):
        model.test_state(n_permutations=0)


def test_columns_of_a_modality_are_those_of_the_patients(drawn):
    adata = drawn(6, 30)
    adata.X = np.ones(adata.shape, np.float32)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    expected, found = {}, {}
    for tables, data in ((expected, adata.copy()), (found, mudata.MuData({"rna": adata[order].copy()}))):
        setup = muport.GMM.setup_mudata if isinstance(data, mudata.MuData) else muport.GMM.setup_anndata
        setup(data, sample_key="sample", labels_key="condition")
        model = muport.GMM(data)
        model.fit_gmm(k_comps=2, verbose=False)
        tables |= {"patients": model.to_adata(), "sums": model.to_pseudobulk("components", min_cells=1)}
        with pytest.raises(KeyError, match="'atac'" if hasattr(data, "mod") else "nope"):
            model.to_pseudobulk(**({"modality": "atac"} if hasattr(data, "mod") else {"layer": "nope"}))
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name].obs[list(table.obs)], table.obs)
        assert np.array_equal(found[name].X, table.X)


def test_columns_loadings_and_groups_are_those_of_the_model(drawn):
    adata = drawn(8, 30)
    sample = adata.obs["sample"].cat.codes.to_numpy()
    adata.obs["age"] = np.array([40.0, 62, 51, 47, 70, 44, 58, 66])[sample]
    muport.GMM.setup_anndata(adata, labels_key="condition")
    model = muport.GMM(adata)
    model.train(k_comps=2, n_comps=2, covariate_keys=["age"], progress=False)
    for values in (adata.obs["age"].astype(str), adata.obs["age"].astype("category")):
        new = adata.copy()
        new.obs["age"] = values
        with pytest.raises(TypeError, match="age"):
            model.predict(new)
    d = adata.obsm["X_pca"].shape[1]
    loadings = pd.DataFrame(np.random.default_rng(0).normal(size=(3, d)), index=["a", "b", "c"])
    ranked = [model.rank_features(table, ["a", "b", "c"]) for table in (loadings, loadings[::-1], loadings.to_numpy())]
    pd.testing.assert_frame_equal(ranked[0], ranked[1])
    pd.testing.assert_frame_equal(ranked[0], ranked[2])
    for features in ("abc", ["a", "a", "b"]):
        with pytest.raises((TypeError, ValueError), match="features"):
            model.rank_features(loadings, features)
    other = muport.GMM(model.adata)
    other.fit_gmm(k_comps=3, verbose=False)
    for call in (model.test_components, model.test_state, model.get_trajectory):
        with pytest.raises(ValueError, match="groups"):
            call(groups=other.match_components())
