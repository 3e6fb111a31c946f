"""The component for OpenProblems' batch integration task, run as its runner does on the shared data sets.

Usage: ``python -m benchmarks.openproblems.run_component [--datasets ...]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.common._data import BATCH_FILES, load_cells
from benchmarks.common._scores import scib
from benchmarks.common._tables import report, setting, table, verdict

if TYPE_CHECKING:
    from benchmarks.common._data import Cells
    from numpy.typing import NDArray

COMPONENT = Path(__file__).parent / "muport"
START, END = "## VIASH START\n", "## VIASH END\n"
#: The task's reader of parts of a file, which its image holds.
READER = """\
import anndata


def read_anndata(path, **parts):
    return anndata.read_h5ad(path)
"""
IDENTIFIERS = {"dataset_id", "normalization_id", "method_id"}
NOTE = """\
`benchmarks/openproblems/muport` is a component in the form of the batch integration task of OpenProblems
(`config.vsh.yaml`, `script.py`). Each data set is written in the format of the task (obs `batch` and `cell_type`, obsm
`X_pca`, the identifiers in uns), the block of parameters of the script is replaced as viash does, the script runs in a
process of its own, and its output is checked: an h5ad file with obsm `X_emb` in the order of the cells, and the three
identifiers. Total, bio and batch: scib-metrics, of the input and of the output."""


def write_dataset(cells: Cells, path: Path) -> None:
    """Write a data set as the task's file."""
    obs = pd.DataFrame(
        {"batch": cells.batch, "cell_type": cells.label}, index=[f"cell{i}" for i in range(len(cells.X))]
    )
    adata = ad.AnnData(np.zeros((len(cells.X), 1), np.float32), obs=obs.astype("category"), obsm={"X_pca": cells.X})
    adata.uns = {"dataset_id": cells.name, "normalization_id": "log_cp10k"}
    adata.write_h5ad(path)


def run_component(cells: Cells) -> NDArray[np.float32]:
    """Run the component on the cells and check what it wrote; (n, d) coordinates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(cells, folder / "dataset.h5ad")
        (folder / "read_anndata_partial.py").write_text(READER)
        source = (COMPONENT / "script.py").read_text()
        head, rest = source.split(START)
        given = {"input": str(folder / "dataset.h5ad"), "output": str(folder / "output.h5ad")}
        block = f"par = {given!r}\nmeta = {{'name': 'muport', 'resources_dir': {name!r}}}\n"
        (folder / "script.py").write_text(head + block + rest.split(END)[1])
        subprocess.run([sys.executable, "-W", "ignore", folder / "script.py"], check=True)
        output = ad.read_h5ad(folder / "output.h5ad")
    if missing := IDENTIFIERS - set(output.uns):
        raise ValueError(f"the output lacks uns {sorted(missing)}.")
    if list(output.obs_names) != [f"cell{i}" for i in range(len(cells.X))]:
        raise ValueError("the cells of the output are not those of the input.")
    return np.asarray(output.obsm["X_emb"], np.float32)


def main() -> None:
    """Run, print, and write the page when nothing was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=BATCH_FILES, default=list(BATCH_FILES))
    names = parser.parse_args().datasets
    rows, gains = [], []
    for name in names:
        cells = load_cells(name)
        scores = scib(cells, {"input": cells.X, "output": run_component(cells)})
        gains.append(float(scores.loc["output", "Total"] - scores.loc["input", "Total"]))
        for step, values in scores.iterrows():
            rows.append([name, step, *(float(values[c]) for c in ("Total", "Bio conservation", "Batch correction"))])
    parts = [
        NOTE + "\n",
        setting("scib-metrics", "anndata", "numpy"),
        "## Targets\n",
        verdict("smallest gain in total", min(gains), 0.0),
        "\n## Figures\n",
        table(["data set", "coordinates", "total", "bio", "batch"], rows),
    ]
    report("openproblems", "Component for OpenProblems", parts, write=set(names) == set(BATCH_FILES))


if __name__ == "__main__":
    main()
