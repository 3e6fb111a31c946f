"""k nearest neighbors: exact by faiss or torch, approximate by an inverted file of faiss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from muport._arrays import unit_rows
from muport._checks import check_integers, check_option, check_seed
from muport.neighbors._far_points import find_far_points, search_in_float64
from muport.neighbors._points import as_points, check_digits, faiss_threads, range_exponent

__all__ = ["Neighbors", "knn"]

_EXACT_UP_TO = 5e11  # largest number of multiplications (points x queries x coordinates) of "auto" for an exact search
_BLOCK = 2**26  # number of distances computed together by the torch search
# The approximate search compares a query with the points of the nearest 32 of 2 sqrt(n) parts. Among 100,000 and
# 200,000 simulated points of 10 to 50 coordinates it finds 97 to 100 % of the neighbors, pynndescent 90 to 100 % in a
# like time; both find 65 % where 30 coordinates are independent and of equal variance.
_PARTS_PER_ROOT, _PARTS_SEARCHED = 2, 32


@dataclass(frozen=True)
class Neighbors:
    """Nearest neighbors of every query, nearest first.

    Attributes
    ----------
    distances
        (n, k) float32, Euclidean, or one minus the cosine.
    indices
        (n, k) int64 rows of ``x``.
    """

    distances: np.ndarray
    indices: np.ndarray

    def without_self(self) -> Neighbors:
        """Neighbors of query i without row i, one fewer; where row i is not among them, the farthest is left out."""
        n = len(self.indices)
        own = self.indices == np.arange(n)[:, None]
        own[~own.any(axis=1), -1] = True
        return Neighbors(self.distances[~own].reshape(n, -1), self.indices[~own].reshape(n, -1))


def knn(
    x: Any,
    k: int,
    *,
    query: Any | None = None,
    method: Literal["auto", "exact", "approximate"] = "auto",
    metric: Literal["euclidean", "cosine"] = "euclidean",
    include_self: bool = False,
    random_state: int = 0,
    n_threads: int | None = None,
    device: str | None = None,
) -> Neighbors:
    """Find the k nearest rows of ``x`` for every row of ``query``, or for every row of ``x`` among the other rows.

    Parameters
    ----------
    x
        (n, d) points; a CUDA tensor is searched on its device.
    k
        Number of neighbors of each query, at most n (n - 1 if a point is not its own neighbor).
    query
        (q, d) points; ``x`` itself by default.
    method
        ``"exact"`` (faiss, or torch on a device), ``"approximate"`` (an inverted file of faiss) or ``"auto"``: exact
        up to about 100,000 points of 50 coordinates among themselves.
    metric
        ``"euclidean"`` or ``"cosine"``. The cosine distance between a zero vector and any other is 1.
    include_self
        Without ``query``: whether a point is its own first neighbor, at distance 0.
    random_state
        Seed of the approximate search; the exact search is not random.
    n_threads
        Threads; all by default.
    device
        Torch device of an exact search, e.g. ``"cuda"``.

    Returns
    -------
    Neighbors
        Distances (q, k) and indices (q, k).

    Raises
    ------
    ValueError
        For NaN or infinite entries, shapes that do not fit, ``k`` out of range or an unknown option.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.neighbors import knn
    >>> knn(np.array([[0.0], [1.0], [3.0]]), k=1).indices.ravel().tolist()
    [1, 0, 1]
    """
    for name, value, options in (
        ("method", method, ("auto", "exact", "approximate")),
        ("metric", metric, ("euclidean", "cosine")),
    ):
        check_option(name, value, options)
    check_integers(0, k=k)
    check_seed(random_state)
    if n_threads is not None:
        check_integers(n_threads=n_threads)
    if device is None and getattr(x, "is_cuda", False):
        device = str(x.device)
    points = as_points(x, "x")
    queries = points if query is None else as_points(query, "query")
    check_digits(x, points, "x")
    drop_self = query is None and not include_self
    _check_k(k, points, queries, drop_self)
    if metric == "cosine":
        queries = _directions(queries)
        points = queries if query is None else _directions(points)
    how = _SearchOptions(method, device, random_state, n_threads)
    distances, indices = _near_and_far(points, queries, k + drop_self, how)
    if query is None:
        distances, indices = _self_first(distances, indices, keep=include_self)
    if metric == "cosine":
        distances = _cosine_distance(distances, points, queries, indices)
    return Neighbors(np.ascontiguousarray(distances, np.float32), np.ascontiguousarray(indices, np.int64))


def _check_k(k: int, points: np.ndarray, queries: np.ndarray, drop_self: bool) -> None:
    if points.shape[1] != queries.shape[1]:
        raise ValueError(f"query has {queries.shape[1]} coordinates, but x has {points.shape[1]}.")
    most = len(points) - drop_self
    if not 1 <= k <= most:
        raise ValueError(f"k={k} is out of range: x has {len(points)} points, so k must be between 1 and {most}.")


def _cosine_distance(distances: np.ndarray, points: np.ndarray, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """One minus the cosine: half the squared distance of unit vectors, 1 if one of them is zero."""
    is_zero = ~queries.any(axis=1)[:, None] | ~points.any(axis=1)[indices]
    return np.where(is_zero, 1.0, distances**2 / 2)


@dataclass(frozen=True)
class _SearchOptions:
    """Arguments of :func:`knn` by which neighbors are searched."""

    method: str
    device: str | None
    random_state: int
    n_threads: int | None


def _directions(x: np.ndarray) -> np.ndarray:
    """Unit vectors (n, d) of rows of any size; a zero vector stays zero."""
    exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True))[1]
    return unit_rows(np.ldexp(x, -exponent))


def _near_and_far(
    points: np.ndarray, queries: np.ndarray, k: int, options: _SearchOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distances (q, k) and indices (q, k), nearest first; in float64 for queries far from most points."""
    far = find_far_points(points, queries, k)
    if far is None:
        return _in_range(points, queries, k, options)
    distances, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    distances[far.queries], indices[far.queries] = search_in_float64(points, queries[far.queries], k)
    if not far.queries.all():
        near = np.flatnonzero(~far.points)
        distances[~far.queries], position = _in_range(points[near], queries[~far.queries], k, options)
        indices[~far.queries] = near[position]
    return distances, indices


def _in_range(
    points: np.ndarray, queries: np.ndarray, k: int, options: _SearchOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of points whose squares may be out of the range of float32."""
    exponent = range_exponent(points)
    if not exponent:
        return _search(points, queries, k, options)
    same, points = queries is points, np.ldexp(points, -exponent)
    distances, indices = _search(points, points if same else np.ldexp(queries, -exponent), k, options)
    return np.ldexp(distances, exponent), indices


def _search(points: np.ndarray, queries: np.ndarray, k: int, options: _SearchOptions) -> tuple[np.ndarray, np.ndarray]:
    method, device, n_threads = options.method, options.device, options.n_threads
    if method == "auto":
        method = "exact" if device or points.size * len(queries) <= _EXACT_UP_TO else "approximate"
    if device:
        # torch does not accept read-only arrays
        same, points = queries is points, np.require(points, requirements="W")
        queries = points if same else np.require(queries, requirements="W")
    if method == "approximate":
        return _approximate(points, queries, k, options.random_state, n_threads)
    return _torch(points, queries, k, device) if device else _faiss(points, queries, k, n_threads)


def _faiss(points: np.ndarray, queries: np.ndarray, k: int, n_threads: int | None) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    center = _center(points)
    # In sorted points each block is nearer to a query than the last: its neighbors are replaced again and again, which
    # takes up to half as long again as with points in random order.
    order = np.random.default_rng(0).permutation(len(points))
    shuffled = points[order]
    shuffled -= center
    with faiss_threads(n_threads):
        # without an index, which would hold another copy of the points
        squared, indices = faiss.knn(queries - center, shuffled, k)
    return np.sqrt(np.maximum(squared, 0)), order[indices]


def _center(points: np.ndarray) -> np.ndarray:
    """Mean (d,): |x|^2 + |y|^2 - 2xy loses float32 digits far from the origin, so points are centered."""
    return points.mean(axis=0, dtype=np.float64).astype(np.float32)


def _torch(points: np.ndarray, queries: np.ndarray, k: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    import torch

    x, q = (torch.from_numpy(array).to(device) for array in (points, queries))
    center = x.mean(dim=0)
    x, q = x - center, q - center
    norms = x.square().sum(1)
    nearest = []
    for block in torch.split(q, max(1, _BLOCK // len(x))):
        squared = torch.addmm(norms[None], block, x.T, alpha=-2) + block.square().sum(1, keepdim=True)
        nearest.append(squared.topk(k, dim=1, largest=False))
    squared, indices = (torch.cat(tensors) for tensors in zip(*nearest, strict=True))
    return squared.clamp(min=0).sqrt().cpu().numpy(), indices.cpu().numpy()


def _approximate(
    points: np.ndarray, queries: np.ndarray, k: int, seed: int, n_threads: int | None
) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    center, n_parts = _center(points), min(len(points), int(_PARTS_PER_ROOT * np.sqrt(len(points))))
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(points.shape[1]), points.shape[1], n_parts)
    index.nprobe = min(_PARTS_SEARCHED, n_parts)
    index.cp.seed, index.cp.niter = int(np.random.default_rng(seed).integers(2**31)), 6
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    with faiss_threads(n_threads):
        centered = points - center
        index.train(centered)
        index.add(centered)
        squared, indices = index.search(centered if queries is points else queries - center, k)
    # The parts that were searched may have fewer than k points.
    short = np.flatnonzero(indices[:, -1] < 0)
    distances = np.sqrt(np.maximum(squared, 0))
    if len(short):
        distances[short], indices[short] = _faiss(points, queries[short], k, n_threads)
    return distances, indices


def _self_first(distances: np.ndarray, indices: np.ndarray, *, keep: bool) -> tuple[np.ndarray, np.ndarray]:
    """Put each point first among its neighbors at distance 0, or drop it; a search may miss it among duplicates."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(axis=1), -1] = True
    order = np.argsort(~own, axis=1, kind="stable")
    distances, indices = np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)
    distances[:, 0], indices[:, 0] = 0, np.arange(len(indices))
    return (distances, indices) if keep else (distances[:, 1:], indices[:, 1:])
