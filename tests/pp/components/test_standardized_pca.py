from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from muport.pp.components import _row_blocks, _standardized_pca
from muport.pp.components._row_blocks import RowBlocks
from muport.pp.components._standardized_pca import truncated_svd


@pytest.fixture
def structured() -> sparse.csr_matrix:
    """A sparse matrix with five directions that rise above its noise."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(size=(400, 5)) @ rng.normal(size=(5, 400)) * 0.4 - 1.5)
    return sparse.csr_matrix(rng.poisson(rate).astype(np.float32))


@pytest.mark.parametrize("rows", [7, 100, 2_000])
def test_the_block_solver_agrees_with_the_exact_one(structured, monkeypatch, rows):
    u, s, v = truncated_svd(RowBlocks.of(structured), 12, np.random.default_rng(0))
    monkeypatch.setattr(_standardized_pca, "_LARGEST_OF_ARPACK", 0)
    monkeypatch.setattr(_row_blocks, "_ROWS_OF_BLOCK", rows)
    found_u, found_s, found_v = truncated_svd(RowBlocks.of(structured), 12, np.random.default_rng(0))
    np.testing.assert_allclose(found_s, s, rtol=5e-3)
    np.testing.assert_allclose(found_s[:6], s[:6], rtol=1e-4)
    for found, exact in ((found_u, u), (found_v, v)):
        np.testing.assert_allclose(found.T @ found, np.eye(12), atol=1e-4)
        np.testing.assert_allclose(found[:, :6], exact[:, :6], atol=5e-3)


def test_the_block_solver_takes_a_matrix_of_low_rank(monkeypatch):
    monkeypatch.setattr(_standardized_pca, "_LARGEST_OF_ARPACK", 0)
    rng = np.random.default_rng(0)
    low = sparse.csr_matrix((rng.normal(size=(200, 8)) @ rng.normal(size=(8, 220))).astype(np.float32))
    u, s, v = truncated_svd(RowBlocks.of(low), 5, rng)
    np.testing.assert_allclose(s, np.linalg.svd(low.toarray())[1][:5], rtol=1e-4)
    np.testing.assert_allclose(low @ v, u * s, atol=1e-2)
