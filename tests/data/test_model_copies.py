"""A model is copied with its data, as the models of scvi-tools are on an AnnData."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData, read_h5mu

import muport

COPIES = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy}
QUIET = {"accelerator": "cpu", "progress": False}


def cells(n: int = 36) -> dict[str, AnnData]:
    """Two modalities of different cells, with batches, patients and times."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": [f"b{i % 2}" for i in range(n)], "sample": [f"s{i // 6}" for i in range(n)]})
    obs["time"], obs.index = np.linspace(0, 1, n), [f"c{i}" for i in range(n)]
    x = rng.normal(size=(n, 4)) + 3 * np.eye(3, 4)[np.arange(n) % 3]
    rna = AnnData(np.ones((n, 2), np.float32), obs, obsm={"X_pca": x.astype(np.float32)})
    atac = rna[: n // 2].copy()
    rna.var_names, atac.var_names = ["g0", "g1"], ["p0", "p1"]
    atac.obs_names = "a" + atac.obs_names
    return {"rna": rna, "atac": atac}


def integration(cells: dict[str, AnnData]) -> Any:
    mdata = MuData(cells)
    muport.Integration.setup_mudata(mdata, use_rep=None, shared_rep="X_pca", batch_key="batch")
    model = muport.Integration(mdata)
    model.train(max_iter=2, **QUIET)
    return model


def gmm(cells: dict[str, AnnData]) -> Any:
    mdata = MuData({"rna": cells["rna"]})
    muport.GMM.setup_mudata(mdata, use_rep={"rna": "X_pca"}, sample_key="sample")
    model = muport.GMM(mdata)
    model.fit_gmm(k_comps=2, verbose=False)
    return model


def velocity(cells: dict[str, AnnData]) -> Any:
    mdata = MuData({"rna": cells["rna"]})
    muport.Velocity.setup_mudata(mdata, use_rep={"rna": "X_pca"}, time_key="time")
    model = muport.Velocity(mdata, hidden_dim=8, n_latent=3)
    model.train(n_steps=5, n_bootstrap=2, window_size=9, **QUIET)
    return model


MODELS = {"Integration": integration, "GMM": gmm, "Velocity": velocity}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.promise("A copied model is another model with the same answers")
@pytest.mark.parametrize("fit", MODELS.values(), ids=MODELS)
def test_a_model_on_a_mudata_is_copied(fit, record_property):
    model = fit(cells())
    answer, manager = model.get_latent_representation(), model.adata_manager
    for how in COPIES.values():
        copied = how(model)
        assert type(copied.adata) is MuData
        assert copied.adata is not model.adata
        assert copied.adata_manager.adata is copied.adata
        assert copied.adata_manager is not manager
        np.testing.assert_array_equal(copied.get_latent_representation(), answer)
        codes = [one.get_from_registry(one.adata, one.adata_manager.fields[0].registry_key) for one in (model, copied)]
        np.testing.assert_array_equal(*codes)
        copied.adata["rna"].obsm["X_pca"][:] = 0
        np.testing.assert_array_equal(model.get_latent_representation(), answer)
    assert model.adata_manager is manager
    assert manager.adata is model.adata
    record_property("tries", 2 * len(COPIES))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", [*COPIES.values(), copy.copy], ids=[*COPIES, "copy"])
def test_copies_keep_tables_queries_and_untrained_models(fake, mdata, how):
    mdata.obs["note"], mdata.uns["u"] = np.arange(mdata.n_obs), {"a": [1]}
    mdata.obsm["X_all"] = np.ones((mdata.n_obs, 2))
    fake.setup_mudata(mdata, use_rep="X_own", shared_rep="X_shared", labels_key="cell_type")
    model = fake(mdata)
    copied = how(model)
    assert repr(copied) == repr(model)
    assert copied.id != model.id
    assert list(copied.adata.obs["note"]) == list(mdata.obs["note"])
    assert copied.adata.uns["u"] == {"a": [1]}
    assert np.array_equal(copied.adata.obsm["X_all"], mdata.obsm["X_all"])
    copied.train()
    assert (copied.is_trained_, model.is_trained_) == (True, False)
    query = mdata[mdata.obs_names[:20]]
    described = how(fake.load_query_data(query, copied))
    assert np.array_equal(described.get_latent_representation(), copied.get_latent_representation(query))


@pytest.mark.filterwarnings("ignore")
def test_a_model_on_a_file_is_not_copied(fake, mdata, tmp_path):
    mdata.write(tmp_path / "cells.h5mu")
    backed = read_h5mu(tmp_path / "cells.h5mu", backed="r")
    fake.setup_mudata(backed, use_rep="X_own", shared_rep="X_shared")
    for how in COPIES.values():
        with pytest.raises(TypeError, match=r"backed by a file.*model\.save\(\)"):
            how(fake(backed))
