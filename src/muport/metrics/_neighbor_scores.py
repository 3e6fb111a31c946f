"""What surrounds a cell: types and batches of its nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport.neighbors import knn

if TYPE_CHECKING:
    from numpy.typing import NDArray


def knn_labels(x: Any, labels: Any, *, query: Any | None = None, k: int = 15) -> NDArray[np.str_]:
    """Give every cell the commonest label of its k nearest labelled cells.

    Parameters
    ----------
    x
        (n, d) labelled cells.
    labels
        (n,) their labels.
    query
        (q, d) cells to label. By default the labelled cells themselves, none of which votes for itself; compared with
        `labels` that tells how well neighbours know a cell's type.
    k
        Number of votes; fewer if there are fewer cells. Of labels with equally many the first in the alphabet wins.

    Returns
    -------
    (q,) labels.

    Raises
    ------
    ValueError
        If the lengths differ or an entry is not finite.

    Examples
    --------
    >>> knn_labels([[0.0], [0.1], [5.0], [5.1]], ["B", "B", "T", "T"], query=[[4.0]], k=2).tolist()
    ['T']
    """
    names, code = _coded(labels, len(x), "labels")
    found = knn(x, min(k, len(x) - (query is None)), query=query).indices
    return names[_counts(code[found], len(names)).argmax(axis=1)]


def batch_mixing(x: Any, batch: Any, *, k: int = 15) -> float:
    """Share of neighbours from other batches, in units of that among cells drawn at random.

    With c_b of n cells in batch b, a random other cell is of another batch with probability
    sum_b c_b (n - c_b) / (n (n - 1)). 0: no cell has a neighbour from another batch; 1: neighbours are drawn without
    regard to batch. Where batches hold different types, even a perfect integration stays below 1.

    Parameters
    ----------
    x
        (n, d) cells.
    batch
        (n,) batch of each.
    k
        Number of neighbours; fewer if there are fewer cells.

    Returns
    -------
    A number from 0, about 1 at best; NaN if there is one batch.

    Raises
    ------
    ValueError
        If the lengths differ or an entry is not finite.

    Examples
    --------
    >>> batch_mixing([[0.0], [0.1], [5.0], [5.1]], ["a", "a", "b", "b"], k=1)
    0.0
    """
    names, code = _coded(batch, len(x), "batch")
    if len(names) < 2:
        return float("nan")
    n, size = len(code), np.bincount(code)
    expected = float((size * (n - size)).sum()) / (n * (n - 1))
    other = code[knn(x, min(k, n - 1)).indices] != code[:, None]
    return float(other.mean()) / expected


def _coded(values: Any, n: int, name: str) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    texts = np.asarray(values).astype(str)
    if texts.shape != (n,):
        raise ValueError(f"{name} has shape {texts.shape}, but x has {n} cells: give one value for each.")
    names, code = np.unique(texts, return_inverse=True)
    return names, code.astype(np.int64)


def _counts(codes: NDArray[np.int64], n_names: int) -> NDArray[np.int64]:
    """(n, n_names) how often each code stands in each row of (n, k)."""
    key = np.arange(len(codes))[:, None] * n_names + codes
    return np.bincount(key.ravel(), minlength=len(codes) * n_names).reshape(len(codes), n_names)
