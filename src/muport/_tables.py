"""Tables of a user: their rows are found by name, never by position, where there are names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "cell_positions",
    "check_fates",
    "rows_by_name",
    "rows_in_one_order",
    "same_row_and_column_order",
    "take_cells",
]

_ROUNDING = 1e-5  # by which probabilities and their sums may exceed 1, for example after a conversion to float32


def rows_by_name(values: Any, names: pd.Index, what: str, row: str = "cell") -> Any:
    """Return the rows of a table in the order of `names`; an array or list, which has no names, is returned as it is.

    Parameters
    ----------
    values
        Table or Series with the names in its index; it may have more rows. Or an array.
    names
        Names of the rows to return.
    what
        How messages call the table.
    row
        What a row stands for, in messages.

    Returns
    -------
    `values` itself if its rows are in this order.

    Raises
    ------
    ValueError
        If a name is in the index twice, or not at all.

    Examples
    --------
    >>> rows_by_name(pd.Series([1.0, 2.0], index=["b", "a"]), pd.Index(["a", "b"]), "fates").tolist()
    [2.0, 1.0]
    """
    if not isinstance(values, pd.DataFrame | pd.Series) or values.index.equals(names):
        return values
    index = values.index
    if not index.is_unique:
        repeated = index[index.duplicated()]
        raise ValueError(
            f"{what} has several rows for {len(repeated.unique())} names, for example {repeated[0]!r}: "
            f"keep one row for each {row}."
        )
    position = index.get_indexer(names)
    absent = names[position < 0]
    if len(absent):
        held = list(index[:3])
        raise ValueError(
            f"{what} has {len(values)} rows, none of them for {len(absent)} of {len(names)} {row}s, for example "
            f"{absent[0]!r}; its index begins with {held}: put the name of each {row} in the index, or pass "
            f"{what}.to_numpy() if the rows are in the order of the {row}s."
        )
    return values.iloc[position]


def rows_in_one_order(row: str = "cell", **tables: Any) -> tuple[Any, ...]:
    """Return tables with their rows in the order of the first one that has names; arrays are returned as they are.

    Rows that pandas has only numbered, in their order, have no names.

    Raises
    ------
    ValueError
        As :func:`rows_by_name`.

    Examples
    --------
    >>> x, time = pd.DataFrame({"x": [5.0, 7.0]}, index=["a", "b"]), pd.Series([2.0, 1.0], index=["b", "a"])
    >>> rows_in_one_order(x=x, time=time)[1].tolist()
    [1.0, 2.0]
    """
    indexes = {name: values.index for name, values in tables.items() if isinstance(values, pd.DataFrame | pd.Series)}
    first = next((name for name, index in indexes.items() if not isinstance(index, pd.RangeIndex)), None)
    if first is None:
        return tuple(tables.values())
    names = indexes[first]
    if not names.is_unique:
        raise ValueError(f"the index of {first} repeats {names[names.duplicated()][0]!r}: make it unique.")
    has_numbers = pd.api.types.is_integer_dtype(names.dtype)
    return tuple(
        rows_by_name(values, names, name, row)
        if name in indexes and (has_numbers or not isinstance(indexes[name], pd.RangeIndex))
        else values
        for name, values in tables.items()
    )


def same_row_and_column_order(matrix: Any, what: str, row: str = "cell") -> Any:
    """Return a square table with its columns in the order of its rows; any other matrix is returned as it is.

    Raises
    ------
    ValueError
        If rows and columns have different names.
    """
    if not isinstance(matrix, pd.DataFrame) or isinstance(matrix.columns, pd.RangeIndex):
        return matrix
    rows, columns = matrix.index, matrix.columns
    if columns.equals(rows) or len(rows) != len(columns):
        return matrix
    absent = rows.difference(columns)
    if len(absent) or not rows.is_unique:
        raise ValueError(
            f"{what}: rows and columns have different names ({len(absent)} rows have no column, for example "
            f"{list(absent[:1])}), or names repeat: give both the names of the {row}s."
        )
    return matrix.loc[:, rows]


def check_fates(fates: Any, cells: pd.Index) -> pd.DataFrame:
    """Return the rows of a table of fate probabilities in the order of the cells.

    Raises
    ------
    TypeError
        If it is not a DataFrame.
    ValueError
        As :func:`rows_by_name`; if there is no column, one of a name twice, or one that does not hold probabilities.

    Examples
    --------
    >>> check_fates(pd.DataFrame({"A": [0.5, 1.0]}, index=["b", "a"]), pd.Index(["a", "b"]))["A"].tolist()
    [1.0, 0.5]
    """
    if not isinstance(fates, pd.DataFrame):
        raise TypeError(f"fates is {type(fates).__name__}: pass the DataFrame of get_fates, cells by terminal states.")
    if not len(fates.columns):
        raise ValueError("fates has no columns: pass the DataFrame of get_fates, cells by terminal states.")
    if not fates.columns.is_unique:
        raise ValueError(f"fates has several columns {fates.columns[fates.columns.duplicated()][0]!r}: keep one.")
    table: pd.DataFrame = rows_by_name(fates, cells, "fates")
    for name, column in table.items():
        text = not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype)
        p = np.full(len(column), np.nan) if text else column.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~((p >= -_ROUNDING) & (p <= 1 + _ROUNDING)))
        if len(bad):
            raise ValueError(
                f"fates: column {name!r} is not numbers from 0 to 1, for example {column.iloc[bad[0]]!r} for cell "
                f"{table.index[bad[0]]!r}: keep the columns of get_fates only, and cells that have fates."
            )
    total = table.sum(axis=1)
    if (total > 1 + _ROUNDING).any():
        raise ValueError(
            f"fates: the columns {list(table.columns)} sum to {total.max():.3g} for cell {total.idxmax()!r}, not to at "
            "most 1: keep the columns of get_fates only."
        )
    return table


def cell_positions(cells: Any, names: pd.Index, what: str) -> NDArray[np.int64]:
    """Return the positions of cells that are given by name, by position, or by a mask.

    Parameters
    ----------
    cells
        Names, integer positions, or (n,) booleans; a Series of booleans is matched by the names in its index.
    names
        (n,) names of all cells.
    what
        How messages call `cells`.

    Returns
    -------
    (m,) int64 positions: in the order given, or ascending for a mask.

    Raises
    ------
    KeyError
        If there is no cell of a name.
    TypeError
        If `cells` is an AnnData or MuData.
    ValueError
        If `cells` are none of these, no cell is chosen, a position is out of range, or a mask is of other cells.

    Examples
    --------
    >>> cell_positions(["c", "a"], pd.Index(["a", "b", "c"]), "start_cells").tolist()
    [2, 0]
    """
    n = len(names)
    if hasattr(cells, "obs_names"):
        raise TypeError(f"{what} is {type(cells).__name__}: pass the names of its cells, obs_names.")
    if isinstance(cells, pd.Series) and pd.api.types.is_bool_dtype(cells.dtype):
        cells = rows_by_name(cells, names, what)
    array = np.asarray([cells] if isinstance(cells, str) else cells)
    if array.dtype == bool and array.shape == (n,):
        array = np.flatnonzero(array)
    elif array.ndim == 1 and array.size and all(isinstance(value, str) for value in array.tolist()):
        position = names.get_indexer(pd.Index(array, dtype=object))
        if (position < 0).any():
            absent = array[position < 0]
            raise KeyError(
                f"{what} names {len(absent)} cells that do not exist, for example {str(absent[0])!r}; the names of "
                f"the cells begin with {list(names[:3])}."
            )
        array = position
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{what} has shape {array.shape} and type {array.dtype}: pass at least one cell, by name or as an integer "
            f"row of the data, or a mask of {n} booleans."
        )
    wrong = array[(array < 0) | (array >= n)]
    if len(wrong):
        raise ValueError(f"{what} names row {wrong[0]}, but the data have rows 0 to {n - 1}.")
    return array.astype(np.int64)


def take_cells[T: np.generic](values: NDArray[T], cells: Any, names: pd.Index) -> NDArray[T]:
    """Take the rows of some cells; all if `cells`, the argument ``indices`` of a method, is None.

    Raises KeyError, TypeError or ValueError as :func:`cell_positions`.

    Examples
    --------
    >>> take_cells(np.array([1, 2, 3]), ["c"], pd.Index(["a", "b", "c"])).tolist()
    [3]
    """
    return values if cells is None else values[cell_positions(cells, names, "indices")]
