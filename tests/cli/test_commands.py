"""Each command, from a file to a file."""

from __future__ import annotations

import argparse
import json

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest

from muport import cli, datasets
from muport.cli._velocity_command import _check_basis, _embedding
from muport.integration import Integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two batches with half of the labels, unpaired modalities, a process in time, and a cohort."""
    folder = tmp_path_factory.mktemp("commands")
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(3, size=240), rng.integers(2, size=240)
    x = (4 * np.eye(3, 8)[kind] + 0.4 * rng.normal(size=(240, 8)) + batch[:, None]).astype(np.float32)
    obs = pd.DataFrame({"batch": np.array(["a", "b"])[batch], "type": np.array(["A", "B", "C"])[kind]})
    obs["known"] = np.where(batch == 0, obs["type"], "unknown")
    obs.index = [f"c{i}" for i in range(240)]
    batches = anndata.AnnData(np.ones((240, 2), np.float32), obs, obsm={"X_pca": x, "X_umap": x[:, :2]})
    batches.write(folder / "batches.h5ad")
    atac = batches[120:].copy()
    atac.obs_names = [f"d{i}" for i in range(120)]
    atac.var_names = ["p0", "p1"]
    mudata.MuData({"rna": batches[:120].copy(), "atac": atac}).write(folder / "two.h5mu")
    moving = datasets.simulated_dynamics("linear", n_cells=300, n_dims=6, random_state=0)
    moving.obs["stage"] = pd.cut(moving.obs["time"], 3, labels=["early", "middle", "late"])
    moving.obsm["X_umap"] = moving.obsm["X_pca"][:, :2]
    moving.write(folder / "moving.h5ad")
    datasets.simulated_cohort(n_patients=6, n_cells=60, n_dims=5, random_state=0).write(folder / "cohort.h5ad")
    return folder


BATCHES = ("--batch-key", "batch")


def run(folder, capsys, *argv):
    code = cli.main([argv[0], str(folder / argv[1]), *argv[2:], "--json"])
    summary = capsys.readouterr()
    assert code == 0, summary.err
    return json.loads(summary.out)


def test_integrate(folder, tmp_path, capsys):
    summary = run(
        folder, capsys, "integrate", "batches.h5ad", "-o", str(tmp_path / "out.h5ad"), "--save", str(tmp_path / "m"),
        *BATCHES,
    )  # fmt: skip
    assert summary["cells"] == 240
    assert summary["metrics"]["mix"] > summary["metrics"]["mix_input"]
    assert summary["written"] == [str(tmp_path / "m"), str(tmp_path / "out.h5ad")]
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    model = Integration.load(tmp_path / "m", adata=False)
    assert np.array_equal(model.map_query(out), out.obsm["X_muport"])
    assert set(out.obs.columns) == {"batch", "type", "known"}


@pytest.mark.parametrize("command", ["integrate", "atlas"])
def test_batch_variables_and_covariates(folder, tmp_path, capsys, command):
    adata = anndata.read_h5ad(folder / "batches.h5ad")
    rng = np.random.default_rng(0)
    adata.obs["plate"], adata.obs["depth"] = rng.choice(["p", "q"], 240), rng.normal(size=240)
    adata.write(tmp_path / "cells.h5ad")
    columns = ["--batch-key", "batch", "plate", "--continuous-covariate-keys", "depth"]
    argv = ["cells.h5ad", "-o", str(tmp_path / "out.zarr"), *columns, "--strength", "batch=1", "plate=0"]
    summary = run(tmp_path, capsys, command, *argv)
    assert {"r2_left_batch", "r2_left_plate", "confounded_depth"} <= summary["metrics"].keys()
    assert summary["settings"]["strength"] == {"batch": 1, "plate": 0}


def test_a_saved_model_maps(folder, tmp_path, capsys):
    first, second = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    run(folder, capsys, "integrate", "batches.h5ad", "-o", str(first), "--save", str(tmp_path / "m"), *BATCHES)
    run(folder, capsys, "integrate", "batches.h5ad", "-o", str(second), "--load", str(tmp_path / "m"))
    assert np.array_equal(*(anndata.read_h5ad(path).obsm["X_muport"] for path in (first, second)))
    argv = ["integrate", str(folder / "batches.h5ad"), "-o", str(second), "--load", str(tmp_path / "m"), "--force"]
    assert cli.main([*argv, "--plot", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().err
    assert "muport integrate: 240 cells" in printed
    assert "\u250c" not in printed  # nothing was fitted, so there is no table, and no empty one
    assert (tmp_path / "pictures" / "cells.png").exists()


@pytest.mark.promise("Cells that the command line maps from counts get the labels that cells of the fit get")
def test_a_saved_model_maps_counts(tmp_path, capsys):
    mdata = datasets.simulated_multiome(n_cells=300, paired=True, random_state=0)
    cells = mdata["rna"].copy()
    cells[:240].write(tmp_path / "old.h5ad")
    cells[240:].write(tmp_path / "new.h5ad")
    options = ["--prepare", "--labels-key", "cell_type", *BATCHES]
    model = str(tmp_path / "m")
    run(tmp_path, capsys, "transfer", "old.h5ad", "-o", str(tmp_path / "a.h5ad"), *options, "--save", model)
    run(tmp_path, capsys, "transfer", "new.h5ad", "-o", str(tmp_path / "b.h5ad"), *options, "--load", model)
    new = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert np.mean(new.obs["prediction"].astype(str) == new.obs["cell_type"].astype(str)) > 0.9
    mapped = Integration.load(model, adata=False).map_query(cells[240:].copy())
    assert np.allclose(new.obsm["X_muport"], mapped)


def test_transfer(folder, tmp_path, capsys):
    argv = ("transfer", "batches.h5ad", "-o", str(tmp_path / "out.zarr"), "--labels-key", "known", *BATCHES)
    summary = run(folder, capsys, *argv)
    out = anndata.read_zarr(tmp_path / "out.zarr")
    assert (out.obs["prediction"].astype(str) == out.obs["type"].astype(str)).mean() > 0.95
    assert out.obs["prediction_confidence"].between(0, 1).all()
    assert summary["metrics"]["labels"] == 3


def test_integrate_modalities(folder, tmp_path, capsys):
    argv = ("integrate", "two.h5mu", "-o", str(tmp_path / "out.h5mu"), "--shared-rep", "X_pca", *BATCHES)
    assert run(folder, capsys, *argv)["cells"] == 240
    assert mudata.read_h5mu(tmp_path / "out.h5mu").obsm["X_muport"].shape == (240, 8)


def test_atlas(folder, tmp_path, capsys):
    argv = ("atlas", "batches.h5ad", "-o", str(tmp_path / "out.zarr"))
    summary = run(folder, capsys, *argv)
    assert (summary["cells"], summary["written"]) == (240, [str(tmp_path / "out.zarr")])
    first = anndata.read_zarr(tmp_path / "out.zarr")
    assert first.obsm["scBIOT"].shape == (240, 8)
    assert cli.main([argv[0], str(folder / argv[1]), *argv[2:]]) == 1
    assert "--force" in capsys.readouterr().err
    run(folder, capsys, *argv, "--force", "--strength", "0")
    second = anndata.read_zarr(tmp_path / "out.zarr")
    assert not np.array_equal(first.obsm["scBIOT"], second.obsm["scBIOT"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


@pytest.mark.promise("An interrupted or failed call leaves the earlier result whole, and the next call goes on")
def test_a_failed_atlas_leaves_the_old_one(folder, tmp_path, capsys):
    (tmp_path / "out.npy").write_bytes(b"mine")
    argv = ["atlas", str(folder / "batches.h5ad"), "-o", str(tmp_path / "out.npy"), "--force", "--batch-key", "plate"]
    assert cli.main(argv) == 1
    assert (tmp_path / "out.npy").read_bytes() == b"mine"


def test_velocity(folder, tmp_path, capsys):
    argv = ("--time-key", "time", "--labels-key", "stage", "--basis", "X_umap", "--terminal", "late", "--steps", "60")
    summary = run(folder, capsys, "velocity", "moving.h5ad", "-o", str(tmp_path / "out.h5ad"), *argv)
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    truth, found = out.obsm["velocity"], out.obsm["velot_velocity"]
    cosine = (truth * found).sum(1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(found, axis=1)
    assert cosine.mean() > 0.9
    assert out.obsm["velot_velocity_umap"].shape == (300, 2)
    assert summary["metrics"]["fate late"] == pytest.approx(1, abs=0.01)


def test_velocity_from_a_root(folder, tmp_path, capsys):
    argv = ("--root", "early", "--labels-key", "stage", "--steps", "30")
    run(folder, capsys, "velocity", "moving.h5ad", "-o", str(tmp_path / "out.h5ad"), *argv)
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.corrcoef(out.obs["pseudotime"], out.obs["time"])[0, 1] > 0.9


def test_velocity_of_a_time_course(folder, tmp_path, capsys):
    cells = anndata.read_h5ad(folder / "moving.h5ad")
    cells.obs["day"] = [f"E{round(3 * time):g}" for time in cells.obs["time"]]
    cells.obs["clone"] = [f"clone{i % 9}" for i in range(cells.n_obs)]
    cells.write(tmp_path / "days.h5ad")
    argv = ("velocity", "days.h5ad", "-o", str(tmp_path / "out.h5ad"), "--time", "day", "--steps", "20")
    summary = run(tmp_path, capsys, *argv, "--predict-day", "1.5", "--growth", "--clone-key", "clone")
    assert np.isfinite(anndata.read_h5ad(tmp_path / "out.h5ad").obs["velot_growth"]).all()
    predicted = anndata.read_h5ad(tmp_path / "out_day_1.5.h5ad")
    assert predicted.n_obs == summary["metrics"]["predicted_cells"] == 1000
    assert str(tmp_path / "out_day_1.5.h5ad") in summary["written"]
    # day 1.5 is time .5 of the simulation, which the command has not seen
    near = (cells.obs["time"] - 0.5).abs() < 0.1
    assert np.abs(predicted.obsm["X_pca"].mean(axis=0) - cells.obsm["X_pca"][near.to_numpy()].mean(axis=0)).max() < 0.2
    assert cli.main([*argv[:1], str(tmp_path / "days.h5ad"), *argv[2:], "--predict-day", "1.5", "--force"]) == 0
    (tmp_path / "out.h5ad").unlink()
    assert cli.main([*argv[:1], str(tmp_path / "days.h5ad"), *argv[2:], "--predict-day", "1.5"]) == 1
    assert "--predict-day" in capsys.readouterr().err


def test_gmm(folder, tmp_path, capsys):
    argv = ("--condition-key", "condition", "--components", "3", "--folds", "3", "--tables", str(tmp_path / "tables"))
    summary = run(folder, capsys, "gmm", "cohort.h5ad", "-o", str(tmp_path / "out.h5ad"), *argv)
    assert summary["metrics"]["samples"] == 6
    assert 0 <= summary["metrics"]["auroc"] <= 1
    distances = pd.read_csv(tmp_path / "tables" / "distances.csv", index_col=0)
    assert distances.shape == (6, 6)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        "distances.csv",
        "embedding.csv",
        "conditions.csv",
        "held_out.csv",
    }
    held_out = pd.read_csv(tmp_path / "tables" / "held_out.csv", index_col=0)
    assert set(held_out.index) == set(distances.index)
    assert "X_gmm" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm


def test_info(folder, tmp_path, capsys):
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["muport"]
    assert cli.main(["info", str(folder / "two.h5mu"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["cells"], summary["modalities"]["rna"]["obsm"]["X_pca"]) == (240, "120x8")
    run(folder, capsys, "integrate", "batches.h5ad", "-o", str(tmp_path / "o.h5ad"), "--save", str(tmp_path / "m"))
    assert cli.main(["info", str(tmp_path / "m")]) == 0
    assert "Integration" in capsys.readouterr().out


@pytest.mark.promise("Malformed files and options are refused in one line, and nothing is written")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["integrate", "none.h5ad", "-o", "out.h5ad"], "does not exist"),
        (["integrate", "batches.h5ad", "-o", "batches.h5ad"], "--force"),
        (["integrate", "batches.h5ad", "-o", "out.h5mu"], ".h5ad or .zarr"),
        (["integrate", "batches.h5ad", "-o", "out.h5ad", "--batch-key", "plate"], "'plate'"),
        (["integrate", "batches.h5ad", "-o", "out.h5ad", "--strength", "2"], "strength=2"),
        (["integrate", "batches.h5ad", "-o", "out.h5ad", "--key", ""], "--key ''"),
        (["integrate", "batches.h5ad", "-o", "out.h5ad", "--use-rep", "rna=X_pca"], "one obsm key"),
        (["transfer", "batches.h5ad", "-o", "out.h5ad"], "--labels-key"),
        (["velocity", "moving.h5ad", "-o", "out.h5ad", "--time-key", "age"], "'age'"),
        (["velocity", "moving.h5ad", "-o", "out.h5ad", "--root", "early"], "--labels-key"),
        (["gmm", "cohort.h5ad", "-o", "out.h5ad", "--folds", "3"], "--condition-key"),
        (["atlas", "batches.h5ad", "-o", "out.zarr", "--obsm-key", "X_none"], "X_none"),
        (["info", "none.h5ad"], "does not exist"),
    ],
)
def test_errors_are_one_line_and_write_nothing(folder, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"muport {argv[0]}: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_without_json_the_summary_goes_to_stderr(folder, tmp_path, capsys):
    assert cli.main(["integrate", str(folder / "batches.h5ad"), "-o", str(tmp_path / "out.h5ad")]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "240 cells" in printed.err
    assert cli.main(["integrate", str(folder / "batches.h5ad"), "-o", str(tmp_path / "b.h5ad"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_an_embedding_of_a_modality_is_matched_by_name():
    cells = anndata.AnnData(np.ones((3, 1), np.float32), pd.DataFrame(index=["a", "b", "c"]))
    other = cells[::-1].copy()
    other.var_names, other.obsm["X_umap"] = ["p"], np.array([[2.0, 0], [1, 0], [0, 0]])
    mdata = mudata.MuData({"rna": cells, "atac": other})
    table = _embedding(mdata, "X_umap")
    assert table.loc[["a", "b", "c"], 0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="--plot.*'X_umap' is in a modality only"):
        _check_basis(mdata, argparse.Namespace(basis="X_umap", plot="folder"))
    with pytest.raises(KeyError, match="no obsm of all cells"):
        _check_basis(mdata, argparse.Namespace(basis="X_tsne", plot=None))
