"""A column of a file is the column that the models read from memory: by the same rule, and by cell name."""

from __future__ import annotations

import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest

from muport.data import Setup, read_rows
from muport.data.out_of_core._cell_chunks import open_chunks


def named(codes, names):
    return [None if code < 0 else names[code] for code in codes]


def modality(prefix, n):
    adata = anndata.AnnData(np.zeros((n, 1), np.float32), obsm={"X_pca": np.ones((n, 2), np.float32)})
    adata.obs_names = [f"{prefix}{i}" for i in range(n)]
    return adata


COLUMNS = {
    "text": np.array(["NA", "nan", "", "UNK", "unknown", "T"] * 2, dtype=object),
    "float32": np.array([0.1, np.nan, 2] * 4, np.float32),
    "truth": np.array([True, False] * 6),
    "nullable": pd.array([1, None, 2] * 4, dtype="Int64"),
    "categories": pd.Categorical([None, "T", "B"] * 4, categories=["unused", "T", "B"]),
    "categories of numbers": pd.Categorical([10, 9, None] * 4),
}


@pytest.mark.promise("Each kind of array or column gives the same result")
@pytest.mark.parametrize("key", COLUMNS)
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_file_reads_as_memory_and_as_the_models_read_it(tmp_path, key, suffix):
    adata = modality("c", 12)
    adata.obs["batch"] = "b"
    adata.obs[key] = COLUMNS[key]
    rows = read_rows(adata, Setup("X_pca", labels_key=key))
    getattr(adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
    for data in (adata, tmp_path / f"a.{suffix}"):
        label = open_chunks(data, "X_pca", "batch", key).label
        assert named(label.codes(0, 12), label.names) == named(rows.label, rows.labels)


@pytest.fixture
def mdata():
    mods = {"rna": modality("r", 8), "atac": modality("a", 5)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData(mods)
    mdata.obs["batch"] = [f"b{i % 3}" for i in range(13)]
    return mdata


def as_models_read(mdata):
    batch = read_rows(mdata, Setup(None, shared_rep="X_pca"))
    names = pd.Series(named(batch.batch, batch.batches), index=batch.obs_names[batch.cell])
    return names[mdata["rna"].obs_names].tolist()


def assert_all_read_the_same(mdata, path):
    expected = as_models_read(mdata)
    mdata.write(path)
    for data in (mdata, path):
        batch = open_chunks(data, "X_pca", "batch", modality="rna").batch
        assert named(batch.codes(0, 8), batch.names) == expected
    return expected


@pytest.mark.promise("Rows in another order give the same answer")
def test_a_reordered_modality_is_matched_by_name(mdata, tmp_path):
    mdata.mod["rna"] = mdata.mod["rna"][[3, 1, 2, 0, 7, 6, 5, 4]].copy()
    assert assert_all_read_the_same(mdata, tmp_path / "a.h5mu")[:3] == ["b0", "b1", "b2"]
    del mdata.mod["atac"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata.update()
    assert_all_read_the_same(mdata, tmp_path / "b.h5mu")


def test_the_object_comes_first_and_the_modality_fills_its_gaps(mdata, tmp_path):
    mdata["rna"].obs["batch"] = "rna only"
    mdata.obs.loc[["r2", "r5"], "batch"] = None
    assert assert_all_read_the_same(mdata, tmp_path / "a.h5mu")[1:4] == ["b1", "rna only", "b0"]


def test_the_codes_of_an_old_h5ad_are_not_its_values(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["obsm/X_pca"] = np.ones((3, 2), np.float32)
        obs = file.create_group("obs")
        obs.attrs["_index"] = "index"
        obs["index"] = ["c0", "c1", "c2"]
        obs["__categories/batch"] = ["late", "early"]
        obs["batch"] = np.array([1, 0, 1], np.int8)
        obs["batch"].attrs["categories"] = obs["__categories/batch"].ref
    batch = open_chunks(tmp_path / "a.h5ad", "X_pca", "batch").batch
    assert named(batch.codes(0, 3), batch.names) == ["early", "late", "early"]
