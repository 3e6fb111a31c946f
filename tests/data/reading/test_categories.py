"""The rule for the values of a column, and that every reader follows it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from muport.data.reading._categories import Categories, distinct_values


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["b", None, "a", np.nan, "b"], dtype=object),
        pd.Series(pd.Categorical(["b", None, "a", None, "b"], categories=["b", "a"])),
        pd.Series(pd.array(["b", None, "a", pd.NA, "b"], dtype="string")),
        np.array(["b", None, "a", np.nan, "b"], dtype=object),
    ],
)
def test_missing_values_have_no_category(values):
    codes, distinct = distinct_values(values)
    categories = Categories.of(distinct)
    assert categories.names == ("a", "b")
    assert categories.lookup[codes].tolist() == [1, -1, 0, -1, 1]


def test_a_category_is_named_by_its_text():
    assert Categories.of([2, 1.5, b"T", True, "NA"]).names == ("1.5", "2", "NA", "T", "True")
    numbers = np.array([0.1, 2], np.float32)
    assert Categories.of(numbers).names == Categories.of(pd.Index(numbers)).names == ("0.10000000149011612", "2.0")
    assert Categories.of([1, "1", "0"]).lookup.tolist() == [1, 1, 0, -1]
    assert Categories.of([]).names == ()


def test_only_the_unlabeled_category_is_counted_as_missing():
    categories = Categories.of(["T", "unknown", "NA", "nan", ""])
    assert categories.without("unknown").names == ("", "NA", "T", "nan")
    assert categories.without("unknown").lookup.tolist() == [2, -1, 1, 3, 0, -1]
    assert categories.without("B").names == categories.names
