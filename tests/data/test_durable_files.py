"""An output is whole or absent, also after a crash, and one process at a time writes it."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from muport.data import _durable_files as _files
from muport.data._durable_files import (
    claimed,
    clear,
    hash_file,
    partial_folder,
    read_json,
    replace,
    sync,
    write_json,
    write_whole,
)


def make(path: Path, text: str, folder: bool) -> None:
    if folder:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "file").write_text(text)
    else:
        path.write_text(text)


def read(path: Path) -> str:
    return (path / "deep" / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", ["file", "folder", "link", None])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_what_has_the_name_is_replaced(tmp_path, monkeypatch, old, new, exchange):
    path = tmp_path / "out"
    if not exchange:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    if old == "link":
        make(tmp_path / "target", "old", True)
        path.symlink_to(tmp_path / "target")
    elif old:
        make(path, "old", old == "folder")
    write_whole(path, lambda at: make(at, "new", new == "folder"))
    assert read(path) == "new"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out", *(["target"] if old == "link" else [])]
    if old == "link":
        assert read(tmp_path / "target") == "old"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    make(tmp_path / "out", "old", True)

    def fail(path):
        make(path, "half", True)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "out", fail)
    assert read(tmp_path / "out") == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from muport.data._durable_files import claimed\n"
        "with claimed(Path(sys.argv[1])) as folder: (folder / 'half').write_text('x'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert (partial_folder(path) / "half").exists()
    with claimed(path) as folder:
        assert [item.name for item in folder.iterdir()] == ["lock"]
    assert list(tmp_path.iterdir()) == []


def test_killed_between_two_renames_the_old_output_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "out"
    make(path, "old", True)
    with claimed(path) as folder:
        os.replace(path, folder / "old")
        (tmp_path / "crash").mkdir()
        os.replace(folder / "old", tmp_path / "crash" / "old")
        (tmp_path / "crash" / "lock").touch()
    os.replace(tmp_path / "crash", partial_folder(path))
    with claimed(path):
        assert read(path) == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


@pytest.mark.promise("Of several processes that write one output, one wins and the others are refused")
def test_a_second_writer_is_refused(tmp_path, record_property):
    path = tmp_path / "out"
    tries = 0
    with claimed(path) as folder:
        (folder / "mine").write_text("x")
        for _ in range(20):
            with pytest.raises(FileExistsError, match=rf"being written by another process \({os.getpid()}\)"):
                write_whole(path, lambda at: at.write_text("theirs"))
            tries += 1
        assert (folder / "mine").exists()
    record_property("tries", tries)
    write_whole(path, lambda at: at.write_text("then"))
    assert read(path) == "then"


def test_many_writers_at_once(tmp_path):
    path, done, refused = tmp_path / "out", [], []

    def write(number):
        for _ in range(20):
            try:
                write_whole(path, lambda at: at.write_text(f"{number}" * 1000))
                done.append(number)
            except FileExistsError:
                refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    assert len(done) + len(refused) == 80
    assert len(set(read(path))) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_the_user_is_not_taken(tmp_path):
    make(partial_folder(tmp_path / "out"), "mine", True)
    with pytest.raises(FileExistsError, match="holds other files: remove it"), claimed(tmp_path / "out"):
        pass
    assert read(partial_folder(tmp_path / "out")) == "mine"


def test_a_resumable_folder_stays_if_it_holds_something(tmp_path):
    with claimed(tmp_path / "out", resumable=True) as folder:
        make(folder / "rows", "half", False)
    with claimed(tmp_path / "out", resumable=True) as folder:
        assert read(folder / "rows") == "half"
        clear(folder)
    assert list(tmp_path.iterdir()) == []


def test_without_locks_files_are_written_nevertheless(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_whole(tmp_path / "out", lambda at: at.write_text("new"))
    assert read(tmp_path / "out") == "new"


def test_the_working_folder_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert partial_folder(Path(".")) == tmp_path / "here.partial"
    with claimed(Path("out")) as folder:
        (folder / "out").write_text("new")
        replace(folder / "out", Path("out"))
    assert read(tmp_path / "here" / "out") == "new"


def test_killed_after_the_exchange_the_new_output_stays(tmp_path):
    path = tmp_path / "out"
    make(path, "new", True)
    make(partial_folder(path) / "old", "old", True)
    (partial_folder(path) / "lock").touch()
    with claimed(path) as folder:
        assert read(path) == "new"
        assert [item.name for item in folder.iterdir()] == ["lock"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_file_in_place_of_the_folder_is_not_taken(tmp_path):
    partial_folder(tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.partial.*holds other files"), claimed(tmp_path / "out"):
        pass
    assert partial_folder(tmp_path / "out").read_text() == "mine"


def test_the_lock_names_its_process(tmp_path):
    folder = partial_folder(tmp_path / "out")
    folder.mkdir()
    (folder / "lock").write_text("9" * 40)
    umask = os.umask(0o022)
    try:
        with claimed(tmp_path / "out"):
            assert (folder / "lock").read_text() == f"{os.getpid()}\n"
        with claimed(tmp_path / "out"):
            # another user may write the output later
            assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o644
    finally:
        os.umask(umask)


def test_a_lock_that_another_process_removed_is_made_again(tmp_path, monkeypatch):
    is_open, seen = _files._is_open, []

    def remove_once(handle, path):
        if not seen:
            path.unlink()
        seen.append(is_open(handle, path))
        return seen[-1]

    monkeypatch.setattr(_files, "_is_open", remove_once)
    with claimed(tmp_path / "out") as folder:
        assert (folder / "lock").exists()
    assert seen == [False, True]


def test_a_link_is_removed_without_its_target(tmp_path):
    make(tmp_path / "target", "mine", True)
    with claimed(tmp_path / "out") as folder:
        (folder / "link").symlink_to(tmp_path / "target")
        make(folder / "deep", "half", True)
        clear(folder)
        assert [item.name for item in folder.iterdir()] == ["lock"]
    assert read(tmp_path / "target") == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange names")
def test_two_names_are_exchanged(tmp_path, monkeypatch):
    make(tmp_path / "a", "one", True)
    make(tmp_path / "b", "two", False)
    monkeypatch.chdir(tmp_path)
    assert _files._exchange(Path("a"), tmp_path / "b")
    assert (read(tmp_path / "a"), read(tmp_path / "b")) == ("two", "one")
    assert _files._exchange(tmp_path / "a", Path("b"))
    assert (read(tmp_path / "a"), read(tmp_path / "b")) == ("one", "two")
    assert not _files._exchange(tmp_path / "a", tmp_path / "none")


def test_everything_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(_files, "sync", lambda path: synced.append((path.name, (tmp_path / "out").exists())))
    write_whole(tmp_path / "out", lambda at: make(at, "new", True))
    assert sorted(synced[:-1]) == [("deep", False), ("file", False), ("out", False)]
    assert synced[-1] == (tmp_path.name, True)


def open_handles():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not list open files")
def test_no_file_stays_open(tmp_path):
    before = open_handles()
    make(tmp_path / "file", "x", False)
    for _ in range(3):
        sync(tmp_path / "file")
        write_whole(tmp_path / "out", lambda at: make(at, "new", True))
        with claimed(tmp_path / "out"), pytest.raises(FileExistsError), claimed(tmp_path / "out"):
            pass
    assert open_handles() == before


def test_json_is_complete_or_empty(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) == {}
    for content in ({"name": "\u00e9"}, {"other": [1, None]}):
        write_json(path, content)
        assert read_json(path) == content
        assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
    for damaged in (b"", b"{", b"[1]", b"\xff"):
        path.write_bytes(damaged)
        assert read_json(path) == {}


def test_the_hash_is_that_of_the_whole_file(tmp_path):
    content = bytes(range(256)) * 5_000
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
