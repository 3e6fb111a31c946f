from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from mudata import MuData
from scipy import sparse

from muport import pp


def batches(depth: tuple[float, ...] = (1.0, 1.0, 1.0), n: int = 900, p: int = 60, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    batch = np.arange(n) % len(depth)
    mean = rng.uniform(0.1, 1.2, p) * np.asarray(depth)[batch][:, None]
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    adata.obs["batch"] = [f"b{b}" for b in batch]
    return adata


@pytest.fixture
def adata() -> AnnData:
    return batches()


def score_of(x: np.ndarray, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score, feature by feature."""
    names, n = np.unique(batch), len(batch)
    size = np.array([(batch == b).sum() for b in names])
    share = np.array([(x[batch == b] > 0).mean(axis=0) for b in names])
    rate = -np.log(1 - np.minimum(share, 1 - 0.5 / size[:, None]))
    score, explained = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        p = share[:, j]
        expected = 1 - np.exp(-rate.sum(axis=1) * rate[:, j].sum() / rate.sum())
        between = max(((p - expected) ** 2).mean() - (expected * (1 - expected) / size).mean(), 0)
        within = (p * (1 - p)).mean()
        explained[j] = between / (between + within)
        score[j] = within * np.log(1 + n / (x[:, j] > 0).sum()) ** 2 * (1 - explained[j])
    return score, explained


def test_score_is_the_formula(adata):
    pp.select_features(adata, batch_key="batch")
    score, explained = score_of(adata.X.toarray(), adata.obs["batch"].to_numpy().astype(str))
    assert np.allclose(adata.var["detection_score"], score)
    assert np.allclose(adata.var["batch_share"], explained)
    assert np.allclose(adata.var["detection"], (adata.X.toarray() > 0).mean(axis=0))
    assert adata.var["selected"].all()


def test_a_peak_missing_from_a_batch_is_left_out(adata):
    x = adata.X.toarray()
    x[adata.obs["batch"] == "b1", 5] = 0
    x[adata.obs["batch"] == "b2", 6] *= np.arange(300) < 2
    adata.X = x
    pp.select_features(adata, batch_key="batch", min_share=0.01)
    assert np.flatnonzero(~adata.var["selected"]).tolist() == [5, 6]
    assert adata.var["detection_min"].iloc[5] == 0
    pp.select_features(adata, min_share=0.01)
    assert adata.var["selected"].all()
    assert (adata.var["batch_share"] == 0).all()


def test_depth_is_no_batch_effect_but_a_peak_of_one_batch_is():
    adata = batches(depth=(0.4, 1.0, 3.0))
    x = adata.X.toarray()
    x[adata.obs["batch"] == "b0", 9] = np.random.default_rng(1).poisson(3.0, 300)
    adata.X = sparse.csr_matrix(x)
    pp.select_features(adata, batch_key="batch", n_top=50)
    share = adata.var["batch_share"].to_numpy()
    assert np.delete(share, 9).max() < 0.05
    assert share[9] > 0.2
    assert adata.var["selected"].sum() == 50
    best = np.argsort(-adata.var["detection_score"].to_numpy(), kind="stable")[:50]
    assert adata.var["selected"].to_numpy()[best].all()


def test_only_columns_are_written_and_go_into_a_file(adata, tmp_path):
    before = set(adata.uns), adata.X.copy()
    pp.select_features(adata, batch_key="batch", n_top=7)
    assert set(adata.uns) == before[0]
    assert (adata.X != before[1]).nnz == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert read_h5ad(tmp_path / "a.h5ad").var["selected"].sum() == 7
    copied = pp.select_features(batches(), batch_key="batch", copy=True)
    assert "selected" in copied.var


def test_batches_of_all_cells(adata):
    mdata = MuData({"atac": adata, "rna": AnnData(np.ones((900, 2)))})
    mdata.obs["donor"] = ["d0"] * 300 + ["d1"] * 600
    pp.select_features(mdata, batch_key="donor")
    expected = score_of(adata.X.toarray(), np.where(np.arange(900) < 300, "d0", "d1"))[0]
    assert np.allclose(mdata["atac"].var["detection_score"], expected)


def test_refusals(adata):
    with pytest.raises(KeyError, match="donor"):
        pp.select_features(adata, batch_key="donor")
    with pytest.raises(ValueError, match="min_share=1.5"):
        pp.select_features(adata, min_share=1.5)
    with pytest.raises(ValueError, match="n_top=0"):
        pp.select_features(adata, n_top=0)
    with pytest.raises(ValueError, match="no feature is detected in this fraction"):
        pp.select_features(adata, min_share=0.999)
    adata.obs.loc[adata.obs_names[3], "batch"] = np.nan
    with pytest.raises(ValueError, match="1 cells have no batch, for example '3'"):
        pp.select_features(adata, batch_key="batch")
    with pytest.raises(ValueError, match=r"anndata\.copy"):
        pp.select_features(adata[:9])
