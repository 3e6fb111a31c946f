"""A set-up is whole or leaves the object as it was, and the cells are loaded by name."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from muport.data import UnionDataset, UnionManager
from muport.data.registration import _manager

ARGS = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "cell_type", "shared_rep": "X_shared"}


def columns_written(data) -> list[str]:
    return sorted(column for column in data.obs.columns if column.startswith("_scvi"))


def test_arguments_that_do_not_exist_are_refused(fake, adata):
    with pytest.raises(TypeError, match=r"extend, more is no argument of Fake\.setup_anndata"):
        fake.setup_anndata(adata, extend=True, more=1)
    assert columns_written(adata) == []


def test_columns_that_a_class_needs(fake, adata):
    needs = type("Needs", (fake,), {"_required_columns": {"labels_key": "annotate the cells"}})
    with pytest.raises(TypeError, match=r"labels_key=None must be the name of a column: annotate the cells"):
        needs.setup_anndata(adata)
    needs.setup_anndata(adata, labels_key="cell_type")
    assert columns_written(adata) == ["_scvi_batch", "_scvi_labels"]


@pytest.mark.parametrize("warns", [True, False])
def test_only_a_first_setup_warns_of_far_cells(fake, adata, recwarn, warns):
    cls = type("Warns", (fake,), {"_warns_of_outliers": warns})
    adata.obsm["X_pca"][3] = 1e6
    cls.setup_anndata(adata)
    assert ["1 of 40 cells" in str(item.message) for item in recwarn] == [True] * warns
    recwarn.clear()
    cls.setup_anndata(adata.copy(), source_registry=cls(adata).registry_)
    assert len(recwarn) == 0


def test_a_view_in_a_modality_is_refused(fake, mdata):
    mdata.mod["atac"] = mdata["atac"][:]
    with pytest.raises(ValueError, match="modality 'atac' is a view.*in mdata.mod"):
        fake.setup_mudata(mdata, **ARGS)


def test_an_error_of_scvi_tools_undoes_what_was_written(fake, adata, monkeypatch, fingerprint):
    fake.setup_anndata(adata)
    adata.obs["_scvi_batch"] = "earlier"
    before = fingerprint(adata)

    def fail(self, data, **kwargs):
        data.obs["_scvi_batch"], data.obs["_scvi_more"] = 1, 2
        raise RuntimeError("no")

    monkeypatch.setattr(UnionManager, "register_fields", fail)
    with pytest.raises(RuntimeError, match="no"):
        fake.setup_anndata(adata)
    assert fingerprint(adata) == before


def test_new_data_may_extend_the_categories(fake, adata):
    fake.setup_anndata(adata, labels_key="cell_type")
    registry = fake(adata).registry_
    new = adata.copy()
    new.obs["batch"] = ["b1", "new"] * 20
    del new.obs["cell_type"]
    with pytest.raises(ValueError, match=r"column 'batch' holds \['new'\].*\['b0', 'b1'\].*map_query"):
        fake.setup_anndata(new, labels_key="cell_type", source_registry=registry)
    fake.setup_anndata(new, labels_key="cell_type", source_registry=registry, extend_categories=True)
    assert new.obs["_scvi_batch"].tolist() == [1, 2] * 20
    assert set(new.obs["_scvi_labels"]) == {2}, "no cell is labeled"
    assert list(fake(new).adata_manager.get_state_registry("batch").categorical_mapping) == ["b0", "b1", "new"]


def test_pairs_are_tested_unless_the_user_decides(fake, adata, monkeypatch):
    asked = []
    monkeypatch.setattr(_manager, "compare_pairs", lambda rows: asked.append("compared") or ())
    monkeypatch.setattr(_manager, "check_pairings", lambda pairings, *, concatenated: asked.append(concatenated))
    mdata = MuData({"rna": adata, "atac": AnnData(adata.X[:, :1], adata.obs, obsm=adata.obsm)})
    arguments = {"use_rep": None, "shared_rep": "X_pca"}
    fake.setup_mudata(mdata, paired=True, **arguments)
    assert asked == []
    fake.setup_mudata(mdata, **arguments)
    assert asked == ["compared", False]


def test_the_manager_is_that_of_the_class(fake, mdata, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("muport"), "disabled", False)
    with caplog.at_level(logging.INFO, logger="muport"):
        fake.setup_mudata(mdata, **ARGS)
    assert [record.getMessage() for record in caplog.records if record.name == "muport"] == [
        "Fake is set up: 49 cells (rna 30, atac 20; 1 in more than one), 3 batches, 30 cells in 3 labels."
    ]
    manager = fake(mdata).adata_manager
    assert type(manager) is UnionManager
    assert manager.adata is mdata
    assert manager.validation_checks.check_fully_paired_mudata is False
    assert type(manager.create_torch_dataset()) is UnionDataset


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, pd.DataFrame])
def test_cells_are_loaded_by_name(fake, mdata, kind):
    names = {"index": mdata["rna"].obs_names} if kind is pd.DataFrame else {}
    values = mdata["rna"].obsm["X_shared"]
    mdata["rna"].obsm["X_shared"] = kind(values, **names)
    fake.setup_mudata(mdata, **ARGS)
    manager = fake(mdata).adata_manager
    dataset = manager.create_torch_dataset(data_and_attributes={"rep_rna": np.float64, "batch": np.int64})
    position = mdata["rna"].obs_names.get_indexer(mdata.obs_names)
    for index in (3, 40, [3, 40, 29], np.arange(49)):
        item, cells = dataset[index], np.atleast_1d(index)
        assert item.keys() == {"rep_rna", "rep_rna_mask", "batch"}
        assert item["rep_rna"].dtype == torch.float64
        assert item["rep_rna_mask"].tolist() == (position[cells] >= 0).tolist()
        expected = np.where(position[cells, None] >= 0, values[position[cells]], 0)
        assert np.array_equal(item["rep_rna"].numpy(), expected)
        assert item["batch"].ravel().tolist() == mdata.obs["_scvi_batch"].iloc[cells].tolist()
    part = manager.create_torch_dataset([4, 2], ["batch"])
    assert len(part) == 2
    assert part[0].keys() == {"batch"}
    assert part[0]["batch"].item() == mdata.obs["_scvi_batch"].iloc[4]
    everything = manager.create_torch_dataset()[[0]]
    assert everything.keys() >= {"rep_rna", "rep_atac", "own_rna", "own_atac_mask", "labels"}
    assert everything["rep_rna"].dtype == torch.float32
