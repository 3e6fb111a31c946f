"""Covariates of cells on disk and in memory are the same numbers, whatever their type and place."""

from __future__ import annotations

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest

from muport.data.out_of_core._cell_chunks import open_chunks

N = 12
VALUES = np.arange(N) % 5 * 1.0


def cells(depth, prefix="c"):
    adata = anndata.AnnData(np.zeros((N, 1), np.float32), obsm={"X_pca": np.ones((N, 2), np.float32)})
    adata.obs_names = [f"{prefix}{i}" for i in range(N)]
    adata.obs["batch"], adata.obs["site"] = ["a", "b"] * (N // 2), ["x", "x", "y"] * (N // 3)
    adata.obs["depth"] = depth
    return adata


def opened(data):
    return open_chunks(data, "X_pca", ["batch", "site"], covariate_keys=["depth"])


@pytest.mark.parametrize(
    "how",
    {
        "floats": lambda: VALUES,
        "float32": lambda: VALUES.astype("float32"),
        "nullable": lambda: pd.array(VALUES.astype(int), dtype="Int64"),
        "text": lambda: VALUES.astype(str),
        "categories": lambda: pd.Categorical(VALUES),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("suffix", [None, ".h5ad", ".zarr"])
def test_every_type_gives_the_same_numbers(how, suffix, tmp_path):
    data = cells(how[1]())
    if suffix is not None:
        getattr(data, f"write_{suffix[1:] if suffix == '.h5ad' else 'zarr'}")(tmp_path / f"cells{suffix}")
        data = tmp_path / f"cells{suffix}"
    chunks = opened(data)
    assert np.allclose(chunks.read_covariates(3, 9)[:, 0], VALUES[3:9])
    window = chunks.window(4, 8)
    assert np.allclose(window.read_covariates(5, 8)[:, 0], VALUES[5:8])
    assert [chunks.batch.names[code] for code in chunks.codes(0, 3)] == ["a|x", "b|x", "a|y"]
    assert np.array_equal(window.codes(5, 8), chunks.codes(5, 8))


def test_numbers_of_a_modality_are_matched_by_name():
    rna, atac = cells(VALUES), cells(VALUES + 7, prefix="d")
    del atac.obsm["X_pca"]
    mdata = mudata.MuData({"rna": rna, "atac": atac})
    mdata.obs["batch"], mdata.obs["site"] = "a", "x"
    mdata.obs["depth"] = [VALUES[int(name[1:])] if name[0] == "c" else 99.0 for name in mdata.obs_names]
    mdata.obs.loc["c4", "depth"] = np.nan
    chunks = opened(mdata)
    # the modality fills the gap of the object
    assert np.allclose(chunks.read_covariates(0, N)[:, 0], VALUES)


def test_the_signature_depends_on_every_value():
    first, second = cells(VALUES), cells(VALUES)
    second.obs.iloc[7, second.obs.columns.get_loc("depth")] += 1
    assert opened(first).covariates.signature(N) != opened(second).covariates.signature(N)
