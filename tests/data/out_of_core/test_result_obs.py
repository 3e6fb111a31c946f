"""The columns of the cells are copied beside a result as they are."""

from __future__ import annotations

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

from muport.data.out_of_core import _result_obs
from muport.data.out_of_core._disk_arrays import open_root
from muport.data.out_of_core._result_obs import add_obs, read_obs


@pytest.fixture
def cells() -> anndata.AnnData:
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", "a", None, "b", "a"], categories=["a", "b", "none"], ordered=True),
            "text": ["x", "y", "é", "", "z"],
            "number": np.arange(5) / 2,
            "count": pd.array([1, None, 3, 4, 5], dtype="Int64"),
        },
        index=pd.Index([f"c{i}" for i in range(5)], name="barcode"),
    )
    return anndata.AnnData(np.zeros((5, 2), np.float32), obs=obs)


@pytest.fixture
def result(tmp_path):
    root = zarr.open_group(tmp_path / "out.zarr", mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return tmp_path / "out.zarr"


def assert_same(result, cells) -> None:
    found = anndata.read_zarr(result)
    pd.testing.assert_frame_equal(found.obs, cells.obs, check_dtype=False, check_column_type=False)
    assert found.obs["kind"].cat.ordered
    assert found.obs.index.name == cells.obs.index.name
    assert found.n_vars == 0
    attributes = dict(zarr.open_group(result, mode="r")["var"].attrs)
    assert attributes == {
        "encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index", "column-order": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "block"),
    [("h5ad", 1), ("h5ad", 2), ("h5ad", 100), ("h5mu", 2), ("zarr 2", 2), ("zarr 3", 2), ("memory", 2)],
)
def test_columns_are_copied_in_blocks(tmp_path, result, cells, monkeypatch, kind, block):
    monkeypatch.setattr(_result_obs, "_BLOCK", block)
    path, modality = tmp_path / f"a.{kind.split()[0]}", None
    if kind == "h5mu":
        modality = "rna"
        mudata.MuData({"rna": cells}).write(path)
    elif kind != "memory":
        with anndata.settings.override(zarr_write_format=int(kind[-1]) if "zarr" in kind else 3):
            getattr(cells, f"write_{kind.split()[0]}")(path)
    for _ in range(2):  # an interrupted call may have written them
        add_obs(result, cells.obs if kind == "memory" else None, str(path), modality)
        assert_same(result, cells)
    if kind in ("h5ad", "h5mu"):
        assert zarr.open_group(result, mode="r")["obs/number"].chunks == (min(block, 5),)


def test_without_a_source_there_is_only_var(result):
    add_obs(result, None)
    assert sorted(zarr.open_group(result, mode="r").group_keys()) == ["var"]


def test_the_obs_of_a_file(tmp_path, cells):
    cells.write_h5ad(tmp_path / "a.h5ad")
    mudata.MuData({"rna": cells}).write(tmp_path / "a.h5mu")
    for path, modality in (("a.h5ad", None), ("a.h5mu", "rna")):
        found = read_obs(str(tmp_path / path), modality)
        pd.testing.assert_frame_equal(found, cells.obs, check_dtype=False, check_column_type=False)


def test_attributes_that_zarr_cannot_hold_are_left_out(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(2)
        values = {
            "text": "a", "bytes": np.bytes_(b"b"), "number": np.int8(3), "float": 0.5, "truth": np.bool_(True),
            "list": np.array([1, 2]), "texts": np.array(["c", "d"], dtype=h5py.string_dtype()),
            "texts in bytes": np.array([b"e"]), "reference": file["x"].ref, "empty": h5py.Empty("f"),
        }  # fmt: skip
        file.attrs.update(values)
    found = _result_obs._plain(open_root(str(tmp_path / "a.h5")).attrs)
    assert found == {
        "text": "a", "number": 3, "float": 0.5, "truth": True, "list": [1, 2], "texts": ["c", "d"],
        "texts in bytes": ["e"],
    }  # fmt: skip
    assert type(found["truth"]) is bool
