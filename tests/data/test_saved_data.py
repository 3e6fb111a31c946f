"""The cells that are saved with a model: the object of the user stays as it is, and a changed file is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from muport.data import _saved_data as _saved
from muport.data._durable_files import hash_file
from muport.data._saved_data import data_file_name, read_data, write_data


def test_the_name_tells_the_kind(mdata, adata):
    assert data_file_name(mdata) == "mdata.h5mu"
    assert data_file_name(adata) == "adata.h5ad"


@pytest.mark.promise("A call changes nothing in the data of the user that it was not asked to write")
def test_writing_leaves_text_columns_as_they_are(mdata, adata, fingerprint, tmp_path):
    mdata["rna"].var["text"], adata.var["text"] = [["x", "y"][i % 2] for i in range(6)], "same"
    for data in (mdata, adata):
        before = fingerprint(data)
        kinds = [frame.dtypes.tolist() for part in (data, mdata["rna"]) for frame in (part.obs, part.var)]
        path = tmp_path / data_file_name(data)
        write_data(data, path, {"compression": "gzip"})
        assert fingerprint(data) == before
        assert [frame.dtypes.tolist() for part in (data, mdata["rna"]) for frame in (part.obs, part.var)] == kinds
        again = read_data(path, hash_file(path))
        assert type(again) is type(data)
        assert again.obs_names.equals(data.obs_names)
        with h5py.File(path) as file:
            assert file["X" if data is adata else "mod/rna/X"].compression == "gzip"


def test_text_columns_come_back_after_a_failed_write(adata, tmp_path):
    adata.uns["no file holds this"] = object()
    kind = adata.obs["batch"].dtype
    with pytest.raises(Exception, match="object"):
        write_data(adata, tmp_path / "a.h5ad", {})
    assert adata.obs["batch"].dtype == kind


def test_the_copy_is_not_taken_for_the_original(adata, tmp_path):
    adata.uns.update({"_scvi_uuid": "1", "_scvi_manager_uuid": "2", "mine": "3"})
    write_data(adata, tmp_path / "a.h5ad", {})
    assert list(read_data(tmp_path / "a.h5ad", None).uns) == ["mine"]


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_missing_changed_and_foreign_files_are_refused(adata, tmp_path):
    path = tmp_path / "a.h5ad"
    with pytest.raises(FileNotFoundError, match=r"a\.h5ad.*adata=False"):
        read_data(path, None)
    write_data(adata, path, {})
    checksum = hash_file(path)
    assert read_data(path, None).n_obs == read_data(path, checksum).n_obs == 40
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"a\.h5ad.*does not match its checksum"):
        read_data(path, checksum)
    path.write_text("text")
    with pytest.raises(ValueError, match=r"a\.h5ad.*cannot be read"):
        read_data(path, None)


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["deep/numbers"] = np.zeros((5, 2))
        file["more"] = np.zeros(3, np.int16)
        file["single"] = np.float32(1)
        file["nothing"] = h5py.Empty("f")
    total = 80 + 6 + 4
    monkeypatch.setattr(_saved, "_MAX_EXPANSION", 0)
    for small, fits in ((total, True), (total - 1, False)):
        monkeypatch.setattr(_saved, "_SMALL", small)
        if fits:
            _saved._check_expansion(path)
        else:
            with pytest.raises(ValueError, match="would take 0.0 GB of memory"):
                _saved._check_expansion(path)
    monkeypatch.setattr(_saved, "_MAX_EXPANSION", 1)
    assert path.stat().st_size > total
    _saved._check_expansion(path)
