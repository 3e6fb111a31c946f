"""A representation of any kind, brought once to float32 rows whose digits hold its signal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Rows converted at a time, so that a sparse, float64 or on-disk input never has a second full copy.
_BLOCK = 65_536
_LARGEST, _SMALLEST = 1e12, 1e-12  # coordinate and range: squares of others leave the range of float32
_MIN_DIGITS = 1_000  # roundings of float32 that the range of the cells must be
_NOISE = 1e-12  # range, as a fraction of the values, that is rounding of a constant in float64

#: Smallest and largest value of each coordinate, (d,) each.
type _Extent = tuple[NDArray[np.float64], NDArray[np.float64]]


def count_columns(values: Any, where: str) -> int:
    """Return the number of columns of a representation; refuse what is not (n, d) with d >= 1."""
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{where} has shape {shape}, expected (n_cells, d) with d >= 1.")
    return int(shape[1])


@dataclass(frozen=True, eq=False)
class Representation:
    """A representation of the cells of a modality.

    - `values`: (n, d) ndarray, sparse matrix (made dense here), DataFrame, or an array on disk, of any real dtype.
    - `where`: Text by which errors name the values, for example ``"obsm['X_pca'] of 'rna'"``.
    - `obs_names`: Names of the n cells.
    - `columns`: Names of the columns of a fitted model; a DataFrame is aligned by them. None: any.
    - `new_cells`: Whether the cells are new to a fitted model. Then their range is not checked: the model maps each by
      itself.
    """

    values: Any
    where: str
    obs_names: pd.Index
    columns: Sequence[Any] | None = None
    new_cells: bool = False

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return count_columns(self.values, self.where)

    def check_rows(self) -> None:
        """Refuse what has not one row for each cell, the width of the model, or, as a table, the names of the cells."""
        values, n_rows = self.values, tuple(getattr(self.values, "shape", ()))[:1]
        if self.width and n_rows != (len(self.obs_names),):
            raise ValueError(
                f"{self.where} has {n_rows[0]} rows for {len(self.obs_names)} cells: compute it again for these."
            )
        # a table is aligned by its names
        if self.columns is not None and not isinstance(values, pd.DataFrame) and self.width != len(self.columns):
            raise ValueError(f"{self.where} has {self.width} coordinates, but the model has {len(self.columns)}.")
        if isinstance(values, pd.DataFrame) and not values.index.equals(self.obs_names):
            other = values.index.difference(self.obs_names, sort=False)
            found = f"for example {other[0]!r}" if len(other) else "the same in another order"
            raise ValueError(
                f"{self.where} is a table whose rows have other names than the cells, {found}: take its rows by name, "
                "with .loc[obs_names]."
            )

    def view(self) -> NDArray[np.float32] | None:
        """Return a read-only view of values that already are finite float32 rows, or None: they need no copy then."""
        values = self.values
        if type(values) is not np.ndarray or values.dtype != np.float32 or not values.flags.c_contiguous:
            return None
        extent = measure_extent(values)
        if not np.isfinite(extent).all():
            return None
        self._check(values, extent)
        view: NDArray[np.float32] = values.view()
        view.flags.writeable = False
        return view

    def read(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Read the values as float32, block by block, into `out` if it is given.

        Raises TypeError if they are not real numbers; ValueError if some are NaN, Inf or masked, or float32 would lose
        them.
        """
        if out is None:
            out = np.empty((len(self.obs_names), self.width), np.float32)
        values = self._align_columns()
        if np.ma.is_masked(values):
            raise ValueError(
                f"{self.where} has {np.ma.count_masked(values)} masked entries, first in cell "
                f"{self.obs_names[int(np.flatnonzero(np.ma.getmaskarray(values).any(axis=1))[0])]!r}: leave such cells "
                "out or fill the entries."
            )
        if np.dtype(getattr(values, "dtype", float)).kind not in "fiub":
            raise TypeError(
                f"{self.where} has dtype {values.dtype}, expected real numbers: convert it with .astype('float32')."
            )
        extent = measure_extent(out[:0])
        bad, first = 0, -1
        for start in range(0, out.shape[0], _BLOCK):
            block = values[start : start + _BLOCK]
            block = block.toarray() if sparse.issparse(block) else np.asarray(block)
            with np.errstate(over="ignore"):
                out[start : start + _BLOCK] = block
            of_block = measure_extent(block)
            extent = np.minimum(extent[0], of_block[0]), np.maximum(extent[1], of_block[1])
            # NaN and Inf show in the extent, so that no temporary array is needed
            if not np.isfinite(of_block).all():
                finite = np.isfinite(block)
                first = first if bad else start + int(np.flatnonzero(~finite.all(axis=1))[0])
                bad += int((~finite).sum())
        if bad:
            raise ValueError(
                f"{self.where} holds {bad} NaN or Inf values, first in cell {self.obs_names[first]!r}: leave such "
                "cells out or impute the values."
            )
        self._check(out, extent)
        return out

    def _align_columns(self) -> Any:
        """Return the values with the columns of the model in its order; only a DataFrame has names to go by."""
        values, names = self.values, self.columns
        if not isinstance(values, pd.DataFrame):
            return values
        for column, dtype in values.dtypes.items():
            if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype):
                raise TypeError(
                    f"column {column!r} of {self.where} has dtype {dtype}, expected real numbers: convert it with "
                    ".astype('float32')."
                )
        if names is not None and [str(c) for c in values.columns] != [str(name) for name in names]:
            values = self._sort_columns(values, [str(name) for name in names])
        whole = all(dtype == np.float32 for dtype in values.dtypes)
        return values.to_numpy(dtype=np.float32 if whole else np.float64, na_value=np.nan)

    def _sort_columns(self, values: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        held = pd.Index([str(column) for column in values.columns])
        lacking = [name for name in names if name not in held]
        if lacking or len(held) != len(names) or not held.is_unique:
            example = lacking[:3] or [c for c in held if c not in names][:3] or list(held[held.duplicated()][:3])
            raise ValueError(
                f"the columns of {self.where} are not those of the model, for example {example}: name them "
                f"{names[:3]} and so on ({len(names)}), or pass an array with the columns in the order of the model."
            )
        return values.iloc[:, held.get_indexer(pd.Index(names))]

    def _check(self, x: NDArray[np.float32], extent: _Extent) -> None:
        """Refuse values whose squares leave the range of float32, or whose signal its digits do not hold."""
        if not len(x):
            return
        low, high = extent
        magnitude, spread = np.maximum(np.abs(low), np.abs(high)), high - low
        if magnitude.max() > _LARGEST:
            first = self.obs_names[int(np.flatnonzero((np.abs(x) > _LARGEST).any(axis=1))[0])]
            raise ValueError(
                f"{self.where} holds values up to {magnitude.max():.3g}, first in cell {first!r}, whose squares do not "
                f"fit float32 (not above {_LARGEST:g}): divide all of it by one constant, for example by its standard "
                "deviation."
            )
        if self.new_cells or not spread.any():
            return
        size, total = float(np.linalg.norm(magnitude)), float(np.linalg.norm(spread))
        if total < _SMALLEST:
            raise ValueError(
                f"{self.where} varies by {total:.3g} only, but not below {_SMALLEST:g}: multiply all of it by one "
                "constant, for example by one over its standard deviation."
            )
        if _NOISE * size < total < _MIN_DIGITS * size * np.finfo(np.float32).eps / 2:
            raise ValueError(
                f"{self.where} varies by {total:.3g} around values up to {magnitude.max():.3g}, which float32 cannot "
                "hold: subtract the mean of each column first."
            )


def measure_extent(x: NDArray[Any]) -> _Extent:
    """Measure the smallest and the largest value of each column; inf and -inf without rows."""
    if not len(x):
        return np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    return x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
