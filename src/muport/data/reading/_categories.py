"""The rule for the values of an obs column, in memory and in files: which are missing, and what a category is called.

- **Missing** is what pandas counts as missing (None, NaN, NaT, pd.NA), and the code -1 of a categorical column. The
  texts ``"nan"`` and ``"NA"`` are values like any other.
- **Unlabeled** is a cell whose label is missing, or is the category that the user names as `unlabeled_category`.
- **The name** of a category is ``str(value)`` of the Python value; bytes of a file are text in UTF-8. Values with the
  same name, such as 1 and ``"1"``, are one category. Names are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Categories", "distinct_values"]


@dataclass(frozen=True)
class Categories:
    """The categories of a column.

    - `names`: Their names, sorted.
    - `lookup`: (n_distinct + 1,) int64: position in `names` of each distinct value; the last entry is -1, which is
      where the code -1 of a missing value points.
    """

    names: tuple[str, ...]
    lookup: NDArray[np.int64]

    @classmethod
    def of(cls, values: Iterable[object]) -> Categories:
        """Name the distinct values of a column."""
        # an array gives NumPy scalars, an index Python values, and their texts differ: 0.1 or 0.10000000149011612
        items = values.tolist() if isinstance(values, np.ndarray) else values
        names, codes = np.unique([_name(value) for value in items], return_inverse=True)
        return cls(tuple(str(name) for name in names), np.append(codes, -1).astype(np.int64))

    def without(self, unlabeled: str) -> Categories:
        """Return the categories with `unlabeled` counted as missing."""
        kept = [name for name in self.names if name != unlabeled]
        position = {name: code for code, name in enumerate(kept)}
        lookup = np.array([position.get(name, -1) for name in self.names] + [-1], dtype=np.int64)
        return Categories(tuple(kept), lookup[self.lookup])


def _name(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def distinct_values(values: pd.Series | NDArray[Any]) -> tuple[NDArray[np.integer], Any]:
    """Return (n,) integer codes, -1 where the value is missing, and the distinct values that they count.

    The categories of a categorical column are returned as they are: some may not occur.
    """
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy(), values.cat.categories
    codes, distinct = pd.factorize(values)
    return codes, distinct
