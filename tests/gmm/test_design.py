"""Covariates and strata through the model: their effects are removed, and confounding is said or refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from anndata import AnnData

from muport import GMM

QUICK = {"n_comps": 1, "ridge": 1.0, "offset": False, "bures": False, "mix": (1.0, 0.0)}


@pytest.fixture(scope="module")
def batches(drawn) -> AnnData:
    """Sixteen samples of a condition with a small effect in two batches with a large one; not to be changed."""
    adata = drawn(16, 40, state_effect=2.5)
    code = adata.obs["sample"].cat.codes.to_numpy()
    case = (adata.obs["condition"] == "case").groupby(code).first().to_numpy()
    order = np.argsort(case, kind="stable")
    pair, batch = np.zeros(16, int), np.zeros(16, int)
    pair[order] = np.arange(16) % 8
    batch[order] = np.arange(16) % 2
    adata.obsm["X_pca"] = adata.obsm["X_pca"] + 6 * batch[code][:, None] * np.eye(5, dtype=np.float32)[4]
    adata.obs["batch"] = np.array(["x", "y"])[batch][code]
    adata.obs["person"] = np.char.mod("D%d", pair)[code]
    adata.obs["age"] = (40.0 + np.arange(16))[code]
    adata.obs["same"] = np.where(case, "u", "v")[code]
    near = case.copy()
    near[order[0]] = True
    adata.obs["near"] = np.where(near, "u", "v")[code]
    return adata


def fitted(adata: AnnData, **options) -> GMM:
    data = adata.copy()
    GMM.setup_anndata(data, labels_key="condition")
    model = GMM(data)
    model.fit_gmm(k_comps=3, refit="full", verbose=False)
    model.train_gmm(**QUICK, **options)
    return model


def test_the_effect_of_the_batch_is_removed(batches, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(batches, covariate_keys=["batch", "age"])
    model.save(tmp_path / "model")
    again = GMM.load(tmp_path / "model", accelerator="cpu")
    new = batches[batches.obs["sample"].isin(["P03", "P08"])].copy()
    moved = new.copy()
    # other batch and its offset: the prediction hardly changes
    shift = np.where(new.obs["batch"] == "x", 6.0, -6.0)[:, None] * np.eye(5, dtype=np.float32)[4]
    moved.obsm["X_pca"] = (moved.obsm["X_pca"] + shift).astype(np.float32)
    moved.obs["batch"] = np.where(new.obs["batch"] == "x", "y", "x")
    p = model.predict(new, soft=True)
    np.testing.assert_array_equal(again.predict(new, soft=True), p)
    np.testing.assert_allclose(model.predict(moved, soft=True), p, atol=0.1)
    with pytest.raises(KeyError, match="batch"):
        model.predict(AnnData(obs=new.obs.drop(columns="batch"), obsm=new.obsm))
    moved.obs["batch"] = "z"
    with pytest.warns(UserWarning, match="covariate_keys='batch' holds .'z'."):
        model.predict(moved)
    found = model.cross_validate(n_folds=4, group_key="person", strata_key="person", n_permutations=1)
    assert found.balanced_accuracy > 0.7


def test_confounding_is_said_or_refused(batches):
    model = fitted(batches)
    with pytest.raises(ValueError, match=r"covariate_keys=\['same'\] determine the outcome"):
        model.train_gmm(**QUICK, covariate_keys=["same"])
    with pytest.raises(ValueError, match="15 columns for 16 samples"):
        model.train_gmm(**QUICK, covariate_keys=["sample"])
    with pytest.warns(UserWarning, match=r"\['near'\] explain 78 % .* 16 samples \(76 % corrected for 1 columns"):
        model.train_gmm(**QUICK, covariate_keys=["near"])
    for bad, error, match in (
        (["sex"], KeyError, "sex"),
        ("age", TypeError, "list"),
        (["age", "age"], ValueError, "twice"),
    ):
        with pytest.raises(error, match=match):
            model.train_gmm(**QUICK, covariate_keys=bad)


def test_pairs_keep_their_conditions(batches):
    model = fitted(batches)
    model.adata.obs["one"] = model.adata.obs["sample"]
    with pytest.raises(ValueError, match=r"strata_key='one': no stratum has samples of two conditions"):
        model.test_components(n_permutations=9, strata_key="one")
    paired = model.test_components(n_permutations=99, strata_key="person")
    assert paired["state_p"].min() <= 0.05
    with pytest.raises(KeyError, match="center"):
        model.test_components(strata_key="center")
