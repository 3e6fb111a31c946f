from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from muport.data import layer_of


def test_a_layer_x_or_a_message_that_names_what_is_there():
    x = np.arange(6.0).reshape(3, 2)
    adata = AnnData(x, layers={"twice": 2 * x})
    assert np.array_equal(layer_of(adata, None), x)
    assert np.array_equal(layer_of(adata, "twice"), 2 * x)
    with pytest.raises(KeyError, match=r"layer='typo' is not in modality 'rna', which has \['twice'\]"):
        layer_of(adata, "typo", "modality 'rna'")
