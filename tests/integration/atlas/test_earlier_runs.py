"""A result on disk is that of this very call, or the call is refused with what differs."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from muport import integrate_centroids
from muport.data.out_of_core._result_sinks import FileSink
from muport.integration.atlas import _integrate_centroids as atlas

QUIET = {"verbose": False, "chunk_size": 150, "use_gpu": False, "label_key": "cell_type"}
PROMISE = pytest.mark.promise("A result on disk is returned only for the very same cells, arguments and version")


@pytest.fixture(scope="module")
def cells(kit):
    return kit.as_anndata(kit.draw(n=600, n_batches=3))


def shift_one_value(cells):
    cells.obsm["X_pca"][411, 2] += 0.5


def swap_labels(cells):
    cells.obs["cell_type"] = np.roll(cells.obs["cell_type"].to_numpy(dtype=object), 1)


def change_a_batch(cells):
    values = cells.obs["batch"].to_numpy(dtype=object)
    values[7] = "b9"
    cells.obs["batch"] = values


def rename_a_cell(cells):
    cells.obs_names = ["other", *cells.obs_names[1:]]


CHANGES = {
    "coordinates": (shift_one_value, {}, "the coordinates of the cells differ"),
    "labels": (swap_labels, {}, "the labels of the cells differ"),
    "batch": (change_a_batch, {}, "the batches of the cells differ"),
    "names": (rename_a_cell, {}, "the names of the cells differ"),
    "no labels": (None, {"label_key": None}, "the labels of the cells differ"),
    "strength": (None, {"strength": 0.3}, "strength was 0.5 and is 0.3"),
    "seed": (None, {"random_state": 1}, "random_state was 0 and is 1"),
    "reference": (None, {"reference": "largest"}, "reference was 'auto' and is 'largest'"),
    "key": (None, {"out_key": "Z"}, "out_key was 'scBIOT' and is 'Z'"),
    "unit": (None, {"modality": "atac"}, "the coordinates of the cells differ"),
    "version": (None, {}, "version was '0.0.1' and is"),
}


@PROMISE
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kept", ["finished", "unfinished"])
def test_another_call_is_refused_with_what_differs(cells, tmp_path, monkeypatch, record_property, change, kept):
    edit, kwargs, message = CHANGES[change]
    data = cells.copy()
    if change == "version":
        monkeypatch.setattr(atlas, "version", lambda _: "0.0.1")
    if kept == "unfinished":
        stop_before_the_end(monkeypatch)
        with pytest.raises(InterruptedError):
            integrate_centroids(data, tmp_path=tmp_path / "r.zarr", **QUIET)
    else:
        integrate_centroids(data, tmp_path=tmp_path / "r.zarr", **QUIET)
    monkeypatch.undo()
    if edit is not None:
        edit(data)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=message):
        integrate_centroids(data, tmp_path=tmp_path / "r.zarr", **QUIET | kwargs)
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.name != "lock") == [
        path for path in before if not path.endswith("lock")
    ]
    record_property("tries", 1)


def stop_before_the_end(monkeypatch):
    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(FileSink, "finish", stop)


@PROMISE
@pytest.mark.parametrize("kept", ["finished", "unfinished"])
def test_it_is_replaced_where_that_is_asked_for(cells, tmp_path, monkeypatch, kept):
    data, path = cells.copy(), tmp_path / "r.zarr"
    if kept == "unfinished":
        stop_before_the_end(monkeypatch)
        with pytest.raises(InterruptedError):
            integrate_centroids(data, tmp_path=path, **QUIET)
        monkeypatch.undo()
    else:
        integrate_centroids(data, tmp_path=path, **QUIET)
    shift_one_value(data)
    expected = integrate_centroids(data.copy(), **QUIET)[0].obsm["scBIOT"]
    integrate_centroids(data, tmp_path=path, **QUIET | {"overwrite": True})
    assert np.array_equal(anndata.read_zarr(path).obsm["scBIOT"], expected)
    assert [item.name for item in tmp_path.iterdir()] == ["r.zarr"]


def test_start_again(cells, tmp_path, monkeypatch):
    data = cells.copy()
    stop_before_the_end(monkeypatch)
    with pytest.raises(InterruptedError):
        integrate_centroids(data, tmp_path=tmp_path / "r.npy", strength=0.2, **QUIET)
    monkeypatch.undo()
    found = integrate_centroids(data, tmp_path=tmp_path / "r.npy", resume=False, **QUIET)[0].obsm["scBIOT"]
    assert np.array_equal(found, integrate_centroids(cells.copy(), **QUIET)[0].obsm["scBIOT"])
    with pytest.raises(FileExistsError, match="resume=False asks for a new one"):
        integrate_centroids(data, tmp_path=tmp_path / "r.npy", resume=False, **QUIET)


def test_a_result_that_was_changed_is_not_returned(cells, tmp_path):
    path = tmp_path / "r.npy"
    integrate_centroids(cells.copy(), tmp_path=path, **QUIET)
    np.load(path, mmap_mode="r+")[500, 3] += 1
    with pytest.raises(FileExistsError, match="rows were changed or damaged"):
        integrate_centroids(cells.copy(), tmp_path=path, **QUIET)


def test_a_file_of_someone_else_is_never_replaced_unasked(cells, tmp_path):
    (tmp_path / "r.npy").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the result of this very call: it was not written by"):
        integrate_centroids(cells.copy(), tmp_path=tmp_path / "r.npy", **QUIET)
    assert (tmp_path / "r.npy").read_text() == "mine"


def test_the_input_is_not_its_own_result(cells, tmp_path):
    cells.write_zarr(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match="is the input, which is never changed"):
        integrate_centroids(tmp_path / "a.zarr", tmp_path=tmp_path / "a.zarr", overwrite=True, **QUIET)
    assert anndata.read_zarr(tmp_path / "a.zarr").n_obs == 600
