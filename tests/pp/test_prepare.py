from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scipy.stats import spearmanr

from muport import pp
from muport.pp import _peaks_and_proteins

DATA = Path(os.environ.get("MUPORT_DATA", "/nonexistent"))
QUICK = {"n_top_genes": 60, "n_comps": 8, "n_neighbors": 15, "umap": False}


def counted(n: int = 200, genes: int = 90, seed: int = 0) -> AnnData:
    """Counts of genes that rise and fall with a time."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, n)
    peak, height = rng.random(genes), rng.uniform(1, 12, genes)
    mean = 0.3 + height * np.exp(-(((time[:, None] - peak) / 0.2) ** 2))
    x = rng.poisson(mean * rng.uniform(0.7, 1.4, n)[:, None]).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(x), obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]))
    adata.var_names = [f"g{i}" for i in range(genes)]
    adata.obs["time"] = time
    adata.obs["clusters"] = pd.Categorical(np.where(time < 0.3, "early", "late"))
    return adata


@pytest.fixture(scope="module")
def counts() -> AnnData:
    return counted()


@pytest.fixture(scope="module")
def prepared(counts) -> AnnData:
    return pp.prepare(counts, root_cluster="early", copy=True, **QUICK)


def test_steps_are_those_of_scanpy(counts, prepared):
    other = counts.copy()
    sc.pp.normalize_total(other)
    sc.pp.log1p(other)
    sc.pp.highly_variable_genes(other, n_top_genes=60)
    assert np.allclose(prepared.X.toarray(), other.X.toarray())
    assert (prepared.layers["counts"] != counts.X).nnz == 0
    assert prepared.var["highly_variable"].tolist() == other.var["highly_variable"].tolist()
    genes = AnnData(other[:, other.var["highly_variable"]].X.toarray())
    sc.pp.scale(genes)
    sc.pp.pca(genes, 8)
    here, there = prepared.obsm["X_pca"], genes.obsm["X_pca"]
    assert here.dtype == np.float32
    assert (np.abs([np.corrcoef(here[:, i], there[:, i])[0, 1] for i in range(3)]) > 0.999).all()
    assert prepared.uns["log1p"] == {"base": None}
    assert prepared.obsp["connectivities"].shape == (200, 200)
    assert "X_umap" not in prepared.obsm


def test_loadings_lead_back_to_genes(prepared):
    chosen = prepared.var["highly_variable"].to_numpy()
    assert (prepared.varm["PCs"][~chosen] == 0).all()
    scaled = prepared.X.toarray()[:, chosen] / prepared.var["std"].to_numpy()[chosen]
    scores = (scaled - scaled.mean(axis=0)) @ prepared.varm["PCs"][chosen]
    assert np.allclose(scores, prepared.obsm["X_pca"], atol=1e-2)


def test_pseudotime_follows_the_truth(prepared):
    assert spearmanr(prepared.obs["pseudotime"], prepared.obs["time"])[0] > 0.99
    assert prepared.obs["time"][prepared.uns["pseudotime_root"]] < 0.15
    again = prepared.copy()
    pp.pseudotime(again, root_cluster="early", n_neighbors=15)
    assert np.array_equal(again.obs["pseudotime"], prepared.obs["pseudotime"])


def test_in_place_or_a_copy(counts, prepared, fingerprint):
    mine = counts.copy()
    before = fingerprint(mine)
    assert pp.prepare(mine, copy=True, **QUICK) is not mine
    assert fingerprint(mine) == before
    assert pp.prepare(mine, root_cluster="early", **QUICK) is None
    assert fingerprint(mine) == fingerprint(prepared)
    assert list(counts.layers.keys()) in ([], [None])


def test_dense_counts_and_fewer_genes_than_asked(counts):
    dense = AnnData(counts.X.toarray().astype(int)[:, :20], obs=counts.obs.copy())
    pp.prepare(dense, umap=False, n_comps=50, n_neighbors=15)
    assert dense.var["highly_variable"].all()
    assert dense.obsm["X_pca"].shape == (200, 19)
    assert "pseudotime" not in dense.obs


def test_modality_of_a_mudata(counts, prepared):
    other = counted(50, 20, 1)
    other.obs_names, other.var_names = [f"a{i}" for i in range(50)], [f"p{i}" for i in range(20)]
    mdata = MuData({"atac": other.copy(), "rna": counts.copy()})
    pp.prepare(mdata, root_cluster="early", **QUICK)
    assert np.array_equal(mdata["rna"].obsm["X_pca"], prepared.obsm["X_pca"])
    assert np.array_equal(mdata["rna"].obs["pseudotime"], prepared.obs["pseudotime"])
    assert (mdata["atac"].X != other.X).nnz == 0
    with pytest.raises(KeyError, match=r"modality='gex'.*rna"):
        pp.prepare(mdata, modality="gex")


def test_a_marker_is_read_after_normalization(counts):
    adata = counts.copy()
    early = adata.var_names[np.asarray(adata.X[:30].mean(0) - adata.X[100:].mean(0)).argmax()]
    pp.prepare(adata, root_marker=early, **QUICK)
    assert spearmanr(adata.obs["pseudotime"], adata.obs["time"])[0] > 0.8


def logged(adata: AnnData) -> None:
    sc.pp.log1p(adata)


def emptied(adata: AnnData) -> None:
    adata.X = sparse.diags((np.arange(200) > 1).astype(np.float32)).tocsr() @ adata.X


BAD = {
    "logged": (logged, {}, ValueError, "not a count.*normalized or logged.*put the counts in X"),
    "prepared": (lambda a: pp.prepare(a, **QUICK), {}, ValueError, r"set X = layers\['counts'\]"),
    "negative": (lambda a: setattr(a, "X", -a.X), {}, ValueError, "X holds -[0-9]+, which is not a count"),
    "empty cells": (emptied, {}, ValueError, "2 cells have no counts.*'c0'.*filter_cells"),
    "two roots": (None, {"root_cell": 0, "root_cluster": "early"}, ValueError, "exactly one"),
    "unknown cluster": (None, {"root_cluster": "x"}, ValueError, "'x' has no cells"),
    "unknown marker": (None, {"root_marker": "Sox9"}, KeyError, "'Sox9'"),
    "neighbors": (None, {"n_neighbors": 0}, ValueError, "n_neighbors=0"),
    "genes": (None, {"n_top_genes": 0}, ValueError, "n_top_genes=0"),
    "components": (None, {"n_comps": 0.5}, ValueError, "n_comps=0.5"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_with_reason_and_untouched(counts, fingerprint, case):
    spoil, arguments, error, message = BAD[case]
    adata = counts.copy()
    if spoil is not None:
        spoil(adata)
    before = fingerprint(adata)
    with pytest.raises(error, match=message):
        pp.prepare(adata, **{**QUICK, **arguments})
    assert fingerprint(adata) == before
    with pytest.raises(ValueError, match=r"anndata\.copy\(\)"):
        pp.prepare(adata[:50])


@pytest.mark.parametrize("wrong", ["rna", "prot", "root"])
def test_everything_is_checked_before_peaks_are_reduced(counts, monkeypatch, wrong):
    monkeypatch.setattr(_peaks_and_proteins, "iterative_lsi", lambda *_, **__: pytest.fail("the peaks were reduced"))
    mdata = MuData({"atac": counted(200, 20, 1), "rna": counts.copy(), "prot": counted(200, 15, 2)})
    if wrong != "root":
        logged(mdata[wrong])
    arguments = {"root_cluster": "x"} if wrong == "root" else {}
    with pytest.raises(ValueError, match="'x' has no cells" if wrong == "root" else "not a count"):
        pp.prepare(mdata, modalities={"atac": "atac", "rna": "rna", "prot": "protein"}, **arguments, **QUICK)
    assert not mdata["atac"].obsm


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "pancreas_velocity_739.h5ad").is_file(), reason="MUPORT_DATA holds no pancreas")
def test_pancreas():
    adata = anndata.read_h5ad(DATA / "pancreas_velocity_739.h5ad")
    again = pp.prepare(adata, root_cluster="Ductal", umap=True, copy=True)
    pp.prepare(adata, root_cluster="Ductal", umap=True)
    assert adata.obsm["X_umap"].shape == (739, 2)
    for key in ("X_pca", "X_umap"):
        assert np.array_equal(adata.obsm[key], again.obsm[key])
    median = adata.obs.groupby("clusters", observed=True)["pseudotime"].median()
    assert median["Ductal"] < median["Ngn3 high EP"] < median["Pre-endocrine"] < median["Beta"]
