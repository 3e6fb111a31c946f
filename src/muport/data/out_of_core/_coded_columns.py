"""A column of very many cells as codes, read by rows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.out_of_core._disk_arrays import OnDisk, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_BLOCK = 2**20  # values of a column read together


@dataclass(frozen=True, eq=False)
class CodedColumn:
    """A categorical column.

    Attributes
    ----------
    raw
        (n,) integers that are sliced by rows, -1 where the value is missing.
    lookup
        Code of each raw integer; the last entry is that of -1.
    names
        Values, as sorted strings.
    """

    raw: Any
    lookup: NDArray[np.int64]
    names: tuple[str, ...]

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) codes into `names`, -1 where the value is missing."""
        found: NDArray[np.int64] = self.lookup[np.asarray(self.raw[start:stop]).astype(np.int64, copy=False)]
        return found

    def blocks(self, n: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """First row and codes of one block after the other."""
        for start in range(0, n, _BLOCK):
            yield start, self.codes(start, min(start + _BLOCK, n))

    def window(self, start: int, stop: int) -> CodedColumn:
        """Return what another process needs to read these rows."""
        return self if isinstance(self.raw, OnDisk) else replace(self, raw=Window(self.raw[start:stop], start))

    def without(self, values: Sequence[str]) -> CodedColumn:
        """Return the column with some values counted as missing."""
        kept = [name for name in self.names if name not in values]
        lookup = np.array([kept.index(name) if name in kept else -1 for name in self.names] + [-1], dtype=np.int64)
        return replace(self, lookup=lookup[self.lookup], names=tuple(kept))

    def signature(self, n: int) -> str:
        """Return what changes with the values."""
        checksum = 0
        for _, codes in self.blocks(n):
            checksum = zlib.crc32(memoryview(codes).cast("B"), checksum)
        return f"{checksum}|{'|'.join(self.names)}"

    def gaps(self, n: int) -> tuple[int, int]:
        """Return how many of `n` values are missing, and the first of them."""
        missing, first = 0, -1
        for start, codes in self.blocks(n):
            found = np.flatnonzero(codes < 0)
            if len(found) and first < 0:
                first = start + int(found[0])
            missing += len(found)
        return missing, first


def _column(raw: Any, categories: Sequence[Any]) -> CodedColumn:
    names, merged = np.unique([str(c) for c in categories], return_inverse=True)
    return CodedColumn(raw, np.append(merged, -1).astype(np.int64), tuple(str(name) for name in names))


def code_values(values: Any) -> CodedColumn:
    """Code a column that is in memory.

    Parameters
    ----------
    values
        (n,) pandas Series, categorical or of any values; NaN is missing.
    """
    series = pd.Series(values)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _column(series.cat.codes.to_numpy(), list(series.cat.categories))
    codes, categories = pd.factorize(series)
    return _column(codes, list(categories))


def column_on_disk(path: str, root: Any, prefix: str, key: str, argument: str) -> CodedColumn:
    """Open a column of ``obs`` of a file; of a MuData also of all its cells, where the modality has none.

    Parameters
    ----------
    path, root
        The file, and its root group.
    prefix
        Place of the modality, such as ``"mod/rna/"``; empty for an AnnData.
    key
        Name of the column.
    argument
        What the caller calls it.

    Raises
    ------
    KeyError
        If there is no such column; lists those that exist.
    """
    if f"{prefix}obs/{key}" in root:
        return _open_column(path, root, f"{prefix}obs/{key}")
    modality = prefix.removeprefix("mod/").removesuffix("/")
    for place in (f"obs/{modality}:{key}", f"obs/{key}"):
        if modality and place in root:
            whole = _open_column(path, root, place)
            position = np.asarray(root[f"obsmap/{modality}"][:]).ravel().astype(np.int64)
            raw = np.full(int(position.max(initial=0)), -1, np.int64)
            raw[position[position > 0] - 1] = whole.codes(0, len(position))[position > 0]
            return CodedColumn(raw, np.append(np.arange(len(whole.names)), -1), whole.names)
    held = sorted(name for name in root[f"{prefix}obs"] if not name.startswith("_"))
    raise KeyError(f"{argument}={key!r}: there is no such column; the columns of obs are {held}.")


def _open_column(path: str, root: Any, place: str) -> CodedColumn:
    element = root[place]
    if hasattr(element, "shape"):
        return _coded_in_blocks(element, None)
    if "codes" in element:
        categories = element["categories"]
        names = categories if hasattr(categories, "shape") else categories["values"]
        return _column(OnDisk(path, f"{place}/codes"), _texts(names[:]))
    return _coded_in_blocks(element["values"], element["mask"])


def _texts(values: Any) -> list[Any]:
    return [one.decode() if isinstance(one, bytes) else one for one in np.asarray(values).tolist()]


def _coded_in_blocks(values: Any, mask: Any | None) -> CodedColumn:
    """Code a column that is not categorical, a block at a time: of texts only the codes stay in memory."""
    n = int(values.shape[0])
    raw = np.full(n, -1, np.int32)
    known = pd.Index([], dtype=object)
    for start in range(0, n, _BLOCK):
        block = slice(start, min(start + _BLOCK, n))
        codes, uniques = pd.factorize(np.asarray(_texts(values[block]), dtype=object))
        known = known.append(pd.Index(uniques, dtype=object).difference(known, sort=False))
        lookup = np.append(known.get_indexer(pd.Index(uniques, dtype=object)), -1)
        raw[block] = lookup[codes]
        if mask is not None:
            raw[block][np.asarray(mask[block], dtype=bool)] = -1
    return _column(raw, list(known))
