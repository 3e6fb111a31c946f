"""Where a result of very many rows is written: memory, a memory-mapped file or zarr, complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data._durable_files import clear, partial_folder, read_json, replace, sync, write_json
from muport.data._serialization import pack, unpack_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["FileSink", "MemorySink", "clean_path", "full_disk"]

_RESULT, _JOB, _DONE, _MARKS = "result", "job.json", "done", "marks.json"


class MemorySink:
    """Rows (n, d) in memory."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.values: NDArray[np.float32] = np.empty(shape, np.float32)

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows from row `start` on."""
        self.values[start : start + len(rows)] = rows

    def commit(self, number: int, start: int, stop: int, checksum: int) -> None:
        """Do nothing: a result in memory is lost with the process."""


def clean_path(tmp_path: str | Path) -> Path:
    """Return the path of the result: ``.zarr``, or ``.npy``, which is added to a name without it."""
    if "://" in str(tmp_path):
        raise ValueError(f"tmp_path={str(tmp_path)!r} is a URL: results are written to a file system, then moved.")
    path = Path(tmp_path).absolute()
    if path.suffix not in (".zarr", ".npy"):
        if path.is_dir():
            raise ValueError(f"tmp_path={str(tmp_path)!r} is a folder: add the name of a .npy file or a .zarr.")
        path = path.with_name(f"{path.name}.npy")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"tmp_path={str(tmp_path)!r}: the folder {str(path.parent)!r} does not exist.")
    return path


@dataclass(frozen=True)
class FileSink:
    """Rows in a file, written in disjoint pieces by one process or many; it gets its name when it is complete.

    The folder ``<path>.partial``, which the caller has claimed, holds the unfinished result: the rows, a record of
    every finished chunk with its checksum, and the description of the job.

    - `path`: Path of the finished result: ``.npy`` (memory-mapped when read) or ``.zarr``.
    - `shape`: (n, d).
    - `piece`: Rows of a chunk of the zarr: writes start at multiples of it.
    - `key`: Key of the rows in ``obsm`` of the zarr.
    """

    path: Path
    shape: tuple[int, int]
    piece: int
    key: str = "X"
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "shape", "piece", "key")} | {"_cache": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def is_zarr(self) -> bool:
        """Whether the result is a zarr."""
        return self.path.suffix == ".zarr"

    @property
    def partial(self) -> Path:
        """Folder of the unfinished result."""
        return partial_folder(self.path)

    @property
    def result(self) -> Path:
        """The unfinished result."""
        return self.partial / f"{_RESULT}{self.path.suffix}"

    def finished(self) -> dict[str, Any]:
        """Return what was stored with the finished result; empty if nothing.

        These are ``schema_version``, ``job``, ``metrics`` and ``checksums``.
        """
        if not self.path.exists():
            return {}
        if not self.is_zarr:
            return read_json(self._beside)
        import zarr

        try:
            marks: Any = zarr.open_group(self.path, mode="r").attrs.get("muport", {})
        except (OSError, ValueError):
            return {}
        return dict(marks)

    def is_whole(self) -> bool:
        """Whether every row of the finished result is what was written."""
        try:
            rows = self._open_rows(self.path)
            checksums = self.finished().get("checksums", [])
            return bool(checksums) and all(self._matches(rows, *entry) for entry in checksums)
        except (OSError, ValueError, RuntimeError, KeyError):
            return False

    def _matches(self, rows: Any, start: int, stop: int, expected: int) -> bool:
        checksum = 0
        for low in range(start, stop, self.piece):
            block = np.ascontiguousarray(rows[low : min(low + self.piece, stop)], np.float32)
            checksum = zlib.crc32(memoryview(block).cast("B"), checksum)
        return checksum == expected

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def unfinished(self) -> dict[str, Any]:
        """Return the ``schema_version`` and the ``job`` of the unfinished result; empty if there is none."""
        return read_json(self.partial / _JOB) if self.result.exists() else {}

    def begin(self, job: Mapping[str, Any]) -> None:
        """Create the unfinished result of a job, in place of an earlier one.

        Raises OSError if the disk has no room for the result.
        """
        self._check_room()
        # first, since rows and records of another job must never be taken for those of this one
        (self.partial / _JOB).unlink(missing_ok=True)
        clear(self.partial)
        (self.partial / _DONE).mkdir()
        self._create()
        self.describe(job)

    def describe(self, job: Mapping[str, Any]) -> None:
        """Describe the job of the unfinished result."""
        write_json(self.partial / _JOB, {"schema_version": SCHEMA_VERSION, "job": dict(job)})

    def _check_room(self) -> None:
        needed, free = 4 * self.shape[0] * self.shape[1], shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"the result takes {needed / 1e9:.2f} GB, and {str(self.path.parent)!r} has {free / 1e9:.2f} GB free",
            )

    def _create(self) -> None:
        if not self.is_zarr:
            with open(self.result, "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + 4 * self.shape[0] * self.shape[1])
            return
        import zarr

        root = zarr.open_group(self.result, mode="w", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        obsm = root.create_group("obsm")
        obsm.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        rows = (min(self.piece, self.shape[0]), self.shape[1])
        # coordinates hardly compress, and plain chunks are read and written at the speed of the disk
        array = obsm.create_array(self.key, shape=self.shape, chunks=rows, dtype="float32", compressors=None)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    def _array(self) -> Any:
        if "array" not in self._cache:
            self._cache["array"] = self._open_rows(self.result, "r+" if self.is_zarr else "r")
        return self._cache["array"]

    def _open_rows(self, path: Path, mode: Any = "r") -> Any:
        """Open the rows of a result without reading them: a zarr array, or a memory map."""
        if not self.is_zarr:
            return np.load(path, mmap_mode=mode)
        import zarr

        return zarr.open_array(path / "obsm" / self.key, mode=mode)

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows from row `start` on.

        Raises OSError if the disk is full, or fails.
        """
        if self.is_zarr:
            self._array()[start : start + len(rows)] = rows
            return
        # a write to a memory map would end the process if the disk is full
        with open(self.result, "r+b", buffering=0) as file:
            file.seek(self._array().offset + 4 * start * self.shape[1])
            left = memoryview(np.ascontiguousarray(rows, "<f4")).cast("B")
            while left:
                left = left[file.write(left) :]

    def commit(self, number: int, start: int, stop: int, checksum: int) -> None:
        """Record that a chunk is written, once its rows are on the disk.

        - `checksum`: CRC-32 of its bytes.
        """
        for file in self._files(start, stop):
            sync(file)
        write_json(self._record(number), {"start": start, "stop": stop, "crc32": checksum})

    def _files(self, start: int, stop: int) -> list[Path]:
        if not self.is_zarr:
            return [self.result]
        pieces = range(start // self.piece, -(-stop // self.piece))
        encode = self._array().metadata.encode_chunk_key
        files = [self.result / "obsm" / self.key / encode((piece, 0)) for piece in pieces]
        # zarr does not store a piece that holds only zeros
        return [file for file in files if file.exists()]

    def _record(self, number: int) -> Path:
        return self.partial / _DONE / f"{number:09d}.json"

    def is_done(self, number: int, start: int, stop: int) -> bool:
        """Whether a chunk is recorded as written and its checksum still holds."""
        record = read_json(self._record(number))
        if (record.get("start"), record.get("stop")) != (start, stop):
            return False
        try:
            return self._matches(self._array(), start, stop, record["crc32"])
        except (OSError, ValueError, RuntimeError, KeyError):
            return False

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Give the result its name, after all of it is on the disk; an earlier one keeps the name until then."""
        records = [read_json(file) for file in sorted((self.partial / _DONE).glob("[0-9]*.json"))]
        checksums = [[record["start"], record["stop"], record["crc32"]] for record in records]
        marks: dict[str, Any] = {**self.unfinished(), "metrics": dict(metrics), "checksums": checksums}
        if self.is_zarr:
            import zarr

            zarr.open_group(self.result, mode="r+").attrs["muport"] = marks
        else:
            write_json(self.partial / _MARKS, marks)
            # before the rows: marks without their rows are no result, and rows are recognized by their checksums
            os.replace(self.partial / _MARKS, self._beside)
        self._cache.clear()
        # an earlier result, which lies here for a moment, is not one to continue
        (self.partial / _JOB).unlink()
        replace(self.result, self.path)
        clear(self.partial)

    def keep(self, name: str, value: Any) -> None:
        """Keep arrays and numbers of an unfinished job, such as a fitted state."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        packed = pack(value, name, tensors)
        content = to_safetensors(tensors)
        file = self.partial / f"{name}.safetensors"
        with open(file, "wb") as out:
            out.write(content)
        sync(file)
        write_json(
            self.partial / f"{name}.json",
            {"schema_version": SCHEMA_VERSION, "value": packed, "sha256": _hash_kept(packed, content)},
        )

    def kept(self, name: str, root: type) -> Any:
        """Return what :meth:`keep` kept, made of `root` and the dataclasses in it; None if it is absent or damaged.

        Raises ValueError if a newer version kept it.
        """
        document = read_json(self.partial / f"{name}.json")
        try:
            content = (self.partial / f"{name}.safetensors").read_bytes()
        except OSError:
            return None
        if _hash_kept(document.get("value"), content) != document.get("sha256"):
            return None
        check_schema_version(document.get("schema_version", 1), repr(str(self.partial / f"{name}.json")))
        try:
            return unpack_state(document["value"], from_safetensors(content), root)
        except ValueError:
            return None

    def open(self) -> Any:
        """Return the finished rows without reading them: an array, a dask array, or a zarr array.

        The array is read from the file where it is used. It can be written to, as compiled functions and writers of
        other libraries demand; the file never changes.
        """
        if not self.is_zarr:
            return self._open_rows(self.path, "c").view(np.ndarray)
        try:
            import dask.array
        except ImportError:
            return self._open_rows(self.path)
        return dask.array.from_zarr(str(self.path / "obsm" / self.key))


def _hash_kept(packed: Any, content: bytes) -> str:
    """SHA-256 of a packed value and its tensors."""
    return hashlib.sha256(json.dumps(packed, sort_keys=True).encode() + content).hexdigest()


def full_disk(error: OSError, path: Path) -> OSError:
    """Add to the error of a full disk what to do; any other error is returned unchanged."""
    reasons = {
        errno.ENOSPC: f"the disk of {str(path.parent)!r} is full",
        errno.EDQUOT: f"the disk of {str(path.parent)!r} is full",
        errno.EFBIG: "a file is larger than this process may write (ulimit -f)",
    }
    if error.errno not in reasons:
        return error
    return OSError(
        error.errno,
        f"{reasons[error.errno]}; the input is untouched and the chunks that were finished are kept "
        f"in {path.name + '.partial'!r}: free some space and make the same call again",
    )
