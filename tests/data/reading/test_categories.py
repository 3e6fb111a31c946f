"""The rule for the values of a column, and that every reader follows it."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from muport.data.reading._categories import Categories, category_name, distinct_values, match_names, sort_names


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


def test_the_name_is_the_text_of_the_value():
    for value, name in (
        ("a", "a"), (1, "1"), (1.0, "1"), (-0.0, "0"), (0.1, "0.1"), (np.float32(0.1), "0.1"), (np.float16(2), "2"),
        (np.int8(3), "3"), (True, "True"), (np.bool_(False), "False"), (b"\xc3\xa9", "\u00e9"), (np.bytes_(b"x"), "x"),
        (2.0**64, "18446744073709551616"), (-(2.0**64), "-18446744073709551616"), (2.0**65, "3.6893488147419103e+19"),
        (1e300, "1e+300"), (float("inf"), "inf"), (None, "None"), (pd.Timestamp("2020-01-02"), "2020-01-02 00:00:00"),
    ):  # fmt: skip
        assert category_name(value) == name
    with pytest.raises(ValueError, match=r"the category b'\\xff' is no text in UTF-8"):
        category_name(b"\xff")


def test_names_are_sorted_once():
    names, lookup = sort_names(name for name in ("b", "a", "b", "c"))
    assert (names, lookup.tolist(), lookup.dtype) == (("a", "b", "c"), [1, 0, 1, 2, -1], np.int64)


def test_names_of_the_model_come_first():
    assert match_names([("True", "2.0"), ("1",)], known=("1.0",)) == [("1.0", "2.0"), ("1.0",)]
    assert match_names([("-1.0", "-0.0", "1.5", "10.0")], known=("-1", "0", "1", "10")) == [("-1", "-0.0", "1.5", "10")]
    assert match_names([("1",), ("1.0",)], known=("1", "True")) == [("1",), ("1.0",)], "the model tells them apart"
    assert match_names([("1", "2"), ("1.0", "True", "2.0")]) == [("1", "2"), ("1.0", "True", "2")]
    assert match_names([]) == []


def test_a_missing_category_keeps_its_code():
    categories = Categories(("a", "b", "c"), np.array([2, 0, 1, -1]))
    kept = categories.without("b")
    assert (kept.names, kept.lookup.tolist()) == (("a", "c"), [1, 0, -1, -1])


def test_objects_of_several_types_are_told_apart():
    stamp = pd.Timestamp("2020-01-01")
    for values in (
        pd.Series([2, "a", None, 2, stamp, "a"], dtype=object),
        np.array([2, "a", None, 2, stamp, "a"], object),
    ):
        codes, distinct = distinct_values(values)
        assert codes.tolist() == [0, 1, -1, 0, 2, 1]
        assert codes.dtype == np.int64
        assert distinct == [2, "a", stamp]
    assert Categories.of([1, np.int8(2), 2.5, np.float32(3)]).names == ("1", "2", "2.5", "3"), "all are numbers"
    assert Categories.of(["a", b"b"]).names == ("a", "b"), "all are text"
    with pytest.raises(ValueError, match=r"the column holds 1 \(int\) and '1' \(str\)"):
        Categories.of([np.int64(1), "1"])


def test_used_categories_keep_their_order():
    column = pd.Series(pd.Categorical(["c", "a", None, "c"], categories=["d", "c", "b", "a", "e"]))
    codes, distinct = distinct_values(column)
    assert (codes.tolist(), list(distinct)) == ([0, 1, -1, 0], ["c", "a"])
    codes, distinct = distinct_values(pd.Series(pd.Categorical([None, None], categories=["a"])))
    assert (codes.tolist(), list(distinct)) == ([-1, -1], [])
