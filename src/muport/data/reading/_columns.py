"""One column over all cells, gathered by name from the object and its modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import mudata
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Column:
    """A categorical column: ``codes`` (n_cells,) int64 into ``names``, -1 where the value is missing."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def without(self, value: str) -> Column:
        """Return the column with the cells of category `value` counted as missing."""
        if value not in self.names:
            return self
        position = self.names.index(value)
        codes = np.where(self.codes == position, -1, self.codes - (self.codes > position))
        return Column(codes, self.names[:position] + self.names[position + 1 :])


@dataclass(frozen=True)
class Piece:
    """A column of one ``obs``: its place, the position of its cells in the object (None: all, in order), its values."""

    place: str
    cell: NDArray[np.int64] | None
    values: pd.Series


def pieces(data: mudata.MuData | anndata.AnnData, key: str) -> list[Piece]:
    """List the columns that tell ``obs[key]`` of the cells: the object's own, and, for its gaps, those of modalities.

    A key with a modality prefix, ``"rna:batch"``, is that modality's column only.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    key
        Name of the column, with or without a modality prefix.

    Raises
    ------
    KeyError
        If no ``obs`` has the column; lists the columns that exist.
    """
    found = [Piece("obs", None, data.obs[key])] if key in data.obs else []
    if isinstance(data, mudata.MuData) and not (found and found[0].values.notna().all()):
        prefix, _, bare = key.partition(":")
        for name, adata in data.mod.items():
            column = bare if name == prefix and bare in adata.obs else key
            if column in adata.obs:
                cell = data.obs_names.get_indexer(adata.obs_names).astype(np.int64)
                found.append(Piece(name, cell, adata.obs[column]))
    if not found:
        raise KeyError(f"column {key!r} is in no obs; the columns are {_columns(data)}.")
    return found


def joined_column(data: mudata.MuData | anndata.AnnData, key: str) -> Column:
    """Gather ``obs[key]`` of all cells, one coding for all, without touching `data`.

    ``data.obs[key]`` comes first; cells that miss it there take it from the modalities, matched by name. Values become
    strings, sorted.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    key
        Name of the column, with or without a modality prefix.

    Raises
    ------
    KeyError
        If no ``obs`` has the column; lists the columns that exist.
    ValueError
        If two modalities give the same cell different values.
    """
    sources = [_as_source(piece) for piece in pieces(data, key)]
    names = tuple(sorted({c for s in sources for c in s.categories}))
    position = {name: i for i, name in enumerate(names)}
    joined = np.full(data.n_obs, -1, dtype=np.int64)
    for source in sources:
        lookup = np.array([position[c] for c in source.categories] + [-1], dtype=np.int64)
        _merge(joined, lookup[source.codes], source, data, key, names)
    return _drop_unused(joined, names)


@dataclass(frozen=True)
class _Source:
    place: str
    cell: NDArray[np.int64] | None
    codes: NDArray[np.int64]
    categories: tuple[str, ...]


def _as_source(piece: Piece) -> _Source:
    values = piece.values
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, categories = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, categories = pd.factorize(values)
    texts, merged = np.unique([str(c) for c in categories], return_inverse=True)
    # the last entry is what code -1 points at
    lookup = np.append(merged, -1).astype(np.int64)
    return _Source(piece.place, piece.cell, lookup[codes], tuple(str(t) for t in texts))


def _merge(
    joined: NDArray[np.int64],
    codes: NDArray[np.int64],
    source: _Source,
    data: mudata.MuData | anndata.AnnData,
    key: str,
    names: tuple[str, ...],
) -> None:
    if source.cell is None:
        joined[:] = codes
        return
    known = (source.cell >= 0) & (codes >= 0)
    cell, codes = source.cell[known], codes[known]
    clash = (joined[cell] >= 0) & (joined[cell] != codes)
    # where the object's own column spoke, the modalities only fill its gaps
    if clash.any() and key not in data.obs:
        first = int(np.flatnonzero(clash)[0])
        here, there = names[codes[first]], names[joined[cell[first]]]
        raise ValueError(
            f"column {key!r}: the modalities disagree on {int(clash.sum())} cells, for example "
            f"{data.obs_names[cell[first]]!r} is {here!r} in {source.place!r} and {there!r} elsewhere: correct it, "
            "or put the column in mdata.obs."
        )
    empty = joined[cell] < 0
    joined[cell[empty]] = codes[empty]


def _drop_unused(codes: NDArray[np.int64], names: tuple[str, ...]) -> Column:
    used = np.zeros(len(names) + 1, dtype=bool)
    used[codes] = True
    used[-1] = False
    lookup = np.append(np.cumsum(used[:-1]) - 1, -1).astype(np.int64)
    return Column(lookup[codes], tuple(name for name, keep in zip(names, used, strict=False) if keep))


def _columns(data: mudata.MuData | anndata.AnnData) -> list[str]:
    found = [str(c) for c in data.obs.columns]
    if isinstance(data, mudata.MuData):
        found += [f"{name}:{column}" for name, adata in data.mod.items() for column in adata.obs.columns]
    return [c for c in found if "_scvi_" not in c]
