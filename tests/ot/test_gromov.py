"""Gromov transport: restarts, limits of the fused problem, and settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import pytest
import torch

from muport.ot import cost_matrix, solve

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(6, 2)) / 4, RNG.normal(size=(5, 2)) / 4
A, B = np.arange(1.0, 7) / 21, np.arange(5.0, 0, -1) / 15
M, CX, CY = ot.dist(X, Y), ot.dist(X, X), ot.dist(Y, Y)


def gromov_value(plan: np.ndarray, cx: np.ndarray, cy: np.ndarray) -> float:
    """Sum of (Cx_ik - Cy_jl)^2 T_ij T_kl, by its definition."""
    return float(np.einsum("ijkl,ij,kl", (cx[:, None, :, None] - cy[None, :, None, :]) ** 2, plan, plan))


@pytest.mark.parametrize("reg", [0.0, 0.02])
def test_restarts_find_a_better_plan_with_the_same_marginals(reg: float) -> None:
    problem: dict[str, Any] = {"cx": CX / CX.max(), "cy": CY / CY.max(), "a": A, "b": B, "reg": reg}
    found: dict[int, list[float]] = {}
    for seed in (1, 2):
        found[seed] = []
        for n_restarts in (1, 3):
            result = solve(method="gromov", **problem, n_restarts=n_restarts, random_state=seed, tol=1e-5)
            plan = result.plan.numpy()
            assert np.allclose(plan.sum(1), A, atol=1e-8)
            assert np.allclose(plan.sum(0), B, atol=1e-8)
            assert float(result.value) == pytest.approx(gromov_value(plan, problem["cx"], problem["cy"]), rel=1e-9)
            assert result.reg is not None
            assert float(result.reg) == reg
            found[seed].append(float(result.value))

        assert found[seed][-1] < 0.98 * found[seed][0]
    # the first start is the product of the masses, whatever the seed; the others depend on the seed
    assert found[1][0] == found[2][0]
    assert found[1] != found[2]


@pytest.mark.parametrize("reg", [0.0, 0.05])
@pytest.mark.parametrize("given", ["points", "cost"])
def test_the_limits_of_the_fused_problem(reg: float, given: str) -> None:
    arguments: dict[str, Any] = {"x": X, "y": Y} if given == "points" else {"cost": M, "cx": CX, "cy": CY}
    masses: dict[str, Any] = {"a": A, "b": B, "reg": reg}
    linear = solve(**arguments, **masses, method="fused_gromov", alpha=0.0)
    expected = solve(X, Y, **masses, method="sinkhorn" if reg else "exact")
    assert torch.allclose(linear.plan, expected.plan, atol=1e-6)
    assert float(linear.value) == pytest.approx(float(expected.cost), rel=1e-6)
    assert torch.allclose(linear.cost_matrix, torch.as_tensor(M))
    structures = solve(**arguments, **masses, method="fused_gromov", alpha=1.0)
    gromov = solve(X, Y, **masses, method="gromov")
    assert torch.allclose(structures.plan, gromov.plan, atol=1e-8)
    assert torch.equal(gromov.cost_matrix, torch.zeros(6, 5, dtype=torch.float64))
    # alpha is the weight of the structures
    between = solve(**arguments, **masses, method="fused_gromov", alpha=0.3)
    plan = between.plan.numpy()
    value = 0.7 * float((plan * M).sum()) + 0.3 * gromov_value(plan, CX, CY)
    assert float(between.value) == pytest.approx(value, rel=1e-6)


def test_structures_are_the_scaled_costs_of_the_points() -> None:
    x, y = torch.as_tensor(X), torch.as_tensor(Y)
    options: dict[str, Any] = {"scale": "std", "clip_quantile": 0.9, "metric": "cosine"}
    by_points = solve(X, Y, method="gromov", reg=0.1, **options)
    structures = {"cx": cost_matrix(x, x, **options), "cy": cost_matrix(y, y, **options)}
    assert torch.allclose(by_points.plan, solve(method="gromov", reg=0.1, **structures).plan)
    # a given structure goes before that of the points, and the points serve for the linear cost
    fused = solve(X, Y, **structures, method="fused_gromov", reg=0.1, **options)
    expected = solve(cost=cost_matrix(x, y, **options), **structures, method="fused_gromov", reg=0.1)
    assert torch.allclose(fused.plan, expected.plan, atol=1e-9)
    beside = solve(X + 1, Y, cost=cost_matrix(x, y, **options), method="fused_gromov", reg=0.1)
    expected = solve(
        cost=cost_matrix(x, y, **options), cx=ot.dist(X, X), cy=ot.dist(Y, Y), method="fused_gromov", reg=0.1
    )
    assert torch.allclose(beside.plan, expected.plan, atol=1e-9)


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_a_penalty_belongs_to_the_linear_part(reg: float) -> None:
    penalty = RNG.random((6, 5))
    found = solve(X, Y, penalty=penalty, method="fused_gromov", reg=reg)
    expected = solve(cost=M + penalty, cx=CX, cy=CY, method="fused_gromov", reg=reg)
    assert torch.allclose(found.plan, expected.plan, atol=1e-9)


@pytest.mark.parametrize("reg", [0.0, 0.05])
def test_tolerance_and_iterations(reg: float) -> None:
    loose = solve(X, Y, method="gromov", reg=reg, tol=1e6)
    assert int(loose.n_iter) == 1
    assert bool(loose.converged)
    strict = solve(X, Y, method="gromov", reg=reg, tol=1e-9)
    assert bool(strict.converged)
    assert int(strict.n_iter) > 1
    with pytest.warns(RuntimeWarning, match=r"did not converge in max_iter=1 .* raise max_iter"):
        stopped = solve(X, Y, method="gromov", reg=reg, max_iter=1)
    assert int(stopped.n_iter) == 1
    assert not bool(stopped.converged)


@pytest.mark.parametrize(("size", "tol"), [(1e3, 0.9), (1e-4, 1e-3)])
def test_the_tolerance_is_relative_for_large_costs_and_absolute_for_small_ones(size: float, tol: float) -> None:
    result = solve(method="gromov", cx=size * CX, cy=size * CY, a=A, b=B, reg=0, tol=tol)
    assert bool(result.converged)
    assert int(result.n_iter) == 1


@pytest.mark.parametrize("reg", [0.0, 0.05])
def test_the_type_is_that_of_the_row_structure(reg: float) -> None:
    result = solve(method="gromov", cx=CX.astype(np.float32), cy=CY, a=A, b=B, reg=reg)
    assert {value.dtype for value in (result.plan, result.a, result.b, result.cost_matrix, result.value)} == {
        torch.float32
    }
    assert np.allclose(result.b.numpy(), B)
    assert result.f is None
    double = solve(method="gromov", cx=CX.astype(np.float32).astype(float), cy=CY.astype(np.float32), a=A, b=B, reg=reg)
    assert torch.allclose(result.plan.double(), double.plan, atol=1e-5)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"alpha": -0.1}, "alpha=-0.1 in"),
    ({"alpha": 1.1}, "alpha=1.1 in"),
    ({"reg": -0.1}, "reg=-0.1 must be >= 0"),
    ({"n_restarts": -1}, "n_restarts=-1"),
    ({"a": [A]}, "not a list"),
    ({"b": (B,)}, "not a list"),
    ({"cx": [CX]}, "not a list"),
    ({"penalty": np.where(np.eye(6, 5) > 0, np.inf, 0)}, "cannot be forbidden"),
    ({"penalty": np.eye(6, 5, dtype=bool)}, "cannot be forbidden"),
    ({"cx": CY}, "does not fit"),
    ({"cy": CX}, "does not fit"),
    ({"cx": CX[:, :5]}, r"cx has shape \(6, 5\): a structure is square"),
    ({"cx": CX[0]}, "cx has shape"),
    ({"y": None}, "structure cy or the points y"),
    ({"x": None, "cx": CX}, "Two sets of points"),
    ({"a": 2 * A}, "equal sums"),
    ({"reg_m": 1.0}, "hard marginals"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(**{"x": X, "y": Y, "method": "fused_gromov", "reg": 0.1} | arguments)
