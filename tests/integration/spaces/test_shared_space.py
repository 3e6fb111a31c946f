from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration.spaces._shared_space import denoise, fit_shared_space
from muport.metrics import foscttm


def noisy(n: int = 800, seed: int = 0, own_noise: float = 0.3) -> tuple[dict, dict, np.ndarray]:
    """One state of n cells: representations of two modalities, noisy shared coordinates, and these without noise."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(n, 4))
    truth = state @ rng.normal(size=(4, 6))
    own = {m: state @ rng.normal(size=(4, 9)) + own_noise * rng.normal(size=(n, 9)) for m in ("rna", "atac")}
    shared = {m: truth + 2 * rng.normal(size=truth.shape) for m in own}
    return {m: x.astype("f4") for m, x in own.items()}, {m: s.astype("f4") for m, s in shared.items()}, truth


def test_denoised_cells_are_nearer_the_truth_and_their_partner():
    own, shared, truth = noisy()
    space = fit_shared_space(own, shared)
    denoised = {m: denoise(space, m, own[m], shared[m]) for m in own}
    for m, z in denoised.items():
        before, after = (np.corrcoef(s.ravel(), truth.ravel())[0, 1] for s in (shared[m], z))
        assert after > before + 0.03
    assert foscttm(denoised["rna"], denoised["atac"]) < 0.85 * foscttm(shared["rna"], shared["atac"])


def test_the_formula():
    own, shared, _ = noisy(n=300)
    space = fit_shared_space(own, shared)
    mixed = {}
    for m, x in own.items():
        center = x.mean(axis=0)
        unit = (x - center) / np.sqrt(np.square(x - center).sum(axis=1).mean())
        mixed[m] = (space.regressions[m].predict(unit.astype("f4")) + 3 * shared[m]) / 4
    spread = {m: values.std(axis=0) for m, values in mixed.items()}
    common = np.sqrt(spread["rna"] * spread["atac"])
    for m, values in mixed.items():
        expected = (values - values.mean(axis=0)) / spread[m] * common
        assert np.allclose(denoise(space, m, own[m], shared[m]), expected, atol=1e-3)


def test_an_axis_that_one_modality_cannot_predict_shrinks_in_both():
    own, shared, _ = noisy()
    shared["atac"][:, 0] = np.random.default_rng(5).normal(size=len(own["atac"])) * shared["atac"][:, 0].std()
    space = fit_shared_space(own, shared)
    spread = {m: denoise(space, m, own[m], shared[m]).std(axis=0) / shared[m].std(axis=0) for m in own}
    assert np.allclose(*(denoise(space, m, own[m], shared[m]).std(axis=0) for m in own), rtol=1e-3)
    assert spread["rna"][0] < spread["rna"][1:].min()


def test_a_representation_that_predicts_nothing_leaves_the_measurement():
    own, shared, _ = noisy()
    rng = np.random.default_rng(3)
    own = {m: rng.normal(size=x.shape).astype("f4") for m, x in own.items()}
    space = fit_shared_space(own, shared)
    for m in own:
        z = denoise(space, m, own[m], shared[m])
        assert min(np.corrcoef(z[:, j], shared[m][:, j])[0, 1] for j in range(6)) > 0.95


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 60), st.integers(0, 99))
def test_a_function_of_each_cell_alone_whatever_their_order(n, seed):
    own, shared, _ = noisy(n, seed)
    space = fit_shared_space(own, shared)
    all_cells = denoise(space, "rna", own["rna"], shared["rna"])
    assert np.isfinite(all_cells).all()
    order = np.random.default_rng(seed).permutation(n)
    again = fit_shared_space({m: x[order] for m, x in own.items()}, {m: s[order] for m, s in shared.items()})
    assert np.array_equal(denoise(again, "rna", own["rna"], shared["rna"]), all_cells)
    assert np.allclose(denoise(space, "rna", own["rna"][:1], shared["rna"][:1]), all_cells[:1], atol=1e-4)


@pytest.mark.parametrize("constant", ["own", "shared"])
def test_constant_coordinates_give_finite_cells(constant):
    own, shared, _ = noisy(50)
    (own if constant == "own" else shared)["atac"][:] = 1.0
    space = fit_shared_space(own, shared)
    assert all(np.isfinite(denoise(space, m, own[m], shared[m])).all() for m in own)
