"""The model: what it answers, for its own cells and for others, with and without its data."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData

import muport
from muport.velocity import Velocity

CPU = {"accelerator": "cpu", "progress": False}


def test_velocity_is_that_of_the_simulation(kit, branching, fitted):
    error = muport.metrics.velocity_error(fitted.get_velocity(), branching.obsm["velocity"])
    assert error.cosine > 0.95
    assert error.magnitude < 0.15


def test_smooth_is_nearer_than_raw(kit, branching, fitted):
    truth = branching.obsm["velocity"]
    raw = fitted.get_velocity(kind="raw")
    assert raw.dtype == np.float32
    assert 0.6 < kit.cosine(raw, truth) < kit.cosine(fitted.get_velocity(), truth)


def test_real_time_is_in_units_of_that_time(kit):
    """Days in place of [0, 1]: the same field, slower by the length of the range."""
    days = (2.0, 4.0, 6.0, 8.0)
    adata = kit.draw("linear", days=days)
    model = kit.fit(adata, n_steps=100)
    error = muport.metrics.velocity_error(model.get_velocity(), adata.obsm["velocity"])
    assert error.cosine > 0.95
    assert error.magnitude < 0.3


def test_confidence_falls_where_uncertainty_rises(fitted):
    speed = np.linalg.norm(fitted.get_velocity(), axis=1)
    spread, confidence = fitted.get_uncertainty(), fitted.get_confidence()
    assert (spread > 0).all()
    assert np.allclose(confidence, speed**2 / (speed**2 + spread**2), rtol=1e-3)


def test_uncertainty_is_larger_far_from_the_data(branching, fitted):
    x, time = branching.obsm["X_pca"], branching.obs["time"]
    far = np.argsort(-np.linalg.norm(x - x.mean(0), axis=1))[:20]
    moved = x[far] + 2 * (x[far] - x.mean(0))
    _, near_std = fitted.query_velocity(x, time, return_std=True)
    _, far_std = fitted.query_velocity(moved, time.iloc[far], return_std=True)
    assert np.median(far_std) > np.median(near_std)


def test_query_at_the_cells_is_the_velocity(branching, fitted):
    asked = fitted.query_velocity(branching.obsm["X_pca"], branching.obs["time"].to_numpy())
    assert np.allclose(asked, fitted.get_velocity(), atol=1e-5)
    middle = fitted.query_velocity(branching.obsm["X_pca"][:5])
    assert np.array_equal(middle, fitted.query_velocity(branching.obsm["X_pca"][:5], branching.obs["time"].median()))


def test_growth_is_positive_where_a_branch_grows(kit):
    adata = kit.draw(n_cells=900, growth=0.8)
    late = (adata.obs["time"] > 0.5).to_numpy()
    growth = kit.fit(adata, tau=0.95, n_steps=5).get_growth()
    a, b = (growth[late & (adata.obs["branch"] == name).to_numpy()].mean() for name in "AB")
    assert a > b


def test_a_query_needs_neither_time_nor_setup(kit, branching, fitted):
    new = branching[::5].copy()
    before = fitted.get_velocity(new)
    del new.obs["time"], new.obs["branch"]
    columns = list(new.obs.columns)
    assert fitted.map_query(new).shape == (100, 32)
    assert kit.cosine(fitted.get_velocity(new), before) > 0.97
    assert list(new.obs.columns) == columns
    assert not new.uns.keys() - branching.uns.keys()


def test_saved_with_data_raw_velocity_is_recomputed(fitted, tmp_path):
    fitted.save(tmp_path / "m", save_anndata=True)
    again = Velocity.load(tmp_path / "m", accelerator="cpu")
    assert np.array_equal(again.get_velocity(kind="raw"), fitted.get_velocity(kind="raw"))
    assert np.array_equal(again.get_growth(), fitted.get_growth())
    assert np.array_equal(again.get_uncertainty(), fitted.get_uncertainty())
    assert again.metrics_ == fitted.metrics_
    assert again.settings_ == fitted.settings_


def test_raw_velocity_survives_another_order_of_the_cells(kit, fitted, branching, tmp_path):
    """Recomputed from the same settings on the same cells; only ties of time know the order, and there are none."""
    fitted.save(tmp_path / "m")
    adata = branching.copy()
    again = Velocity.load(tmp_path / "m", adata=adata, accelerator="cpu")
    assert np.array_equal(again.get_velocity(kind="raw"), fitted.get_velocity(kind="raw"))


def test_without_data_landmarks_answer(branching, fitted, tmp_path):
    fitted.save(tmp_path / "m")
    alone = Velocity.load(tmp_path / "m", adata=False, accelerator="cpu")
    x = branching.obsm["X_pca"][:7]
    assert np.array_equal(alone.query_velocity(x, 0.3), fitted.query_velocity(x, 0.3))
    paths = alone.compute_trajectories(start_cluster="trunk", n_trajectories=5, n_steps=30)
    assert paths.paths.x.shape[0] == 5
    assert alone.get_fates(["A", "B"]).shape == (500, 2)
    assert alone.get_velocity(branching.copy()).shape == (500, 8)
    for call in (alone.get_velocity, alone.get_growth, alone.get_drivers, lambda: alone.train(**CPU)):
        with pytest.raises(ValueError, match="without data|with its data"):
            call()


def test_same_seed_same_bits_and_the_global_generators_stay(kit, branching):
    def states():
        return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), random.getstate()  # noqa: NPY002

    before, threads = states(), torch.get_num_threads()
    one, two, other = (
        kit.fit(branching.copy(), {"labels_key": "branch"}, n_steps=30, random_state=s) for s in (3, 3, 4)
    )
    flows = [m.simulate_flow(n_particles=20, n_steps=20, random_state=5).paths.x for m in (one, two)]
    for m in (one, two):
        m.get_fates(["A", "B"])
        m.get_states(3)
        m.compute_trajectories(n_trajectories=3, n_steps=20)
    assert states() == before
    assert torch.get_num_threads() == threads
    assert np.array_equal(one.get_velocity(), two.get_velocity())
    assert np.array_equal(one.get_uncertainty(), two.get_uncertainty())
    assert np.array_equal(*flows)
    assert not np.array_equal(one.get_velocity(), other.get_velocity())


@pytest.mark.parametrize("change", [
    {"window_fraction": 0.2}, {"window_size": 8}, {"reg": 0.5}, {"reg_scale": 3.0}, {"tau": 0.5}, {"n_steps": 20},
    {"batch_size": 64}, {"lr": 1e-3}, {"lambda_smooth": 1.0}, {"lambda_curl": 5.0}, {"lambda_divergence": 5.0},
    {"random_state": 7},
], ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_hyperparameter_of_training_acts(plain_fit, change):
    fit, base = plain_fit
    assert not np.array_equal(fit(change), base)


@pytest.fixture(scope="module")
def plain_fit(kit):
    adata = kit.draw(n_cells=300)

    def fit(change):
        return kit.fit(adata, **{"n_steps": 15, **change}).get_velocity()

    return fit, fit({})


SPATIAL = [
    {"n_clusters": 2}, {"window_size": 25}, {"overlap_fraction": 0.1}, {"min_window_size": 45},
    {"tail_handling": "drop"}, {"lambda_time": 1.0}, {"lambda_knn": 1.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def spatial(kit):
    adata = kit.draw(n_cells=310)

    def fit(change):
        base = {"n_clusters": 3, "window_size": 30, "reg": 0.05, "n_steps": 2}
        return kit.fit(adata, model={"windows": "spatial"}, **{**base, **change}).get_velocity(kind="raw")

    return fit, fit({})


@pytest.mark.parametrize("change", SPATIAL, ids=lambda c: next(iter(c)))
def test_every_hyperparameter_of_spatial_windows_acts(spatial, change):
    fit, base = spatial
    assert not np.array_equal(fit(change), base)


def test_tail_threshold_acts_on_split_tails(spatial):
    fit, _ = spatial
    few, many = (fit({"tail_handling": "split", "tail_threshold": n}) for n in (2, 30))
    assert not np.array_equal(few, many)


@pytest.mark.parametrize("design", [
    {"difference": "forward"}, {"windows": "spatial"}, {"hidden_dim": 16}, {"n_latent": 4}, {"use_time": False},
], ids=lambda c: next(iter(c)))  # fmt: skip
def test_every_choice_of_design_acts(plain_fit, kit, design):
    model = kit.fit(kit.draw(n_cells=300), model=design, n_steps=15)
    assert not np.array_equal(model.get_velocity(), plain_fit[1])
    assert model.get_latent_representation().shape[1] == design.get("n_latent", 32)


def test_without_time_the_field_is_of_place_only(kit):
    adata = kit.draw(n_cells=300)
    model = kit.fit(adata, model={"use_time": False}, n_steps=15)
    x = adata.obsm["X_pca"][:9]
    assert np.array_equal(model.query_velocity(x, 0.1), model.query_velocity(x, 0.9))


def test_smoothness_smooths(kit):
    """The penalty on differences of neighbours lowers just these."""
    adata = kit.draw(n_cells=300, noise=0.5)
    near = muport.neighbors.knn(adata.obsm["X_pca"], 10).indices

    def roughness(weight):
        v = kit.fit(adata, n_steps=80, lambda_smooth=weight).get_velocity()
        return np.square(v[near] - v[:, None]).mean() / np.square(v).mean()

    assert roughness(20.0) < roughness(0.0)


def test_batches_and_regions_reach_the_windows(kit):
    adata = kit.draw(n_cells=400, n_batches=2)
    adata.obs["region"] = np.where(adata.obs["branch"] == "A", 1, 0)
    plain = kit.fit(adata, n_steps=2).get_velocity(kind="raw")
    batched = kit.fit(adata, {"batch_key": "batch"}, n_steps=2).get_velocity(kind="raw")
    assert not np.array_equal(plain, batched)
    design = {"windows": "spatial"}
    found = kit.fit(adata, model=design, n_steps=2).get_velocity(kind="raw")
    given = kit.fit(adata, {"spatial_key": "region"}, design, n_steps=2).get_velocity(kind="raw")
    assert not np.array_equal(found, given)


def test_fates_follow_the_branches(branching, fitted):
    fates = fitted.get_fates(["A", "B"])
    assert np.allclose(fates.sum(axis=1), 1)
    assert fates.index.equals(branching.obs_names)
    branch = branching.obs["branch"].to_numpy()
    assert (fates["A"][branch == "A"] == 1).all()
    early = fates["A"][(branching.obs["time"] < 0.2).to_numpy()]
    assert 0.2 < early.mean() < 0.8


def test_ends_are_found_and_named(branching, fitted):
    fates = fitted.get_fates()
    assert set(fates.columns) == {"A", "B"}
    late = (branching.obs["time"] > 0.8).to_numpy()
    for name in "AB":
        assert fates[name][late & (branching.obs["branch"] == name).to_numpy()].mean() > 0.9


def test_one_end_is_warned_of_and_has_no_drivers(kit):
    adata = kit.draw("linear", n_cells=400)
    adata.obs["part"] = np.where(adata.obs["time"] < 0.5, "early", np.where(adata.obs["time"] < 0.8, "middle", "end"))
    model = kit.fit(adata, {"labels_key": "part"}, n_steps=200)
    with pytest.warns(UserWarning, match=r"one end, 'end'.*\['middle', 'early'\] have the latest cells"):
        fates = model.get_fates()
    assert list(fates.columns) == ["end"]
    with pytest.raises(ValueError, match=r"the same probabilities of \['end'\].*name at least two ends"):
        model.get_drivers(fates)


def test_a_cycle_has_no_end(kit):
    adata = kit.draw("cycle", n_cells=600)
    model = kit.fit(adata, {"labels_key": "branch"}, n_steps=200)
    with pytest.raises(ValueError, match="no end.*terminal_states"):
        model.get_fates()


def test_committor_runs_from_source_to_sink(branching, fitted):
    values = fitted.get_committor("trunk", "B")
    branch = branching.obs["branch"].to_numpy()
    assert (values[branch == "trunk"] == 0).all()
    assert (values[branch == "B"] == 1).all()
    assert values.between(0, 1).all()
    assert values.name == "trunk to B"


def test_states_are_ordered_and_have_roles(branching, fitted):
    states = fitted.get_states(4)
    assert states.membership.shape == (500, 4)
    assert np.allclose(states.membership.sum(axis=1), 1, atol=1e-6)
    assert len(states.roles) == 4
    assert "terminal" in states.roles
    assert "initial" in states.roles


def test_drivers_are_the_features_of_a_branch(kit, branching, fitted):
    """The coordinate whose mean differs most between the branches is first or last; its p-value is small."""
    fates = fitted.get_fates(["A", "B"])
    table = fitted.get_drivers(fates)
    assert list(table.columns) == ["fate", "feature", "correlation", "p_value", "q_value"]
    assert len(table) == 2 * branching.n_vars
    expected = {
        name: np.corrcoef(np.asarray(branching.X[:, j]), fates["A"])[0, 1] for j, name in enumerate(branching.var_names)
    }
    mine = table[table["fate"] == "A"].set_index("feature")["correlation"]
    assert mine.is_monotonic_decreasing
    assert all(abs(mine[name] - value) < 1e-4 for name, value in expected.items())
    assert table["p_value"].between(0, 1).all()


def test_features_move_as_their_loadings(branching, fitted):
    loadings = np.random.default_rng(0).normal(size=(5, 8))
    assert np.allclose(fitted.get_feature_velocity(loadings), fitted.get_velocity() @ loadings.T, atol=1e-3)


def test_transition_matrix_is_a_chain_that_goes_on(branching, fitted):
    kernels = [fitted.get_transition_matrix(), fitted.get_transition_matrix(kernel="velocity")]
    time = branching.obs["time"].to_numpy()
    middle = (time > 0.1) & (time < 0.8)
    for kernel, least in zip(kernels, (0.8, 0.9), strict=True):
        assert kernel.shape == (500, 500)
        assert np.allclose(kernel.sum(axis=1), 1)
        assert ((kernel @ time - time)[middle] > 0).mean() > least


def test_trajectories_stay_in_their_branch(fitted):
    found = fitted.compute_trajectories(start_cluster="A", n_trajectories=10, n_steps=40)
    assert set(found.terminal) == {"A"}
    back = fitted.compute_trajectories(start_cluster="A", direction="backward", n_trajectories=10, n_steps=40)
    assert (np.array(back.origin) == "trunk").mean() > 0.8


def test_every_argument_of_trajectories_acts(branching, fitted):
    def ends(**change):
        found = fitted.compute_trajectories(**{"n_trajectories": 6, "n_steps": 15, "start_cluster": "trunk", **change})
        return found.paths.x

    base = ends()
    for change in (
        {"start_cells": [0, 1], "start_cluster": None}, {"start_cluster": "A"}, {"target_cluster": "B"},
        {"start_pseudotime": 0.3}, {"end_pseudotime": 0.1}, {"n_trajectories": 7}, {"n_steps": 10}, {"step_size": 0.1},
        {"direction": "backward"}, {"direction": "both"}, {"use_network": False}, {"evolve_pseudotime": False},
        {"random_state": 1}, {"stop_pseudotime": 0.6},
    ):  # fmt: skip
        changed = ends(**change)
        assert changed.shape != base.shape or not np.array_equal(changed, base), change
    near, far = (ends(use_network=False, k_velocity=k) for k in (3, 60))
    assert not np.array_equal(near, far)
    reached = fitted.compute_trajectories(start_cluster="trunk", target_cluster="B", n_trajectories=6, n_steps=40)
    assert set(reached.terminal) == {"B"}


def test_paths_end_at_a_time_and_keep_the_names_of_cells(branching, fitted):
    found = fitted.compute_trajectories(start_cluster="trunk", n_trajectories=5, stop_pseudotime=0.5)
    assert np.allclose(found.paths.time[:, -1], 0.5) or (found.paths.time[:, -1] <= 0.5 + 1e-6).all()
    assert list(found.start_name) == list(branching.obs_names[found.start_cell])
    assert np.array_equal(found.cell_name[:, 0], found.start_name)
    for given in ({"end_pseudotime": 0.5}, {"start_cluster": "A"}):
        with pytest.raises(ValueError, match="start_cells and .* are both given"):
            fitted.compute_trajectories(start_cells=[0], **given)
    with pytest.raises(ValueError, match="stop_pseudotime=7"):
        fitted.compute_trajectories(stop_pseudotime=7)
    with pytest.raises(ValueError, match="evolve_pseudotime=True"):
        fitted.compute_trajectories(stop_pseudotime=0.5, evolve_pseudotime=False)


def test_the_field_of_a_model_is_followed_by_the_functions(branching, fitted):
    start = branching.obsm["X_pca"][:4]
    for function in (muport.velocity.integrate, muport.velocity.simulate):
        options = {"diffusion": 0.0} if function is muport.velocity.simulate else {}
        paths = function(fitted.query_velocity, start, 0.1, 0.4, n_steps=3, **options)
        assert paths.x.shape == (4, 4, 8)
        assert np.isfinite(paths.ends).all()
        assert not np.allclose(paths.ends, start)


def test_fewer_steps_than_asked_for_are_reported(kit):
    noisy = kit.draw(n_cells=200)
    noisy.obsm["X_pca"] = noisy.obsm["X_pca"] + np.random.default_rng(0).normal(scale=3, size=noisy.obsm["X_pca"].shape)
    with pytest.warns(UserWarning, match=r"of n_steps=900 steps.*denoise=False"):
        model = kit.fit(noisy, n_steps=900)
    assert model.metrics_["n_steps"] == len(model.history_["loss"]) < 900


def test_indices_choose_cells(branching, fitted):
    chosen = list(branching.obs_names[[5, 2]])
    assert np.array_equal(fitted.get_velocity(adata=branching, indices=chosen), fitted.get_velocity()[[5, 2]])
    assert fitted.get_latent_representation(branching, [1]).shape == (1, 32)


def test_every_argument_of_flows_acts(fitted):
    def ends(**change):
        return fitted.simulate_flow(**{"n_particles": 30, "n_steps": 15, **change}).paths.x

    base = ends()
    for change in (
        {"n_particles": 20}, {"source_cluster": "B"}, {"source_pseudotime_min": 0.05}, {"source_pseudotime_max": 0.5},
        {"n_steps": 8}, {"step_size": 0.1}, {"diffusion": 0.0}, {"noise_scale": 0.3}, {"random_state": 1},
    ):  # fmt: skip
        changed = ends(**change)
        assert changed.shape != base.shape or not np.array_equal(changed, base), change


def test_a_picture_of_the_velocities(kit, branching, fitted):
    rotation = np.linalg.svd(branching.obsm["X_true"])[2][:2].T
    drawn = fitted.project_to_embedding(branching.obsm["X_umap"])
    assert drawn.shape == (500, 2)
    assert kit.cosine(drawn, fitted.get_velocity() @ rotation) > 0.9


def test_training_writes_only_the_setup(kit):
    adata, fresh = kit.draw(n_cells=300), kit.draw(n_cells=300)
    model = kit.fit(adata, n_steps=5)
    model.get_velocity()
    model.compute_trajectories(n_trajectories=2, n_steps=5)
    assert set(adata.obsm) == set(fresh.obsm)
    assert all(np.array_equal(adata.obsm[key], fresh.obsm[key]) for key in fresh.obsm)
    assert set(adata.obs.columns) - set(fresh.obs.columns) == {c for c in adata.obs.columns if c.startswith("_scvi")}


def test_history_and_metrics(fitted):
    assert len(fitted.history_["loss"]) == 200
    assert set(fitted.metrics_) == {"converged", "covered", "loss", "n_steps", "speed"}
    assert fitted.metrics_["covered"] == 1
    assert 0 <= fitted.metrics_["converged"] <= 1


def test_rows_of_a_mudata_follow_names(kit):
    adata = kit.draw(n_cells=300)
    mdata = MuData({"rna": adata.copy()})
    Velocity.setup_mudata(mdata, use_rep={"rna": "X_pca"}, time_key="rna:time")
    model = Velocity(mdata)
    model.train(n_steps=20, **CPU)
    single = kit.fit(adata, n_steps=20)
    assert np.allclose(model.get_velocity(), single.get_velocity(), atol=1e-5)
    turned = MuData({"rna": mdata["rna"][::-1].copy()})
    assert np.allclose(model.get_velocity(turned), model.get_velocity()[::-1], atol=1e-5)


def test_fates_are_a_table_of_the_cells(fitted, branching):
    assert isinstance(fitted.get_fates(["A", "B"]), pd.DataFrame)
    with pytest.warns(UserWarning, match="reach no terminal state"):
        assert list(fitted.get_fates("A", kernel="velocity").columns) == ["A"]
    assert len(fitted.get_fates(["A", "B"])) == branching.n_obs
