"""Where a key of a picture lies: in the object, or in the modality before the colon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

type Data = anndata.AnnData | mudata.MuData


def coordinates(data: Data, basis: str) -> tuple[NDArray[np.float64], pd.Index]:
    """Return the first two columns of ``obsm[basis]`` and the names of its cells."""
    holder, key = _holder(data, basis, "obsm")
    if key not in holder.obsm:
        raise KeyError(f"basis={basis!r} is not in obsm; there are {_held(data, 'obsm')}.")
    values: Any = holder.obsm[key]
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"basis={basis!r} has shape {values.shape}: two columns are needed for a picture.")
    return values[:, :2].astype(np.float64), holder.obs_names


def column(data: Data, color: str, cells: pd.Index) -> pd.Series:
    """Return ``obs[color]`` of some cells, by name; missing where the column says nothing about a cell.

    A plain name that the object itself lacks is gathered from the modalities.
    """
    if color in data.obs:
        return data.obs[color].reindex(cells)
    holder, key = _holder(data, color, "obs")
    if holder is not data and key in holder.obs:
        return holder.obs[key].reindex(cells)
    parts = [mod.obs[color] for mod in _modalities(data).values() if color in mod.obs]
    if not parts:
        raise KeyError(f"color={color!r} is in no obs; the columns are {_held(data, 'obs')}.")
    numeric = all(pd.api.types.is_numeric_dtype(part) for part in parts)
    joined = pd.concat([part if numeric else part.astype(object) for part in parts])
    return joined[~joined.index.duplicated()].reindex(cells)


def _modalities(data: Data) -> dict[str, anndata.AnnData]:
    return dict(data.mod) if isinstance(data, mudata.MuData) else {}


def _holder(data: Data, key: str, slot: str) -> tuple[Data, str]:
    """Return the object or modality a key points into, and the key there; the object's own keys come first."""
    prefix, colon, rest = key.partition(":")
    if colon and key not in getattr(data, slot) and prefix in _modalities(data):
        return _modalities(data)[prefix], rest
    return data, key


def _held(data: Data, slot: str) -> list[str]:
    # a MuData lists its modalities' names among its own obsm keys: they are masks, not coordinates
    mods = _modalities(data)
    own = [key for key in getattr(data, slot).keys() if key not in mods]
    own += [f"{name}:{key}" for name, mod in mods.items() for key in getattr(mod, slot).keys()]
    return sorted({key for key in own if "_scvi_" not in key})
