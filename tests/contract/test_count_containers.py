"""Counts are their numbers: in memory, on disk and in chunks they give the same answer, and others are refused."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from muport import Velocity, pp

N, G = 60, 90
RNG = np.random.default_rng(0)
KIND = np.arange(N) % 3
COUNTS = RNG.poisson(1 + 4 * (KIND[:, None] == np.arange(G) % 3)).astype(np.float32)


def cells(x: Any = COUNTS) -> AnnData:
    obs = pd.DataFrame({"sample": [f"s{i % 2}" for i in range(N)]}, index=[f"c{i}" for i in range(N)])
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(G)]))


def backed(x: Any, folder: Any) -> AnnData:
    path = folder / f"{len(list(folder.iterdir()))}.h5ad"
    cells(x).write_h5ad(path)
    return anndata.read_h5ad(path, backed="r")


def chunks(x: np.ndarray) -> Any:
    return pytest.importorskip("dask.array").from_array(x, chunks=(17, G))


CONTAINERS = {
    "on disk": backed,
    "on disk, CSR": lambda x, folder: backed(sparse.csr_matrix(x), folder),
    "chunks": lambda x, folder: cells(chunks(x)),
    "chunks of CSR": lambda x, folder: cells(chunks(x).map_blocks(sparse.csr_matrix)),
}


@pytest.fixture(scope="module")
def reference() -> AnnData:
    adata = cells()
    pp.prepare(adata, n_comps=3, n_top_genes=12, umap=False, progress=False)
    return adata


def project(adata: AnnData, reference: AnnData) -> np.ndarray:
    pp.project(adata, reference)
    return adata.obsm["X_pca"]


CALLS = {
    "to_pseudobulk": lambda adata, reference: pp.to_pseudobulk(adata, "sample").X,
    "project": project,
    "select_features": lambda adata, reference: pp.select_features(adata, n_top=6, copy=not adata.isbacked),
}


@pytest.mark.promise("Counts in memory, on disk and in chunks give the same answer")
@pytest.mark.parametrize("name", ["to_pseudobulk", "project"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_counts(name, container, reference, tmp_path):
    expected = CALLS[name](cells(), reference)
    assert np.allclose(CALLS[name](CONTAINERS[container](COUNTS, tmp_path), reference), expected, atol=1e-5)


@pytest.mark.promise("Values that are not counts are refused, on disk and in chunks too")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_values_that_are_no_counts_are_refused(name, container, reference, tmp_path):
    late = np.arange(N)[:, None] > N - 5
    for x in (np.where(late, np.log1p(COUNTS), COUNTS), np.where(late, np.nan, COUNTS)):
        adata = CONTAINERS[container](x.astype(np.float32), tmp_path)
        with pytest.raises(ValueError, match="X holds .*, which is not a count"):
            CALLS[name](adata, reference)
        assert not adata.obsm
        assert adata.var.empty


@pytest.mark.promise("Counts in memory, on disk and in chunks give the same answer")
@pytest.mark.parametrize("container", CONTAINERS)
def test_features_of_drivers_and_scores(container, tmp_path):
    found = []
    for adata in (cells(), CONTAINERS[container](COUNTS, tmp_path)):
        adata.obsm["X_pca"] = np.c_[KIND + np.linspace(0, 1, N), np.linspace(0, 3, N)].astype(np.float32)
        adata.obs["time"] = np.linspace(0, 1, N)
        Velocity.setup_anndata(adata, use_rep="X_pca", time_key="time")
        model = Velocity(adata)
        model.train(n_steps=2, n_bootstrap=0, progress=False)
        fate = np.linspace(0, 1, N)
        fates = pd.DataFrame({"a": fate, "b": 1 - fate}, index=adata.obs_names)
        found.append(model.get_drivers(fates)["correlation"])
        found.append(pp.score_growth(adata, ["g0", "g3"], ["g1"]))
    assert np.allclose(found[0], found[2])
    assert np.allclose(found[1], found[3], atol=1e-5)


def test_what_is_no_data_is_named():
    with pytest.raises(TypeError, match="data is ndarray: pass an AnnData or a MuData"):
        pp.to_pseudobulk(COUNTS, "sample")
    with pytest.raises(TypeError, match="data is ndarray: pass an AnnData or a MuData"):
        pp.project(COUNTS, cells())
