from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from muport.datasets import simulated_multiome


@pytest.fixture(scope="module")
def mdata():
    return simulated_multiome(n_cells=600, n_genes=200, n_peaks=500, random_state=1)


def test_counts_are_sparse_integers(mdata):
    for adata in mdata.mod.values():
        assert sparse.isspmatrix_csr(adata.X)
        assert adata.X.dtype == np.float32
        assert (adata.X.data == np.round(adata.X.data)).all()
        assert 0.03 < adata.X.nnz / np.prod(adata.shape) < 0.6


def test_hidden_pairing_is_known(mdata):
    rna, atac = mdata["rna"], mdata["atac"]
    assert mdata.n_obs == 1200
    match = atac.obs.set_index("pair_id").loc[rna.obs["pair_id"]]
    assert (match["cell_type"].to_numpy() == rna.obs["cell_type"].to_numpy()).all()
    assert (match["batch"].to_numpy() == rna.obs["batch"].to_numpy()).all()
    assert (rna.obs["pair_id"].to_numpy() != atac.obs["pair_id"].to_numpy()).any(), "the order would give it away"


@pytest.mark.parametrize(("paired", "n_obs"), [(True, 100), (False, 200), (0.3, 170)])
def test_share_of_paired_cells(paired, n_obs):
    assert simulated_multiome(100, 20, 30, paired=paired).n_obs == n_obs


def test_rare_and_missing_type(mdata):
    obs = mdata["rna"].obs
    truth = mdata.uns["simulation"]
    rare = (obs["cell_type"] == truth["rare_type"]).mean()
    assert 0.01 <= rare < 0.04
    here = (obs["cell_type"] == truth["missing_type"]) & (obs["batch"] == truth["missing_from"])
    assert not here.any()
    assert simulated_multiome(100, 20, 30, missing_type_from=None).uns["simulation"].get("missing_type") is None


def test_gene_activity_follows_expression(mdata):
    rna, atac = mdata["rna"], mdata["atac"]
    activity = np.asarray((atac.X @ atac.varm["gene_link"]).todense())
    assert list(atac.uns["gene_link_genes"]) == list(rna.var_names)
    order = atac.obs.reset_index().set_index("pair_id").index.get_indexer(rna.obs["pair_id"])
    expression = np.log1p(rna.X.toarray())
    seen = np.flatnonzero((activity.std(0) > 0) & (expression.std(0) > 0))
    both = np.corrcoef(expression[:, seen].T, np.log1p(activity[np.ix_(order, seen)]).T)
    together = both[: len(seen), len(seen) :]
    assert np.diag(together).mean() > 3 * abs(together.mean())


def _batch_distance(effect: float) -> float:
    adata = simulated_multiome(400, 100, 30, batch_effect=effect, missing_type_from=None)["rna"]
    rate = np.log1p(np.array([adata[adata.obs["batch"] == b].X.mean(0).A1 for b in ("batch0", "batch1")]))
    return float(np.abs(rate[0] - rate[1]).mean())


def test_batch_effect_is_what_it_says():
    assert _batch_distance(0.0) < 0.1 < _batch_distance(0.5) < _batch_distance(1.0)


def test_same_seed_same_data():
    one, two, other = (simulated_multiome(60, 20, 30, random_state=s) for s in (4, 4, 5))
    assert (one["atac"].X != two["atac"].X).nnz == 0
    assert (one["atac"].X != other["atac"].X).nnz > 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_cells", 3),
        ("n_types", 2),
        ("n_batches", 0),
        ("rare_fraction", 1.2),
        ("paired", -0.1),
        ("missing_type_from", 3),
        ("batch_effect", -1.0),
        ("random_state", True),
    ],
)
def test_bad_numbers_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument}={value}"):
        simulated_multiome(**{"n_cells": 50, argument: value})


def test_survives_the_disk(tmp_path, mdata):
    import mudata

    mdata.copy().write(tmp_path / "x.h5mu")
    again = mudata.read_h5mu(tmp_path / "x.h5mu")
    assert (again["atac"].varm["gene_link"] != mdata["atac"].varm["gene_link"]).nnz == 0
