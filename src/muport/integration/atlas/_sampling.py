"""Very many cells that are read by rows, and a sample of every group from one sequential pass over them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    #: First row and codes of one block of cells after the other.
    Blocks = Callable[[], Iterable[tuple[int, NDArray[np.int64]]]]
    #: (start, stop) -> rows (stop - start, d).
    Read = Callable[[int, int], NDArray[np.float32]]

__all__ = ["CellSource", "Sample", "choose_rows", "count_groups", "draw_sample", "split_sample"]

_SAMPLE_BYTES = 2**26  # largest size of the coordinates of the sample
_SLACK = 6.0  # standard deviations by which more candidates than needed are kept


@dataclass(frozen=True, eq=False)
class CellSource:
    """Cells that are read by rows.

    - `read`: (start, stop) -> (stop - start, d) float32 coordinates.
    - `blocks`: First row and group codes of one block of cells after the other; called again for each pass.
    - `names`: Names of the groups, G in number.
    - `shape`: (n, d).
    - `labels`: First row and label codes of one block after the other, -1 where unknown; None without labels.
    - `covariates`: (start, stop) -> (stop - start, J) continuous covariates; None without.
    - `covariate_fractions`: Name of a covariate -> fraction (0..1) of its effect that is removed.
    """

    read: Read
    blocks: Blocks
    names: tuple[str, ...]
    shape: tuple[int, int]
    labels: Blocks | None = None
    covariates: Callable[[int, int], NDArray[np.float64]] | None = None
    covariate_fractions: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sample:
    """Cells that represent all cells.

    - `x`: (s, d) float32, in the order of the input.
    - `group`: (s,) groups of the cells.
    - `row`: (s,) rows of the cells in the input.
    - `size`: (G,) number of cells of each group in the input.
    """

    x: NDArray[np.float32]
    group: NDArray[np.int64]
    row: NDArray[np.int64]
    size: NDArray[np.int64]

    @property
    def is_complete(self) -> bool:
        """Whether the sample contains every cell."""
        return len(self.row) == int(self.size.sum())

    @property
    def weight(self) -> NDArray[np.float64]:
        """(s,) number of cells that each represents."""
        n_sampled = np.bincount(self.group, minlength=len(self.size))
        return (self.size / np.maximum(n_sampled, 1))[self.group]


def draw_sample(source: CellSource, most: int, seed: int, rows_at_once: int) -> Sample:
    """Sample every group: at most `most` cells of each, and at most 64 MB in total.

    Each cell has a key, a hash of the seed and of its row. The cells with the smallest keys of each group are sampled.
    So the sample is uniform, does not depend on the size of the chunks, and is known before the coordinates are read.
    These are read once, from front to back, without the blocks that contain no sampled cell.

    - `most`: Maximum number of cells of a group.
    """
    n, d = source.shape
    size = count_groups(source.blocks, len(source.names))
    n_sampled = split_sample(size, most, max(1, _SAMPLE_BYTES // (4 * d)))
    row, group = choose_rows(source.blocks, size, n_sampled, seed)
    x = np.empty((len(row), d), np.float32)
    for start in range(0, n, rows_at_once):
        stop = min(start + rows_at_once, n)
        low, high = np.searchsorted(row, (start, stop))
        if high > low:
            x[low:high] = source.read(start, stop)[row[low:high] - start]
    return Sample(x, group, row, size)


def count_groups(blocks: Blocks, n_groups: int) -> NDArray[np.int64]:
    """(G,) number of cells of each group."""
    size = np.zeros(n_groups, np.int64)
    for _, codes in blocks():
        size += np.bincount(codes, minlength=n_groups)
    return size


def split_sample(size: NDArray[np.int64], most: int, total: int) -> NDArray[np.int64]:
    """(G,) number of cells to sample of each group: all, or m, the largest m for which the sum is at most `total`.

    Examples
    --------
    >>> split_sample(np.array([1, 50, 100]), 80, 101)
    array([ 1, 50, 50])
    """
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(size, middle).sum() <= total else (low, middle - 1)
    return np.minimum(size, low)


def choose_rows(
    blocks: Blocks, size: NDArray[np.int64], n_sampled: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the `n_sampled` cells with the smallest keys of each group; returns rows in ascending order, and groups.

    A first pass keeps the cells whose key is below a bound that most likely keeps enough cells. If it does not, the
    bound is raised. So memory does not grow with the number of cells.
    """
    slack = _SLACK
    while True:
        bound = np.minimum((n_sampled + slack * np.sqrt(n_sampled) + slack) / np.maximum(size, 1), 1.0)
        row, key, code = _collect_candidates(blocks, bound, seed)
        if (np.bincount(code, minlength=len(size)) >= n_sampled).all():
            break
        slack = 2 * abs(slack) + 1
    order = np.lexsort((row, key, code))
    begin = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(size)))[:-1]])
    rank = np.arange(len(order)) - begin[code[order]]
    chosen = np.sort(order[rank < n_sampled[code[order]]])
    return row[chosen], code[chosen]


def _collect_candidates(
    blocks: Blocks, bound: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows, keys and groups of the cells whose key is below the bound of their group."""
    candidates: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
    for start, codes in blocks():
        key = _hash_rows(start, start + len(codes), seed)
        below = np.flatnonzero((key < bound[codes]) | (bound[codes] >= 1))
        candidates.append((below + start, key[below], codes[below]))
    row, key, code = (np.concatenate(column) for column in zip(*candidates, strict=True))
    return row, key, code


def _hash_rows(start: int, stop: int, seed: int) -> NDArray[np.float64]:
    """(stop - start,) numbers from 0 to 1 that depend on the seed and the row only (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = np.arange(start, stop, dtype=np.uint64) + np.uint64((seed * 0xD1342543DE82EF95 + 1) % 2**64)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
