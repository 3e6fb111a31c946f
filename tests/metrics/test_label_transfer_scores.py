"""Transferred labels against scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from muport.metrics import confusion_counts, label_transfer

LABELS = st.lists(st.tuples(st.sampled_from("BNT"), st.sampled_from(["B", "N", "T", "unknown"])), min_size=1)


@settings(deadline=None)
@given(LABELS)
@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label")
def test_scores_are_scikit_learns(pairs):
    truth, found = map(list, zip(*pairs, strict=True))
    scores = label_transfer(truth, found)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, found))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    assert scores.rejected == pytest.approx(found.count("unknown") / len(found))
    assert scores.n_cells == len(truth)


@settings(deadline=None)
@given(LABELS)
@pytest.mark.filterwarnings("ignore:A single label")
def test_counts_are_scikit_learns(pairs):
    truth, found = map(list, zip(*pairs, strict=True))
    counts = confusion_counts(truth, found)
    columns = list(counts.columns)
    expected = confusion_matrix(truth, found, labels=sorted({*truth, *found}))
    expected = pd.DataFrame(expected, sorted({*truth, *found}), sorted({*truth, *found}))
    assert (counts == expected.loc[counts.index, columns]).all(axis=None)
    assert counts.to_numpy().sum() == len(truth)
    assert list(counts.index) == sorted(set(truth)) == columns[: len(counts)]
    assert "unknown" not in columns[:-1]


def test_cells_without_a_true_label_are_not_scored():
    truth = pd.Categorical(["B", None, "unknown", "T"])
    found = ["B", "B", "T", None]
    scores = label_transfer(truth, found)
    assert (scores.n_cells, scores.accuracy, scores.rejected) == (2, 0.5, 0.5)
    assert confusion_counts(truth, found).to_numpy().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_series_are_matched_by_name():
    truth = pd.Series(["B", "T"], index=["c1", "c2"])
    found = pd.Series(["T", "x", "B"], index=["c2", "c3", "c1"])
    assert label_transfer(truth, found).accuracy == 1
    with pytest.raises(KeyError, match="lacks 1 cells of truth, for example 'c2'"):
        label_transfer(truth, found.drop("c2"))


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(2,\) and prediction \(3,\)"):
        label_transfer(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no cell has a label other than 'unknown'"):
        label_transfer(["unknown", np.nan], ["a", "b"])
