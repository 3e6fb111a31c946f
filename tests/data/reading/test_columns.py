"""Where a column stands, and how the columns of an object and of its modalities become one."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import joined_column, joined_numbers
from muport.data.reading._columns import find_column


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
