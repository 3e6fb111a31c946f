"""The functions of an AnnData or MuData: VelOT's names, what they write, files, and that they are the model's steps."""

from __future__ import annotations

import inspect

import anndata
import mudata
import numpy as np
import pytest
from mudata import MuData

import muport
from muport import velocity as vl

INF = float("inf")
#: Parameters and defaults of VelOT, in order; `...` is no default.
VELOT = {
    "build_windows": {
        "adata": ..., "basis": "X_pca", "n_clusters": None, "window_size": None, "overlap_fraction": 0.5,
        "min_window_size": 20, "spatial_key": None, "tail_handling": "force", "tail_threshold": 10, "random_state": 42,
    },
    "compute_ot_velocity": {"adata": ..., "basis": "X_pca", "reg": 0.05, "lambda_time": 1.0, "lambda_knn": 1.0},
    "smooth_velocity": {
        "adata": ..., "basis": "pca", "velocity_key": "velot_velocity_raw", "n_epochs": 200, "hidden_dim": 128,
        "lr": 0.001, "batch_size": 256, "lambda_smooth": 0.5, "lambda_curl": 0.5, "lambda_divergence": 0.0,
        "k_smooth": 15, "use_pseudotime": True, "random_state": 42, "verbose": True,
    },
    "query_velocity": {"adata": ..., "positions": ..., "pseudotime_values": None},
    "project_to_embedding": {
        "adata": ..., "velocity_key": "velot_velocity_pca", "velocity_key_umap": "velot_velocity_umap",
        "basis_pca": "X_pca", "basis_embedding": "X_umap", "n_neighbors": 30,
    },
    "project_to_umap": {
        "adata": ..., "velocity_key": "velot_velocity_pca", "velocity_key_umap": "velot_velocity_umap",
        "basis_pca": "X_pca", "basis_umap": "X_umap", "n_neighbors": 30,
    },
    "velocity": {
        "adata": ..., "basis": "X_pca", "smooth": True, "n_clusters": None, "window_size": None,
        "overlap_fraction": 0.5, "min_window_size": 20, "spatial_key": None, "tail_handling": "force",
        "tail_threshold": 10, "reg": 0.05, "lambda_time": 1.0, "lambda_knn": 1.0, "n_epochs": 200, "hidden_dim": 128,
        "lambda_smooth": 0.5, "lambda_curl": 0.0, "lambda_divergence": 0.0, "k_smooth": 15, "use_pseudotime": True,
        "project_umap": True, "project_basis": "X_umap", "random_state": 42, "verbose": True,
    },
    "gridsearch": {
        "adata": ..., "param_grid": ..., "cluster_edges": None, "cluster_key": "clusters",
        "velocity_metric_key": "velocity_umap", "fixed_params": None, "pseudotime_key": "pseudotime", "verbose": True,
    },
    "compute_trajectories": {
        "adata": ..., "start_cells": None, "start_cluster": None, "target_cluster": None, "start_pseudotime": None,
        "end_pseudotime": None, "n_trajectories": 20, "n_steps": 200, "step_size": 0.05, "direction": "forward",
        "velocity_key": "velot_velocity_pca", "basis": "X_pca", "cluster_key": "clusters", "k_velocity": 15,
        "use_network": True, "evolve_pseudotime": True, "max_attempts_factor": 10, "random_state": 42,
    },
    "simulate_flow": {
        "adata": ..., "n_particles": 200, "source_cluster": None, "source_pseudotime_min": 0.0,
        "source_pseudotime_max": 0.1, "source_x_lim": (-INF, INF), "source_y_lim": (-INF, INF), "n_steps": 300,
        "step_size": 0.05, "diffusion": 0.5, "basis": "X_pca", "cluster_key": "clusters", "noise_scale": 0.0,
        "random_state": 42,
    },
}  # fmt: skip
QUICK = {"n_epochs": 10, "lambda_smooth": 0.0, "verbose": False}


@pytest.mark.parametrize("name", VELOT)
def test_names_and_defaults_are_those_of_velot(name):
    parameters = inspect.signature(getattr(vl, name)).parameters
    given = {p.name: ... if p.default is p.empty else p.default for p in parameters.values()}
    first = dict(list(given.items())[: len(VELOT[name])])
    assert list(first.items()) == list(VELOT[name].items())
    extra = [p for p in parameters.values() if p.name not in VELOT[name]]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in extra)


@pytest.fixture(scope="module")
def plain(kit):
    """A pseudotime in [0, 1] and clusters under VelOT's names."""
    adata = kit.draw(n_cells=320)
    adata.obs["pseudotime"], adata.obs["clusters"] = adata.obs["time"], adata.obs["branch"].astype(str)
    return adata


@pytest.fixture(scope="module")
def done(plain):
    return whole(plain.copy())


def whole(data, **kwargs):
    """Everything that writes, one after another."""
    vl.velocity(data, **QUICK, **kwargs)
    place = {k: kwargs[k] for k in ("modality", "basis") if k in kwargs}
    vl.compute_trajectories(data, n_trajectories=4, n_steps=15, **place)
    return vl.simulate_flow(data, n_particles=12, n_steps=15, **place)


def test_everything_is_written_under_its_key(plain, done):
    assert set(done.obsm) - set(plain.obsm) == {
        "velot_velocity", "velot_velocity_raw", "velot_velocity_pca", "velot_velocity_umap",
    }  # fmt: skip
    assert set(done.obs) - set(plain.obs) == {"velot_spatial_cluster", "velot_confidence", "velot_growth"}
    assert set(done.uns) - set(plain.uns) == {
        "velot_windows", "velot_transport", "velot_smoothing", "velot_trajectories", "velot_flow",
    }  # fmt: skip
    assert np.array_equal(done.obsm["velot_velocity"], done.obsm["velot_velocity_pca"])
    assert not np.array_equal(done.obsm["velot_velocity"], done.obsm["velot_velocity_raw"])
    assert set(done.obs["velot_confidence"]) <= {0.0, 0.5, 1.0}
    table = done.uns["velot_trajectories"]["metadata"]
    assert table["id"].tolist() == [0, 1, 2, 3]
    assert {"start_cell", "direction", "origin_cluster", "terminal_cluster", "clusters_visited"} <= set(table.columns)
    assert done.uns["velot_trajectories"]["paths_pca"].shape[::2] == (4, 8)


def test_functions_return_the_object(plain):
    mine = plain.copy()
    assert vl.build_windows(mine) is mine
    assert vl.compute_ot_velocity(mine) is mine
    assert np.array_equal(mine.obsm["velot_velocity"], mine.obsm["velot_velocity_raw"])
    assert vl.smooth_velocity(mine, n_epochs=2, lambda_curl=0.0, verbose=False) is mine
    assert vl.project_to_umap(mine) is mine
    assert vl.compute_trajectories(mine, n_trajectories=2, n_steps=5) is mine
    assert vl.simulate_flow(mine, n_particles=5, n_steps=5) is mine


def test_the_steps_are_the_whole(plain, done):
    mine = plain.copy()
    vl.build_windows(mine)
    vl.compute_ot_velocity(mine)
    vl.smooth_velocity(mine, **QUICK, lambda_curl=0.0)
    vl.project_to_umap(mine)
    for key in ("velot_velocity_raw", "velot_velocity_pca", "velot_velocity_umap"):
        assert np.array_equal(mine.obsm[key], done.obsm[key])


def test_the_steps_are_those_of_the_model(kit, plain):
    """Equal settings give the model's velocity, raw and smooth."""
    mine = plain.copy()
    vl.velocity(mine, random_state=0, project_umap=False, windows="time", **QUICK)
    steps = 10 * -(-min(mine.n_obs, 1024) // 256)
    model = kit.fit(
        plain.copy(), lr=1.2e-2, n_steps=steps, batch_size=256, reg_scale=0.5, lambda_time=1.0, random_state=0
    )
    assert np.array_equal(model.get_velocity(kind="raw"), mine.obsm["velot_velocity_raw"])
    assert np.allclose(model.get_velocity(), mine.obsm["velot_velocity_pca"], atol=1e-5)


def same(read, data, prefix="velot_"):
    for key in [k for k in data.obsm if k.startswith(prefix)]:
        assert np.array_equal(read.obsm[key], data.obsm[key])
    assert read.uns["velot_trajectories"]["metadata"].equals(data.uns["velot_trajectories"]["metadata"])
    assert np.array_equal(read.uns["velot_flow"]["time"], data.uns["velot_flow"]["time"])


def goes_on(data, **place):
    """Every function that reads results takes those of a file."""
    mine = data.copy()
    vl.compute_ot_velocity(mine, **place)
    vl.smooth_velocity(mine, basis=place.get("basis", "pca"), n_epochs=1, verbose=False, **modality(place))
    vl.compute_trajectories(mine, n_trajectories=2, n_steps=5, **place)
    vl.simulate_flow(mine, n_particles=4, n_steps=5, **place)


def modality(place):
    return {k: v for k, v in place.items() if k == "modality"}


def test_h5ad_keeps_the_results(done, tmp_path):
    done.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    same(read, done)
    x = done.obsm["X_pca"][:9]
    assert np.array_equal(vl.query_velocity(read, x, 0.4), vl.query_velocity(done, x, 0.4))
    goes_on(read)


@pytest.fixture(scope="module")
def joint(plain):
    """Two modalities with the space, the picture and the columns on the MuData."""
    mdata = MuData({"rna": plain[:, :4].copy(), "atac": plain[:, 4:].copy()})
    mdata.obsm["X_joint"], mdata.obsm["X_umap"] = plain.obsm["X_pca"].copy(), plain.obsm["X_umap"].copy()
    mdata.obs["pseudotime"], mdata.obs["clusters"] = plain.obs["pseudotime"], plain.obs["clusters"]
    return mdata


def test_h5mu_keeps_the_results_of_a_joint_space(joint, done, tmp_path):
    mine = whole(joint.copy(), basis="X_joint")
    assert np.allclose(mine.obsm["velot_velocity_joint"], done.obsm["velot_velocity_pca"], atol=1e-5)
    assert mine.uns["velot_flow"]["paths_joint"].shape[2] == 8
    assert "velot_confidence" in mine.obs
    mine.write_h5mu(tmp_path / "a.h5mu")
    read = mudata.read_h5mu(tmp_path / "a.h5mu")
    same(read, mine)
    goes_on(read, basis="X_joint")


def test_h5mu_keeps_the_results_of_a_modality(joint, done, tmp_path):
    mine = whole(joint.copy(), modality="rna")
    assert not any(key.startswith("velot") for key in (*mine.obsm, *mine.uns))
    assert np.array_equal(mine["rna"].obsm["velot_velocity_pca"], done.obsm["velot_velocity_pca"])
    mine.write_h5mu(tmp_path / "a.h5mu")
    read = mudata.read_h5mu(tmp_path / "a.h5mu")
    same(read["rna"], mine["rna"])
    goes_on(read, modality="rna")


@pytest.mark.parametrize("change", [
    {"smooth": False}, {"windows": "spatial"}, {"window_size": 8}, {"reg": 0.2}, {"n_epochs": 3}, {"hidden_dim": 16},
    {"lambda_smooth": 2.0}, {"lambda_curl": 2.0}, {"lambda_divergence": 2.0}, {"use_pseudotime": False},
    {"random_state": 1}, {"difference": "forward"}, {"tau": 0.5}, {"batch_key": "batch"}, {"time_key": "late"},
], ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_argument_of_the_whole_acts(plain, change):
    def run(**kwargs):
        mine = plain.copy()
        mine.obs["batch"] = np.where(np.arange(mine.n_obs) % 2, "a", "b")
        mine.obs["late"] = mine.obs["pseudotime"] ** 2
        vl.velocity(mine, **{**QUICK, "n_epochs": 5, "project_umap": False, **kwargs})
        return mine.obsm["velot_velocity"]

    assert not np.array_equal(run(**change), run())


@pytest.mark.parametrize("change", [
    {"spatial_key": "clusters"}, {"n_clusters": 2}, {"window_size": 25}, {"overlap_fraction": 0.0},
    {"min_window_size": 50}, {"tail_handling": "drop"}, {"lambda_time": 0.0}, {"lambda_knn": 0.0}, {"reg": 0.2},
], ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_argument_of_spatial_windows_acts(plain, change):
    def run(**kwargs):
        mine = plain.copy()
        base = {"n_clusters": 3, "window_size": 30, "windows": "spatial", "smooth": False, "project_umap": False}
        vl.velocity(mine, **{**base, **kwargs})
        return mine.obsm["velot_velocity"]

    assert not np.array_equal(run(**change), run())


def test_neighbours_of_the_smoothing_act(plain):
    def run(k):
        mine = plain.copy()
        vl.velocity(mine, n_epochs=3, k_smooth=k, project_umap=False, verbose=False)
        return mine.obsm["velot_velocity"]

    assert not np.array_equal(run(5), run(40))


def test_same_seed_same_bits(plain, done):
    again = whole(plain.copy())
    for key in ("velot_velocity_raw", "velot_velocity_pca", "velot_velocity_umap"):
        assert np.array_equal(again.obsm[key], done.obsm[key])
    for key in ("velot_trajectories", "velot_flow"):
        assert np.array_equal(again.uns[key]["paths_pca"], done.uns[key]["paths_pca"])


def test_source_of_a_flow_lies_in_its_rectangle(plain, done):
    mine = done.copy()
    left, right = np.quantile(plain.obsm["X_umap"][:, 0], [0.4, 0.6])
    vl.simulate_flow(mine, n_particles=9, n_steps=3, source_x_lim=(left, right), source_pseudotime_max=1.0)
    start = mine.uns["velot_flow"]["metadata"]["start_cell"].to_numpy()
    assert ((left <= plain.obsm["X_umap"][start, 0]) & (plain.obsm["X_umap"][start, 0] <= right)).all()


def test_pictures_take_the_results(done):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    muport.pl.velocity_stream(done)
    muport.pl.velocity_quiver(done)
    muport.pl.confidence(done)
    muport.pl.windows(done)
    muport.pl.trajectories(done)
    muport.pl.flow(done)
    muport.pl.training_curves(done.uns["velot_smoothing"]["history"])
    plt.close("all")
