"""The base on its own, shown with the smallest model; what every model must do stands in tests/contract."""

from __future__ import annotations

import json
import logging
import platform
import sys
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scipy import sparse
from sklearn.exceptions import NotFittedError

from muport.data import _base_model, _model_files

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


def test_the_device_is_one(fake):
    assert fake._device("cpu", "auto") == torch.device("cpu")
    assert isinstance(fake._device("auto", "auto"), torch.device)
    with pytest.raises(ValueError, match="Only a single device"):
        fake._device("cpu", "0,1")


def test_an_untrained_model_has_a_device_and_nothing_else(fake, mdata, capsys):
    fake.setup_mudata(mdata, **ARGS)
    model = fake(mdata)
    assert model.module.device == torch.device("cpu")
    assert not list(model.module.parameters())
    assert not model.module.state_dict()
    assert model.state_ is None
    assert model.settings_ == model.metrics_ == {}
    print(model)
    assert "muport.Fake, Not Trained" in capsys.readouterr().out
    with pytest.raises(NotFittedError, match=r"this Fake is not trained: call train\(\) first"):
        model._fitted()


def test_two_models_in_one_folder_have_prefixes(fake, model, mdata, tmp_path, capsys):
    model.save(tmp_path / "m", prefix="one_", save_anndata=True, compression="gzip")
    untrained = fake(mdata)
    untrained.save(tmp_path / "m", prefix="two_", overwrite=True)
    one = fake.load(tmp_path / "m", prefix="one_")
    assert one.is_trained_
    assert not one.module.training
    assert np.array_equal(one.get_latent_representation(), model.get_latent_representation())
    with h5py.File(tmp_path / "m" / "one_mdata.h5mu") as file:
        assert file["mod/rna/X"].compression == "gzip"
    two = fake.load(tmp_path / "m", adata=False, prefix="two_")
    assert not two.is_trained_
    assert two.adata is None
    registry = fake.load_registry(tmp_path / "m", "one_")
    assert registry["setup_args"] == model.registry_["setup_args"]
    assert registry["setup_method_name"] == "setup_mudata"
    fake.view_setup_args(tmp_path / "m", "two_")
    assert "labels_key" in capsys.readouterr().out
    for read in (fake.load, fake.load_registry, fake.view_setup_args):
        with pytest.raises(FileNotFoundError, match="no saved model with prefix='three_'"):
            read(tmp_path / "m", prefix="three_")
        with pytest.raises(FileNotFoundError, match="no saved model with prefix=''"):
            read(tmp_path / "m")


def test_what_is_saved_beside_the_state(fake, model, tmp_path):
    model.metrics_ = {"score": 0.5}
    model.not_saved_ = 3
    model.save(tmp_path / "m")
    document = json.loads((tmp_path / "m" / "model.json").read_text())
    assert document["class"] == "Fake"
    assert document["init_params"] == {"strength": 0.5}
    assert document["versions"].keys() == {
        "python", "muport", "scvi-tools", "anndata", "mudata", "numpy", "torch", "safetensors",
    }  # fmt: skip
    assert document["versions"]["numpy"] == np.__version__
    assert document["versions"]["python"] == platform.python_version()
    assert fake.load(tmp_path / "m", adata=False).metrics_ == {"score": 0.5}


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(_base_model, "_PACKAGES", ("numpy", "no such package"))
    assert _base_model._versions()["no such package"] == "unknown"


def signed(folder, **changes):
    """Change the document of a model, and sign it again."""
    document = {**json.loads((folder / "model.json").read_text()), **changes}
    document.pop("checksum")
    (folder / "model.json").write_text(json.dumps({**document, "checksum": _model_files._checksum(document)}))


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_document_of_another_form_is_refused(fake, model, tmp_path):
    model.save(tmp_path / "m")
    whole = json.loads((tmp_path / "m" / "model.json").read_text())
    changes = [
        ({"attributes": [1]}, r"\['attributes'\] of the saved model are not dicts"),
        ({"init_params": None, "registry": 3}, r"\['init_params', 'registry'\] of the saved model are not dicts"),
        ({"registry": {**whole["registry"], "setup_args": [1]}}, r"lacks \['setup_args'\]"),
        ({"registry": {}}, r"lacks \['setup_method_name', 'setup_args', 'field_registries'\]"),
        ({"state": {}}, "holds a dict, expected a Means"),
    ]
    for change, message in changes:
        signed(tmp_path / "m", **{**whole, **change})
        with pytest.raises(ValueError, match=rf"m' was changed or damaged after it was saved: .*{message}"):
            fake.load(tmp_path / "m", adata=False)
    signed(tmp_path / "m", **{**whole, "attributes": {**whole["attributes"], "train": 3, "module": 3}})
    again = fake.load(tmp_path / "m", adata=False)
    assert callable(again.train)
    assert isinstance(again.module, torch.nn.Module)


def test_known_names_and_modalities(model):
    assert model._modalities == ("rna", "atac")
    assert model._known_names == {"batch": ("b0", "b1", "b2"), "labels": ("t0", "t1", "t2", "unknown")}
    assert model._setup.labels_key == "cell_type"
    assert model._setup.shared_rep == "X_shared"


def test_defaults_of_the_class_are_part_of_the_setup(fake, mdata):
    own = type("Own", (fake,), {"_setup_defaults": {"separate": True, "batch_key": None}})
    own.setup_mudata(mdata, {"rna": "X_own", "atac": "X_own"})
    model = own(mdata)
    assert model._setup.separate
    assert model._setup.batch_key == "batch", "an argument comes before a default"
    assert model._rows().x.shape == (50, 0)
    assert model._rows(mdata).x.shape == (50, 0)


def test_columns_of_new_cells_are_asked_for_one_by_one(fake, adata):
    timed = sys.modules["fake_model"].Timed
    adata.obs["day"], adata.obs["donor"] = np.arange(40) % 3, [f"p{i % 4}" for i in range(40)]
    timed.setup_anndata(adata, batch_key="batch", time_key="day", sample_key="donor", labels_key="cell_type")
    model = timed(adata)
    columns = {"batch": "require_batch", "day": "require_time", "donor": "require_sample"}
    for column, argument in columns.items():
        new = adata[:10].copy()
        del new.obs[column]
        with pytest.raises(KeyError, match=column):
            model._rows(new)
        with pytest.raises(KeyError, match=column):
            model._rows(new, **dict.fromkeys(set(columns.values()) - {argument}, False))
        assert model._rows(new, **{argument: False}).n_cells == 10
    del adata.obs["cell_type"]
    assert (model._rows().label == -1).all()


def test_new_cells_get_the_names_and_columns_of_the_model(fake, adata):
    adata.obs["batch"] = np.arange(40) % 2
    adata.obsm["X_pca"] = pd.DataFrame(adata.obsm["X_pca"], index=adata.obs_names, columns=list("vwxyz"))
    fake.setup_anndata(adata)
    model = fake(adata)
    new = adata.copy()
    new.obs["batch"] = new.obs["batch"].astype(float).astype(str)
    new.obsm["X_pca"] = adata.obsm["X_pca"][list("zyxwv")]
    for rows in (model._rows(new), fake(None, registry=model.registry_)._rows(new)):
        assert rows.batches == ("0", "1")
        assert np.array_equal(rows.x, model._rows().x)
    model.adata.obsm["X_pca"] = new.obsm["X_pca"]
    model.adata.obs["batch"] = new.obs["batch"]
    assert np.array_equal(model._rows().x, rows.x)
    assert model._rows().batches == ("0", "1")


def test_methods_that_a_model_does_not_have_are_not_listed(fake, model):
    for name in ("convert_legacy_save", "differential_abundance", "get_normalized_expression"):
        for owner in (fake, model):
            assert not hasattr(owner, name)
            assert name not in dir(owner)
            with pytest.raises(NotImplementedError, match=f"Fake has no {name}: "):
                getattr(owner, name)
    assert {"load", "save", "train", "map_query"} <= set(dir(fake)) & set(dir(model))


@pytest.mark.parametrize("name", ["data", "adata", "mdata", "registry"])
def test_the_data_are_no_parameter_of_a_saved_model(model, tmp_path, name):
    model.init_params_["non_kwargs"][name] = None
    model.save(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "model.json").read_text())["init_params"] == {"strength": 0.5}


def test_query_cells_of_another_width_are_refused_at_once(model, fake, mdata):
    query = mdata.copy()
    query["rna"].obsm["X_shared"] = query["rna"].obsm["X_shared"][:, :3]
    with pytest.raises(ValueError, match=r"obsm\['X_shared'\] of 'rna' has 3 coordinates, but the model has 4"):
        fake.load_query_data(query, model)
