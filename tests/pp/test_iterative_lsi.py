from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from mudata import MuData, read_h5mu
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from muport import datasets, pp
from muport.data.reading import _count_matrix
from muport.data.reading._count_matrix import iterate_blocks
from muport.neighbors import kmeans
from muport.pp._counts import read_rows_sorted
from muport.pp._iterative_lsi import LSISettings, chance_singular_value, variance_between_clusters

DATA = Path(os.environ.get("MUPORT_DATA", "/nonexistent"))


def typed(n: int = 400, p: int = 300, n_types: int = 4, seed: int = 0) -> AnnData:
    """Cells of a few types, each with 20 peaks of its own among common ones."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(n_types, size=n)
    own = np.arange(p) // 20
    mean = np.where(own == kind[:, None], 0.8, 0.1) * rng.uniform(0.5, 2, n)[:, None] * rng.uniform(0.3, 1.5, p)
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.var_names = [f"chr2-{i * 1000}-{i * 1000 + 500}" for i in range(p)]
    adata.obs["kind"] = kind
    return adata


@pytest.fixture(scope="module")
def counts() -> AnnData:
    return typed()


def test_one_round_of_all_peaks_is_the_formula(counts):
    adata = pp.iterative_lsi(counts, n_iter=1, n_comps=8, max_depth_correlation=1, copy=True)
    x = counts.X.toarray().astype(np.float64)
    t = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)) * np.log1p(len(x) / x.sum(axis=0))
    u, s, vt = np.linalg.svd(t, full_matrices=False)
    chance = adata.uns["lsi"]["chance"]
    k = adata.obsm["X_lsi"].shape[1]
    z = u[:, :k] * np.sqrt(s[:k] ** 2 - chance**2)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    sign = np.sign((adata.obsm["X_lsi"] * z).sum(axis=0))
    assert k == 8
    assert 0 < chance < s[k - 1]
    # the weakest components have nearly equal values, and so no direction of their own
    assert np.allclose(adata.obsm["X_lsi"][:, :4], (z * sign)[:, :4], atol=1e-3)
    assert np.allclose(adata.uns["lsi"]["stdev"][:4], s[:4] / np.sqrt(399), rtol=1e-5)
    assert np.allclose(np.abs((adata.varm["LSI"][:, :4] * vt[:4].T).sum(axis=0)), 1, atol=1e-4)


def test_chance_is_what_data_without_structure_have():
    rng = np.random.default_rng(1)
    x = sparse.csr_matrix(rng.poisson(0.2, (500, 300)).astype(np.float32))
    depth, total = np.diff(x.indptr), np.asarray(x.sum(axis=0)).ravel()
    idf = np.log1p(500 / total).astype(np.float32)
    found = chance_singular_value(x, depth, idf, 1.0, rng)
    dense = x.toarray().astype(np.float64)
    t = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)) * idf
    assert found == pytest.approx(np.linalg.svd(t, compute_uv=False)[1], rel=0.03)


def test_variance_between_clusters_is_that_of_mean_shares(counts):
    z = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    found = variance_between_clusters(counts.X, z, LSISettings(10, 2, 50, 5, 400, 1.0, 0))
    label = kmeans(z, 5, random_state=0).labels
    share = counts.X.toarray() / counts.X.toarray().sum(axis=1, keepdims=True)
    by_hand = np.array([share[label == k].mean(axis=0) for k in range(5)]).var(axis=0)
    assert np.allclose(found, by_hand, rtol=1e-4)


def test_types_are_found_and_so_are_their_peaks(counts):
    adata = pp.iterative_lsi(counts, n_features=100, n_comps=10, copy=True)
    label = kmeans(adata.obsm["X_lsi"], 4, random_state=0).labels
    assert adjusted_rand_score(label, counts.obs["kind"]) > 0.85
    assert adata.var["lsi_features"].sum() == 100
    first = pp.iterative_lsi(counts, n_features=100, n_iter=1, copy=True)
    markers = np.arange(300) < 80
    assert (
        adata.var["lsi_features"].to_numpy()[markers].sum() > first.var["lsi_features"].to_numpy()[markers].sum() + 10
    )
    assert (adata.varm["LSI"][~adata.var["lsi_features"]] == 0).all()


def test_some_cells_are_fitted_and_all_projected(counts, tmp_path):
    adata = pp.iterative_lsi(counts, n_fit_cells=200, copy=True)
    label = kmeans(adata.obsm["X_lsi"], 4, random_state=0).labels
    assert adata.n_obs == 400
    assert adjusted_rand_score(label, counts.obs["kind"]) > 0.8
    adata.write_h5ad(tmp_path / "a.h5ad")
    held = counts[::7].copy()
    pp.project_lsi(held, read_h5ad(tmp_path / "a.h5ad")[:5])
    assert np.allclose(held.obsm["X_lsi"], adata.obsm["X_lsi"][::7], atol=1e-6)
    again = pp.iterative_lsi(counts, n_fit_cells=200, copy=True)
    assert np.array_equal(again.obsm["X_lsi"], adata.obsm["X_lsi"])
    assert not np.allclose(pp.iterative_lsi(counts, n_fit_cells=200, random_state=1, copy=True).uns["lsi"]["stdev"][:3],
                           adata.uns["lsi"]["stdev"][:3])  # fmt: skip


def test_however_the_counts_are_held(counts, tmp_path):
    expected = pp.iterative_lsi(counts, copy=True).obsm["X_lsi"]
    dense = AnnData(counts.X.toarray(), obs=counts.obs.copy(), var=counts.var.copy())
    columns, whole = counts.copy(), counts.copy()
    columns.X, whole.X = columns.X.tocsc(), whole.X.astype(np.int64)
    layered = AnnData(np.zeros(counts.shape, np.float32), layers={"counts": counts.X})
    for other, layer in ((dense, None), (columns, None), (whole, None), (layered, "counts")):
        pp.iterative_lsi(other, layer=layer)
        assert np.array_equal(other.obsm["X_lsi"], expected)
    counts.write_h5ad(tmp_path / "b.h5ad")
    backed = read_h5ad(tmp_path / "b.h5ad", backed="r")
    pp.iterative_lsi(backed)
    assert np.array_equal(backed.obsm["X_lsi"], expected)
    backed.file.close()


def test_blocks_are_the_rows(counts, monkeypatch):
    monkeypatch.setattr(_count_matrix, "_BLOCK_ROWS", 64)
    for x in (counts.X, counts.X.toarray()):
        parts = list(iterate_blocks(x))
        assert np.array_equal(sparse.vstack([b for _, b in parts]).toarray(), counts.X.toarray())
        assert [rows.stop - rows.start for rows, _ in parts] == [64] * 6 + [16]
    rows = np.array([0, 5, 63, 64, 399])
    assert np.array_equal(read_rows_sorted(counts.X, rows).toarray(), counts.X[rows].toarray())


def test_empty_cells_lie_at_the_origin(counts, caplog):
    adata = counts.copy()
    adata.X = sparse.diags((np.arange(400) != 7).astype(np.float32)).tocsr() @ adata.X
    pp.iterative_lsi(adata)
    length = np.linalg.norm(adata.obsm["X_lsi"], axis=1)
    assert length[7] == 0
    assert np.allclose(np.delete(length, 7), 1, atol=1e-5)
    assert "1 cell has no counts" in caplog.text
    assert "'c7'" in caplog.text


def test_noise_and_tiny_data_are_finite(caplog):
    rng = np.random.default_rng(0)
    for shape in ((4, 3), (30, 5), (60, 200)):
        adata = AnnData(rng.poisson(0.7, shape).astype(np.float32) + (np.arange(shape[1]) == 0))
        pp.iterative_lsi(adata, max_depth_correlation=1)
        assert np.isfinite(adata.obsm["X_lsi"]).all()


def test_mudata_and_its_file(counts, tmp_path):
    mdata = MuData({"atac": counts.copy()})
    mdata["atac"].var["chosen"] = np.arange(300) < 200
    pp.iterative_lsi(mdata, mask_var="chosen")
    assert not mdata["atac"].var["lsi_features"][200:].any()
    mdata.write(tmp_path / "m.h5mu")
    again = read_h5mu(tmp_path / "m.h5mu")
    assert np.array_equal(again["atac"].obsm["X_lsi"], mdata["atac"].obsm["X_lsi"])
    new = MuData({"atac": counts[:9].copy()})
    pp.project_lsi(new, again)
    assert np.allclose(new["atac"].obsm["X_lsi"], mdata["atac"].obsm["X_lsi"][:9], atol=1e-6)


BAD = {
    "logged": ({}, lambda a: setattr(a, "X", a.X.log1p()), ValueError, "not a count"),
    "negative": ({}, lambda a: setattr(a, "X", -a.X), ValueError, "X holds -"),
    "nan": ({}, lambda a: setattr(a, "X", a.X * np.nan), ValueError, "X holds nan"),
    "components": ({"n_comps": 0}, None, ValueError, "n_comps=0"),
    "rounds": ({"n_iter": 1.5}, None, ValueError, "n_iter=1.5"),
    "mask": ({"mask_var": "x"}, None, KeyError, "mask_var='x'"),
    "nothing": ({}, lambda a: setattr(a, "X", a.X * 0), ValueError, "0 peaks have counts"),
    "depth": ({"max_depth_correlation": "high"}, None, ValueError, "max_depth_correlation='high'"),
    "layer": ({"layer": "raw"}, None, KeyError, "layer='raw'"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_and_untouched(counts, fingerprint, case):
    arguments, spoil, error, message = BAD[case]
    adata = counts.copy()
    if spoil is not None:
        spoil(adata)
    before = fingerprint(adata)
    with pytest.raises(error, match=message):
        pp.iterative_lsi(adata, **arguments)
    assert fingerprint(adata) == before


def test_beats_what_muon_gives_where_peaks_are_noisy():
    mdata = datasets.simulated_multiome(n_cells=600, random_state=1, batch_effect=0.0)
    atac, kind = mdata["atac"], mdata["atac"].obs["cell_type"].to_numpy().astype(str)
    pp.iterative_lsi(atac)
    plain = pp.tfidf(atac, copy=True)
    pp.lsi(plain)
    score = [
        normalized_mutual_info_score(kind, kmeans(a.obsm["X_lsi"], 6, random_state=0).labels) for a in (plain, atac)
    ]
    assert score[1] > score[0] + 0.1


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "snare_mouse_cortex.h5mu").is_file(), reason="MUPORT_DATA holds no snare_mouse_cortex")
def test_snare():
    atac = read_h5mu(DATA / "snare_mouse_cortex.h5mu")["atac"]
    pp.iterative_lsi(atac)
    assert atac.obsm["X_lsi"].shape[0] == 10309
    label = kmeans(atac.obsm["X_lsi"], 15, random_state=0).labels
    assert normalized_mutual_info_score(atac.obs["cell_type"].astype(str), label) > 0.3
