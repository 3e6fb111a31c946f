from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration.spaces._ridge_regression import regress
from muport.integration.spaces._shared_space import fit_shared, steadied
from muport.metrics import foscttm


def noisy(n: int = 800, seed: int = 0, own_noise: float = 0.3) -> tuple[dict, dict, np.ndarray]:
    """One state of n cells: representations of two modalities, noisy shared coordinates, and these without noise."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(n, 4))
    truth = state @ rng.normal(size=(4, 6))
    own = {m: state @ rng.normal(size=(4, 9)) + own_noise * rng.normal(size=(n, 9)) for m in ("rna", "atac")}
    shared = {m: truth + 2 * rng.normal(size=truth.shape) for m in own}
    return {m: x.astype("f4") for m, x in own.items()}, {m: s.astype("f4") for m, s in shared.items()}, truth


def test_steadied_cells_are_nearer_the_truth_and_their_partner():
    own, shared, truth = noisy()
    space = fit_shared(own, shared)
    found = {m: steadied(space, m, own[m], shared[m]) for m in own}
    for m, z in found.items():
        before, after = (np.corrcoef(one.ravel(), truth.ravel())[0, 1] for one in (shared[m], z))
        assert after > before + 0.03
    assert foscttm(found["rna"], found["atac"]) < 0.85 * foscttm(shared["rna"], shared["atac"])


def test_the_formula():
    own, shared, _ = noisy(n=300)
    space = fit_shared(own, shared)
    mixed = {}
    for m, x in own.items():
        center = x.mean(axis=0)
        unit = (x - center) / np.sqrt(np.square(x - center).sum(axis=1).mean())
        mixed[m] = (regress(unit.astype("f4"), space.told[m]) + 3 * shared[m]) / 4
    spread = {m: one.std(axis=0) for m, one in mixed.items()}
    common = np.sqrt(spread["rna"] * spread["atac"])
    for m, one in mixed.items():
        expected = (one - one.mean(axis=0)) / spread[m] * common
        assert np.allclose(steadied(space, m, own[m], shared[m]), expected, atol=1e-3)


def test_an_axis_of_which_one_modality_knows_nothing_shrinks_in_both():
    own, shared, _ = noisy()
    shared["atac"][:, 0] = np.random.default_rng(5).normal(size=len(own["atac"])) * shared["atac"][:, 0].std()
    space = fit_shared(own, shared)
    spread = {m: steadied(space, m, own[m], shared[m]).std(axis=0) / shared[m].std(axis=0) for m in own}
    assert np.allclose(*(steadied(space, m, own[m], shared[m]).std(axis=0) for m in own), rtol=1e-3)
    assert spread["rna"][0] < spread["rna"][1:].min()


def test_what_tells_nothing_leaves_the_measurement():
    own, shared, _ = noisy()
    rng = np.random.default_rng(3)
    own = {m: rng.normal(size=x.shape).astype("f4") for m, x in own.items()}
    space = fit_shared(own, shared)
    for m in own:
        z = steadied(space, m, own[m], shared[m])
        assert min(np.corrcoef(z[:, j], shared[m][:, j])[0, 1] for j in range(6)) > 0.95


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 60), st.integers(0, 99))
def test_a_function_of_each_cell_alone_whatever_their_order(n, seed):
    own, shared, _ = noisy(n, seed)
    space = fit_shared(own, shared)
    whole = steadied(space, "rna", own["rna"], shared["rna"])
    assert np.isfinite(whole).all()
    order = np.random.default_rng(seed).permutation(n)
    again = fit_shared({m: x[order] for m, x in own.items()}, {m: s[order] for m, s in shared.items()})
    assert np.array_equal(steadied(again, "rna", own["rna"], shared["rna"]), whole)
    assert np.allclose(steadied(space, "rna", own["rna"][:1], shared["rna"][:1]), whole[:1], atol=1e-4)


@pytest.mark.parametrize("constant", ["own", "shared"])
def test_constants_are_no_trouble(constant):
    own, shared, _ = noisy(50)
    (own if constant == "own" else shared)["atac"][:] = 1.0
    space = fit_shared(own, shared)
    assert all(np.isfinite(steadied(space, m, own[m], shared[m])).all() for m in own)
