"""Datasets of HDF5 and zarr files, opened when they are first read."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HDF5 = (".h5ad", ".h5mu", ".h5")


def is_url(path: str) -> bool:
    """Whether a path is a URL, such as ``https://...`` or ``s3://...``."""
    return "://" in path


def open_root(path: str) -> Any:
    """Open the root group of a file for reading."""
    if not is_url(path) and not Path(path).exists():
        raise FileNotFoundError(f"{path!r} does not exist.")
    suffix = Path(path.split("?", 1)[0]).suffix
    if suffix == ".zarr":
        import zarr

        try:
            return zarr.open_group(path, mode="r")
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{path!r} is not a zarr group: {error}") from error
    if suffix not in _HDF5:
        raise ValueError(f"{path!r} is of no known kind: use .h5ad, .h5mu or .zarr.")
    import h5py

    if is_url(path):
        import fsspec

        return h5py.File(fsspec.open(path, "rb").open(), "r")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path!r} is not an HDF5 file, or damaged: {error}") from error


class OnDisk:
    """An array of a file, opened where and when it is first read: it can be sent to another process.

    - `path`: File or URL.
    - `key`: Place of the array in it.
    """

    def __init__(self, path: str, key: str) -> None:
        self.path, self.key = path, key
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "key": self.key, "_opened": None}

    @property
    def array(self) -> Any:
        """The h5py or zarr array."""
        if self._opened is None:
            self._opened = open_root(self.path)[self.key]
        return self._opened

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its shape; None for what is no plain array (a sparse matrix, a data frame)."""
        return getattr(self.array, "shape", None)

    @property
    def dtype(self) -> Any:
        """Its dtype; None for what is no plain array."""
        return getattr(self.array, "dtype", None)

    @property
    def step(self) -> int:
        """Rows that are stored, and so read, together."""
        kept = getattr(self.array, "shards", None) or self.array.chunks
        return int(kept[0]) if kept else 1

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        return np.asarray(self.array[rows])

    def check_whole(self, name: str, zeros: bool = True) -> None:
        """Check a zarr array of which pieces are not stored: they read as zeros, whether or not they were lost.

        Writers leave out chunks that hold only zeros, which is warned of. A shard of only zeros is so large that it is
        taken for lost.

        - `name`: How messages call the array.
        - `zeros`: Whether values may be zero (or empty); otherwise every missing piece is lost.

        Raises OSError if pieces were lost.
        """
        if is_url(self.path) or not hasattr(self.array, "nchunks_initialized"):
            return
        array, shards = self.array, self.array.shards
        stored = array.nchunks_initialized
        kept = math.prod(map(_count, array.shape, shards or array.chunks))
        if shards:
            # zarr before 3.4.1 reads an empty file as zeros
            stored = stored // math.prod(map(_count, shards, array.chunks)) - _count_empty_files(array)
        if stored >= kept:
            return
        text = f"{kept - stored} of its {kept} {'shards' if shards else 'chunks'} are not stored"
        if shards or not zeros:
            raise OSError(
                f"{name} is damaged: {text}. Restore the files. If they held only zeros, write the array again with "
                "the zarr option write_empty_chunks."
            )
        warnings.warn(
            f"{name}: {text}, so they read as zeros. If the values were not zeros, the file is damaged.",
            UserWarning,
            stacklevel=4,
        )


def _count_empty_files(array: Any) -> int:
    """Number of files without content among those of a zarr array on a local disk."""
    root = getattr(array.store, "root", None)
    files = () if root is None else Path(root, array.path).rglob("*")
    return sum(file.is_file() and file.stat().st_size == 0 for file in files)


def _count(length: int, piece: int) -> int:
    """Number of pieces of a length."""
    return -(-length // piece)


@dataclass(frozen=True, eq=False)
class Window:
    """Some rows of an array, under the numbers they have there."""

    rows: Any
    first: int

    def __getitem__(self, rows: slice) -> Any:
        return self.rows[rows.start - self.first : rows.stop - self.first]


def choose_modality(keys: Mapping[str, Sequence[str]], modality: str, obsm_key: str) -> str:
    """Return the modality that is meant.

    - `keys`: Modality -> keys of its ``obsm``.
    - `modality`: Its name, or ``"auto"`` for the only one with the key.
    """
    if modality in keys:
        return modality
    if modality != "auto":
        raise KeyError(f"modality={modality!r} does not exist; the modalities are {list(keys)}.")
    holders = [name for name, held in keys.items() if obsm_key in held]
    if not holders:
        held = {name: list(one) for name, one in keys.items()}
        raise KeyError(f"obsm_key={obsm_key!r} is in no modality; the keys are {held}.")
    if len(holders) > 1:
        raise ValueError(f"obsm_key={obsm_key!r} is in the modalities {holders}: say which with modality=.")
    return holders[0]
