"""Files are opened by their names, and arrays in them where they are first read."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import zarr

from muport.data.out_of_core import _disk_arrays
from muport.data.out_of_core._disk_arrays import OnDisk, Window, choose_modality, is_url, open_root

ROWS = np.arange(60.0).reshape(20, 3)


@pytest.mark.parametrize("suffix", ["h5ad", "h5mu", "h5", "zarr"])
def test_rows_are_read_where_they_are_asked_for(tmp_path, suffix):
    path = str(tmp_path / f"a.{suffix}")
    if suffix == "zarr":
        zarr.open_group(path, mode="w").create_array("x", data=ROWS, chunks=(6, 3))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=ROWS, chunks=(6, 3))
            file["whole"] = ROWS
            file.create_group("group")
        assert OnDisk(path, "whole").step == 1
        assert OnDisk(path, "group").shape is OnDisk(path, "group").dtype is None
    array = OnDisk(path, "x")
    assert (array.shape, array.dtype, array.step) == ((20, 3), np.float64, 6)
    assert np.array_equal(array[3:9], ROWS[3:9])
    assert array.array is array.array
    sent = pickle.loads(pickle.dumps(array))
    assert (sent.path, sent.key, sent._opened) == (path, "x", None)
    assert np.array_equal(sent[3:9], ROWS[3:9])
    array.check_whole("x")


def test_shards_are_stored_together(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("x", data=ROWS, chunks=(2, 3), shards=(8, 3))
    assert OnDisk(str(tmp_path / "a.zarr"), "x").step == 8


def test_a_url_is_told_from_a_file(tmp_path, monkeypatch):
    assert is_url("https://host/a.h5ad")
    assert is_url("s3://bucket/a.zarr")
    assert not is_url("/folder/a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["x"] = ROWS
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("x", data=ROWS)
    assert np.array_equal(open_root(f"file://{tmp_path}/a.h5ad")["x"][:], ROWS)
    assert np.array_equal(open_root(f"file://{tmp_path}/a.zarr/")["x"][:], ROWS)
    opened = []
    monkeypatch.setattr(zarr, "open_group", lambda path, mode: opened.append((path, mode)))
    open_root("https://host/a.zarr?version=1.2")
    assert opened == [("https://host/a.zarr?version=1.2", "r")]
    OnDisk("https://host/a.zarr", "x").check_whole("x")
    assert len(opened) == 1, "pieces of a URL are not counted"


def test_files_are_opened_for_reading(tmp_path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["x"] = ROWS
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    assert open_root(str(tmp_path / "a.h5ad")).mode == "r"
    assert open_root(str(tmp_path / "a.zarr")).read_only


def test_missing_pieces_are_counted(tmp_path):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w")
    plain = root.create_array("plain", shape=(20, 3), chunks=(6, 2), dtype="float64")
    plain[:12] = 1
    shards = root.create_array("shards", shape=(20, 3), chunks=(2, 3), shards=(8, 3), dtype="float64")
    shards[:8] = 1
    path = str(tmp_path / "a.zarr")
    with pytest.warns(UserWarning, match="a name: 4 of its 8 chunks are not stored, so they read as zeros"):
        OnDisk(path, "plain").check_whole("a name")
    with pytest.raises(OSError, match="a name is damaged: 4 of its 8 chunks are not stored"):
        OnDisk(path, "plain").check_whole("a name", zeros=False)
    with pytest.raises(OSError, match="a name is damaged: 2 of its 3 shards are not stored"):
        OnDisk(path, "shards").check_whole("a name")
    shards[:] = 1
    OnDisk(path, "shards").check_whole("a name")
    assert [_disk_arrays._count(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_window_has_the_numbers_of_the_whole():
    assert np.array_equal(Window(ROWS[5:15], 5)[7:12], ROWS[7:12])


def test_the_modality_is_chosen():
    keys = {"rna": ["X_pca"], "atac": ["X_lsi", "X_pca"], "auto": []}
    assert choose_modality(keys, "rna", "X_lsi") == "rna"
    assert choose_modality(keys, "auto", "X_lsi") == "auto"
    del keys["auto"]
    assert choose_modality(keys, "auto", "X_lsi") == "atac"
    with pytest.raises(KeyError, match=r"modality='adt' does not exist; the modalities are \['rna', 'atac'\]"):
        choose_modality(keys, "adt", "X_lsi")
    with pytest.raises(KeyError, match=r"obsm_key='X' is in no modality; the keys are .*'atac': \['X_lsi', 'X_pca'\]"):
        choose_modality(keys, "auto", "X")
    with pytest.raises(ValueError, match=r"in the modalities \['rna', 'atac'\]: say which"):
        choose_modality(keys, "auto", "X_pca")
