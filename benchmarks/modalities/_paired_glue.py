"""scGLUE in its own environment, as in its tutorial.

Usage: ``python benchmarks/modalities/_paired_glue.py IN.npz OUT.npz [EPOCHS]``.

IN holds of each modality its counts, cells' names and batches, and which peak is linked to which gene; paired cells
have one name, and come first in both. Encoders read 100 principal components of the scaled logs of all genes and 100
LSI components of all peaks; decoders model all genes and, as MultiVI here, the peaks in at least 1 % of the cells.
EPOCHS caps each of the two stages (0 or none: scGLUE's own number, with its early stopping).
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import TYPE_CHECKING

import anndata as ad
import networkx as nx
import numpy as np
import scanpy as sc
import scglue
import scipy.sparse as sp
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPONENTS = 100
LEAST = 0.01


def counts(data: Mapping[str, np.ndarray], name: str) -> sp.csr_matrix:
    """One sparse matrix of IN."""
    parts = tuple(data[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    return sp.csr_matrix(parts, shape=tuple(data[f"{name}_shape"]), dtype=np.float32)


def cells(data: Mapping[str, np.ndarray], modality: str) -> ad.AnnData:
    """One modality with its counts as the layer ``counts``."""
    adata = ad.AnnData(counts(data, modality))
    adata.obs_names = data[f"{modality}_names"].tolist()
    adata.var_names = [f"{modality}{i}" for i in range(adata.n_vars)]
    adata.obs["batch"] = data[f"{modality}_batch"].astype(str)
    adata.layers["counts"] = adata.X.copy()
    return adata


def prepare(rna: ad.AnnData, atac: ad.AnnData, link: sp.csr_matrix) -> nx.MultiDiGraph:
    """PCA and LSI, the features that are decoded, and the guidance graph of these."""
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    sc.pp.scale(rna)
    sc.tl.pca(rna, n_comps=COMPONENTS, svd_solver="auto")
    seen = np.asarray((atac.X > 0).sum(axis=0)).ravel()
    found = atac[:, seen > 0].copy()
    scglue.data.lsi(found, n_components=COMPONENTS, n_iter=15)
    atac.obsm["X_lsi"] = found.obsm["X_lsi"]
    linked = np.asarray(link.sum(axis=1)).ravel() > 0
    rna.var["highly_variable"] = True
    atac.var["highly_variable"] = linked & (seen >= LEAST * atac.n_obs)
    graph = nx.MultiDiGraph()
    for peak, gene in zip(*link.nonzero(), strict=True):
        if atac.var["highly_variable"].iloc[peak]:
            ends = atac.var_names[peak], rna.var_names[gene]
            graph.add_edges_from([ends, ends[::-1]], weight=1.0, sign=1)
    names = [*rna.var_names, *atac.var_names[atac.var["highly_variable"]]]
    graph.add_edges_from(zip(names, names, strict=True), weight=1.0, sign=1)
    return graph


def log_prob(self: torch.distributions.NegativeBinomial, value: torch.Tensor) -> torch.Tensor:
    """Torch's density, with the terms of the count only where it is not 0 (elsewhere they cancel)."""
    failure = torch.nn.functional.logsigmoid(-self.logits)
    at = value.nonzero(as_tuple=True)
    total, some = self.total_count.expand_as(value)[at], value[at]
    ways = torch.lgamma(total + some) - torch.lgamma(total) - torch.lgamma(1 + some)
    return (self.total_count * failure).index_put(at, ways + some * (self.logits + failure)[at], accumulate=True)


def main(source: str, target: str, epochs: str = "0") -> None:
    """Train scGLUE, or where cells are paired its model of paired cells, and write the cells' latent space."""
    with np.load(source) as file:
        data = dict(file)
    start = time.perf_counter()
    rna, atac, paired = cells(data, "rna"), cells(data, "atac"), int(data["paired"])
    graph = prepare(rna, atac, counts(data, "link"))
    for adata, rep in ((rna, "X_pca"), (atac, "X_lsi")):
        keys = {"use_layer": "counts", "use_rep": rep, "use_batch": "batch", "use_obs_names": paired > 0}
        scglue.models.configure_dataset(adata, "NB", use_highly_variable=True, **keys)
    torch.set_num_threads(1)  # the layers are small: a second thread would only wait
    ran: list[int] = []
    scglue.models.base.Trainer.report_metrics = lambda _, train, __: ran.append(train.epoch)
    torch.distributions.Distribution.set_default_validate_args(value=False)
    torch.distributions.NegativeBinomial.log_prob = log_prob
    model = scglue.models.PairedSCGLUEModel if paired else scglue.models.SCGLUEModel
    with tempfile.TemporaryDirectory() as folder:
        capped = {"max_epochs": int(epochs)} if int(epochs) else {}
        fitted = scglue.models.fit_SCGLUE(
            {"rna": rna, "atac": atac}, graph, model=model, fit_kws={"directory": folder, **capped}
        )
    for adata in (rna, atac):
        if not np.isfinite(adata.obs["balancing_weight"]).all():
            raise ValueError("the first stage matched no clusters of the modalities: train it longer")
    latent = {m: fitted.encode_data(m, adata) for m, adata in (("rna", rna), ("atac", atac))}
    both = (latent["rna"][:paired] + latent["atac"][:paired]) / 2
    Z = np.concatenate([both, latent["rna"][paired:], latent["atac"][paired:]])
    np.savez(target, Z=Z, cell=data["cell"], mod=data["mod"], epochs=len(ran), seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
