"""Prototypes of each group, and the soft weights from cells to them."""

from __future__ import annotations

import numpy as np
import pytest

from muport.integration.prototypes._prototypes import count_prototypes, fit_prototypes, soft_assign


@pytest.mark.parametrize(
    ("n", "resolution", "wanted"),
    [(1, 1, 1), (2, 1, 1), (30, 1, 10), (900, 1, 90), (100_000, 1, 400), (100_000, 2, 800), (900, 0, 1), (5, 2, 2)],
)
def test_count(n, resolution, wanted):
    assert count_prototypes(n, resolution) == wanted


@pytest.mark.parametrize(("n", "n_batches"), [(300, 3), (1200, 40)])
def test_each_group_has_its_own(kit, n, n_batches):
    sim = kit.draw(n=n, n_batches=n_batches)
    order = np.argsort(sim.batch, kind="stable")
    x, start = sim.x[order], np.concatenate([[0], np.cumsum(np.bincount(sim.batch))])
    found, nearest = fit_prototypes(x, start, 1.0, 0)
    assert np.array_equal(found.group[nearest], sim.batch[order])
    assert np.array_equal(np.bincount(nearest, minlength=len(found.mass)), found.mass)
    assert found.mass.min() > 0
    for b in range(n_batches):
        rows = found.of(b)
        cells = x[start[b] : start[b + 1]]
        distance = np.linalg.norm(cells[:, None] - found.position[rows][None], axis=2)
        assert np.allclose(
            distance.min(1), distance[np.arange(len(cells)), nearest[start[b] : start[b + 1]] - rows.start], atol=1e-4
        )
    # prototypes say more than the mean: they leave a small part of the variance
    assert np.square(x - found.position[nearest]).sum() < 0.2 * np.square(x - x.mean(0)).sum()


def test_without_resolution_the_prototype_is_the_mean(kit):
    sim = kit.draw(n=100)
    x, start = np.concatenate([sim.x[sim.batch == b] for b in (0, 1)]), [0, int((sim.batch == 0).sum()), 100]
    found, _ = fit_prototypes(x, np.array(start), 0.0, 0)
    assert len(found.position) == 2
    assert np.allclose(found.position, [sim.x[sim.batch == b].mean(0) for b in (0, 1)], atol=1e-4)


def test_identical_cells_have_one_prototype():
    found, nearest = fit_prototypes(np.ones((40, 3), np.float32), np.array([0, 30, 40]), 1.0, 0)
    assert found.mass.tolist() == [30, 10]
    assert np.array_equal(np.unique(nearest), [0, 1])


def test_weights_follow_the_formula():
    rng = np.random.default_rng(0)
    x, points = rng.normal(size=(50, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    near, weight = soft_assign(x, points)
    squared = np.square(x[:, None].astype(float) - points[None]).sum(2)
    order = squared.argsort(1)[:, :4]
    assert np.array_equal(near, order)
    squared = np.take_along_axis(squared, order, 1)
    wanted = np.exp(-(squared - squared[:, :1]) / squared[:, 2:3])
    assert np.allclose(weight, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    assert np.allclose(weight.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("n_points", [1, 2, 3])
def test_fewer_points_than_neighbours(n_points):
    points = np.arange(n_points, dtype=np.float32)[:, None]
    near, weight = soft_assign(np.array([[0.0], [0.4]], np.float32), points)
    assert near.shape == weight.shape == (2, n_points)
    assert np.allclose(weight.sum(1), 1)


def test_a_cell_on_many_equal_points():
    _, weight = soft_assign(np.zeros((1, 2), np.float32), np.zeros((5, 2), np.float32))
    assert np.allclose(weight, 0.25)
