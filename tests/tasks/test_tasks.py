"""What a new user does, as scripts with public names only; each runs from its first line to its last."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import pytest

from muport import datasets

FOLDER = Path(__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("test_"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_task_runs(path, tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_task_uses_public_names_only(path):
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in names if name.startswith("_") or "._" in name]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_the_same_from_the_shell(tmp_path):
    cells = datasets.simulated_multiome(n_cells=600, n_peaks=10, random_state=0)["rna"]
    is_new = np.arange(cells.n_obs) % 5 == 0
    truth = cells.obs.loc[is_new, "cell_type"].astype(str)
    cells[~is_new].copy().write_h5ad(tmp_path / "cells.h5ad")
    new = cells[is_new].copy()
    del new.obs["cell_type"]
    new.write_h5ad(tmp_path / "new.h5ad")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = FOLDER / "integrate_from_the_shell.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mapped = anndata.read_h5ad(tmp_path / "mapped.h5ad")
    assert (mapped.obs["prediction"].astype(str) == truth).mean() > 0.85
