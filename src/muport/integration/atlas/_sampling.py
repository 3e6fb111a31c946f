"""A sample of every group from one sequential pass over very many cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    #: First row and codes of one block of cells after the other.
    Blocks = Callable[[], Iterable[tuple[int, NDArray[np.int64]]]]
    #: (start, stop) -> rows (stop - start, d).
    Read = Callable[[int, int], NDArray[np.float32]]

__all__ = ["Sample", "choose_rows", "count_groups", "draw", "shares"]

_BYTES = 2**26  # of the cells that are sampled
_SLACK = 6.0  # standard deviations by which more candidates are kept than are needed


@dataclass(frozen=True, eq=False)
class Sample:
    """Cells that stand for all.

    Attributes
    ----------
    x
        (s, d) float32, in the order of the input.
    group
        (s,) their groups.
    row
        (s,) their rows in the input.
    size
        (G,) cells of each group in the input.
    """

    x: NDArray[np.float32]
    group: NDArray[np.int64]
    row: NDArray[np.int64]
    size: NDArray[np.int64]

    @property
    def whole(self) -> bool:
        """Whether it holds every cell."""
        return len(self.row) == int(self.size.sum())

    @property
    def weight(self) -> NDArray[np.float64]:
        """(s,) cells that each stands for."""
        held = np.bincount(self.group, minlength=len(self.size))
        return (self.size / np.maximum(held, 1))[self.group]


def draw(
    read: Read, blocks: Blocks, n_groups: int, shape: tuple[int, int], most: int, seed: int, rows_at_once: int
) -> Sample:
    """Sample every group: at most `most` cells of each, and as many as 64 MB hold of all.

    A cell is drawn if its key, a hash of the seed and of its row, is among the smallest of its group. So the sample is
    uniform, the same for every size of the chunks, and is known before the coordinates are read: these are then read
    once from front to back, without the blocks that hold none of it.

    Parameters
    ----------
    read
        Coordinates by rows.
    blocks
        Group codes by blocks of rows; called anew for each pass.
    n_groups
        Number of groups, G.
    shape
        (n, d) of the input.
    most
        Most cells of a group.
    seed
        Seed.
    rows_at_once
        Rows that are read together.
    """
    size = count_groups(blocks, n_groups)
    wanted = shares(size, most, max(1, _BYTES // (4 * shape[1])))
    row, group = choose_rows(blocks, size, wanted, seed)
    x = np.empty((len(row), shape[1]), np.float32)
    for start in range(0, shape[0], rows_at_once):
        stop = min(start + rows_at_once, shape[0])
        low, high = np.searchsorted(row, (start, stop))
        if high > low:
            x[low:high] = read(start, stop)[row[low:high] - start]
    return Sample(x, group, row, size)


def count_groups(blocks: Blocks, n_groups: int) -> NDArray[np.int64]:
    """(G,) number of cells of each group."""
    size = np.zeros(n_groups, np.int64)
    for _, codes in blocks():
        size += np.bincount(codes, minlength=n_groups)
    return size


def shares(size: NDArray[np.int64], most: int, total: int) -> NDArray[np.int64]:
    """(G,) cells to draw of each group: as many of all as there are or as m, the largest m that `total` has room for.

    Examples
    --------
    >>> shares(np.array([1, 50, 100]), 80, 101)
    array([ 1, 50, 50])
    """
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(size, middle).sum() <= total else (low, middle - 1)
    return np.minimum(size, low)


def choose_rows(
    blocks: Blocks, size: NDArray[np.int64], wanted: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, in ascending order, of the `wanted` cells with the smallest keys of each group, and their groups."""
    slack = _SLACK
    while True:
        share = np.minimum((wanted + slack * np.sqrt(wanted) + slack) / np.maximum(size, 1), 1.0)
        row, key, code = _candidates(blocks, share, seed)
        if (np.bincount(code, minlength=len(size)) >= wanted).all():
            break
        slack = 2 * abs(slack) + 1
    order = np.lexsort((row, key, code))
    begin = np.concatenate([[0], np.cumsum(np.bincount(code, minlength=len(size)))[:-1]])
    rank = np.arange(len(order)) - begin[code[order]]
    kept = np.sort(order[rank < wanted[code[order]]])
    return row[kept], code[kept]


def _candidates(
    blocks: Blocks, share: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    found: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
    for start, codes in blocks():
        key = _keys(start, start + len(codes), seed)
        kept = np.flatnonzero((key < share[codes]) | (share[codes] >= 1))
        found.append((kept + start, key[kept], codes[kept]))
    row, key, code = (np.concatenate(column) for column in zip(*found, strict=True))
    return row, key, code


def _keys(start: int, stop: int, seed: int) -> NDArray[np.float64]:
    """(stop - start,) numbers in 0..1 that depend on the seed and the row alone (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = np.arange(start, stop, dtype=np.uint64) + np.uint64((seed * 0xD1342543DE82EF95 + 1) % 2**64)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
