"""Velocity on the latent space of an integration, from set-up to trajectories."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
from mudata import MuData

import muport

CPU = {"accelerator": "cpu", "progress": False}


@pytest.fixture(scope="module")
def mdata(kit) -> MuData:
    """Two batches of one process, of which the second is moved away."""
    adata = kit.draw(n_cells=600, n_batches=2)
    second = (adata.obs["batch"] == "batch1").to_numpy()
    adata.obsm["X_pca"] = adata.obsm["X_pca"] + np.float32(3.0) * second[:, None] * np.eye(8, dtype=np.float32)[7]
    mdata = MuData({"rna": adata})
    muport.Integration.setup_mudata(mdata, use_rep={"rna": "X_pca"}, batch_key="rna:batch")
    model = muport.Integration(mdata, sharpen=0.0)
    model.train(max_iter=4, random_state=0, **CPU)
    mdata.obsm["X_integration"] = model.get_latent_representation()
    return mdata


@pytest.fixture(scope="module")
def model(mdata):
    muport.Velocity.setup_mudata(
        mdata, use_rep="X_integration", time_key="rna:time", labels_key="rna:branch", batch_key="rna:batch"
    )
    model = muport.Velocity(mdata)
    model.train(n_steps=150, **CPU)
    return model


def test_velocity_of_the_integrated_cells(kit, mdata, model):
    velocity = model.get_velocity()
    assert velocity.shape == mdata.obsm["X_integration"].shape
    assert kit.cosine(velocity, mdata["rna"].obsm["velocity"]) > 0.9


def test_from_training_to_trajectories_through_a_file(mdata, model, tmp_path):
    model.save(tmp_path / "m", save_anndata=True)
    again = muport.Velocity.load(tmp_path / "m", accelerator="cpu")
    assert np.array_equal(again.get_velocity(), model.get_velocity())
    # beyond the noise of the split
    beyond = {"start_cluster": "A", "start_pseudotime": 0.6, "n_trajectories": 8, "n_steps": 40}
    paths = again.compute_trajectories(**beyond)
    assert (paths.terminal == "A").all()
    assert np.array_equal(paths.paths.x, model.compute_trajectories(**beyond).paths.x)
    fates = again.get_fates(["A", "B"])
    assert fates.index.equals(mdata.obs_names)


def test_latent_of_new_cells_is_found(mdata, model):
    query = mdata[:40].copy()
    assert np.allclose(model.get_velocity(query), model.get_velocity()[:40], atol=1e-5)


def test_functions_on_the_integrated_space(mdata, tmp_path):
    mine = mdata.copy()
    mine.obs["pseudotime"] = mine["rna"].obs["time"]
    muport.velocity.velocity(
        mine, basis="X_integration", n_epochs=5, lambda_smooth=0.0, project_umap=False, verbose=False
    )
    mine.write_h5mu(tmp_path / "a.h5mu")
    read = mudata.read_h5mu(tmp_path / "a.h5mu")
    assert np.array_equal(read.obsm["velot_velocity_integration"], mine.obsm["velot_velocity_integration"])
    muport.velocity.compute_trajectories(read, n_trajectories=2, n_steps=5, basis="X_integration")
    assert read.uns["velot_trajectories"]["paths_integration"].shape[2] == 8


def test_rna_and_atac_in_one_latent_space(kit):
    """Unpaired cells of two modalities, one field over both."""
    whole = kit.draw(n_cells=600)
    half = np.arange(600) % 2 == 0
    rna, atac = whole[half].copy(), whole[~half].copy()
    mdata = MuData({"rna": rna, "atac": atac})
    muport.Integration.setup_mudata(
        mdata, use_rep={"rna": "X_pca", "atac": "X_pca"}, shared_rep="X_pca", batch_key=None
    )
    integration = muport.Integration(mdata, sharpen=0.0)
    integration.train(max_iter=3, random_state=0, **CPU)
    mdata.obsm["X_integration"] = integration.get_latent_representation()
    muport.Velocity.setup_mudata(mdata, use_rep="X_integration", time_key="time", labels_key="branch")
    model = muport.Velocity(mdata)
    model.train(n_steps=100, **CPU)
    truth = whole[mdata.obs_names].obsm["velocity"]
    assert kit.cosine(model.get_velocity(), truth) > 0.9
