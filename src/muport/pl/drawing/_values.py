"""Coordinates, columns of obs and values of genes by key, in the object itself or in its modalities."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from scipy import sparse

from muport.data import check_cells, in_memory

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

__all__ = ["Column", "Data", "as_numbers", "get_coordinates", "get_matrix", "get_values"]

type Data = anndata.AnnData | mudata.MuData


@dataclass(frozen=True, eq=False)
class Column:
    """Values of cells, by which they are colored.

    - `key`: Name of the column without the modality.
    - `values`: (n,) value of each cell; missing where there is none.
    - `owner`: The object whose ``obs`` has the column, and whose ``uns`` may have its colors; None for a gene.
    """

    key: str
    values: pd.Series
    owner: Data | None

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers, drawn on a color scale."""
        return pd.api.types.is_numeric_dtype(self.values) and not pd.api.types.is_bool_dtype(self.values)


def get_coordinates(data: Data, basis: str, modality: str | None = None) -> tuple[NDArray[np.float64], pd.Index]:
    """Return the first two columns of ``obsm[basis]`` and the names of its cells; ``"umap"`` stands for ``"X_umap"``.

    Keys of the object itself come before those of `modality`.
    """
    values, cells = get_matrix(data, basis, modality)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"basis={basis!r} has shape {values.shape}: two columns are needed for a plot.")
    return as_numbers(values[:, :2], f"basis={basis!r}"), cells


def get_matrix(
    data: Data, key: str, modality: str | None = None, argument: str = "basis"
) -> tuple[NDArray[Any], pd.Index]:
    """Return all columns of ``obsm[key]`` and the names of its cells, as for :func:`get_coordinates`."""
    mods = _get_modalities(data, modality)
    part, bare = _split_key(data, key, "obsm")
    places = [part, *([mods[modality]] if modality is not None and part is data else [])]
    hits = [(place, name) for place in places for name in (bare, f"X_{bare}") if name in _own_keys(place)]
    if not hits:
        raise KeyError(f"{argument}={key!r} is not in obsm; there are {_list_keys(data, 'obsm')}.")
    place, name = hits[0]
    values: Any = in_memory(place.obsm[name])
    return values.toarray() if sparse.issparse(values) else values, place.obs_names


def as_numbers(values: Any, what: str) -> NDArray[np.float64]:
    """Return values as float64; a TypeError names them, as `what`, if they are not real numbers."""
    if hasattr(values, "obs_names"):
        raise TypeError(f"{what} is {type(values).__name__}: pass an array or a table, such as one of its obsm.")
    array = values.to_numpy(na_value=np.nan) if isinstance(values, pd.DataFrame | pd.Series) else np.asarray(values)
    if array.dtype.kind in "biufO":
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{what} holds {array.dtype}, not numbers: pass real numbers.")


def get_values(
    data: Data,
    color: str,
    cells: pd.Index,
    *,
    layer: str | None = None,
    modality: str | None = None,
    argument: str = "color",
) -> Column:
    """Return the values of some cells in a column of ``obs``, or the expression of a gene, by name.

    A key with a prefix is the column or gene of that modality, also where ``mdata.obs`` has a copy of the column, which
    may be out of date. A name without prefix is searched in the object's own ``obs``, in those of the modalities, and
    then among the genes of the modalities; with `modality`, only of that modality. ValueError if two modalities
    disagree on a cell, or both have the gene.
    """
    if not isinstance(color, str):
        raise TypeError(f"{argument}={color!r} must be a name of a column of obs or of a gene.")
    mods = _get_modalities(data, modality)
    prefix, _, bare = color.partition(":")
    if prefix in mods and bare in mods[prefix].obs:
        return Column(bare, _by_name(mods[prefix].obs[bare], cells), mods[prefix])
    if modality is not None and color in mods[modality].obs:
        return Column(color, _by_name(mods[modality].obs[color], cells), mods[modality])
    if color in data.obs:
        return Column(color, _by_name(data.obs[color], cells), data)
    holders = {name: mod for name, mod in mods.items() if color in mod.obs}
    if holders and modality is None:
        return _gather(holders, color, cells, argument)
    if prefix in mods and bare in mods[prefix].var_names:
        return Column(color, _read_gene(mods[prefix], bare, layer, cells, argument), None)
    searched: dict[str, Any] = mods if modality is None else {modality: mods[modality]}
    genes = searched if mods else {"": data}
    holders = {name: mod for name, mod in genes.items() if color in mod.var_names}
    if len(holders) > 1:
        raise ValueError(
            f"{argument}={color!r} is in var_names of {', '.join(holders)}: pass {next(iter(holders)) + ':' + color!r} "
            f"or modality={next(iter(holders))!r}."
        )
    if not holders:
        raise KeyError(_describe_missing(data, genes, color, argument))
    return Column(color, _read_gene(next(iter(holders.values())), color, layer, cells, argument), None)


def _gather(holders: dict[str, Any], color: str, cells: pd.Index, argument: str) -> Column:
    """Join the columns of this name of several modalities."""
    columns: list[pd.Series] = [mod.obs[color] for mod in holders.values()]
    owner = next((mod for mod in holders.values() if f"{color}_colors" in mod.uns), next(iter(holders.values())))
    if len(columns) == 1:
        return Column(color, _by_name(columns[0], cells), owner)
    same = all(column.dtype == columns[0].dtype for column in columns)
    joined = pd.concat([column if same else column.astype(object) for column in columns]).dropna()
    first = joined[~joined.index.duplicated()]
    other = joined[joined.index.duplicated()]
    clash = other[other.to_numpy() != first.reindex(other.index).to_numpy()]
    if len(clash):
        raise ValueError(
            f"{argument}={color!r}: the modalities disagree on {len(clash)} cells, for example {clash.index[0]!r}: "
            f"name the column of one of them, such as {next(iter(holders)) + ':' + color!r}."
        )
    return Column(color, first.reindex(cells), owner if same else None)


def _read_gene(data: Any, gene: str, layer: str | None, cells: pd.Index, argument: str) -> pd.Series:
    positions = np.flatnonzero(data.var_names == gene)
    if len(positions) > 1:
        raise ValueError(
            f"{argument}={gene!r}: {len(positions)} genes have this name: call var_names_make_unique() first."
        )
    if layer is not None and layer not in data.layers:
        there = [name for name in data.layers if name is not None]
        raise KeyError(f"layer={layer!r} is not in layers; there are {there}.")
    matrix = data.X if layer is None else data.layers[layer]
    if matrix is None:
        raise ValueError(f"{argument}={gene!r}: the data have no X: pass layer, or add X.")
    values = matrix[:, [positions[0]]]
    values = np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64).ravel()
    return _by_name(pd.Series(values, index=data.obs_names), cells)


def _describe_missing(data: Data, genes: dict[str, Any], color: str, argument: str) -> str:
    names = [str(name) for mod in genes.values() for name in mod.var_names]
    columns = _list_keys(data, "obs")
    raw = any(getattr(mod, "raw", None) is not None and color in mod.raw.var_names for mod in genes.values())
    text = (
        f"{argument}={color!r} is not in obs; the columns are {columns}. It is not among the {len(names)} genes either"
    )
    if raw:
        return text + ", but in .raw: pass data.raw.to_adata()."
    close = get_close_matches(color, [*names, *columns], n=3, cutoff=0.7)
    folded = [name for name in names if name.lower() == color.lower()]
    similar = list(dict.fromkeys([*folded, *close]))[:3]
    return text + (f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ".")


def _by_name(column: pd.Series, cells: pd.Index) -> pd.Series:
    # names that repeat cannot be looked up, and need not be where the cells are those of the column
    return column if column.index.equals(cells) else column.reindex(cells)


def _get_modalities(data: Data, modality: str | None = None) -> dict[str, anndata.AnnData]:
    check_cells(data)
    mods: dict[str, anndata.AnnData] = dict(data.mod) if isinstance(data, mudata.MuData) else {}
    if modality is not None and modality not in mods:
        fix = f"there are {sorted(mods)}" if mods else "the data are an AnnData, which has none: leave it out"
        raise KeyError(f"modality={modality!r} is not in the data; {fix}.")
    return mods


def _split_key(data: Data, key: str, slot: str) -> tuple[Data, str]:
    """Return the object or modality that a key belongs to, and the key there; the object's own keys come first."""
    prefix, colon, bare = key.partition(":")
    mods = _get_modalities(data)
    if colon and key not in getattr(data, slot) and prefix in mods:
        return mods[prefix], bare
    return data, key


def _own_keys(data: Data) -> list[str]:
    # the obsm of a MuData also has a mask for each modality, under its name: not coordinates
    mods = _get_modalities(data)
    return [key for key in data.obsm.keys() if key not in mods]


def _list_keys(data: Data, slot: str) -> list[str]:
    mods = _get_modalities(data)
    own = [key for key in getattr(data, slot).keys() if key not in mods]
    own += [f"{name}:{key}" for name, mod in mods.items() for key in getattr(mod, slot).keys()]
    return sorted({key for key in own if "_scvi_" not in key})
