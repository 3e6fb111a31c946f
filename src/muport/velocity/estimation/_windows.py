"""Windows: which cells are transported onto which, by time alone or by time within regions of space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.neighbors import kmeans
from muport.velocity._hyperparameters import DEFAULTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity._hyperparameters import VelocityHyperparameters

    type Ints = NDArray[np.int64]

__all__ = ["Windows", "as_times", "pair_spatial_windows", "pair_time_windows"]

_BLOCK_SIZE = 128  # cells of a block of a time bin, unless window_size is given
_MIN_SAMPLE = 10  # cells below which a bin, or a batch within it, is too small to be compared with the next
_MAX_ROUNDING = 1e-3  # of a time in float32, as a fraction of the range of time
_MIN_BIN = 20  # cells that a bin is planned for, however small window_fraction is


@dataclass(frozen=True, eq=False)
class Windows:
    """Pairs of windows between which cells are transported; row i of ``source`` is paired with row i of ``target``.

    - `source`: (P, w) int64 indices of cells, padded with -1.
    - `target`: (P, w) int64 indices of cells, padded with -1.
    - `direction`: (P,) int8: 1 if the target is later, -1 if earlier, 0 if a window at the edge of time is paired with
      itself.
    - `mutual`: (P,) bool: whether the plan also gives the origins of the target's cells; otherwise only the source uses
      it.
    - `cluster`: (n,) int64 time bin of each cell, or its region in space.
    - `block`: (n,) int64 window of each cell, the unit of resampling; -1 where it is in none.
    - `kind`: ``"time"`` or ``"spatial"``.
    """

    source: Ints
    target: Ints
    direction: NDArray[np.int8]
    mutual: NDArray[np.bool_]
    cluster: Ints
    block: Ints
    kind: str

    @property
    def n_pairs(self) -> int:
        """Number of pairs, P."""
        return len(self.source)

    def of_some(self, rows: Ints) -> Windows:
        """The windows of some of the cells, (m,) rows, alone."""
        position = np.full(len(self.cluster) + 1, -1, np.int64)
        position[rows] = np.arange(len(rows))
        return self._replace_cells(position, self.cluster[rows], self.block[rows])

    def among_all(self, rows: Ints, n: int) -> Windows:
        """These windows of some cells, (m,) rows of n, among all of them; the others are in no window."""
        cluster, block = np.full((2, n), -1, np.int64)
        cluster[rows], block[rows] = self.cluster, self.block
        return self._replace_cells(np.append(rows, -1), cluster, block)

    def _replace_cells(self, position: Ints, cluster: Ints, block: Ints) -> Windows:
        # the last entry of position is what the padding -1 points at
        source, target = position[self.source], position[self.target]
        return replace(self, source=source, target=target, cluster=cluster, block=block)


def pair_time_windows(
    time: Any, batch: Any | None = None, hyperparameters: VelocityHyperparameters = DEFAULTS
) -> Windows:
    """Pair blocks of successive time bins.

    Cells are sorted by time and cut into bins of a fraction ``window_fraction`` of all cells. The cells of a bin are
    distributed over blocks of about ``window_size`` cells (128 by default), one after another, so that each block is a
    sample of the whole bin. Block r of a bin is paired with block r of the next bin: the time gap does not shrink as
    cells are added, and the cost is linear in their number. Cells with equal times are always in one bin, and are
    distributed in an order drawn from the seed.

    A batch is paired with itself where it has ten cells in both bins. Where it has only one neighbor in time, its own
    window replaces the missing one. Where it has none, its cells are paired with all cells of the bins before and
    after.

    - `time`: (n,) pseudotime or real time.
    - `batch`: (n,) batch of each cell, of any type; one batch by default.
    - `hyperparameters`: Of these, ``window_fraction``, ``window_size`` and ``random_state`` are used. A bin is planned
      for at least 20 cells; where there are no more distinct times than bins, with ten cells each, every time is a bin.

    Returns the windows, with the time bins as clusters. Raises ValueError if time is not finite, has one value only,
    all cells are in a single bin, or one of two bins has fewer than ten cells.

    Examples
    --------
    >>> windows = pair_time_windows(np.repeat([2.0, 4.0, 6.0], 20))
    >>> windows.n_pairs, windows.direction.tolist()
    (4, [1, 1, 0, 0])
    """
    times = as_times(time)
    order = _sort_with_random_ties(times, None, hyperparameters.random_state)
    bins = np.empty(len(times), np.int64)
    bins[order] = _assign_bins(times[order], hyperparameters.window_fraction)
    codes = np.zeros(len(times), np.int64) if batch is None else _encode(batch, "batch", len(times))
    sets = _make_cell_sets(bins[order], codes[order])
    size = hyperparameters.window_size or _BLOCK_SIZE
    table, first, count = _split_into_blocks(order[sets.member], sets.set_of_member, len(sets.bin), size)
    left, right, direction, mutual = sets.links()
    source, target, link = _pair_blocks(left, right, first, count)
    # every cell is once in the blocks of the batches, which come first
    block = _block_of_cell(table[: int(first[sets.n_batch_sets])], len(times))
    return Windows(table[source], table[target], direction[link], mutual[link], bins, block, "time")


def as_times(time: Any, n: int | None = None) -> NDArray[np.float64]:
    """Return time as (n,) finite float64 with at least two values."""
    dtype = np.asarray(time).dtype
    if dtype.kind in "bcMm":
        raise TypeError(f"time must be numbers, not {dtype}: convert it, for example to days as float.")
    try:
        times = np.asarray(time, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"time must be numbers, not {type(time).__name__}: {error}") from error
    if times.ndim != 1 or (n is not None and len(times) != n):
        raise ValueError(f"time has shape {times.shape}: it needs one number per cell{'' if n is None else f' ({n})'}.")
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise ValueError(f"time is not finite for {len(bad)} cells, e.g. cell {bad[0]}: remove them or give a time.")
    if len(times) == 0 or times.min() == times.max():
        value = f" ({times[0]:g})" if len(times) else ""
        raise ValueError(f"time has a single value{value}: a velocity needs at least two time points.")
    low, high = float(times.min()), float(times.max())
    if max(abs(low), abs(high)) * np.finfo(np.float32).eps > _MAX_ROUNDING * (high - low):
        raise ValueError(
            f"time runs from {low:.12g} to {high:.12g}: float32, in which the field is computed, cannot tell these "
            "times apart; subtract the first one, for example obs[column] -= obs[column].min()."
        )
    return times


def _encode(labels: Any, name: str, n: int) -> Ints:
    """(n,) integer code of each cell's label."""
    values = np.asarray(labels)
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {values.shape}: it needs one entry per cell ({n}).")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _sort_with_random_ties(times: NDArray[np.float64], group: Ints | None, seed: int) -> Ints:
    """Indices of the cells sorted by group, then time, with equal times in random order."""
    shuffled = np.random.default_rng(seed).permutation(len(times))
    if group is None:
        return shuffled[np.argsort(times[shuffled], kind="stable")]
    return shuffled[np.lexsort((times[shuffled], group[shuffled]))]


def _assign_bins(times: NDArray[np.float64], fraction: float) -> Ints:
    """Bin of each cell, from its time in order: equal times share the bin of their mean rank; small bins are merged."""
    value, start, size = np.unique(times, return_index=True, return_counts=True)
    n_bins = max(2, int(min(1 / fraction, len(times) / _MIN_BIN)))
    if 2 <= len(value) <= 1 / fraction and size.min() >= _MIN_SAMPLE:
        # a time course: each measured time is a bin, however few cells it has beside the others
        return np.repeat(np.arange(len(value)), size)
    planned = ((start + size / 2) * n_bins / len(times)).astype(np.int64)
    bins = np.unique(planned, return_inverse=True)[1]
    while bins.max() > 1:
        n_cells = np.bincount(bins, weights=size)
        smallest = int(n_cells.argmin())
        if n_cells[smallest] >= _MIN_SAMPLE:
            break
        bins = _merge_bin(bins, smallest, np.bincount(bins, weights=value * size) / n_cells)
    if bins.max() < 1:
        raise ValueError(f"the {len(times)} cells fill one time bin only: velocity needs two; lower window_fraction.")
    n_cells = np.bincount(bins, weights=size)
    smallest = int(n_cells.argmin())
    if n_cells[smallest] < _MIN_SAMPLE:
        low, high = value[bins == smallest][[0, -1]]
        where = f"at {low:g}" if low == high else f"from {low:g} to {high:g}"
        raise ValueError(
            f"the time window {where} has {n_cells[smallest]:.0f} of the {len(times)} cells: a window "
            f"needs at least {_MIN_SAMPLE}; leave these cells out, or give them a time nearer to that of others."
        )
    return np.repeat(bins, size)


def _merge_bin(bins: Ints, small: int, center: NDArray[np.float64]) -> Ints:
    """Merge a bin with the neighbor that is nearer in time."""
    gap = np.diff(center)
    before = gap[small - 1] if small > 0 else np.inf
    after = gap[small] if small < len(gap) else np.inf
    return np.where(bins >= small + (after < before), bins - 1, bins)


@dataclass(frozen=True, eq=False)
class _CellSets:
    """Sets of cells from which windows are cut: each batch of each bin, then the unpaired cells and all cells of a bin.

    ``member`` are positions in the order of time, set after set, ``set_of_member`` the set of each; ``bin`` is the time
    bin of each set. The first ``n_batch_sets`` sets are those of the batches; ``following`` is the same batch in the
    next bin, and ``linked`` says which of these sets are paired with the later one, and which with the earlier one.
    ``unpaired`` are the sets of cells whose batch has no partner, ``all_cells`` those of all cells of a bin.
    """

    member: Ints
    set_of_member: Ints
    bin: Ints
    n_batch_sets: int
    following: Ints
    linked: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    unpaired: Ints
    all_cells: Ints

    def links(self) -> tuple[Ints, Ints, NDArray[np.int8], NDArray[np.bool_]]:
        """Source set, target set, direction and mutuality of every link."""
        forward, backward = self.linked
        pairs = np.flatnonzero(forward)
        # A batch with one neighbor only, or at an edge of time, is paired with itself on the other side.
        edge = np.flatnonzero(forward ^ backward)
        last = self.bin[-1]
        bins = self.bin[self.unpaired]
        later, earlier = bins < last, bins > 0
        at_edge = ~later | ~earlier
        source = [pairs, self.unpaired[later], self.unpaired[earlier], edge, self.unpaired[at_edge]]
        target = [
            self.following[pairs],
            self.all_cells[bins[later] + 1],
            self.all_cells[bins[earlier] - 1],
            edge,
            self.all_cells[bins[at_edge]],
        ]
        direction = np.repeat(np.array([1, 1, -1, 0, 0], np.int8), [len(sets) for sets in source])
        mutual = np.arange(len(direction)) < len(pairs)
        return np.concatenate(source), np.concatenate(target), direction, mutual


def _make_cell_sets(bins: Ints, batch: Ints) -> _CellSets:
    """Sets of cells, from the bin and the batch of the cells in order of time."""
    n_bins, n_batches = int(bins[-1]) + 1, int(batch.max()) + 1
    key, group, size = np.unique(bins * n_batches + batch, return_inverse=True, return_counts=True)
    following = np.searchsorted(key, key + n_batches).clip(max=len(key) - 1)
    forward = (key[following] == key + n_batches) & (size >= _MIN_SAMPLE) & (size[following] >= _MIN_SAMPLE)
    backward = np.zeros_like(forward)
    backward[following[forward]] = True
    if n_batches == 1:
        # the only batch is in every bin: successive bins are paired, however few cells they have
        forward, backward = forward | (key != key[-1]), backward | (key != key[0])
    alone = ~(forward | backward)
    stray = np.flatnonzero(alone[group])
    stray_bins, stray_group = np.unique(bins[stray], return_inverse=True)
    has_stray = len(stray) > 0
    everyone = np.arange(len(bins)) if has_stray else np.zeros(0, np.int64)
    first_all = len(key) + len(stray_bins)
    return _CellSets(
        member=np.concatenate([np.arange(len(bins)), stray, everyone]),
        set_of_member=np.concatenate([group, len(key) + stray_group, first_all + bins[everyone]]),
        bin=np.concatenate([key // n_batches, stray_bins, np.arange(n_bins * has_stray)]),
        n_batch_sets=len(key),
        following=following,
        linked=(forward, backward),
        unpaired=len(key) + np.arange(len(stray_bins)),
        all_cells=first_all + np.arange(n_bins * has_stray),
    )


def _split_into_blocks(cells: Ints, group: Ints, n_groups: int, width: int) -> tuple[Ints, Ints, Ints]:
    """Split each group into blocks of about `width` cells: cell i of a group of m blocks goes to its block i mod m.

    Returns (blocks, w) cells of each block, padded with -1; first block of each group; number of blocks of each group.
    """
    size = np.bincount(group, minlength=n_groups)
    count = np.maximum(1, np.round(size / width)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(count)])
    order = np.argsort(group, kind="stable")
    rank = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    owner = group[order]
    table = np.full((first[-1], int((-(-size // count)).max())), -1, np.int64)
    table[first[owner] + rank % count[owner], rank // count[owner]] = cells[order]
    return table, first, count


def _pair_blocks(left: Ints, right: Ints, first: Ints, count: Ints) -> tuple[Ints, Ints, Ints]:
    """Pair block r with block r of every two linked sets; the set with fewer blocks repeats its own.

    Returns source block, target block and link of each pair.
    """
    n_pairs = np.maximum(count[left], count[right])
    link = np.repeat(np.arange(len(left)), n_pairs)
    rank = np.arange(len(link)) - np.repeat(np.cumsum(n_pairs) - n_pairs, n_pairs)
    source, target = (first[sets] + rank % count[sets] for sets in (left[link], right[link]))
    return source, target, link


def _block_of_cell(table: Ints, n: int) -> Ints:
    """(n,) block of each cell, the first of several; -1 where it is in none."""
    block = np.full(n, -1, np.int64)
    # in reverse, so that the first block of a cell is written last
    owner, slot = (positions[::-1] for positions in np.nonzero(table >= 0))
    block[table[owner, slot]] = owner
    return block


def pair_spatial_windows(
    x: Any,
    time: Any,
    cluster: Any | None = None,
    batch: Any | None = None,
    hyperparameters: VelocityHyperparameters = DEFAULTS,
) -> Windows:
    """Pair successive, overlapping windows in time within each region of space.

    Regions are given, or clusters of k-means. Within each region (and batch) cells are sorted by time and cut into
    windows of ``window_size`` cells; each window begins ``1 - overlap_fraction`` of a window after the previous one.

    - `x`: (n, d) coordinates.
    - `time`: (n,) pseudotime or real time.
    - `cluster`: (n,) region of each cell, of any type; k-means by default.
    - `batch`: (n,) batch of each cell; a window never has cells of two batches.
    - `hyperparameters`: The number ``n_clusters`` of k-means regions is by default a hundredth of the cells, between 5
      and 30. A window has ``window_size`` cells, at most half a region; by default a quarter of the mean region, at
      least ``min_window_size``. A region of fewer than two windows of ``min_window_size`` cells is left out. The last
      cells of a region may be too few for a window: ``tail_handling="force"`` adds a full window that ends at the last
      cell, ``"split"`` makes them a window, or adds them to the last window if they are fewer than ``tail_threshold``,
      and ``"drop"`` leaves them out. ``random_state`` is the seed of k-means and of the order among equal times.

    Returns the windows, with the regions as clusters. Raises ValueError if time is not finite or constant, or no region
    has two windows.

    Examples
    --------
    >>> from muport.velocity._hyperparameters import VelocityHyperparameters
    >>> time = np.linspace(0, 1, 100)
    >>> options = VelocityHyperparameters(window_size=40)
    >>> windows = pair_spatial_windows(time[:, None], time, ["a"] * 100, hyperparameters=options)
    >>> windows.source.shape, int((windows.direction == 1).sum())
    ((5, 40), 3)
    """
    times = as_times(time)
    if cluster is None:
        n_clusters = min(len(times), hyperparameters.n_clusters or int(np.clip(len(times) // 100, 5, 30)))
        region = kmeans(x, n_clusters, random_state=hyperparameters.random_state).labels
    else:
        region = _encode(cluster, "cluster", len(times))
    group = region
    if batch is not None:
        codes = _encode(batch, "batch", len(times))
        group = np.unique(region * (codes.max() + 1) + codes, return_inverse=True)[1]
    order = _sort_with_random_ties(times, group, hyperparameters.random_state)
    size = np.bincount(group)
    width = hyperparameters.window_size or max(hyperparameters.min_window_size, int(size.mean() / 4))
    spans = [_cut_group(int(n), width, hyperparameters) for n in size]
    owner = np.repeat(np.arange(len(spans)), [len(windows) for windows in spans])
    if not (np.diff(owner) == 0).any():
        raise ValueError(
            f"no region has two windows of min_window_size={hyperparameters.min_window_size} cells (largest: "
            f"{size.max()}): lower min_window_size or n_clusters."
        )
    begin, end = (np.concatenate(spans) + (np.cumsum(size) - size)[owner][:, None]).T
    slot = begin[:, None] + np.arange((end - begin).max())
    table = np.where(slot < end[:, None], order[slot.clip(max=len(order) - 1)], -1)
    return _pair_successive(table, owner, region)


def _cut_group(n: int, window: int, hyperparameters: VelocityHyperparameters) -> Ints:
    """(windows, 2) first and last-plus-one position of the windows of n cells in order of time."""
    if n < 2 * hyperparameters.min_window_size:
        return np.zeros((0, 2), np.int64)
    width = int(np.clip(window, hyperparameters.min_window_size, n // 2))
    begin = np.arange(0, n - width + 1, max(1, round(width * (1 - hyperparameters.overlap_fraction))))
    spans = np.stack([begin, begin + width], axis=1)
    n_tail = n - int(spans[-1, 1])
    if n_tail == 0 or hyperparameters.tail_handling == "drop":
        return spans
    if hyperparameters.tail_handling == "force":
        return np.vstack([spans, [n - width, n]])
    if n_tail < hyperparameters.tail_threshold:
        spans[-1, 1] = n
        return spans
    return np.vstack([spans, [n - n_tail, n]])


def _pair_successive(table: Ints, owner: Ints, region: Ints) -> Windows:
    """Pair successive windows of a region, and its first and last window with themselves."""
    successive = np.flatnonzero(np.diff(owner) == 0)
    has_next = np.zeros(len(owner), bool)
    has_next[successive] = True
    has_previous = np.roll(has_next, 1)
    edge = np.flatnonzero(has_next ^ has_previous)
    direction = np.repeat(np.array([1, 0], np.int8), [len(successive), len(edge)])
    source = np.concatenate([successive, edge])
    target = np.concatenate([successive + 1, edge])
    block = _block_of_cell(table, len(region))
    return Windows(table[source], table[target], direction, direction == 1, region, block, "spatial")
