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
from muport.data.out_of_core import _coded_columns
from muport.data.out_of_core._cell_chunks import open_chunks
from muport.data.out_of_core._coded_columns import CodedColumn, obs_in_memory, obs_on_disk, select_column
from muport.data.out_of_core._disk_arrays import open_root
from muport.data.reading._categories import Categories


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


@pytest.fixture
def column() -> CodedColumn:
    """20 values of the categories b, a and c, the fourth and the last of which are missing."""
    raw = np.arange(20, dtype=np.int8) % 3
    raw[[3, 19]] = -1
    return CodedColumn(raw, Categories.of(["b", "a", "c"]))


EXPECTED = [-1 if i in (3, 19) else (1, 0, 2)[i % 3] for i in range(20)]


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_a_column_is_read_in_blocks(monkeypatch, column, block):
    monkeypatch.setattr(_coded_columns, "_BLOCK", block)
    assert column.names == ("a", "b", "c")
    assert column.codes(2, 20).tolist() == EXPECTED[2:]
    assert column.codes(0, 20).dtype == np.int64
    assert column.codes(5, 5).tolist() == []
    blocks = list(column.blocks(20))
    assert [start for start, _ in blocks] == list(range(0, 20, block))
    assert np.concatenate([codes for _, codes in blocks]).tolist() == EXPECTED
    assert column.gaps(20) == (2, 3)
    assert column.gaps(19) == (1, 3)
    assert column.gaps(3) == (0, -1)
    window = column.window(4, 12)
    assert window.codes(5, 12).tolist() == EXPECTED[5:12]
    assert len(window.raw.rows) == 8
    kept = column.without("c")
    assert kept.names == ("a", "b")
    assert kept.codes(0, 20).tolist() == [-1 if code == 2 else code for code in EXPECTED]


def test_a_code_without_a_category_is_told(column):
    for value, text in ((3, "from -1 to 3"), (-2, "from -2 to 2")):
        column.raw[5] = value
        with pytest.raises(ValueError, match=f"rows 4 to 20 of a column hold codes {text}, but it has 3 categories"):
            column.codes(4, 20)
        assert column.codes(6, 20).tolist() == EXPECTED[6:]


def test_the_signature_is_that_of_the_values(column):
    other = CodedColumn(
        np.array([(1, 0, 2, -1)[c] for c in np.where(column.raw < 0, 3, column.raw)]), Categories.of("abc")
    )
    assert other.codes(0, 20).tolist() == EXPECTED
    assert other.signature(20) == column.signature(20)
    assert column.signature(19) != column.signature(20)
    assert CodedColumn(column.raw, Categories.of("bad")).signature(20) != column.signature(20)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("block", [5, 12])
def test_columns_of_a_file_in_blocks(tmp_path, monkeypatch, suffix, block):
    monkeypatch.setattr(_coded_columns, "_BLOCK", block)
    adata = modality("c", 12)
    for key, values in COLUMNS.items():
        adata.obs[key] = values
    getattr(adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
    path = str(tmp_path / f"a.{suffix}")
    obs, memory = obs_on_disk(path, open_root(path), "obs"), obs_in_memory(adata.obs, adata.obs_names)
    assert obs.columns == sorted(COLUMNS)
    assert memory.columns == list(COLUMNS)
    assert obs.n_cells == memory.n_cells == 12
    assert list(obs.names(3, 7)) == list(memory.names(3, 7)) == ["c3", "c4", "c5", "c6"]
    for key in COLUMNS:
        found, expected = obs.read(key), memory.read(key)
        assert named(found.codes(0, 12), found.names) == named(expected.codes(0, 12), expected.names), key
    assert obs.read("float32").raw.dtype == np.int32, "only the codes are kept, in half of the memory"
    assert obs.same_cells(memory)
    assert memory.same_cells(obs)
    for other in (adata[:11], adata[[*range(11), 0]], adata[[1, 0, *range(2, 12)]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not obs.same_cells(obs_in_memory(other.obs, other.obs_names))


def test_a_column_of_two_types_is_told_by_name():
    obs = pd.DataFrame({"kind": [1, "1"]}, index=["a", "b"])
    with pytest.raises(ValueError, match="column 'kind' holds 1 .int. and '1' .str."):
        obs_in_memory(obs, obs.index).read("kind")
    obs["kind"] = [[1], [2]]
    with pytest.raises(TypeError, match="column 'kind' holds values that are no categories"):
        obs_in_memory(obs, obs.index).read("kind")


def table(names, **columns):
    obs = pd.DataFrame(columns, index=list(names))
    return obs_in_memory(obs, obs.index)


def test_the_column_of_a_modality_by_name():
    own = table("abcd", batch=["1", "2", "3", None], kind=list("wxyz"))
    cells = table("db", batch=["9", "8"], depth=["low", "high"])

    def read(key):
        found = select_column(key, "batch_key", own, "rna", cells)
        return named(found.codes(0, 2), found.names)

    assert read("batch") == ["9", "2"], "the object comes first, and the modality fills its gaps"
    assert read("kind") == ["z", "x"]
    assert read("depth") == read("rna:depth") == ["low", "high"]
    with pytest.raises(KeyError, match=r"batch_key='type' is not in obs; .*'batch', 'kind', 'rna:batch', 'rna:depth'"):
        read("type")
    for column, message in ((["3", None], "copy of the column of 'rna'"), (["d", "b"], None)):
        own = table("bd", **{"rna:batch": column[::-1]})
        cells = table("db", batch=["d", "b"])
        if message:
            with pytest.raises(ValueError, match=f"batch_key='rna:batch': .*{message}"):
                read("rna:batch")
        else:
            assert read("rna:batch") == ["d", "b"]


def test_an_index_of_another_name_is_no_column(tmp_path):
    adata = modality("c", 3)
    adata.obs["batch"] = ["x", "y", "x"]
    adata.obs.index.name = "barcode"
    adata.write_h5ad(tmp_path / "a.h5ad")
    root = open_root(str(tmp_path / "a.h5ad"))
    obs = obs_on_disk(str(tmp_path / "a.h5ad"), root, "obs")
    assert obs.columns == ["batch"]
    assert obs.names(0, 3).tolist() == ["c0", "c1", "c2"]
    with pytest.raises(ValueError, match=r"'a name': 'mod/rna/obs' has no index '_index'"):
        obs_on_disk("a name", root, "mod/rna/obs")
