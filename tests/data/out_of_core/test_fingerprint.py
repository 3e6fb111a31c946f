"""Every value counts, whatever holds it and however it is read."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from muport.data.out_of_core._cell_chunks import open_chunks
from muport.data.out_of_core._fingerprint import HashedRows, changes, describe_columns


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(np.zeros((50, 1), np.float32), obsm={"X_pca": rng.normal(size=(50, 3)).astype(np.float32)})
    adata.obs_names = [f"c{i}" for i in range(50)]
    adata.obs["batch"] = [f"b{i % 3}" for i in range(50)]
    adata.obs["type"] = [f"t{i % 2}" for i in range(50)]
    return adata


def fingerprint(data, step=7, **kwargs):
    chunks = open_chunks(data, "X_pca", "batch", "type", **kwargs)
    return describe_columns(chunks, names=True) | {"coordinates": HashedRows(chunks, step).digest()}


def test_what_holds_the_cells_does_not_matter(cells, tmp_path):
    expected = fingerprint(cells)
    cells.write_h5ad(tmp_path / "a.h5ad")
    cells.write_zarr(tmp_path / "a.zarr")
    categories = cells.copy()
    categories.obs["batch"] = pd.Categorical(cells.obs["batch"], categories=["b1", "b0", "b2"])
    for data in (tmp_path / "a.h5ad", tmp_path / "a.zarr", anndata.read_h5ad(tmp_path / "a.h5ad", "r"), categories):
        assert fingerprint(data, step=11) == expected


@pytest.mark.promise("A result on disk is returned only for the very same cells, arguments and version")
def test_every_value_counts(cells, record_property):
    expected = fingerprint(cells)
    rng = np.random.default_rng(1)
    for row, column in zip(rng.integers(50, size=20), rng.integers(3, size=20), strict=True):
        changed = cells.copy()
        changed.obsm["X_pca"][row, column] = np.nextafter(changed.obsm["X_pca"][row, column], np.float32(9))
        found = fingerprint(changed)
        assert changes(expected, found) == "the coordinates of the cells differ"
    for key, name in (("batch", "batches"), ("type", "labels")):
        for row in rng.integers(50, size=5):
            changed = cells.copy()
            values = changed.obs[key].to_numpy(dtype=object)
            values[row] = "other"
            changed.obs[key] = values
            assert changes(expected, fingerprint(changed)) == f"the {name} of the cells differ"
    changed = cells.copy()
    changed.obs_names = [*cells.obs_names[:-1], "d"]
    assert changes(expected, fingerprint(changed)) == "the names of the cells differ"
    assert "coordinates" in changes(expected, fingerprint(cells, modality="atac"))
    record_property("tries", 32)


def test_rows_that_a_reader_leaves_out_are_hashed(cells):
    chunks = open_chunks(cells, "X_pca", "batch")
    rows = HashedRows(chunks, 4)
    assert np.array_equal(rows.read(10, 20), cells.obsm["X_pca"][10:20])
    rows.read(33, 35)
    assert rows.digest() == rows.digest() == HashedRows(chunks, 50).digest()


def test_names_are_not_joined_by_chance(cells):
    first, second = cells.copy(), cells.copy()
    first.obs["batch"], second.obs["batch"] = ["a", "b|c"] * 25, ["a|b", "c"] * 25
    assert fingerprint(first)["batch"] != fingerprint(second)["batch"]


def test_changes_are_told_by_name_and_value():
    assert changes({"strength": 0.5, "version": "1"}, {"strength": 0.3, "version": "1", "new": 1}) == (
        "strength was 0.5 and is 0.3"
    )
    assert changes({"device": ["cpu"]}, {"device": ("cpu",)}) == ""
