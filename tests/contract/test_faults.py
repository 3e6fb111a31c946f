"""Processes that are killed, disks that are full, folders that cannot be written: no output is ever half written.

``MUPORT_TRIES`` sets the number of kills of each operation. They are spread over its file operations: a process ends
itself just before the n-th of them.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from muport import Integration, cli, integrate_centroids
from muport.cli._data_files import write as write_data
from muport.data import _model_files
from muport.data._durable_files import claimed
from muport.data.out_of_core._result_sinks import FileSink

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed process is a fork of this one"),
    pytest.mark.filterwarnings("ignore:This process"),
]
TRIES = int(os.environ.get("MUPORT_TRIES", "6"))
SECONDS = 300  # after which a process hangs
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "ctypes.dlsym")
ARGS = {"verbose": False, "chunk_size": 100, "use_gpu": False, "max_iter": 3}
WHOLE = pytest.mark.promise("A killed process leaves the old output or the new one, and never half of one")


def cells(seed: int = 0, n: int = 300) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"batch": [f"b{i % 2}" for i in range(n)]}, index=[f"c{i}" for i in range(n)])
    adata = anndata.AnnData(np.zeros((n, 1), np.float32), obs)
    adata.obsm["X_pca"] = (rng.normal(size=(n, 5)) + np.arange(n)[:, None] % 3 * 4).astype(np.float32)
    return adata


def in_child(call, event: int | None = None, number: int = signal.SIGKILL) -> int:
    """Run `call` in a fork that sends itself a signal before its n-th file operation; return its exit code.

    Without an `event` the exit code of a complete run is 0, or that of `call`.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if event is not None:
                end_at(event, number)
            code = call() or 0
        except BaseException as error:  # noqa: BLE001, the code is all that the parent gets
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the process hangs")


def end_at(event: int, number: int) -> None:
    left = [event]

    def hook(name: str, _: tuple) -> None:
        if name in FILE_EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def count_events(call, folder: Path) -> int:
    """Number of file operations of a complete run."""

    def counted() -> None:
        events = []
        sys.addaudithook(lambda name, _: events.append(name) if name in FILE_EVENTS else None)
        call()
        (folder / "events").write_text(str(len(events)))

    assert in_child(counted) == 0
    n = int((folder / "events").read_text())
    (folder / "events").unlink()
    return n


class Outputs:
    """An operation that replaces an old output, and what its output may be."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.path = folder / {"model": "model", "data": "a.h5ad", "folder": "a.zarr"}.get(kind, f"r.{kind}")
        self.data = [cells(0), cells(1)]
        if kind == "model":
            self.models = []
            for data in self.data:
                Integration.setup_anndata(data, use_rep="X_pca", batch_key="batch")
                self.models.append(Integration(data))
                self.models[-1].train(progress=False, max_iter=2)

    def write(self, which: int) -> None:
        if self.kind == "model":
            self.models[which].save(self.path, overwrite=True, save_anndata=True)
        elif self.kind in ("data", "folder"):
            with claimed(self.path):
                write_data(self.data[which].copy(), self.path)
        else:
            integrate_centroids(self.data[which].copy(), tmp_path=self.path, overwrite=True, **ARGS)

    def read(self) -> np.ndarray:
        """What is at the path; raises an error if it is not whole."""
        if self.kind == "model":
            return Integration.load(self.path).get_latent_representation()
        if self.kind == "data":
            return anndata.read_h5ad(self.path).obsm["X_pca"]
        if self.kind == "folder":
            return anndata.read_zarr(self.path).obsm["X_pca"]
        assert self.kind == "npy" or FileSink(self.path, (300, 5), 100, "scBIOT").is_whole()
        return np.load(self.path) if self.kind == "npy" else anndata.read_zarr(self.path).obsm["scBIOT"]


@WHOLE
@pytest.mark.parametrize("kind", ["npy", "zarr", "model", "data", "folder"])
def test_killed_while_an_output_is_replaced(tmp_path, record_property, kind):
    outputs = Outputs(tmp_path, kind)
    outputs.write(1)
    new = outputs.read()
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    outputs.write(0)
    old = outputs.read()
    assert not np.array_equal(old, new)
    shutil.copytree(tmp_path, saved := tmp_path.with_name(f"{tmp_path.name}-saved"))
    n_events = count_events(lambda: outputs.write(1), tmp_path)
    found = []
    for event in np.linspace(1, n_events, TRIES).astype(int):
        shutil.rmtree(tmp_path)
        shutil.copytree(saved, tmp_path)
        code = in_child(lambda: outputs.write(1), int(event))
        assert code in (0, -signal.SIGKILL)
        result = outputs.read()
        found.append("old" if np.array_equal(result, old) else "new" if np.array_equal(result, new) else "half")
        if event % 3 == 0 or "half" in found:
            # what was left blocks nothing, and is removed
            outputs.write(1)
            assert np.array_equal(outputs.read(), new)
            names = {path.name for path in tmp_path.iterdir()}
            assert names <= {outputs.path.name, "r.npy.json"}
    assert set(found) <= {"old", "new"}
    record_property("tries", len(found))


@WHOLE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["atlas", "integrate"])
def test_a_command_that_is_stopped(tmp_path, record_property, number, command, capfd):
    cells().write_h5ad(tmp_path / "in.h5ad")
    out = tmp_path / ("r.zarr" if command == "atlas" else "r.h5ad")
    argv = [
        command,
        str(tmp_path / "in.h5ad"),
        "-o",
        str(out),
        "--force",
        "--quiet",
        "--max-iter",
        "2",
        "--batch-key",
        "batch",
    ]
    assert cli.main(argv) == 0
    before = sorted(str(path) for path in out.rglob("*")) or out.read_bytes()
    n_events = count_events(lambda: cli.main(argv), tmp_path)
    tries = max(2, TRIES // 2)
    for event in np.linspace(n_events // 4, 0.9 * n_events, tries).astype(int):
        assert cli.main(argv) == 0
        capfd.readouterr()
        code = in_child(lambda: cli.main(argv), int(event), number)
        message = capfd.readouterr().err
        if code:
            assert code == 128 + number, message
            word = "interrupted" if number == signal.SIGINT else "terminated"
            assert message.rstrip().splitlines()[-1].startswith((f"muport {command}: {word}", f"muport: {word}"))
        assert out.exists()
        if command == "integrate":
            # stopped while it tidies up, it leaves a folder that the next run removes
            assert {path.name for path in tmp_path.iterdir()} <= {"in.h5ad", "r.h5ad", "r.h5ad.partial"}
            assert anndata.read_h5ad(out).n_obs == 300
    assert cli.main(argv) == 0
    assert before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.h5ad", out.name])
    record_property("tries", tries)


@pytest.mark.promise("A full disk is reported, the old output stays, and the next run is not blocked")
@pytest.mark.parametrize("kind", ["npy", "zarr", "model", "data", "folder"])
def test_a_full_disk(tmp_path, record_property, kind):
    outputs = Outputs(tmp_path, kind)
    outputs.write(0)
    old = outputs.read()

    def limited(size: int) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            outputs.write(1)
        except OSError:
            return 3
        return 0

    sizes = [100, 700, 2_000]
    for size in sizes:
        assert in_child(lambda size=size: limited(size)) == 3
        assert np.array_equal(outputs.read(), old)
    outputs.write(1)
    assert not np.array_equal(outputs.read(), old)
    assert {path.name for path in tmp_path.iterdir()} <= {outputs.path.name, "r.npy.json"}
    record_property("tries", len(sizes))


@pytest.mark.promise("A folder that cannot be written is refused before anything is computed")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("kind", ["npy", "zarr", "model"])
def test_a_folder_that_cannot_be_written(record_property, kind):
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        outputs = Outputs(folder, kind)

        def refused() -> int:
            os.setuid(65534)
            start = time.process_time()
            try:
                outputs.write(0)
            except PermissionError:
                return 3 if time.process_time() - start < 1 else 4
            return 5

        assert in_child(refused) == 3
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)
    record_property("tries", 1)


@pytest.mark.promise("Of several processes that write one output, one wins and the others are refused")
@pytest.mark.parametrize("kind", ["npy", "model", "data"])
def test_an_output_that_another_process_writes(tmp_path, record_property, kind):
    outputs = Outputs(tmp_path, kind)

    def refused() -> int:
        try:
            outputs.write(0)
        except FileExistsError as error:
            return 3 if "being written by another process" in str(error) else 4
        return 5

    with claimed(outputs.path):
        assert in_child(refused) == 3
    outputs.write(0)
    record_property("tries", 1)


@pytest.mark.promise("A result on disk is returned only for the very same cells, arguments and version")
@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_the_input_changed_after_a_kill(tmp_path, record_property, kind):
    outputs = Outputs(tmp_path, kind)
    call = {"tmp_path": outputs.path, **ARGS}
    n_events = count_events(lambda: integrate_centroids(cells(), **call), tmp_path)
    expected = np.asarray(integrate_centroids(cells(1), **ARGS)[0].obsm["scBIOT"])
    tries = refused = 0
    for event in np.linspace(1, n_events, max(3, TRIES // 2)).astype(int):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        in_child(lambda: integrate_centroids(cells(), **call), int(event))
        try:
            found = integrate_centroids(cells(1), **call)[0].obsm["scBIOT"]
        except FileExistsError:
            with pytest.raises(FileExistsError, match="the coordinates of the cells differ"):
                integrate_centroids(cells(1), **call)
            refused += 1
            found = integrate_centroids(cells(1), overwrite=True, **call)[0].obsm["scBIOT"]
        assert np.array_equal(np.asarray(found), expected)
        tries += 1
    assert refused
    record_property("tries", tries)


def test_the_harness_kills(tmp_path):
    def write() -> None:
        _model_files.sync(tmp_path)
        (tmp_path / "first").write_text("x")
        (tmp_path / "second").write_text("x")

    n_events = count_events(write, tmp_path)
    (tmp_path / "first").unlink()
    (tmp_path / "second").unlink()
    assert in_child(write, n_events) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
