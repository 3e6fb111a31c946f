from __future__ import annotations

import json
import pickle
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from muport.data import _model_files as _files
from muport.data._model_files import read_model, write_model

DOCUMENT = {"class": "X", "versions": {}, "init_params": {}, "registry": {}, "attributes": {}, "state": {}}
TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3)}


def write(folder: Path, tensors=TENSORS, overwrite=False, prefix="", data=None) -> None:
    write_model(folder, prefix, DOCUMENT, tensors, overwrite, data)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "m")
    return tmp_path / "m"


def edit(folder: Path, sign: bool = True, **changes) -> None:
    path = folder / "model.json"
    document = json.loads(path.read_text())
    document = {k: v for k, v in {**document, **changes}.items() if v is not ...}
    if sign:
        document.pop("checksum", None)
        document["checksum"] = _files._checksum(document)
    path.write_text(json.dumps(document))


def test_written_files_and_their_contents(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    document, tensors = read_model(folder, "")
    assert document["class"] == "X"
    assert all(np.array_equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items())
    other = folder.parent / "new"
    other.mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["m", "new"]


def test_overwriting_is_asked_for_and_leaves_other_files(folder):
    with pytest.raises(ValueError, match="already exists"):
        write(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "my_model.safetensors").write_text("mine")
    for value in range(3):
        write(folder, {"a": np.full(2, value)}, overwrite=True)
        assert read_model(folder, "")[1]["a"].tolist() == [value, value]
        assert len(list(folder.iterdir())) == 4


def test_prefixes_share_a_folder(folder):
    write(folder, {"a": np.zeros(1)}, overwrite=True, prefix="p_")
    write(folder, {"a": np.ones(1)}, overwrite=True, prefix="p_")
    assert read_model(folder, "p_")[1]["a"].tolist() == [1]
    assert read_model(folder, "")[1].keys() == TENSORS.keys()
    for prefix in ("../", "a/b", "/etc/"):
        with pytest.raises(ValueError, match="plain file name"):
            write(folder, overwrite=True, prefix=prefix)
        with pytest.raises(ValueError, match="plain file name"):
            read_model(folder, prefix)


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
@pytest.mark.parametrize("call", range(1, 9))
def test_an_interrupted_save_leaves_the_earlier_model(folder, monkeypatch, call):
    calls = iter(range(1, 100))
    sync = _files.sync

    def failing(path):
        if next(calls) == call:
            raise KeyboardInterrupt
        sync(path)

    def writer(path):
        path.write_text("data")

    write(folder, {"a": np.zeros(1)}, overwrite=True, data=("mdata.h5mu", writer))
    monkeypatch.setattr(_files, "sync", failing)
    try:
        write(folder, {"a": np.ones(1)}, overwrite=True, data=("mdata.h5mu", writer))
        value = 1
    except KeyboardInterrupt:
        value = None
    document, tensors = read_model(folder, "")
    assert tensors["a"].tolist() == [value if value is not None else (1 if call > 3 else 0)]
    assert (folder / document["data"]).read_text() == "data"
    assert [p.name for p in folder.parent.iterdir()] == ["m"], "nothing is left beside the model"


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_an_interruption_between_the_moves(folder, monkeypatch):
    moved = []
    replace = Path.replace

    def stop_before_document(self, target):
        if self.name == "model.json":
            raise KeyboardInterrupt
        moved.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop_before_document)
    with pytest.raises(KeyboardInterrupt):
        write(folder, {"a": np.ones(1)}, overwrite=True)
    assert moved
    assert read_model(folder, "")[1].keys() == TENSORS.keys()


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(_files, "sync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "last byte": (lambda f: flip(f / "model.safetensors", -1), ValueError, "tensor '[ab]'.*checksum"),
    "header": (lambda f: flip(f / "model.safetensors", 3), ValueError, "safetensors"),
    "empty tensors": (lambda f: (f / "model.safetensors").write_bytes(b""), ValueError, "safetensors"),
    "no tensors": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "incomplete"),
    "no document": (lambda f: (f / "model.json").unlink(), FileNotFoundError, "no saved model"),
    "no folder": (lambda f: shutil.rmtree(f), FileNotFoundError, "no saved model"),
    "half document": (lambda f: (f / "model.json").write_text("{"), ValueError, "not a JSON"),
    "other document": (lambda f: (f / "model.json").write_text("[1]"), ValueError, "schema_version"),
    "unsigned edit": (lambda f: edit(f, sign=False, state={"x": 1}), ValueError, "checksum"),
    "newer": (lambda f: edit(f, schema_version=99), ValueError, r"99.*newer.*saved by a newer muport: update muport"),
    "no state": (lambda f: edit(f, state=...), ValueError, r"lacks \['state'\]"),
    "traversal": (lambda f: edit(f, tensors={"file": "../../secret", "entries": {}}), ValueError, "plain file name"),
    "absolute path": (lambda f: edit(f, tensors={"file": "/etc/passwd", "entries": {}}), ValueError, "plain file name"),
    "hidden tensors": (
        lambda f: edit(f, tensors={"file": "model.safetensors", "entries": {}}),
        ValueError,
        "other tensors",
    ),
}


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told(folder, case):
    spoil, error, message = DAMAGE[case]
    spoil(folder)
    with pytest.raises(error, match=message):
        read_model(folder, "")


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_lie_about_the_shape_is_caught_before_reading(folder):
    entries = json.loads((folder / "model.json").read_text())["tensors"]["entries"]
    entries["a"]["shape"] = [10**9, 10**9]
    edit(folder, tensors={"file": "model.safetensors", "entries": entries})
    with pytest.raises(ValueError, match="shape"):
        read_model(folder, "")


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_pickle_is_never_opened(folder, tmp_path):
    marker = tmp_path / "exploded"
    for name in ("model.json", "model.safetensors"):
        copy = tmp_path / f"copy_{name}"
        shutil.copytree(folder, copy)
        (copy / name).write_bytes(pickle.dumps(Bomb(marker)))
        with pytest.raises(ValueError, match="JSON|safetensors"):
            read_model(copy, "")
    assert not marker.exists()
    source = "".join(p.read_text() for p in Path(_files.__file__).parent.rglob("*.py"))
    assert not re.search(r"import pickle|pickle\.load|torch\.load|(?<![.\w])(eval|exec)\(", source)
