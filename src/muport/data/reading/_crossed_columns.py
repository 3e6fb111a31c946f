"""Several categorical columns as one: a category of it is a combination of their categories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muport._keys import join_levels, split_levels
from muport.data.reading._categories import match_names, sort_names
from muport.data.reading._columns import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Combinations", "CrossedColumn", "combine_codes", "cross_columns", "match_combinations"]


@dataclass(frozen=True)
class CrossedColumn(Column):
    """A column of combinations, whose names are those of :func:`muport._keys.join_levels`."""

    def with_names_of(self, known: Sequence[str]) -> CrossedColumn:
        """Return the column in which a level that a model knows has the name that the model gave it."""
        names, lookup = sort_names(match_combinations(self.names, known))
        return CrossedColumn(lookup[self.codes], names)


@dataclass(frozen=True, eq=False)
class Combinations:
    """The combinations of levels that occur.

    - `names`: Their names, sorted.
    - `used`: Their combined codes (see :func:`combine_codes`), ascending.
    - `position`: Position of each of `used` in `names`.
    """

    names: tuple[str, ...]
    used: NDArray[np.int64]
    position: NDArray[np.int64]

    @classmethod
    def of(cls, levels: Sequence[Sequence[str]], used: NDArray[np.int64]) -> Combinations:
        """Name the combined codes `used`, ascending and without -1; `levels` are the names of each variable."""
        rows = np.stack(np.unravel_index(used, [len(names) for names in levels]), axis=1)
        names, position = sort_names(
            join_levels([names[code] for names, code in zip(levels, row, strict=True)]) for row in rows.tolist()
        )
        return cls(names, used, position[:-1])

    def codes(self, combined: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions (n,) in `names` of combined codes (n,); -1 stays."""
        found = np.append(self.position, -1)[np.searchsorted(self.used, np.maximum(combined, 0))]
        codes: NDArray[np.int64] = np.where(combined < 0, -1, found)
        return codes


def cross_columns(columns: Sequence[Column]) -> CrossedColumn:
    """Cross columns of the same cells; a cell that misses a value in one of them misses its combination.

    Examples
    --------
    >>> donor, platform = Column(np.array([0, 0, 1]), ("a", "b")), Column(np.array([0, 1, 1]), ("v2", "v3"))
    >>> cross_columns([donor, platform]).names
    ('a|v2', 'a|v3', 'b|v3')
    """
    levels = [column.names for column in columns]
    combined = combine_codes(np.stack([column.codes for column in columns]), list(map(len, levels)))
    combinations = Combinations.of(levels, np.unique(combined[combined >= 0]))
    return CrossedColumn(combinations.codes(combined), combinations.names)


def combine_codes(codes: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Combine codes (V, n) of variables with as many levels as `sizes` to one (n,); -1 where one is missing."""
    combined = np.zeros(codes.shape[1], np.int64)
    for code, size in zip(codes, sizes, strict=True):
        combined = combined * size + code
    combined[(codes < 0).any(axis=0)] = -1
    return combined


def match_combinations(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Write combinations with the names that a model gave their levels: "1" for "1.0", as for one column."""
    own, fitted = ([split_levels(name) for name in combinations] for combinations in (names, known))
    n_variables = max(map(len, (*own, *fitted)), default=0)
    matched = []
    for variable in range(n_variables):
        levels, of_model = (sorted({row[variable] for row in rows}) for rows in (own, fitted))
        matched.append(dict(zip(levels, match_names([levels], of_model)[0], strict=True)))
    return [join_levels([matched[v][level] for v, level in enumerate(row)]) for row in own]
