"""Velocity finds the rows of tables by cell name: shuffled rows change nothing, and rows of other cells are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

import muport
from muport.velocity import Velocity

ORDER = "Rows in another order give the same answer"
REFUSED = "A table of other cells is refused by name"
N = 240


@pytest.fixture(scope="module")
def model() -> Velocity:
    adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=N, n_dims=6, random_state=1)
    adata.obsm["X_umap"] = adata.obsm["X_true"][:, :2]
    Velocity.setup_anndata(adata, time_key="time", labels_key="branch")
    fitted = Velocity(adata)
    fitted.train(n_steps=60, accelerator="cpu", progress=False)
    return fitted


@pytest.fixture(scope="module")
def fates(model) -> pd.DataFrame:
    return model.get_fates(["A", "B"])


def shuffled(table, seed: int = 0):
    return table.sample(frac=1, random_state=seed)


def twice(table):
    return pd.concat([table, table.iloc[:1]])


def renamed(table):
    return table.rename(index=lambda name: f"other_{name}")


#: What makes a table of the same cells -> a name for it.
SAME: dict[str, Callable] = {
    "as it is": lambda table: table,
    "shuffled": shuffled,
    "backward": lambda table: table.iloc[::-1],
    "with cells that are not asked for": lambda table: shuffled(pd.concat([table, renamed(table)])),
    "as float32": lambda table: shuffled(table.astype("float32")),
    "of nullable numbers": lambda table: shuffled(table.astype("Float64")),
}
#: What makes a table that is not of these cells -> what the message names.
OTHER: dict[str, tuple[Callable, str]] = {
    "other names": (renamed, "none of them for 240 of 240 cells.*'other_"),
    "no names": (lambda table: table.reset_index(drop=True), r"begins with \[0, 1, 2\].*to_numpy"),
    "missing cells": (lambda table: table.iloc[5:], "none of them for 5 of 240 cells"),
    "a cell twice": (twice, "several rows for 1 names"),
}


@pytest.mark.promise(ORDER)
@pytest.mark.parametrize("change", SAME)
def test_drivers_take_fates_by_cell_name(model, fates, change, record_property):
    record_property("tries", 1)
    expected, found = model.get_drivers(fates), model.get_drivers(SAME[change](fates))
    tolerance = 1e-5 if change == "as float32" else 0
    pd.testing.assert_frame_equal(
        found.sort_values(["fate", "feature"], ignore_index=True),
        expected.sort_values(["fate", "feature"], ignore_index=True),
        check_exact=not tolerance,
        **({"atol": tolerance} if tolerance else {}),
    )


@pytest.mark.promise(ORDER)
@pytest.mark.parametrize("change", SAME)
def test_an_embedding_is_taken_by_cell_name(model, change, record_property):
    record_property("tries", 1)
    table = pd.DataFrame(model.adata.obsm["X_umap"].astype(np.float32), index=model.adata.obs_names)
    expected = model.project_to_embedding(table.to_numpy())
    assert np.array_equal(model.project_to_embedding(SAME[change](table)), expected)


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize("change", OTHER)
def test_a_table_of_other_cells_is_refused(model, fates, change, record_property):
    record_property("tries", 2)
    make, match = OTHER[change]
    before = fates.copy()
    with pytest.raises(ValueError, match=f"fates.*{match}"):
        model.get_drivers(make(fates))
    embedding = pd.DataFrame(model.adata.obsm["X_umap"], index=model.adata.obs_names)
    with pytest.raises(ValueError, match=f"embedding.*{match}"):
        model.project_to_embedding(make(embedding))
    pd.testing.assert_frame_equal(fates, before)


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda f: f.assign(n_genes=200.0), ValueError, "column 'n_genes' is not numbers from 0 to 1"),
    (lambda f: f.assign(pseudotime=0.5), ValueError, r"\['A', 'B', 'pseudotime'\] sum to 1.5"),
    (lambda f: f.assign(kind="A"), ValueError, "column 'kind'"),
    (lambda f: f.assign(A=np.nan), ValueError, "column 'A'"),
    (lambda f: f[["A", "A"]], ValueError, "several columns 'A'"),
    (lambda f: f.to_numpy(), TypeError, "ndarray: pass the DataFrame of get_fates"),
    (lambda f: f["A"], TypeError, "Series: pass the DataFrame of get_fates"),
])  # fmt: skip
def test_columns_that_are_no_fates_are_refused(model, fates, make, error, match):
    with pytest.raises(error, match=match):
        model.get_drivers(make(fates))


def test_some_fates_may_be_ranked_alone(model, fates):
    alone, both = model.get_drivers(fates[["B"]]), model.get_drivers(fates)
    pd.testing.assert_frame_equal(alone, both[both["fate"] == "B"].reset_index(drop=True))


@pytest.mark.promise(ORDER)
def test_start_cells_by_name_row_and_mask(model, record_property):
    names = model.adata.obs_names
    rows = np.array([7, 30, 101])
    mask = pd.Series(np.isin(np.arange(N), rows), index=names)
    ways = [
        rows, rows.tolist(), rows.astype(np.uint8), names[rows], names[rows].tolist(), names[rows].to_numpy(),
        pd.Series(names[rows]), mask.to_numpy(), mask.tolist(), mask, shuffled(mask), shuffled(mask).astype("boolean"),
    ]  # fmt: skip
    record_property("tries", len(ways))
    expected = model.compute_trajectories(rows, n_steps=5)
    for way in ways:
        found = model.compute_trajectories(way, n_steps=5)
        assert np.array_equal(found.start_cell, rows)
        assert np.array_equal(found.paths.x, expected.paths.x)
    assert model.compute_trajectories(names[4], n_steps=2).start_cell.tolist() == [4]
    assert model.compute_trajectories(names[[9, 3]], n_steps=2).start_cell.tolist() == [9, 3]


WRONG_STARTS: dict[str, tuple[Callable, type[Exception], str]] = {
    "unknown name": (lambda a: ["no_cell"], KeyError, "1 cells that do not exist, for example 'no_cell'"),
    "mask of some": (lambda a: pd.Series(True, index=a.obs_names[:9]), ValueError, "none of them for 231 of 240"),
    "mask of others": (lambda a: renamed(pd.Series(True, index=a.obs_names)), ValueError, "none of them for 240 of"),
    "empty mask": (lambda a: np.zeros(a.n_obs, bool), ValueError, "at least one cell"),
    "short mask": (lambda a: np.ones(3, bool), ValueError, "a mask of 240 booleans"),
    "fractions": (lambda a: [0.5], ValueError, "start_cells has shape"),
    "row after the last": (lambda a: [a.n_obs], ValueError, "row 240"),
    "negative row": (lambda a: [-1], ValueError, "row -1"),
    "no cell": (lambda a: [], ValueError, "at least one cell"),
    "an AnnData": (lambda a: a[:3], TypeError, "start_cells is AnnData.*obs_names"),
}  # fmt: skip


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize("name", WRONG_STARTS)
def test_start_cells_that_do_not_exist_are_refused(model, name):
    make, error, match = WRONG_STARTS[name]
    with pytest.raises(error, match=match):
        model.compute_trajectories(make(model.adata))


def test_terminal_states_are_distinct_labels(model):
    for labels in (["A", "A"], []):
        with pytest.raises(ValueError, match=r"terminal_states=\["):
            model.get_fates(labels)


def test_an_anndata_has_no_modality(model, fates):
    with pytest.raises(KeyError, match="modality='rna'.*AnnData"):
        model.get_drivers(fates, modality="rna")
