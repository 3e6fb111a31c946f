"""Small operations on arrays that every package spells the same way."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["canonical_order", "describe_fields", "normalize_rows", "row_codes", "sum_codes", "sum_repeats", "unit_rows"]


def unit_rows[T: np.floating](x: NDArray[T]) -> NDArray[T]:
    """Scale the vectors along the last axis to norm 1; a zero vector stays zero."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    unit: NDArray[T] = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    return unit


def normalize_rows[T: np.floating](x: NDArray[T]) -> NDArray[T]:
    """Divide the vectors along the last axis, which are not negative, by their sums; a zero vector stays zero."""
    total = x.sum(axis=-1, keepdims=True)
    fractions: NDArray[T] = x / np.maximum(total, np.finfo(x.dtype).tiny)
    return fractions


def sum_repeats(x: Any) -> Any:
    """Return `x`; for a sparse matrix with repeated or unsorted entries, a copy in which they are summed and sorted.

    A repeated entry is valid and means the sum. Code that reads ``data`` would take it for several entries.
    """
    if not sparse.issparse(x) or x.format not in ("csr", "csc") or x.has_canonical_format:
        return x
    summed = x.copy()
    summed.sum_duplicates()
    return summed


def row_codes(x: NDArray[np.floating], value: NDArray[np.float64] | None = None) -> NDArray[np.uint64]:
    """(n,) hash of the coordinates (n, d) of each row, and of a value, by which rows are compared bit by bit."""
    n_columns = x.shape[1] + (value is not None)
    factors = np.random.default_rng(0).integers(0, 2**63, n_columns, dtype=np.uint64) * 2 + 1
    codes = np.zeros(len(x), np.uint64)
    for i, factor in enumerate(factors):
        column = value if value is not None and i == x.shape[1] else x[:, i]
        # the upper bits of a float hold most of its value, and a product moves them out: they are mixed in first
        bits = (column.astype(np.float64) + 0.0).view(np.uint64)
        codes += (bits ^ (bits >> np.uint64(32))) * factor
    return codes


def sum_codes(codes: NDArray[np.uint64], group: NDArray[np.int64], n_groups: int) -> NDArray[np.uint64]:
    """(G,) sum of the codes of the rows of each group, whatever their order."""
    # sums of raw codes would not notice that two rows have exchanged a coordinate
    mixed = (codes ^ (codes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    total = np.zeros(n_groups, np.uint64)
    np.add.at(total, group, mixed ^ (mixed >> np.uint64(32)))
    return total


def canonical_order(
    x: NDArray[np.floating], group: NDArray[np.int64] | NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Order rows by `group`, then by their coordinates, so that a result does not depend on the order of the input.

    Parameters
    ----------
    x
        (n, d) coordinates.
    group
        (n,) codes, or numbers such as times.

    Returns
    -------
    (n,) positions of the rows in that order.
    """
    leading = () if group is None else (group,)
    keys = (*leading, x[:, 0], x[:, min(1, x.shape[1] - 1)])
    order = np.lexsort(keys[::-1])
    # A sort by all coordinates is slow. Only rows that are tied in the first two coordinates need the others.
    same = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[tied]
    order[tied] = rows[np.lexsort((*x[rows].T[::-1], *(key[rows] for key in leading)))]
    return order


def describe_fields(value: Any) -> str:
    """Describe a dataclass in one line: arrays and tables by their shapes, in place of their numbers.

    Examples
    --------
    >>> from dataclasses import make_dataclass
    >>> Fit = make_dataclass("Fit", ["x", "loss"], namespace={"__repr__": describe_fields})
    >>> Fit(np.zeros((3, 2)), 0.123456)
    Fit(x: (3, 2), loss=0.1235)
    """
    parts = []
    for field in fields(value):
        item = getattr(value, field.name)
        if getattr(item, "shape", ()):
            parts.append(f"{field.name}: {tuple(item.shape)}")
        elif item is not None and field.repr:
            text = f"{item:.4g}" if isinstance(item, float) else repr(item)
            parts.append(f"{field.name}={text}" if len(text) <= 60 else f"{field.name}: {type(item).__name__}")
    return f"{type(value).__name__}({', '.join(parts)})"
