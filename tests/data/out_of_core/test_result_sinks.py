"""Results in files: whole or not at all, and each finished chunk counts."""

from __future__ import annotations

import errno
import json
import pickle
import zlib

import anndata
import numpy as np
import pytest
import zarr

from muport.data._durable_files import claimed
from muport.data.out_of_core import _result_sinks as _sink
from muport.data.out_of_core._result_obs import add_obs
from muport.data.out_of_core._result_sinks import FileSink, MemorySink, clean_path, full_disk

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3) + 1

JOB = {"strength": 0.5}


@pytest.fixture(params=[".npy", ".zarr"])
def sink(request, tmp_path):
    path = tmp_path / f"out{request.param}"
    with claimed(path, resumable=True):
        yield FileSink(path, (20, 3), 4, "Z")


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
    sink.begin(JOB)
    store(sink, 0, 0, 8)
    assert not sink.path.exists()
    assert sink.is_done(0, 0, 8)
    assert not sink.is_done(1, 8, 16)
    copy = pickle.loads(pickle.dumps(sink))
    store(copy, 2, 16, 20)
    store(copy, 1, 8, 16)
    sink.finish({"score": 1.0})
    assert np.array_equal(np.asarray(sink.open()), ROWS)
    assert sink.is_whole()
    assert sink.finished()["job"] == JOB
    assert sink.finished()["metrics"] == {"score": 1.0}
    assert [path.name for path in sink.partial.iterdir()] == ["lock"]


def test_the_earlier_result_stays_until_the_new_one_is_whole(sink):
    for rows in (ROWS, ROWS + 1):
        sink.begin(JOB)
        for low in range(0, 20, 4):
            if sink.path.exists():
                assert np.array_equal(np.asarray(sink.open()), ROWS)
            sink.write(low, rows[low : low + 4])
        sink.commit(0, 0, 20, zlib.crc32(rows.tobytes()))
        sink.finish({})
        assert sink.is_whole()
        assert np.array_equal(np.asarray(sink.open()), rows)
    assert not sink.unfinished()


def test_a_result_that_changed_is_not_whole(sink):
    sink.begin(JOB)
    store(sink, 0, 0, 20)
    sink.finish({})
    damage(sink)
    assert not sink.is_whole()
    assert not FileSink(sink.path.with_name("none.npy"), (20, 3), 4).is_whole()


def damage(sink):
    if sink.is_zarr:
        zarr.open_array(sink.path / "obsm" / "Z", mode="r+")[3, 1] = 7
    else:
        np.load(sink.path, mmap_mode="r+")[3, 1] = 7


def test_a_result_on_disk_is_an_ordinary_array_and_the_file_never_changes(tmp_path):
    sink = FileSink(tmp_path / "out.npy", (20, 3), 4)
    with claimed(sink.path):
        sink.begin(JOB)
        store(sink, 0, 0, 20)
        sink.finish({})
    values = sink.open()
    assert type(values) is np.ndarray
    values[:] = 0
    assert sink.is_whole()
    assert np.array_equal(sink.open(), ROWS)


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_an_interrupted_job_goes_on(sink):
    assert sink.unfinished() == {}
    sink.begin(JOB)
    store(sink, 0, 0, 8)
    again = FileSink(sink.path, sink.shape, sink.piece, sink.key)
    assert again.unfinished()["job"] == JOB
    assert again.is_done(0, 0, 8)
    assert not again.is_done(0, 0, 12)
    again.describe({"strength": 1})
    assert sink.unfinished() == {"schema_version": 2, "job": {"strength": 1}}
    again.begin(JOB)
    assert not again.is_done(0, 0, 8)


def test_a_chunk_that_changed_is_not_done(sink):
    sink.begin(JOB)
    store(sink, 0, 0, 8)
    sink.write(4, ROWS[8:12])
    assert not sink.is_done(0, 0, 8)
    store(sink, 0, 0, 8)
    assert sink.is_done(0, 0, 8)
    for record in ("{", '{"start": 0, "stop": 8}'):
        (sink.partial / "done" / "000000000.json").write_text(record)
        assert not sink.is_done(0, 0, 8)


def test_something_else_is_no_result(sink):
    sink.path.write_text("mine")
    assert sink.finished() == {}
    assert sink.path.read_text() == "mine"


def test_a_disk_without_room_is_told_first(sink, monkeypatch):
    monkeypatch.setattr(_sink.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(OSError, match=r"the result takes 0.00 GB, and .* has 0.00 GB free") as error:
        sink.begin(JOB)
    assert error.value.errno == errno.ENOSPC
    assert [path.name for path in sink.partial.iterdir()] == ["lock"]


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    told = full_disk(OSError(errno.ENOSPC, "No space"), tmp_path / "out.zarr")
    assert told.errno == errno.ENOSPC
    assert "out.zarr.partial" in str(told)
    other = OSError(errno.EIO, "broken")
    assert full_disk(other, tmp_path) is other


def test_a_state_is_kept(sink):
    from muport.integration._fitted_state import GroupMap

    sink.begin(JOB)
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
    with claimed(sink.path):
        sink.begin(JOB)
        add_obs(sink.result, adata.obs if source == "memory" else None, str(path))
        add_obs(sink.result, adata.obs if source == "memory" else None, str(path))
        sink.write(0, np.ones((16, 3), np.float32))
        sink.finish({})
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
    assert clean_path(tmp_path / "a.b").name == "a.b.npy"
    (tmp_path / "c.zarr").mkdir()
    assert clean_path(tmp_path / "c.zarr") == tmp_path / "c.zarr"


def test_a_place_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clean_path("out.npy") == tmp_path / "out.npy"


def test_the_room_for_every_row_is_asked_for(sink, monkeypatch):
    asked = []

    def usage(path):
        asked.append(path)
        return type("Usage", (), {"free": free})()

    monkeypatch.setattr(_sink.shutil, "disk_usage", usage)
    free = 4 * 20 * 3
    sink.begin(JOB)
    assert asked == [sink.path.parent]
    free -= 1
    with pytest.raises(OSError, match="the result takes"):
        sink.begin(JOB)


def test_files_of_the_result(sink):
    assert sink.partial == sink.path.with_name(f"{sink.path.name}.partial")
    assert sink.result == sink.partial / f"result{sink.path.suffix}"
    sink.begin(JOB)
    assert sorted(path.name for path in sink.partial.iterdir()) == ["done", "job.json", "lock", sink.result.name]
    assert json.loads((sink.partial / "job.json").read_text()) == {"schema_version": 2, "job": JOB}
    store(sink, 3, 4, 10)
    assert json.loads((sink.partial / "done" / "000000003.json").read_text()) == {
        "start": 4,
        "stop": 10,
        "crc32": zlib.crc32(ROWS[4:10].tobytes()),
    }
    if sink.is_zarr:
        root = zarr.open_group(sink.result, mode="r")
        assert root.metadata.zarr_format == 3
        assert dict(root.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert dict(root["obsm"].attrs) == {"encoding-type": "dict", "encoding-version": "0.1.0"}
        assert dict(root["obsm/Z"].attrs) == {"encoding-type": "array", "encoding-version": "0.2.0"}
        assert root["obsm/Z"].chunks == (4, 3)
        assert not root["obsm/Z"].compressors
        assert root["obsm/Z"].dtype == np.float32
        names = [str(path.relative_to(sink.result)) for path in sink._files(4, 10)]
        assert names == ["obsm/Z/c/1/0", "obsm/Z/c/2/0"]
    else:
        rows = np.load(sink.result, mmap_mode="r")
        assert (rows.shape, rows.dtype) == ((20, 3), np.dtype("<f4"))
        assert rows.flags.c_contiguous
        assert np.array_equal(rows[4:10], ROWS[4:10])
        assert not rows[10:].any()
        assert sink._files(4, 10) == [sink.result]


def test_rows_are_on_the_disk_before_their_record(sink, monkeypatch):
    sink.begin(JOB)
    sink.write(0, ROWS[:4])
    synced = []
    monkeypatch.setattr(_sink, "sync", lambda path: synced.append((path, sink._record(0).exists())))
    sink.commit(0, 0, 4, 1)
    assert synced == [(path, False) for path in sink._files(0, 4)]
    assert len(synced) == 1


def test_rows_of_another_type_are_written(sink):
    sink.begin(JOB)
    sink.write(0, np.asfortranarray(ROWS.astype(np.float64))[:4])
    sink.write(16, ROWS[::-1][:4])
    found = np.asarray(sink._array()[:])
    assert np.array_equal(found[:4], ROWS[:4])
    assert np.array_equal(found[16:], ROWS[::-1][:4])


def test_a_whole_result_of_zeros(sink):
    sink.begin(JOB)
    zeros = np.zeros((20, 3), np.float32)
    for low in range(0, 20, 4):
        sink.write(low, zeros[low : low + 4])
    sink.commit(0, 0, 20, zlib.crc32(zeros.tobytes()))
    assert sink.is_done(0, 0, 20)
    sink.finish({})
    assert sink.is_whole()
    assert sink.finished()["checksums"] == [[0, 20, zlib.crc32(zeros.tobytes())]]


def test_a_result_without_checksums_is_not_whole(sink):
    sink.begin(JOB)
    sink.finish({})
    assert sink.finished()["checksums"] == []
    assert not sink.is_whole()


def test_the_checksums_are_those_of_the_chunks_in_order(sink):
    sink.begin(JOB)
    for number, start in ((10, 12), (2, 0)):
        store(sink, number, start, start + 8)
    sink.finish({"score": 1})
    assert [entry[:2] for entry in sink.finished()["checksums"]] == [[0, 8], [12, 20]]
    assert sink.finished().keys() == {"schema_version", "job", "metrics", "checksums"}
    beside = sorted(path.name for path in sink.path.parent.iterdir() if "partial" not in path.name)
    assert beside == ([sink.path.name] if sink.is_zarr else [sink.path.name, f"{sink.path.name}.json"])


def test_what_is_sent_to_another_process_is_closed(sink):
    sink.begin(JOB)
    store(sink, 0, 0, 8)
    assert sink._cache or not sink.is_zarr
    sent = pickle.loads(pickle.dumps(sink))
    assert sent == sink
    assert sent._cache == {}
    assert (sent.key, sent.piece, sent.shape) == ("Z", 4, (20, 3))


def test_an_opened_result_is_read_where_it_is_used(sink):
    sink.begin(JOB)
    store(sink, 0, 0, 20)
    sink.finish({})
    opened = sink.open()
    assert opened.shape == (20, 3)
    assert np.array_equal(np.asarray(opened[3:5]), ROWS[3:5])


def test_a_kept_value_of_a_newer_version_is_refused(sink):
    from muport.integration._fitted_state import GroupMap, Reference

    sink.begin(JOB)
    array = np.eye(3, dtype=np.float32)
    sink.keep("map", GroupMap(array, array, array, array[0], array))
    path = sink.partial / "map.json"
    document = json.loads(path.read_text())
    assert document.keys() == {"schema_version", "value", "sha256"}
    assert sink.kept("map", Reference) is None, "of another class"
    path.write_text(json.dumps({**document, "value": {**document["value"], "more": 1}}))
    assert sink.kept("map", GroupMap) is None
    path.write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(ValueError, match="map.json.*schema_version=99, newer than"):
        sink.kept("map", GroupMap)
    path.write_text(json.dumps({k: v for k, v in document.items() if k != "schema_version"}))
    assert sink.kept("map", GroupMap) is not None, "version 1 wrote no number"
    (sink.partial / "map.safetensors").unlink()
    assert sink.kept("map", GroupMap) is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk of '/data' is full"),
        (errno.EDQUOT, "the disk of '/data' is full"),
        (errno.EFBIG, "a file is larger than this process may write"),
    ],
)
def test_reasons_of_a_failed_write(code, reason):
    found = full_disk(OSError(code, "text"), _sink.Path("/data/out.npy"))
    assert found.errno == code
    assert str(found).count(reason) == 1
    assert "in 'out.npy.partial': free some space" in str(found)
