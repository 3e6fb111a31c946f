"""Peers that read counts, each alone in a process.

Usage: ``python -m benchmarks.modalities._paired_peers METHOD FILE SHARE EPOCHS OUT``.

MultiVI: genes as they are, peaks in at least 1 % of the cells (as in its tutorial), batch as the batch; with hidden
pairs the modality as the batch and the batch as a covariate. All defaults, or where the epochs are capped a learning
rate of 5e-4 (default 1e-4) and a KL warm-up of 25 epochs. totalVI: 4,000 variable genes, all defaults.
"""

from __future__ import annotations

import sys
import time

import mudata as md
import numpy as np
import scipy.sparse as sp
from benchmarks.modalities._paired_cases import Case, case


def _whole(found: Case, modality: str, *, least: float = 0.0) -> sp.csr_matrix:
    """Counts of all cells, zeros where the modality was not measured; features in some share of cells at least."""
    adata = found.mdata[modality]
    X = sp.csr_matrix(adata.X, dtype=np.float32)
    X = X[:, np.asarray((X > 0).sum(axis=0)).ravel() >= least * X.shape[0]]
    paired, hidden = int((found.kind == "both").sum()), int((found.kind == "rna").sum())
    empty = sp.csr_matrix((hidden, X.shape[1]), dtype=np.float32)
    parts = [X[:paired], X[paired:], empty] if modality == "rna" else [X[:paired], empty, X[paired:]]
    return sp.vstack(parts).tocsr()


def multivi(found: Case, epochs: int) -> tuple[np.ndarray, int]:
    """(n, d) latent of all cells, and the epochs run; 0 epochs: the default number, with early stopping."""
    import anndata as ad
    from scvi.model import MULTIVI

    counts = {"rna": _whole(found, "rna"), "atac": _whole(found, "atac", least=0.01)}
    parts = {m: ad.AnnData(X) for m, X in counts.items()}
    batch = np.zeros(len(found.row)).astype(str)
    if found.batch_key:
        file = np.empty(found.row.max() + 1, dtype=object)
        rna = found.kind != found.second
        file[found.row[rna]] = found.mdata["rna"].obs[found.batch_key].to_numpy()
        batch = file[found.row].astype(str)
    for part in parts.values():
        part.obs_names = [f"c{i}" for i in range(len(found.row))]
        part.obs["batch"], part.obs["modality"] = batch, found.kind
    mdata = md.MuData(parts)
    modalities = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
    hidden = (found.kind != "both").any()
    keys = {"batch_key": "modality", "categorical_covariate_keys": ["batch"]} if hidden else {"batch_key": "batch"}
    if hidden:
        modalities["categorical_covariate_keys"] = "rna"
    MULTIVI.setup_mudata(mdata, rna_layer=None, atac_layer=None, modalities=modalities, **keys)
    widths = {"n_genes": counts["rna"].shape[1], "n_regions": counts["atac"].shape[1]}
    model = MULTIVI(mdata, fully_paired=not hidden, **widths)
    settings = {"accelerator": "cpu", "early_stopping": True, "enable_progress_bar": False}
    capped = {"max_epochs": epochs, "lr": 5e-4, "n_epochs_kl_warmup": 25} if epochs else {}
    model.train(**capped, **settings)
    return model.get_latent_representation(), len(model.history["elbo_train"])


def totalvi(found: Case, epochs: int) -> tuple[np.ndarray, int]:
    """(n, d) latent of all cells, and the epochs run; 0 epochs: the default number, with early stopping."""
    import anndata as ad
    import scanpy as sc
    from scvi.model import TOTALVI

    rna, adt = ad.AnnData(_whole(found, "rna")), ad.AnnData(_whole(found, "adt").toarray())
    rna.obs_names = adt.obs_names = [f"c{i}" for i in range(len(found.row))]
    rna.layers["counts"] = rna.X.copy()
    sc.pp.highly_variable_genes(rna, n_top_genes=4000, flavor="seurat_v3", layer="counts", subset=True)
    mdata = md.MuData({"rna": rna, "adt": adt})
    modalities = {"rna_layer": "rna", "protein_layer": "adt"}
    TOTALVI.setup_mudata(mdata, rna_layer="counts", protein_layer=None, modalities=modalities)
    model = TOTALVI(mdata)
    settings = {"accelerator": "cpu", "early_stopping": True, "enable_progress_bar": False}
    model.train(max_epochs=epochs or None, **settings)
    return model.get_latent_representation(), len(model.history["elbo_train"])


def main(method: str, name: str, share: str, epochs: str, out: str) -> None:
    """Train one peer and write its latent space."""
    import scvi

    scvi.settings.seed = 0
    found = case(name, float(share))
    start = time.perf_counter()
    latent, run = {"multivi": multivi, "totalvi": totalvi}[method](found, int(epochs))
    cell, kind = found.row, found.kind
    np.savez(out, Z=latent, cell=cell, mod=kind, epochs=run, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
