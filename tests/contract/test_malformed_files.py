"""Malformed files and options of the commands: one line of reason, an exit code, and no file written or changed."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import zarr

import muport
from muport import cli

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.promise("Malformed files and options are refused in one line, and nothing is written"),
]

SECONDS = 5.0  # a refusal takes milliseconds; the limit holds on a busy machine
N = 24
#: command -> the file it reads, the name of its output, and its options.
COMMANDS: dict[str, tuple[str, str, list[str]]] = {
    "integrate": ("cells.h5ad", "out.h5ad", ["--batch-key", "batch"]),
    "transfer": ("cells.h5ad", "out.h5ad", ["--labels-key", "type", "--batch-key", "batch"]),
    "atlas": ("cells.h5ad", "out.npy", []),
    "gmm": ("cells.h5ad", "out.h5ad", ["--condition-key", "condition"]),
    "velocity": ("cells.h5ad", "out.h5ad", ["--time-key", "time"]),
    "info": ("cells.h5ad", "", []),
}


def cells() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(N)])
    obs["batch"] = pd.Categorical([f"b{i % 2}" for i in range(N)])
    obs["type"] = pd.Categorical([f"t{i % 3}" for i in range(N)])
    obs["sample"] = pd.Categorical([f"s{i % 4}" for i in range(N)])
    obs["condition"] = pd.Categorical([f"k{i % 2}" for i in range(N)])
    obs["time"] = np.linspace(0, 1, N)
    adata = anndata.AnnData(rng.poisson(1.0, (N, 3)).astype(np.float32), obs)
    adata.obsm["X_pca"] = rng.normal(size=(N, 4)).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """The right files, from which the malformed ones are made."""
    folder = tmp_path_factory.mktemp("originals")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells().write(folder / "cells.h5ad")
        cells().write_zarr(folder / "cells.zarr")
        atac = cells()
        atac.obs_names = [f"d{i}" for i in range(N)]
        atac.var_names = [f"p{i}" for i in range(3)]
        mudata.MuData({"rna": cells(), "atac": atac}).write(folder / "two.h5mu")
    # what is imported at the first call is no part of a refusal
    for model in (muport.Integration, muport.GMM, muport.Velocity, muport.integrate_centroids):
        assert model
    cli.main(["info", str(folder / "cells.h5ad"), "--json"])
    return folder


class Folder:
    """A folder in which the commands are called; what is in it must stay as it was."""

    def __init__(self, path: Path, originals: Path) -> None:
        self.path, self.originals = path, originals
        self.faults: dict[str, str] = {}

    def copy(self, name: str, to: str | None = None) -> Path:
        source, target = self.originals / name, self.path / (to or name)
        return shutil.copytree(source, target) if source.is_dir() else Path(shutil.copy(source, target))

    def clear(self) -> None:
        shutil.rmtree(self.path)
        self.path.mkdir()

    def add(self, case: str, argv: list[str], capsys: Any, *, must: bool = True) -> None:
        """Call a command, and note what is wrong with its answer."""
        before, start = self._state(), time.process_time()
        capsys.readouterr()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = cli.main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:  # noqa: BLE001 - every other error is a fault to report
            self.faults[case] = f"{type(error).__name__}: {error}"
            return
        seconds, printed = time.process_time() - start, capsys.readouterr().err
        if code == 0:
            self.faults[case] = "accepted" if must else ""
        elif (
            "Traceback" in printed or printed.rstrip().count("error: ") != 1 or (code == 1 and printed.count("\n") != 1)
        ):
            self.faults[case] = f"prints {printed[:300]!r}"
        elif seconds > SECONDS:
            self.faults[case] = f"took {seconds:.1f} s"
        else:
            self.faults[case] = "" if self._state() == before else "a file was written or changed"

    def _state(self) -> dict[str, Any]:
        return {
            str(path.relative_to(self.path)): (path.lstat().st_mtime_ns, path.lstat().st_size if path.is_file() else 0)
            for path in sorted(self.path.rglob("*"))
            # atlas keeps the chunks that are done in this folder, from which the next call goes on
            if not any(part.endswith(".partial") for part in path.relative_to(self.path).parts)
        }

    def judge(self, record_property: Callable[[str, object], None]) -> None:
        record_property("tries", len(self.faults))
        assert {case: text for case, text in self.faults.items() if text} == {}


@pytest.fixture
def folder(tmp_path, originals, monkeypatch) -> Folder:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path / "work", originals)


def argv_of(command: str, path: Path, folder: Folder, *more: str) -> list[str]:
    _, out, options = COMMANDS[command]
    return [command, str(path), *(["-o", str(folder.path / out)] if out else []), *options, *more]


# --- files -------------------------------------------------------------------------------------------------------
def written(content: bytes, name: str = "cells.h5ad") -> Callable[[Folder], Path]:
    def make(folder: Folder) -> Path:
        (folder.path / name).write_bytes(content)
        return folder.path / name

    return make


def truncated(part: float, name: str = "cells.h5ad") -> Callable[[Folder], Path]:
    def make(folder: Folder) -> Path:
        path = folder.copy(name)
        os.truncate(path, int(path.stat().st_size * part))
        return path

    return make


def edited(change: Callable[[Any], None], name: str = "cells.h5ad") -> Callable[[Folder], Path]:
    """Change a copy of an HDF5 or zarr file."""

    def make(folder: Folder) -> Path:
        path = folder.copy(name)
        if path.is_dir():
            change(zarr.open_group(path, mode="r+", use_consolidated=False))
            zarr.consolidate_metadata(path)
        else:
            with h5py.File(path, "r+") as file:
                change(file)
        return path

    return make


def put(key: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        attributes = dict(file[key].attrs)
        del file[key]
        file[key] = value
        file[key].attrs.update(attributes)

    return change


def drop(key: str) -> Callable[[Any], None]:
    return lambda file: file.__delitem__(key)


def renamed(name: str, to: str) -> Callable[[Folder], Path]:
    return lambda folder: folder.copy(name, to)


def folder_of(name: str) -> Callable[[Folder], Path]:
    def make(folder: Folder) -> Path:
        (folder.path / name).mkdir()
        return folder.path / name

    return make


def spoiled_metadata(content: str) -> Callable[[Folder], Path]:
    def make(folder: Folder) -> Path:
        path = folder.copy("cells.zarr")
        (path / "zarr.json").write_text(content)
        return path

    return make


X = "obsm/X_pca"
#: name: (the file, commands that may accept it; ``info`` reads less of a file than the others do)
FILES: dict[str, tuple[Callable[[Folder], Path], set[str]]] = {
    "no file": (lambda f: f.path / "no.h5ad", set()),
    "a folder": (folder_of("cells.h5ad"), set()),
    "an empty file": (written(b""), set()),
    "text": (written(b"gene,cell\n1,2\n"), set()),
    "random bytes": (written(np.random.default_rng(0).bytes(5000)), set()),
    "only the signature": (written(b"\x89HDF\r\n\x1a\n"), set()),
    "a table": (written(b"a,b\n1,2\n", "cells.csv"), set()),
    "an array": (written(b"\x93NUMPY", "cells.npy"), set()),
    "no suffix": (renamed("cells.h5ad", "cells"), set()),
    "another suffix": (renamed("cells.h5ad", "cells.h5"), set()),
    "upper case suffix": (renamed("cells.h5ad", "cells.H5AD"), set()),
    "AnnData called h5mu": (renamed("cells.h5ad", "cells.h5mu"), {"atlas"}),
    "a file called zarr": (renamed("cells.h5ad", "cells.zarr"), set()),
    "a folder called zarr": (folder_of("cells.zarr"), set()),
    "zarr called h5ad": (renamed("cells.zarr", "cells.h5ad"), set()),
    "an empty h5mu": (written(b"", "two.h5mu"), set()),
    **{f"first {part:.0%}": (truncated(part), set()) for part in (0.02, 0.1, 0.5, 0.9, 0.99)},
    **{f"first {part:.0%} of a h5mu": (truncated(part, "two.h5mu"), set()) for part in (0.02, 0.5, 0.9)},
    "no obs": (edited(drop("obs")), {"info"}),
    "no representation": (edited(drop(X)), {"info"}),
    "a representation too short": (edited(put(X, np.zeros((N - 2, 4), "f4"))), set()),
    "a representation too long": (edited(put(X, np.zeros((N + 2, 4), "f4"))), set()),
    "a representation of one axis": (edited(put(X, np.zeros(N, "f4"))), set(COMMANDS)),
    "a representation of text": (edited(put(X, np.full((N, 4), b"x"))), {"info"}),
    "a representation with NaN": (edited(put(X, np.full((N, 4), np.nan, "f4"))), {"info"}),
    "a representation without columns": (edited(put(X, np.zeros((N, 0), "f4"))), {"info"}),
    "a representation that is one number": (edited(put(X, np.float32(1))), set()),
    "a representation that is a group": (edited(lambda f: (drop(X)(f), f.create_group(X))), {"info"}),
    "codes beyond the categories": (edited(put("obs/batch/codes", np.full(N, 9, "i1"))), set()),
    "codes too short": (edited(put("obs/batch/codes", np.zeros(N - 3, "i1"))), set()),
    "no categories": (edited(drop("obs/batch/categories")), set()),
    "cells without a batch": (edited(put("obs/batch/codes", np.full(N, -1, "i1"))), {"gmm", "velocity", "info"}),
    "another encoding": (edited(lambda f: f["obs/batch"].attrs.update({"encoding-type": "no"})), {"atlas"}),
    "a newer encoding": (edited(lambda f: f["obs/batch"].attrs.update({"encoding-version": "9.9"})), {"atlas"}),
    "repeated names": (edited(put("obs/_index", np.array([b"c0"] * N, "S2"))), {"info", "atlas"}),
    "names too short": (edited(put("obs/_index", np.array([b"c0"] * 3, "S2"))), set()),
    "no names": (edited(drop("obs/_index")), set()),
    "metadata that is no JSON": (spoiled_metadata("{"), set()),
    "empty metadata": (spoiled_metadata(""), set()),
    "metadata of another format": (spoiled_metadata('{"zarr_format": 9, "node_type": "group"}'), set()),
    "metadata that is a list": (spoiled_metadata("[]"), set()),
    "zarr, a representation too short": (edited(put(X, np.zeros((N - 2, 4), "f4")), "cells.zarr"), set()),
    "zarr, without obs": (edited(drop("obs"), "cells.zarr"), {"info"}),
    "h5mu without modalities": (edited(drop("mod"), "two.h5mu"), set()),
    "h5mu without one modality": (edited(drop("mod/rna"), "two.h5mu"), {"info", "atlas"}),
    "h5mu, a modality without obs": (edited(drop("mod/rna/obs"), "two.h5mu"), {"info"}),
    "h5mu with two modalities": (renamed("two.h5mu", "two.h5mu"), {"info", "integrate", "transfer"}),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_files(command, folder, capsys, record_property):
    for case, (make, accepted) in FILES.items():
        folder.clear()
        try:
            path = make(folder)
        except ValueError:  # zarr stores no such array
            continue
        folder.add(case, argv_of(command, path, folder), capsys, must=command not in accepted)
    folder.judge(record_property)


# --- options -----------------------------------------------------------------------------------------------------
WRONG_NUMBERS = ["-1", "nan", "inf", "x", "", "1e400", "9" * 400, "0x1", "1,5"]
#: option -> wrong values, for the commands that have it.
OPTIONS: dict[str, list[str]] = {
    "--seed": ["-1", "1.5", "x", "", str(2**32), "9" * 400],
    "--max-iter": ["0", "-1", "1.5", "x", "9" * 5000],
    **dict.fromkeys(
        ("--strength", "--conservation", "--prototypes", "--sharpen", "--supervision", "--projector"), WRONG_NUMBERS
    ),
    "--steps": ["0", "-1", "x", "1.5"],
    "--components": ["0", "-1", "x"],
    "--folds": ["-1", "1", "x"],
    "--threshold": ["-1", "2", "nan", "x"],
    "--centroids": ["0", "-1", "x"],
    "--samples": ["0", "-1", "x"],
    "--k-interp": ["0", "-1", "x"],
    "--chunk-size": ["0", "-1", "x"],
    "--batch-key": ["no", "rna:no", "Ключ"],
    "--labels-key": ["no", ""],
    "--sample-key": ["no", ""],
    "--condition-key": ["no", ""],
    "--time-key": ["no", "", "type"],
    "--use-rep": ["no", "rna=X_pca", "=", "X_pca=", ""],
    "--shared-rep": ["X_pca", "="],
    "--obsm-key": ["no", ""],
    "--modality": ["no"],
    "--reference": ["no", ""],
    "--refine": ["no"],
    "--load": ["no", ".", "cells.h5ad"],
    "--root": ["no"],
    "--basis": ["no"],
    "--terminal": ["no"],
    "--config": ["no.yaml", ".", "cells.h5ad"],
    "--no-such-option": ["1"],
    "-o": ["", "out.csv", "no/out.h5ad", "cells.h5ad", "out", "out.h5mu", "cells.h5ad/out.h5ad"],
}  # fmt: skip


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "info"])
def test_options(command, folder, capsys, record_property, monkeypatch):
    folder.clear()
    path = folder.copy("cells.h5ad")
    monkeypatch.chdir(folder.path)
    known = cli._main._parser()[1][command]
    options = {word for action in known._actions for word in action.option_strings} | {"--no-such-option"}
    labels = ["--labels-key", "type"]
    for option, values in OPTIONS.items():
        for value in values if option in options else []:
            given = [option, value] if option == "-o" else [f"{option}={value}"]
            argv = [*argv_of(command, path, folder, *(labels if option == "--root" else [])), *given]
            folder.add(f"{option} {value[:20]}", argv, capsys)
    texts = ("", "[]", "no: 1", "seed: x", "{", "seed: [1, 2]", "json: maybe", "\x00", "config: a.yaml")
    for i, text in enumerate(texts):
        (folder.path / "c.yaml").write_text(text)
        argv = argv_of(command, path, folder, "--config", str(folder.path / "c.yaml"))
        folder.add(f"config {i} {text!r}", argv, capsys)
    folder.judge(record_property)
