"""Columns of the cells that are read after the set-up: expected growth rates, clones, samples and conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from muport._arrays import sum_repeats
from muport._tables import rows_by_name
from muport.data import joined_column, joined_numbers

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from muport.data import Column

__all__ = ["check_course_columns", "check_several_times", "complete_column", "read_clones", "read_growth"]

_NAMED = 3  # clones that a message names
_MAX_LOG_GROWTH = 80.0  # logarithm of the largest ratio of masses that float32 holds


def check_course_columns(data: Any, time_key: str, growth_key: str | None, clone_key: str | None) -> None:
    """Read the columns before anything is written; ValueError for rates out of range, or clones at one time only."""
    if growth_key is not None:
        growth, time = read_growth(data, growth_key), joined_numbers(data, time_key, "time_key")
        check_growth(growth, time, growth_key, data.obs_names)
    if clone_key is not None:
        clones, time = read_clones(data, clone_key), joined_numbers(data, time_key, "time_key")
        check_clones_meet(clones, time, clone_key)


def check_several_times(time: NDArray[np.float64], key: str) -> None:
    """Raise a ValueError if all cells have one time; `key` is the column of the times."""
    if np.ptp(time) == 0:
        raise ValueError(f"time_key={key!r} has a single value ({time[0]:g}): a velocity needs at least two times.")


def complete_column(data: Any, key: str, argument: str) -> Column:
    """A categorical column of which every cell has a value; ValueError otherwise."""
    column = joined_column(data, key, argument)
    missing = int((column.codes < 0).sum())
    if missing:
        raise ValueError(f"{argument}={key!r}: {missing} cells have no value (NaN): give them one, or leave them out.")
    return column


def check_clones_meet(clones: sp.csr_array, time: NDArray[np.float64], clone_key: str) -> None:
    """Raise a ValueError if every clone is at one time only."""
    cells, clone = clones.nonzero()
    first, last = np.full(clones.shape[1], np.inf), np.full(clones.shape[1], -np.inf)
    np.minimum.at(first, clone, time[cells])
    np.maximum.at(last, clone, time[cells])
    if not (first < last).any():
        positions = np.unique(clone)[:_NAMED].tolist()
        raise ValueError(
            f"clone_key={clone_key!r}: no clone has cells at two times (clones {positions}, for example, are at times "
            f"{first[positions].tolist()} only), so clones couple no days: leave clone_key out."
        )


def check_growth(growth: NDArray[np.float64], time: NDArray[np.float64], growth_key: str, names: pd.Index) -> None:
    """Raise a ValueError if the mass of a cell changes by more than float32 holds between two days."""
    gap = float(np.diff(np.unique(time)).max(initial=0))
    with np.errstate(over="ignore"):
        change = np.abs(growth) * gap
    if len(change) and not change.max() <= _MAX_LOG_GROWTH:
        cell = int(change.argmax())
        raise ValueError(
            f"growth_key={growth_key!r}: cell {names[cell]!r} has the rate {growth[cell]:.3g}, with which its mass "
            f"changes by exp({change[cell]:.3g}) in {gap:g} units of time: rates are logarithmic changes of mass per "
            f"unit of time (0.69 is one division), here of at most {_MAX_LOG_GROWTH / gap:.3g}."
        )


def read_growth(data: Any, key: str) -> NDArray[np.float64]:
    """(n,) expected growth rates; KeyError without the column, ValueError if one is missing or not finite."""
    if not isinstance(key, str):
        raise TypeError(f"growth_key={key!r} must be the name of a column or None.")
    return joined_numbers(data, key, "growth_key")


def read_clones(data: Any, key: str) -> sp.csr_array:
    """(n, C) membership of the cells in clones, from a matrix in ``obsm`` or a column of ``obs``.

    Raises KeyError if neither is there; TypeError or ValueError for a matrix that is not numeric, negative or not
    finite.
    """
    if not isinstance(key, str):
        raise TypeError(f"clone_key={key!r} must be the name of a column, an obsm key, or None.")
    if key not in data.obsm:
        try:
            column = joined_column(data, key)
        except KeyError as error:
            keys = sorted(map(str, data.obsm))
            raise KeyError(f"clone_key={key!r} is no obsm key ({keys}), and no column: {error.args[0]}") from None
        cells = np.flatnonzero(column.codes >= 0)
        entries = np.ones(len(cells)), (cells, column.codes[cells])
        return sp.csr_array(entries, shape=(data.n_obs, len(column.names)))
    values = rows_by_name(data.obsm[key], data.obs_names, "clone_key")
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    values = values if sp.issparse(values) else np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"clone_key={key!r}: the matrix is {values.dtype}: it must hold numbers, cells by clones.")
    matrix = sp.csr_array(values)
    entries = matrix.data.astype(np.float64)
    if not (np.isfinite(entries) & (entries >= 0)).all():
        raise ValueError(f"clone_key={key!r}: the matrix has negative, NaN or infinite entries: use 0 and 1.")
    # a copy: the matrix of the user stays as it is; repeated entries are one membership
    members = sp.csr_array(sum_repeats(matrix) != 0, dtype=np.float64)
    members.sort_indices()
    return members
