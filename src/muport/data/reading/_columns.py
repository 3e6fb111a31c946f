"""Where a column of the cells stands, and one categorical column gathered over all cells by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.reading._categories import Categories, category_name, distinct_values, match_names, sort_names

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Column:
    """A categorical column: ``codes`` (n_cells,) int64 into ``names``, -1 where the value is missing."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def without(self, unlabeled: str) -> Column:
        """Return the column with the cells of category `unlabeled` counted as missing."""
        kept = Categories(self.names, np.append(np.arange(len(self.names)), -1)).without(unlabeled)
        return Column(kept.lookup[self.codes], kept.names)

    def with_names_of(self, known: Sequence[str]) -> Column:
        """Return the column in which a category that a model knows has the name that the model gave it."""
        names, lookup = sort_names(match_names([self.names], known)[0])
        return Column(lookup[self.codes], names)


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
    ``"rna:batch"``, is the column of that modality only; a column of that name in the obs of the object is a copy of
    it, and comes last.

    - `key`: Name of the column, with or without a modality prefix.
    - `what`: How messages call the column.

    Raises KeyError if no obs has the column; TypeError if `key` is not a string.
    """
    if not isinstance(key, str):
        raise TypeError(f"{what} must be the name of a column, which is a string.")
    owned: list[tuple[str | None, str]] = [
        (m, name)
        for m, columns in modalities.items()
        if key.startswith(f"{m}:") and (name := key.removeprefix(f"{m}:")) in columns
    ]
    places: list[tuple[str | None, str]] = [(None, key)] if key in obs else []
    places = owned[:1] + places if owned else places + [(m, key) for m, columns in modalities.items() if key in columns]
    if not places:
        existing = [*map(str, obs), *(f"{modality}:{c}" for modality, columns in modalities.items() for c in columns)]
        raise KeyError(f"{what} is not in obs; the columns are {sorted(c for c in existing if '_scvi_' not in c)}.")
    return places


def read_obs(data: mudata.MuData | anndata.AnnData, key: str, what: str) -> list[ObsValues[pd.Series]]:
    """Read the columns that :func:`find_column` finds in an object.

    Raises KeyError if no obs has the column; ValueError if one has several of that name.
    """
    mods = dict(getattr(data, "mod", {}))
    sources: list[ObsValues[pd.Series]] = []
    for modality, name in find_column(key, what, data.obs.columns, {m: a.obs.columns for m, a in mods.items()}):
        part = data if modality is None else mods[modality]
        values = part.obs[name]
        if isinstance(values, pd.DataFrame):
            where = "obs" if modality is None else f"the obs of {modality!r}"
            raise ValueError(f"{what}: {where} has {values.shape[1]} columns of that name: rename or drop all but one.")
        cell = None if modality is None else data.obs_names.get_indexer(part.obs_names).astype(np.int64)
        sources.append(ObsValues(modality, cell, values))
        if modality is None and values.notna().all():
            break
    return sources


def holds_numbers(data: mudata.MuData | anndata.AnnData, key: str, argument: str | None = None) -> bool:
    """Return whether ``obs[key]`` holds numbers, not truth values, categories or text.

    - `argument`: Argument that names the column, for messages.

    Raises KeyError if no obs has the column.
    """
    return any(
        pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        if values.dtype != object
        else pd.api.types.infer_dtype(values, skipna=True) in ("floating", "integer", "mixed-integer-float")
        for values in (source.values for source in read_obs(data, key, name_column(key, argument)))
    )


def ordered_names(data: mudata.MuData | anndata.AnnData, key: str) -> tuple[str, ...] | None:
    """Return the names of the categories of ``obs[key]`` in their order, the lowest first; None if they have no order.

    Raises KeyError if no obs has the column.
    """
    for source in read_obs(data, key, f"column {key!r}"):
        dtype = source.values.dtype
        if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
            return tuple(category_name(category) for category in dtype.categories)
    return None


def name_column(key: str, argument: str | None) -> str:
    """How messages call a column: by the argument that names it, if there is one."""
    return f"column {key!r}" if argument is None else f"{argument}={key!r}"


def joined_column(data: mudata.MuData | anndata.AnnData, key: str, argument: str | None = None) -> Column:
    """Gather ``obs[key]`` of all cells, one coding for all, without touching `data`.

    ``data.obs[key]`` comes first; cells that miss it there take it from the modalities, matched by name. Values become
    names by the rule of :mod:`muport.data.reading._categories`, sorted.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    key
        Name of the column, with or without a modality prefix.
    argument
        Argument that names the column, for messages.

    Raises
    ------
    KeyError
        If no ``obs`` has the column; lists the columns that exist.
    TypeError
        If `key` is not a string, or a value is a list, a dict or the like.
    ValueError
        If two modalities give the same cell different values, ``data.obs["rna:batch"]`` differs from the column of the
        modality, or a column has values such as 1 and ``"1"``.
    """
    what = name_column(key, argument)
    sources = []
    for source in read_obs(data, key, what):
        codes, distinct = distinct_values(source.values, what)
        categories = Categories.of(distinct, what)
        sources.append(ObsValues(source.modality, source.cell, Column(categories.lookup[codes], categories.names)))
    return join_columns(sources, data.obs_names, what)


def join_columns(sources: Sequence[ObsValues[Column]], obs_names: pd.Index, what: str) -> Column:
    """Join the columns of several obs to one column of the cells `obs_names`, without the names that no cell has.

    Raises ValueError as :func:`join_values`.
    """
    matched = match_names([source.values.names for source in sources])
    names, lookup = sort_names(name for own in matched for name in own)
    coded, start = [], 0
    for source, own in zip(sources, matched, strict=True):
        codes = np.append(lookup[start : start + len(own)], -1)[source.values.codes]
        coded.append(ObsValues(source.modality, source.cell, codes))
        start += len(own)
    joined = join_values(coded, obs_names, what, lambda code: repr(names[code]))
    used = np.unique(joined[joined >= 0])
    lookup = np.full(len(names) + 1, -1, dtype=np.int64)
    lookup[used] = np.arange(len(used))
    return Column(lookup[joined], tuple(names[code] for code in used))


def join_values(
    sources: Sequence[ObsValues[NDArray[Any]]], obs_names: pd.Index, what: str, text: Callable[[Any], str]
) -> NDArray[Any]:
    """Join the values of several obs: a cell has that of the first source that holds one.

    - `sources`: Values in the order of :func:`find_column`: codes with -1, or floats with NaN, where one is missing.
    - `obs_names`: Names of the cells.
    - `what`: How messages call the column.
    - `text`: Writes a value in a message.

    Returns (n_cells,) values. Raises ValueError if the modalities give a cell different values and the object itself
    gives it none, or if the object has a copy of a modality's column that differs from it.
    """
    dtype = sources[0].values.dtype
    joined = np.full(len(obs_names), np.nan if dtype.kind == "f" else -1, dtype=dtype)
    undecided, covered = np.ones(len(obs_names), bool), np.zeros(len(obs_names), bool)
    for position, source in enumerate(sources):
        cell = np.arange(len(obs_names)) if source.cell is None else source.cell
        taken = (cell >= 0) & undecided[cell]
        cell, values = cell[taken], source.values[taken]
        known, before = ~_missing(values), joined[cell]
        # a modality may lack a value that another has; a copy in the object has no value that its modality lacks
        compared = covered[cell] if source.modality is None else ~_missing(before)
        clash = np.flatnonzero(known & compared & (before != values))
        if len(clash):
            example = obs_names[cell[clash[0]]], text(values[clash[0]]), _show(before[clash[0]], text)
            raise ValueError(_describe_clash(source.modality, sources[0].modality, len(clash), example, what))
        joined[cell[known]] = values[known]
        covered[cell] = True
        if position == 0 and source.modality is None:
            undecided = _missing(joined)
    return joined


def _describe_clash(
    modality: str | None, first: str | None, n_cells: int, example: tuple[str, str, str], what: str
) -> str:
    name, value, other = example
    if modality is None:
        return (
            f"{what}: mdata.obs has a copy of the column of {first!r} that differs in {n_cells} cells, for example "
            f"{name!r} is {value} in mdata.obs and {other} in {first!r}: delete the copy, or write it to {first!r}."
        )
    return (
        f"{what}: the modalities disagree on {n_cells} cells, for example {name!r} is {value} in {modality!r} and "
        f"{other} elsewhere: correct it, or put the column in mdata.obs."
    )


def _show(value: Any, text: Callable[[Any], str]) -> str:
    return "missing" if _missing(np.asarray([value]))[0] else text(value)


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else values < 0
    return missing
