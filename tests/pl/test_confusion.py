"""What the picture of a confusion matrix says."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from muport.pl import confusion

TRUTH = ["B", "B", "B", "B", "T", "T", "unknown"]
FOUND = ["B", "B", "B", "unknown", "T", "B", "B"]


def test_rows_are_shares_of_the_true_type():
    ax = confusion(TRUTH, FOUND)
    assert np.asarray(ax.images[0].get_array()).tolist() == [[0.75, 0, 0.25], [0.5, 0.5, 0]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["B (n=4)", "T (n=2)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["B", "T", "unknown"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted type", "true type")
    assert [t.get_text() for t in ax.texts] == [".75", ".25", ".50", ".50"]


def test_given_axes_are_used():
    _, axes = plt.subplots()
    assert confusion(TRUTH, FOUND, axes, title="labels") is axes
    assert axes.get_title() == "labels"


def test_many_types_are_drawn_without_text():
    names = [f"t{i:02}" for i in range(20)]
    assert list(confusion(names, names).texts) == []


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no cell has a label other than 'unknown'"):
        confusion(["unknown"], ["B"])
