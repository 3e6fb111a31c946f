"""Windows: which cells are transported onto which, by time alone or by time within regions of space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from muport.neighbors import kmeans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    type Ints = NDArray[np.int64]

__all__ = ["Windows", "check_time", "deal", "pair_blocks", "spatial_windows", "time_bins", "time_windows"]

_FEW = 10  # cells below which a bin, or a batch within it, is no sample of its own
_LEAST = 20  # cells a bin is planned to hold, however small the fraction


@dataclass(frozen=True, eq=False)
class Windows:
    """Pairs of windows between which cells are transported; the i-th row of ``source`` goes to that of ``target``.

    Attributes
    ----------
    source
        (P, w) int64 positions of cells, filled up with -1.
    target
        (P, w) int64 positions of cells, filled up with -1.
    direction
        (P,) int8: 1 if the target is later, -1 if earlier, 0 if a window at the edge of time is paired with itself.
    mutual
        (P,) bool: whether the plan also tells where the target's cells come from; otherwise it serves the source only.
    cluster
        (n,) int64 time bin of each cell, or its region in space.
    block
        (n,) int64 window of each cell, the unit of resampling; -1 where it is in none.
    kind
        ``"time"`` or ``"spatial"``.
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


def time_windows(
    time: Any,
    batch: Any | None = None,
    *,
    fraction: float = 0.05,
    width: int = 128,
    random_state: int = 0,
) -> Windows:
    """Pair blocks of successive time bins.

    The cells in order of time are cut into bins of a ``fraction`` of them, and a bin is dealt in turn into blocks of
    about ``width`` cells, each of which is thus a thin sample of the whole bin. Block r of a bin is paired with block
    r of the next: the gap in time does not shrink as cells are added, and the cost is linear in their number. Cells of
    equal time are never parted by a bin, and are dealt in an order drawn from the seed.

    A batch is paired with itself where it holds ten cells of both bins; where it has only one neighbour, its own window
    stands for the other side; where it has none, its cells are paired with all cells of the bins beside.

    Parameters
    ----------
    time
        (n,) pseudotime or real time.
    batch
        (n,) batch of each cell, of any type; one batch by default.
    fraction
        Share of the cells in a bin, in (0, .5]; a bin is planned for 20 cells at least.
    width
        Cells of a block.
    random_state
        Seed of the order among equal times.

    Returns
    -------
    Windows
        With the time bins as clusters.

    Raises
    ------
    ValueError
        For a time that is not finite, has one value only or leaves a single bin, or an option out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._windows import time_windows
    >>> windows = time_windows(np.repeat([2.0, 4.0, 6.0], 20))
    >>> windows.n_pairs, windows.direction.tolist()
    (4, [1, 1, 0, 0])
    """
    when = check_time(time)
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction={fraction} must be above 0 and at most 0.5.")
    if width < 2:
        raise ValueError(f"width={width} must be at least 2 cells.")
    shuffled = np.random.default_rng(random_state).permutation(len(when))
    order = shuffled[np.argsort(when[shuffled], kind="stable")]
    bins = np.empty(len(when), np.int64)
    bins[order] = time_bins(when[order], fraction)
    codes = np.zeros(len(when), np.int64) if batch is None else _codes(batch, "batch", len(when))
    groups = _time_groups(bins[order], codes[order])
    table, first, count = deal(order[groups.member], groups.group, len(groups.bin), width)
    left, right, direction, mutual = groups.links()
    source, target, link = pair_blocks(left, right, first, count)
    block = np.empty(len(when), np.int64)
    own, slot = np.nonzero(table[: groups.n_batch_blocks(first)] >= 0)
    block[table[own, slot]] = own
    return Windows(table[source], table[target], direction[link], mutual[link], bins, block, "time")


def check_time(time: Any, n: int | None = None) -> NDArray[np.float64]:
    """Return time as (n,) finite float64 of at least two values."""
    try:
        when = np.asarray(time, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"time must be numbers, not {type(time).__name__}: {error}") from error
    if when.ndim != 1 or (n is not None and len(when) != n):
        raise ValueError(f"time has shape {when.shape}: it needs one number per cell{'' if n is None else f' ({n})'}.")
    bad = np.flatnonzero(~np.isfinite(when))
    if len(bad):
        raise ValueError(f"time is not finite for {len(bad)} cells, e.g. cell {bad[0]}: remove them or give a time.")
    if len(when) == 0 or when.min() == when.max():
        value = f" ({when[0]:g})" if len(when) else ""
        raise ValueError(f"time has a single value{value}: a velocity needs at least two time points.")
    return when


def _codes(labels: Any, name: str, n: int) -> Ints:
    values = np.asarray(labels)
    if values.shape != (n,):
        raise ValueError(f"{name} has shape {values.shape}: it needs one entry per cell ({n}).")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def time_bins(when: NDArray[np.float64], fraction: float) -> Ints:
    """Bin of each cell, from its time in order: that of the mean rank of its ties, small ones given to a neighbour."""
    value, start, size = np.unique(when, return_index=True, return_counts=True)
    number = max(2, int(min(1 / fraction, len(when) / _LEAST)))
    wanted = ((start + size / 2) * number / len(when)).astype(np.int64)
    bins = np.unique(wanted, return_inverse=True)[1]
    while bins.max() > 1:
        total = np.bincount(bins, weights=size)
        small = int(total.argmin())
        if total[small] >= _FEW:
            break
        bins = _merge(bins, small, np.bincount(bins, weights=value * size) / total)
    if bins.max() < 1:
        raise ValueError(f"the {len(when)} cells fill one time bin only: velocity needs two; lower fraction.")
    return np.repeat(bins, size)


def _merge(bins: Ints, small: int, center: NDArray[np.float64]) -> Ints:
    """Join a bin with the one beside it that is nearer in time."""
    gap = np.diff(center)
    before = gap[small - 1] if small > 0 else np.inf
    after = gap[small] if small < len(gap) else np.inf
    return np.where(bins >= small + (after < before), bins - 1, bins)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Sets of cells that windows are cut from: each batch of each bin, then the unpaired cells and all cells of a bin.

    ``member`` are the positions in the order of time, set after set, and ``group`` the set of each; ``bin`` the time
    bin of each set. The first ``n_batch`` sets are those of the batches; ``following`` is the same batch in the next
    bin, and ``linked`` tells which sets are paired with their later, and which with their earlier. ``left_over`` are
    the sets of unpaired cells, ``whole`` those of all cells.
    """

    member: Ints
    group: Ints
    bin: Ints
    n_batch: int
    following: Ints
    linked: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    left_over: Ints
    whole: Ints

    def n_batch_blocks(self, first: Ints) -> int:
        """Blocks cut from the sets of the batches, in which every cell is once."""
        return int(first[self.n_batch])

    def links(self) -> tuple[Ints, Ints, NDArray[np.int8], NDArray[np.bool_]]:
        """Source set, target set, direction and mutuality of every link."""
        forward, backward = self.linked
        pairs = np.flatnonzero(forward)
        # A batch with one neighbour only, or at an edge of time, is its own neighbour on the other side.
        edge = np.flatnonzero(forward ^ backward)
        last = self.bin[-1]
        bins = self.bin[self.left_over]
        later, earlier = bins < last, bins > 0
        rim = ~later | ~earlier
        source = [pairs, self.left_over[later], self.left_over[earlier], edge, self.left_over[rim]]
        target = [
            self.following[pairs],
            self.whole[bins[later] + 1],
            self.whole[bins[earlier] - 1],
            edge,
            self.whole[bins[rim]],
        ]
        sign = np.repeat(np.array([1, 1, -1, 0, 0], np.int8), [len(one) for one in source])
        mutual = np.arange(len(sign)) < len(pairs)
        return np.concatenate(source), np.concatenate(target), sign, mutual


def _time_groups(bins: Ints, batch: Ints) -> _Groups:
    """Sets of cells, from the bin and the batch of the cells in order of time."""
    n_bins, n_batches = int(bins[-1]) + 1, int(batch.max()) + 1
    key, group, size = np.unique(bins * n_batches + batch, return_inverse=True, return_counts=True)
    following = np.searchsorted(key, key + n_batches).clip(max=len(key) - 1)
    forward = (key[following] == key + n_batches) & (size >= _FEW) & (size[following] >= _FEW)
    backward = np.zeros_like(forward)
    backward[following[forward]] = True
    single = n_batches == 1
    forward, backward = (one | single & (key != edge) for one, edge in ((forward, key[-1]), (backward, key[0])))
    alone = ~(forward | backward)
    stray = np.flatnonzero(alone[group])
    stray_bins, stray_group = np.unique(bins[stray], return_inverse=True)
    with_all = len(stray) > 0
    everyone = np.arange(len(bins)) if with_all else np.zeros(0, np.int64)
    sets = [group, len(key) + stray_group, len(key) + len(stray_bins) + bins[everyone]]
    return _Groups(
        member=np.concatenate([np.arange(len(bins)), stray, everyone]),
        group=np.concatenate(sets),
        bin=np.concatenate([key // n_batches, stray_bins, np.arange(n_bins * with_all)]),
        n_batch=len(key),
        following=following,
        linked=(forward, backward),
        left_over=len(key) + np.arange(len(stray_bins)),
        whole=len(key) + len(stray_bins) + np.arange(n_bins * with_all),
    )


def deal(cells: Ints, group: Ints, n_groups: int, width: int) -> tuple[Ints, Ints, Ints]:
    """Deal the cells of each group in turn into blocks: table (blocks, w), first block and number of blocks of each."""
    size = np.bincount(group, minlength=n_groups)
    count = np.maximum(1, np.round(size / width)).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(count)])
    order = np.argsort(group, kind="stable")
    rank = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    owner = group[order]
    table = np.full((first[-1], int((-(-size // count)).max())), -1, np.int64)
    table[first[owner] + rank % count[owner], rank // count[owner]] = cells[order]
    return table, first, count


def pair_blocks(left: Ints, right: Ints, first: Ints, count: Ints) -> tuple[Ints, Ints, Ints]:
    """Blocks of every link's two sets, r with r; the set of fewer blocks begins again. Also the link of each pair."""
    number = np.maximum(count[left], count[right])
    link = np.repeat(np.arange(len(left)), number)
    turn = np.arange(len(link)) - np.repeat(np.cumsum(number) - number, number)
    sets = left[link], right[link]
    source, target = (first[one] + turn % count[one] for one in sets)
    return source, target, link


def spatial_windows(
    x: Any,
    time: Any,
    cluster: Any | None = None,
    batch: Any | None = None,
    *,
    n_clusters: int | None = None,
    window_size: int | None = None,
    overlap_fraction: float = 0.5,
    min_window_size: int = 20,
    tail_handling: Literal["force", "drop", "split"] = "force",
    tail_threshold: int = 10,
    random_state: int = 42,
) -> Windows:
    """Pair successive, overlapping windows in time within each region of space.

    Regions are clusters of k-means, or given; within each (and within each batch) cells are sorted by time and cut
    into windows of ``window_size``, each beginning ``1 - overlap_fraction`` of a window after the last.

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) pseudotime or real time.
    cluster
        (n,) region of each cell, of any type; k-means by default.
    batch
        (n,) batch of each cell; windows never mix two.
    n_clusters
        Regions of k-means; by default a hundredth of the cells, between 5 and 30.
    window_size
        Cells of a window, at most half a region's; by default a quarter of the mean region, at least 20.
    overlap_fraction
        Share of a window that the next repeats, in [0, 1).
    min_window_size
        Least cells of a window; a region of fewer than two such windows is left out.
    tail_handling
        What becomes of the last cells of a region, that fill no window: ``"force"`` ends one more full window at the
        last cell, ``"split"`` makes them a window of their own, ``"drop"`` leaves them out.
    tail_threshold
        With ``"split"``, a tail of fewer cells joins the last window instead.
    random_state
        Seed of k-means and of the order among equal times.

    Returns
    -------
    Windows
        With the regions as clusters.

    Raises
    ------
    ValueError
        For a time that is not finite or constant, an option out of range, or regions too small for two windows.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._windows import spatial_windows
    >>> time = np.linspace(0, 1, 100)
    >>> windows = spatial_windows(time[:, None], time, cluster=["a"] * 100, window_size=40)
    >>> windows.source.shape, int((windows.direction == 1).sum())
    ((5, 40), 3)
    """
    when = check_time(time)
    _check_spatial(overlap_fraction, min_window_size, tail_handling, tail_threshold, n_clusters, window_size)
    if cluster is None:
        number = min(len(when), n_clusters or int(np.clip(len(when) // 100, 5, 30)))
        region = kmeans(x, number, random_state=random_state).labels
    else:
        region = _codes(cluster, "cluster", len(when))
    group = region
    if batch is not None:
        codes = _codes(batch, "batch", len(when))
        group = np.unique(region * (codes.max() + 1) + codes, return_inverse=True)[1]
    shuffled = np.random.default_rng(random_state).permutation(len(when))
    order = shuffled[np.lexsort((when[shuffled], group[shuffled]))]
    size = np.bincount(group)
    window = window_size or max(min_window_size, int(size.mean() / 4))
    spans = [
        _spans(int(many), window, overlap_fraction, min_window_size, tail_handling, tail_threshold) for many in size
    ]
    begin, end, owner = _place(spans, np.cumsum(size) - size)
    if not (np.diff(owner) == 0).any():
        raise ValueError(
            f"no region has two windows of min_window_size={min_window_size} cells (largest: {size.max()}): "
            "lower min_window_size or n_clusters."
        )
    slot = begin[:, None] + np.arange((end - begin).max())
    table = np.where(slot < end[:, None], order[slot.clip(max=len(order) - 1)], -1)
    return _spatial_pairs(table, owner, region)


def _check_spatial(
    overlap: float, least: int, tail: str, threshold: int, n_clusters: int | None, window_size: int | None
) -> None:
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap_fraction={overlap} must be at least 0 and below 1.")
    if tail not in ("force", "drop", "split"):
        raise ValueError(f"tail_handling={tail!r} is unknown: use one of 'force', 'drop', 'split'.")
    for name, value in (
        ("min_window_size", least),
        ("tail_threshold", threshold),
        ("n_clusters", n_clusters),
        ("window_size", window_size),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def _spans(n: int, window: int, overlap: float, least: int, tail: str, threshold: int) -> Ints:
    """(windows, 2) first and last-plus-one place of the windows of a region of n cells."""
    if n < 2 * least:
        return np.zeros((0, 2), np.int64)
    width = int(np.clip(window, least, n // 2))
    begin = np.arange(0, n - width + 1, max(1, round(width * (1 - overlap))))
    spans = np.stack([begin, begin + width], axis=1)
    left = n - int(spans[-1, 1])
    if left == 0 or tail == "drop":
        return spans
    if tail == "force":
        return np.vstack([spans, [n - width, n]])
    if left < threshold:
        spans[-1, 1] = n
        return spans
    return np.vstack([spans, [n - left, n]])


def _place(spans: list[Ints], start: Ints) -> tuple[Ints, Ints, Ints]:
    """Begin and end of all windows in the order of the cells, and their region."""
    owner = np.repeat(np.arange(len(spans)), [len(one) for one in spans])
    place = np.concatenate(spans) + start[owner][:, None]
    return place[:, 0], place[:, 1], owner


def _spatial_pairs(table: Ints, owner: Ints, region: Ints) -> Windows:
    """Successive windows of a region, and the first and last with themselves."""
    successive = np.flatnonzero(np.diff(owner) == 0)
    has_next = np.zeros(len(owner), bool)
    has_next[successive] = True
    has_last = np.roll(has_next, 1)
    edge = np.flatnonzero(has_next ^ has_last)
    block = np.full(len(region), -1, np.int64)
    # In reverse, so that a cell of several windows counts to the first.
    own, slot = (one[::-1] for one in np.nonzero(table >= 0))
    block[table[own, slot]] = own
    direction = np.repeat(np.array([1, 0], np.int8), [len(successive), len(edge)])
    source = np.concatenate([successive, edge])
    target = np.concatenate([successive + 1, edge])
    return Windows(table[source], table[target], direction, direction == 1, region, block, "spatial")
