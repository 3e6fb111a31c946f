"""The chunks as tasks of a dask cluster; left out without dask."""

from __future__ import annotations

import os
import signal
import threading
import time

import anndata
import numpy as np
import pytest

from muport import integrate_centroids

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::distributed")]
ARGS = {"verbose": False, "chunk_size": 100, "use_gpu": False}


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def cells(kit):
    return kit.as_anndata(kit.draw(n=2_000, n_batches=3))


@pytest.fixture(scope="module")
def wanted(cells):
    return integrate_centroids(cells.copy(), **ARGS)[0].obsm["scBIOT"]


@pytest.mark.parametrize("kind", ["file", "memory", "dask"])
def test_two_workers_give_the_same(client, cells, wanted, tmp_path, kind):
    data = cells.copy()
    if kind == "dask":
        from dask.array import from_array

        data.obsm["X_pca"] = from_array(cells.obsm["X_pca"], chunks=(70, 8))
    if kind == "file":
        data.write_zarr(tmp_path / "in.zarr")
        data = tmp_path / "in.zarr"
    integrate_centroids(data, tmp_path=tmp_path / "out.zarr", client=client, **ARGS)
    assert np.abs(anndata.read_zarr(tmp_path / "out.zarr").obsm["scBIOT"] - wanted).max() <= 1e-5


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_a_worker_that_is_killed_changes_nothing(client, cells, wanted, tmp_path):
    cells.write_zarr(tmp_path / "in.zarr")
    victim = next(iter(client.run(os.getpid).values()))
    done = tmp_path / "out.zarr.partial" / "done"
    killed = []

    def kill():
        end = time.monotonic() + 120
        while time.monotonic() < end and not (done.exists() and len(list(done.iterdir())) > 2):
            time.sleep(0.002)
        killed.append(not (tmp_path / "out.zarr").exists())
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    integrate_centroids(tmp_path / "in.zarr", tmp_path=tmp_path / "out.zarr", client=client, **ARGS)
    killer.join()
    assert killed == [True]
    assert np.abs(anndata.read_zarr(tmp_path / "out.zarr").obsm["scBIOT"] - wanted).max() <= 1e-5
