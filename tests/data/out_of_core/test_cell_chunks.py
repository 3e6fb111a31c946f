"""Cells by rows: every kind of input reads the same, and bad ones are told."""

from __future__ import annotations

import pickle
import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from muport.data.out_of_core import _cell_chunks
from muport.data.out_of_core._cell_chunks import open_chunks
from muport.data.out_of_core._disk_arrays import OnDisk


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(np.zeros((50, 1), np.float32), obsm={"X_pca": rng.normal(size=(50, 3)).astype(np.float32)})
    adata.obs_names = [f"c{i}" for i in range(50)]
    adata.obs["batch"] = pd.Categorical([f"b{i % 3}" for i in range(50)], categories=["b2", "none", "b0", "b1"])
    adata.obs["text"] = [f"b{i % 3}" for i in range(50)]
    adata.obs["number"] = np.arange(50) % 3
    adata.obs["type"] = pd.Categorical([None if i % 5 == 0 else ("unknown", "T")[i % 2] for i in range(50)])
    return adata


def as_mudata(cells):
    other = anndata.AnnData(np.zeros((4, 1), np.float32))
    other.obs_names = [f"x{i}" for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mudata.MuData({"other": other, "rna": cells})


def in_chunks(cells, path):
    """Write a zarr whose embedding has chunks of 7 rows; the file of the third one."""
    cells.write_zarr(path)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    attrs = dict(root["obsm/X_pca"].attrs)
    del root["obsm/X_pca"]
    made = root["obsm"].create_array("X_pca", shape=(50, 3), chunks=(7, 3), dtype="float32")
    made[:] = cells.obsm["X_pca"]
    made.attrs.update(attrs)
    zarr.consolidate_metadata(path)
    return path / "obsm" / "X_pca" / made.metadata.encode_chunk_key((2, 0))


@pytest.fixture(params=["memory", "view", "backed", "h5ad", "compressed", "zarr", "mudata", "h5mu"])
def kind(request, cells, tmp_path):
    if request.param == "memory":
        return cells
    if request.param == "view":
        return anndata.concat([cells, cells], index_unique="-")[:50]
    if request.param == "mudata":
        return as_mudata(cells)
    path = tmp_path / {"zarr": "a.zarr", "h5mu": "a.h5mu"}.get(request.param, "a.h5ad")
    if request.param == "zarr":
        in_chunks(cells, path)
    elif request.param == "h5mu":
        as_mudata(cells).write(path)
    else:
        cells.write_h5ad(path, compression="gzip" if request.param == "compressed" else None)
    return anndata.read_h5ad(path, backed="r") if request.param == "backed" else path


@pytest.mark.promise("Each kind of array or column gives the same result")
@pytest.mark.parametrize("key", ["batch", "text", "number"])
def test_all_kinds_read_the_same(kind, cells, key):
    found = open_chunks(kind, "X_pca", key, "type")
    assert found.shape == (50, 3)
    rows = np.concatenate([found.read(low, min(low + 11, 50)) for low in range(0, 50, 11)])
    assert rows.dtype == np.float32
    assert np.array_equal(rows, cells.obsm["X_pca"])
    assert np.array_equal([found.batch.names[code] for code in found.codes(0, 50)], cells.obs[key].astype(str))
    assert found.label.names == ("T",)
    assert np.array_equal(found.label.codes(3, 50) == 0, (cells.obs["type"] == "T").to_numpy()[3:])


def test_it_can_be_sent_to_another_process(kind, cells):
    found = open_chunks(kind, "X_pca", "batch")
    found.read(0, 2)
    sent = pickle.loads(pickle.dumps(found.window(20, 30)))
    assert np.array_equal(sent.read(22, 30), cells.obsm["X_pca"][22:30])
    assert np.array_equal(sent.codes(22, 30), found.codes(22, 30))
    if found.path is None:
        assert len(pickle.dumps(found.window(20, 21))) < len(pickle.dumps(found.window(0, 50)))


def test_other_arrays(cells):
    wanted = cells.obsm["X_pca"]
    for values in (wanted.astype(np.float64), sparse.csr_matrix(wanted), pd.DataFrame(wanted, index=cells.obs_names)):
        cells.obsm["X_pca"] = values
        assert np.array_equal(open_chunks(cells, "X_pca", "batch").read(4, 9), wanted[4:9])


def test_columns_of_all_cells_of_a_mudata(cells, tmp_path):
    mdata = as_mudata(cells)
    mdata.obs["donor"] = [f"d{i % 4}" for i in range(mdata.n_obs)]
    mdata.write(tmp_path / "a.h5mu")
    wanted = mdata.obs.loc[cells.obs_names, "donor"].to_numpy()
    for data in (mdata, tmp_path / "a.h5mu"):
        found = open_chunks(data, "X_pca", "donor", modality="rna")
        assert np.array_equal([found.batch.names[code] for code in found.codes(0, 50)], wanted)


def test_missing_values_that_are_not_categories(cells, tmp_path):
    cells.obs["type"] = pd.array([None if i % 5 == 0 else i % 2 for i in range(50)], dtype="Int64")
    cells.write_zarr(tmp_path / "a.zarr")
    for data in (cells, tmp_path / "a.zarr"):
        found = open_chunks(data, "X_pca", "batch", "type")
        assert found.label.names == ("0", "1")
        assert np.array_equal(found.label.codes(0, 50) < 0, np.arange(50) % 5 == 0)
        with pytest.raises(ValueError, match="10 cells have no batch .NaN., first in row 0"):
            open_chunks(data, "X_pca", "type")


def test_rows_of_a_latent_semantic_index_are_scaled(cells):
    cells.obsm["X_lsi"] = cells.obsm["X_pca"]
    cells.obsm["X_lsi"][3] = 0
    norm = np.linalg.norm(open_chunks(cells, "X_lsi", "batch").read(0, 50), axis=1)
    assert np.allclose(np.delete(norm, 3), 1)
    assert norm[3] == 0
    assert np.array_equal(open_chunks(cells, "X_lsi", "batch", modality="rna").read(0, 9), cells.obsm["X_lsi"][:9])
    assert np.allclose(np.linalg.norm(open_chunks(cells, "X_pca", "batch", modality="atac").read(0, 3), axis=1), 1)


def test_what_is_not_finite_is_told(cells):
    cells.obsm["X_pca"][[31, 40], 1] = np.nan
    found = open_chunks(cells, "X_pca", "batch")
    found.read(0, 31)
    with pytest.raises(ValueError, match=r"obsm\['X_pca'\] holds NaN or Inf in float32, first in row 31"):
        found.read(20, 50)


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_chunk_is_told(cells, tmp_path, lost):
    chunk = in_chunks(cells, tmp_path / "a.zarr")
    found = open_chunks(tmp_path / "a.zarr", "X_pca", "batch")
    if lost:
        chunk.unlink()
        with pytest.warns(UserWarning, match="1 of its 8 chunks are not stored, so they read as zeros"):
            found = open_chunks(tmp_path / "a.zarr", "X_pca", "batch")
        assert not found.read(14, 21).any()
        return
    chunk.write_bytes(chunk.read_bytes()[:20])
    found.read(0, 14)
    with pytest.raises(OSError, match="rows 10 to 20 cannot be read, they are damaged"):
        found.read(10, 20)


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_truncated_file_is_told(cells, tmp_path):
    cells.write_h5ad(tmp_path / "a.h5ad")
    content = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "a.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not an HDF5 file, or damaged"):
        open_chunks(tmp_path / "a.h5ad", "X_pca", "batch")


def bad_inputs(cells, tmp_path):
    mdata = as_mudata(cells)
    mdata.mod["other"].obsm["X_pca"] = np.zeros((4, 3))
    cells.obsm["complex"] = np.ones((50, 2), complex)
    cells.write_h5ad(tmp_path / "a.h5ad")
    mdata.write(tmp_path / "a.h5mu")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.zarr").mkdir()
    with h5py.File(tmp_path / "group.h5ad", "w") as file:
        file.create_group("obsm/X_pca")
        file.create_group("obs")
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    file = str(tmp_path / "a.h5ad")
    return [
        ((3, "X_pca", "batch"), TypeError, "int, expected an AnnData"),
        ((cells, "X", "batch"), KeyError, r"the keys are \['X_pca', 'complex'\]"),
        ((cells, "X_pca", "b"), KeyError, r"batch_key='b'.*\['batch', 'number', 'text', 'type'\]"),
        ((cells, "X_pca", "batch", "b"), KeyError, "label_key='b'"),
        ((cells, "complex", "batch"), TypeError, "expected real numbers"),
        ((cells, "X_pca", "batch", None, "unknown", "adt"), ValueError, "modality='adt' is unknown"),
        ((cells[:0], "X_pca", "batch"), ValueError, "no cells"),
        ((mdata, "X_pca", "batch"), ValueError, r"in the modalities \['other', 'rna'\]"),
        ((mdata, "X", "batch"), KeyError, "in no modality"),
        ((mdata, "X_pca", "batch", None, "unknown", "atac"), KeyError, r"the modalities are \['other', 'rna'\]"),
        ((tmp_path / "c.h5ad", "X_pca", "batch"), FileNotFoundError, "does not exist"),
        ((tmp_path / "a.txt", "X_pca", "batch"), ValueError, "use .h5ad, .h5mu or .zarr"),
        ((tmp_path / "b.zarr", "X_pca", "batch"), ValueError, "not a zarr group"),
        ((tmp_path / "empty.zarr", "X_pca", "batch"), KeyError, "does not exist; the keys are"),
        ((tmp_path / "group.h5ad", "X_pca", "batch"), TypeError, "store it as a dense matrix"),
        ((file, "X", "batch"), KeyError, r"the keys are \['X_pca', 'complex'\]"),
        ((file, "X_pca", "b"), KeyError, r"batch_key='b'.*\['batch', 'number', 'text', 'type'\]"),
        ((tmp_path / "a.h5mu", "X_pca", "batch", None, "unknown", "atac"), KeyError, "the modalities are"),
    ]


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("number", range(18))
def test_bad_inputs_are_told(cells, tmp_path, number):
    args, error, text = bad_inputs(cells, tmp_path)[number]
    with pytest.raises(error, match=text):
        open_chunks(*args)


def test_lazy_objects(cells, tmp_path):
    array = pytest.importorskip("dask.array")
    cells.write_zarr(tmp_path / "a.zarr")
    wanted = cells.obsm["X_pca"]
    lazy = anndata.experimental.read_lazy(tmp_path / "a.zarr")
    cells.obsm["X_pca"] = array.from_array(wanted, chunks=(7, 3))
    for data in (lazy, cells):
        found = open_chunks(data, "X_pca", "batch")
        assert np.array_equal(found.read(5, 30), wanted[5:30])
        assert np.array_equal([found.batch.names[code] for code in found.codes(0, 50)], cells.obs["batch"].astype(str))
    assert found.step == 7


def test_what_stands_where(cells, tmp_path):
    in_chunks(cells, tmp_path / "a.zarr")
    as_mudata(cells).write(tmp_path / "a.h5mu")
    for data, name, path, modality, step in (
        (cells, "obsm['X_pca']", None, None, 1),
        (as_mudata(cells), "obsm['X_pca'] of 'rna'", None, "rna", 1),
        (tmp_path / "a.zarr", f"obsm['X_pca'] of '{tmp_path}/a.zarr'", f"{tmp_path}/a.zarr", None, 7),
        (tmp_path / "a.h5mu", "obsm['X_pca'] of 'rna'", f"{tmp_path}/a.h5mu", "rna", 1),
    ):
        found = open_chunks(data, "X_pca", "batch", "type")
        assert (found.name, found.path, found.modality, found.step) == (name, path, modality, step)
        assert list(found.names(3, 5)) == ["c3", "c4"]
        window = found.window(3, 9)
        assert window.label is window.names is None
        assert (window.name, window.shape) == (name, (50, 3))
        assert isinstance(window.values, OnDisk) == (path is not None)


@pytest.mark.parametrize(
    ("key", "modality", "selected", "atac"),
    [
        ("X_pca", "auto", None, False),
        ("X_LSI", "auto", None, True),
        ("X_pca", "auto", "ATAC peaks", True),
        ("X_pca", "auto", "rna", False),
        ("X_lsi", "rna", None, False),
        ("X_lsi", "rna", "rna", False),
        ("X_pca", "atac", None, True),
        ("X_pca", "atac", "atac", True),
        ("atac", "auto", None, True),
    ],
)
def test_a_latent_semantic_index_is_found_by_its_name(key, modality, selected, atac):
    assert _cell_chunks._is_atac(key, modality, selected) is atac


def test_an_unknown_modality_of_an_anndata_is_refused():
    with pytest.raises(ValueError, match="modality='peaks' is unknown: use one of 'auto', 'rna', 'atac'"):
        _cell_chunks._is_atac("X_pca", "peaks", None)
    assert _cell_chunks._is_atac("X_pca", "peaks", "peaks") is False


def test_rows_that_are_stored_together():
    def chunked(chunks):
        return type("Chunked", (), {"chunks": chunks})()

    assert [_cell_chunks._rows_together(chunked(c)) for c in (None, (7, 3), ((4, 9, 2), (3,)))] == [1, 7, 9]
    assert _cell_chunks._rows_together(np.zeros((3, 2))) == 1


def test_what_is_no_matrix_of_numbers_is_told():
    for values, error, text in (
        (object(), TypeError, "obsm is a object: store it as a dense matrix"),
        (type("Half", (), {"dtype": np.dtype(float)})(), TypeError, "obsm is a Half: store it"),
        (np.array(["x"]), TypeError, "obsm has dtype <U1, expected real numbers"),
        (np.zeros(2, complex), TypeError, "obsm has dtype complex128"),
    ):
        with pytest.raises(error, match=text):
            _cell_chunks._check_numeric(values, "obsm")
    for dtype in ("f2", "f8", "i4", "u1", "b1"):
        _cell_chunks._check_numeric(np.zeros(2, dtype), "obsm")


def test_finite_values_with_an_infinite_sum_pass(cells):
    cells.obsm["X_pca"][:2] = 3e38
    assert (open_chunks(cells, "X_pca", "batch").read(0, 2) == np.float32(3e38)).all()
    cells.obsm["X_pca"] = cells.obsm["X_pca"].astype(np.float64)
    cells.obsm["X_pca"][7] = 1e300
    with pytest.raises(ValueError, match="first in row 7"):
        open_chunks(cells, "X_pca", "batch").read(4, 9)


def test_rows_that_are_missing_are_damage(cells):
    found = open_chunks(cells, "X_pca", "batch")
    with pytest.raises(OSError, match=r"rows 45 to 55 are damaged: \(5, 3\) values were read"):
        found.read(45, 55)


def test_a_file_with_another_number_of_cells_is_damaged(cells, tmp_path):
    cells.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file["obsm/X_pca"]
        file["obsm/X_pca"] = np.zeros((49, 3))
    with pytest.raises(ValueError, match="has 49 rows, but obs has 50 cells: the file is damaged"):
        open_chunks(tmp_path / "a.h5ad", "X_pca", "batch")


def test_labels_that_are_not_known(cells):
    found = open_chunks(cells, "X_pca", "batch", "type", "T")
    assert found.label.names == ("unknown",)
    assert found.batch.names == ("b0", "b1", "b2")
    assert open_chunks(cells, "X_pca", "batch").label is None
