from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from muport.data.reading._numbers import joined_numbers

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def cells(values: object, names: list[str] | None = None) -> AnnData:
    n = len(values)
    frame = pd.DataFrame(index=names or [f"c{i}" for i in range(n)])
    frame["day"] = values
    return AnnData(np.zeros((n, 1)), obs=frame)


KINDS = {
    "float32": np.array([2, 4, 6], np.float32),
    "uint8": np.array([2, 4, 6], np.uint8),
    "nullable": pd.array([2, 4, 6], dtype="Int64"),
    "categories of text": pd.Categorical(["2", "4", "6"], categories=["6", "4", "2", "day 9"]),
    "categories of numbers": pd.Categorical([2, 4, 6]),
    "text": np.array(["2", "4.0", " 6e0"], dtype=object),
    "mixed": np.array([2, "4", 6.0], dtype=object),
}


@pytest.mark.promise("Each kind of array or column gives the same result")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_number_is_the_same(kind, fingerprint):
    adata = cells(KINDS[kind])
    before = fingerprint(adata)
    found = joined_numbers(adata, "day", "time_key")
    assert found.dtype == np.float64
    assert found.tolist() == [2, 4, 6]
    assert fingerprint(adata) == before


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_numbers_come_back_bit_by_bit(values):
    assert joined_numbers(cells(values), "day", "time_key").tolist() == values
    assert joined_numbers(cells([repr(v) for v in values]), "day", "time_key").tolist() == values


BAD = {
    "text": (["late", "early", "early"], ValueError, ["time_key='day'", "'late'", ".map({'late': 0.0})"]),
    "other text around the number": (["E18.5", "P0", "P0"], ValueError, ["'E18.5'", ".map({'E18.5': 0.0})"]),
    "two numbers": (["day 4 rep 1", "day 4 rep 2", "day 6 rep 1"], ValueError, ["'day 4 rep 1'"]),
    "categories": (pd.Categorical(["2", "late", "4"]), ValueError, ["time_key='day'", "'late'"]),
    "NaN": ([1.0, np.nan, np.nan], ValueError, ["time_key='day'", "2 cells", "NaN", "'c1'"]),
    "None": (np.array(["1", None, "3"], dtype=object), ValueError, ["1 cells", "'c1'"]),
    "text of NaN": (["1", "2", "nan"], ValueError, ["1 cells", "'c2'"]),
    "nullable": (pd.array([1, None, 3], dtype="Int64"), ValueError, ["1 cells", "'c1'"]),
    "infinite": ([1.0, 2.0, np.inf], ValueError, ["time_key='day'", "1 cells", "infinite", "'c2'"]),
    "truth values": ([True, False, True], TypeError, ["time_key='day'", "bool"]),
    "categories of truth": (pd.Categorical([True, False, True]), ValueError, ["False"]),
    "dates": (pd.to_datetime(["2020-01-01"] * 3), TypeError, ["datetime64", "days"]),
    "complex": (np.ones(3, complex), TypeError, ["complex128"]),
}


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_number_is_refused(case, fingerprint):
    values, error, words = BAD[case]
    adata = cells(values)
    before = fingerprint(adata)
    with pytest.raises(error) as caught:
        joined_numbers(adata, "day", "time_key")
    assert fingerprint(adata) == before
    for word in words:
        assert word in str(caught.value)


def test_negative_numbers_pass_as_asked():
    adata = cells([-1.0, 0.0])
    assert joined_numbers(adata, "day", "time_key").tolist() == [-1, 0]
    with pytest.raises(ValueError, match=r"weight_key='day': 1 cells.*negative.*'c0'"):
        joined_numbers(adata, "day", "weight_key", negative=False)


def test_modalities_fill_gaps_and_must_agree(mdata):
    names = {m: list(a.obs_names) for m, a in mdata.mod.items()}
    mdata["rna"].obs["day"] = np.arange(30.0)
    mdata["atac"].obs["day"] = pd.Categorical([*(str(100 + i) for i in range(19)), "29"])
    found = pd.Series(joined_numbers(mdata, "day", "time_key"), index=mdata.obs_names)
    assert found[names["rna"]].tolist() == list(range(30))
    assert found[names["atac"]].tolist() == [*range(100, 119), 29]
    mdata.obs["day"] = pd.Series(-5.0, index=mdata.obs_names).where(mdata.obs_names == "r3")
    found = pd.Series(joined_numbers(mdata, "day", "time_key"), index=mdata.obs_names)
    assert found[["r2", "r3", "a0"]].tolist() == [2, -5, 100]
    del mdata.obs["day"]
    mdata["atac"].obs["day"] = 7.5
    with pytest.raises(
        ValueError, match=r"time_key='day': the modalities disagree on 1 cells.*'shared0' is 7.5 in 'atac' and 29 e"
    ):
        joined_numbers(mdata, "day", "time_key")
    with pytest.raises(ValueError, match=r"time_key='rna:day': 19 cells.*'a0'"):
        joined_numbers(mdata, "rna:day", "time_key")


def test_a_missing_column_lists_those_there(mdata):
    with pytest.raises(KeyError, match=r"'hour' is not in obs.*rna:batch"):
        joined_numbers(mdata, "hour", "time_key")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["E8.5", "E10.5", "E9"], [8.5, 10.5, 9.0]),
        (["day 4", "Day 10", "day 4"], [4.0, 10.0, 4.0]),
        (["24 h", "0 h", "72 h"], [24.0, 0.0, 72.0]),
        (pd.Categorical(["D10", "D2", "D2"], categories=["D2", "D10", "unused"], ordered=True), [10.0, 2.0, 2.0]),
        (["-2", "1e1", "3"], [-2.0, 10.0, 3.0]),
    ],
)
def test_names_of_times_are_read(names, expected):
    assert joined_numbers(cells(names), "day", "time_key").tolist() == expected


def test_names_of_weights_are_refused():
    with pytest.raises(ValueError, match="not a number"):
        joined_numbers(cells(["w1", "w2", "w2"]), "day", "weight_key")
