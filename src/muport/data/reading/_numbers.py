"""One column of numbers gathered over all cells by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport.data.reading._categories import distinct_values
from muport.data.reading._columns import ObsValues, join_values, read_obs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import mudata
    from numpy.typing import NDArray

_NAMED_TIME = re.compile(r"(\D*)(\d+(?:\.\d+)?)(\D*)")  # such as E8.5, day 4 or 24 h


def joined_numbers(
    data: mudata.MuData | anndata.AnnData, key: str, argument: str, *, negative: bool = True
) -> NDArray[np.float64]:
    """Gather ``obs[key]`` of all cells as finite numbers, as :func:`joined_column` gathers categories.

    Categories and strings that read as numbers (``"2"``, ``"4"``) are converted. So are names of times that differ in
    one number only (``"E8.5"`` and ``"E9.5"``, ``"day 4"`` and ``"day 10"``) if the argument is ``"time_key"``.

    Parameters
    ----------
    data
        Object whose ``obs_names`` are the cells.
    key
        Name of the column, with or without a modality prefix.
    argument
        The argument that named the column, for messages: ``"time_key"``.
    negative
        Whether numbers below zero are accepted.

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
    >>> obs["stage"] = ["E8.5", "E10.5"]
    >>> joined_numbers(anndata.AnnData(obs=obs), "stage", "time_key").tolist()
    [8.5, 10.5]
    """
    what = f"{argument}={key!r}"
    columns = read_obs(data, key, what)
    sources = [
        ObsValues(column.modality, column.cell, as_numbers(column.values, what, argument == "time_key"))
        for column in columns
    ]
    joined: NDArray[np.float64] = join_values(sources, data.obs_names, what, lambda value: f"{value:g}")
    _refuse(np.isnan(joined), what, "have no value (NaN)", "give them one, or leave them out", data.obs_names)
    _refuse(np.isinf(joined), what, "have an infinite value", "replace it, or leave them out", data.obs_names)
    if not negative:
        _refuse(joined < 0, what, "have a negative value", "give numbers of at least 0", data.obs_names)
    return joined


def _refuse(bad: NDArray[np.bool_], what: str, fault: str, fix: str, obs_names: pd.Index) -> None:
    if bad.any():
        first = obs_names[int(np.flatnonzero(bad)[0])]
        raise ValueError(f"{what}: {int(bad.sum())} cells {fault}, for example {first!r}: {fix}.")


def as_numbers(values: pd.Series, what: str, times: bool = False) -> NDArray[np.float64]:
    dtype = values.dtype
    if not isinstance(dtype, pd.CategoricalDtype):
        if dtype.kind in "bcMm":
            raise TypeError(
                f"{what} has dtype {dtype}, expected numbers: convert the column, for example to days as float."
            )
        if pd.api.types.is_numeric_dtype(dtype):
            numbers: NDArray[np.float64] = values.to_numpy(dtype=np.float64, na_value=np.nan)
            return numbers
    codes, distinct = distinct_values(values)
    # only categories that occur must be numbers; the last entry is what the code -1 points at
    used = np.unique(codes[codes >= 0])
    lookup = np.full(len(distinct) + 1, np.nan)
    names = [distinct[i] for i in used]
    numbers_in_names = _numbers_in_names(names) if times else None
    lookup[used] = [_number(name, what) for name in names] if numbers_in_names is None else numbers_in_names
    return np.asarray(lookup[codes])


def _numbers_in_names(names: Sequence[object]) -> list[float] | None:
    """The number in each name, if the names are text with one number each and the same text around it; else None."""
    parts = [_NAMED_TIME.fullmatch(name.strip()) if isinstance(name, str) else None for name in names]
    around = {(part[1].strip().lower(), part[3].strip().lower()) if part else None for part in parts}
    # text that float() reads, such as "-2" or "1e3", is a number as it stands
    if len(around) != 1 or around & {None, ("", ""), ("-", ""), ("+", "")}:
        return None
    return [float(part[2]) for part in parts if part]


def _number(value: object, what: str) -> float:
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{what} holds {value!r}, which is not a number: replace it, for example with "
            f"obs[column].map({{{value!r}: 0.0}})."
        ) from None
