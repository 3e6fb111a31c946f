"""Files of every version and encoding are read as anndata reads them, and damaged ones are refused."""

from __future__ import annotations

import shutil
import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

from muport import integrate_centroids
from muport.data.out_of_core._cell_chunks import open_chunks
from muport.data.out_of_core._result_obs import add_obs

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
X[np.random.default_rng(1).random((60, 4)) < 0.3] = 0
COLUMNS = {
    "text": np.array([f"b{i % 3}" for i in range(60)], dtype=object),
    "category": pd.Categorical([f"b{i % 3}" for i in range(60)], categories=["unused", "b2", "b0", "b1"]),
    "one category": pd.Categorical(["only"] * 60),
    "ordered": pd.Categorical([f"b{i % 3}" for i in range(60)], categories=["b2", "b1", "b0"], ordered=True),
    "category of numbers": pd.Categorical(np.arange(60) % 3 * 10),
    "category of truth": pd.Categorical(np.arange(60) % 2 == 0),
    "integer": (np.arange(60) % 3).astype(np.uint8),
    "float": np.arange(60) % 3 / 4 + 0.125,
    "truth": np.arange(60) % 2 == 0,
    "nullable integer": pd.array(np.arange(60) % 3, dtype="Int32"),
    "nullable truth": pd.array(np.arange(60) % 2 == 0, dtype="boolean"),
    "nullable text": pd.array([f"b{i % 3}" for i in range(60)], dtype="string"),
}
REPRESENTATIONS = {
    "dense": X,
    "double": X.astype(np.float64),
    "Fortran": np.asfortranarray(X),
    "CSR": sparse.csr_matrix(X),
    "CSC": sparse.csc_matrix(X),
    "CSR array": sparse.csr_array(X),
    "frame": pd.DataFrame(X, columns=list("abcd")),
}
PROMISE = pytest.mark.promise("A file is read as anndata reads it, whatever wrote it")


def cells(columns=COLUMNS, representations=REPRESENTATIONS) -> anndata.AnnData:
    adata = anndata.AnnData(np.zeros((60, 1), np.float32))
    adata.obs_names = [f"c{i}" for i in range(60)]
    for name in columns:
        adata.obs[name] = COLUMNS[name]
    for name in representations:
        values = REPRESENTATIONS[name]
        adata.obsm[name] = values.set_axis(adata.obs_names) if isinstance(values, pd.DataFrame) else values
    return adata


@pytest.fixture(scope="module", params=["h5ad", "zarr 2", "zarr 3", "zarr 3, not consolidated", "h5mu", "mudata zarr"])
def file(request, tmp_path_factory):
    kind, folder = request.param, tmp_path_factory.mktemp("files")
    with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        if kind == "h5ad":
            cells().write_h5ad(folder / "a.h5ad")
            return folder / "a.h5ad"
        if kind == "h5mu":
            mudata.MuData({"rna": cells()}).write(folder / "a.h5mu")
            return folder / "a.h5mu"
        if kind == "mudata zarr":
            mudata.MuData({"rna": cells()}).write_zarr(folder / "a.zarr")
            return folder / "a.zarr"
        with anndata.settings.override(zarr_write_format=int(kind[5])):
            cells().write_zarr(folder / "a.zarr")
        if "not" in kind:
            document = folder / "a.zarr" / "zarr.json"
            root = zarr.open_group(folder / "a.zarr", mode="r+", use_consolidated=False)
            attributes = dict(root.attrs)
            document.unlink()
            zarr.open_group(folder / "a.zarr", mode="a").attrs.update(attributes)
        return folder / "a.zarr"


@PROMISE
def test_columns_and_representations(file, record_property):
    for key in COLUMNS:
        batch = open_chunks(file, "dense", key).batch
        expected = [str(value) for value in pd.Series(COLUMNS[key]).tolist()]
        assert [batch.names[code] for code in batch.codes(0, 60)] == expected, key
    for key in REPRESENTATIONS:
        found = open_chunks(file, key, "text")
        assert np.array_equal(np.concatenate([found.read(0, 7), found.read(7, 60)]), X), key
        assert np.array_equal(found.window(10, 30).read(12, 30), X[12:30]), key
    record_property("tries", len(COLUMNS) + len(REPRESENTATIONS))


@PROMISE
def test_the_obs_of_the_result(file, tmp_path, record_property):
    zarr.open_group(tmp_path / "out.zarr", mode="w", zarr_format=3).attrs.update(
        {"encoding-type": "anndata", "encoding-version": "0.1.0"}
    )
    modality = "rna" if "mod" in open_root(file) else None
    add_obs(tmp_path / "out.zarr", None, str(file), modality)
    found = anndata.read_zarr(tmp_path / "out.zarr").obs
    assert found.index.tolist() == cells().obs_names.tolist()
    for key, values in COLUMNS.items():
        assert found[key].tolist() == pd.Series(values).tolist(), key
        assert (found[key].dtype == "category") == isinstance(values, pd.Categorical) or "text" in key, key
    record_property("tries", len(COLUMNS))


def open_root(file):
    return h5py.File(file) if file.suffix in (".h5ad", ".h5mu") else zarr.open_group(file, mode="r")


def write_old(path, version):
    """An h5ad as anndata 0.6 (tables) or 0.7 (codes beside ``__categories``) wrote it."""
    names = [f"c{i}".encode() for i in range(60)]
    with h5py.File(path, "w") as file:
        file["X"] = np.zeros((60, 1), np.float32)
        if version == "0.6":
            obs = [(name, i % 3, i) for i, name in enumerate(names)]
            file["obs"] = np.array(obs, dtype=[("index", "S5"), ("batch", np.int8), ("depth", np.int32)])
            file["var"] = np.array([(b"g0",)], dtype=[("index", "S5")])
            table = np.zeros(60, dtype=[("X_pca", np.float32, (4,))])
            table["X_pca"] = X
            file["obsm"] = table
            file["uns/batch_categories"] = np.array([b"b0", b"b1", b"b2"])
            return
        file["obsm/X_pca"] = X
        for key, index in (("obs", names), ("var", [b"g0"])):
            frame = file.create_group(key)
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "_index"})
            frame.attrs["column-order"] = np.array(["batch"] if key == "obs" else [], dtype=h5py.string_dtype())
            frame["_index"] = np.array(index, dtype=h5py.string_dtype())
        file["obs/__categories/batch"] = np.array(["b0", "b1", "b2"], dtype=h5py.string_dtype())
        file["obs/batch"] = (np.arange(60) % 3).astype(np.int8)
        file["obs/batch"].attrs["categories"] = file["obs/__categories/batch"].ref


@PROMISE
@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("version", ["0.6", "0.7"])
@pytest.mark.parametrize("out", [None, "r.zarr"])
def test_old_versions(tmp_path, version, out):
    write_old(tmp_path / "a.h5ad", version)
    chunks = open_chunks(tmp_path / "a.h5ad", "X_pca", "batch")
    assert np.array_equal(chunks.read(0, 60), X)
    assert [chunks.batch.names[code] for code in chunks.codes(0, 60)] == [f"b{i % 3}" for i in range(60)]
    target = None if out is None else tmp_path / out
    result, _ = integrate_centroids(tmp_path / "a.h5ad", verbose=False, use_gpu=False, tmp_path=target)
    result = result if out is None else anndata.read_zarr(result)
    assert result.obs["batch"].tolist() == [f"b{i % 3}" for i in range(60)]
    assert result.obs_names.tolist() == [f"c{i}" for i in range(60)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    cells(["category", "integer", "nullable integer"], ["dense"]).write_zarr(path)
    return path


@pytest.fixture
def damaged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "a.zarr")
    root = zarr.open_group(tmp_path / "a.zarr", mode="r+", use_consolidated=False)
    return tmp_path / "a.zarr", root


def replaced(group, name, values):
    attributes = dict(group[name].attrs)
    del group[name]
    group.create_array(name, data=values).attrs.update(attributes)


DAMAGES = {
    "short column": (lambda root: replaced(root["obs"], "integer", np.zeros(59, np.uint8)), r"shape \(59,\) for 60"),
    "long column": (lambda root: replaced(root["obs"], "integer", np.zeros(61, np.uint8)), r"shape \(61,\) for 60"),
    "short codes": (lambda root: replaced(root["obs/category"], "codes", np.zeros(59, np.int8)), r"\(59,\) for 60"),
    "short mask": (lambda root: replaced(root["obs/nullable integer"], "mask", np.zeros(9, bool)), r"\(9,\) for 60"),
    "codes beyond": (lambda root: replaced(root["obs/category"], "codes", np.full(60, 4, np.int8)), "4 categories"),
    "codes below": (lambda root: replaced(root["obs/category"], "codes", np.full(60, -2, np.int8)), "from -2 to -2"),
    "no index": (lambda root: root["obs"].__delitem__("_index"), "has no index '_index'"),
    "short index": (lambda root: replaced(root["obs"], "_index", np.arange(59) + 1), "for 59 cells|has 59 cells"),
    "short representation": (lambda root: replaced(root["obsm"], "dense", X[:59]), "59 rows, but obs has 60 cells"),
    "no obs": (lambda root: root.__delitem__("obs"), "has no index"),
}


@pytest.mark.promise("A damaged file is refused within a second, and nothing is written")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damaged, damage, record_property):
    path, root = damaged
    edit, message = DAMAGES[damage]
    edit(root)
    zarr.consolidate_metadata(path)
    key = {"codes": "category", "mask": "nullable integer", "short codes": "category"}
    column = next((value for word, value in key.items() if word in damage), "integer")
    with pytest.raises(ValueError, match=message):
        integrate_centroids(path, "dense", column, verbose=False, tmp_path=path.with_name("r.zarr"))
    assert [item.name for item in path.parent.iterdir()] == ["a.zarr"]
    record_property("tries", 1)


def in_pieces(path, shards=None, zeros=0):
    """A zarr of which the representation has chunks of 5 rows, and the first rows are zero."""
    values = X.copy() + 1
    values[:zeros] = 0
    cells(["text"], ["dense"]).write_zarr(path)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    attributes = dict(root["obsm/dense"].attrs)
    del root["obsm/dense"]
    array = root["obsm"].create_array("dense", shape=(60, 4), chunks=(5, 4), shards=shards, dtype="float32")
    array[:] = values
    array.attrs.update(attributes)
    zarr.consolidate_metadata(path)
    return sorted(file for file in (path / "obsm" / "dense" / "c").rglob("*") if file.is_file())


@pytest.mark.promise("A damaged file is refused within a second, and nothing is written")
@pytest.mark.parametrize("shards", [None, (20, 4), (25, 4), (40, 4)])
@pytest.mark.parametrize("kept", [None, 0, 10, 50, -1])
def test_lost_and_cut_pieces(tmp_path, shards, kept, record_property):
    path = tmp_path / "a.zarr"
    for file in in_pieces(path, shards):
        content = file.read_bytes()
        file.unlink()
        if kept is not None:
            file.write_bytes(content[:kept])
        if kept is None and shards is None:
            # a chunk that is not stored is one of zeros, by the rule of zarr
            with pytest.warns(UserWarning, match="1 of its 12 chunks are not stored"):
                open_chunks(path, "dense", "text")
        else:
            with pytest.raises(OSError, match="damaged"):
                open_chunks(path, "dense", "text").read(0, 60)
        file.write_bytes(content)
        record_property("tries", 1)
    assert open_chunks(path, "dense", "text").read(0, 60).all()


@PROMISE
@pytest.mark.parametrize("shards", [None, (20, 4), (25, 4)])
def test_chunks_of_zeros_are_zeros(tmp_path, shards):
    in_pieces(tmp_path / "a.zarr", shards, zeros=15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = open_chunks(tmp_path / "a.zarr", "dense", "text")
    assert np.array_equal(found.read(0, 60), np.asarray(anndata.read_zarr(tmp_path / "a.zarr").obsm["dense"]))


def test_a_lost_part_of_the_index_is_told(damaged):
    path, _ = damaged
    for file in (path / "obs" / "_index").rglob("*"):
        if file.is_file() and not file.name.startswith((".z", "zarr")):
            file.unlink()
    with pytest.raises(OSError, match="the index of 'obs' .* is damaged: 1 of its 1 (chunks|shards) are not stored"):
        open_chunks(path, "dense", "text")
