from __future__ import annotations

import anndata
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from muport.pp._variable_genes import highly_variable_genes, scale_columns
from muport.pp.components._principal_components import principal_components


@pytest.fixture(scope="module")
def logs() -> sparse.csr_matrix:
    """Log values of 300 genes of very different means; one is never detected, one is alone in its bin."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(0.3, 3, 300)
    mean[:2] = 0, 200
    return sparse.csr_matrix(np.log1p(rng.poisson(mean * rng.gamma(2, 0.5, (150, 300)))).astype(np.float32))


@pytest.mark.parametrize("n", [1, 50, 200])
def test_genes_are_those_of_scanpy(logs, n):
    found = highly_variable_genes(logs, n)
    # dense values, for which scanpy compiles nothing
    cells = anndata.AnnData(logs.toarray().astype(np.float64))
    cells.uns["log1p"] = {"base": None}
    sc.pp.highly_variable_genes(cells, n_top_genes=n)
    for name, values in found.items():
        np.testing.assert_allclose(values, cells.var[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert found["highly_variable"].sum() >= n  # more where genes are tied
    dense = highly_variable_genes(logs.toarray(), n)
    assert np.array_equal(dense["highly_variable"], found["highly_variable"])


def test_genes_that_do_not_vary_are_refused():
    with pytest.raises(ValueError, match="no gene varies"):
        highly_variable_genes(np.ones((5, 3), np.float32), 2)


def test_scaling_and_components_are_those_of_scanpy(logs):
    scaled, std = scale_columns(logs, 3.0)
    cells = anndata.AnnData(logs.toarray())
    sc.pp.scale(cells, zero_center=False, max_value=3.0)
    np.testing.assert_allclose(scaled.toarray(), cells.X, rtol=1e-5)
    np.testing.assert_allclose(std, cells.var["std"], rtol=1e-5)
    np.testing.assert_allclose(scale_columns(logs.toarray(), 3.0)[0], cells.X, rtol=1e-5)
    cells.X = scaled
    sc.pp.pca(cells, 6, mask_var=None, random_state=3)
    components = principal_components(scaled, 6, 3)
    np.testing.assert_allclose(components.coordinates, cells.obsm["X_pca"], atol=1e-4)
    np.testing.assert_allclose(components.loadings, cells.varm["PCs"], atol=1e-5)
    described = components.describe()
    assert described["params"] == cells.uns["pca"]["params"]
    np.testing.assert_allclose(described["variance_ratio"], cells.uns["pca"]["variance_ratio"], rtol=1e-5)
