"""A representation of any kind, brought once to float32 rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Rows converted at a time, so that a sparse, float64 or on-disk input never has a second full copy.
_BLOCK = 65_536


def count_columns(values: Any, where: str) -> int:
    """Return the number of columns of a representation; refuse what is not (n, d) with d >= 1."""
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{where} has shape {shape}, expected (n_cells, d) with d >= 1.")
    return int(shape[1])


def check_rows(values: Any, where: str, obs_names: pd.Index) -> None:
    """Refuse a representation that has not one row for each cell, or is a table of cells with other names."""
    if len(obs_names) != values.shape[0]:
        raise ValueError(f"{where} has {values.shape[0]} rows for {len(obs_names)} cells: compute it again for these.")
    if isinstance(values, pd.DataFrame) and not values.index.equals(obs_names):
        other = values.index.difference(obs_names, sort=False)
        found = f"for example {other[0]!r}" if len(other) else "the same in another order"
        raise ValueError(
            f"{where} is a table whose rows have other names than the cells, {found}: take its rows by name, with "
            ".loc[obs_names]."
        )


def view_if_float32(values: Any) -> NDArray[np.float32] | None:
    """Return a read-only view of values that already are finite float32 rows, or None: large data need no copy then."""
    if type(values) is not np.ndarray or values.dtype != np.float32 or not values.flags.c_contiguous:
        return None
    if not np.isfinite(values.sum(dtype=np.float64)):
        return None
    view = values.view()
    view.flags.writeable = False
    return view


def write_float32(out: NDArray[np.float32], values: Any, where: str, obs_names: pd.Index) -> None:
    """Write a representation into `out` as float32, block by block, and refuse NaN and Inf.

    - `out`: (n, d) array to write into.
    - `values`: (n, d) ndarray, sparse matrix (made dense here), DataFrame, or an array on disk, of any real dtype.
    - `where`: Text by which errors name the values, for example ``"obsm['X_pca'] of 'rna'"``.
    - `obs_names`: Names of the n cells, for messages.
    """
    if isinstance(values, pd.DataFrame):
        values = values.to_numpy()
    if np.dtype(getattr(values, "dtype", float)).kind not in "fiub":
        raise TypeError(f"{where} has dtype {values.dtype}, expected real numbers: convert it with .astype('float32').")
    bad, first = 0, -1
    for start in range(0, out.shape[0], _BLOCK):
        block = values[start : start + _BLOCK]
        block = block.toarray() if sparse.issparse(block) else np.asarray(block)
        target = out[start : start + _BLOCK]
        with np.errstate(over="ignore"):
            target[:] = block
        # a finite sum proves finite values and needs no temporary array
        if not np.isfinite(target.sum(dtype=np.float64)):
            finite = np.isfinite(target)
            first = first if bad else start + int(np.flatnonzero(~finite.all(axis=1))[0])
            bad += int((~finite).sum())
    if bad:
        raise ValueError(
            f"{where} holds {bad} NaN or Inf values in float32, first in cell {obs_names[first]!r}: leave such cells "
            "out or impute the values."
        )
