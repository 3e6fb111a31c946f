"""Velocity finds the rows of tables by cell name: shuffled rows change nothing, and rows of other cells are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import muport
from muport import pl
from muport import velocity as vl
from muport.velocity import Velocity
from muport.velocity.velot._stored_results import read_cells, unpack_raw_velocity

mpl.use("agg")

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


@pytest.fixture(scope="module")
def stored() -> AnnData:
    """Cells with every result of the functions, which `uns` keeps by position."""
    adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=N, n_dims=6, random_state=1)
    adata.obsm["X_umap"] = adata.obsm["X_true"][:, :2]
    adata.obs["pseudotime"], adata.obs["clusters"] = adata.obs["time"], adata.obs["branch"]
    adata.obs["day"] = adata.obs["time"]
    vl.velocity(adata, n_epochs=20, verbose=False)
    return adata


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1)[lengths > 0] / lengths[lengths > 0]).min())


def reordered(adata: AnnData, way: str, folder: Path) -> tuple[AnnData, np.ndarray]:
    order = np.arange(N)[::-1] if way == "backward" else np.random.default_rng(3).permutation(N)
    moved = adata[order].copy()
    if way == "from a file":
        moved.write_h5ad(folder / "moved.h5ad")
        moved = anndata.read_h5ad(folder / "moved.h5ad")
    elif way == "from a zarr store":
        moved.write_zarr(folder / "moved.zarr")
        moved = anndata.read_zarr(folder / "moved.zarr")
    return moved, order


@pytest.mark.promise(ORDER)
@pytest.mark.parametrize(("way", "kind"), [
    ("shuffled", "time"), ("backward", "spatial"), ("from a file", "spatial"), ("from a zarr store", "time"),
])  # fmt: skip
def test_windows_follow_their_cells(stored, way, kind, tmp_path, record_property):
    record_property("tries", 2)
    adata = stored.copy()
    vl.build_windows(adata, windows=kind)
    moved, order = reordered(adata, way, tmp_path)
    for mine in (adata, moved):
        vl.compute_ot_velocity(mine)
    expected, found = (a.obsm["velot_velocity_raw"] for a in (adata, moved))
    assert cosine(found, expected[order]) > 0.999
    axes = pl.windows(moved)
    assert np.allclose(axes.collections[-1].XY, pl.windows(adata).collections[-1].XY, atol=1e-6)


@pytest.mark.promise(ORDER)
def test_raw_velocities_of_some_cells_keep_their_weights(stored, record_property):
    record_property("tries", 1)
    some = stored[np.random.default_rng(0).permutation(N)[:150]].copy()
    vl.smooth_velocity(some, n_epochs=2, verbose=False)
    weight = pd.Series(stored.uns["velot_transport"]["weight"], index=stored.obs_names)
    cells = read_cells(some, "X_pca", "pseudotime")
    raw = unpack_raw_velocity(some.obsm["velot_velocity_raw"], some.uns["velot_transport"], some.obs_names, cells)
    assert np.array_equal(raw.weight, weight[some.obs_names])
    assert np.array_equal(raw.weight > 0, (raw.velocity != 0).any(axis=1))


def dropped(a: AnnData) -> AnnData:
    return a[3:].copy()


def with_more(a: AnnData) -> AnnData:
    more = anndata.concat([a, a[:5].copy()], index_unique="_", uns_merge="first")
    more.uns = a.uns
    return more


def with_other_names(a: AnnData) -> AnnData:
    other = a.copy()
    other.obs_names = [f"other_{name}" for name in a.obs_names]
    return other


def with_other_time(a: AnnData) -> AnnData:
    other = a.copy()
    other.obs["pseudotime"] = other.obs["pseudotime"].to_numpy()[::-1].copy()
    return other


def with_other_coordinates(a: AnnData) -> AnnData:
    other = a.copy()
    other.obsm["X_pca"] = a.obsm["X_pca"][:, ::-1].copy()
    return other


def without_names(a: AnnData) -> AnnData:
    other = a.copy()
    for key in ("velot_windows", "velot_transport"):
        other.uns[key] = {name: value for name, value in a.uns[key].items() if name != "cells"}
    return other


CHANGED = {
    "some cells": (dropped, "has 240 cells, of which 3 are not in the data"),
    "more cells": (with_more, "of other cells: 245 of the 245|not in it"),
    "other names": (with_other_names, "240 of the 240 cells are not in it.*other_"),
    "another time": (with_other_time, r"obs\['pseudotime'\] of 2[34]\d cells"),
    "other coordinates": (with_other_coordinates, r"obsm\['X_pca'\] of 240 cells is not that"),
    "no names": (without_names, "no cell names"),
}


@pytest.mark.promise(REFUSED)
@pytest.mark.parametrize("name", CHANGED)
def test_stored_results_of_other_cells_are_refused(stored, name, record_property):
    change, match = CHANGED[name]
    mine = change(stored)
    functions = [vl.compute_ot_velocity, vl.smooth_velocity][: 1 if name == "some cells" else 2]
    record_property("tries", len(functions))
    before = mine.obsm["velot_velocity"].copy()
    for function in functions:
        with pytest.raises(ValueError, match=match):
            function(mine)
    if name not in ("another time", "other coordinates"):
        with pytest.raises(ValueError, match=match):
            pl.windows(mine)
    assert np.array_equal(mine.obsm["velot_velocity"], before)


@pytest.mark.promise(ORDER)
def test_a_query_does_not_depend_on_the_cells_that_are_left(stored, record_property):
    record_property("tries", 2)
    x = stored.obsm["X_pca"][:7]
    expected = vl.query_velocity(stored, x)
    early = stored[stored.obs["time"].to_numpy() < 0.3].copy()
    assert np.array_equal(vl.query_velocity(early, x), expected)
    table = pd.DataFrame(x, index=stored.obs_names[:7])
    time = stored.obs["time"].iloc[:7]
    assert np.array_equal(
        vl.query_velocity(stored, table, shuffled(time)), vl.query_velocity(stored, x, time.to_numpy())
    )


def test_another_basis_or_time_is_refused(stored):
    mine = stored.copy()
    mine.obsm["X_other"] = mine.obsm["X_pca"] + 1
    with pytest.raises(ValueError, match="basis='X_other'.*basis='X_pca'"):
        vl.smooth_velocity(mine, "other")
    with pytest.raises(ValueError, match="time_key='day'.*time_key='pseudotime'"):
        vl.smooth_velocity(mine, time_key="day")
    with pytest.raises(ValueError, match="time_key='day'.*'pseudotime'.*use_network=False"):
        vl.compute_trajectories(mine, time_key="day")


@pytest.mark.promise(ORDER)
def test_stored_paths_name_their_cells(stored, tmp_path, record_property):
    record_property("tries", 2)
    mine = stored.copy()
    mine.obs["clusters"] = mine.obs["clusters"].cat.add_categories(["no cell has it"])
    mine.obs.iloc[0, mine.obs.columns.get_loc("clusters")] = None
    vl.compute_trajectories(mine, mine.obs_names[[5, 9]], n_steps=4)
    vl.simulate_flow(mine, n_particles=6, n_steps=4)
    mine[::-1].copy().write_h5ad(tmp_path / "mine.h5ad")
    back = anndata.read_h5ad(tmp_path / "mine.h5ad")
    assert back.uns["velot_trajectories"]["metadata"]["start_name"].tolist() == mine.obs_names[[5, 9]].tolist()
    for key in ("velot_trajectories", "velot_flow"):
        result = back.uns[key]
        assert np.array_equal(result["cell_name"], stored.obs_names.to_numpy()[result["cell"]])
    assert set(mine.uns["velot_flow"]["metadata"]["terminal_cluster"]) <= {"trunk", "A", "B", "unknown"}


def test_a_grid_search_scores_its_own_runs_only(stored):
    mine = stored.copy()
    mine.obsm["velocity_umap"] = mine.obsm["velot_velocity_umap"]
    table = vl.gridsearch(mine, {"project_umap": [False]}, fixed_params={"n_epochs": 2}, verbose=False)
    assert table["status"][0].startswith("KeyError: \"velocity_metric_key='velocity_umap' was not written")
    assert "velocity_umap" in mine.obsm


def test_what_is_no_data_and_no_velocity_is_refused(stored):
    with pytest.raises(TypeError, match="adata is ndarray"):
        vl.build_windows(np.zeros((9, 2)))
    mine = stored.copy()
    mine.obsm["velot_velocity_raw"] = np.where(np.arange(N)[:, None] == 3, np.nan, mine.obsm["velot_velocity_raw"])
    with pytest.raises(ValueError, match=r"obsm\['velot_velocity_raw'\] holds 6 NaN or Inf values, first in cell"):
        vl.smooth_velocity(mine, verbose=False)


FORMATS = {
    "CSR": sparse.csr_matrix,
    "CSC": sparse.csc_matrix,
    "table": None,
    "Fortran": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f4"),
}
FROM_OBSM = {
    "project": lambda a: vl.project_to_embedding(a).obsm["velot_velocity_umap"],
    "trajectories": lambda a: vl.compute_trajectories(a, n_trajectories=2, n_steps=5, use_network=False).uns[
        "velot_trajectories"
    ]["paths_pca"],
    "flow": lambda a: vl.simulate_flow(a, n_particles=4, n_steps=5, source_x_lim=(-9, 9)).uns["velot_flow"][
        "paths_pca"
    ],
    "smooth": lambda a: vl.smooth_velocity(a, n_epochs=1, verbose=False).obsm["velot_velocity"],
    "line": lambda a: pl.trajectories(a, "velot_flow").lines[0].get_xydata(),
}


@pytest.mark.promise("The format in which data are held leaves the answer the same")
@pytest.mark.parametrize("call", FROM_OBSM.values(), ids=FROM_OBSM)
def test_formats_of_stored_velocities_and_embeddings(stored, call, record_property):
    plain = vl.simulate_flow(stored.copy(), n_particles=4, n_steps=5)
    expected = np.asarray(call(plain.copy()))
    for convert in FORMATS.values():
        mine = plain.copy()
        for key in ("X_pca", "X_umap", "velot_velocity_raw", "velot_velocity_pca"):
            x = np.asarray(plain.obsm[key])
            columns = [f"d{i}" for i in range(x.shape[1])]
            mine.obsm[key] = pd.DataFrame(x, mine.obs_names, columns) if convert is None else convert(x)
        assert np.allclose(np.asarray(call(mine)), expected, atol=1e-4)
    plt.close("all")
    record_property("tries", len(FORMATS))
