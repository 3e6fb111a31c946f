"""Coordinates and columns by key, in the object itself or in the modality before the colon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

__all__ = ["Data", "get_column", "get_coordinates"]

type Data = anndata.AnnData | mudata.MuData


def get_coordinates(data: Data, basis: str) -> tuple[NDArray[np.float64], pd.Index]:
    """Return the first two columns of ``obsm[basis]`` and the names of its cells."""
    part, key = _split_key(data, basis, "obsm")
    if key not in part.obsm:
        raise KeyError(f"basis={basis!r} is not in obsm; there are {_list_keys(data, 'obsm')}.")
    values: Any = part.obsm[key]
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"basis={basis!r} has shape {values.shape}: two columns are needed for a plot.")
    return values[:, :2].astype(np.float64), part.obs_names


def get_column(data: Data, color: str, cells: pd.Index) -> pd.Series:
    """Return ``obs[color]`` of some cells, by name; missing where the column has no value for a cell.

    A key with a prefix is the column of that modality, also where ``mdata.obs`` has a copy of it, which may be out of
    date. A name without prefix that the object itself does not have is gathered from the modalities. ValueError if
    two of them disagree on a cell.
    """
    prefix, _, bare = color.partition(":")
    mods = _modalities(data)
    if prefix in mods and bare in mods[prefix].obs:
        return _by_name(mods[prefix].obs[bare], cells)
    if color in data.obs:
        return _by_name(data.obs[color], cells)
    columns: list[pd.Series] = [mod.obs[color] for mod in mods.values() if color in mod.obs]
    if not columns:
        raise KeyError(f"color={color!r} is in no obs; the columns are {_list_keys(data, 'obs')}.")
    numeric = all(pd.api.types.is_numeric_dtype(column) for column in columns)
    joined = pd.concat([column if numeric else column.astype(object) for column in columns]).dropna()
    first = joined[~joined.index.duplicated()]
    other = joined[joined.index.duplicated()]
    clash = other[other.to_numpy() != first.reindex(other.index).to_numpy()]
    if len(clash):
        raise ValueError(
            f"color={color!r}: the modalities disagree on {len(clash)} cells, for example {clash.index[0]!r}: name the "
            f"column of one of them, such as {next(iter(mods)) + ':' + color!r}."
        )
    return first.reindex(cells)


def _by_name(column: pd.Series, cells: pd.Index) -> pd.Series:
    # names that repeat cannot be looked up, and need not be where the cells are those of the column
    return column if column.index.equals(cells) else column.reindex(cells)


def _modalities(data: Data) -> dict[str, anndata.AnnData]:
    return dict(data.mod) if isinstance(data, mudata.MuData) else {}


def _split_key(data: Data, key: str, slot: str) -> tuple[Data, str]:
    """Return the object or modality that a key belongs to, and the key there; the object's own keys come first."""
    prefix, colon, bare = key.partition(":")
    if colon and key not in getattr(data, slot) and prefix in _modalities(data):
        return _modalities(data)[prefix], bare
    return data, key


def _list_keys(data: Data, slot: str) -> list[str]:
    # the obsm of a MuData also has a mask for each modality, under its name: not coordinates
    mods = _modalities(data)
    own = [key for key in getattr(data, slot).keys() if key not in mods]
    own += [f"{name}:{key}" for name, mod in mods.items() for key in getattr(mod, slot).keys()]
    return sorted({key for key in own if "_scvi_" not in key})
