from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from muport import pp


def cells(n: int = 240, p: int = 7, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    adata = AnnData(sparse.csr_matrix(rng.poisson(2.0, (n, p)).astype(np.float32)))
    adata.obs_names = [f"c{i}" for i in range(n)]
    donor = rng.integers(4, size=n)
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in donor])
    adata.obs["type"] = rng.choice(["B", "T"], n)
    adata.obs["condition"] = np.array(["ctrl", "stim"])[donor % 2]
    adata.obs["age"] = 30.0 + donor
    adata.obs["noise"] = rng.normal(size=n)
    adata.var["length"] = np.arange(p)
    return adata


@pytest.mark.promise("Pseudobulk adds up the counts of each sample and type exactly")
@pytest.mark.parametrize("groups_key", [None, "type"])
def test_sums_are_those_of_scanpy(groups_key, record_property):
    import scanpy as sc

    adata = cells()
    keys = ["donor"] if groups_key is None else ["donor", groups_key]
    expected = sc.get.aggregate(adata, keys, "sum")
    sums = pp.to_pseudobulk(adata, "donor", groups_key)
    assert sums.obs_names.tolist() == expected.obs_names.tolist()
    assert np.array_equal(sums.X, expected.layers["sum"])
    assert sums.X.dtype == np.int64
    assert sums.obs["n_cells"].tolist() == expected.obs["n_obs_aggregated"].tolist()
    assert sums.var["length"].tolist() == list(range(7))
    record_property("tries", sums.X.size)


def test_columns_of_samples_are_kept():
    adata = cells()
    adata.obs["hidden"] = pd.Categorical(np.where(adata.obs["donor"] == "d1", None, adata.obs["condition"]))
    sums = pp.to_pseudobulk(adata, "donor", "type")
    assert list(sums.obs.columns) == ["donor", "type", "n_cells", "condition", "age", "hidden"]
    assert (sums.obs["age"] == 30 + sums.obs["donor"].astype(str).str[1].astype(int)).all()
    assert sums.obs["hidden"].isna().tolist() == (sums.obs["donor"] == "d1").tolist()


@pytest.mark.promise("Rows in another order give the same answer")
def test_order_and_container_do_not_matter(record_property):
    adata = cells()
    expected = pp.to_pseudobulk(adata, "donor", "type")
    order = np.random.default_rng(1).permutation(adata.n_obs)
    dense = adata.copy()
    dense.layers["counts"], dense.X = dense.X.toarray(), None
    mdata = MuData({"rna": adata.copy(), "atac": cells(100, 3, 1)})
    mdata.obs["where"] = "here"
    results = [
        pp.to_pseudobulk(adata[order].copy(), "donor", "type"),
        pp.to_pseudobulk(adata[order], "donor", "type"),
        pp.to_pseudobulk(dense, "donor", "type", layer="counts"),
        pp.to_pseudobulk(mdata, "rna:donor", "rna:type"),
    ]
    for sums in results:
        assert sums.obs_names.tolist() == expected.obs_names.tolist()
        assert np.array_equal(sums.X, expected.X)
        assert sums.obs["condition"].tolist() == expected.obs["condition"].tolist()
    assert results[-1].obs["where"].tolist() == ["here"] * 8
    record_property("tries", len(results))


def test_small_rows_and_cells_without_a_type_are_left_out():
    adata = cells()
    adata.obs["type"] = adata.obs["type"].astype(object)
    adata.obs.loc[adata.obs_names[:50], "type"] = None
    kept = adata[50:]
    size = kept.obs.groupby(["donor", "type"], observed=True).size()
    sums = pp.to_pseudobulk(adata, "donor", "type", min_cells=int(size.median()))
    assert sums.obs["n_cells"].tolist() == size[size >= int(size.median())].tolist()
    assert 0 < sums.n_obs < len(size)
    large = kept.obs.groupby(["donor", "type"], observed=True)["age"].transform("size") >= int(size.median())
    assert sums.X.sum() == kept.X[large.to_numpy()].sum()


def test_large_sums_are_exact():
    adata = AnnData(np.full((40, 1), 2.0**20 + 1, np.float32))
    adata.obs["donor"] = "a"
    assert pp.to_pseudobulk(adata, "donor").X.tolist() == [[40 * (2**20 + 1)]]


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (lambda a: setattr(a, "X", np.log1p(a.X.toarray())), {}, ValueError, "not a count"),
        (lambda a: setattr(a, "X", -a.X), {}, ValueError, "not a count"),
        (None, {"layer": "counts"}, KeyError, "'counts'"),
        (None, {"sample_key": "patient"}, KeyError, "'patient'"),
        (None, {"groups_key": "kind"}, KeyError, "'kind'"),
        (None, {"min_cells": 0}, ValueError, "min_cells=0"),
        (None, {"min_cells": 1000}, ValueError, "min_cells=1000"),
        (lambda a: a.obs.__setitem__("donor", a.obs["donor"].where(a.obs_names != "c3")), {}, ValueError, "'c3'"),
        (
            lambda a: a.obs.__setitem__(
                ["donor", "type"], np.where((a.obs[["age"]] > 31).to_numpy(), ["a_b", "c"], ["a", "b_c"])
            ),
            {"groups_key": "type"},
            ValueError,
            "'a_b_c'",
        ),
    ],
)
def test_refusals(change, kwargs, error, message):
    adata = cells()
    adata.obs["donor"] = adata.obs["donor"].astype(object)
    if change is not None:
        change(adata)
    before = adata.copy()
    with pytest.raises(error, match=message):
        pp.to_pseudobulk(adata, **{"sample_key": "donor", **kwargs})
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_a_modality_of_an_anndata_is_refused():
    adata = cells()
    whole = MuData({"rna": adata, "other": adata.copy()})
    assert np.array_equal(pp.to_pseudobulk(whole, "rna:donor").X, pp.to_pseudobulk(adata, "donor").X)
    with pytest.raises(KeyError, match="modality='zz': the data are an AnnData"):
        pp.to_pseudobulk(adata, "donor", modality="zz")
    with pytest.raises(KeyError, match="modality='zz' is not in the data, which has"):
        pp.to_pseudobulk(whole, "rna:donor", modality="zz")
    with pytest.raises(KeyError, match="groups_key='kind' is not in obs"):
        pp.to_pseudobulk(adata, "donor", "kind")
