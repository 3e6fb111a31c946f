"""Categories and numbers of cells or samples, by the rule that the models have for the columns of obs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data.reading._categories import Categories, distinct_values

if TYPE_CHECKING:
    from numpy.typing import NDArray


def category_codes(values: Any, name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Sorted names of the categories, and the code of each value, -1 where it is missing.

    Raises ValueError if values are not a list, or two of different types have one name, such as 1 and ``"1"``;
    TypeError if values are no categories.
    """
    if (shape := np.shape(values)) and len(shape) > 1:
        raise ValueError(f"{name} has shape {shape}: give one value for each cell or sample, in a list or a column.")
    # a list becomes a column of objects, since an array would turn 1 beside "1" into text
    column = values if isinstance(values, pd.Series) else pd.Series(values)
    codes, distinct = distinct_values(column, name)
    categories = Categories.of(distinct, name)
    return np.array(categories.names, dtype=np.str_), categories.lookup[codes]


def real_numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Return values as float64; raise TypeError if they are no real numbers."""
    try:
        if np.iscomplexobj(values):
            raise TypeError("they are complex")
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers: {error}.") from None


def finite_numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Return values as float64; raise TypeError if they are no real numbers, ValueError if one is not finite."""
    numbers = real_numbers(values, name)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(numbers)).sum())} values that are NaN or infinite.")
    return numbers
