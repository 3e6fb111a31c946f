"""Files that are complete or absent, also after a crash, and that one process at a time writes.

What is not complete stands in the folder ``<output>.partial`` beside the output, and gets the name of the output when
it is whole. The folder holds a lock that ends with its process: so a later run can tell what a killed process left,
which it removes or continues, from what a running process writes, which it leaves alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "claimed",
    "clear",
    "hash_file",
    "partial_folder",
    "read_json",
    "replace",
    "sync",
    "write_json",
    "write_whole",
]

_LOCK, _OLD = "lock", "old"
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux


def partial_folder(path: Path) -> Path:
    """Return the folder for what is not complete of an output."""
    full = Path(os.path.abspath(path))  # "." has no name
    return full.with_name(f"{full.name}.partial")


@contextmanager
def claimed(path: Path, *, resumable: bool = False) -> Iterator[Path]:
    """Reserve an output for this process, and yield the folder for what is not complete of it.

    - `resumable`: Whether the folder keeps what an earlier process left, and what this one leaves. Otherwise it is
      cleared before and after.

    Raises FileExistsError if another process writes the output, or the folder is of another program; OSError if the
    folder cannot be written.
    """
    folder = partial_folder(path)
    lock = _lock(path, folder)
    try:
        # only where names cannot be exchanged: killed between two renames, the old output has lost its name
        if (folder / _OLD).exists() and not path.exists():
            os.replace(folder / _OLD, path)
        if not resumable:
            clear(folder)
        yield folder
    finally:
        if not resumable:
            clear(folder)
        with suppress(OSError):
            if os.listdir(folder) == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()
        os.close(lock)


def _lock(path: Path, folder: Path) -> int:
    """Lock the folder, which is made if it does not exist; return the handle that keeps the lock."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            foreign = not (folder / _LOCK).exists() and any(item.name != _LOCK for item in folder.iterdir())
        except FileNotFoundError:  # another process removed the folder at this moment
            continue
        except NotADirectoryError:
            foreign = True
        if foreign:
            raise FileExistsError(
                f"{str(folder)!r} is needed for what is not complete of {path.name!r}, and holds other files: remove "
                "it, or choose another output."
            )
        try:
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process removed the folder at this moment
            continue
        if not _try_lock(handle):
            holder = os.pread(handle, 20, 0).decode().strip()
            os.close(handle)
            raise FileExistsError(
                f"{str(path)!r} is being written by another process ({holder}): wait until it ends, or choose another "
                "output."
            )
        if _is_open(handle, folder / _LOCK):
            os.truncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            return handle
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock a file; return False if another process has locked it. A file system without locks counts as free."""
    # missing on some systems, which can read models nevertheless
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_open(handle: int, path: Path) -> bool:
    """Whether a path still is the file of a handle, which another process may have removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def clear(folder: Path) -> None:
    """Remove everything in a claimed folder but its lock."""
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name != _LOCK:
            item.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or folder under another name, then rename it: an earlier one is replaced by a complete one.

    - `write`: Writes to the path that it is given, which has the same suffix.
    """
    with claimed(path) as folder:
        write(folder / path.name)
        replace(folder / path.name, path)


def replace(new: Path, path: Path) -> None:
    """Give a complete file or folder of a claimed folder its name, once it is on the disk.

    What had the name is there until this moment, and then in the claimed folder.
    """
    for file in (*new.rglob("*"), new):
        sync(file)
    if not (os.path.lexists(path) and (path.is_dir() or new.is_dir())):
        os.replace(new, path)
    elif not _exchange(new, path):
        os.replace(path, partial_folder(path) / _OLD)
        os.replace(new, path)
    sync(path.parent)


def _exchange(new: Path, path: Path) -> bool:
    """Exchange two names in one step, as no rename of a folder can; return whether system and file system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here = -100  # AT_FDCWD of Linux
    return rename is not None and rename(here, os.fsencode(new), here, os.fsencode(path), _EXCHANGE) == 0


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file; an earlier one is replaced only by a complete one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(content), encoding="utf-8")
    sync(staged)
    os.replace(staged, path)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
