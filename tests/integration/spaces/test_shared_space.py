from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration.prototypes._standardized_cells import standardize
from muport.integration.spaces._shared_space import SharedSpace, denoise, embed_modality, fit_shared_space
from muport.metrics import foscttm, knn_labels


def noisy(n: int = 800, seed: int = 0, own_noise: float = 0.3) -> tuple[dict, dict, np.ndarray]:
    """One state of n cells: representations of two modalities, noisy shared coordinates, and these without noise."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(n, 4))
    truth = state @ rng.normal(size=(4, 6))
    own = {m: state @ rng.normal(size=(4, 9)) + own_noise * rng.normal(size=(n, 9)) for m in ("rna", "atac")}
    shared = {m: truth + 2 * rng.normal(size=truth.shape) for m in own}
    return {m: x.astype("f4") for m, x in own.items()}, {m: s.astype("f4") for m, s in shared.items()}, truth


def denoised(space: SharedSpace, own: dict, shared: dict) -> dict:
    unit = {m: standardize(x, space.center[m], space.scale[m]) for m, x in own.items()}
    return {m: denoise(space, m, unit[m], shared[m]) for m in own}


def of_types(n: int = 600, seed: int = 0) -> tuple[dict, dict, np.ndarray]:
    """Cells of eight types, which few and noisy shared coordinates hardly tell apart and own representations do."""
    rng = np.random.default_rng(seed)
    kind = {m: rng.integers(8, size=n) for m in ("rna", "atac")}
    state = 2 * rng.normal(size=(8, 6))
    weights, common = {m: rng.normal(size=(6, 12)) for m in kind}, rng.normal(size=(6, 10))
    own, shared = {}, {}
    for m, k in kind.items():
        z = state[k] + 0.5 * rng.normal(size=(n, 6))
        own[m] = (z @ weights[m] + rng.normal(size=(n, 12))).astype("f4")
        shared[m] = (z @ common + 12 * rng.normal(size=(n, 10))).astype("f4")
    return own, shared, {m: k.astype(str) for m, k in kind.items()}


def test_denoised_cells_are_nearer_the_truth_and_their_partner():
    own, shared, truth = noisy()
    cells = denoised(fit_shared_space(own, shared), own, shared)
    for m, z in cells.items():
        before, after = (np.corrcoef(s.ravel(), truth.ravel())[0, 1] for s in (shared[m], z))
        assert after > before + 0.03
    assert foscttm(cells["rna"], cells["atac"]) < 0.85 * foscttm(shared["rna"], shared["atac"])


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
        assert np.allclose(denoised(space, own, shared)[m], expected, atol=1e-3)


def test_an_axis_that_one_modality_cannot_predict_shrinks_in_both():
    own, shared, _ = noisy()
    shared["atac"][:, 0] = np.random.default_rng(5).normal(size=len(own["atac"])) * shared["atac"][:, 0].std()
    space = fit_shared_space(own, shared)
    cells = denoised(space, own, shared)
    spread = {m: z.std(axis=0) / shared[m].std(axis=0) for m, z in cells.items()}
    assert np.allclose(*(z.std(axis=0) for z in cells.values()), rtol=1e-3)
    assert spread["rna"][0] < spread["rna"][1:].min()


def test_a_representation_that_predicts_nothing_leaves_the_measurement():
    own, shared, _ = noisy()
    rng = np.random.default_rng(3)
    own = {m: rng.normal(size=x.shape).astype("f4") for m, x in own.items()}
    space = fit_shared_space(own, shared)
    for m, z in denoised(space, own, shared).items():
        assert min(np.corrcoef(z[:, j], shared[m][:, j])[0, 1] for j in range(6)) > 0.95


def test_canonical_axes_tell_types_apart_that_the_shared_coordinates_do_not():
    own, shared, kind = of_types()
    space = fit_shared_space(own, shared)
    assert space.canonical_axes is not None
    cells = {m: embed_modality(space, m, own[m], shared[m]) for m in own}
    found = {
        name: knn_labels(z["rna"], kind["rna"], query=z["atac"], k=15)
        for name, z in (("shared", shared), ("denoised", denoised(space, own, shared)), ("embedded", cells))
    }
    right = {name: float(np.mean(labels == kind["atac"])) for name, labels in found.items()}
    assert right["embedded"] > 0.9 > 0.7 > right["denoised"] > right["shared"]


def test_no_canonical_axes_of_representations_without_anything_in_common():
    own, shared, _ = of_types()
    rng = np.random.default_rng(1)
    own = {m: rng.normal(size=x.shape).astype("f4") for m, x in own.items()}
    shared = {m: s + 5 * (s @ np.eye(10, k=1, dtype="f4")) for m, s in shared.items()}
    assert fit_shared_space(own, shared).canonical_axes is None


def test_directions_have_length_one_in_each_part():
    own, shared, _ = of_types(300)
    z = embed_modality(fit_shared_space(own, shared), "rna", own["rna"], shared["rna"])
    assert np.allclose(np.linalg.norm(z[:, :10], axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(z[:, 10:], axis=1), 1, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 60), st.integers(0, 99))
def test_a_function_of_each_cell_alone_whatever_their_order(n, seed):
    own, shared, _ = noisy(n, seed)
    space = fit_shared_space(own, shared)
    all_cells = embed_modality(space, "rna", own["rna"], shared["rna"])
    assert np.isfinite(all_cells).all()
    order = np.random.default_rng(seed).permutation(n)
    again = fit_shared_space({m: x[order] for m, x in own.items()}, {m: s[order] for m, s in shared.items()})
    assert np.array_equal(embed_modality(again, "rna", own["rna"], shared["rna"]), all_cells)
    assert np.allclose(embed_modality(space, "rna", own["rna"][:1], shared["rna"][:1]), all_cells[:1], atol=1e-4)


@pytest.mark.parametrize("constant", ["own", "shared"])
def test_constant_coordinates_give_finite_cells(constant):
    own, shared, _ = noisy(50)
    (own if constant == "own" else shared)["atac"][:] = 1.0
    space = fit_shared_space(own, shared)
    assert all(np.isfinite(embed_modality(space, m, own[m], shared[m])).all() for m in own)
