"""Velocity methods in processes of their own, and the data they run on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.common._measure import N_THREADS, POOLS, ROOT, _pin, make_environment

from muport import datasets
from muport.neighbors import knn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

    type Arrays = Mapping[str, NDArray[np.generic]]

VELOT = ROOT / ".venv-velot"
LARRY_FATES = ("Baso", "Mast", "Meg", "Monocyte", "Neutrophil")


@dataclass(frozen=True)
class Outcome:
    """What a method gave on one input: its arrays, wall and CPU seconds, bytes at the peak, all or above the start."""

    method: str
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    seconds: float = float("nan")
    cpu: float = float("nan")
    peak: float = float("nan")
    above: float = float("nan")
    version: str = ""
    error: str = ""


@dataclass(frozen=True)
class Real:
    """A measured data set: what methods see, and the groups and edges they are scored by."""

    name: str
    data: Arrays
    labels: NDArray[np.str_]
    edges: tuple[tuple[str, str], ...]
    note: str


def interpreter(method: str) -> str:
    """The Python of the method's environment; the peers' is built at its first use."""
    if method.startswith("muport"):
        return sys.executable
    python = VELOT / "bin" / "python"
    if not python.exists():
        make_environment("velot", VELOT)
    return str(python)


def run(method: str, inputs: Sequence[Arrays], timeout: float = 3600) -> list[Outcome]:
    """Run a method on each input in turn, all in one fresh process of two threads; a failure is a result too."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"in{i:04d}.npz" for i in range(len(inputs))]
        for path, data in zip(paths, inputs, strict=True):
            np.savez(path, **data)
        command = [interpreter(method), "-W", "ignore", "-m", "benchmarks.velocity._velot_worker", method, folder]
        env = os.environ | dict.fromkeys(POOLS, str(N_THREADS))
        error = ""
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=env, preexec_fn=_pin, capture_output=True, text=True, timeout=timeout
            )
            if done.returncode:
                error = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            error = f"no result within {timeout:g} seconds"
        return [_read(method, path.with_name(path.name.replace("in", "out", 1)), error) for path in paths]


def _read(method: str, path: Path, error: str) -> Outcome:
    if not path.exists():
        return Outcome(method, error=error or "no result")
    with np.load(path) as stored:
        out = dict(stored)
    figures = {key: float(out.pop(key)) for key in ("seconds", "cpu", "peak", "above")}
    return Outcome(method, version=str(out.pop("version")), error=str(out.pop("error")), arrays=out, **figures)


def simulated(kind: str, n_cells: int, n_dims: int, noise: float, seed: int) -> tuple[Arrays, NDArray[np.float32]]:
    """What methods see of a simulation, and its true velocity."""
    adata = datasets.simulated_dynamics(kind, n_cells=n_cells, n_dims=n_dims, noise=noise, random_state=seed)
    data = {"X": adata.obsm["X_pca"], "time": adata.obs["time"].to_numpy(), "branch": _text(adata, "branch")}
    return data, adata.obsm["velocity"]


def paths_of(data: Arrays, got: Outcome, root: float) -> dict[str, float]:
    """Share of trajectories that keep their branch, largest error of the root's fate shares, and how far paths end.

    Distances are those of the paths' ends to the nearest cell, means, in units of the median distance of a cell to its
    nearest other. Fate shares are those of cells before `root`, against the branches' shares of the cells.
    """
    out = got.arrays
    far = [float(knn(data["X"], 1, query=out[key]).distances.mean() / out["spacing"]) for key in ("ends", "particles")]
    found = {"kept": float(out["kept"].mean()), "ends": far[0], "particles": far[1], "shares": math.nan}
    if "fates" in out:
        share = np.array([(data["branch"] == name).mean() for name in out["names"]])
        early = out["fates"][data["time"] < root].mean(axis=0)
        found["shares"] = float(np.abs(early - share / share.sum()).max())
    return found


def _text(adata: anndata.AnnData, key: str) -> NDArray[np.str_]:
    return adata.obs[key].astype(str).to_numpy().astype(str)


def _pseudotime(adata: anndata.AnnData, root: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Diffusion pseudotime in [0, 1] from a group of cells, computed once and given to all methods."""
    import anndata as ad

    from muport import pp

    work = ad.AnnData(obsm={"X_pca": adata.obsm["X_pca"]}, obs={"root": np.where(root, "root", "other")})
    pp.pseudotime(work, root_cluster="root", labels_key="root")
    return work.obs["pseudotime"].to_numpy(np.float64)


def pancreas() -> Real:
    """E15.5 pancreas with spliced and unspliced counts."""
    adata = datasets.load("pancreas_velocity_739")
    labels = _text(adata, "clusters")
    order = ("Ductal", "Ngn3 low EP", "Ngn3 high EP", "Pre-endocrine")
    edges = (*zip(order, order[1:], strict=False), *((order[-1], end) for end in ("Alpha", "Beta", "Delta", "Epsilon")))
    data = {"X": adata.obsm["X_pca"], "time": _pseudotime(adata, labels == "Ductal")}
    data |= {name: adata.layers[name].toarray() for name in ("spliced", "unspliced")}
    return Real("pancreas", data, labels, edges, "DPT from Ductal; edges of endocrine development")


def paul15() -> Real:
    """Myeloid and erythroid progenitors."""
    adata = datasets.load("paul15_tradeseq")
    labels = _text(adata, "cell_type")
    root, gmp = "Multipotent progenitors", "GMP"
    edges = (*((root, end) for end in ("Megakaryocytes", "Erythrocyte", gmp)),)
    edges += tuple((gmp, end) for end in ("Monocytes", "Neutrophils", "Basophils"))
    data = {"X": adata.obsm["X_pca"], "time": _pseudotime(adata, labels == root)}
    return Real("paul15", data, labels, edges, "DPT from the multipotent progenitors; edges of haematopoiesis")


def arabidopsis() -> Real:
    """Root cells: each tissue from meristem over elongation to maturation."""
    adata = datasets.load("arabidopsis_root_10k")
    labels = _text(adata, "time.celltype.anno")
    stages = ("Meristem", "Elongation", "Maturation")
    tissues = sorted({name.split("-", 1)[1] for name in labels})
    steps = ((f"{a}-{t}", f"{b}-{t}") for t in tissues for a, b in zip(stages, stages[1:], strict=False))
    edges = tuple(edge for edge in steps if set(edge) <= set(labels))
    data = {"X": adata.obsm["X_pca"], "time": adata.obs["consensus.time"].to_numpy(np.float64)}
    note = "the file's consensus time; edges meristem → elongation → maturation within each tissue"
    return Real("arabidopsis", data, labels, edges, note)


REAL = {"pancreas": pancreas, "paul15": paul15, "arabidopsis": arabidopsis}


def larry() -> tuple[anndata.AnnData, dict[str, Arrays]]:
    """The clones' cells, and what methods see: real days, or a pseudotime from the first day."""
    adata = datasets.load("larry_cospar_781")
    day, state = adata.obs["day"].to_numpy(np.float64), _text(adata, "state_info")
    fate = np.where((day == day.max()) & np.isin(state, LARRY_FATES), state, "")
    shared = {"X": adata.obsm["X_pca"], "fate": fate}
    pseudotime = _pseudotime(adata, (day == day.min()) & (state == "undiff"))
    return adata, {"days": {**shared, "time": day}, "pseudotime": {**shared, "time": pseudotime}}
