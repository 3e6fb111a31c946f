"""Where a column of the cells stands, and one categorical column gathered over all cells by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.data.reading._categories import Categories, distinct_values

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import anndata
    import mudata
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Column:
    """A categorical column: ``codes`` (n_cells,) int64 into ``names``, -1 where the value is missing."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def without(self, unlabeled: str) -> Column:
        """Return the column with the cells of category `unlabeled` counted as missing."""
        if unlabeled not in self.names:
            return self
        kept = Categories(self.names, np.append(np.arange(len(self.names)), -1)).without(unlabeled)
        return Column(kept.lookup[self.codes], kept.names)


@dataclass(frozen=True)
class ObsValues[Values]:
    """Values of some of the cells, from one obs.

    - `modality`: The modality whose obs it is; None for the obs of the object itself.
    - `cell`: (n_values,) positions of its cells in the object, -1 for other cells; None: all cells, in order.
    - `values`: (n_values,) values.
    """

    modality: str | None
    cell: NDArray[np.int64] | None
    values: Values


def find_column(
    key: str, what: str, obs: Collection[str], modalities: Mapping[str, Collection[str]]
) -> list[tuple[str | None, str]]:
    """Find the columns that hold the values of `key`: ``(modality or None, name there)``, by precedence.

    The obs of the object itself comes first; the modalities fill its gaps. A key with a modality prefix,
    ``"rna:batch"``, is the column of that modality only.

    - `key`: Name of the column, with or without a modality prefix.
    """
    places: list[tuple[str | None, str]] = [(None, key)] if key in obs else []
    prefix, _, bare = key.partition(":")
    for modality, columns in modalities.items():
        name = bare if modality == prefix and bare in columns else key
        if name in columns:
            places.append((modality, name))
    if not places:
        existing = [*map(str, obs), *(f"{modality}:{c}" for modality, columns in modalities.items() for c in columns)]
        raise KeyError(f"{what} is in no obs; the columns are {sorted(c for c in existing if '_scvi_' not in c)}.")
    return places


def read_obs(data: mudata.MuData | anndata.AnnData, key: str, what: str) -> list[ObsValues[pd.Series]]:
    """Read the columns that :func:`find_column` finds in an object.

    Raises KeyError if no obs has the column.
    """
    mods = dict(getattr(data, "mod", {}))
    sources: list[ObsValues[pd.Series]] = []
    for modality, name in find_column(key, what, data.obs.columns, {m: a.obs.columns for m, a in mods.items()}):
        if modality is None:
            sources.append(ObsValues(None, None, data.obs[name]))
            if sources[0].values.notna().all():
                break
        else:
            cell = data.obs_names.get_indexer(mods[modality].obs_names).astype(np.int64)
            sources.append(ObsValues(modality, cell, mods[modality].obs[name]))
    return sources


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
    what = f"column {key!r}"
    sources = []
    for source in read_obs(data, key, what):
        codes, distinct = distinct_values(source.values)
        categories = Categories.of(distinct)
        sources.append(ObsValues(source.modality, source.cell, Column(categories.lookup[codes], categories.names)))
    return join_columns(sources, data.obs_names, what)


def join_columns(sources: Sequence[ObsValues[Column]], obs_names: pd.Index, what: str) -> Column:
    """Join the columns of several obs to one column of the cells `obs_names`, without the names that no cell has.

    Raises ValueError if two modalities give the same cell different values.
    """
    names = tuple(sorted({name for source in sources for name in source.values.names}))
    position = {name: code for code, name in enumerate(names)}
    coded = []
    for source in sources:
        lookup = np.array([position[name] for name in source.values.names] + [-1], dtype=np.int64)
        coded.append(ObsValues(source.modality, source.cell, lookup[source.values.codes]))
    joined = join_values(coded, obs_names, what, lambda code: repr(names[code]))
    used = np.unique(joined[joined >= 0])
    lookup = np.full(len(names) + 1, -1, dtype=np.int64)
    lookup[used] = np.arange(len(used))
    return Column(lookup[joined], tuple(names[code] for code in used))


def join_values(
    sources: Sequence[ObsValues[NDArray[Any]]], obs_names: pd.Index, what: str, text: Callable[[Any], str]
) -> NDArray[Any]:
    """Join the values of several obs: a cell has that of the first source that holds one.

    - `sources`: Values by precedence: codes with -1, or floats with NaN, where a value is missing.
    - `obs_names`: Names of the cells.
    - `what`: How messages call the column.
    - `text`: Writes a value in a message.

    Returns (n_cells,) values.
    """
    dtype = sources[0].values.dtype
    joined = np.full(len(obs_names), np.nan if dtype.kind == "f" else -1, dtype=dtype)
    for source in sources:
        known = ~_missing(source.values)
        cell = np.arange(len(obs_names)) if source.cell is None else source.cell
        known &= cell >= 0
        cell, values = cell[known], source.values[known]
        empty = _missing(joined[cell])
        clash = np.flatnonzero(~empty & (joined[cell] != values))
        # where the object itself has the column, the modalities only fill its gaps
        if len(clash) and sources[0].modality is not None:
            first = clash[0]
            raise ValueError(
                f"{what}: the modalities disagree on {len(clash)} cells, for example {obs_names[cell[first]]!r} is "
                f"{text(values[first])} in {source.modality!r} and {text(joined[cell[first]])} elsewhere: correct it, "
                "or put the column in mdata.obs."
            )
        joined[cell[empty]] = values[empty]
    return joined


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else values < 0
    return missing
