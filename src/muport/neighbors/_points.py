"""Checks of points, their conversion to row-major float32, and the threads of faiss."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_points", "check_digits", "faiss_threads", "range_exponent"]

_MIN_DIGITS = 1_000  # roundings of float32 that the range of the points must be
_SAFE_EXPONENT = 40  # numbers from 1e-12 to 1e12
_NOISE = 1e-12  # range, as a fraction of the values, that is rounding of a constant in float64

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
        If ``x`` does not have two non-empty axes, or has a masked, a NaN or an infinite entry (also after conversion to
        float32).

    Examples
    --------
    >>> from muport.neighbors import as_points
    >>> as_points([[1, 2], [3, 4]]).dtype
    dtype('float32')
    """
    if hasattr(x, "toarray"):
        raise TypeError(f"{name} is sparse: pass a dense embedding, e.g. its principal components.")
    if hasattr(x, "obsm"):
        # NumPy would read it cell by cell, for minutes
        raise TypeError(f"{name} is {type(x).__name__}: pass coordinates, such as those of its obsm['X_pca'].")
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    if np.ma.is_masked(x):
        raise ValueError(f"{name} has {np.ma.count_masked(x)} masked entries: fill them, or leave these rows out.")
    if getattr(getattr(x, "dtype", None), "kind", "f") in "cmM":
        raise TypeError(f"{name} holds {x.dtype}: pass real numbers.")
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


def check_digits(x: Any, points: np.ndarray, name: str) -> None:
    """Raise a ValueError if the differences between the points `x` are lost in float32, `points`, far from 0."""
    if getattr(x, "dtype", None) == np.float32 or not len(points):
        return
    given = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
    spread, size = np.ptp(given, axis=0), np.abs(points).max(axis=0).astype(np.float64)
    total, magnitude = float(np.linalg.norm(spread)), float(np.linalg.norm(size))
    if _NOISE * magnitude < total < _MIN_DIGITS * magnitude * np.finfo(np.float32).eps / 2:
        raise ValueError(
            f"{name} varies by {total:.3g} around values up to {size.max():.3g}, which float32 cannot hold: subtract "
            "the mean of each column first."
        )


def range_exponent(points: np.ndarray) -> int:
    """Power of two by which points must be divided for their squares to be in the range of float32; 0 if they are."""
    exponent = int(np.frexp(max(float(points.max()), -float(points.min())))[1])
    return exponent if abs(exponent) > _SAFE_EXPONENT else 0


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
