"""Fate probabilities against the real fates of clones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def clonal_agreement(
    fates: Any,
    clones: Any,
    labels: Any,
    day: Any,
    *,
    names: Sequence[str] | None = None,
    early: float | None = None,
    late: float | None = None,
    threshold: float = 0.5,
) -> pd.DataFrame:
    r"""AUROC of early cells' fate probabilities against what their clones became.

    With C (n, c) the membership of cells in clones, the real fates of a cell i of day `early` are the shares

    .. math:: s_{if} = \frac{\sum_{j \,\text{late},\, y_j = f} (C C^T)_{ij}}
              {\sum_{g} \sum_{j \,\text{late},\, y_j = g} (C C^T)_{ij}} ,

    f and g over the fates of `names`; cells whose clones have no such late cell are not scored. For each fate, cells
    with s above `threshold` are positive, the others negative, and the AUROC is the probability that a positive cell
    has a higher fate probability than a negative one, ties counting half. Probabilities are first divided by their sum
    over the fates of `names`.

    Parameters
    ----------
    fates
        (n, f) fate probabilities, not negative; a DataFrame names its fates.
    clones
        (n, c) which clone a cell is of, sparse or dense, 0 or not.
    labels
        (n,) type of each cell; the fates are types.
    day
        (n,) real time of each cell.
    names
        The fates, in the order of the columns; those of a DataFrame by default.
    early
        Day of the cells that are scored; the first by default.
    late
        Day on which clones show their fate; the last by default.
    threshold
        Share of the clone's late cells above which a fate is the clone's.

    Returns
    -------
    DataFrame with the fate in the index: ``auroc`` (NaN where all cells are positive or none is), ``n_positive``,
    ``n_negative`` and ``n_clones``, the number of clones with a scored cell.

    Raises
    ------
    ValueError
        If shapes differ, a probability is negative or not finite, a day has no cell, or no clone joins both days.

    Examples
    --------
    >>> fates = pd.DataFrame({"B": [0.9, 0.2, 0.0, 0.0], "T": [0.1, 0.8, 0.0, 0.0]})
    >>> clones = [[1, 0], [0, 1], [1, 0], [0, 1]]
    >>> clonal_agreement(fates, clones, ["stem", "stem", "B", "T"], [2, 2, 6, 6])["auroc"].tolist()
    [1.0, 1.0]
    """
    columns = [str(name) for name in (fates.columns if names is None and hasattr(fates, "columns") else names or ())]
    chance, member, types, when = _read(fates, clones, labels, day, columns)
    start = when.min() if early is None else early
    end = when.max() if late is None else late
    first, last = np.flatnonzero(when == start), np.flatnonzero(when == end)
    if not start < end or not len(first) or not len(last):
        raise ValueError(f"early={start:g} and late={end:g} must be two days with cells, the early one first.")
    share = _shares(member[first], member[last], types[last], columns)
    scored = share.sum(axis=1) > 0
    if not scored.any():
        raise ValueError(f"No clone has a cell on day {start:g} and one of {columns} on day {end:g}.")
    cells = first[scored]
    p = chance[cells] / np.maximum(chance[cells].sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    positive = share[scored] > threshold
    late_clones = np.asarray(member[last[np.isin(types[last], columns)]].sum(axis=0)).ravel() > 0
    n_clones = int(((np.asarray(member[cells].sum(axis=0)).ravel() > 0) & late_clones).sum())
    table = {
        "auroc": [_auroc(p[:, f], positive[:, f]) for f in range(len(columns))],
        "n_positive": positive.sum(axis=0),
        "n_negative": (~positive).sum(axis=0),
        "n_clones": n_clones,
    }
    return pd.DataFrame(table, index=pd.Index(columns, name="fate"))


def _read(
    fates: Any, clones: Any, labels: Any, day: Any, columns: list[str]
) -> tuple[NDArray[np.float64], sparse.csr_array, NDArray[np.str_], NDArray[np.float64]]:
    chance = np.asarray(fates, dtype=np.float64)
    if chance.ndim != 2 or chance.shape[1] != len(columns):
        raise ValueError(f"fates has shape {chance.shape}, but {len(columns)} names: give names, one for each column.")
    if not (np.isfinite(chance) & (chance >= 0)).all():
        raise ValueError("fates must be finite and not negative: give probabilities.")
    member = sparse.csr_array(sparse.csr_array(clones) != 0, dtype=np.float64)
    types, when = np.asarray(labels).astype(str), np.asarray(day, dtype=np.float64)
    for name, shape in (("clones", member.shape[:1]), ("labels", types.shape), ("day", when.shape)):
        if shape != (len(chance),):
            raise ValueError(f"{name} has {shape} rows, but fates has {len(chance)} cells: give one for each.")
    return chance, member, types, when


def _shares(
    first: sparse.csr_array, last: sparse.csr_array, types: NDArray[np.str_], columns: list[str]
) -> NDArray[np.float64]:
    """(early, f) shares of the fates among the late cells of each early cell's clones; rows without any are 0."""
    is_fate = (types[:, None] == np.array(columns)).astype(np.float64)
    count = np.asarray(first @ (last.T @ is_fate))
    return count / np.maximum(count.sum(axis=1, keepdims=True), 1)


def _auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The Mann-Whitney statistic over the number of pairs."""
    n = int(positive.sum())
    m = len(positive) - n
    if not n or not m:
        return float("nan")
    rank: NDArray[np.float64] = rankdata(score)
    return (float(rank[positive].sum()) - n * (n + 1) / 2) / (n * m)
