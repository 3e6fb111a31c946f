"""Imputation refuses values that it would spread."""

from __future__ import annotations

import numpy as np
import pytest

from muport import Integration

QUIET = {"accelerator": "cpu", "progress": False}


@pytest.fixture
def model(mdata) -> Integration:
    Integration.setup_mudata(mdata, use_rep="X_own", shared_rep="X_shared", batch_key="batch", labels_key="cell_type")
    model = Integration(mdata)
    model.train(max_iter=2, **QUIET)
    return model


@pytest.mark.promise("Malformed objects and arguments are refused with the reason, and nothing is changed")
def test_values_that_are_not_finite_are_not_imputed(model):
    for value in (np.nan, np.inf):
        model.adata["atac"].X[3, 1] = value
        with pytest.raises(ValueError, match="X of modality 'atac' holds NaN or Inf"):
            model.impute("atac")
    model.adata["atac"].X = model.adata["atac"].X.astype(str).astype(object)
    with pytest.raises(TypeError, match="X of modality 'atac' holds object, not numbers"):
        model.impute("atac")
