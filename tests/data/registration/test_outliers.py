"""Cells far from all others are named, in the representation in which they are far."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.data import Setup, read_rows, select_modalities
from muport.data.registration import _outliers
from muport.data.registration._outliers import _find_outliers, warn_of_outliers
from muport.data.registration._setup import find_space_keys


def points(n: int = 40) -> np.ndarray:
    """Points at a distance of 1 from the median, which is not zero."""
    angle = 2 * np.pi * np.arange(n) / n
    return (np.c_[np.cos(angle), np.sin(angle)] + 5).astype(np.float32)


@pytest.mark.parametrize("block", [7, 65_536])
@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_cells_beyond_a_hundred_distances_are_found(monkeypatch, block, direction):
    monkeypatch.setattr(_outliers, "_BLOCK", block)
    x = points()
    assert _find_outliers(x) is None
    x[[8, 31]] = 5 + np.outer([150, 300], direction)
    far, times = _find_outliers(x)
    assert far.tolist() == [8, 31]
    distance = np.sort(np.linalg.norm(x - np.median(x, axis=0), axis=1))
    assert times == pytest.approx(distance[-1] / distance[37], rel=1e-4), "37 of 39 are 95 %"
    x[[8, 31]] = 5 + np.outer([90, 95], direction)
    assert _find_outliers(x) is None


def test_a_corner_of_the_extent_is_no_outlier():
    x = points()
    x[3], x[30] = (5 + 80, 5), (5, 5 + 80)
    assert _find_outliers(x) is None


def test_few_or_constant_cells_have_no_typical_distance():
    x = points(20)
    x[3] = 1e6
    assert _find_outliers(x)[0].tolist() == [3]
    assert _find_outliers(x[:19]) is None
    constant = np.ones((40, 2), np.float32)
    constant[5] = 1e6
    assert _find_outliers(constant) is None


def test_large_data_are_sampled_and_every_cell_is_judged(monkeypatch):
    monkeypatch.setattr(_outliers, "_SAMPLED", 10)
    x = points(45)
    x[44] = 1000
    assert _find_outliers(x)[0].tolist() == [44]
    x = points(40)
    # a sample of every fourth cell sees these alone
    x[::4] += 1000 * (points(10) - 5)
    assert _find_outliers(x) is None


def caught(data, setup: Setup) -> list[warnings.WarningMessage]:
    keys = find_space_keys(select_modalities(data, setup), setup)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_outliers(read_rows(data, setup), keys)
    return found


def told(data, setup: Setup) -> list[str]:
    return [str(item.message) for item in caught(data, setup)]


@pytest.fixture
def mdata() -> MuData:
    """40 cells in both modalities, in other orders; cell ``c7`` is far in ``X_own`` of ATAC, ``c9`` in ``X_shared``."""
    mods, names = {}, np.array([f"c{i}" for i in range(40)])
    for m, order in {"rna": np.arange(40), "atac": np.random.default_rng(0).permutation(40)}.items():
        part = AnnData(np.zeros((40, 1), np.float32), obs=pd.DataFrame(index=names[order]))
        part.var_names = [m]
        part.obsm["X_own"], part.obsm["X_shared"] = points(), points()
        mods[m] = part
    mods["atac"].obsm["X_own"][mods["atac"].obs_names == "c7"] = 500
    mods["rna"].obsm["X_shared"][mods["rna"].obs_names == "c9"] = 600
    return MuData(mods)


def test_the_warning_names_representation_and_cells(mdata):
    own = {"rna": "X_own", "atac": "X_own"}
    of_own = "obsm['X_own'] of 'atac': 1 of 40 cells are more than 100 times as far from the median as 95% of the cells"
    of_shared = "obsm['X_shared'] of 'rna': 1 of 40 cells are more than 100 times"
    for setup, expected in (
        (Setup(own, None, shared_rep="X_shared"), {of_own: "c7", of_shared: "c9"}),
        (Setup(None, None, shared_rep="X_shared"), {of_shared: "c9"}),
        (Setup({"rna": "X_shared"}, None, shared_rep="X_shared"), {of_shared: "c9"}),
        (Setup(own, None, concatenate=True), {of_own: "c7"}),
        (Setup(own, None, separate=True), {of_own: "c7"}),
        (Setup({"rna": "X_own"}, None), {}),
        (Setup({"rna": "X_shared"}, None), {of_shared: "c9"}),
    ):
        messages = told(mdata, setup)
        assert len(messages) == len(expected)
        for start, name in expected.items():
            (message,) = (text for text in messages if text.startswith(start))
            assert f"for example ['{name}']" in message
            assert "times as far. The mean" in message


def test_at_most_three_cells_are_named():
    adata = AnnData(np.zeros((100, 1)), obsm={"X": points(100)})
    adata.obsm["X"][[3, 40, 50, 80]] = 500
    (message,) = told(adata, Setup("X", None))
    assert "4 of 100 cells" in message
    assert "for example ['3', '40', '50'], " in message


def test_the_warning_is_at_the_line_of_the_user(mdata):
    (found,) = caught(mdata, Setup({"rna": "X_shared"}, None))
    assert (found.filename, found.category) == (__file__, UserWarning)
