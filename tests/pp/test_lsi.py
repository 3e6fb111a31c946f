from __future__ import annotations

import muon
import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from mudata import MuData
from scipy import sparse
from scipy.stats import spearmanr

from muport import pp


def peaks(n: int = 120, p: int = 80, seed: int = 0) -> AnnData:
    """Two types of cells, each with peaks of its own, of very different depth."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    mean = np.where(np.arange(p) % 2 == kind[:, None], 0.5, 0.15) * rng.uniform(0.3, 3, n)[:, None]
    x = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    adata = AnnData(x)
    adata.obs_names, adata.var_names = (
        [f"c{i}" for i in range(n)],
        [f"chr1:{i * 1000}-{i * 1000 + 500}" for i in range(p)],
    )
    adata.obs["kind"] = kind
    return adata


@pytest.fixture
def adata() -> AnnData:
    return peaks()


def by_formula(x: np.ndarray, idf: np.ndarray | None = None) -> np.ndarray:
    idf = np.log1p(len(x) / x.sum(axis=0)) if idf is None else idf
    return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)) * idf


@pytest.mark.parametrize(
    "settings",
    [{}, {"log_tf": False}, {"log_idf": False, "scale_factor": 100.0},
     {"log_tf": False, "log_idf": False, "log_tfidf": True}],
)  # fmt: skip
def test_tfidf_is_that_of_muon(adata, settings):
    other = adata.copy()
    muon.atac.pp.tfidf(other, **settings)
    counts = adata.X.copy()
    pp.tfidf(adata, **settings)
    assert sparse.issparse(adata.X)
    assert np.allclose(adata.X.toarray(), other.X.toarray(), rtol=1e-6)
    assert (adata.layers["counts"] != counts).nnz == 0


def test_tfidf_is_the_formula_and_goes_where_asked(adata):
    x = adata.X.toarray().astype(np.float64)
    copied = pp.tfidf(adata, to_layer="tfidf", copy=True)
    assert np.allclose(copied.layers["tfidf"].toarray(), by_formula(x), rtol=1e-5)
    assert (copied.X != adata.X).nnz == 0
    assert "idf" not in adata.var
    mdata = MuData({"peaks": adata.copy()})
    pp.tfidf(mdata, modality="peaks")
    assert np.allclose(mdata["peaks"].X.toarray(), by_formula(x), rtol=1e-5)


def test_lsi_is_that_of_muon(adata):
    pp.tfidf(adata)
    other = adata.copy()
    muon.atac.tl.lsi(other, n_comps=6)
    pp.lsi(adata, n_comps=6, max_depth_correlation=1)
    sign = np.sign((adata.varm["LSI"] * other.varm["LSI"]).sum(axis=0))
    assert np.allclose(adata.obsm["X_lsi"], other.obsm["X_lsi"] * sign, atol=1e-3)
    assert np.allclose(adata.varm["LSI"], other.varm["LSI"] * sign, atol=1e-4)
    assert np.allclose(adata.uns["lsi"]["stdev"], other.uns["lsi"]["stdev"], rtol=1e-5)
    largest = adata.varm["LSI"][np.abs(adata.varm["LSI"]).argmax(axis=0), np.arange(6)]
    assert (largest > 0).all()


def test_what_follows_depth_is_dropped_and_nothing_else(adata):
    depth = np.asarray((adata.X > 0).sum(axis=1)).ravel()
    pp.tfidf(adata)
    whole = pp.lsi(adata, n_comps=6, max_depth_correlation=1, copy=True)
    by_hand = [spearmanr(z, depth)[0] for z in whole.obsm["X_lsi"].T]
    assert np.allclose(whole.uns["lsi"]["depth_correlation"], by_hand, atol=1e-6)
    pp.lsi(adata, n_comps=6)
    kept = np.abs(by_hand) <= 0.75
    assert 1 <= kept.sum() < 6
    assert np.allclose(adata.obsm["X_lsi"], whole.obsm["X_lsi"][:, kept], atol=1e-5)
    with pytest.raises(ValueError, match="every component correlates with the depth"):
        pp.lsi(adata, n_comps=6, max_depth_correlation=0.0)


def test_same_seed_same_bits_and_the_global_generator_stays(adata):
    pp.tfidf(adata)
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = pp.lsi(adata, n_comps=4, copy=True).obsm["X_lsi"]
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(6)  # noqa: NPY002
    assert np.array_equal(pp.lsi(adata, n_comps=4, copy=True).obsm["X_lsi"], first)


@pytest.mark.parametrize("scaled", [True, False])
def test_new_cells_land_where_they_would_have_been(adata, scaled, tmp_path):
    raw = adata.copy()
    pp.tfidf(adata)
    pp.lsi(adata, n_comps=6, scale_embeddings=scaled)
    adata.write_h5ad(tmp_path / "reference.h5ad")
    reference = read_h5ad(tmp_path / "reference.h5ad")
    shuffled = raw[::3, ::-1].copy()
    pp.project_lsi(shuffled, reference)
    assert shuffled.obsm["X_lsi"].dtype == np.float32
    assert np.allclose(shuffled.obsm["X_lsi"], adata.obsm["X_lsi"][::3], atol=1e-4)


def test_cells_without_counts_are_finite_and_told(adata, caplog):
    adata.X = sparse.diags((np.arange(120) > 1).astype(np.float32)).tocsr() @ adata.X
    pp.tfidf(adata)
    assert "2 cells have no counts" in caplog.text
    pp.lsi(adata, n_comps=4, max_depth_correlation=1)
    assert np.isfinite(adata.X.data).all()
    assert np.isfinite(adata.obsm["X_lsi"]).all()


def test_refusals(adata):
    with pytest.raises(ValueError, match="log_tfidf=True needs"):
        pp.tfidf(adata, log_tfidf=True)
    with pytest.raises(KeyError, match="layer='raw'"):
        pp.tfidf(adata, layer="raw")
    with pytest.raises(ValueError, match=r"anndata\.copy"):
        pp.tfidf(adata[:50])
    with pytest.raises(KeyError, match="modality='atac'"):
        pp.tfidf(MuData({"peaks": adata}))
    with pytest.raises(ValueError, match="n_comps=0"):
        pp.lsi(adata, n_comps=0)
    with pytest.raises(ValueError, match="max_depth_correlation=2"):
        pp.lsi(adata, max_depth_correlation=2)
    with pytest.raises(ValueError, match="1 cells and 80 peaks"):
        pp.lsi(adata[:1].copy(), n_comps=2)
    with pytest.raises(TypeError, match="log_tf='no'"):
        pp.tfidf(adata, log_tf="no")
    text = adata.copy()
    text.X = adata.X.toarray().astype(str).astype(object)
    with pytest.raises(TypeError, match="X holds object, not numbers"):
        pp.tfidf(text)
    with pytest.raises(KeyError, match="reference has no LSI"):
        pp.project_lsi(adata, adata)
    reference = adata.copy()
    pp.tfidf(reference)
    with pytest.raises(ValueError, match="not a count.*layer='counts'"):
        pp.tfidf(reference)
    pp.lsi(reference, n_comps=4)
    with pytest.raises(KeyError, match=r"1 of the 80 peaks.*'chr1:3000-3500'"):
        pp.project_lsi(adata[:, np.arange(80) != 3].copy(), reference)
    reference.X = -reference.X
    with pytest.raises(ValueError, match="negative"):
        pp.lsi(reference)
    reference.X = reference.X.toarray()
    with pytest.raises(ValueError, match="negative"):
        pp.lsi(reference)
