from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from muport import datasets
from muport.datasets._catalog import CATALOG


def counts(n: int = 60, p: int = 80) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 2
    rate = np.where(kind[:, None] == np.arange(p) % 2, 3.0, 0.5)
    return anndata.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))


@pytest.mark.parametrize(
    ("kind", "key", "d"),
    [("counts", "X_pca", 10), ("log", "X_pca", 10), ("protein", "X_pca", 10), ("peaks", "X_lsi", 10)],
)
def test_recipes_find_the_two_kinds(kind, key, d):
    adata = counts()
    before = adata.X.copy()
    datasets.represent(adata, kind, n_comps=d)
    rep = adata.obsm[key]
    assert rep.shape == (60, d)
    assert rep.dtype == np.float32
    first = rep[:, 0]
    between = abs(first[::2].mean() - first[1::2].mean())
    assert between > 3 * first[::2].std()
    assert (adata.X != before).nnz == 0


def test_features_are_kept_and_a_pca_of_the_file_stays():
    adata = anndata.AnnData(np.eye(4, dtype=np.float32))
    datasets.represent(adata, "features")
    assert (adata.obsm["X_pca"] == np.eye(4)).all()
    adata.obsm["X_pca"] = 2 * np.eye(4)
    datasets.represent(adata, "log")
    assert (adata.obsm["X_pca"] == 2 * np.eye(4)).all()


def test_unknown_kind_and_name():
    with pytest.raises(ValueError, match="kind='reads'"):
        datasets.represent(counts(), "reads")
    with pytest.raises(ValueError, match="n_comps=0"):
        datasets.represent(counts(), "counts", n_comps=0)
    with pytest.raises(KeyError, match="snare_mouse_cortex"):
        datasets.load("snare")


def test_missing_folder_and_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MUPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MUPORT_DATA_URL", raising=False)
    monkeypatch.delenv("MUPORT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="MUPORT_DATA"):
        datasets.load("mesc_scmerge")
    with pytest.raises(FileNotFoundError, match=r"mesc_scmerge\.h5ad"):
        datasets.load("mesc_scmerge", path=tmp_path)
    assert datasets.available() == ()


def test_load_names_batch_and_type(tmp_path):
    adata = counts()
    adata.obs["donor"], adata.obs["cell_type"] = [f"d{i % 3}" for i in range(60)], "B"
    adata.write_h5ad(tmp_path / "kang_distinct_3donor.h5ad")
    assert datasets.available(tmp_path) == ("kang_distinct_3donor",)
    loaded = datasets.load("kang_distinct_3donor", tmp_path)
    assert loaded.obs["batch"].tolist() == adata.obs["donor"].tolist()
    assert loaded.obsm["X_pca"].shape == (60, 50)


@pytest.mark.skipif("mesc_scmerge" not in datasets.available(), reason="MUPORT_DATA names no folder of real data")
def test_real_file():
    adata = datasets.load("mesc_scmerge")
    assert adata.shape == (300, 2026)
    assert adata.obs["batch"].nunique() == 2
    assert adata.obsm["X_pca"].shape == (300, 50)


def test_pbmc68k_reduced():
    adata = datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert adata.obs["batch"].nunique() == 3
    assert adata.obs["cell_type"].nunique() == 10
    assert adata.obsm["X_pca"].shape == (700, 50)


class OneFolder(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A tiny data set on a local server, with its hash in the catalog, and an empty cache."""
    (tmp_path / "public").mkdir()
    file = tmp_path / "public" / "mesc_scmerge.h5ad"
    counts().write_h5ad(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(CATALOG, "mesc_scmerge", dataclasses.replace(CATALOG["mesc_scmerge"], sha256=digest))
    monkeypatch.setenv("MUPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MUPORT_DATA", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(OneFolder, directory=file.parent))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield file, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_is_checked_kept_and_read_again(served, monkeypatch, tmp_path):
    file, address = served
    monkeypatch.setenv("MUPORT_DATA_URL", address + "/")
    assert datasets.load("mesc_scmerge").shape == (60, 80)
    file.unlink()
    monkeypatch.delenv("MUPORT_DATA_URL")
    cached = datasets.load("mesc_scmerge", representations=False)  # without an address
    assert cached.shape == (60, 80)
    assert not cached.obsm
    (tmp_path / "cache" / file.name).write_bytes(b"broken")
    with pytest.raises(FileNotFoundError, match="MUPORT_DATA_URL"):
        datasets.load("mesc_scmerge")


def test_the_folder_comes_before_a_download(served, tmp_path):
    (tmp_path / "own").mkdir()
    counts(n=30).write_h5ad(tmp_path / "own" / "mesc_scmerge.h5ad")
    assert datasets.load("mesc_scmerge", tmp_path / "own", served[1]).n_obs == 30


def test_another_file_at_the_address_is_refused(served, tmp_path):
    file, address = served
    file.write_bytes(b"another file")
    with pytest.raises(ValueError, match="SHA-256"):
        datasets.load("mesc_scmerge", base_url=address)
    assert not list((tmp_path / "cache").glob("*"))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)could not be downloaded.*bioc/scMerge"):
        datasets.load("mesc_scmerge", base_url=address)


def test_every_data_set_has_a_hash_a_licence_and_a_citation():
    for name in datasets.names():
        info = datasets.info(name)
        assert len(bytes.fromhex(info.sha256)) == 32
        assert info.file.startswith(name + ".h5")
        assert info.licence in datasets.load.__doc__
        assert info.citation in datasets.load.__doc__


@pytest.mark.skipif(not datasets.available(), reason="MUPORT_DATA names no folder of real data")
def test_files_of_the_folder_are_those_of_the_catalog():
    for name in datasets.available():
        info = datasets.info(name)
        assert hashlib.sha256((Path(os.environ["MUPORT_DATA"]) / info.file).read_bytes()).hexdigest() == info.sha256


@pytest.mark.parametrize("kind", ["counts", "log", "protein", "peaks", "features"])
def test_repeated_entries_are_summed_and_left_as_they_are(kind):
    plain, repeated = counts(), counts()
    x = repeated.X
    halves = np.stack([x.data - 0.5, np.full(x.nnz, 0.5, np.float32)], axis=1).ravel()
    repeated.X = sparse.csr_matrix((halves, x.indices.repeat(2), 2 * x.indptr), shape=x.shape)
    datasets.represent(plain, kind, n_comps=3)
    datasets.represent(repeated, kind, n_comps=3)
    key = "X_lsi" if kind == "peaks" else "X_pca"
    np.testing.assert_allclose(np.abs(repeated.obsm[key]), np.abs(plain.obsm[key]), atol=1e-3)
    assert repeated.X.nnz == 2 * x.nnz


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "mesc_scmerge.h5ad").write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"mesc_scmerge\.h5ad' cannot be read .* SHA-256"):
        datasets.load("mesc_scmerge", path=tmp_path)
