"""One representation: which values pass, in which order its columns are read, and what is copied."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from muport.data.reading import _representation
from muport.data.reading._representation import Representation, count_columns, measure_extent

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def of(values, columns=None, new_cells=False) -> Representation:
    return Representation(values, "obsm['X']", pd.Index([f"c{i}" for i in range(20)]), columns, new_cells)


def table(x=X, columns="abc", index=None) -> pd.DataFrame:
    return pd.DataFrame(x, columns=list(columns), index=index if index is not None else of(X).obs_names)


@pytest.mark.parametrize("values", [np.ones(3), np.ones((3, 0)), np.ones((3, 1, 1)), "text", None])
def test_what_has_no_columns_is_refused(values):
    with pytest.raises(ValueError, match=r"obsm has shape \(.*\), expected \(n_cells, d\) with d >= 1"):
        count_columns(values, "obsm")
    assert count_columns(np.ones((0, 1)), "obsm") == 1


def test_rows_are_those_of_the_cells():
    of(X).check_rows()
    of(table()).check_rows()
    with pytest.raises(ValueError, match=r"obsm\['X'\] has 19 rows for 20 cells"):
        of(X[:19]).check_rows()
    with pytest.raises(ValueError, match="the same in another order"):
        of(table()[::-1]).check_rows()
    other = table(index=["c0", "d1", *of(X).obs_names[2:]])
    with pytest.raises(ValueError, match="other names than the cells, for example 'd1'"):
        of(other).check_rows()


def test_float32_rows_need_no_copy():
    view = of(X).view()
    assert np.shares_memory(view, X)
    assert np.array_equal(view, X)
    assert not view.flags.writeable
    assert X.flags.writeable
    bad = X.copy()
    bad[3, 1] = np.nan
    for values in (X.astype(np.float64), np.asfortranarray(X), X[:, ::-1], table(), X.view(np.recarray), bad):
        assert of(values).view() is None
    with pytest.raises(ValueError, match="float32"):
        of(1e20 * X).view()


def test_masked_entries_are_refused():
    x = np.ma.masked_array(X, np.zeros(X.shape, bool))
    assert np.array_equal(of(x).read(), X)
    x[4, 1] = np.ma.masked
    with pytest.raises(ValueError, match="has 1 masked entries, first in cell 'c4'"):
        of(x).read()


@pytest.mark.parametrize("block", [1, 7, 20, 100])
def test_blocks_are_read_whole(monkeypatch, block):
    monkeypatch.setattr(_representation, "_BLOCK", block)
    out = np.full((20, 3), 9, np.float32)
    assert of(X.astype(np.float64)).read(out) is out
    assert np.array_equal(out, X)
    assert np.array_equal(of(X).read(), X)
    for rows, bad, first in (([19], 1, "c19"), ([3, 11], 2, "c3"), ([8, 9, 10], 3, "c8")):
        x = X.copy()
        x[rows, 2] = np.inf
        with pytest.raises(ValueError, match=f"holds {bad} NaN or Inf values, first in cell '{first}'"):
            of(x).read()
    for row in (0, 8, 19):
        x = X.copy()
        x[row] = -2e12
        with pytest.raises(ValueError, match=rf"values up to 2e\+12, first in cell 'c{row}', whose squares"):
            of(x).read()


def test_values_that_are_no_numbers_are_refused():
    for values in (X.astype(complex), X.astype(str), X.astype("datetime64[D]")):
        with pytest.raises(TypeError, match=r"obsm\['X'\] has dtype .*, expected real numbers"):
            of(values).read()
    for column in (["x"] * 20, np.ones(20, complex), pd.to_datetime(["2020-01-01"] * 20)):
        with pytest.raises(TypeError, match=r"column 'b' of obsm\['X'\] has dtype"):
            of(table().assign(b=column)).read()
    for values in (X > 0, (10 * X).astype(np.int8), (10 * abs(X)).astype(np.uint16)):
        assert np.array_equal(of(values).read(), values)


def test_columns_are_read_in_the_order_of_the_model():
    turned = table()[["c", "a", "b"]]
    assert np.array_equal(of(turned).read(), X[:, [2, 0, 1]])
    assert np.array_equal(of(turned, ["a", "b", "c"]).read(), X)
    assert np.array_equal(of(turned, ["c", "b", "a"]).read(), X[:, ::-1])
    assert np.array_equal(of(X, ["c", "b", "a"]).read(), X), "an array has no names"
    numbers = turned.set_axis([2, 0, 1], axis=1)
    assert np.array_equal(of(numbers, ["0", "1", "2"]).read(), X)
    assert np.array_equal(of(turned.set_axis(["2", "0", "1"], axis=1), [0, 1, 2]).read(), X)
    for other, names, example in (
        (table(), list("abd"), r"\['d'\]"),
        (table(), list("ab"), r"\['c'\]"),
        (table(columns="aba"), list("ab"), r"\['a'\]"),
        (table(columns="abb"), list("abc"), r"\['c'\]"),
    ):
        with pytest.raises(ValueError, match=rf"are not those of the model, for example {example}: name them"):
            of(other, names).read()


def test_a_table_keeps_its_digits():
    exact = np.float64(X) + 2.0**-40
    mixed = table(exact).astype({"a": np.float32})
    assert np.array_equal(of(mixed)._align_columns(), np.c_[np.float32(exact[:, 0]), exact[:, 1:]])
    assert of(table())._align_columns().dtype == np.float32
    nullable = table().astype("Float64")
    assert np.array_equal(of(nullable).read(), X)
    nullable.iloc[4, 1] = pd.NA
    with pytest.raises(ValueError, match="1 NaN or Inf values, first in cell 'c4'"):
        of(nullable).read()


def scaled(low: float, high: float) -> np.ndarray:
    """20 cells, half of them at each value."""
    return np.where(np.arange(20)[:, None] % 2, low, high) * np.ones((1, 3))


PASS = {
    "largest": scaled(-1e12, 1e12),
    "constant": scaled(7, 7),
    "zero": scaled(0, 0),
    "rounding of a constant": scaled(1e6, 1e6 + 1e-7),
    "small": scaled(0, 1e-12)[:, :1],
    "a thousand digits": scaled(1 - 1e-4, 1),
}
REFUSED = {
    "too large": (scaled(0, 1.001e12), "first in cell 'c0', whose squares"),
    "too large below zero": (scaled(0, -1.001e12), "first in cell 'c0', whose squares"),
    "too small": (scaled(0, 1e-13), "varies by 1.73e-13 only"),
    "too few digits": (scaled(1 - 1e-5, 1), r"varies by 1.73e-05 around values up to 1, which float32 cannot"),
    "an offset below zero": (scaled(-1 - 1e-9, -1), "around values up to 1, which float32 cannot"),
}


@pytest.mark.parametrize("name", PASS)
def test_numbers_that_float32_holds_pass(name):
    assert np.array_equal(of(PASS[name]).read(), np.float32(PASS[name]))


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("name", REFUSED)
def test_numbers_that_float32_would_lose_are_refused(name):
    values, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        of(values).read()
    if "large" in name:
        with pytest.raises(ValueError, match=message):
            of(values, new_cells=True).read()
    else:
        assert np.array_equal(of(values, new_cells=True).read(), np.float32(values)), "a model maps each cell by itself"


def test_the_extent_is_that_of_each_column():
    low, high = measure_extent(np.array([[1, -5], [3, 2]], np.float32))
    assert (low.tolist(), high.tolist()) == ([1, -5], [3, 2])
    assert low.dtype == high.dtype == np.float64
    low, high = measure_extent(np.empty((0, 2)))
    assert (low.tolist(), high.tolist()) == ([np.inf, np.inf], [-np.inf, -np.inf])
    assert len(Representation(np.empty((0, 2)), "", pd.Index([])).read()) == 0
