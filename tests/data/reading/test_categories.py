"""The rule for the values of a column, and that every reader follows it."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from muport.data.reading._categories import Categories, distinct_values, match_names


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
    assert Categories.of(["a ", "a", "A", "é", "e\u0301", "", "a\0"]).names == (
        "",
        "A",
        "a",
        "a\0",
        "a ",
        "e\u0301",
        "é",
    )
    assert Categories.of([]).names == ()


@pytest.mark.parametrize("dtype", ["float32", "float64", "Float32", "Float64", "object"])
def test_a_number_is_named_alike_whatever_its_type(dtype):
    for numbers in (pd.Series([0.1, 2, -0.0, 1e17], dtype=dtype), pd.Index([0.1, 2, -0.0, 1e17], dtype=dtype)):
        codes, distinct = distinct_values(pd.Series(numbers))
        categories = Categories.of(distinct)
        assert categories.names == ("0", "0.1", "100000000000000000", "2")
        assert categories.lookup[codes].tolist() == [1, 3, 0, 2]


TWO_TYPES = {
    "1 (int) and '1' (str)": [1, "1"],
    "'1' (str) and 1.0 (float)": ["1", 1.0],
    "1 (int) and True (bool)": [1, True],
    "True (bool) and 1 (int)": [True, 1, "a"],
    "True (bool) and 'True' (str)": [True, "True", None],
    "1 (int) and '1.0' (str)": [1, "1.0"],
}


@pytest.mark.parametrize("words", TWO_TYPES)
def test_two_values_of_one_name_are_refused(words):
    for values in (pd.Series(TWO_TYPES[words], dtype=object), np.array(TWO_TYPES[words], dtype=object)):
        with pytest.raises(ValueError, match=re.escape(f"column 'x' holds {words}, which would be one category")):
            Categories.of(distinct_values(values, "column 'x'")[1], "column 'x'")


def test_unused_categories_are_not_there():
    column = pd.Series(pd.Categorical.from_codes([2, -1, 0], pd.Index(["b", "never", 1, "1"], dtype=object)))
    codes, distinct = distinct_values(column)
    assert (codes.tolist(), list(distinct)) == ([1, -1, 0], ["b", 1])


def test_lists_are_no_categories():
    with pytest.raises(TypeError, match=r"column 'x' holds values that are no categories.*list"):
        distinct_values(pd.Series([[1], [2]]), "column 'x'")


def test_columns_and_models_write_a_number_alike():
    assert match_names([("0.0", "1.0"), ("0", "1")]) == match_names([("0", "1"), ("False", "True")]) == [("0", "1")] * 2
    assert match_names([("0", "1.0", "b")], known=("False", "True")) == [("False", "True", "b")]
    assert match_names([("1", "1.0"), ("1", "2")]) == [("1", "1.0"), ("1", "2")]
    assert match_names([("01", "1.00", "v1.0", " 1")], known=("1", "v1")) == [("01", "1.00", "v1.0", " 1")]


def test_only_the_unlabeled_category_is_counted_as_missing():
    categories = Categories.of(["T", "unknown", "NA", "nan", ""])
    assert categories.without("unknown").names == ("", "NA", "T", "nan")
    assert categories.without("unknown").lookup.tolist() == [2, -1, 1, 3, 0, -1]
    assert categories.without("B").names == categories.names
    for labels, unlabeled in (([-1.0, 2.0], "-1"), ([-1, 2], "-1.0"), (["-1", "2"], -1.0)):
        assert Categories.of(labels).without(unlabeled).names == ("2",)
