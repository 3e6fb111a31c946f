"""Types and batches of the nearest neighbors of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.metrics._cell_names import match_rows
from muport.metrics._checked_values import category_codes
from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray


def knn_labels(x: Any, labels: Any, *, query: Any | None = None, k: int = 15) -> NDArray[np.str_]:
    """Predict the label of every cell by a majority vote of its k nearest labeled cells.

    Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    x
        (n, d) labeled cells.
    labels
        (n,) their labels.
    query
        (q, d) cells to predict. By default the labeled cells, of which none votes for itself; the agreement with
        `labels` then measures how well neighbors predict the type of a cell.
    k
        Number of votes; fewer if there are fewer cells. Of labels with equally many votes, the alphabetically first
        is predicted.

    Returns
    -------
    (q,) predicted labels.

    Raises
    ------
    ValueError
        If the lengths or the names of the cells differ, an entry is not finite, or a label is missing.

    Examples
    --------
    >>> knn_labels([[0.0], [0.1], [5.0], [5.1]], ["B", "B", "T", "T"], query=[[4.0]], k=2).tolist()
    ['T']
    """
    x, labels = match_rows(x=x, labels=labels)
    names, code = as_codes(labels, len(x), "labels")
    neighbors = knn(x, min(k, len(x) - (query is None)), query=query).indices
    return names[_count_codes(code[neighbors], len(names)).argmax(axis=1)]


def batch_mixing(x: Any, batch: Any, *, k: int = 15) -> float:
    """Fraction of neighbors from other batches, divided by that fraction among cells drawn at random.

    With c_b of n cells in batch b, two random cells are of different batches with probability
    sum_b c_b (n - c_b) / (n (n - 1)). The score is 0 if no cell has a neighbor from another batch, and 1 if neighbors
    do not depend on the batch. If batches have different types, a perfect integration has a score below 1.

    Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    x
        (n, d) cells.
    batch
        (n,) batch of each cell.
    k
        Number of neighbors; fewer if there are fewer cells.

    Returns
    -------
    A number of at least 0, about 1 at best; NaN with a single batch.

    Raises
    ------
    ValueError
        If the lengths or the names of the cells differ, an entry is not finite, or a label is missing.

    Examples
    --------
    >>> batch_mixing([[0.0], [0.1], [5.0], [5.1]], ["a", "a", "b", "b"], k=1)
    0.0
    """
    x, batch = match_rows(x=x, batch=batch)
    names, code = as_codes(batch, len(x), "batch")
    if len(names) < 2:
        return float("nan")
    n, size = len(code), np.bincount(code)
    expected = float((size * (n - size)).sum()) / (n * (n - 1))
    is_other_batch = code[knn(x, min(k, n - 1)).indices] != code[:, None]
    return float(is_other_batch.mean()) / expected


def as_codes(values: Any, n: int, name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Sorted distinct values as text, and the code (n,) of each cell."""
    names, codes = category_codes(values, name)
    if codes.shape != (n,):
        raise ValueError(f"{name} has shape {codes.shape}, but x has {n} cells: give one value for each.")
    if n_missing := int((codes < 0).sum()):
        raise ValueError(f"{name} has {n_missing} missing values: give each cell one, or leave these cells out.")
    return names, codes


def _count_codes(codes: NDArray[np.int64], n_names: int) -> NDArray[np.int64]:
    """Number of times (n, n_names) each code is in each row of (n, k)."""
    key = np.arange(len(codes))[:, None] * n_names + codes
    return np.bincount(key.ravel(), minlength=len(codes) * n_names).reshape(len(codes), n_names)
