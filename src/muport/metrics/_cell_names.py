"""Tables are matched by the names of their rows, arrays by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd


def match_rows(**values: Any) -> list[Any]:
    """Return the values with the rows of all tables in the order of the first table.

    Series and DataFrames whose index is not a plain range carry names, and so do dicts. Arrays, lists and other tables
    are by position.

    Raises ValueError if a table repeats a name, or two tables have other names.
    """
    names: pd.Index | None = None
    first, matched = "", []
    for key, value in values.items():
        value = pd.Series(value) if isinstance(value, Mapping) else value
        is_table = isinstance(value, pd.Series | pd.DataFrame) and not isinstance(value.index, pd.RangeIndex)
        if is_table and names is None:
            first, names = key, value.index
        elif is_table and not value.index.equals(names):
            value = _reorder(value, key, names, first)
        matched.append(value)
    return matched


def _reorder(table: Any, key: str, names: Any, first: str) -> Any:
    """Return the rows of a table in the order of the names, which are those of the table `first`."""
    for name, index in ((first, names), (key, table.index)):
        if not index.is_unique:
            repeated = index[index.duplicated()][0]
            raise ValueError(f"{name} has several rows of the name {repeated!r}: make the names unique.")
    other = names.symmetric_difference(table.index)
    if len(other):
        raise ValueError(
            f"{key} and {first} have different names of rows, for example {other[0]!r} ({len(other)} in all): give the "
            "same cells, or arrays in one order."
        )
    return table.loc[names]
