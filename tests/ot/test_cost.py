"""Cost matrices: scale, clipping and penalties against NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from muport.ot import cost_matrix, solve

RNG = np.random.default_rng(3)
POINTS = torch.as_tensor(RNG.normal(size=(8, 3)))


def numpy_cost(cost: np.ndarray, scale: str | None, clip_quantile: float | None) -> np.ndarray:
    """Scale and clip one matrix; a quantile is the next entry above."""
    allowed = np.isfinite(cost)
    if scale is not None:
        cost = cost / (cost[allowed].std() if scale == "std" else np.quantile(cost[allowed], 0.5, method="higher"))
    if clip_quantile is not None:
        cost = np.where(allowed, np.minimum(cost, np.quantile(cost[allowed], clip_quantile, method="higher")), cost)
    return cost


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([None, "std", "median"]),
    st.sampled_from([None, 0.2, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
def test_each_cost_of_a_batch_is_scaled_and_clipped_by_its_allowed_pairs(
    seed: int, scale: Any, clip_quantile: float | None, forbidden: float
) -> None:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 6), rng.integers(2, 6)
    costs = rng.random((3, *size)) + 0.01
    costs[rng.random(costs.shape) < forbidden] = np.inf
    costs[:, 0, :2] = rng.random((3, 2)) + 0.5
    costs *= np.array([1e-8, 1.0, 50.0])[:, None, None]
    result = solve(cost=costs, scale=scale, clip_quantile=clip_quantile, reg=100.0, reg_m=1.0)
    expected = [numpy_cost(cost, scale, clip_quantile) for cost in costs]
    assert np.allclose(result.cost_matrix.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [None, "std", "median"])
@pytest.mark.parametrize("clip_quantile", [None, 0.5])
def test_a_problem_without_an_allowed_pair_moves_nothing(scale: Any, clip_quantile: float | None) -> None:
    costs = np.stack([RNG.random((3, 4)), np.full((3, 4), np.inf)])
    result = solve(cost=costs, scale=scale, clip_quantile=clip_quantile, reg_m=1.0)
    assert float(result[1].plan.abs().max()) == 0
    alone = solve(cost=costs[0], scale=scale, clip_quantile=clip_quantile, reg_m=1.0)
    assert torch.allclose(result[0].plan, alone.plan)


@pytest.mark.parametrize("forbidden", [0, 3])
def test_a_single_allowed_pair_is_its_own_median_and_has_no_deviation(forbidden: int) -> None:
    cost = np.array([[3.0] + [np.inf] * forbidden])
    assert float(solve(cost=cost, scale="std", reg_m=1.0).cost_matrix[0, 0]) == 3
    assert float(solve(cost=cost, scale="median", reg_m=1.0).cost_matrix[0, 0]) == 1


@pytest.mark.parametrize("scale", ["std", "median"])
@pytest.mark.parametrize("level", [0.1, 1.0, 300.0])
def test_rounding_errors_of_a_constant_cost_are_not_scaled(scale: Any, level: float) -> None:
    """All targets have the same distance from the sources: the deviation consists of rounding errors."""
    directions = torch.nn.functional.normalize(torch.as_tensor(RNG.normal(size=(40, 3))), dim=1).float()
    cost = cost_matrix(torch.zeros(5, 3), directions * level**0.5, scale=scale)
    assert torch.allclose(cost, torch.full_like(cost, level if scale == "std" else 1.0), rtol=1e-5)
    raw = level * (1 + 1e-4 * RNG.random((5, 40)))
    scaled = solve(cost=raw, scale=scale, reg=1e3, reg_m=1.0).cost_matrix
    assert np.allclose(scaled.numpy(), numpy_cost(raw, scale, None), rtol=1e-9)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_costs_are_small_but_never_negative_between_near_points(metric: Any) -> None:
    for points in (POINTS.float(), 100 + POINTS.float(), torch.as_tensor(RNG.normal(size=(300, 40))).float()):
        cost = cost_matrix(points, points, metric=metric)
        assert float(cost.min()) >= 0
        assert float(cost.diagonal().max()) <= 1e-5 * float(points.square().sum(1).max())
    near = POINTS[:1] + 1e-3 * POINTS
    assert np.allclose(cost_matrix(near, near, metric=metric), cdist(near, near, metric), atol=1e-13)


def test_the_cosine_cost_of_a_zero_vector_is_one() -> None:
    cost = cost_matrix(torch.zeros(2, 3), POINTS.float(), metric="cosine")
    assert torch.equal(cost, torch.ones(2, 8))


def test_a_penalty_is_shared_by_a_batch_or_one_per_problem() -> None:
    x, y = torch.stack([POINTS, POINTS + 1]), torch.stack([POINTS[:5] * 2, POINTS[:5]])
    raw, penalty = cost_matrix(x, y), RNG.random((8, 5))
    mask = penalty > 0.7
    for added in (penalty, torch.as_tensor(penalty), np.stack([penalty, 2 * penalty])):
        assert torch.allclose(solve(x, y, penalty=added, reg=1.0).cost_matrix, raw + torch.as_tensor(added))
    for forbidden in (mask, torch.as_tensor(mask), np.stack([mask, ~mask])):
        result = solve(x, y, penalty=forbidden, reg=1.0, reg_m=5.0)
        assert torch.equal(result.cost_matrix.isinf(), torch.as_tensor(forbidden).expand(2, 8, 5))
        assert float(result.plan[result.cost_matrix.isinf()].max()) == 0
    with pytest.raises(ValueError, match="penalty has shape"):
        solve(x, y, penalty=np.stack([penalty] * 3))
    for value in (np.nan, -np.inf):
        with pytest.raises(ValueError, match="penalty has a NaN or infinite"):
            solve(x, y, penalty=np.where(mask, value, penalty))
