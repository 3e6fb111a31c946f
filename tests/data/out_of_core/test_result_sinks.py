"""Results in files: whole or not at all, and each finished chunk counts."""

from __future__ import annotations

import errno
import pickle
import zlib

import anndata
import numpy as np
import pytest

from muport.data.out_of_core import _result_sinks as _sink
from muport.data.out_of_core._result_obs import add_obs
from muport.data.out_of_core._result_sinks import FileSink, MemorySink, clean_path, full_disk

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3) + 1


@pytest.fixture(params=[".npy", ".zarr"])
def sink(request, tmp_path):
    return FileSink(tmp_path / f"out{request.param}", (20, 3), 4, "Z")


def store(sink, number, start, stop):
    for low in range(start, stop, sink.piece):
        sink.write(low, ROWS[low : min(low + sink.piece, stop)])
    sink.commit(number, start, stop, zlib.crc32(ROWS[start:stop].tobytes()))


def test_memory():
    sink = MemorySink((20, 3))
    sink.write(0, ROWS[:7])
    sink.write(7, ROWS[7:])
    sink.commit(0, 0, 20, 0)
    assert np.array_equal(sink.values, ROWS)


def test_the_result_appears_when_it_is_whole(sink):
    assert not sink.begin("job", resume=True)
    store(sink, 0, 0, 8)
    assert not sink.path.exists()
    assert sink.is_done(0, 0, 8)
    assert not sink.is_done(1, 8, 16)
    copy = pickle.loads(pickle.dumps(sink))
    store(copy, 2, 16, 20)
    store(copy, 1, 8, 16)
    sink.finish("job", {"score": 1.0})
    assert np.array_equal(np.asarray(sink.open()), ROWS)
    assert sink.fingerprint() == "job"
    assert sink.metrics() == {"score": 1.0}
    assert sorted(p.name for p in sink.path.parent.iterdir() if p.suffix != ".json") == [sink.path.name]


def test_an_interrupted_job_goes_on(sink):
    sink.begin("job", resume=True)
    store(sink, 0, 0, 8)
    again = FileSink(sink.path, sink.shape, sink.piece, sink.key)
    assert again.begin("job", resume=True)
    assert again.is_done(0, 0, 8)
    assert not again.is_done(0, 0, 12)
    assert not again.begin("another job", resume=True)
    assert not again.is_done(0, 0, 8)
    store(again, 0, 0, 8)
    assert not again.begin("another job", resume=False)
    assert not again.is_done(0, 0, 8)


def test_a_chunk_that_changed_is_not_done(sink):
    sink.begin("job", resume=True)
    store(sink, 0, 0, 8)
    sink.write(4, ROWS[8:12])
    assert not sink.is_done(0, 0, 8)
    store(sink, 0, 0, 8)
    assert sink.is_done(0, 0, 8)
    (sink.partial / "done" / "000000000.json").write_text("{")
    assert not sink.is_done(0, 0, 8)


def test_something_else_is_never_overwritten(sink):
    sink.path.write_text("mine")
    with pytest.raises(FileExistsError, match="is not the result of this very call"):
        sink.begin("job", resume=True)
    assert sink.fingerprint() is None
    assert sink.path.read_text() == "mine"


def test_a_disk_without_room_is_told_first(sink, monkeypatch):
    monkeypatch.setattr(_sink.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(OSError, match=r"the result takes 0.00 GB, and .* has 0.00 GB free") as error:
        sink.begin("job", resume=True)
    assert error.value.errno == errno.ENOSPC
    assert not sink.partial.exists()


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    told = full_disk(OSError(errno.ENOSPC, "No space"), tmp_path / "out.zarr")
    assert told.errno == errno.ENOSPC
    assert "out.zarr.partial" in str(told)
    other = OSError(errno.EIO, "broken")
    assert full_disk(other, tmp_path) is other


def test_a_state_is_kept(sink):
    from muport.integration._fitted_state import GroupMap

    sink.begin("job", resume=True)
    assert sink.kept("map", GroupMap) is None
    array = np.eye(3, dtype=np.float32)
    sink.keep("map", GroupMap(array, 2 * array, array, array[0], array))
    assert np.array_equal(sink.kept("map", GroupMap).shift, 2 * array)
    content = (sink.partial / "map.safetensors").read_bytes()
    (sink.partial / "map.safetensors").write_bytes(content[:-1] + b"x")
    assert sink.kept("map", GroupMap) is None


@pytest.mark.parametrize("source", ["memory", "h5ad", "zarr"])
def test_anndata_reads_the_zarr(tmp_path, source, adata):
    adata.obs["number"], adata.obs["flag"] = np.arange(40.0), np.arange(40) % 2 == 0
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    path = tmp_path / f"in.{source}"
    if source != "memory":
        getattr(adata, f"write_{source}")(path)
    sink = FileSink(tmp_path / "out.zarr", (40, 3), 16, "Z")
    sink.begin("job", resume=True)
    add_obs(sink.result, adata.obs if source == "memory" else None, str(path))
    add_obs(sink.result, adata.obs if source == "memory" else None, str(path))
    sink.write(0, np.ones((16, 3), np.float32))
    sink.finish("job", {})
    found = anndata.read_zarr(sink.path)
    assert found.obs_names.equals(adata.obs_names)
    for column in adata.obs:
        assert (found.obs[column].to_numpy() == adata.obs[column].to_numpy()).all()
    assert found.obs["batch"].dtype == "category"
    assert found.obsm["Z"].sum() == 48


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("s3://bucket/out.zarr", ValueError, "is a URL"),
        ("missing/out.zarr", FileNotFoundError, "does not exist"),
        ("", ValueError, "is a folder"),
    ],
)
def test_bad_places_are_told(tmp_path, name, error, text):
    with pytest.raises(error, match=text):
        clean_path(name if "://" in name else tmp_path / name)


def test_a_name_without_a_suffix_is_a_numpy_file(tmp_path):
    assert clean_path(tmp_path / "out").name == "out.npy"
    assert clean_path(str(tmp_path / "out.zarr")).name == "out.zarr"
