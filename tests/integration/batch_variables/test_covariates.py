"""Effects of covariates that are known, and that composition does not leak into them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.integration.batch_variables._covariates import describe_covariates, fit_covariates, remove_covariates

N, D = 2000, 8


def simulate(seed=0, effect=1.0, local=0.0, follows_type=1.0, n=N):
    """Cells of 4 types in 2 groups; the covariate depends on the type, and the group on neither."""
    rng = np.random.default_rng(seed)
    kind, group = rng.integers(0, 4, n), rng.integers(0, 2, n)
    covariate = rng.normal(size=n) + follows_type * kind
    clean = rng.normal(size=(4, D))[kind] * 4 + rng.normal(size=(n, D)) + rng.normal(size=(2, D))[group]
    slope = rng.normal(size=D) * effect + local * rng.normal(size=(4, D))[kind]
    x = clean + (covariate - covariate.mean())[:, None] * slope
    return x.astype(np.float32), clean.astype(np.float32), kind, group, covariate[:, None]


def fit(x, group, covariates, fractions=None, seed=0):
    names = [f"c{j}" for j in range(covariates.shape[1])]
    return fit_covariates(x, group, covariates, names, fractions or [1.0] * len(names), seed)


def relative_error(after, clean, x):
    return np.square(after - clean).sum() / np.square(x - clean).sum()


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 20))
def test_a_known_effect_is_removed_whatever_the_composition(seed):
    x, clean, _, group, covariate = simulate(seed)
    after = remove_covariates(x, covariate, fit(x, group, covariate))
    assert relative_error(after, clean, x) < 0.02
    # a linear regression without clusters takes the types for the effect
    design = np.c_[np.ones(N), covariate]
    naive = x - design @ np.linalg.lstsq(design, x, rcond=None)[0] + x.mean(axis=0)
    assert relative_error(naive, clean, x) > 0.1


def test_slopes_of_types_differ():
    x, clean, _, group, covariate = simulate(1, effect=0.3, local=0.5)
    effects = fit(x, group, covariate)
    assert relative_error(remove_covariates(x, covariate, effects), clean, x) < 0.15


def test_no_effect_is_found_where_there_is_none():
    x, _, _, group, covariate = simulate(2, effect=0.0)
    moved = remove_covariates(x, covariate, fit(x, group, covariate)) - x
    assert np.linalg.norm(moved, axis=1).mean() < 0.05


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_fraction_of_the_effect_is_removed(fraction):
    x, _, _, group, covariate = simulate(3)
    whole = x - remove_covariates(x, covariate, fit(x, group, covariate))
    part = x - remove_covariates(x, covariate, fit(x, group, covariate, [fraction]))
    assert np.allclose(part, fraction * whole, atol=1e-4)


def test_the_result_does_not_depend_on_the_order_of_cells_nor_on_the_others():
    x, _, _, group, covariate = simulate(4)
    order = np.random.default_rng(0).permutation(N)
    first, second = fit(x, group, covariate), fit(x[order], 1 - group[order], covariate[order])
    after = remove_covariates(x, covariate, first)
    assert np.allclose(after[order], remove_covariates(x[order], covariate[order], second), atol=1e-4)
    alone = remove_covariates(x[:7], covariate[:7], first)
    assert np.allclose(alone, after[:7], atol=1e-5)


def test_values_beyond_the_range_of_the_fit_count_as_its_ends():
    x, _, _, group, covariate = simulate(5)
    effects = fit(x, group, covariate)
    extreme, end = (np.full((3, 1), value) for value in (1e6, covariate.max()))
    assert np.allclose(remove_covariates(x[:3], extreme, effects), remove_covariates(x[:3], end, effects))


def test_a_covariate_that_the_batches_determine_has_no_effect_and_is_named():
    x, _, _, group, _ = simulate(6)
    effects = fit(x, group, group[:, None].astype(float))
    assert np.array_equal(remove_covariates(x, group[:, None].astype(float), effects), x)
    assert "cannot be separated" in describe_covariates(effects)[0]


def test_equal_covariates_share_the_effect():
    x, clean, _, group, covariate = simulate(7)
    twice = np.repeat(covariate, 2, axis=1)
    effects = fit(x, group, twice)
    assert relative_error(remove_covariates(x, twice, effects), clean, x) < 0.02
    assert len(describe_covariates(effects)) == 2


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.floats(-3, 12))
def test_few_cells_and_any_scale_give_finite_coordinates(n, exponent):
    rng = np.random.default_rng(n)
    covariates = rng.normal(size=(n, 2)) * 10**exponent
    x = rng.normal(size=(n, 3)).astype(np.float32)
    effects = fit(x, rng.integers(0, 2, n), covariates)
    assert np.isfinite(remove_covariates(x, covariates, effects)).all()
