"""One column of numbers over all cells, gathered by name from the object and its modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport.data.reading._columns import pieces

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.data.reading._columns import Piece


def joined_numbers(
    data: mudata.MuData | anndata.AnnData, key: str, argument: str, *, negative: bool = True
) -> NDArray[np.float64]:
    """Gather ``obs[key]`` of all cells as finite numbers, without touching `data`.

    ``data.obs[key]`` comes first; cells that miss it there take it from the modalities, matched by name. Categories and
    strings that read as numbers (``"2"``, ``"4"``) are taken as these.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    key
        Name of the column, with or without a modality prefix.
    argument
        The argument that named the column, for messages: ``"time_key"``.
    negative
        Whether numbers below zero pass.

    Returns
    -------
    (n_cells,) float64.

    Raises
    ------
    KeyError
        If no ``obs`` has the column; lists the columns that exist.
    TypeError
        If a column holds truth values, dates or complex numbers.
    ValueError
        If a value is missing, is not a number, is infinite, or is negative where that is refused; or if two modalities
        give the same cell different values.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> obs = pd.DataFrame({"day": pd.Categorical(["2", "10"])}, index=["a", "b"])
    >>> joined_numbers(anndata.AnnData(obs=obs), "day", "time_key").tolist()
    [2.0, 10.0]
    """
    what = f"{argument}={key!r}"
    joined = np.full(data.n_obs, np.nan)
    for piece in pieces(data, key):
        _merge(joined, piece, data, key, what)
    _refuse(np.isnan(joined), what, "have no value (NaN)", "give them one, or leave them out", data.obs_names)
    _refuse(np.isinf(joined), what, "have an infinite value", "replace it, or leave them out", data.obs_names)
    if not negative:
        _refuse(joined < 0, what, "have a negative value", "give numbers of at least 0", data.obs_names)
    return joined


def _refuse(bad: NDArray[np.bool_], what: str, fault: str, fix: str, obs_names: pd.Index) -> None:
    if bad.any():
        first = obs_names[int(np.flatnonzero(bad)[0])]
        raise ValueError(f"{what}: {int(bad.sum())} cells {fault}, for example {first!r}: {fix}.")


def _merge(
    joined: NDArray[np.float64], piece: Piece, data: mudata.MuData | anndata.AnnData, key: str, what: str
) -> None:
    values = _as_numbers(piece.values, what)
    if piece.cell is None:
        joined[:] = values
        return
    known = (piece.cell >= 0) & ~np.isnan(values)
    cell, values = piece.cell[known], values[known]
    empty = np.isnan(joined[cell])
    clash = ~empty & (joined[cell] != values)
    # where the object's own column spoke, the modalities only fill its gaps
    if clash.any() and key not in data.obs:
        first = int(np.flatnonzero(clash)[0])
        raise ValueError(
            f"{what}: the modalities disagree on {int(clash.sum())} cells, for example "
            f"{data.obs_names[cell[first]]!r} is {values[first]:g} in {piece.place!r} and {joined[cell[first]]:g} "
            "elsewhere: correct it, or put the column in mdata.obs."
        )
    joined[cell[empty]] = values[empty]


def _as_numbers(values: pd.Series, what: str) -> NDArray[np.float64]:
    dtype = values.dtype
    if not isinstance(dtype, pd.CategoricalDtype):
        if getattr(dtype, "kind", "O") in "bcMm":
            raise TypeError(
                f"{what} has dtype {dtype}, expected numbers: convert the column, for example to days as float."
            )
        if pd.api.types.is_numeric_dtype(dtype):
            numbers: NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan)
            return numbers
        codes, categories = pd.factorize(values)
    else:
        codes, categories = values.cat.codes.to_numpy(), values.cat.categories
    used = np.unique(codes[codes >= 0])
    # the last entry is what code -1 points at
    lookup = np.full(len(categories) + 1, np.nan)
    lookup[used] = [_number(categories[i], what) for i in used]
    return np.asarray(lookup[codes])


def _number(value: object, what: str) -> float:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(
            f"{what} holds {value!r}, which is not a number: replace it, for example with "
            f"obs[column].map({{{value!r}: 0.0}})."
        ) from None
