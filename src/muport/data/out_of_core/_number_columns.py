"""Columns of numbers of very many cells, read by rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.out_of_core._disk_arrays import OnDisk, Window
from muport.data.reading._columns import find_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from muport.data.out_of_core._coded_columns import ObsTable

__all__ = ["NumberColumns", "open_numbers"]

_BLOCK = 2**20  # values of a column that are read together


@dataclass(frozen=True, eq=False)
class NumberColumns:
    """Columns of finite numbers.

    - `names`: Names of the columns.
    - `raw`: One array of each, (n,), which is sliced by rows.
    """

    names: tuple[str, ...]
    raw: tuple[Any, ...]

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, J) values."""
        columns = [np.asarray(raw[start:stop]).astype(np.float64, copy=False) for raw in self.raw]
        return np.stack(columns, axis=1)

    def blocks(self, n: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """First row and values of one block of rows after the other."""
        for start in range(0, n, _BLOCK):
            yield start, self.read(start, min(start + _BLOCK, n))

    def window(self, start: int, stop: int) -> NumberColumns:
        """Return what another process needs to read these rows."""
        raw = tuple(r if isinstance(r, OnDisk) else Window(r[start:stop], start) for r in self.raw)
        return replace(self, raw=raw)

    def signature(self, n: int) -> str:
        """Return a hash of `n` rows and the names."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for _, values in self.blocks(n):
            digest.update(values)
        return digest.hexdigest()


def open_numbers(keys: Sequence[str], own: ObsTable, modality: str | None, cells: ObsTable) -> NumberColumns:
    """Open the covariates of the cells of one modality, by the rule of :func:`find_column`.

    - `own`: The obs of the object or file itself.
    - `modality`: Name of the modality; None for an AnnData.
    - `cells`: The obs of the modality, or of the AnnData: the rows of the result.

    Raises KeyError if a column does not exist; TypeError or ValueError if it does not hold finite numbers that differ.
    """
    columns = NumberColumns(tuple(keys), tuple(_open_column(key, own, modality, cells) for key in keys))
    low, high = np.full(len(keys), np.inf), np.full(len(keys), -np.inf)
    for start, values in columns.blocks(cells.n_cells):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise ValueError(
                f"continuous_covariate_keys={keys[column]!r}: the cell in row {start + int(row)} has no finite value: "
                "give it one, or leave it out."
            )
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    for key, least, most in zip(keys, low, high, strict=True):
        if least == most:
            raise ValueError(
                f"continuous_covariate_keys: {key!r} has the value {least:g} in all cells, which explains nothing: "
                "leave it out."
            )
    return columns


def _open_column(key: str, own: ObsTable, modality: str | None, cells: ObsTable) -> Any:
    what = f"continuous_covariate_keys={key!r}"
    modalities = {} if modality is None else {modality: cells.columns}
    places = find_column(key, what, own.columns, modalities)
    tables = {None: own, modality: cells}
    place, name = places[0]
    if tables[place] is cells or own.same_cells(cells):
        return tables[place].numbers(name, what)
    # cells are matched by name, and the modality fills the gaps of the object
    obs_names = pd.Index(cells.names(0, cells.n_cells))
    values = np.full(cells.n_cells, np.nan)
    for place, name in places:
        table = tables[place]
        position = pd.Index(table.names(0, table.n_cells)).get_indexer(obs_names)
        found = np.asarray(table.numbers(name, what)[0 : table.n_cells], np.float64)
        filled = np.isnan(values) & (position >= 0)
        values[filled] = found[position[filled]]
    return values
