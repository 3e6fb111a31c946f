"""Agreement of fate probabilities with the observed fates of clones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

from muport._arrays import normalize_rows, sum_repeats
from muport.data.reading._categories import category_name
from muport.metrics._cell_names import match_rows
from muport.metrics._checked_values import category_codes, finite_numbers, real_numbers

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
    r"""AUROC of the fate probabilities of early cells against the late cells of their clones.

    With C (n, c) the membership of cells in clones, the observed fates of a cell i of day `early` are the proportions

    .. math:: s_{if} = \frac{\sum_{j \,\text{late},\, y_j = f} (C C^T)_{ij}}
              {\sum_{g} \sum_{j \,\text{late},\, y_j = g} (C C^T)_{ij}} ,

    with f and g in the fates of `names`; cells whose clones have no such late cell are not scored. For each fate, cells
    with s above `threshold` are positive and the others negative. The AUROC is the probability that a positive cell has
    a higher fate probability than a negative one, where ties count half. Probabilities are first divided by their sum
    over the fates of `names`. Series and DataFrames are matched by the names of their rows, arrays by position.

    Parameters
    ----------
    fates
        (n, f) fate probabilities, not negative; the columns of a DataFrame are the names of the fates.
    clones
        (n, c) membership of cells in clones, sparse or dense; every value but 0 is a member.
    labels
        (n,) type of each cell; the fates are types.
    day
        (n,) day of sampling of each cell.
    names
        Names of the fates, in the order of the columns; by default those of a DataFrame.
    early
        Day of the scored cells; the first by default.
    late
        Day on which the fates of clones are observed; the last by default.
    threshold
        Proportion of the late cells of a clone above which a fate is positive.

    Returns
    -------
    DataFrame with the fate in the index: ``auroc`` (NaN if all cells are positive or all are negative),
    ``n_positive``, ``n_negative`` and ``n_clones``, the number of clones with a scored cell.

    Raises
    ------
    ValueError
        If shapes or the names of the cells differ, a probability is negative or not finite, a day has no cell, or no
        clone has cells on both days.

    Examples
    --------
    >>> fates = pd.DataFrame({"B": [0.9, 0.2, 0.0, 0.0], "T": [0.1, 0.8, 0.0, 0.0]})
    >>> clones = [[1, 0], [0, 1], [1, 0], [0, 1]]
    >>> clonal_agreement(fates, clones, ["stem", "stem", "B", "T"], [2, 2, 6, 6])["auroc"].tolist()
    [1.0, 1.0]
    """
    columns = [
        category_name(name) for name in (fates.columns if names is None and hasattr(fates, "columns") else names or ())
    ]
    fates, clones, labels, day = match_rows(fates=fates, clones=clones, labels=labels, day=day)
    probability, member, types, time = _check_inputs(fates, clones, labels, day, columns)
    start = time.min() if early is None else early
    end = time.max() if late is None else late
    first, last = np.flatnonzero(time == start), np.flatnonzero(time == end)
    if not start < end or not len(first) or not len(last):
        raise ValueError(f"early={start:g} and late={end:g} must be two days with cells, the early one first.")
    proportions = _clone_proportions(member[first], member[last], types[last], columns)
    scored = proportions.sum(axis=1) > 0
    if not scored.any():
        raise ValueError(f"No clone has a cell on day {start:g} and one of {columns} on day {end:g}.")
    cells = first[scored]
    p = normalize_rows(probability[cells])
    positive = proportions[scored] > threshold
    late_clones = np.asarray(member[last[[name in columns for name in types[last]]]].sum(axis=0)).ravel() > 0
    n_clones = int(((np.asarray(member[cells].sum(axis=0)).ravel() > 0) & late_clones).sum())
    table = {
        "auroc": [
            float(roc_auc_score(is_fate, score)) if 0 < is_fate.sum() < len(is_fate) else float("nan")
            for is_fate, score in zip(positive.T, p.T, strict=True)
        ],
        "n_positive": positive.sum(axis=0),
        "n_negative": (~positive).sum(axis=0),
        "n_clones": n_clones,
    }
    return pd.DataFrame(table, index=pd.Index(columns, name="fate"))


def _check_inputs(
    fates: Any, clones: Any, labels: Any, day: Any, columns: list[str]
) -> tuple[NDArray[np.float64], sparse.csr_array, NDArray[np.object_], NDArray[np.float64]]:
    probability = real_numbers(fates, "fates")
    if probability.ndim != 2 or probability.shape[1] != len(columns):
        raise ValueError(
            f"fates has shape {probability.shape}, but {len(columns)} names: give names, one for each column."
        )
    if not (np.isfinite(probability) & (probability >= 0)).all():
        raise ValueError("fates must be finite and not negative: give probabilities.")
    member = sparse.csr_array(sum_repeats(sparse.csr_array(clones)) != 0, dtype=np.float64)
    names, codes = category_codes(labels, "labels")
    # a missing type is no fate
    types = np.array([*names, None], dtype=object)[codes]
    time = finite_numbers(day, "day")
    for name, shape in (("clones", member.shape[:1]), ("labels", types.shape), ("day", time.shape)):
        if shape != (len(probability),):
            raise ValueError(f"{name} has {shape} rows, but fates has {len(probability)} cells: give one for each.")
    return probability, member, types, time


def _clone_proportions(
    first: sparse.csr_array, last: sparse.csr_array, types: NDArray[np.object_], columns: list[str]
) -> NDArray[np.float64]:
    """Proportions (n_early, f) of the fates among the late cells of the clones of each early cell; 0 without any."""
    is_fate = (types[:, None] == np.array(columns, dtype=object)).astype(np.float64)
    count = np.asarray(first @ (last.T @ is_fate))
    return count / np.maximum(count.sum(axis=1, keepdims=True), 1)
