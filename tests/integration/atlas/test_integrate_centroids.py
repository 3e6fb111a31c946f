"""integrate_centroids: the same from every input, the same as in memory, and never half a result."""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

import muport
from muport import integrate_centroids
from muport.data.out_of_core._result_sinks import FileSink
from muport.integration.atlas import _integrate_centroids as atlas

QUIET = {"verbose": False, "chunk_size": 150, "use_gpu": False}


@pytest.fixture(scope="module")
def cells(kit):
    return kit.as_anndata(kit.draw(n=600, n_batches=3))


@pytest.fixture(scope="module")
def wanted(cells):
    return np.asarray(integrate_centroids(cells.copy(), **QUIET)[0].obsm["scBIOT"])


def write(cells, path):
    if path.suffix == ".h5mu":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mudata.MuData({"rna": cells.copy()}).write(path)
    elif path.suffix == ".zarr":
        cells.write_zarr(path)
    else:
        cells.write_h5ad(path)
    return path


def checksum(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in files)).hexdigest()


def test_the_signature_is_that_of_the_method():
    found = {n: p.default for n, p in inspect.signature(integrate_centroids).parameters.items()}
    assert list(found)[:5] == ["adata_full", "obsm_key", "batch_key", "out_key", "modality"]
    assert {"obsm_key": "X_pca", "out_key": "scBIOT", "k_interp": 8, "chunk_size": 500_000}.items() <= found.items()
    assert list(found)[-4:] == ["client", "resume", "overwrite", "continuous_covariate_keys"]


def test_in_memory(cells, wanted):
    data = cells.copy()
    found, metrics = integrate_centroids(data, **QUIET)
    assert found is data
    assert np.array_equal(found.obsm["X_pca"], cells.obsm["X_pca"])
    assert np.array_equal(found.obsm["scBIOT"], wanted)
    assert np.isfinite(wanted).all()
    assert {"mix", "transported_mass", "n_centroids", "n_sampled", "peak_memory", "seconds_map"} <= set(metrics)
    assert (metrics["n_cells"], metrics["n_sampled"]) == (600, 600)
    assert 0 < metrics["n_centroids"] <= 600


def test_it_is_the_integration_of_memory(cells, kit):
    data, _ = integrate_centroids(cells.copy(), k_interp=4, strength=0.4, sharpen=0.2, **QUIET)
    model = kit.model_of(cells.copy(), strength=0.4, sharpen=0.2)
    assert np.allclose(data.obsm["scBIOT"], model.get_latent_representation(), atol=1e-5)
    assert np.allclose(data.obsm["scBIOT"][90:120], model.map_query(cells[90:120].copy()), atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5ad", ".h5mu", ".zarr"])
@pytest.mark.parametrize("out", [None, "out.npy", "out.zarr"])
def test_from_a_file(cells, wanted, tmp_path, suffix, out):
    path = write(cells, tmp_path / f"in{suffix}")
    before = checksum(path)
    target = None if out is None else tmp_path / out
    found, metrics = integrate_centroids(str(path), tmp_path=target, **QUIET)
    assert checksum(path) == before
    assert metrics["n_cells"] == 600
    if out is None:
        assert found.obs_names.equals(cells.obs_names)
        values = found.obsm["scBIOT"]
    else:
        assert found == target
        values = np.load(found, mmap_mode="r") if out.endswith("npy") else anndata.read_zarr(found).obsm["scBIOT"]
    assert np.array_equal(values, wanted)


@pytest.mark.parametrize("out", ["out.npy", "out.zarr"])
def test_an_object_gets_a_result_that_is_not_in_memory(cells, wanted, tmp_path, out):
    found, _ = integrate_centroids(cells.copy(), tmp_path=tmp_path / out, **QUIET)
    values = found.obsm["scBIOT"]
    assert type(values) is not np.ndarray or isinstance(values.base, np.memmap)
    assert np.array_equal(np.asarray(values[:]), wanted)
    if out == "out.zarr":
        assert anndata.read_zarr(tmp_path / out).obs["batch"].equals(cells.obs["batch"])


@pytest.mark.parametrize("out", [None, "out.zarr"])
def test_a_lazy_object(cells, wanted, tmp_path, out):
    pytest.importorskip("dask.array")
    lazy = anndata.experimental.read_lazy(write(cells, tmp_path / "in.zarr"))
    found, _ = integrate_centroids(lazy, tmp_path=None if out is None else tmp_path / out, **QUIET)
    assert np.array_equal(np.asarray(found.obsm["scBIOT"]), wanted)
    if out is not None:
        assert anndata.read_zarr(tmp_path / out).obs_names.equals(cells.obs_names)


def test_a_mudata_keeps_its_cells(cells, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata = mudata.MuData({"rna": cells.copy()})
    found, _ = integrate_centroids(mdata, modality="rna", **QUIET)
    assert found is mdata
    assert np.array_equal(mdata["rna"].obsm["scBIOT"], wanted)


def test_the_chunks_do_not_matter(cells, wanted):
    found, _ = integrate_centroids(cells.copy(), verbose=True, chunk_size=10_000)
    assert np.allclose(found.obsm["scBIOT"], wanted, atol=1e-5)


def test_arguments_act(cells, wanted):
    def change(**kwargs):
        return np.abs(integrate_centroids(cells.copy(), **QUIET | kwargs)[0].obsm["scBIOT"] - wanted).max()

    for kwargs in (
        {"strength": 0.1}, {"conservation": 0.9}, {"prototypes": 0.1}, {"sharpen": 0.0}, {"projector": 0.0},
        {"k_interp": 1}, {"reference": "largest"}, {"reference": "b1"}, {"max_iter": 1}, {"max_samples_per_batch": 50},
        {"n_centroids_per_batch": 5}, {"label_key": "cell_type", "supervision": 1.0}, {"modality": "atac"},
    ):  # fmt: skip
        assert change(**kwargs) > 1e-3, kwargs
    none = {"label_key": "cell_type", "supervision": 0.0}
    assert change(**none) == 0
    assert change(reference="union") == 0
    assert change(ot_backend="pot") == 0
    assert change(max_samples_per_batch=50, random_state=1) != change(max_samples_per_batch=50)


def test_labels_that_mean_unknown(cells, wanted):
    data = cells.copy()
    data.obs["cell_type"] = pd.Categorical(["no idea"] * 600)
    found, _ = integrate_centroids(data, label_key="cell_type", unlabeled_category="no idea", **QUIET)
    assert np.array_equal(found.obsm["scBIOT"], wanted)


def test_a_batch_of_one_cell(cells):
    data = cells.copy()
    data.obs["batch"] = data.obs["batch"].astype(str).where(np.arange(600) != 5, "alone")
    found, _ = integrate_centroids(data, max_samples_per_batch=100, **QUIET)
    assert np.isfinite(found.obsm["scBIOT"]).all()


class Stop(BaseException):
    """Comes from outside, as an interruption by the user does."""


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
@pytest.mark.parametrize("out", ["out.npy", "out.zarr"])
@pytest.mark.parametrize(("method", "call"), [("keep", 1), ("write", 2), ("commit", 1), ("commit", 3), ("finish", 1)])
def test_interrupted_and_called_again(cells, wanted, tmp_path, monkeypatch, out, method, call):
    path = write(cells, tmp_path / "in.zarr")
    calls = []
    real = getattr(FileSink, method)

    def stop(self, *args):
        calls.append(1)
        if len(calls) == call:
            raise Stop
        return real(self, *args)

    monkeypatch.setattr(FileSink, method, stop)
    with pytest.raises(Stop):
        integrate_centroids(path, tmp_path=tmp_path / out, **QUIET)
    monkeypatch.undo()
    assert not (tmp_path / out).exists()
    done = len(list((tmp_path / f"{out}.partial" / "done").glob("0*.json")))
    if method != "keep":
        monkeypatch.setattr(atlas, "fit_centroids", None)
    written = []
    real_write = FileSink.write
    monkeypatch.setattr(FileSink, "write", lambda self, *args: (written.append(args[0]), real_write(self, *args)))
    found, _ = integrate_centroids(path, tmp_path=tmp_path / out, **QUIET)
    assert len(written) == 4 - done
    values = np.load(found) if out.endswith("npy") else anndata.read_zarr(found).obsm["scBIOT"]
    assert np.array_equal(values, wanted)


def test_a_finished_call_is_not_made_again(cells, tmp_path, monkeypatch):
    path = write(cells, tmp_path / "in.zarr")
    first = integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET)
    before = checksum(tmp_path / "out.zarr")
    monkeypatch.setattr(atlas, "fit_centroids", None)
    assert integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET) == first
    with pytest.raises(FileExistsError, match="is not the result of this very call"):
        integrate_centroids(path, tmp_path=tmp_path / "out.zarr", strength=0.3, **QUIET)
    assert checksum(tmp_path / "out.zarr") == before


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_a_damaged_chunk_of_the_result_is_made_again(cells, wanted, tmp_path, monkeypatch):
    path = write(cells, tmp_path / "in.zarr")
    monkeypatch.setattr(FileSink, "finish", None)
    with pytest.raises(TypeError):
        integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET)
    monkeypatch.undo()
    partial = zarr.open_array(tmp_path / "out.zarr.partial" / "result.zarr" / "obsm" / "scBIOT", mode="r+")
    partial[300:310] = 7.0
    found, _ = integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET)
    assert np.array_equal(anndata.read_zarr(found).obsm["scBIOT"], wanted)


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
@pytest.mark.parametrize("out", ["out.npy", "out.zarr"])
def test_a_full_disk(cells, wanted, tmp_path, monkeypatch, out):
    path = write(cells, tmp_path / "in.h5ad")
    before = checksum(path)
    real = FileSink.write

    def full(self, start, rows):
        if start >= 300:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, start, rows)

    monkeypatch.setattr(FileSink, "write", full)
    with pytest.raises(OSError, match=r"is full; the input is untouched .* make the same call again"):
        integrate_centroids(path, tmp_path=tmp_path / out, **QUIET)
    monkeypatch.undo()
    assert checksum(path) == before
    assert not (tmp_path / out).exists()
    found, _ = integrate_centroids(path, tmp_path=tmp_path / out, **QUIET)
    values = np.load(found) if out.endswith("npy") else anndata.read_zarr(found).obsm["scBIOT"]
    assert np.array_equal(values, wanted)


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_damaged_input(cells, tmp_path):
    path = write(cells, tmp_path / "in.zarr")
    array = zarr.open_array(path / "obsm" / "X_pca", mode="r")
    chunk = path / "obsm" / "X_pca" / array.metadata.encode_chunk_key((0, 0))
    chunk.write_bytes(chunk.read_bytes()[:50])
    before = checksum(path)
    with pytest.raises(OSError, match=r"X_pca.*damaged"):
        integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET)
    assert checksum(path) == before
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"strength": 2}, ValueError, "strength=2 must be a number from 0"),
        ({"k_interp": 0}, ValueError, "k_interp=0 must be an integer of at least 1"),
        ({"chunk_size": 1.5}, ValueError, "chunk_size=1.5 must be an integer"),
        ({"max_iter": True}, ValueError, "max_iter=True must be"),
        ({"random_state": -1}, ValueError, "random_state=-1 must be an integer of at least 0"),
        ({"ot_backend": "jax"}, ValueError, "ot_backend='jax' is unknown"),
        ({"reference": "b9"}, ValueError, "reference='b9' is unknown: use one of 'auto'"),
        ({"obsm_key": "X"}, KeyError, "the keys are"),
        ({"batch_key": "X"}, KeyError, "the columns are"),
        ({"modality": "protein"}, ValueError, "modality='protein' is unknown"),
        ({"client": 1}, ValueError, "name a .zarr"),
        ({"tmp_path": "s3://x/y.zarr"}, ValueError, "is a URL"),
    ],
)
def test_bad_arguments_are_told(cells, kwargs, error, text):
    with pytest.raises(error, match=text):
        integrate_centroids(cells.copy(), **{"verbose": False, **kwargs})


def test_cells_that_are_not_finite_are_told_and_nothing_is_left(cells, tmp_path):
    data = cells.copy()
    data.obsm["X_pca"][311, 2] = np.nan
    for path in (None, tmp_path / "out.npy"):
        with pytest.raises(ValueError, match="first in row 311"):
            integrate_centroids(data, tmp_path=path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_the_public_name_is_there():
    assert "integrate_centroids" in muport.__all__
    assert muport.integrate_centroids is integrate_centroids


KILLED = """
import os, signal, sys
from muport.data.out_of_core import _result_sinks as _sink
from muport import integrate_centroids

assert "scvi" not in sys.modules, "the memory of the centroid path is that of its libraries"
source, target, method, call = sys.argv[1:]
real, calls = getattr(_sink.FileSink, method), []

def die(self, *args):
    calls.append(1)
    if len(calls) == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *args)

setattr(_sink.FileSink, method, die)
integrate_centroids(source, tmp_path=target, verbose=False, chunk_size=150, use_gpu=False)
"""


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize(("method", "call"), [("write", 3), ("finish", 1)])
def test_killed_and_called_again(cells, wanted, tmp_path, method, call):
    path = write(cells, tmp_path / "in.zarr")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), path, tmp_path / "out.zarr", method, str(call)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out.zarr").exists()
    found, _ = integrate_centroids(path, tmp_path=tmp_path / "out.zarr", **QUIET)
    assert np.array_equal(anndata.read_zarr(found).obsm["scBIOT"], wanted)
