"""Where a column stands, and how the columns of an object and of its modalities become one."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Column, holds_numbers, joined_column, joined_numbers
from muport.data.reading._columns import ObsValues, find_column, join_columns, join_values, read_obs


def values(data, key):
    column = joined_column(data, key)
    return {
        cell: column.names[code] if code >= 0 else None for cell, code in zip(data.obs_names, column.codes, strict=True)
    }


@pytest.fixture
def paired():
    """Ten cells in both modalities, with equal batches."""
    mods = {}
    for name in ("rna", "adt"):
        mods[name] = AnnData(np.zeros((10, 1), np.float32), obs={"batch": [f"b{i % 2}" for i in range(10)]})
        mods[name].obs_names, mods[name].var_names = [f"c{i}" for i in range(10)], [name]
    return MuData(mods)


def test_a_gap_of_the_object_does_not_hide_that_modalities_disagree(paired):
    paired["adt"].obs.loc["c7", "batch"] = "b0"
    paired.obs["batch"] = "top"
    assert set(values(paired, "batch").values()) == {"top"}
    paired.obs.loc["c3", "batch"] = None
    assert values(paired, "batch")["c3"] == "b1"
    paired.obs.loc["c7", "batch"] = None
    words = "column 'batch': the modalities disagree on 1 cells, for example 'c7' is 'b0' in 'adt' and 'b1' elsewhere"
    with pytest.raises(ValueError, match=re.escape(words)):
        joined_column(paired, "batch")
    for part in (paired, *paired.mod.values()):
        part.obs["day"] = np.where(part.obs["batch"] == "b0", 0.0, np.nan if part is paired else 1.0)
    with pytest.raises(ValueError, match=r"disagree on 1 cells, for example 'c7' is 0 in 'adt' and 1 elsewhere"):
        joined_numbers(paired, "day", "time_key")


@pytest.mark.parametrize("change", ["another value", "no value", "a new value"])
def test_a_copy_of_the_column_of_a_modality_must_agree_with_it(paired, change):
    paired.obs["rna:batch"] = paired["rna"].obs["batch"]
    before = values(paired, "rna:batch")
    assert before == values(paired, "batch")
    paired.obs.loc["c1", "rna:batch"] = None
    assert values(paired, "rna:batch") == before
    paired["rna"].obs.loc["c2", "batch"] = {"another value": "b1", "no value": None, "a new value": "b9"}[change]
    other = {"another value": "'b1'", "no value": "missing", "a new value": "'b9'"}[change]
    words = f"'rna' that differs in 1 cells, for example 'c2' is 'b0' in mdata.obs and {other} in 'rna': delete"
    with pytest.raises(ValueError, match=rf"column 'rna:batch': mdata.obs has a copy .*{re.escape(words)}"):
        joined_column(paired, "rna:batch")


def test_a_key_names_its_modality_whatever_the_name():
    modalities = {"rna": ["a", "b:a"], "rna:b": ["a"], "x y/z.w": ["a"]}
    assert find_column("rna:a", "", [], modalities) == [("rna", "a")]
    assert find_column("rna:a", "", ["rna:a"], modalities) == [("rna", "a"), (None, "rna:a")]
    assert find_column("x y/z.w:a", "", [], modalities) == [("x y/z.w", "a")]
    assert find_column("rna:b:a", "", [], {"rna": ["a"], "rna:b": ["a"]}) == [("rna:b", "a")]
    assert find_column("a", "", ["a"], modalities) == [(None, "a"), ("rna", "a"), ("rna:b", "a"), ("x y/z.w", "a")]
    assert find_column("d:a", "", ["d:a"], {"d": ["b"]}) == [(None, "d:a")]


def test_two_columns_of_one_name_are_refused(paired):
    obs = paired["rna"].obs.copy()
    obs.insert(0, "batch", "other", allow_duplicates=True)
    paired["rna"].obs = obs
    with pytest.raises(ValueError, match=r"column 'batch': the obs of 'rna' has 2 columns of that name"):
        joined_column(paired, "batch")


@pytest.mark.parametrize("other", ["float64", "bool", "Int64", "object", "str", "category"])
def test_modalities_may_write_one_batch_in_several_types(paired, other):
    number = pd.Series(np.arange(10) % 2, paired.obs_names)
    paired["rna"].obs["batch"], paired["adt"].obs["batch"] = number, number.astype(other)
    assert joined_column(paired, "batch").names == ("0", "1")
    assert joined_column(paired, "batch").codes.tolist() == number.tolist()


def test_a_missing_column_lists_those_there():
    with pytest.raises(KeyError, match=r"what is not in obs; the columns are \['1', 'b', 'rna:a', 'rna:b'\]"):
        find_column("c", "what", ["b", 1, "_scvi_x"], {"rna": ["b", "a", "_scvi_y"]})
    with pytest.raises(KeyError):
        find_column("rna:c", "what", [], {"rna": ["a"]})


def test_messages_name_the_argument(paired):
    with pytest.raises(KeyError, match="group_key='x' is not in obs"):
        joined_column(paired, "x", "group_key")
    for data in (paired, paired["rna"]):
        for key in (3, None, ["batch"]):
            with pytest.raises(TypeError, match="group_key=.* must be the name of a column"):
                joined_column(data, key, "group_key")


def test_columns_are_read_where_they_stand(paired):
    paired.mod["adt"] = paired["adt"][::-1].copy()
    paired.obs["batch"] = ["x", None] * 5
    first, second, third = read_obs(paired, "batch", "what")
    assert (first.modality, first.cell) == (None, None)
    assert (second.modality, third.modality) == ("rna", "adt")
    assert second.cell.tolist() == list(range(10))
    assert third.cell.tolist() == list(range(10))[::-1]
    assert third.cell.dtype == np.int64
    paired.obs["batch"] = "x"
    assert len(read_obs(paired, "batch", "what")) == 1, "without gaps the modalities are not read"
    obs = pd.DataFrame([["a", "b"]] * 10, paired.obs_names, ["kind", "kind"])
    with pytest.raises(ValueError, match="what: obs has 2 columns of that name"):
        read_obs(AnnData(np.zeros((10, 1)), obs=obs), "kind", "what")


NUMBERS = {
    "int": ([1, 2], True),
    "float": ([1.0, np.nan], True),
    "nullable": (pd.array([1, None], dtype="Int64"), True),
    "truth": ([True, False], False),
    "nullable truth": (pd.array([True, None], dtype="boolean"), False),
    "text": (["1", "2"], False),
    "categories": (pd.Categorical([1, 2]), False),
    "objects": (np.array([1, 2.5], dtype=object), True),
    "objects of floats": (np.array([1.5, None], dtype=object), True),
    "objects of integers": (np.array([1, None], dtype=object), True),
    "objects of truth": (np.array([True, None], dtype=object), False),
    "mixed": (np.array([1, "a"], dtype=object), False),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_of_numbers_are_told_from_others(kind):
    values, expected = NUMBERS[kind]
    obs = pd.DataFrame({"x": values}, index=["a", "b"])
    assert holds_numbers(AnnData(np.zeros((2, 1)), obs=obs), "x") is expected
    with pytest.raises(KeyError, match="column 'y' is not in obs"):
        holds_numbers(AnnData(np.zeros((2, 1)), obs=obs), "y")


def test_one_modality_with_numbers_is_enough(paired):
    paired["adt"].obs["batch"] = np.arange(10)
    assert holds_numbers(paired, "batch")


def test_columns_of_a_model():
    column = Column(np.array([0, 2, -1, 1]), ("0", "1.0", "b"))
    renamed = column.with_names_of(("True", "0"))
    assert renamed.names == ("0", "True", "b")
    assert renamed.codes.tolist() == [0, 2, -1, 1]
    turned = Column(np.array([0, 1, -1]), ("1", "2")).with_names_of(("9", "True"))
    assert (turned.names, turned.codes.tolist()) == (("2", "True"), [1, 0, -1])
    kept = column.without("1")
    assert (kept.names, kept.codes.tolist()) == (("0", "b"), [0, 1, -1, -1])


def test_columns_are_joined_without_unused_names():
    names = pd.Index(["a", "b", "c"])
    first = ObsValues("rna", np.array([2, 0]), Column(np.array([1, -1]), ("w", "x", "unused")))
    second = ObsValues("adt", np.array([0, 1, -1]), Column(np.array([1, 0, 2]), ("1.0", "y", "z")))
    third = ObsValues("dna", np.array([1]), Column(np.array([0]), ("1",)))
    found = join_columns([first, second, third], names, "what")
    assert found.names in (("1", "x", "y"), ("1.0", "x", "y"))
    assert found.codes.tolist() == [2, 0, 1]
    assert found.codes.dtype == np.int64
    clash = ObsValues("dna", np.array([1]), Column(np.array([0]), ("y",)))
    with pytest.raises(ValueError, match="'b' is 'y' in 'dna' and '1.*' elsewhere"):
        join_columns([first, second, clash], names, "what")


def joined(*sources, n=4):
    values = [ObsValues(m, None if cell is None else np.array(cell), np.array(v, float)) for m, cell, v in sources]
    return join_values(values, pd.Index(list("abcd")[:n]), "what", str).tolist()


def test_values_are_joined_by_precedence():
    nan = np.nan
    assert joined((None, None, [1, nan, 3]), ("rna", [1, 0], [5, 9]), n=3) == [1, 5, 3]
    assert joined(("rna", [3, 0], [7, 8]), ("adt", [1, 2, -1], [1, 2, 3])) == [8, 1, 2, 7]
    assert joined(("rna", [0, 1], [nan, 8]), ("adt", [0, 1], [1, nan]), n=2) == [1, 8]
    assert np.isnan(joined(("rna", [0], [1]))[1:]).all()
    for sources, text in (
        ([("rna", [0, 1], [1, 2]), ("adt", [1, 0], [3, 1])], "on 1 cells, for example 'b' is 3.0 in 'adt' and 2.0 e"),
        (
            [(None, None, [nan] * 4), ("rna", [2], [1]), ("adt", [2], [3])],
            "for example 'c' is 3.0 in 'adt' and 1.0 els",
        ),
        (
            [("rna", [0, 1], [1, nan]), (None, None, [2, 3, 4, 5])],
            "copy of the column of 'rna' that differs in 2 cells",
        ),
        ([("rna", [0, 1], [1, nan]), (None, None, [1, 3, 4, 5])], "'b' is 3.0 in mdata.obs and missing in 'rna'"),
    ):
        with pytest.raises(ValueError, match=text):
            joined(*sources)
    assert joined(("rna", [0, 1], [1, 2]), (None, None, [1, nan, 4, 5])) == [1, 2, 4, 5]
