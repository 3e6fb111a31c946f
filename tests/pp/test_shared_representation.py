from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData, read_h5mu
from scipy import sparse
from scipy.stats import zscore

from muport import datasets, pp
from muport.pp._shared_representation import match_genes
from muport.pp.components._standardized_pca import Standardized

DATA = Path(os.environ.get("MUPORT_DATA", "/nonexistent"))


def pair(n: int = 90, m: int = 70, g: int = 12, seed: int = 0) -> MuData:
    """RNA and a modality with the same genes in other order, of different cells of three types."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(1.0, 3.0, (3, g))
    parts = {}
    for name, size, scale in (("rna", n, 1.0), ("atac", m, 0.4)):
        kind = rng.integers(3, size=size)
        parts[name] = AnnData(sparse.csr_matrix(rng.poisson(scale * mean[kind]).astype(np.float32)))
        parts[name].obs_names, parts[name].var_names = [f"{name}{i}" for i in range(size)], [f"g{i}" for i in range(g)]
        parts[name].obs["kind"] = kind
    parts["atac"] = parts["atac"][:, ::-1].copy()
    return MuData(parts)


@pytest.fixture
def mdata() -> MuData:
    return pair()


def standardized(adata: AnnData) -> np.ndarray:
    x = adata[:, sorted(adata.var_names, key=lambda name: int(name[1:]))].X.toarray().astype(np.float64)
    depth = x.sum(axis=1, keepdims=True)
    return zscore(np.log1p(x / np.where(depth > 0, depth, 1) * np.median(depth[depth > 0])), axis=0)


def same_up_to_sign(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b * np.sign((a * b).sum(axis=0)), atol=1e-4)


def test_pca_is_that_of_both_correlation_matrices(mdata):
    pp.shared_representation(mdata, n_comps=4)
    a, b = standardized(mdata["rna"]), standardized(mdata["atac"])
    value, vector = np.linalg.eigh(a.T @ a / len(a) + b.T @ b / len(b))
    axes = vector[:, np.argsort(-value)[:4]]
    found = np.vstack([mdata["rna"].obsm["X_shared"], mdata["atac"].obsm["X_shared"]])
    assert found.dtype == np.float32
    assert same_up_to_sign(found, np.vstack([a @ axes, b @ axes]))


def test_cca_is_the_decomposition_of_the_cross_product(mdata):
    pp.shared_representation(mdata, n_comps=4, method="cca")
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in map(standardized, (mdata["rna"], mdata["atac"])))
    u, s, vt = np.linalg.svd(a @ b.T, full_matrices=False)
    expected = np.vstack([u[:, :4] * s[:4], vt[:4].T * s[:4]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = np.vstack([mdata["rna"].obsm["X_shared"], mdata["atac"].obsm["X_shared"]])
    assert same_up_to_sign(found, expected)


@pytest.mark.parametrize("method", ["pca", "cca"])
def test_types_meet(mdata, method):
    pp.shared_representation(mdata, n_comps=5, method=method)
    rna, atac = mdata["rna"], mdata["atac"]
    gap = ((atac.obsm["X_shared"][:, None] - rna.obsm["X_shared"]) ** 2).sum(axis=2)
    assert (rna.obs["kind"].to_numpy()[gap.argmin(axis=1)] == atac.obs["kind"]).mean() > 0.7


def test_products_without_the_matrix():
    x = sparse.csr_matrix(sparse.random(30, 7, 0.4, random_state=0).toarray() * (np.arange(7) != 3))
    dense = np.nan_to_num(zscore(x.toarray(), axis=0))
    rng = np.random.default_rng(0)
    plain, unit = Standardized.of(x), dense / np.linalg.norm(dense, axis=1, keepdims=True)
    for z, expected in ((plain, dense), (plain.with_unit_rows(), unit)):
        right, left = rng.normal(size=(7, 2)), rng.normal(size=(30, 2))
        assert np.allclose(z.dot(right), expected @ right)
        assert np.allclose(z.tdot(left), expected.T @ left)
        assert np.allclose(z.dot(right[:, 0]), expected @ right[:, 0])


def test_names_are_matched():
    rna = np.array(["Actb", "Gapdh", "Cd4", "Cd8a", "Sox9", "only"])
    names, left, right = match_genes(rna, np.array(["ACTB", "CD8A", "GAPDH", "cd4", "SOX9", "x", "GAPDH"]))
    assert names.tolist() == ["ACTB", "GAPDH", "CD4", "CD8A", "SOX9"]
    assert left.tolist() == [0, 1, 2, 3, 4, -1]
    assert right.tolist() == [0, 3, 1, 2, 4, -1, 1]
    ids = np.array([f"ENSMUSG0000{i}.{i}" for i in range(6)] + ["AC1.1"])
    other = np.array([f"ENSMUSG0000{i}" for i in range(6)] + ["AC1"])
    assert match_genes(ids, other)[0].tolist() == other[:6].tolist()
    exact = np.array(["a", "b", "c", "d", "e", "F"])
    assert match_genes(exact, np.array(["a", "b", "c", "d", "e", "f"]))[0].tolist() == ["a", "b", "c", "d", "e"]


def test_features_of_one_name_are_summed(mdata):
    expected = pp.shared_representation(mdata, n_comps=3, copy=True)
    atac = mdata["atac"]
    x = atac.X.toarray()
    half = np.floor(x[:, [0]] / 2)
    split = AnnData(np.hstack([half, x[:, 1:], x[:, [0]] - half]), obs=atac.obs)
    split.var_names = [f"{name.upper()}" for name in [*atac.var_names, atac.var_names[0]]]
    other = MuData({"rna": mdata["rna"].copy(), "atac": split})
    pp.shared_representation(other, n_comps=3)
    assert np.allclose(other["atac"].obsm["X_shared"], expected["atac"].obsm["X_shared"], atol=1e-4)


def test_wherever_the_activity_is(mdata):
    expected = pp.shared_representation(mdata, n_comps=3, copy=True)["atac"].obsm["X_shared"]
    x, names = mdata["atac"].X.toarray(), mdata["atac"].var_names.to_numpy().astype(object)
    peaks = AnnData(np.ones((70, 3), np.float32), obs=mdata["atac"].obs.copy())
    peaks.var_names = ["p0", "p1", "p2"]
    in_obsm, as_table, modality = (MuData({"rna": mdata["rna"].copy(), "atac": peaks.copy()}) for _ in range(3))
    in_obsm["atac"].obsm["gene_activity"], in_obsm["atac"].uns["gene_activity_genes"] = x, names
    as_table["atac"].obsm["mine"] = pd.DataFrame(x, index=peaks.obs_names, columns=names)
    linked = MuData({"rna": mdata["rna"].copy(), "atac": mdata["atac"].copy()})
    linked["atac"].var_names = [f"p{i}" for i in range(12)]
    linked["atac"].varm["gene_link"], linked["atac"].uns["gene_link_genes"] = np.eye(12), names
    activity = AnnData(
        x[::-1], obs=pd.DataFrame(index=peaks.obs_names[::-1]), var=pd.DataFrame(index=names.astype(str))
    )
    modality.mod["gene_activity"] = activity
    modality.update()
    for data, key in ((in_obsm, None), (as_table, "mine"), (linked, None), (modality, None), (linked, "gene_link")):
        pp.shared_representation(data, n_comps=3, activity=key)
        assert np.allclose(data["atac"].obsm["X_shared"], expected, atol=1e-4)


def test_files_seeds_layers_and_copies(mdata, tmp_path):
    before = mdata["rna"].X.copy()
    first = pp.shared_representation(mdata, n_comps=3, copy=True)
    assert "X_shared" not in mdata["rna"].obsm
    mdata["rna"].layers["counts"] = before
    mdata["rna"].X = before.log1p()
    pp.shared_representation(mdata, n_comps=3)
    assert np.array_equal(mdata["rna"].obsm["X_shared"], first["rna"].obsm["X_shared"])
    mdata.write(tmp_path / "m.h5mu")
    again = read_h5mu(tmp_path / "m.h5mu")
    assert np.array_equal(again["atac"].obsm["X_shared"], first["atac"].obsm["X_shared"])
    assert list(again["rna"].uns["X_shared_genes"]) == [f"g{i}" for i in range(12)]


def test_more_genes_than_asked_are_cut_to_the_variable_ones():
    mdata = datasets.simulated_multiome(n_cells=150, n_genes=120)
    pp.shared_representation(mdata, n_top_genes=40, n_comps=10)
    assert len(mdata["rna"].uns["X_shared_genes"]) == 40
    assert mdata["rna"].obsm["X_shared"].shape == (150, 10)


def test_refusals(mdata):
    with pytest.raises(TypeError, match="needs a MuData"):
        pp.shared_representation(mdata["rna"])
    with pytest.raises(ValueError, match="method='umap'"):
        pp.shared_representation(mdata, method="umap")
    with pytest.raises(KeyError, match="modality='peaks'"):
        pp.shared_representation(mdata, atac="peaks")
    with pytest.raises(KeyError, match="activity='mine'"):
        pp.shared_representation(mdata, activity="mine")
    with pytest.raises(ValueError, match="n_comps=0"):
        pp.shared_representation(mdata, n_comps=0)
    logged = mdata.copy()
    logged["rna"].X = logged["rna"].X.log1p()
    with pytest.raises(ValueError, match="not a count"):
        pp.shared_representation(logged)
    logged["rna"].X, logged["atac"].X = mdata["rna"].X, -mdata["atac"].X
    with pytest.raises(ValueError, match="gene activity holds -"):
        pp.shared_representation(logged)
    mdata["atac"].var_names = [f"p{i}" for i in range(12)]
    with pytest.raises(ValueError, match=r"0 genes are shared.*'g0'.*'p0'"):
        pp.shared_representation(mdata)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "bmmc_unpaired_liger.h5mu").is_file(), reason="MUPORT_DATA holds no bone marrow")
def test_bone_marrow():
    mdata = read_h5mu(DATA / "bmmc_unpaired_liger.h5mu")
    pp.shared_representation(mdata)
    rna, atac = mdata["rna"], mdata["atac"]
    assert rna.obsm["X_shared"].shape == (340, 30)
    gap = ((atac.obsm["X_shared"][:, None] - rna.obsm["X_shared"]) ** 2).sum(axis=2)
    near = rna.obs["cell_type"].to_numpy().astype(str)[gap.argmin(axis=1)]
    assert (near == atac.obs["cell_type"].to_numpy().astype(str)).mean() > 0.4
