"""The base on its own, shown with the smallest model; what every model must do stands in tests/contract."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse

ARGS = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "cell_type", "shared_rep": "X_shared"}


@pytest.fixture
def model(fake, mdata):
    fake.setup_mudata(mdata, **ARGS)
    model = fake(mdata, strength=0.5)
    model.train()
    return model


def test_registry_tells_the_setup(model, mdata):
    assert model.registry_["setup_args"] == {
        **ARGS,
        "batch_key": "batch",
        "unlabeled_category": "unknown",
        "paired": None,
    }
    stats = model.summary_stats
    assert (stats.n_batch, stats.n_labels, stats.n_rep_rna, stats.n_own_atac) == (3, 4, 4, 3)
    codes = model.get_from_registry(mdata, "batch").ravel()
    names = np.array(["b0", "b1", "b2"])[codes]
    assert (names[mdata.obs_names.get_indexer(mdata["atac"].obs_names)] == mdata["atac"].obs["batch"]).all()
    labels = pd.Series(model.get_from_registry(mdata, "labels").ravel(), index=mdata.obs_names)
    mapping = model.adata_manager.get_state_registry("labels").categorical_mapping
    assert list(mapping) == ["t0", "t1", "t2", "unknown"]
    assert (mapping[labels[mdata["rna"].obs_names]] == mdata["rna"].obs["cell_type"]).all()
    assert (labels[["a0", "a1"]] == 3).all()


def test_setup_writes_codes_and_nothing_else(fake, mdata):
    fake.setup_mudata(mdata, **ARGS)
    assert list(mdata.obs.columns) == ["_scvi_batch", "_scvi_labels"]
    assert list(mdata["rna"].obs.columns) == ["batch", "cell_type"]
    assert mdata["rna"].obsm["X_own"].dtype == np.float64


def test_setup_reports_the_counts(fake, mdata, caplog, monkeypatch):
    # import-linter, which another test runs in this process, switches off the loggers it finds
    monkeypatch.setattr(logging.getLogger("muport"), "disabled", False)
    with caplog.at_level(logging.INFO, logger="muport"):
        fake.setup_mudata(mdata, **ARGS)
    assert "49 cells (rna 30, atac 20; 1 in more than one)" in caplog.text


def test_union_dataset_matches_by_name_and_masks(model, mdata):
    mdata.mod["rna"] = mdata.mod["rna"][::-1].copy()
    item = model.adata_manager.create_torch_dataset()[np.arange(49)]
    here = mdata.obs_names.isin(mdata["rna"].obs_names)
    assert item["rep_rna_mask"].numpy().tolist() == here.tolist()
    expected = pd.DataFrame(mdata["rna"].obsm["X_shared"], index=mdata["rna"].obs_names)
    assert (item["rep_rna"].numpy()[here] == expected.loc[mdata.obs_names[here]].to_numpy()).all()
    assert (item["rep_rna"].numpy()[~here] == 0).all()
    assert item["batch"].dtype == torch.int64
    assert len(model.adata_manager.create_torch_dataset(indices=[3, 4])) == 2


@pytest.mark.parametrize("kind", [sparse.csr_matrix, pd.DataFrame])
def test_other_arrays_pass_through_setup_save_and_load(fake, adata, tmp_path, kind):
    names = {"index": adata.obs_names, "columns": list("vwxyz")} if kind is pd.DataFrame else {}
    adata.obsm["X_pca"] = kind(adata.obsm["X_pca"], **names)
    fake.setup_anndata(adata)
    model = fake(adata)
    model.train()
    model.save(tmp_path / "m")
    again = fake.load(tmp_path / "m", adata=adata.copy())
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert isinstance(adata.obsm["X_pca"], kind)


def test_state_settings_and_history_survive(fake, model, tmp_path):
    model.save(tmp_path / "m")
    again = fake.load(tmp_path / "m", adata=False)
    assert again.is_trained_
    assert again.settings_ == {"max_iter": 1}
    assert again.strength == 0.5
    assert again.history_["loss"]["loss"].tolist() == [0.5, 0.25]
    assert again.history_["loss"].index.name == "epoch"
    assert again.state_.groups == model.state_.groups
    assert np.isnan(again.state_.shift)
    assert np.array_equal(again.state_.levels["rna:b0"].mean, model.state_.levels["rna:b0"].mean)
    again.save(tmp_path / "n")
    assert (tmp_path / "n" / "model.safetensors").read_bytes() == (tmp_path / "m" / "model.safetensors").read_bytes()


def test_an_untrained_model_is_saved_as_such(fake, mdata, tmp_path):
    fake.setup_mudata(mdata, **ARGS)
    fake(mdata).save(tmp_path / "m")
    again = fake.load(tmp_path / "m", adata=mdata)
    assert not again.is_trained_
    with pytest.raises(AttributeError, match="not trained"):
        again.get_latent_representation()


def test_saving_data_leaves_text_columns_and_the_original_in_place(fake, model, mdata, tmp_path):
    before = mdata["rna"].obs.dtypes.astype(str).to_dict()
    model.save(tmp_path / "m", save_anndata=True)
    assert mdata["rna"].obs.dtypes.astype(str).to_dict() == before
    again = fake.load(tmp_path / "m")
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert fake(mdata) is not None, "the copy did not take the place of the original"


def test_load_without_saved_data_warns_and_says_so_later(fake, model, tmp_path):
    model.save(tmp_path / "m")
    with pytest.warns(UserWarning, match="without data"):
        again = fake.load(tmp_path / "m")
    with pytest.raises(ValueError, match="loaded without data"):
        again.get_latent_representation()
    with pytest.raises(ValueError, match="loaded without data"):
        again.save(tmp_path / "n", save_anndata=True)
    assert not (tmp_path / "n").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fake.load(tmp_path / "m", adata=False)


def test_overwriting_without_data_does_not_bring_back_the_old_data(fake, model, tmp_path):
    model.save(tmp_path / "m", save_anndata=True)
    model.save(tmp_path / "m", overwrite=True)
    with pytest.warns(UserWarning, match="without data"):
        assert fake.load(tmp_path / "m").adata is None


def test_load_refuses_what_does_not_fit(fake, model, mdata, adata, tmp_path):
    model.save(tmp_path / "m")
    with pytest.raises(TypeError, match=r"setup_mudata.*AnnData"):
        fake.load(tmp_path / "m", adata=adata)
    new = mdata.copy()
    new["atac"].obs["batch"] = "b9"
    with pytest.raises(ValueError, match=r"batch.*b9.*map_query"):
        fake.load(tmp_path / "m", adata=new[new.obs_names != "shared0"].copy())
    other = type("Other", (fake,), {})
    with pytest.raises(ValueError, match="holds a Fake, not a Other"):
        other.load(tmp_path / "m")
    with pytest.raises(ValueError, match="already exists"):
        model.save(tmp_path / "m")


def test_parameters_of_another_version_are_named(fake, model, tmp_path):
    model.init_params_["non_kwargs"]["temperature"] = 3
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="temperature"):
        fake.load(tmp_path / "m", adata=False)


def test_queries_of_one_modality_and_new_batches(fake, model, mdata):
    rna = MuData({"rna": mdata["rna"].copy()})
    rna["rna"].obs["batch"] = "new"
    del rna["rna"].obs["cell_type"]
    assert model.map_query(rna).shape == (30, 4)
    assert "_scvi_batch" not in rna.obs
