"""Differential abundance of neighborhoods: the regression against statsmodels or scikit-learn, and chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sklearn.linear_model import PoissonRegressor

from muport.gmm.interpretation._abundance import Covariate
from muport.gmm.interpretation._neighborhood_abundance import (
    _fit,
    count_neighbors,
    neighborhood_effects,
    weighted_fdr,
)

CONDITION = np.repeat([0, 1], 8)
TOTAL = np.linspace(200, 400, 16)


def drawn(rng: np.random.Generator, n: int = 200, effect: float = 0.0, changed: int = 0) -> np.ndarray:
    """Overdispersed counts; the first ones change by `effect`, a batch halves those of every second sample."""
    mean = TOTAL * 0.05 * np.exp(0.3 * rng.normal(size=(n, 16))) * np.where(np.arange(16) % 2, 0.5, 1.0)
    mean[:changed] *= np.exp(effect * CONDITION)
    return rng.poisson(mean).astype(float)


def effects_of(counts: np.ndarray, **covariates: Covariate):
    names = [str(i) for i in range(len(counts))]
    return neighborhood_effects(counts, TOTAL, CONDITION, ["a", "b"], names, covariates, np.ones(len(counts)))


def test_the_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    counts = drawn(rng, 3)
    design = np.column_stack([np.ones(16), CONDITION, np.arange(16) % 2])
    coefficient, mean = _fit(counts, design, np.log(TOTAL), 0)
    for own, fitted, y in zip(coefficient, mean, counts, strict=True):
        model = PoissonRegressor(alpha=0, fit_intercept=False, tol=1e-10, max_iter=1000)
        model.fit(design, y / TOTAL, sample_weight=TOTAL)
        np.testing.assert_allclose(own, model.coef_, atol=1e-4)
        np.testing.assert_allclose(fitted, model.predict(design) * TOTAL, rtol=1e-3)


def test_changes_are_found_and_chance_is_not():
    table = effects_of(drawn(np.random.default_rng(1), 200, 1.5, 20), batch=Covariate(np.arange(16) % 2.0, True))
    assert (table["q"][:20] < 0.05).mean() > 0.9
    assert (table["q"][20:] < 0.05).mean() < 0.05
    np.testing.assert_allclose(table["effect"][:20].mean(), 1.5, atol=0.2)
    null = effects_of(drawn(np.random.default_rng(2), 2000), batch=Covariate(np.arange(16) % 2.0, True))
    assert 0.03 < (null["p"] < 0.05).mean() < 0.07
    assert not (null["q"] < 0.05).any()


def test_a_condition_without_cells_has_a_finite_effect():
    counts = drawn(np.random.default_rng(3), 50)
    counts[0, CONDITION == 1] = 0
    table = effects_of(counts)
    assert np.isfinite(table.to_numpy()[:, 2:].astype(float)).all()
    assert table["p"].idxmin() == "0"
    assert table["effect"].iloc[0] < -2


def test_one_odd_sample_is_no_difference():
    counts = drawn(np.random.default_rng(4), 100)
    counts[:10, 15] = 150
    table = effects_of(counts)
    assert not (table["q"] < 0.05).any()
    assert table["dispersion"][:10].min() > 5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_equal_weights_are_benjamini_hochberg(p):
    values = np.array(p)
    expected = false_discovery_control(values)
    np.testing.assert_allclose(weighted_fdr(values, np.full(len(p), 3.0)), expected)


def test_counts_are_those_of_a_loop():
    rng = np.random.default_rng(5)
    neighbors, sample, weight = rng.integers(0, 30, (12, 5)), rng.integers(0, 4, 30), rng.uniform(size=30)
    expected = np.array([[weight[row[sample[row] == p]].sum() for p in range(4)] for row in neighbors])
    np.testing.assert_allclose(count_neighbors(neighbors, sample, 4, weight), expected)


def test_a_batch_that_equals_the_condition_is_refused():
    with pytest.raises(ValueError, match="cannot be distinguished"):
        effects_of(drawn(np.random.default_rng(6), 5), batch=Covariate(CONDITION.astype(float), True))
