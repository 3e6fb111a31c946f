"""The columns that a set-up names: which must be complete, and which may be absent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from muport.data import Setup
from muport.data.reading._annotations import read_annotations

KEYS = {"time_key": "day", "spatial_key": "region", "sample_key": "donor", "weight_key": "weight"}


@pytest.fixture
def cells() -> AnnData:
    obs = pd.DataFrame(
        {
            "batch": ["b1", "b0", "b1", "b0"],
            "kind": ["T", None, "none", "B"],
            "donor": [1, 2, 1, 2],
            "region": ["x", "y", "x", "y"],
            "day": ["2", "10", "2", "-4"],
            "weight": [0.0, 1.0, 0.5, 0.0],
        },
        index=[f"c{i}" for i in range(4)],
    )
    return AnnData(np.zeros((4, 1)), obs=obs)


def test_every_column_is_read(cells):
    found = read_annotations(cells, Setup("X", labels_key="kind", unlabeled_category="none", **KEYS))
    assert (found.batch.names, found.batch.codes.tolist()) == (("b0", "b1"), [1, 0, 1, 0])
    assert (found.label.names, found.label.codes.tolist()) == (("B", "T"), [1, -1, -1, 0])
    assert (found.sample.names, found.sample.codes.tolist()) == (("1", "2"), [0, 1, 0, 1])
    assert (found.spatial.names, found.spatial.codes.tolist()) == (("x", "y"), [0, 1, 0, 1])
    assert found.time.tolist() == [2, 10, 2, -4]
    assert found.weight.tolist() == [0, 1, 0.5, 0]


def test_columns_that_are_not_asked_for(cells):
    found = read_annotations(cells, Setup("X", None))
    assert (found.batch.names, found.batch.codes.tolist()) == (("all",), [0] * 4)
    assert (found.label.names, found.label.codes.tolist()) == ((), [-1] * 4)
    assert found.batch.codes.dtype == found.label.codes.dtype == np.int64
    assert found.sample is found.spatial is found.time is found.weight is None


@pytest.mark.parametrize("argument", ["batch_key", "labels_key", *KEYS])
def test_only_a_column_that_is_optional_may_be_absent(cells, argument):
    arguments = {"batch_key": "batch", "labels_key": "kind", **KEYS}
    setup = Setup("X", **arguments)
    del cells.obs[arguments[argument]]
    for optional in ((), [name for name in arguments if name != argument]):
        with pytest.raises(KeyError, match=arguments[argument]):
            read_annotations(cells, setup, optional)
    found = read_annotations(cells, setup, [argument])
    if argument in ("batch_key", "labels_key"):
        assert found.batch.names == (("all",) if argument == "batch_key" else ("b0", "b1"))
        assert found.label.names == (() if argument == "labels_key" else ("B", "T", "none"))
    else:
        assert getattr(found, argument.removesuffix("_key")) is None


def test_categories_get_the_names_of_the_model(cells):
    setup = Setup("X", "donor", labels_key="kind", sample_key="donor", time_key="day")
    known = {"batch": ("1.0", "2.0"), "sample": ("True",), "labels": ("T",), "time": ("2",), "other": ("x",)}
    found = read_annotations(cells, setup, known=known)
    assert found.batch.names == ("1.0", "2.0")
    assert found.sample.names == ("2", "True")
    assert found.sample.codes.tolist() == [1, 0, 1, 0]
    assert found.label.names == ("B", "T", "none")
    assert found.time.tolist() == [2, 10, 2, -4]


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("column", ["batch", "donor", "region"])
def test_cells_without_a_value_are_named(cells, column):
    argument = {"batch": "batch_key", **{value: key for key, value in KEYS.items()}}[column]
    cells.obs[column] = cells.obs[column].astype(object)
    cells.obs.loc[["c2", "c3"], column] = None
    what = argument.removesuffix("_key")
    with pytest.raises(ValueError, match=rf"{argument}='{column}': 2 cells have no {what} \(NaN\), for example 'c2'"):
        read_annotations(cells, Setup("X", **{"batch_key": None, argument: column}), [argument])


def test_weights_are_at_least_zero_and_not_all_zero(cells):
    cells.obs["weight"] = [0, 0, 0, 1e-300]
    assert read_annotations(cells, Setup("X", weight_key="weight")).weight.any()
    cells.obs["weight"] = 0
    with pytest.raises(ValueError, match="weight_key='weight': all weights are zero"):
        read_annotations(cells, Setup("X", weight_key="weight"))
    assert read_annotations(cells, Setup("X", time_key="weight")).time.tolist() == [0] * 4
    cells.obs["weight"] = [0, 1, 1, -1]
    with pytest.raises(ValueError, match=r"weight_key='weight': 1 cells have a negative value.*'c3'"):
        read_annotations(cells, Setup("X", weight_key="weight"))
