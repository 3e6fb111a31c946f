"""Scores of transferred labels against true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from muport._keys import UNLABELED_CATEGORY
from muport.data.reading._categories import category_name, match_names
from muport.metrics._checked_values import category_codes


@dataclass(frozen=True)
class TransferScores:
    """Scores of transferred labels; a rejected cell counts as wrong.

    Attributes
    ----------
    accuracy
        Fraction of the cells with the true label.
    balanced_accuracy
        Mean of that fraction over the true types.
    rejected
        Fraction of the cells without a label; ``accuracy / (1 - rejected)`` is the accuracy of the other cells.
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
        (n,) true labels. Cells with a missing true label, or with `unlabeled_category`, are not scored.
    prediction
        (n,) predicted labels; `unlabeled_category` or missing for rejected cells. Two Series are matched by cell name.
    unlabeled_category
        Value of a cell of unknown type.

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
    true, predicted = _known_labels(truth, prediction, unlabeled_category)
    if not len(true):
        raise ValueError(f"truth: no cell has a label other than {unlabeled_category!r}, nothing can be scored.")
    correct = true == predicted
    _, code = np.unique(true, return_inverse=True)
    recall = np.bincount(code, weights=correct) / np.bincount(code)
    rejected = float((predicted == unlabeled_category).mean())
    return TransferScores(float(correct.mean()), float(recall.mean()), rejected, len(true))


def confusion_counts(truth: Any, prediction: Any, unlabeled_category: str = UNLABELED_CATEGORY) -> pd.DataFrame:
    """Count cells by true and predicted label.

    Parameters
    ----------
    truth
        (n,) true labels. Cells with a missing true label, or with `unlabeled_category`, are not counted.
    prediction
        (n,) predicted labels; two Series are matched by cell name.
    unlabeled_category
        Value of a cell of unknown type.

    Returns
    -------
    DataFrame of counts. Rows are the true types; columns are the same types, then other predicted types, then
    `unlabeled_category` if a cell was rejected.

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
    true, predicted = _known_labels(truth, prediction, unlabeled_category)
    types = np.unique(true)
    other_types = np.setdiff1d(predicted, [*types, unlabeled_category])
    rejected = [unlabeled_category] if (predicted == unlabeled_category).any() else []
    counts = pd.crosstab(true, predicted)
    return counts.reindex(index=types, columns=[*types, *other_types, *rejected], fill_value=0)


def _known_labels(truth: Any, prediction: Any, unlabeled_category: str) -> tuple[Any, Any]:
    """True and predicted labels of the cells with a true label, as text; missing ones are `unlabeled_category`."""
    true, predicted = matched_labels(truth, prediction, unlabeled_category)
    known = true != category_name(unlabeled_category)
    return true[known], predicted[known]


def matched_labels(
    truth: Any, prediction: Any, unlabeled_category: str, names: tuple[str, str] = ("truth", "prediction")
) -> tuple[Any, Any]:
    """True and predicted labels of all cells as text, equal where they are; missing ones are `unlabeled_category`.

    - `names`: How messages call the labels.
    """
    if isinstance(truth, pd.Series) and isinstance(prediction, pd.Series):
        missing = truth.index.difference(prediction.index)
        if len(missing):
            raise KeyError(f"{names[1]} lacks {len(missing)} cells of {names[0]}, for example {missing[0]!r}.")
        prediction = prediction.loc[truth.index]
    columns = [category_codes(values, name) for values, name in zip((truth, prediction), names, strict=True)]
    shapes = [codes.shape for _, codes in columns]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{names[0]} has shape {shapes[0]} and {names[1]} {shapes[1]}: give one label for each cell.")
    # a type may be written 1 in one column and 1.0 in the other
    unlabeled = category_name(unlabeled_category)
    matched = match_names([own.tolist() for own, _ in columns], known=(unlabeled,))
    true, predicted = (
        np.array([*own, unlabeled])[codes] for own, (_, codes) in zip(matched, columns, strict=True)
    )  # fmt: skip
    return true, predicted
