"""What the registry of a set-up says, and how data of later calls are written by it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Setup
from muport.data.registration._fields import columns_of, fields_of, modalities_of

ARGS = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "labels_key": "cell_type", "shared_rep": "X_shared"}


def registry_of(cls, data, **arguments):
    setup = cls.setup_anndata if isinstance(data, AnnData) else cls.setup_mudata
    setup(data, **arguments)
    return cls(data).registry_


def test_modalities_and_columns_of_a_registry(fake, mdata):
    mdata["atac"].obsm["X_own"] = pd.DataFrame(mdata["atac"].obsm["X_own"], mdata["atac"].obs_names, list("xyz"))
    named = MuData({"r.n:a+%": mdata["rna"], "atac": mdata["atac"]})
    registry = registry_of(
        fake, named, use_rep={"r.n:a+%": "X_shared", "atac": "X_own"}, shared_rep="X_shared", labels_key=None
    )
    assert modalities_of(registry) == ("r.n:a+%", "atac")
    assert columns_of(registry) == {
        ("r.n:a+%", "X_shared"): [0, 1, 2, 3],
        ("atac", "X_shared"): [0, 1, 2, 3],
        ("atac", "X_own"): ["x", "y", "z"],
    }


def test_fields_in_the_order_of_the_model(mdata, adata):
    setup = Setup(**ARGS)
    assert [field.registry_key for field in fields_of(mdata, setup)] == [
        "rep_rna", "rep_atac", "own_rna", "own_atac", "batch", "labels",
    ]  # fmt: skip
    assert [field.registry_key for field in fields_of(mdata, setup, ["atac", "rna"])][:3] == [
        "rep_atac", "rep_rna", "own_rna",
    ]  # fmt: skip
    fields = fields_of(adata, Setup("X_pca", time_key="day", sample_key="donor", weight_key="w", spatial_key="s"))
    assert [field.registry_key for field in fields] == [
        "rep_adata", "batch", "labels", "sample", "spatial", "time", "weight",
    ]  # fmt: skip
    adata.obsm["X_pca"] = np.asfortranarray(adata.obsm["X_pca"])
    before = adata.obsm["X_pca"]
    single = MuData({"rna": adata})
    for data, field in ((adata, fields[0]), (single, fields_of(single, Setup({"rna": "X_pca"}))[0])):
        field.register_field(data)
    assert adata.obsm["X_pca"] is before, "the array of the user stays"


@pytest.mark.parametrize("joint", [False, True])
def test_new_data_of_another_width_are_refused(fake, mdata, adata, joint):
    data, args = (mdata, ARGS) if joint else (adata, {"use_rep": "X_pca"})
    registry = registry_of(fake, data, **args)
    new = data.copy()
    part, key = (new["rna"], "X_own") if joint else (new, "X_pca")
    part.obsm[key] = part.obsm[key][:, :3]
    setup = fake.setup_mudata if joint else fake.setup_anndata
    with pytest.raises(ValueError, match=rf"obsm\['{key}'\] .*has 3 coordinates, but the model has 5"):
        setup(new, source_registry=registry, **args)


def test_new_data_keep_the_column_names_of_the_model(fake, adata):
    adata.obsm["X_pca"] = pd.DataFrame(adata.obsm["X_pca"], index=adata.obs_names, columns=list("vwxyz"))
    registry = registry_of(fake, adata)
    new = adata.copy()
    new.obsm["X_pca"] = new.obsm["X_pca"][list("zyxwv")]
    fake.setup_anndata(new, source_registry=registry)
    assert columns_of(fake(new).registry_) == {("adata", "X_pca"): list("vwxyz")}


def test_codes_of_batches_and_labels(fake, adata):
    adata.obs["cell_type"] = pd.Categorical(["B", "none", None, "A"] * 10, categories=["unused", "none", "B", "A"])
    registry = registry_of(fake, adata, batch_key=None, labels_key="cell_type", unlabeled_category="none")
    assert set(adata.obs["_scvi_batch"]) == {0}
    assert adata.obs["_scvi_labels"].tolist() == [1, 2, 2, 0] * 10
    batch, labels = (registry["field_registries"][key]["state_registry"] for key in ("batch", "labels"))
    assert list(batch["categorical_mapping"]) == ["all"]
    assert list(labels["categorical_mapping"]) == ["A", "B", "none"]
    assert labels["categorical_mapping"].dtype == object
    assert (labels["original_key"], labels["unlabeled_category"]) == ("cell_type", "none")
    new = adata.copy()
    new.obs["cell_type"] = ["A", None] * 20
    fake.setup_anndata(new, batch_key=None, labels_key="cell_type", unlabeled_category="none", source_registry=registry)
    assert new.obs["_scvi_labels"].tolist() == [0, 2] * 20


def test_new_data_need_their_batches(fake, adata):
    registry = registry_of(fake, adata, labels_key="cell_type")
    new = adata.copy()
    new.obs["batch"] = np.arange(40) % 2
    registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"] = np.array(["0.0", "1.0"], object)
    fake.setup_anndata(new, labels_key="cell_type", source_registry=registry)
    assert new.obs["_scvi_batch"].tolist() == [0, 1] * 20, "another spelling is the same batch"
    del new.obs["batch"]
    with pytest.raises(KeyError, match="batch"):
        fake.setup_anndata(new, labels_key="cell_type", source_registry=registry)


def test_a_label_column_that_does_not_exist_is_refused_first(fake, adata):
    with pytest.raises(KeyError, match="kind"):
        fake.setup_anndata(adata, labels_key="kind")
    with pytest.raises(KeyError, match="kind"):
        fields_of(adata, Setup("X_pca", labels_key="kind"))[2].register_field(adata)


def test_only_labels_may_be_absent_on_transfer(adata):
    adata.obs["donor"], adata.obs["day"] = adata.obs["batch"], 1.0
    setup = Setup("X_pca", labels_key="cell_type", sample_key="donor", time_key="day")
    fields = {field.registry_key: field for field in fields_of(adata, setup)}
    states = {key: field.register_field(adata) for key, field in fields.items()}
    names = {"batch": "batch", "sample": "donor", "time": "day"}
    for key, column in names.items():
        without = adata.copy()
        del without.obs[column]
        with pytest.raises(KeyError, match=column):
            fields[key].transfer_field(states[key], without)
    del adata.obs["cell_type"]
    fields["labels"].transfer_field(states["labels"], adata)
    assert set(adata.obs["_scvi_labels"]) == {2}
