"""Files are written whole or not at all, and nothing is replaced unasked."""

from __future__ import annotations

from pathlib import Path

import anndata
import mudata
import numpy as np
import pytest

from muport.cli import _data_files as _files
from muport.data._durable_files import claimed


def write(data, path) -> None:
    with claimed(path):
        _files.write(data, path)


def cells() -> anndata.AnnData:
    return anndata.AnnData(np.eye(3, dtype=np.float32), obsm={"X_pca": np.eye(3, dtype=np.float32)})


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_anndata_comes_back(tmp_path, name):
    write(cells(), tmp_path / name)
    assert np.array_equal(_files.read(tmp_path / name).obsm["X_pca"], np.eye(3))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.h5mu", "a.zarr"])
def test_mudata_comes_back(tmp_path, name):
    write(mudata.MuData({"rna": cells()}), tmp_path / name)
    assert isinstance(_files.read(tmp_path / name), mudata.MuData)


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_what_is_there_is_replaced_whole(tmp_path, name):
    write(cells(), tmp_path / name)
    other = cells()
    other.obsm["X_pca"] *= 2
    write(other, tmp_path / name)
    assert _files.read(tmp_path / name).obsm["X_pca"].max() == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(cells(), tmp_path / "a.h5ad")
    before = (tmp_path / "a.h5ad").read_bytes()

    def half(self, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(anndata.AnnData, "write", half)
    with pytest.raises(OSError, match="no space"):
        write(cells(), tmp_path / "a.h5ad")
    assert (tmp_path / "a.h5ad").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_registration_is_not_written(tmp_path):
    data = cells()
    data.obs["_scvi_batch"], data.uns["_scvi_uuid"] = 0, "x"
    write(data, tmp_path / "a.h5ad")
    found = _files.read(tmp_path / "a.h5ad")
    assert list(found.obs.columns) == []
    assert "_scvi_uuid" not in found.uns


@pytest.mark.promise("Malformed files and options are refused in one line, and nothing is written")
@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("none.h5ad", FileNotFoundError, "does not exist"),
        ("a.csv", ValueError, "must end in"),
        ("broken.h5ad", ValueError, "cannot be read"),
    ],
)
def test_inputs_that_are_refused(tmp_path, path, error, message):
    (tmp_path / "broken.h5ad").write_text("no HDF5")
    with pytest.raises(error, match=message):
        _files.read(tmp_path / path)


@pytest.mark.promise("Malformed files and options are refused in one line, and nothing is written")
def test_outputs_that_are_refused(tmp_path):
    (tmp_path / "a.h5ad").write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        _files.check_output(tmp_path / "a.h5ad", force=False)
    _files.check_output(tmp_path / "a.h5ad", force=True)
    with pytest.raises(ValueError, match="must end in"):
        _files.check_output(tmp_path / "a.txt", force=True)
    with pytest.raises(FileNotFoundError, match="folder .* does not exist"):
        _files.check_output(tmp_path / "none" / "a.h5ad", force=True)
    with pytest.raises(ValueError, match=r"\.h5ad or \.zarr"):
        _files.check_type(Path("a.h5mu"), cells())
    with pytest.raises(ValueError, match=r"\.h5mu or \.zarr"):
        _files.check_type(Path("a.h5ad"), mudata.MuData({"rna": cells()}))
