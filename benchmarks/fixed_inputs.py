"""Compare the results of every model on ten fixed inputs, bit by bit, before and after a change.

Run ``python -m benchmarks.fixed_inputs --save FOLDER`` before the change and ``--check FOLDER`` after it, on the same
machine. Floating-point results differ between processors, so the arrays are kept in a folder, not in the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import muport

if TYPE_CHECKING:
    from collections.abc import Callable

Arrays = dict[str, np.ndarray]
QUIET = {"progress": False, "accelerator": "cpu"}


def multiome(paired: float = 0.0, n_cells: int = 600) -> mudata.MuData:
    """Two modalities with principal components of their own and a shared space of 20 dimensions."""
    mdata = muport.datasets.simulated_multiome(
        n_cells, 120, 240, n_types=4, n_batches=2, paired=paired, missing_type_from=None, random_state=3
    )
    rng = np.random.default_rng(0)
    for adata in mdata.mod.values():
        x = np.log1p(np.asarray(adata.X.toarray(), np.float64))
        x -= x.mean(axis=0)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        signs = np.sign(vt[np.arange(12), np.abs(vt[:12]).argmax(axis=1)])
        adata.obsm["X_own"] = (u[:, :12] * s[:12] * signs).astype(np.float32)
        kinds = np.random.default_rng(9).normal(size=(8, 10)) * 3
        code = pd.Categorical(adata.obs["cell_type"]).codes
        adata.obsm["X_shared"] = (kinds[code] + rng.normal(size=(adata.n_obs, 10))).astype(np.float32)
    return mdata


def split(mdata: mudata.MuData) -> tuple[mudata.MuData, mudata.MuData]:
    """Training cells, and one in ten as new cells."""
    new = np.arange(mdata.n_obs) % 10 == 0
    return mdata[~new].copy(), mdata[new].copy()


def integration(
    mdata: mudata.MuData, setup: dict[str, Any], train: dict[str, Any] | None = None, **options: Any
) -> Arrays:
    """Latent representation, new cells, labels and imputed values of one integration."""
    reference, query = split(mdata)
    muport.Integration.setup_mudata(reference, **setup)
    model = muport.Integration(reference, **options)
    model.train(random_state=1, **QUIET, **(train or {}))
    results = {
        "latent": model.get_latent_representation(),
        "query": model.map_query(query),
        "metrics": np.array([model.metrics_[key] for key in sorted(model.metrics_)], np.float64),
    }
    if setup.get("labels_key"):
        results["labels"] = model.predict(soft=True).to_numpy()
        results["query labels"] = model.predict(soft=True, mdata=query).to_numpy()
    if len(setup["use_rep"]) > 1:
        values = model.impute("atac").X
        results["imputed"] = values.toarray() if sp.issparse(values) else np.asarray(values)
        results["weights"] = model.get_modality_weights().to_numpy()
    return results


def one_modality() -> mudata.MuData:
    return mudata.MuData({"rna": multiome()["rna"].copy()})


RNA = {"use_rep": {"rna": "X_own"}, "batch_key": "batch"}
LABELLED = {**RNA, "labels_key": "cell_type"}
BOTH = {"use_rep": {"rna": "X_own", "atac": "X_own"}, "batch_key": "batch", "labels_key": "rna:cell_type"}


def integrate_batches() -> Arrays:
    return integration(one_modality(), RNA)


def integrate_labelled_batches() -> Arrays:
    mdata = one_modality()
    mdata["rna"].obs["cell_type"] = mdata["rna"].obs["cell_type"].astype(object)
    mdata["rna"].obs.loc[mdata["rna"].obs_names[::2], "cell_type"] = "unknown"
    return integration(mdata, LABELLED, sharpen=0.2, reference="largest")


def integrate_scbiot() -> Arrays:
    return integration(one_modality(), LABELLED, {"max_iter": 6}, algorithm="scbiot")


def integrate_shared_space() -> Arrays:
    return integration(multiome(), {**BOTH, "shared_rep": "X_shared"})


def integrate_partly_paired() -> Arrays:
    return integration(multiome(0.4), BOTH)


def integrate_without_features() -> Arrays:
    return integration(multiome(n_cells=300), BOTH)


def refine_with_vae() -> Arrays:
    return integration(one_modality(), LABELLED, {"max_epochs": 3}, refine="vae")


def integrate_out_of_core() -> Arrays:
    rna = one_modality()["rna"].copy()
    out, metrics = muport.integrate_centroids(
        rna, "X_own", label_key="cell_type", n_centroids_per_batch=60, chunk_size=100, use_gpu=False, verbose=False
    )
    return {"out": out.obsm["scBIOT"], "metrics": np.array([metrics[k] for k in sorted(metrics) if k not in TIMES])}


TIMES = {"peak_memory", "seconds_sample", "seconds_fit", "seconds_map", "seconds_total"}


def gmm() -> Arrays:
    adata = muport.datasets.simulated_cohort(12, (40, 90), n_dims=6, n_genes=20, random_state=2)
    new = adata.obs["sample"].isin(adata.obs["sample"].unique()[:2]).to_numpy()
    reference, query = adata[~new].copy(), adata[new].copy()
    muport.GMM.setup_anndata(reference, labels_key="condition")
    model = muport.GMM(reference)
    model.train(k_comps=3, random_state=0, **QUIET)
    crossed = model.cross_validate(n_folds=3)
    return {
        "latent": model.get_latent_representation(),
        "query": model.map_query(query),
        "metric": model.get_metric(),
        "distances": model.get_sample_distances(learnt=True).to_numpy(),
        "plain distances": model.get_sample_distances("mw2", learnt=False).to_numpy(),
        "predicted": model.predict(query, soft=True).to_numpy(),
        "cross-validated": crossed.probabilities,
    }


def velocity() -> Arrays:
    adata = muport.datasets.simulated_dynamics("bifurcation", n_cells=600, n_dims=8, random_state=1)
    adata.obsm["X_umap"] = np.ascontiguousarray(adata.obsm["X_pca"][:, :2])
    out: Arrays = {}
    muport.Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time", labels_key="branch")
    model = muport.Velocity(adata)
    model.train(n_steps=80, random_state=0, **QUIET)
    out["velocity"] = model.get_velocity()
    out["raw"] = model.get_velocity(kind="raw")
    out["uncertainty"] = model.get_uncertainty()
    out["growth"] = model.get_growth()
    out["query"] = model.map_query(adata[::7].copy())
    out["fates"] = model.get_fates().to_numpy()
    out["drivers"] = model.get_drivers(model.get_fates()).select_dtypes("number").to_numpy()
    out["embedded"] = model.project_to_embedding(adata.obsm["X_umap"])
    paths = model.compute_trajectories(n_trajectories=6, start_cells=list(range(6)))
    out["trajectories"] = paths.paths.x
    flow = model.simulate_flow(n_particles=20, random_state=0)
    out["flow"] = flow.paths.x
    other = adata.copy()
    other.obs["pseudotime"] = other.obs["time"]
    muport.velocity.velocity(other)
    out["functions"] = np.asarray(other.obsm["velot_velocity"])
    return out


INPUTS: dict[str, Callable[[], Arrays]] = {
    "batches": integrate_batches,
    "labelled batches": integrate_labelled_batches,
    "scBIOT loop": integrate_scbiot,
    "shared space": integrate_shared_space,
    "partly paired": integrate_partly_paired,
    "no features in common": integrate_without_features,
    "VAE": refine_with_vae,
    "out of core": integrate_out_of_core,
    "patients": gmm,
    "velocity": velocity,
}


def digest(array: np.ndarray) -> str:
    """First 16 characters of the SHA-256 of an array's bytes, shape and type."""
    head = f"{array.shape} {array.dtype.str} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def difference(old: np.ndarray, new: np.ndarray) -> str:
    """How two arrays differ, in words."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"was {old.shape} {old.dtype}, is {new.shape} {new.dtype}"
    return f"largest difference {np.abs(old.astype(float) - new.astype(float)).max():.3g}"


def main() -> int:
    """Print the digest of every result; with ``--check``, the number of results that changed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fixed_inputs", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep the arrays there")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare with the arrays that lie there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    n_changed = 0
    for name in arguments.only:
        results = INPUTS[name]()
        path = f"{name.replace(' ', '_')}.npz"
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            np.savez(arguments.save / path, **results)
        before = dict(np.load(arguments.check / path)) if arguments.check else results
        for key in sorted(before.keys() | results.keys()):
            same = key in before and key in results and digest(before[key]) == digest(results[key])
            n_changed += not same
            verdict = "" if same else f"  CHANGED: {difference(before[key], results[key])}"
            print(f"{name:24} {key:16} {results[key].shape!s:14} {digest(results[key])}{verdict}", flush=True)
    print(f"{n_changed} results changed" if arguments.check else "")
    return int(n_changed > 0)


if __name__ == "__main__":
    sys.exit(main())
