"""RNA and a second modality as unpaired cells, with the shared space a method may use.

Every function returns a MuData of modalities ``rna`` and a second one whose cells have other names (a prefix hides the
pairing).  ``obsm["X_shared"]`` is the shared space, ``obsm["X_pca"]`` / ``obsm["X_lsi"]`` the own representation,
``rna.obs["cell_type"]`` the labels.  What only the scores may read stands beside, in ``Truth``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anndata as ad
import mudata as md
import numpy as np
import scanpy as sc
import scipy.sparse as sp
from sklearn.decomposition import PCA

from muport import datasets, pp

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROTEIN_GENES = {
    "CD10": "MME", "CD11b": "ITGAM", "CD11c": "ITGAX", "CD123": "IL3RA", "CD127": "IL7R", "CD14": "CD14",
    "CD141": "THBD", "CD16": "FCGR3A", "CD172a": "SIRPA", "CD185": "CXCR5", "CD19": "CD19", "CD192": "CCR2",
    "CD197": "CCR7", "CD21": "CR2", "CD24": "CD24", "CD25": "IL2RA", "CD269": "TNFRSF17", "CD27": "CD27",
    "CD278": "ICOS", "CD279": "PDCD1", "CD3": "CD3E", "CD304": "NRP1", "CD319": "SLAMF7", "CD38": "CD38",
    "CD39": "ENTPD1", "CD4": "CD4", "CD40": "CD40", "CD45RA": "PTPRC", "CD56": "NCAM1", "CD66b": "CEACAM8",
    "CD71": "TFRC", "CD80": "CD80", "CD86": "CD86", "CD8a": "CD8A", "CD95": "FAS", "FceRI": "FCER1A",
    "HLA.DR": "HLA-DRA", "IgD": "IGHD", "IgM": "IGHM", "KLRG1": "KLRG1", "TCR.Va24.Ja18": "TRAV10",
    "TCR.Va7.2": "TRAV1-2", "TCR.a.b": "TRAC", "TCR.g.d": "TRDC",
}  # fmt: skip


UNKNOWN = "unknown"


@dataclass(frozen=True)
class Truth:
    """What the scores know and a method must not: the query's labels and its cells' rows in the file.

    Where ``paired``, ``row[i]`` is also the row in ``rna`` of the partner of query cell ``i``.
    """

    name: str
    query: str
    label: NDArray[np.str_]
    paired: bool
    note: str
    row: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def dense(X: object) -> NDArray[np.float32]:
    """``X`` (sparse or not) as a float32 array."""
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)


def log_norm(X: object) -> NDArray[np.float32]:
    """``log1p`` of the counts scaled to the median total."""
    cells = ad.AnnData(sp.csr_matrix(X, dtype=np.float32))
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    return dense(cells.X)


def clr(X: object) -> NDArray[np.float32]:
    """Centred log-ratio of each cell's counts, ``log1p(x) - mean(log1p(x))``."""
    logs = np.log1p(dense(X))
    return logs - logs.mean(1, keepdims=True)


def zscore(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features to mean 0 and standard deviation 1; a constant feature stays 0."""
    sd = X.std(0)
    return (X - X.mean(0)) / np.where(sd > 0, sd, 1)


def joint_space(
    rna: NDArray[np.float32], query: NDArray[np.float32], n_comps: int = 30
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both z-scored by their own statistics and projected on the RNA's principal axes."""
    reference, other = zscore(rna), zscore(query)
    model = PCA(min(n_comps, rna.shape[1] - 1), random_state=0).fit(reference)
    return model.transform(reference).astype(np.float32), model.transform(other).astype(np.float32)


def _modality(name: str, names: list[str], X: object, obs: dict[str, object], obsm: dict[str, object]) -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(X, dtype=np.float32))
    adata.obs_names = [f"{name}:{cell}" for cell in names]
    for key, value in obs.items():
        adata.obs[key] = np.asarray(value).astype(str)
    for key, value in obsm.items():
        adata.obsm[key] = value
    return adata


def _labels(adata: ad.AnnData) -> NDArray[np.str_]:
    return adata.obs["cell_type"].astype(str).replace("unlabelled", UNKNOWN).to_numpy().astype(str)


def _hide(rna: ad.AnnData, query: ad.AnnData, truth: Truth) -> tuple[md.MuData, Truth]:
    """Query cells in random order, so that no row number tells the partner."""
    order = np.random.default_rng(0).permutation(query.n_obs)
    mdata = md.MuData({"rna": rna, truth.query: query[order].copy()})
    return mdata, replace(truth, label=truth.label[order], row=order)


def snare_shared() -> tuple[md.MuData, Truth]:
    """SNARE-seq mouse cortex: gene activity = peaks x links; z-scored log counts; RNA's PCA(30)."""
    mdata = datasets.load("snare_mouse_cortex")
    rna, atac = mdata["rna"], mdata["atac"]
    activity = sp.csr_matrix(atac.X) @ sp.csr_matrix(atac.varm["gene_link"])
    shared_rna, shared_atac = joint_space(log_norm(rna.X), log_norm(activity))
    ref_obs = {"batch": rna.obs["batch"], "cell_type": _labels(rna)}
    ref = _modality("rna", list(rna.obs_names), rna.X, ref_obs, {"X_shared": shared_rna, "X_pca": rna.obsm["X_pca"]})
    obsm = {"X_shared": shared_atac, "X_lsi": atac.obsm["X_lsi"]}
    query = _modality("atac", list(atac.obs_names), atac.X, {"batch": atac.obs["batch"]}, obsm)
    note = "paired file, pairing hidden; gene activity through the peak-gene links"
    return _hide(ref, query, Truth("snare_mouse_cortex", "atac", _labels(atac), True, note))


def snare_prepared() -> tuple[md.MuData, Truth]:
    """The same cells from counts: all representations by ``pp.prepare``."""
    mdata = datasets.load("snare_mouse_cortex")
    pp.prepare(mdata, umap=False, modalities={"rna": "rna", "atac": "atac"})
    rna, atac = mdata["rna"], mdata["atac"]
    ref_obs = {"batch": rna.obs["batch"], "cell_type": _labels(rna)}
    keys = {"rna": ("X_shared", "X_pca"), "atac": ("X_shared", "X_lsi")}
    counts = rna.layers["counts"]
    ref = _modality("rna", list(rna.obs_names), counts, ref_obs, {key: rna.obsm[key] for key in keys["rna"]})
    obsm = {key: atac.obsm[key] for key in keys["atac"]}
    query = _modality("atac", list(atac.obs_names), atac.X, {"batch": atac.obs["batch"]}, obsm)
    note = "the same cells, all representations from counts by `pp.prepare`"
    return _hide(ref, query, Truth("snare_prepared", "atac", _labels(atac), True, note))


def teaseq_shared() -> tuple[md.MuData, Truth]:
    """TEA-seq RNA and protein: the genes that code the measured proteins are the shared features."""
    mdata = datasets.load("teaseq_rna_adt")
    rna, adt = mdata["rna"], mdata["adt"]
    both = [(p, g) for p, g in PROTEIN_GENES.items() if p in adt.var_names and g in rna.var_names]
    proteins, genes = [p for p, _ in both], [g for _, g in both]
    logs = log_norm(rna.X)[:, rna.var_names.get_indexer(genes)]
    shared_rna, shared_adt = joint_space(logs, clr(adt.X)[:, adt.var_names.get_indexer(proteins)])
    obsm = {"X_shared": shared_rna, "X_pca": rna.obsm["X_pca"]}
    ref = _modality("rna", list(rna.obs_names), rna.X, {"cell_type": _labels(rna)}, obsm)
    obsm = {"X_shared": shared_adt, "X_pca": adt.obsm["X_pca"]}
    query = _modality("adt", list(adt.obs_names), adt.X, {}, obsm)
    note = f"paired file, pairing hidden; {len(both)} proteins with their gene"
    return _hide(ref, query, Truth("teaseq_rna_adt", "adt", _labels(adt), True, note))


def bmmc_shared() -> tuple[md.MuData, Truth]:
    """Bone marrow, RNA and ATAC of different cells: the genes the RNA and the given gene activity share."""
    mdata = datasets.load("bmmc_unpaired_liger")
    rna, atac = mdata["rna"], mdata["atac"]
    names = np.asarray(atac.uns["gene_activity_genes"]).astype(str)
    genes = [g for g in rna.var_names if g in set(names)]
    column = {g: i for i, g in enumerate(names)}
    activity = dense(atac.obsm["gene_activity"])[:, [column[g] for g in genes]]
    logs = log_norm(rna[:, genes].X)
    shared_rna, shared_atac = joint_space(logs, log_norm(activity))
    obsm = {"X_shared": shared_rna, "X_pca": rna.obsm["X_pca"]}
    ref = _modality("rna", list(rna.obs_names), rna.X, {"cell_type": _labels(rna)}, obsm)
    query = _modality("atac", list(atac.obs_names), atac.X, {}, {"X_shared": shared_atac, "X_lsi": atac.obsm["X_lsi"]})
    note = f"truly unpaired (no FOSCTTM); {len(genes)} shared genes, very sparse"
    return _hide(ref, query, Truth("bmmc_unpaired_liger", "atac", _labels(atac), False, note))


UNPAIRED = {
    "snare_mouse_cortex": snare_shared,
    "snare_prepared": snare_prepared,
    "teaseq_rna_adt": teaseq_shared,
    "bmmc_unpaired_liger": bmmc_shared,
}
