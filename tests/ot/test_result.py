"""Results: blocks of rows, batches, lists, and plans that are given instead of potentials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from muport.ot import OTResult, solve

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(3, 6, 2)), RNG.normal(size=(3, 5, 2))
A, B = RNG.random((3, 6)) + 0.1, RNG.random((3, 5)) + 0.1
A, B = A / A.sum(1, keepdims=True), B / B.sum(1, keepdims=True)
SOLVERS: list[dict[str, Any]] = [
    {"method": "exact"},
    {"reg": 0.3},
    {"reg": 0.3, "reg_m": (0.5, math.inf), "reg_type": "entropy"},
    {"reg": torch.tensor([0.1, 0.3, 1.0]), "reg_m": (0.5, 2.0)},
    {"reg": 0.3, "reg_m": (0.0, math.inf)},
]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("entries", [1, 30, 10_000])
def test_all_quantities_of_a_batch_are_those_of_its_plan(
    solver: dict[str, Any], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is computed in blocks of rows, whose size changes nothing."""
    monkeypatch.setattr("muport.ot._result._PLAN_ENTRIES", entries)
    a, b = A.copy(), B.copy()
    a[1, 2], b[2, 0] = 0, 0
    if solver.get("reg_m", (math.inf,)) != (0.5, 2.0):
        b *= a.sum(1, keepdims=True) / b.sum(1, keepdims=True)
    result = solve(X, Y, a=a, b=b, **solver)
    plan = result.plan
    assert plan.shape == (3, 6, 5)
    assert torch.equal(plan, torch.stack([problem.plan for problem in result]))
    values = {
        "rows": torch.as_tensor(RNG.normal(size=(3, 6, 4))),
        "columns": torch.as_tensor(RNG.normal(size=(3, 5, 4))),
    }
    assert torch.allclose(result.apply(values["columns"]), plan @ values["columns"])
    assert torch.allclose(result.apply(values["columns"][..., 0]), (plan @ values["columns"])[..., 0])
    assert torch.allclose(result.apply(values["rows"], transpose=True), plan.mT @ values["rows"])
    assert torch.allclose(result.apply(values["rows"][..., 0], transpose=True), (plan.mT @ values["rows"])[..., 0])
    assert result.apply(values["columns"].float()).dtype == torch.float64
    assert torch.allclose(result.cost, (plan * result.cost_matrix).sum((1, 2)))
    assert torch.allclose(result.mass, plan.sum((1, 2)))
    assert float(result.marginal_error.max()) <= 1e-7
    projected = result.barycentric_projection(values["columns"])
    expected = plan @ values["columns"] / plan.sum(2, keepdim=True)
    has_mass = plan.sum(2) > 0
    assert int((~has_mass).sum()) == 1
    assert torch.allclose(projected[has_mass], expected[has_mass], atol=1e-7)
    for k in range(3):
        assert torch.allclose(result[k].barycentric_projection(values["columns"][k]), projected[k])


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("reg_m", [None, (0.5, 2.0), (0.0, 2.0), (math.inf, 0.7)])
def test_value_with_rows_and_columns_without_mass(reg_m: Any, reg_type: Any) -> None:
    """The objective by its definition, over the pairs of positive masses."""
    a, b = np.append(A[0], 0.0), np.append(0.0, B[0])
    cost = RNG.random((7, 6))
    result = solve(cost=cost, a=a, b=b, reg=0.2, reg_m=reg_m, reg_type=reg_type)
    plan = result.plan.numpy()[:6, 1:]
    lam = (math.inf, math.inf) if reg_m is None else reg_m
    reference = np.outer(A[0], B[0]) if reg_type == "kl" else np.ones((6, 5))

    def kl(p: np.ndarray, q: np.ndarray) -> float:
        return float((p * np.log(p / q) - p + q).sum())

    value = float((plan * cost[:6, 1:]).sum()) + 0.2 * kl(plan, reference)
    for relaxation, total, mass in zip(lam, (plan.sum(1), plan.sum(0)), (A[0], B[0]), strict=True):
        if 0 < relaxation < math.inf:
            value += relaxation * kl(total, mass)
    assert float(result.value) == pytest.approx(value, abs=1e-7)


def test_marginal_error_is_the_larger_of_two_distances() -> None:
    plan = torch.tensor([[0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    done = torch.tensor(True)
    result = OTResult(half, half, torch.ones(2, 2).double(), done.int(), done, coupling=plan)
    assert float(result.marginal_error) == 1  # that of the rows; the columns have none
    swapped = OTResult(half, half, torch.ones(2, 2).double(), done.int(), done, coupling=plan.mT)
    assert float(swapped.marginal_error) == 1
    with pytest.raises(ValueError, match="no potentials"):
        result.value  # noqa: B018
    for f, g in ((half, None), (None, half)):
        with pytest.raises(ValueError, match="no potentials"):
            OTResult(half, half, torch.ones(2, 2).double(), done.int(), done, f=f, g=g, reg=done.double()).plan  # noqa: B018


def test_a_list_of_targets_has_one_entry_per_problem() -> None:
    result = solve([X[0], X[1][:4]], [Y[0], Y[1][:2]], reg=0.3)
    targets = (torch.as_tensor(Y[0]), torch.as_tensor(Y[1][:2]))
    for k, projected in enumerate(result.barycentric_projection(targets)):
        assert torch.allclose(projected, result[k].barycentric_projection(targets[k]))
    with pytest.raises(ValueError, match="shorter"):
        result.barycentric_projection(targets[:1])
