"""Correlations against SciPy, feature by feature, and velocity against the projection it undoes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from muport.velocity.fates._drivers import correlate_features, feature_velocity


def draw(n: int = 60, g: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts, most of them 0, some of them following the first of two fates."""
    rng = np.random.default_rng(seed)
    fate = rng.random(n)
    rate = np.where(np.arange(g) < 5, 3 * fate[:, None], 0.7)
    return rng.poisson(rate).astype(float), np.column_stack([fate, 1 - fate])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_array, sp.coo_matrix])
def test_agrees_with_scipy(method: Any, layout: Any) -> None:
    x, fates = draw()
    found = correlate_features(layout(x), fates, method=method)
    one = stats.pearsonr if method == "pearson" else stats.spearmanr
    r = np.array([[one(gene, fate).statistic for fate in fates.T] for gene in x.T])
    assert found.correlation == pytest.approx(r, abs=1e-12)
    exact = np.array([[one(gene, fate).pvalue for fate in fates.T] for gene in x.T])
    assert np.abs(found.p_value - exact).max() < 0.02
    expected = np.column_stack([stats.false_discovery_control(p) for p in found.p_value.T])
    assert found.q_value == pytest.approx(expected)


def test_p_values_are_fishers() -> None:
    x, fates = draw(n=30)
    found = correlate_features(x, fates)
    z = np.arctanh(found.correlation) * np.sqrt(27)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(np.abs(z)))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_p_values_are_uniform_under_no_correlation(method: Any) -> None:
    rng = np.random.default_rng(1)
    found = correlate_features(rng.normal(size=(40, 3000)), rng.random((40, 1)), method=method)
    assert stats.kstest(found.p_value.ravel(), "uniform").pvalue > 0.01
    assert (found.q_value < 0.05).sum() <= 3


def test_drivers_come_first() -> None:
    x, fates = draw(n=500)
    found = correlate_features(sp.csr_matrix(x), fates)
    assert set(np.argsort(-found.correlation[:, 0])[:5]) == set(range(5))
    assert (found.q_value[:5] < 1e-6).all()
    assert found.correlation[:, 0] == pytest.approx(-found.correlation[:, 1])


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_constant_columns_correlate_with_nothing(method: Any, layout: Any) -> None:
    x, fates = draw()
    x[:, 0], x[:, 1], fates[:, 1] = 0, 1e6 + 0.1, 1
    found = correlate_features(layout(x), fates, method=method)
    for value, flat in ((found.correlation, 0), (found.p_value, 1), (found.q_value, 1)):
        assert (value[:2] == flat).all()
        assert (value[:, 1] == flat).all()
        assert np.isfinite(value).all()


def test_perfect_correlation_is_finite() -> None:
    fate = np.linspace(0, 1, 10)[:, None]
    found = correlate_features(np.hstack([fate, 5 - 3 * fate]), fate)
    assert found.correlation.ravel() == pytest.approx([1, -1])
    assert found.q_value.max() < 1e-12


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, fates = draw()
    whole = [correlate_features(layout(x), fates).correlation for layout in (np.asarray, sp.csr_matrix)]
    monkeypatch.setattr("muport.velocity.fates._drivers._BLOCK", 4 * len(x))
    for layout, expected in zip((np.asarray, sp.csr_matrix), whole, strict=True):
        assert correlate_features(layout(x), fates).correlation == pytest.approx(expected, abs=1e-14)


def test_entries_stored_twice_are_one_sum() -> None:
    x, fates = draw()
    half = sp.coo_matrix(x / 2)
    twice = sp.coo_matrix((np.tile(half.data, 2), (np.tile(half.row, 2), np.tile(half.col, 2))), shape=x.shape).tocsc(
        copy=False
    )
    assert correlate_features(twice, fates).correlation == pytest.approx(correlate_features(x, fates).correlation)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-1e3, 1e3), scale=st.floats(1e-2, 1e3))
def test_units_do_not_matter(seed: int, shift: float, scale: float) -> None:
    x, fates = draw(20, 6, seed)
    plain, changed = (correlate_features(y, fates).correlation for y in (x, shift + scale * x))
    assert changed == pytest.approx(plain, abs=1e-6)
    assert np.abs(changed).max() <= 1


@pytest.mark.parametrize(
    ("features", "fates", "message"),
    [
        (np.ones((5, 2)), np.ones((4, 1)), "fates has 4 cells, but features has 5"),
        (np.ones((3, 2)), np.ones((3, 1)), "3 cells are too few"),
        (np.ones(5), np.ones((5, 1)), "features has shape"),
        (np.full((5, 2), np.nan), np.ones((5, 1)), "features has 10 NaN"),
        (sp.csr_matrix(np.full((5, 2), np.inf)), np.ones((5, 1)), "features has 10 NaN"),
        (np.ones((5, 2)), np.full((5, 1), np.nan), "fates has 5 NaN"),
        (np.array([["a"]] * 5), np.ones((5, 1)), "features must be numbers"),
    ],
)
def test_refuses_bad_input(features: Any, fates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correlate_features(features, fates)


def test_refuses_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="method='kendall' is unknown"):
        correlate_features(*draw(), method="kendall")  # type: ignore[arg-type]


def test_velocity_of_genes_undoes_the_projection() -> None:
    rng = np.random.default_rng(0)
    loadings = np.linalg.qr(rng.normal(size=(50, 6)))[0]
    genes = rng.normal(size=(30, 6)) @ loadings.T
    assert feature_velocity(genes @ loadings, loadings) == pytest.approx(genes, abs=1e-5)
    assert feature_velocity(genes @ loadings, loadings[[4, 2]]) == pytest.approx(genes[:, [4, 2]], abs=1e-5)
    assert feature_velocity(genes @ loadings, loadings).dtype == np.float32


def test_refuses_loadings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="velocity has 3 coordinates, but loadings has 2"):
        feature_velocity(np.ones((4, 3)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="loadings has 15 NaN"):
        feature_velocity(np.ones((4, 3)), np.full((5, 3), np.nan))
