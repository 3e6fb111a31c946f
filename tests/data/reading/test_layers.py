from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from muport.data import layer_of


def test_a_layer_x_or_a_message_that_names_what_is_there():
    x = np.arange(6.0).reshape(3, 2)
    adata = AnnData(x, layers={"twice": 2 * x})
    assert np.array_equal(layer_of(adata, None), x)
    assert np.array_equal(layer_of(adata, "twice"), 2 * x)
    with pytest.raises(KeyError, match=r"layer='typo' is not in modality 'rna', which has \['twice'\]"):
        layer_of(adata, "typo", "modality 'rna'")
    with pytest.raises(KeyError, match="layer='typo' is not in the data"):
        layer_of(adata, "typo")


def test_repeated_entries_are_summed():
    entries = (np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), np.array([0, 2, 3]))
    repeated = sparse.csr_matrix(entries, shape=(2, 2))
    adata = AnnData(repeated, layers={"same": repeated})
    for layer in (None, "same"):
        found = layer_of(adata, layer)
        assert found.data.tolist() == [3, 3]
        assert found.toarray().tolist() == [[3, 0], [0, 3]]
