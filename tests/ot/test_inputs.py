"""Arrays, batches and lists: what is accepted, what is refused, and that no answer depends on the container."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from muport.ot import solve

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(6, 3)), RNG.normal(size=(5, 3)) + 1
A, B = np.arange(1.0, 7) / 21, np.arange(5.0, 0, -1) / 15
C = np.rint(10 * RNG.random((6, 5)))


@pytest.mark.promise("The container of an array does not change the answer")
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, ">f4", ">i2"])
def test_types_of_a_cost(dtype: Any, record_property: Any) -> None:
    cost = (C > 5) if dtype is bool else C
    expected = solve(cost=cost.astype(np.float32), reg=1.0)
    found = solve(cost=cost.astype(dtype), reg=1.0)
    assert found.plan.dtype == torch.float32
    assert torch.equal(found.plan, expected.plan)
    record_property("tries", 1)


@pytest.mark.promise("The container of an array does not change the answer")
@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_containers_of_masses_and_points(method: Any, record_property: Any) -> None:
    packed = np.zeros(6, dtype=[("flag", "i1"), ("mass", "f8")])
    packed["mass"] = A
    expected = solve(X, Y, a=A, b=B, method=method, reg=0.5).plan
    masses = (packed["mass"], A[::-1].copy()[::-1], A.astype(">f8"), torch.tensor(A, requires_grad=True))
    for mass in masses:
        assert torch.equal(solve(X, Y, a=mass, b=B, method=method, reg=0.5).plan, expected)
    learned = torch.tensor(X, requires_grad=True)
    result = solve(learned, Y, a=A, b=B, method=method, reg=0.5)
    assert torch.equal(result.plan, expected)
    assert not result.plan.requires_grad
    # the points decide on the type
    assert solve(X.astype(np.float32), Y, a=A, b=B, method=method, reg=0.5).plan.dtype == torch.float32
    assert solve(X, Y.astype(np.float32), a=A, b=B, method=method, reg=0.5).plan.dtype == torch.float64
    record_property("tries", len(masses) + 3)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
@pytest.mark.parametrize("per_problem", [False, True])
def test_masses_of_a_batch_are_shared_or_one_per_problem(method: Any, per_problem: bool) -> None:
    x, y = np.stack([X, X + 1, 2 * X]), np.stack([Y, Y, Y])
    a = np.stack([A, A[::-1], 2 * A]) if per_problem else A
    b = np.stack([B, B, 2 * B]) if per_problem else B
    batch = solve(x, y, a=a, b=b, method=method, reg=0.5)
    assert len(batch) == 3
    for k, problem in enumerate(batch):
        masses = {"a": a[k], "b": b[k]} if per_problem else {"a": a, "b": b}
        alone = solve(x[k], y[k], **masses, method=method, reg=0.5)
        assert torch.allclose(problem.plan, alone.plan, atol=1e-9)
        for name in ("a", "b", "cost_matrix", "f", "g", "value", "cost", "mass"):
            assert torch.allclose(getattr(problem, name), getattr(alone, name), atol=1e-7)
            assert getattr(problem, name).shape == getattr(alone, name).shape
    uniform = solve(x, y, method=method, reg=0.5)
    assert torch.allclose(uniform.a, torch.full((3, 6), 1 / 6, dtype=torch.float64))
    assert torch.allclose(uniform.b, torch.full((3, 5), 1 / 5, dtype=torch.float64))


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_an_array_beside_lists_is_shared_by_all_problems(method: Any) -> None:
    together = solve((X, X + 1), Y, a=(A, A[::-1].copy()), b=B, method=method, reg=0.5)
    masks = [np.eye(6, 5, dtype=bool), None, np.eye(4, 5, dtype=bool)]
    sizes = [6, 6, 4]
    padded = solve([X[:n] for n in sizes], Y, penalty=masks, b=B, method=method, reg=0.5)
    for k, a in enumerate((A, A[::-1])):
        assert torch.allclose(together[k].plan, solve(X + k, Y, a=a, b=B, method=method, reg=0.5).plan, atol=1e-9)
    for k, n in enumerate(sizes):
        alone = solve(X[:n], Y, penalty=masks[k], b=B, method=method, reg=0.5)
        for name in ("a", "b", "cost_matrix", "f", "g", "plan", "value", "cost", "mass", "reg", "converged"):
            assert torch.allclose(getattr(padded[k], name), getattr(alone, name), atol=1e-7)
            assert getattr(padded[k], name).shape == getattr(alone, name).shape


BATCH = {"x": np.stack([X, X]), "y": np.stack([Y, Y])}
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"cost": np.array(3.0)}, ValueError, r"cost has shape \(\)"),
    ({"cost": np.zeros((0, 3))}, ValueError, r"cost has shape \(0, 3\)"),
    ({"x": X[:, :0], "y": Y[:, :0]}, ValueError, "x has shape"),
    ({"x": X, "y": Y[None]}, ValueError, "must agree in batch"),
    ({"x": np.stack([X, X]), "y": np.stack([Y] * 3)}, ValueError, "must agree in batch"),
    ({"x": X, "y": Y, "a": A[None]}, ValueError, "a has shape"),
    ({"x": X, "y": Y, "b": B[:4]}, ValueError, r"b has shape \(4,\), but the cost needs \(5,\)"),
    ({**BATCH, "a": np.stack([A])}, ValueError, r"a has shape \(1, 6\), but the cost needs \(2, 6\)"),
    ({**BATCH, "a": np.stack([A, -A])}, ValueError, r"a has a negative entry at \(1, 0\)"),
    ({**BATCH, "b": np.stack([B, 0 * B])}, ValueError, "b has no mass"),
    ({**BATCH, "a": np.stack([A, 2 * A])}, ValueError, "equal sums"),
    ({"x": X, "y": Y, "b": [0.2] * 5}, TypeError, "not lists"),
    ({"x": [], "y": []}, ValueError, "length of at least 1"),
    ({"x": [X], "y": Y, "b": [B, B]}, ValueError, "one common length"),
    ({"x": X, "y": Y, "a": A.astype(complex)}, TypeError, "a must be"),
    ({"x": X, "y": Y, "a": torch.as_tensor(A).to(torch.complex64)}, TypeError, "a must be"),
    ({"x": X, "y": Y, "penalty": "none"}, TypeError, "penalty must be"),
    ({"x": X, "y": Y, "reg": "small"}, TypeError, "reg='small' must be a number"),
    ({**BATCH, "reg": np.array([0.1, 0.0])}, ValueError, "must be positive and finite"),
    ({**BATCH, "reg": np.full((2, 1), 0.1)}, ValueError, "reg has shape"),
    ({**BATCH, "reg": np.full(3, 0.1)}, ValueError, "reg has shape"),
    ({"x": X, "y": Y, "reg": np.inf}, ValueError, "reg=inf must be positive and finite"),
    ({"x": X, "y": Y, "reg_m": (1.0, 1.0, 1.0)}, ValueError, "a pair of them"),
    ({"x": X, "y": Y, "reg_m": (1.0, np.nan)}, ValueError, "must be a number >= 0"),
    ({"x": X, "y": Y, "clip_quantile": 0.0}, ValueError, "outside"),
    ({"x": X, "y": Y, "eps_scaling": 1.0}, ValueError, "eps_scaling=1.0"),
    ({"x": X, "y": Y, "eps_scaling": 0.0}, ValueError, "eps_scaling=0.0"),
    ({"x": X, "y": Y, "eps_scaling": "fast"}, ValueError, "eps_scaling='fast'"),
    ({"x": X, "y": Y, "init": (A, A[:5] * np.inf)}, ValueError, "NaN or infinite"),
    ({"x": X, "y": Y, "init": (B, B)}, ValueError, "init has shapes"),
    ({"x": X, "y": Y, "max_iter": 0}, ValueError, "max_iter=0"),
    ({"x": X, "y": Y, "tol": -1.0}, ValueError, "tol=-1.0"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_batches_and_options_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        solve(**arguments)


@pytest.mark.parametrize("method", ["sinkhorn", "exact"])
def test_sums_that_differ_by_rounding_are_made_equal(method: Any) -> None:
    """The column masses are scaled to the sum of the row masses."""
    x, y = np.stack([X, X]), np.stack([Y, Y])
    result = solve(x, y, a=np.stack([A, 3 * A]), b=np.stack([B * (1 + 5e-5), 3 * B]), method=method, reg=0.5)
    assert torch.allclose(result.b[0], torch.as_tensor(B), atol=1e-12)
    assert torch.allclose(result.mass, torch.tensor([1.0, 3.0], dtype=torch.float64), atol=1e-9)
    assert float(result.marginal_error.max()) <= 1e-8
    for factor in (1 + 2e-4, 1 - 2e-4):
        with pytest.raises(ValueError, match="equal sums"):
            solve(X, Y, a=A, b=B * factor, method=method)


def test_a_forbidden_row_or_column_needs_a_relaxed_marginal() -> None:
    cost = np.stack([C, C])
    row, column = cost.copy(), cost.copy()
    row[1, 2], column[1, :, 3] = np.inf, np.inf
    for reg_m in (None, (np.inf, 1.0)):
        with pytest.raises(ValueError, match=r"Every pair of entry \(1, 2\) of a is forbidden"):
            solve(cost=row, reg=1.0, reg_m=reg_m)
    for reg_m in (None, (1.0, np.inf)):
        with pytest.raises(ValueError, match=r"Every pair of entry \(1, 3\) of b is forbidden"):
            solve(cost=column, reg=1.0, reg_m=reg_m)
    assert float(solve(cost=row, reg=1.0, reg_m=(1.0, None)).plan[1, 2].max()) == 0
    assert float(solve(cost=column, reg=1.0, reg_m=[None, 1.0]).plan[1, :, 3].max()) == 0
    # a row whose only allowed pair is with a column without mass
    row[1, 2, 0] = 1.0
    b = np.where(np.arange(5) == 0, 0, 0.25)
    with pytest.raises(ValueError, match="of a is forbidden"):
        solve(cost=row, b=b, reg=1.0)
    # a row without mass may be forbidden
    a = np.where(np.arange(6) == 2, 0, 0.2)
    assert bool(solve(cost=row, a=a, b=b, reg=1.0).converged.all())


def test_iterations_tolerance_and_the_decrease_of_eps() -> None:
    a, b = X[:, 0] ** 2 / (X[:, 0] ** 2).sum(), Y[:, 0] ** 2 / (Y[:, 0] ** 2).sum()
    expected = solve(X, Y, a=a, b=b, reg=0.05)
    with pytest.warns(RuntimeWarning, match="1 of 1 transport problems did not converge in max_iter=7"):
        stopped = solve(X, Y, a=a, b=b, reg=0.05, max_iter=7)
    assert int(stopped.n_iter) == 7
    for eps_scaling in (None, 0.3, 0.5):
        found = solve(X, Y, a=a, b=b, reg=0.05, eps_scaling=eps_scaling)
        assert torch.allclose(found.plan, expected.plan, atol=1e-7)
    # "auto" is .5 where reg is below a hundredth of the range of the cost
    assert int(found.n_iter) == int(expected.n_iter)
    large = solve(X, Y, a=a, b=b, reg=1.0)
    assert int(large.n_iter) == int(solve(X, Y, a=a, b=b, reg=1.0, eps_scaling=None).n_iter)
    rough = solve(X, Y, a=a, b=b, reg=0.05, tol=1e-2)
    assert bool(rough.converged)
    assert int(rough.n_iter) < int(expected.n_iter)
