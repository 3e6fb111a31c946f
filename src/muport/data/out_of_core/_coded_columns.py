"""A column of very many cells as codes, read by rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.out_of_core._disk_arrays import OnDisk, Window
from muport.data.reading._categories import Categories, distinct_values
from muport.data.reading._columns import Column, ObsValues, find_column, join_columns
from muport.data.reading._crossed_columns import Combinations, combine_codes
from muport.data.reading._numbers import as_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

_BLOCK = 2**20  # values of a column that are read together
_LONG = ("codes", "values", "mask")  # arrays of a column that have one value for each cell


@dataclass(frozen=True, eq=False)
class CodedColumn:
    """A categorical column.

    - `raw`: (n,) integers that are sliced by rows, -1 where the value is missing.
    - `categories`: What the raw integers stand for.
    """

    raw: Any
    categories: Categories

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the categories, sorted."""
        return self.categories.names

    def codes(self, start: int, stop: int) -> NDArray[np.int64]:
        """(stop - start,) codes into `names`, -1 where the value is missing.

        Raises ValueError if a raw code stands for no category.
        """
        raw = np.asarray(self.raw[start:stop]).astype(np.int64, copy=False)
        n_categories = len(self.categories.lookup) - 1
        if len(raw) and not -1 <= raw.min() <= raw.max() < n_categories:
            raise ValueError(
                f"rows {start} to {stop} of a column hold codes from {raw.min()} to {raw.max()}, but it has "
                f"{n_categories} categories: the file is damaged. Write it with anndata or mudata."
            )
        codes: NDArray[np.int64] = self.categories.lookup[raw]
        return codes

    def blocks(self, n: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """First row and codes of one block of rows after the other."""
        for start in range(0, n, _BLOCK):
            yield start, self.codes(start, min(start + _BLOCK, n))

    def window(self, start: int, stop: int) -> CodedColumn:
        """Return what another process needs to read these rows."""
        return self if isinstance(self.raw, OnDisk) else replace(self, raw=Window(self.raw[start:stop], start))

    def without(self, unlabeled: str) -> CodedColumn:
        """Return the column with the cells of category `unlabeled` counted as missing."""
        return replace(self, categories=self.categories.without(unlabeled))

    def signature(self, n: int) -> str:
        """Return a hash of `n` codes and the names, which differs if another value is read."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        for _, codes in self.blocks(n):
            digest.update(codes)
        return digest.hexdigest()

    def gaps(self, n: int) -> tuple[int, int]:
        """Return how many of `n` values are missing, and the row of the first of them."""
        missing, first = 0, -1
        for start, codes in self.blocks(n):
            rows = np.flatnonzero(codes < 0)
            if len(rows) and first < 0:
                first = start + int(rows[0])
            missing += len(rows)
        return missing, first


@dataclass(frozen=True)
class ObsTable:
    """The obs of an object or of a file; nothing is read before it is asked for.

    - `columns`: Names of the columns.
    - `read`: Reads the column of a name.
    - `n_cells`: Number of rows.
    - `names`: Reads the names of some cells, by first and last row.
    - `numbers`: Opens the column of a name as numbers that are sliced by rows; the second argument is how messages call
      it.
    """

    columns: Sequence[str]
    read: Callable[[str], CodedColumn]
    n_cells: int
    names: Callable[[int, int], NDArray[Any]]
    numbers: Callable[[str, str], Any]

    def same_cells(self, other: ObsTable) -> bool:
        """Whether the cells of both are the same in the same order: then names are compared in blocks, not kept."""
        return self.n_cells == other.n_cells and all(
            np.array_equal(self.names(start, start + _BLOCK), other.names(start, start + _BLOCK))
            for start in range(0, self.n_cells, _BLOCK)
        )


def obs_in_memory(obs: Any, obs_names: pd.Index) -> ObsTable:
    """Return the obs of an AnnData or MuData, in memory or lazy."""

    def read(name: str) -> CodedColumn:
        values = obs[name]
        # a column of a lazy obs is an xarray array: one column is small beside the cells
        lazy = hasattr(values, "to_series") and hasattr(values, "dims")
        raw, distinct = distinct_values(values.to_series() if lazy else pd.Series(values), what := f"column {name!r}")
        return CodedColumn(raw, Categories.of(distinct, what))

    def numbers(name: str, what: str) -> NDArray[np.float64]:
        values = obs[name]
        return as_numbers(values.to_series() if hasattr(values, "dims") else pd.Series(values), what)

    names = lambda start, stop: obs_names[start:stop].to_numpy()  # noqa: E731
    return ObsTable(list(obs.columns), read, len(obs_names), names, numbers)


def obs_on_disk(path: str, root: Any, place: str) -> ObsTable:
    """Return the obs of a file.

    - `path`, `root`: The file, and its root group.
    - `place`: Where the obs stands, such as ``"mod/rna/obs"``.

    Raises ValueError if it has no index; OSError if a part of the index was lost.
    """
    group = root[place] if place in root else {}
    attributes = getattr(group, "attrs", {})
    index = str(attributes.get("_index", "_index"))
    if index not in group:
        raise ValueError(
            f"{path!r}: {place!r} has no index {index!r} with the names of the cells: write the file with anndata or "
            "mudata."
        )
    names = f"{place}/{index}/values" if f"{index}/values" in group else f"{place}/{index}"
    OnDisk(path, names).check_whole(f"the index of {place!r} of {path!r}", zeros=False)
    n_cells = int(root[names].shape[0])
    listed = [str(name) for name in _values(attributes["column-order"])] if "column-order" in attributes else group
    columns = sorted(name for name in listed if name in group and name not in (index, "__categories"))
    return ObsTable(
        columns,
        lambda name: _open_column(path, root, f"{place}/{name}", n_cells),
        n_cells,
        lambda start, stop: _values(root[names][start:stop]),
        lambda name, what: _open_numbers(path, root, f"{place}/{name}", n_cells, what),
    )


def select_column(key: str, argument: str, own: ObsTable, modality: str | None, cells: ObsTable) -> CodedColumn:
    """Select a column of the cells of one modality, by the rule of :func:`find_column`.

    - `argument`: The argument that named it, for messages.
    - `own`: The obs of the object or file itself.
    - `modality`: Name of the modality; None for an AnnData.
    - `cells`: The obs of the modality, or of the AnnData: the rows of the result.

    Raises KeyError if there is no such column; lists those that exist.
    """
    modalities = {} if modality is None else {modality: cells.columns}
    places = find_column(key, f"{argument}={key!r}", own.columns, modalities)
    tables = {None: own, modality: cells}
    place, name = places[0]
    column = tables[place].read(name)
    if tables[place] is cells and len(places) == 1:
        return column
    same = own.same_cells(cells)
    # a complete column of the object hides those of the modalities; a copy of a column is compared with it
    if same and place is None and (len(places) == 1 or not column.gaps(cells.n_cells)[0]):
        return column
    # cells are matched by name: an obsmap is not valid any more once a modality was reordered
    obs_names = pd.Index(cells.names(0, cells.n_cells))
    sources = []
    for place, name in places:
        cell = None if same or place is not None else obs_names.get_indexer(pd.Index(own.names(0, own.n_cells)))
        column = tables[place].read(name)
        codes = column.codes(0, tables[place].n_cells)
        sources.append(ObsValues(place, cell, Column(codes, column.names)))
    joined = join_columns(sources, obs_names, f"{argument}={key!r}")
    return CodedColumn(joined.codes, Categories(joined.names, np.append(np.arange(len(joined.names)), -1)))


def _open_column(path: str, root: Any, place: str, n_cells: int) -> CodedColumn:
    """Open a column as the version of anndata that wrote it stored it.

    Raises ValueError if it has not one value for each cell.
    """
    element = root[place]
    parts = [element] if hasattr(element, "shape") else [element[name] for name in _LONG if name in element]
    for part in parts:
        if part.shape != (n_cells,):
            raise ValueError(
                f"{path!r}: column {place!r} has shape {part.shape} for {n_cells} cells: the file is damaged. Write it "
                "with anndata or mudata."
            )
    if not hasattr(element, "shape"):
        if "codes" not in element:
            return _coded_in_blocks(element["values"], element["mask"])
        categories = element["categories"]
        names = categories if hasattr(categories, "shape") else categories["values"]
        return CodedColumn(OnDisk(path, f"{place}/codes"), Categories.of(_values(names[:])))
    if "categories" in element.attrs:  # as anndata < 0.8 wrote categorical columns
        names = root[place.rpartition("/")[0]][element.attrs["categories"]]
        return CodedColumn(OnDisk(path, place), Categories.of(_values(names[:])))
    return _coded_in_blocks(element, None)


def _open_numbers(path: str, root: Any, place: str, n_cells: int, what: str) -> Any:
    """Open a column of numbers: plain numbers stay on disk, others are read."""
    element = root[place]
    if hasattr(element, "shape") and element.dtype.kind in "fiu" and "categories" not in element.attrs:
        return OnDisk(path, place)
    if "values" in element and "mask" in element and element["values"].dtype.kind in "fiu":
        return np.where(np.asarray(element["mask"][:], bool), np.nan, np.asarray(element["values"][:], np.float64))
    column = _open_column(path, root, place, n_cells)
    codes = column.codes(0, n_cells)
    return as_numbers(pd.Series(pd.Categorical.from_codes(codes, list(column.names))), what)


def cross_coded_columns(columns: Sequence[CodedColumn], n: int) -> CodedColumn:
    """Cross complete columns of `n` cells: the names of the result are combinations of theirs."""
    raw = _CombinedCodes(tuple(columns))
    used = np.unique(np.concatenate([np.unique(raw[start : start + _BLOCK]) for start in range(0, n, _BLOCK)]))
    combinations = Combinations.of([column.names for column in columns], used)
    raw = replace(raw, combinations=combinations)
    return CodedColumn(raw, Categories(combinations.names, np.append(np.arange(len(combinations.names)), -1)))


@dataclass(frozen=True, eq=False)
class _CombinedCodes:
    """Combined codes of several columns, sliced by rows; with `combinations` their positions among these."""

    columns: tuple[CodedColumn, ...]
    combinations: Combinations | None = None

    def __getitem__(self, rows: slice) -> NDArray[np.int64]:
        codes = np.stack([column.codes(rows.start, rows.stop) for column in self.columns])
        combined = combine_codes(codes, [len(column.names) for column in self.columns])
        return combined if self.combinations is None else self.combinations.codes(combined)


def _values(stored: Any) -> NDArray[Any]:
    """Numbers as they are, and anything else as objects, whose bytes are text in UTF-8."""
    values = np.asarray(stored)
    if values.dtype.kind in "fiub":
        return values
    texts = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
    return np.array(texts, dtype=object)


def _coded_in_blocks(values: Any, mask: Any | None) -> CodedColumn:
    """Code a column that is not categorical, a block at a time: only the codes stay in memory."""
    n = int(values.shape[0])
    raw = np.full(n, -1, np.int32)
    position: dict[Any, int] = {}
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        block = _values(values[rows[0] : rows[-1] + 1])
        if mask is not None:
            known = ~np.asarray(mask[rows[0] : rows[-1] + 1], dtype=bool)
            rows, block = rows[known], block[known]
        codes, distinct = distinct_values(block)
        lookup = np.array([position.setdefault(value, len(position)) for value in distinct] + [-1])
        raw[rows] = lookup[codes]
    return CodedColumn(raw, Categories.of(position))
