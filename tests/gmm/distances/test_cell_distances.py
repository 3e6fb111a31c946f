"""Distances between patients from their cells, against POT."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from muport.gmm.distances._cell_distances import exact_wasserstein, sliced_wasserstein


def cells(seed: int, sizes: tuple[int, ...] = (30, 30, 30), d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sample = np.repeat(np.arange(len(sizes)), sizes)
    x = rng.normal(size=(len(sample), d)) + rng.normal(size=(len(sizes), d))[sample]
    order = rng.permutation(len(sample))
    return x[order], sample[order]


def test_sliced_is_pots():
    x, sample = cells(0)
    found = sliced_wasserstein(x, sample, n_projections=7, n_quantiles=30, random_state=3)
    direction = np.random.default_rng(3).standard_normal((7, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wanted = ot.sliced_wasserstein_distance(x[sample == 0], x[sample == 2], projections=direction.T)
    assert found[0, 2] == pytest.approx(wanted)
    np.testing.assert_array_equal(found, found.T)


def test_sliced_weights_are_repeats():
    x, sample = cells(1, (8, 12, 5))
    count = np.random.default_rng(0).integers(1, 4, len(x))
    found = sliced_wasserstein(x, sample, weight=count, n_quantiles=997)
    np.testing.assert_allclose(
        found, sliced_wasserstein(np.repeat(x, count, 0), np.repeat(sample, count), n_quantiles=997)
    )


def test_emd_is_pots():
    x, sample = cells(2, (9, 14, 6))
    distances = exact_wasserstein(x, sample)
    cost = ot.dist(x[sample == 0], x[sample == 1], "sqeuclidean")
    assert distances[0, 1] == pytest.approx(ot.emd2(np.full(9, 1 / 9), np.full(14, 1 / 14), cost) ** 0.5)
    assert (distances.diagonal() == 0).all()


@pytest.mark.parametrize("distance", [sliced_wasserstein, exact_wasserstein])
def test_cells_of_weight_0_are_ignored(distance):
    x, sample = cells(6, (12, 9, 10))
    weight = np.random.default_rng(0).integers(0, 3, len(x))
    inside = weight > 0
    np.testing.assert_array_equal(
        distance(x, sample, weight=weight), distance(x[inside], sample[inside], weight=weight[inside])
    )


def test_emd_takes_some_cells_and_keeps_small_patients():
    x, sample = cells(3, (40, 3, 25))
    few = exact_wasserstein(x, sample, n_cells=10, random_state=1)
    np.testing.assert_array_equal(few, exact_wasserstein(x, sample, n_cells=10, random_state=1))
    assert not np.allclose(few, exact_wasserstein(x, sample, n_cells=10, random_state=2))
    assert (few[1, [0, 2]] > 0).all()


@pytest.mark.parametrize("distance", [sliced_wasserstein, exact_wasserstein])
def test_cells_under_a_metric(distance):
    x, sample = cells(4, (10, 12, 9))
    w = np.random.default_rng(0).normal(size=(2, 3))
    np.testing.assert_allclose(distance(x, sample, w=w), distance(x @ w.T, sample))
    with pytest.raises(ValueError, match="w has shape"):
        distance(x, sample, w=w.T)


@pytest.mark.parametrize("distance", [sliced_wasserstein, exact_wasserstein])
def test_bad_cells(distance):
    x, sample = cells(5)
    with pytest.raises(ValueError, match="codes"):
        distance(x, sample + 1)
    with pytest.raises(ValueError, match="finite"):
        distance(np.where(x > 1, np.nan, x), sample)
    with pytest.raises(ValueError, match="one row per cell"):
        distance(x, sample[:-1])
