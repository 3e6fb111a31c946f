"""Transferred labels against the true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from muport._keys import UNLABELED_CATEGORY


@dataclass(frozen=True)
class TransferScores:
    """Scores of transferred labels; a rejected cell counts as wrong.

    Attributes
    ----------
    accuracy
        Share of the cells that got their true label.
    balanced_accuracy
        Mean over the true types of that share.
    rejected
        Share of the cells that got no label; ``accuracy / (1 - rejected)`` is the accuracy of the others.
    n_cells
        Number of cells scored.
    """

    accuracy: float
    balanced_accuracy: float
    rejected: float
    n_cells: int


def label_transfer(truth: Any, prediction: Any, unlabeled_category: str = UNLABELED_CATEGORY) -> TransferScores:
    """Compare predicted labels with the true ones.

    Parameters
    ----------
    truth
        (n,) true labels. Cells whose true label is missing or `unlabeled_category` are not scored.
    prediction
        (n,) predicted labels; `unlabeled_category`, or missing, where the cell was rejected. If both are Series they
        are matched by cell name.
    unlabeled_category
        Value that means "not known".

    Returns
    -------
    The scores.

    Raises
    ------
    ValueError
        If the lengths differ or no cell has a true label.
    KeyError
        If both are Series and a cell of `truth` has no prediction.

    Examples
    --------
    >>> scores = label_transfer(["B", "B", "B", "T"], ["B", "B", "unknown", "T"])
    >>> scores.accuracy, round(scores.balanced_accuracy, 3), scores.rejected
    (0.75, 0.833, 0.25)
    """
    true, found = _matched(truth, prediction, unlabeled_category)
    known = true != unlabeled_category
    if not known.any():
        raise ValueError(f"truth: no cell has a label other than {unlabeled_category!r}, nothing can be scored.")
    true, found = true[known], found[known]
    right = true == found
    _, code = np.unique(true, return_inverse=True)
    recall = np.bincount(code, weights=right) / np.bincount(code)
    rejected = float((found == unlabeled_category).mean())
    return TransferScores(float(right.mean()), float(recall.mean()), rejected, len(true))


def confusion_counts(truth: Any, prediction: Any, unlabeled_category: str = UNLABELED_CATEGORY) -> pd.DataFrame:
    """Count cells by true and predicted label.

    Parameters
    ----------
    truth
        (n,) true labels; cells whose true label is missing or `unlabeled_category` are left out.
    prediction
        (n,) predicted labels; two Series are matched by cell name.
    unlabeled_category
        Value that means "not known".

    Returns
    -------
    DataFrame of counts: true types in the rows; the same types, then further predicted ones, then
    `unlabeled_category` if a cell was rejected, in the columns.

    Raises
    ------
    ValueError
        If the lengths differ.
    KeyError
        If both are Series and a cell of `truth` has no prediction.

    Examples
    --------
    >>> confusion_counts(["B", "B", "T"], ["B", "T", "T"]).to_numpy().tolist()
    [[1, 1], [0, 1]]
    """
    true, found = _matched(truth, prediction, unlabeled_category)
    known = true != unlabeled_category
    true, found = true[known], found[known]
    types = np.unique(true)
    further = np.setdiff1d(found, [*types, unlabeled_category])
    rejected = [unlabeled_category] if (found == unlabeled_category).any() else []
    counts = pd.crosstab(true, found)
    return counts.reindex(index=types, columns=[*types, *further, *rejected], fill_value=0)


def _matched(truth: Any, prediction: Any, unlabeled_category: str) -> tuple[Any, Any]:
    """True and predicted labels as text, cell by cell; missing values become `unlabeled_category`."""
    if isinstance(truth, pd.Series) and isinstance(prediction, pd.Series):
        absent = truth.index.difference(prediction.index)
        if len(absent):
            raise KeyError(f"prediction lacks {len(absent)} cells of truth, for example {absent[0]!r}.")
        prediction = prediction.loc[truth.index]
    true, found = (_texts(values, unlabeled_category) for values in (truth, prediction))
    if true.ndim != 1 or true.shape != found.shape:
        raise ValueError(f"truth has shape {true.shape} and prediction {found.shape}: give one label for each cell.")
    return true, found


def _texts(values: Any, unlabeled_category: str) -> Any:
    objects = np.array(values, dtype=object)
    objects[pd.isna(objects)] = unlabeled_category
    return objects.astype(str)
