"""The commands of docs/cli.md run in their order, on tiny files of the names that the page gives them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest

from muport import cli, datasets

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
N = 120


def documented() -> list[tuple[str, str]]:
    """Each command, with the line below it where that is a message of the command."""
    lines = [
        line
        for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    pairs = zip(lines, [*lines[1:], ""], strict=True)
    return [(line.removeprefix("$ "), below) for line, below in pairs if line.startswith("$ muport")]


def counted(seed: int, prefix: str) -> anndata.AnnData:
    """Counts of two types in two batches, with a PCA, a UMAP, and a shared space."""
    rng = np.random.default_rng(seed)
    kind, batch, time = rng.integers(2, size=N), rng.integers(2, size=N), rng.random(N)
    late = np.maximum(time - 0.3, 0)[:, None]
    x = 6 * late * np.eye(2, 5)[kind] + 0.4 * rng.normal(size=(N, 5)) + 0.5 * batch[:, None] + 3 * time[:, None]
    rate = np.exp(x @ np.random.default_rng(0).normal(size=(5, 40)) / 8)
    x, adata = x.astype(np.float32), anndata.AnnData(rng.poisson(rate).astype(np.float32))
    adata.obs_names, adata.var_names = [f"{prefix}{i}" for i in range(N)], [f"f{i}" for i in range(40)]
    adata.obs["batch"], adata.obs["donor"] = np.array(["a", "b"])[batch], rng.choice(["d", "e"], N)
    adata.obs["cell_type"] = np.where(time < 0.4, "progenitor", np.array(["A", "B"])[kind])
    adata.obs["condition"], adata.obs["depth"] = rng.choice(["x", "y"], N), rng.normal(size=N)
    adata.obs["time"] = time
    for key in ("X_pca", "X_lsi", "X_shared"):
        adata.obsm[key] = x
    adata.obsm["X_umap"] = x[:, :2].copy()
    return adata


@pytest.fixture
def files(tmp_path, monkeypatch):
    """All files that the page reads, in the working directory."""
    monkeypatch.chdir(tmp_path)
    cells = counted(0, "c")
    cells.write("cells.h5ad")
    cells.write_zarr("atlas.zarr")
    new = cells[:40].copy()
    del new.obsm["X_pca"]
    new.write("new.h5ad")
    atac = counted(1, "d")
    atac.var_names = "p" + atac.var_names
    mudata.MuData({"rna": counted(2, "e"), "atac": atac}).write("multiome.h5mu")
    days = datasets.simulated_dynamics("linear", n_cells=200, n_dims=5, random_state=0)
    days.obs["day"] = (np.ceil(days.obs["time"] * 4).clip(lower=1) * 2 - 1).astype(float)
    days.obsm["X_clone"] = np.arange(200)[:, None] % 20 == np.arange(20)
    days.write("days.h5ad")
    days[::4].copy().write("new_days.h5ad")
    cohort = datasets.simulated_cohort(n_patients=9, n_cells=40, n_dims=4, random_state=0)
    cohort.write("cohort.h5ad")
    patients = cohort[cohort.obs["sample"].isin(pd.unique(cohort.obs["sample"])[:2])].copy()
    patients.obs["sample"] = "new" + patients.obs["sample"].astype(str)
    patients.write("new_patients.h5ad")
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.promise("Every command of the page of the command line runs")
def test_every_command_of_the_page_runs(files, capsys, monkeypatch, record_property):
    monkeypatch.setenv("COLUMNS", "80")
    commands = documented()
    for command, below in commands:
        code = cli.main(shlex.split(command)[1:])
        shown = capsys.readouterr()
        is_message = below.startswith("muport ") and "error:" in below
        assert code == int(is_message), f"{command}\n{shown.err}"
        if is_message:
            assert below.split(";")[0] in shown.err
        tables = [line for line in shown.err.splitlines() if line and line[0] in "┏┃┡│└├┌"]
        assert all(len(line) <= 80 for line in tables)
    for picture in ("pictures/cells.png", "stream/velocity.png"):
        assert (files / picture).stat().st_size > 5_000
    field = anndata.read_h5ad("new_velocity.h5ad")
    fitted = anndata.read_h5ad("days_out.h5ad")
    np.testing.assert_allclose(field.obsm["velot_velocity"], fitted[field.obs_names].obsm["velot_velocity"], atol=1e-4)
    table = pd.read_csv("new_tables/conditions.csv", index_col=0)
    assert list(table.index.str.startswith("new")) == [True, True]
    record_property("tries", len(commands))


def test_options_of_a_fit_are_refused_for_a_loaded_model(files, capsys):
    for command in (
        "velocity days.h5ad -o x.h5ad --time day --load m --fates",
        "gmm cohort.h5ad -o x.h5ad --load m --plot p",
    ):
        assert cli.main(shlex.split(command)) == 1
        assert "--load" in capsys.readouterr().err
    assert cli.main(shlex.split("velocity days.h5ad -o x.h5ad --plot p")) == 1
    assert "--plot needs --basis" in capsys.readouterr().err
