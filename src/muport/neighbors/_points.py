"""Checks of points, their conversion to row-major float32, and the threads of faiss."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_points", "faiss_threads"]

type Points = np.ndarray | Any


def as_points(x: Points, name: str = "x") -> np.ndarray:
    """Return points as a finite, row-major float32 matrix; ``x`` itself if it is one.

    Parameters
    ----------
    x
        (n, d) numbers: a NumPy array or a torch tensor.
    name
        Name of the array in errors.

    Returns
    -------
    numpy.ndarray
        (n, d) float32, C-contiguous.

    Raises
    ------
    TypeError
        If ``x`` is sparse or not numeric.
    ValueError
        If ``x`` does not have two non-empty axes, or has a NaN or an infinite entry (also after conversion to float32).

    Examples
    --------
    >>> from muport.neighbors import as_points
    >>> as_points([[1, 2], [3, 4]]).dtype
    dtype('float32')
    """
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} is sparse: pass a dense embedding, e.g. its principal components.")
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    try:
        with np.errstate(over="ignore"):
            points = np.ascontiguousarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a numeric matrix, not {type(x).__name__}: {error}") from error
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            f"{name} has shape {points.shape}: it must have two axes, (points, coordinates), none of them empty."
        )
    # If the sum is finite, so is every entry. If it is not, it may also have overflowed: then check every entry.
    with np.errstate(invalid="ignore"):
        total = points.sum(dtype=np.float64)
    if not np.isfinite(total):
        bad = np.argwhere(~np.isfinite(points))
        if len(bad):
            raise ValueError(f"{name} has a NaN or infinite entry at {tuple(bad[0].tolist())} ({len(bad)} in all).")
    return points


@contextmanager
def faiss_threads(n_threads: int | None) -> Iterator[None]:
    """Run faiss with a number of threads, then restore the previous number."""
    import faiss

    before = faiss.omp_get_max_threads()
    if n_threads is not None:
        faiss.omp_set_num_threads(n_threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
