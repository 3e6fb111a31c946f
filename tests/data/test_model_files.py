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
from muport.data._durable_files import hash_file
from muport.data._model_files import data_file, read_document, read_model, write_model

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


def edit_entry(folder: Path, **changes) -> None:
    """Change what the document says of the tensor ``a``."""
    tensors = json.loads((folder / "model.json").read_text())["tensors"]
    entry = {k: v for k, v in {**tensors["entries"]["a"], **changes}.items() if v is not ...}
    edit(folder, tensors={**tensors, "entries": {**tensors["entries"], "a": entry}})


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
    "a list of tensors": (lambda f: edit(f, tensors=["a"]), ValueError, "expected a file and its entries"),
    "entries in a list": (
        lambda f: edit(f, tensors={"file": "model.safetensors", "entries": ["a"]}),
        ValueError,
        "expected a file and its entries",
    ),
    "no file of tensors": (lambda f: edit(f, tensors={"entries": {}}), ValueError, "expected a file and its entries"),
    "an entry without a checksum": (
        lambda f: edit_entry(f, sha256=...),
        ValueError,
        r"without \['dtype', 'sha256', 'shape'\]",
    ),
    "an entry with more": (lambda f: edit_entry(f, more=1), ValueError, "without"),
    "an entry that is text": (
        lambda f: edit(f, tensors={"file": "model.safetensors", "entries": {"a": "x", "b": "y"}}),
        ValueError,
        "without",
    ),
    "another dtype": (lambda f: edit_entry(f, dtype="int32"), ValueError, "tensor 'a'.*does not match its checksum"),
    "a version that is true": (lambda f: edit(f, schema_version=True), ValueError, "has no schema_version"),
    "NaN": (
        lambda f: (f / "model.json").write_text((f / "model.json").read_text().replace("null", "NaN", 1)),
        ValueError,
        "NaN is no number of a JSON document",
    ),
    "deep document": (lambda f: (f / "model.json").write_text("[" * 10**6), ValueError, "not a JSON"),
    "no checksum": (lambda f: edit(f, sign=False, checksum=...), ValueError, r"lacks \['checksum'\]"),
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


def test_a_document_beyond_the_limit_is_neither_written_nor_read(folder, monkeypatch):
    size = (folder / "model.json").stat().st_size
    monkeypatch.setattr(_files, "_MAX_DOCUMENT", size)
    write(folder.parent / "n")
    assert read_document(folder.parent / "n")["class"] == "X"
    monkeypatch.setattr(_files, "_MAX_DOCUMENT", size - 1)
    with pytest.raises(ValueError, match=f"take {size} bytes, above {size - 1}"):
        write(folder.parent / "o")
    with pytest.raises(ValueError, match=f"has {size} bytes, above {size - 1}"):
        read_document(folder)
    assert sorted(item.name for item in folder.parent.iterdir()) == ["m", "n"]


def test_the_data_are_a_file_of_the_model(tmp_path):
    folder = tmp_path / "new" / "deep" / "m"
    names = set()
    for text in ("one", "two", "three"):
        tensors = {"a": np.frombuffer(text.encode(), np.uint8)}
        write(folder, tensors, True, "p_", ("a.b.h5mu", lambda at, text=text: at.write_text(text)))
        document = read_document(folder, "p_")
        path, checksum = data_file(folder, document)
        assert path.read_text() == text
        assert checksum == document["data_sha256"] == hash_file(path)
        listed = {"p_model.json", document["tensors"]["file"], document["data"]}
        assert {item.name for item in folder.iterdir()} == listed
        assert re.fullmatch(r"p_a\.b(\.[0-9a-f]{12})?\.h5mu", path.name)
        names.add(path.name)
    assert len(names) > 1
    write(folder, overwrite=True, prefix="p_")
    document = read_document(folder, "p_")
    assert document["data"] is document["data_sha256"] is None
    assert data_file(folder, document) is None
    assert data_file(folder, {"data": "x"}) == (folder / "x", None)
    with pytest.raises(ValueError, match="data: '../x' is not a plain file name"):
        data_file(folder, {"data": "../x"})


def test_only_files_of_the_model_are_replaced(folder):
    others = ["model.safetensor", "model.final.safetensors", "amodel.safetensors", "modelXsafetensors", "model.h5mu"]
    others += ["model.0123456789.safetensors", "model.0123456789ab.safetensors.txt"]
    for name in [*others, "model.0123456789ab.safetensors"]:
        (folder / name).write_text("mine")
    write(folder, {"a": np.ones(2)}, overwrite=True)
    document = read_document(folder)
    assert {item.name for item in folder.iterdir()} == {*others, "model.json", document["tensors"]["file"]}


@pytest.mark.parametrize("name", ["", "a/b", "/b", "a\\b", "a\0", "."])
def test_names_of_other_places_are_refused(name):
    with pytest.raises(ValueError, match="what: .* is not a plain file name"):
        _files._check_name(name, "what")
    assert _files._check_name("a b.c", "what") == "a b.c"
