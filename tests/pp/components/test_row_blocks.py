from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from muport.pp.components import _row_blocks
from muport.pp.components._row_blocks import RowBlocks


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_blocks_are_the_matrix(monkeypatch, rows):
    monkeypatch.setattr(_row_blocks, "_ROWS_OF_BLOCK", rows)
    rng = np.random.default_rng(0)
    # unsorted columns, some of them twice
    columns, starts = rng.integers(12, size=200), np.arange(0, 201, 10)
    matrix = sparse.csr_matrix((rng.integers(1, 9, 200).astype(np.float32), columns, starts), shape=(20, 12))
    dense, before = matrix.toarray(), matrix.indices.copy()
    blocks = RowBlocks.of(matrix)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(20, 3))
    assert blocks.shape == (20, 12)
    assert blocks.nnz == np.count_nonzero(dense)
    assert np.array_equal(blocks.tocsr().toarray(), dense)
    np.testing.assert_allclose(blocks.dot(x), dense @ x, rtol=1e-6)
    np.testing.assert_allclose(blocks.tdot(y), dense.T @ y, rtol=1e-6)
    doubled = RowBlocks.of(matrix, lambda block: 2 * block)
    assert np.array_equal(doubled.tocsr().toarray(), 2 * dense)
    assert np.array_equal(matrix.indices, before)
