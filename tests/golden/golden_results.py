"""Write the results of the present format: ``python tests/golden/golden_results.py [FOLDER]``.

They are results of `integrate_centroids`, of the commands, and of the functions of VelOT, with the cells they were
computed from, since the file of a result holds a hash of these.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata
import numpy as np

import muport
from muport._schema_version import SCHEMA_VERSION
from muport.cli import main as command
from muport.data.out_of_core._result_sinks import FileSink

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden_models", HERE / "golden_models.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

#: Arguments of `integrate_centroids`; three chunks.
CENTROIDS: dict[str, Any] = {
    "obsm_key": "X_own", "batch_key": "batch", "chunk_size": 60, "max_iter": 4, "verbose": False, "use_gpu": False,
}  # fmt: skip


def make_cells() -> anndata.AnnData:
    """180 cells of three types and two batches; the types of the second batch are unknown."""
    cells = golden.modality(180, 5, "g", 0)
    known = cells.obs["batch"] == "b0"
    cells.obs["known"] = cells.obs["cell_type"].astype(str).where(known, "unknown")
    return cells


def write_centroids(folder: Path) -> None:
    """Write a result as ``.npy`` and as ``.zarr``, and one of which a third is not done yet."""
    for suffix in ("npy", "zarr"):
        muport.integrate_centroids(folder / "cells.h5ad", tmp_path=folder / f"centroids.{suffix}", **CENTROIDS)
    real, done = FileSink.commit, []

    def stop(self: FileSink, *args: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        real(self, *args)

    FileSink.commit = stop
    with suppress(KeyboardInterrupt):
        muport.integrate_centroids(folder / "cells.h5ad", tmp_path=folder / "unfinished.npy", **CENTROIDS)
    FileSink.commit = real


def write_command_results(folder: Path) -> None:
    """Write what three commands write."""
    given, quiet = str(folder / "cells.h5ad"), "--quiet"
    rep, batch = ("--use-rep", "X_own"), ("--batch-key", "batch")
    own = ("--max-iter", "4", *batch, quiet)
    command(["transfer", given, "--out", str(folder / "transfer.h5ad"), *rep, "--labels-key", "known", *own])
    command(["atlas", given, "--out", str(folder / "atlas.zarr"), "--obsm-key", "X_own", *own])
    fates = ("--time-key", "time", "--labels-key", "cell_type", "--terminal", "t0", "t1", "--steps", "30")
    command(["velocity", given, "--out", str(folder / "velocity.h5ad"), *rep, *fates, quiet])


def write_velot(folder: Path) -> None:
    """Write an object with all that the functions of VelOT write."""
    cells = golden.modality(120, 4, "g", 0)
    cells.obsm["X_pca"], cells.obs["pseudotime"] = cells.obsm["X_own"], cells.obs["time"]
    muport.velocity.build_windows(cells)
    muport.velocity.compute_ot_velocity(cells)
    muport.velocity.smooth_velocity(cells, n_epochs=20, hidden_dim=16, verbose=False)
    muport.velocity.compute_trajectories(cells, n_trajectories=3, n_steps=10, cluster_key="cell_type")
    cells.write(folder / "velot.h5ad")


def velot_answers(cells: anndata.AnnData) -> dict[str, np.ndarray]:
    """What is computed from the windows, the transport and the network in an object."""
    copy = cells.copy()
    muport.velocity.compute_ot_velocity(copy)
    points = muport.velocity.query_velocity(cells, cells.obsm["X_pca"][:20])
    muport.velocity.compute_trajectories(copy, n_trajectories=3, n_steps=10, cluster_key="cell_type")
    paths = copy.uns["velot_trajectories"]["paths_pca"]
    muport.velocity.smooth_velocity(copy, n_epochs=2, hidden_dim=8, verbose=False)
    return {
        "raw": copy.obsm["velot_velocity_raw"], "points": points, "paths": paths, "smooth": copy.obsm["velot_velocity"],
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write all results into ``FOLDER/results``, in place of earlier ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_cells().write(folder / "cells.h5ad", compression="gzip")
    write_centroids(folder)
    write_command_results(folder)
    write_velot(folder)
    np.savez_compressed(folder / "expected.npz", **velot_answers(anndata.read_h5ad(folder / "velot.h5ad")))
    for path in sorted(folder.iterdir()):
        files = path.rglob("*") if path.is_dir() else [path]
        print(path.name, sum(f.stat().st_size for f in files if f.is_file()))


if __name__ == "__main__":
    main((Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / f"schema_{SCHEMA_VERSION}") / "results")
