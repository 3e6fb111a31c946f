"""Models one after the other: cells that move through the joint space of their modalities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

from muport.datasets import simulated_dynamics
from muport.integration import Integration
from muport.velocity import Velocity

QUIET = {"accelerator": "cpu", "progress": False}


@pytest.fixture(scope="module")
def multiome() -> MuData:
    """A fork that RNA and ATAC see by different coordinates, in two batches; some cells have but one of them."""
    cells = simulated_dynamics("bifurcation", n_cells=600, n_dims=12, noise=0.1, random_state=0)
    x, rng = cells.obsm["X_pca"], np.random.default_rng(0)
    batch = rng.integers(2, size=600)
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "time": cells.obs["time"].to_numpy()}, cells.obs_names)
    obs["branch"] = cells.obs["branch"].to_numpy()
    views = {"rna": x @ rng.normal(size=(12, 10)), "atac": x @ rng.normal(size=(12, 8))}
    mods = {}
    for (name, view), rows in zip(views.items(), (slice(None, 570), slice(30, None)), strict=True):
        moved = view + 0.5 * view.std() * batch[:, None]
        mods[name] = AnnData(np.ones((600, 1), np.float32), obs.copy(), obsm={"X_own": moved.astype(np.float32)})[rows]
        mods[name].var_names = [f"{name}0"]
    return MuData({name: part.copy() for name, part in mods.items()})


def test_velocity_in_the_joint_space(multiome, tmp_path):
    Integration.setup_mudata(multiome, use_rep={"rna": "X_own", "atac": "X_own"}, batch_key="batch")
    model = Integration(multiome, sharpen=0)
    model.train(**QUIET)
    multiome.obsm["X_integration"] = model.get_latent_representation()
    Velocity.setup_mudata(multiome, use_rep="X_integration", time_key="time", labels_key="branch", batch_key="batch")
    field = Velocity(multiome)
    field.train(n_steps=150, n_bootstrap=4, **QUIET)
    v = field.get_velocity()
    assert v.shape == multiome.obsm["X_integration"].shape
    field.save(tmp_path / "field")
    again = Velocity.load(tmp_path / "field", adata=multiome, accelerator="cpu")
    assert np.array_equal(again.get_velocity(), v)
    paths = again.compute_trajectories(
        start_pseudotime=0.0, end_pseudotime=0.1, n_trajectories=20, random_state=0
    ).paths
    assert np.isfinite(paths.x[:, 0]).all()
    # along the field time passes: a step ahead lies among cells of a later time
    x, (rna, atac) = multiome.obsm["X_integration"], (part.obs["time"] for part in multiome.mod.values())
    time = rna.reindex(multiome.obs_names).fillna(atac).to_numpy()
    inner = np.flatnonzero(time < 0.8)
    ahead = np.linalg.norm((x[inner] + 0.15 * v[inner])[:, None] - x, axis=2).argmin(axis=1)
    assert (time[ahead] > time[inner]).mean() > 0.8
