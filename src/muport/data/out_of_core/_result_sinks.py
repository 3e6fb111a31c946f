"""Where a result of very many rows is written: memory, a memory-mapped file or zarr, complete or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import save as to_safetensors

from muport.data._durable_files import read_json, sync, write_json
from muport.data._serialization import pack, state_classes, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["FileSink", "MemorySink", "clean_path", "full_disk"]

_RESULT, _JOB, _DONE = "result", "job.json", "done"


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

    The folder ``<path>.partial`` holds the unfinished result: the rows, a record of every finished chunk with its
    checksum, and the fingerprint of the job.

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
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def result(self) -> Path:
        """The unfinished result."""
        return self.partial / f"{_RESULT}{self.path.suffix}"

    def fingerprint(self) -> str | None:
        """Fingerprint of the job that wrote the finished result; None if there is no result, or it has none."""
        fingerprint = self._marks().get("fingerprint")
        return fingerprint if isinstance(fingerprint, str) else None

    def metrics(self) -> dict[str, float]:
        """Scores that were stored with the finished result."""
        return dict(self._marks().get("metrics", {}))

    def _marks(self) -> dict[str, Any]:
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

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def begin(self, fingerprint: str, resume: bool) -> bool:
        """Create the unfinished result; with `resume`, continue that of the same job. Return whether there was one.

        Raises FileExistsError if another file or folder has the path of the result; OSError if the disk has no room for
        the result.
        """
        if self.path.exists():
            raise FileExistsError(
                f"tmp_path={str(self.path)!r} exists, and is not the result of this very call: remove it, or choose "
                "another path."
            )
        job = self.partial / _JOB
        if resume and job.is_file() and read_json(job).get("fingerprint") == fingerprint:
            return True
        shutil.rmtree(self.partial, ignore_errors=True)
        self._check_room()
        (self.partial / _DONE).mkdir(parents=True)
        self._create()
        write_json(job, {"fingerprint": fingerprint})
        return False

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
            if self.is_zarr:
                import zarr

                self._cache["array"] = zarr.open_array(self.result / "obsm" / self.key, mode="r+")
            else:
                self._cache["array"] = np.load(self.result, mmap_mode="r")
        return self._cache["array"]

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
        file = self._record(number)
        try:
            record = read_json(file)
            if (record.get("start"), record.get("stop")) != (start, stop):
                return False
            checksum = 0
            for low in range(start, stop, self.piece):
                rows = np.ascontiguousarray(self._array()[low : min(low + self.piece, stop)])
                checksum = zlib.crc32(memoryview(rows).cast("B"), checksum)
        except (OSError, ValueError, RuntimeError):
            return False
        return bool(checksum == record.get("crc32"))

    def finish(self, fingerprint: str, metrics: Mapping[str, float]) -> None:
        """Give the result its name, after all of it is on the disk."""
        marks: dict[str, Any] = {"fingerprint": fingerprint, "metrics": dict(metrics)}
        if self.is_zarr:
            import zarr

            zarr.open_group(self.result, mode="r+").attrs["muport"] = marks
            for file in self.result.rglob("*"):
                sync(file)
        else:
            write_json(self._beside, marks)
        sync(self.result)
        self._cache.clear()
        os.replace(self.result, self.path)
        sync(self.path.parent)
        shutil.rmtree(self.partial, ignore_errors=True)

    def keep(self, name: str, value: Any) -> None:
        """Keep arrays and numbers of an unfinished job, such as a fitted state."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        packed = pack(value, name, tensors)
        content = to_safetensors(tensors)
        file = self.partial / f"{name}.safetensors"
        with open(file, "wb") as out:
            out.write(content)
        sync(file)
        write_json(self.partial / f"{name}.json", {"value": packed, "sha256": hashlib.sha256(content).hexdigest()})

    def kept(self, name: str, root: type) -> Any:
        """Return what :meth:`keep` kept, made of `root` and the dataclasses in it; None if it is absent or damaged."""
        document = read_json(self.partial / f"{name}.json")
        try:
            content = (self.partial / f"{name}.safetensors").read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != document.get("sha256"):
            return None
        return unpack(document["value"], from_safetensors(content), state_classes(root))

    def open(self) -> Any:
        """Return the finished rows without reading them: a memory map, a dask array, or a zarr array."""
        if not self.is_zarr:
            return np.load(self.path, mmap_mode="r")
        try:
            import dask.array
        except ImportError:
            import zarr

            return zarr.open_array(self.path / "obsm" / self.key, mode="r")
        return dask.array.from_zarr(str(self.path / "obsm" / self.key))


def full_disk(error: OSError, path: Path) -> OSError:
    """Add to the error of a full disk what to do; any other error is returned unchanged."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return OSError(
        error.errno,
        f"the disk of {str(path.parent)!r} is full; the input is untouched and the chunks that were finished are kept "
        f"in {path.name + '.partial'!r}: free some space and make the same call again",
    )
