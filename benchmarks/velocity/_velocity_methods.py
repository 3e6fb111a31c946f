"""The velocity methods compared, each at its defaults: arrays in, arrays out.

Input: ``X`` (n, d), ``time`` (n,), and where a method asks for them ``embedding`` (n, 2), ``spliced`` and ``unspliced``
counts, ``fate`` (n,) names of terminal states, "" for none, ``branch`` (n,) names of branches. Output: ``velocity``
(n, d), or ``fates`` (n, f) and ``names`` (f,); with branches also what paths do. Imports are inside: VelOT, scVelo and
CellRank live in an environment of their own.
"""

from __future__ import annotations

import contextlib
import io
import pkgutil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import anndata
    from numpy.typing import NDArray

    type Arrays = Mapping[str, NDArray[np.generic]]

NEIGHBORS = 30
#: Paths of each kind; time by which a cell of a branch is away from the others; time until which a cell is a root.
N_PATHS, SETTLED, ROOT = 100, 0.7, 0.1
#: Package, or object of it, to import before the clock runs, and the distribution whose version is reported.
PACKAGE = {
    "muport": ("muport:Velocity", "muport"),
    "muport_fates": ("muport:Velocity", "muport"),
    "muport_velocity_fates": ("muport:Velocity", "muport"),
    "muport_coupling_fates": ("muport:Velocity", "muport"),
    "velot": ("velot", "velot"),
    "scvelo_stochastic": ("scvelo", "scvelo"),
    "scvelo_dynamical": ("scvelo", "scvelo"),
    "cellrank_fates": ("cellrank", "cellrank"),
}


def _adata(data: Arrays) -> anndata.AnnData:
    import anndata as ad
    import pandas as pd

    X = np.ascontiguousarray(data["X"])
    names = [f"cell{i}" for i in range(len(X))]
    obs = pd.DataFrame({"pseudotime": np.asarray(data["time"], np.float64)}, index=names)
    adata = ad.AnnData(np.zeros((len(X), 1), np.float32), obs=obs, obsm={"X_pca": X})
    if "embedding" in data:
        adata.obsm["X_umap"] = np.ascontiguousarray(data["embedding"])
    if "branch" in data:
        adata.obs["branch"] = pd.Categorical(data["branch"])
    if "fate" in data:
        adata.obs["fate"] = pd.Categorical(np.where(data["fate"] == "", "transient", data["fate"]))
    return adata


def muport(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """Our ``Velocity``; the picture's velocities too where an embedding is given, and paths where branches are."""
    from muport.velocity import Velocity

    adata = _adata(data)
    labels_key = "branch" if "branch" in data else None
    Velocity.setup_anndata(adata, use_rep="X_pca", time_key="pseudotime", labels_key=labels_key)
    model = Velocity(adata)
    model.train(accelerator="cpu", progress=False)
    out = {"velocity": model.get_velocity()}
    if "branch" in data:
        out |= _paths(model, data)
    if "embedding" in data:
        out["projected"] = model.project_to_embedding(adata.obsm["X_umap"])
    else:
        # no part of the speed: the other methods have none
        out["uncertainty"] = model.get_uncertainty()
    return out


def _paths(model: object, data: Arrays) -> dict[str, NDArray[np.generic]]:
    """Ends of trajectories and particles (m, d), of the former also the branch, fates, and the spacing of the cells."""
    branches = [str(name) for name in np.unique(data["branch"]) if name != "trunk"]
    starts = {name: {"start_cluster": name, "start_pseudotime": SETTLED} for name in branches}
    starts = starts or {"trunk": {"end_pseudotime": ROOT}}
    found = {name: model.compute_trajectories(n_trajectories=N_PATHS, **chosen) for name, chosen in starts.items()}
    flow = model.simulate_flow(n_particles=N_PATHS)
    out = {
        "spacing": np.asarray(flow.spacing),
        "ends": np.concatenate([one.paths.ends for one in found.values()]),
        "particles": flow.paths.ends,
        "kept": np.concatenate([one.terminal == name for name, one in found.items()]),
    }
    if branches:
        out |= {"fates": model.get_fates(branches).to_numpy(), "names": np.array(branches)}
    return out


def muport_fates(data: Arrays, kernel: str = "combined") -> dict[str, NDArray[np.generic]]:
    """Our ``Velocity``'s fate probabilities."""
    from muport.velocity import Velocity

    adata = _adata(data)
    Velocity.setup_anndata(adata, use_rep="X_pca", time_key="pseudotime", labels_key="fate")
    model = Velocity(adata)
    model.train(accelerator="cpu", progress=False)
    names = np.unique(data["fate"][data["fate"] != ""])
    fates = model.get_fates(list(names), kernel=kernel)
    return {"fates": fates[list(names)].to_numpy(), "names": names, "velocity": model.get_velocity()}


def muport_velocity_fates(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """The same by the velocity alone."""
    return muport_fates(data, kernel="velocity")


def muport_coupling_fates(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """The same by the couplings between days alone."""
    return muport_fates(data, kernel="coupling")


def velot(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """VelOT's ``tl.velocity`` after the neighbours that its ``pp`` computes."""
    import scanpy as sc
    import velot as vo

    adata = _adata(data)
    with contextlib.redirect_stdout(io.StringIO()):
        sc.pp.neighbors(adata, n_neighbors=NEIGHBORS, use_rep="X_pca")
        vo.tl.velocity(adata, project_umap="embedding" in data, verbose=False)
    return {"velocity": np.asarray(adata.obsm["velot_velocity_pca"])}


def _scvelo(data: Arrays, mode: str) -> dict[str, NDArray[np.generic]]:
    """Its gene velocities, brought to the coordinates by its own graph and ``velocity_embedding``."""
    import anndata as ad
    import scanpy as sc
    import scvelo as scv
    from scipy import sparse

    layers = {name: sparse.csr_matrix(data[name]) for name in ("spliced", "unspliced")}
    adata = ad.AnnData(layers["spliced"].copy(), obsm={"X_pca": data["X"]}, layers=layers)
    with contextlib.redirect_stdout(io.StringIO()):
        scv.pp.filter_and_normalize(adata, min_shared_counts=20)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=2000, subset=True)
        scv.pp.moments(adata, n_neighbors=NEIGHBORS, use_rep="X_pca", n_pcs=None)
        if mode == "dynamical":
            scv.tl.recover_dynamics(adata, n_jobs=1, show_progress_bar=False)
        scv.tl.velocity(adata, mode=mode)
        scv.tl.velocity_graph(adata, n_jobs=1, show_progress_bar=False)
        scv.tl.velocity_embedding(adata, basis="pca", direct_pca_projection=False, autoscale=False)
    return {"velocity": np.nan_to_num(np.asarray(adata.obsm["velocity_pca"]))}


def scvelo_stochastic(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """scVelo, stochastic mode."""
    return _scvelo(data, "stochastic")


def scvelo_dynamical(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """scVelo, dynamical mode."""
    return _scvelo(data, "dynamical")


def cellrank_fates(data: Arrays) -> dict[str, NDArray[np.generic]]:
    """CellRank's ``PseudotimeKernel`` and the absorption probabilities of the given terminal cells."""
    import cellrank as cr
    import scanpy as sc

    adata = _adata(data)
    sc.pp.neighbors(adata, n_neighbors=NEIGHBORS, use_rep="X_pca")
    kernel = cr.kernels.PseudotimeKernel(adata, time_key="pseudotime")
    kernel.compute_transition_matrix(show_progress_bar=False)
    names = np.unique(data["fate"][data["fate"] != ""])
    estimator = cr.estimators.GPCCA(kernel)
    estimator.set_terminal_states({name: list(adata.obs_names[data["fate"] == name]) for name in names})
    estimator.compute_fate_probabilities(use_petsc=False, show_progress_bar=False)
    found = estimator.fate_probabilities
    return {"fates": np.asarray(found[list(names)].X), "names": names}


METHODS: dict[str, Callable[[Arrays], dict[str, NDArray[np.generic]]]] = {
    "muport": muport,
    "muport_fates": muport_fates,
    "muport_velocity_fates": muport_velocity_fates,
    "muport_coupling_fates": muport_coupling_fates,
    "velot": velot,
    "scvelo_stochastic": scvelo_stochastic,
    "scvelo_dynamical": scvelo_dynamical,
    "cellrank_fates": cellrank_fates,
}


def load(method: str) -> Callable[[Arrays], dict[str, NDArray[np.generic]]]:
    """The function of ``method``, its package imported."""
    pkgutil.resolve_name(PACKAGE[method][0])
    return METHODS[method]
