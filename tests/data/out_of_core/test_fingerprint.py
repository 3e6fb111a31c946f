"""Every value counts, whatever holds it and however it is read."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from muport.data.out_of_core import _fingerprint
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


def test_every_difference_is_told():
    before = {"coordinates": "a", "batch": "a", "label": None, "names": "a", "rows_together": 1, "seed": 0, "same": 1}
    now = {"seed": 1, "coordinates": "b", "batch": "b", "label": "b", "names": "b", "rows_together": 2, "same": 1}
    assert changes(before, now) == (
        "seed was 0 and is 1; the coordinates of the cells differ; the batches of the cells differ; the labels of the "
        "cells differ; the names of the cells differ; the chunks of the input differ"
    )


@pytest.mark.parametrize("block", [1, 7, 100])
def test_names_are_hashed_in_blocks(monkeypatch, cells, block):
    expected = fingerprint(cells)["names"]
    monkeypatch.setattr(_fingerprint, "_BLOCK", block)
    assert fingerprint(cells)["names"] == expected
    for row in (0, 24, 49):
        changed = cells.copy()
        changed.obs_names = [f"{name}x" if i == row else name for i, name in enumerate(cells.obs_names)]
        assert fingerprint(changed)["names"] != expected


def test_columns_that_are_not_described(cells):
    chunks = open_chunks(cells, "X_pca", "batch")
    assert describe_columns(chunks, names=False) == {**describe_columns(chunks, names=True), "names": None}
    assert describe_columns(chunks, names=True)["label"] is None
    assert describe_columns(chunks, names=True)["names"] is not None
    assert describe_columns(chunks.window(0, 50), names=True)["names"] is None


def test_rows_are_read_once_and_in_steps(cells):
    chunks, reads = open_chunks(cells, "X_pca", "batch"), []

    class Recorded:
        shape, unit = chunks.shape, chunks.unit

        def read(self, start, stop):
            reads.append((start, stop))
            return chunks.read(start, stop)

    rows = HashedRows(Recorded(), 20)
    assert np.array_equal(rows.read(3, 10), cells.obsm["X_pca"][3:10])
    assert rows.digest() == HashedRows(chunks, 50).digest()
    assert reads == [(0, 3), (3, 10), (10, 30), (30, 50)]
