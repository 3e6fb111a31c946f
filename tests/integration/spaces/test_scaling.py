"""Center and scale of each modality."""

from __future__ import annotations

import numpy as np

from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._scaling import fit_scaling


def test_standardized_coordinates_have_mean_0_and_unit_scale_in_any_order():
    rng = np.random.default_rng(0)
    x = (3 * rng.normal(size=(200, 4)) + 5).astype(np.float32)
    center, scale = fit_scaling({"rna": x})
    z = standardize(x, center["rna"], scale["rna"])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.square(z).sum(axis=1).mean(), 1, rtol=1e-5)
    again, same_scale = fit_scaling({"rna": x[rng.permutation(200)]})
    np.testing.assert_array_equal(again["rna"], center["rna"])
    assert same_scale == scale


def test_constant_coordinates_have_scale_1():
    assert fit_scaling({"rna": np.full((5, 2), 7.0, np.float32)})[1] == {"rna": 1.0}
