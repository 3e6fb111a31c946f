"""Coordinates of patients from their distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["embed_distances"]


def embed_distances(distances: NDArray[np.float64], n_components: int) -> NDArray[np.float64]:
    """Embed points by classical multidimensional scaling (Torgerson 1952).

    - `distances`: (P, P) distances.
    - `n_components`: Number of coordinates, at most P.

    Returns (P, n_components) coordinates, those of the largest variance first; the largest entry of each is positive.

    Examples
    --------
    >>> embed_distances(np.array([[0.0, 2.0], [2.0, 0.0]]), 1).round(6).tolist()
    [[1.0], [-1.0]]
    """
    n = len(distances)
    squared = np.square(distances)
    centering = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centering @ squared @ centering)
    order = np.argsort(-values)[:n_components]
    # the constant vector has eigenvalue 0 up to rounding, so smaller eigenvalues count as 0
    positive = np.where(values[order] > n * np.finfo(np.float64).eps * values.max(), values[order], 0)
    coordinates = vectors[:, order] * np.sqrt(np.maximum(positive, 0))
    largest = np.take_along_axis(coordinates, np.abs(coordinates).argmax(axis=0)[None], 0)
    signed: NDArray[np.float64] = coordinates * np.sign(largest + 1e-300)
    return signed
