"""What cannot work is refused at once, by name, with the object as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import muport
from muport import velocity as vl
from muport.velocity import Velocity
from muport.velocity._course_columns import read_clones

CPU = {"accelerator": "cpu", "progress": False}
WRONG = (KeyError, ValueError, TypeError)


@pytest.fixture(scope="module")
def cells(kit) -> AnnData:
    adata = kit.draw(n_cells=300)
    adata.obs["pseudotime"], adata.obs["clusters"] = adata.obs["time"], adata.obs["branch"].astype(str)
    vl.velocity(adata, n_epochs=10, lambda_smooth=0.0, verbose=False)
    adata.obs["constant"], adata.obs["holes"], adata.obs["words"] = 1.0, adata.obs["time"], "day two"
    adata.obs.loc[adata.obs_names[7], "holes"] = np.nan
    adata.obsm["X_hole"], adata.obsm["X_text"] = adata.obsm["X_pca"].copy(), np.full((300, 2), "a", dtype=object)
    adata.obsm["X_hole"][3, 0] = np.nan
    return adata


def snapshot(adata: AnnData) -> tuple:
    return (
        {key: adata.obs[key].astype(str).tolist() for key in adata.obs},
        {key: np.asarray(adata.obsm[key]).astype(str).tolist() for key in adata.obsm},
        {key: sorted(adata.uns[key]) for key in adata.uns if isinstance(adata.uns[key], dict)},
    )


def setup(**kwargs) -> Callable[[AnnData], object]:
    return lambda a: Velocity.setup_anndata(a, **{"time_key": "time", **kwargs})


def tool(name: str, *args, **kwargs) -> Callable[[AnnData], object]:
    return lambda a: getattr(vl, name)(a, *args, **kwargs)


BAD: dict[str, tuple[Callable[[AnnData], object], str]] = {
    "no time column": (setup(time_key="dpt"), "time_key='dpt'|'dpt' is not in obs"),
    "time is no name": (setup(time_key=None), "time_key=None must be the name of a column"),
    "NaN time": (setup(time_key="holes"), "holes.*1 cells.*7"),
    "time in words": (setup(time_key="words"), "words.*'day two'"),
    "no representation": (setup(use_rep="X_umap2"), "X_umap2"),
    "NaN in the representation": (setup(use_rep="X_hole"), "X_hole.*NaN"),
    "text in the representation": (setup(use_rep="X_text"), "X_text"),
    "no batch column": (setup(batch_key="donor"), "donor"),
    "no label column": (setup(labels_key="kinds"), "kinds"),
    "no region column": (setup(spatial_key="regions"), "regions"),
    "windows of a constant time": (tool("build_windows", time_key="constant"), "'constant' has a single value"),
    "windows of a time with holes": (tool("build_windows", time_key="holes"), "holes.*1 cells"),
    "windows without time": (tool("build_windows", time_key="dpt"), "dpt"),
    "windows in an unknown space": (tool("build_windows", "X_lsi"), "X_lsi"),
    "unknown tail": (tool("build_windows", tail_handling="keep"), "tail_handling='keep'.*'force', 'drop', 'split'"),
    "unknown windows": (tool("build_windows", windows="hexagons"), "windows='hexagons'"),
    "whole overlap": (tool("build_windows", overlap_fraction=1.0), "overlap_fraction=1.0"),
    "unknown regions": (tool("build_windows", spatial_key="regions"), "regions"),
    "regions too small": (tool("build_windows", windows="spatial", min_window_size=400), "min_window_size|window"),
    "negative regularisation": (tool("compute_ot_velocity", reg=-0.1), "reg=-0.1"),
    "negative penalty": (tool("compute_ot_velocity", lambda_time=-1.0), "lambda_time=-1.0"),
    "relaxation above 1": (tool("compute_ot_velocity", tau=2.0), "tau=2.0"),
    "unknown difference": (tool("compute_ot_velocity", difference="backward"), "difference='backward'"),
    "another space than the windows'": (tool("compute_ot_velocity", "X_lsi"), "X_lsi"),
    "no epochs": (tool("smooth_velocity", n_epochs=0), "n_epochs=0"),
    "no raw velocity": (tool("smooth_velocity", velocity_key="v"), "velocity_key='v'.*compute_ot_velocity"),
    "velocity of another width": (
        tool("smooth_velocity", velocity_key="velot_velocity_umap"), r"\(300, 2\).*\(300, 8\)"
    ),
    "negative curl": (tool("smooth_velocity", lambda_curl=-1.0), "lambda_curl=-1.0"),
    "all steps with a bad hyperparameter": (tool("velocity", lambda_knn=-1.0), "lambda_knn=-1.0"),
    "all steps with bad epochs": (tool("velocity", n_epochs=-3), "n_epochs=-3"),
    "no embedding in all steps": (tool("velocity", project_basis="X_tsne"), "project_basis='X_tsne'.*project_umap"),
    "query of another width": (tool("query_velocity", np.zeros((2, 3))), "3 coordinates.*8"),
    "query at NaN": (tool("query_velocity", np.full((2, 8), np.nan)), "NaN"),
    "no picture": (tool("project_to_umap", basis_umap="X_tsne"), "X_tsne"),
    "one neighbour": (tool("project_to_umap", n_neighbors=1), "n_neighbors=1"),
    "unknown start": (tool("compute_trajectories", start_cluster="C"), "start_cluster='C'.*'A', 'B'"),
    "unknown target": (tool("compute_trajectories", target_cluster="C"), "target_cluster='C'"),
    "unknown column of clusters": (
        tool("compute_trajectories", start_cluster="A", cluster_key="kinds"), "cluster_key='kinds'"
    ),
    "unknown direction": (tool("compute_trajectories", direction="sideways"), "direction='sideways'"),
    "start row out of range": (tool("compute_trajectories", start_cells=[300]), "row 300"),
    "no start in that time": (tool("compute_trajectories", start_pseudotime=2.0), "0.* to 1|widen"),
    "bounds the wrong way round": (
        tool("compute_trajectories", start_pseudotime=0.5, end_pseudotime=0.1), "0.5 to 0.1"
    ),
    "no steps": (tool("compute_trajectories", n_steps=0), "n_steps=0"),
    "a step of no length": (tool("compute_trajectories", step_size=0.0), "step_size=0.0"),
    "a target behind": (
        tool("compute_trajectories", start_pseudotime=0.9, target_cluster="trunk", n_trajectories=3, n_steps=20),
        "target_cluster='trunk' was never reached",
    ),
    "no particles": (tool("simulate_flow", n_particles=0), "n_particles=0"),
    "unknown source": (tool("simulate_flow", source_cluster="C"), "source_cluster='C'"),
    "negative diffusion": (tool("simulate_flow", diffusion=-0.5), "diffusion=-0.5"),
    "flow in a space without network": (tool("simulate_flow", basis="X_umap"), "basis='X_umap'.*'X_pca'"),
    "an empty rectangle": (tool("simulate_flow", source_x_lim=(1e6, 2e6)), "widen"),
    "an unknown root": (lambda a: muport.pp.pseudotime(a, root_cluster="C"), "root_cluster='C'"),
    "an unknown root cell": (lambda a: muport.pp.pseudotime(a, root_cell="z"), "root_cell='z'"),
    "no root": (lambda a: muport.pp.pseudotime(a), "root_cluster, root_cell and root_marker"),
}  # fmt: skip


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_named_and_change_nothing(cells, name):
    call, match = BAD[name]
    mine = cells.copy()
    before = snapshot(mine)
    with pytest.raises(WRONG, match=match):
        call(mine)
    assert snapshot(mine) == before


@pytest.mark.parametrize("function", ["compute_ot_velocity", "smooth_velocity", "query_velocity", "simulate_flow"])
def test_steps_ask_for_the_step_before(kit, function):
    adata = kit.draw(n_cells=300)
    adata.obs["pseudotime"] = adata.obs["time"]
    arguments = (adata.obsm["X_pca"],) if function == "query_velocity" else ()
    with pytest.raises(KeyError, match=r"call (muport\.velocity\.)?(build_windows|compute_ot|smooth_velocity)"):
        getattr(vl, function)(adata, *arguments)


@pytest.mark.parametrize(("arguments", "match"), [
    ({"modality": "prot"}, "modality='prot'.*rna"),
    ({"basis": "X_joint"}, "X_joint"),
    ({"modality": "rna", "time_key": "days"}, "days"),
])  # fmt: skip
def test_a_mudata_names_what_it_lacks(cells, arguments, match):
    mdata = MuData({"rna": cells.copy()})
    with pytest.raises(KeyError, match=match):
        vl.build_windows(mdata, **arguments)


@pytest.fixture(scope="module")
def model(kit, cells) -> Velocity:
    return kit.fit(cells.copy(), {"labels_key": "branch"}, n_steps=10, n_bootstrap=0, tau=1.0)


MODEL: dict[str, tuple[Callable[[Velocity, AnnData], object], str]] = {
    "unknown kind": (lambda m, a: m.get_velocity(kind="rough"), "kind='rough'.*'smooth', 'raw'"),
    "raw of other cells": (lambda m, a: m.get_velocity(a, kind="raw"), "kind='raw'"),
    "no members": (lambda m, a: m.get_uncertainty(), "n_bootstrap"),
    "no members to be sure of": (lambda m, a: m.get_confidence(), "n_bootstrap"),
    "no members in a query": (lambda m, a: m.query_velocity(a.obsm["X_pca"], return_std=True), "n_bootstrap"),
    "balanced growth": (lambda m, a: m.get_growth(), "tau below 1"),
    "query of another width": (lambda m, a: m.query_velocity(np.zeros((2, 3))), "3 coordinates.*8"),
    "cells of another width": (lambda m, a: m.map_query(narrow(a)), "5 coordinates.*8|width"),
    "cells without the space": (lambda m, a: m.map_query(AnnData(np.ones((3, 2)))), "X_pca"),
    "unknown end": (lambda m, a: m.get_fates(["C"]), "'C' is not a label.*'A'"),
    "unknown sink": (lambda m, a: m.get_committor("A", "C"), "'C' is not a label"),
    "source is sink": (lambda m, a: m.get_committor("A", "A"), "source|sink|both"),
    "no states": (lambda m, a: m.get_states(0), "n_states=0"),
    "no neighbours": (lambda m, a: m.get_transition_matrix(0), "k=0|n_neighbors=0"),
    "unknown layer": (lambda m, a: m.get_drivers(m.get_fates(["A", "B"]), layer="counts"), "layer='counts'"),
    "fates of other cells": (lambda m, a: m.get_drivers(m.get_fates(["A", "B"])[:5]), "5 rows.*295 of 300 cells"),
    "loadings of another width": (lambda m, a: m.get_feature_velocity(np.ones((9, 3))), "loadings"),
    "picture of other cells": (lambda m, a: m.project_to_embedding(a.obsm["X_umap"][:5]), "embedding.*5"),
    "unknown design": (lambda m, a: Velocity(m.adata, windows="hexagons"), "windows='hexagons'"),
    "unknown difference": (lambda m, a: Velocity(m.adata, difference="backward"), "difference='backward'"),
    "no width": (lambda m, a: Velocity(m.adata, hidden_dim=0), "hidden_dim=0"),
    "unknown tail": (lambda m, a: m.train(tail_handling="keep", **CPU), "tail_handling='keep'"),
    "no steps": (lambda m, a: m.train(n_steps=0, **CPU), "n_steps=0"),
    "negative penalty": (lambda m, a: m.train(lambda_curl=-1, **CPU), "lambda_curl=-1"),
    "bins of all cells": (lambda m, a: m.train(window_fraction=1.0, **CPU), "window_fraction=1.0"),
}  # fmt: skip


def narrow(adata: AnnData) -> AnnData:
    mine = adata.copy()
    mine.obsm["X_pca"] = mine.obsm["X_pca"][:, :5]
    return mine


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize("name", MODEL)
def test_the_model_names_what_is_wrong_and_stays(cells, model, name):
    call, match = MODEL[name]
    before = model.get_velocity()
    with pytest.raises(WRONG, match=match):
        call(model, cells)
    assert np.array_equal(model.get_velocity(), before)


@pytest.mark.parametrize(("n", "key", "match"), [
    (12, "time", "12 cells|two"), (300, "constant", "time_key='constant' has a single value"),
])  # fmt: skip
def test_too_little_to_train_on(kit, cells, n, key, match):
    adata = cells[:n].copy()
    with pytest.raises(ValueError, match=match):
        kit.fit(adata, {"time_key": key}, n_steps=5)


def test_fates_without_labels_need_ends_or_labels(kit, cells):
    mine = kit.fit(cells.copy(), n_steps=10)
    with pytest.raises(ValueError, match="'A' names a label.*labels_key"):
        mine.get_fates(["A"])
    with pytest.raises(ValueError, match="start_cluster='A'.*clusters|labels"):
        mine.compute_trajectories(start_cluster="A")


def test_an_unfitted_model_says_so(cells):
    mine = cells.copy()
    Velocity.setup_anndata(mine, time_key="time")
    model = Velocity(mine)
    for call in (model.get_velocity, lambda: model.get_velocity(kind="raw"), model.get_growth, model.get_fates,
                 model.compute_trajectories, lambda: model.query_velocity(np.zeros((1, 8)))):  # fmt: skip
        with pytest.raises(ValueError, match=r"train\(\)"):
            call()


def test_a_clone_matrix_is_read_once_and_left_as_it_is():
    dense = np.eye(6)[[0, 1, 2, 0, 1, 2], :3]
    rows, columns = dense.nonzero()
    # repeated entries, and an explicit zero
    indptr = np.append(np.arange(0, 12, 2), 13)
    data, indices = np.append(np.ones(12), 0.0), np.append(np.repeat(columns, 2), 0)
    for array in (data, indices, indptr):
        array.setflags(write=False)
    adata = AnnData(np.ones((6, 1)))
    adata.obsm["clones"] = sparse.csr_matrix((data, indices, indptr), shape=(6, 3))
    assert np.array_equal(read_clones(adata, "clones").toarray(), dense)
    assert adata.obsm["clones"].nnz == 13
