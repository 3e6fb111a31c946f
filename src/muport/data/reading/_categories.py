"""The rule for the values of an obs column, in memory and in files: which are missing, and what a category is called.

- **Missing** is what pandas counts as missing (None, NaN, NaT, pd.NA), and the code -1 of a categorical column. The
  texts ``"nan"`` and ``"NA"`` are values like any other.
- **Unlabeled** is a cell whose label is missing, or is the category that the user names as `unlabeled_category`.
- **The name** of a category is the text of its value. A whole number has the text of the integer, whatever its type: 1
  and 1.0 are ``"1"``. A truth value is ``"True"`` or ``"False"``. Bytes of a file are text in UTF-8. Text stays as it
  is, with its spaces and its letters. Names are sorted.
- **One category** in two columns (of two modalities, or of the cells of a model and new cells) has equal names, or
  names that write the same whole number, such as ``"1"``, ``"1.0"`` and ``"True"``. If a column itself has two such
  names, they are two categories, and only equal names are one category.
- A column with two values that differ in type and have the same name or number, such as 1 and ``"1"``, is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Categories", "category_name", "distinct_values", "match_names", "sort_names"]

#: Whole floats up to this size have the text of the integer: those that a 64-bit integer can hold.
_LARGEST_INTEGER = 2.0**64
_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0")
_TRUTH = {"True": "1", "False": "0"}


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
    def of(cls, values: Iterable[Any], what: str = "the column") -> Categories:
        """Name the distinct values of a column, which messages call `what`.

        Raises ValueError if two values of different types have the same name.
        """
        # an index gives Python values of its numbers, in which 0.1 as float32 is 0.10000000149011612
        items = list(np.asarray(values) if isinstance(values, pd.Index) else values)
        texts = [category_name(item) for item in items]
        _check_types(items, texts, what)
        return cls(*sort_names(texts))

    def without(self, unlabeled: Any) -> Categories:
        """Return the categories with `unlabeled` counted as missing."""
        matched = match_names([self.names], known=(name := category_name(unlabeled),))[0]
        kept = [own for own, match in zip(self.names, matched, strict=True) if match != name]
        position = {name: code for code, name in enumerate(kept)}
        lookup = np.array([position.get(name, -1) for name in self.names] + [-1], dtype=np.int64)
        return Categories(tuple(kept), lookup[self.lookup])


def category_name(value: Any) -> str:
    """Return the name of the category of a value."""
    if isinstance(value, np.floating):
        value = float(str(value))  # the shortest text of its own precision
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_INTEGER:
        value = int(value)
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the category {value!r} is no text in UTF-8: decode the column, or rename it.") from None


def sort_names(names: Iterable[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the different names, sorted, and the position of each of `names` among them, with -1 at the end."""
    given = list(names)
    position = {name: code for code, name in enumerate(sorted(set(given)))}
    return tuple(position), np.array([position[name] for name in given] + [-1], dtype=np.int64)


def match_names(columns: Sequence[Sequence[str]], known: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Write the names of several columns alike: names of one category become one name.

    - `columns`: Names of the categories of each column.
    - `known`: Names that a model has: a category that is among them gets that name.

    Returns the names of each column, in the order given.
    """
    number_of = {name: _number(name) for names in (known, *columns) for name in names}
    ambiguous = {
        number
        for names in (known, *columns)
        for number, count in Counter(number_of[name] for name in set(names)).items()
        if count > 1
    }
    spelling: dict[str, str] = {}
    for name in (*known, *sorted(number_of)):
        spelling.setdefault(number_of[name], name)
    return [
        tuple(name if number_of[name] in ambiguous else spelling[number_of[name]] for name in names)
        for names in columns
    ]


def _number(name: str) -> str:
    """Return the integer that a name writes, as text, or the name itself: "1" of "1.0" and of "True"."""
    match = _WHOLE_FLOAT.fullmatch(name)
    return match[1] if match else _TRUTH.get(name, name)


def _check_types(items: Sequence[Any], texts: Sequence[str], what: str) -> None:
    first: dict[str, Any] = {}
    for item, text in zip(items, texts, strict=True):
        other = first.setdefault(_number(text), item)
        if _type_of(item) != _type_of(other):
            raise ValueError(
                f"{what} holds {_show(other)} and {_show(item)}, which would be one category: convert the column with "
                ".astype(str) if they are one, or rename one of them."
            )


def _type_of(value: Any) -> str:
    if isinstance(value, str | bytes):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth value"
    return "number" if isinstance(value, int | float | np.number) else type(value).__name__


def _show(value: Any) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    return f"{plain!r} ({type(plain).__name__})"


def distinct_values(values: pd.Series | NDArray[Any], what: str = "the column") -> tuple[NDArray[np.integer], Any]:
    """Return (n,) integer codes, -1 where the value is missing, and the distinct values that they count.

    - `what`: How messages call the column.

    Raises TypeError if the column holds lists, dicts or the like.
    """
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        return _used_categories(values)
    try:
        # pandas counts True and 1 as one value, which gets the name of the first of them
        if values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) in ("mixed", "mixed-integer"):
            return _distinct_objects(values)
        codes, distinct = pd.factorize(values)
    except TypeError as error:
        raise TypeError(
            f"{what} holds values that are no categories ({error}): store a text or a number for each cell."
        ) from None
    return codes, distinct


def _used_categories(values: pd.Series) -> tuple[NDArray[np.integer], Any]:
    codes, categories = values.cat.codes.to_numpy(), values.cat.categories
    used = np.bincount(codes[codes >= 0], minlength=len(categories)) > 0
    lookup = np.append(np.where(used, np.cumsum(used) - 1, -1), -1)
    return lookup[codes], categories[used]


def _distinct_objects(values: pd.Series | NDArray[Any]) -> tuple[NDArray[np.integer], list[Any]]:
    position: dict[tuple[str, Any], int] = {}
    missing = np.asarray(pd.isna(values))
    codes = np.full(len(values), -1, np.int64)
    items = np.asarray(values, dtype=object)
    for row in np.flatnonzero(~missing):
        codes[row] = position.setdefault((_type_of(items[row]), items[row]), len(position))
    return codes, [value for _, value in position]
