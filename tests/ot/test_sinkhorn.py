"""The Sinkhorn core against POT, limits and invariances."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.ot import OTResult, sinkhorn, solve


def problem(seed: int, n: int | None = None, m: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random cost (divided by its std) and masses of sum 1."""
    rng = np.random.default_rng(seed)
    n, m = n or int(rng.integers(2, 25)), m or int(rng.integers(2, 25))
    cost = ot.dist(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + 0.5)
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    return cost / (cost.std() or 1.0), a / a.sum(), b / b.sum()


def pot_plan(cost: np.ndarray, a: np.ndarray, b: np.ndarray, reg: float, reg_m: object, reg_type: str) -> np.ndarray:
    if reg_m is None:
        return ot.solve(cost, a, b, reg=reg, reg_type=reg_type, max_iter=100_000, tol=1e-13).plan
    if reg_type == "kl":
        return ot.solve(cost, a, b, reg=reg, reg_type="KL", unbalanced=reg_m, max_iter=100_000, tol=1e-14).plan
    # ot.solve turns to L-BFGS for the entropy, whose plan is no reference to 1e-6: POT's scaling is.
    return ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, reg, reg_m, method="sinkhorn", reg_type="entropy", numItermax=100_000, stopThr=1e-14
    )


SETTINGS = [
    (reg, reg_m, reg_type)
    for reg in (0.05, 0.5)
    for reg_m in (None, 0.05, 1.0, 20.0, (math.inf, 0.2))
    for reg_type in ("kl", "entropy")
]


@pytest.mark.parametrize(("reg", "reg_m", "reg_type"), SETTINGS)
def test_agrees_with_pot_on_random_problems(reg: float, reg_m: object, reg_type: str) -> None:
    """20 settings x 10 problems = the 200 problems of the requirement, both precisions, solved as one padded list."""
    problems = [problem(100 * SETTINGS.index((reg, reg_m, reg_type)) + k) for k in range(10)]
    costs, a, b = (list(column) for column in zip(*problems, strict=True))
    double = solve(cost=costs, a=a, b=b, reg=reg, reg_m=reg_m, reg_type=reg_type)
    single = solve(cost=[c.astype(np.float32) for c in costs], a=a, b=b, reg=reg, reg_m=reg_m, reg_type=reg_type)
    assert bool(double.converged.all())
    assert bool(single.converged.all())
    assert double.f is not None
    assert double.f.dtype == torch.float64
    assert single.plan.dtype == torch.float32
    assert float(double.marginal_error.max()) <= 1e-6
    for k, (cost, mass_a, mass_b) in enumerate(problems):
        expected = pot_plan(cost, mass_a, mass_b, reg, reg_m, reg_type)
        assert np.abs(double[k].plan.numpy() - expected).max() <= 1e-6
        assert np.abs(single[k].plan.numpy() - expected).max() <= 1e-4


@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("reg_m", [None, 0.7])
def test_value_is_the_objective_of_pot(reg_m: float | None, reg_type: str) -> None:
    cost, a, b = problem(3, 9, 7)
    result = solve(cost=cost, a=a, b=b, reg=0.2, reg_m=reg_m, reg_type=reg_type)
    plan = result.plan.numpy()
    reference = np.outer(a, b) if reg_type == "kl" else np.ones_like(plan)

    def kl(p: np.ndarray, q: np.ndarray) -> float:
        return float((p * np.log(p / q) - p + q).sum())

    value = float((plan * cost).sum()) + 0.2 * kl(plan, reference)
    if reg_m is not None:
        value += reg_m * (kl(plan.sum(1), a) + kl(plan.sum(0), b))
    assert float(result.value) == pytest.approx(value, abs=1e-8)
    assert float(result.cost) == pytest.approx(float((plan * cost).sum()), abs=1e-12)
    assert float(result.mass) == pytest.approx(float(plan.sum()), abs=1e-12)


def test_tends_to_the_exact_cost_as_reg_vanishes() -> None:
    for seed in range(5):
        cost, a, b = problem(seed, 20, 15)
        exact = ot.emd2(a, b, cost)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            result = solve(cost=cost, a=a, b=b, reg=1e-3)
        assert float(result.cost) == pytest.approx(exact, rel=0.01)
        assert float(result.marginal_error) <= 1e-6


@pytest.mark.parametrize("reg_m", [None, 0.1, 100.0, (math.inf, 0.2)])
@pytest.mark.parametrize("reg", [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_finite_in_float32_at_any_reg(reg: float, reg_m: object) -> None:
    cost, a, b = problem(11, 30, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = solve(cost=10 * cost.astype(np.float32), a=a, b=b, reg=reg, reg_m=reg_m, max_iter=500)
    assert result.f is not None
    assert result.g is not None
    for value in (result.f, result.g, result.plan, result.value, result.marginal_error, result.cost):
        assert bool(value.isfinite().all())
    if reg_m is None and reg >= 1e-3:
        # float32 knows f + g - C to 6e-8 |C|: relative to reg, that is the accuracy of the plan.
        assert float(result.mass) == pytest.approx(1.0, abs=2e-2)
    assert bool((result.plan.sum(1) > 0).all()) or reg_m is not None


@pytest.mark.parametrize("offset", [1e3, -1e3])
def test_balanced_plan_ignores_a_cost_offset(offset: float) -> None:
    cost, a, b = problem(5, 12, 9)
    plain = solve(cost=cost, a=a, b=b, reg=0.05)
    moved = solve(cost=cost + offset, a=a, b=b, reg=0.05)
    assert float((plain.plan - moved.plan).abs().max()) <= 1e-9
    assert float(moved.cost) == pytest.approx(float(plain.cost) + offset, rel=1e-9)


@pytest.mark.parametrize(("reg", "reg_m"), [(0.01, 100.0), (0.028, 0.40)])
def test_two_by_two_case_of_pot_711(reg: float, reg_m: float) -> None:
    """POT's stabilised unbalanced solver is wrong here; its plain scaling, in float64, is right."""
    a, b, cost = np.array([0.3, 0.7]), np.array([0.7, 0.3]), np.array([[0.0, 1.0], [1.0, 0.0]])
    expected = ot.unbalanced.sinkhorn_knopp_unbalanced(
        a, b, cost, reg, reg_m, reg_type="entropy", numItermax=200_000, stopThr=1e-11
    )
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-4)):
        result = solve(cost=cost.astype(dtype), a=a, b=b, reg=reg, reg_m=reg_m, reg_type="entropy")
        assert bool(result.converged)
        assert np.abs(result.plan.numpy() - expected).max() <= tolerance


def test_large_relaxation_converges_fast() -> None:
    """lam / eps = 20,000: plain scaling needs some 100,000 sweeps."""
    cost, a, b = problem(8, 15, 15)
    result = solve(cost=cost, a=2 * a, b=b, reg=0.05, reg_m=1000.0)
    assert bool(result.converged)
    assert int(result.n_iter) <= 500
    assert float(result.mass) == pytest.approx(math.sqrt(2), abs=1e-2)


def test_zero_mass_rows_and_columns_carry_nothing() -> None:
    cost, a, b = problem(2, 8, 6)
    a[[0, 3]], b[5] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    keep_a, keep_b = np.flatnonzero(a), np.flatnonzero(b)
    for reg_m in (None, 0.5):
        for reg_type in ("kl", "entropy"):
            whole = solve(cost=cost, a=a, b=b, reg=0.1, reg_m=reg_m, reg_type=reg_type)
            part = solve(
                cost=cost[np.ix_(keep_a, keep_b)], a=a[keep_a], b=b[keep_b], reg=0.1, reg_m=reg_m, reg_type=reg_type
            )
            assert float(whole.plan[[0, 3]].abs().max()) == 0
            assert float(whole.plan[:, 5].abs().max()) == 0
            assert float((whole.plan[keep_a][:, keep_b] - part.plan).abs().max()) <= 1e-9
            assert float(whole.value) == pytest.approx(float(part.value), abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1), (1, 1)])
def test_one_row_or_one_column(n: int, m: int) -> None:
    cost, a, b = problem(4, n, m)
    assert np.abs(solve(cost=cost, a=a, b=b, reg=0.05).plan.numpy() - np.outer(a, b)).max() <= 1e-9
    expected = pot_plan(cost, a, b, 0.1, 0.3, "kl")
    assert np.abs(solve(cost=cost, a=a, b=b, reg=0.1, reg_m=0.3).plan.numpy() - expected).max() <= 1e-8


def test_duplicated_points_share_the_mass_of_one() -> None:
    """The "kl" reference makes a plan invariant to splitting a point in two."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(6, 2))
    one = solve(x, y, reg=0.1, reg_m=0.5)
    a = np.full(6, 0.2)
    a[[0, 5]] = 0.1
    two = solve(np.vstack([x, x[:1]]), y, a=a, reg=0.1, reg_m=0.5)
    assert float((two.plan[0] + two.plan[5] - one.plan[0]).abs().max()) <= 1e-9
    assert float((two.plan[1:5] - one.plan[1:]).abs().max()) <= 1e-9


@pytest.mark.parametrize("reg_m", [None, (math.inf, 0.2), 0.3])
def test_a_padded_list_equals_one_by_one(reg_m: object) -> None:
    problems = [problem(seed) for seed in range(12)]
    costs, a, b = (list(column) for column in zip(*problems, strict=True))
    together = solve(cost=costs, a=a, b=b, reg=0.05, reg_m=reg_m)
    assert len(together) == 12
    for k, (cost, mass_a, mass_b) in enumerate(problems):
        alone = solve(cost=cost, a=mass_a, b=mass_b, reg=0.05, reg_m=reg_m)
        assert together[k].plan.shape == cost.shape
        assert float((together[k].plan - alone.plan).abs().max()) <= 1e-9
        assert float(together.value[k]) == pytest.approx(float(alone.value), abs=1e-9)


def test_regularization_per_problem() -> None:
    costs = torch.as_tensor(np.stack([problem(seed, 6, 5)[0] for seed in range(3)]))
    reg = torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64)
    together = solve(cost=costs, reg=reg, reg_m=0.5)
    for k in range(3):
        alone = solve(cost=costs[k], reg=float(reg[k]), reg_m=0.5)
        assert float((together[k].plan - alone.plan).abs().max()) <= 1e-9


def test_shared_column_mass_and_no_column_constraint() -> None:
    """tau_b = 0 with the "kl" reference: each row is a softmax weighted by b."""
    cost = torch.as_tensor(np.stack([problem(seed, 6, 5)[0] for seed in range(3)]))
    a, b = torch.full((3, 6), 1 / 6, dtype=torch.float64), torch.full((1, 5), 0.2, dtype=torch.float64)
    dual = sinkhorn(cost, a, b, 0.1, tau_a=1.0, tau_b=0.0)
    logits = (dual.f[:, :, None] + dual.g[:, None, :] - cost) / 0.1 + a.log()[:, :, None] + b.log()[:, None, :]
    assert torch.allclose(logits.exp(), torch.softmax(-cost / 0.1, dim=2) / 6, atol=1e-10)
    assert bool(dual.converged.all())


PADDING = [0.0, 1e30, -1e30, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reg_type", ["kl", "entropy"])
@pytest.mark.parametrize("padding", PADDING)
def test_padding_of_any_cost_has_no_plan(padding: float, reg_type: str, dtype: torch.dtype) -> None:
    cost, a, b = (torch.as_tensor(array).to(dtype)[None] for array in problem(7, 5, 4))
    alone = sinkhorn(cost, a, b, 0.1, reg_m=(0.5, math.inf), reg_type=reg_type)
    padded = dataclasses.replace(
        alone,
        cost=torch.nn.functional.pad(cost, (0, 1, 0, 2), value=padding),
        **{name: torch.nn.functional.pad(getattr(alone, name), (0, 2)) for name in ("a", "f")},
        **{name: torch.nn.functional.pad(getattr(alone, name), (0, 1)) for name in ("b", "g")},
    )
    assert torch.equal(padded.log_plan()[:, :5, :4], alone.log_plan())
    assert bool((padded.log_plan()[:, 5:] == -math.inf).all())
    assert bool((padded.log_plan()[..., 4:] == -math.inf).all())
    assert torch.equal(padded.plan().sum((1, 2)), torch.nn.functional.pad(alone.plan(), (0, 1, 0, 2)).sum((1, 2)))
    assert torch.equal(padded.to_result().plan, padded.plan())


@pytest.mark.parametrize("padding", [0.0, 1e3, -1e3, math.inf])
@pytest.mark.parametrize("reg_m", [(math.inf, math.inf), (0.5, math.inf), (0.5, 2.0)])
def test_padding_does_not_change_the_solution(reg_m: tuple[float, float], padding: float) -> None:
    cost, a, b = (torch.as_tensor(array)[None] for array in problem(7, 5, 4))
    alone = sinkhorn(cost, a, b, 0.1, reg_m=reg_m)
    padded = sinkhorn(
        torch.nn.functional.pad(cost, (0, 1, 0, 2), value=padding),
        torch.nn.functional.pad(a, (0, 2)),
        torch.nn.functional.pad(b, (0, 1)),
        0.1,
        reg_m=reg_m,
    )
    assert torch.allclose(padded.plan()[:, :5, :4], alone.plan(), atol=1e-9)
    assert float(padded.plan()[:, 5:].sum() + padded.plan()[..., 4:].sum()) == 0


def test_relaxations_per_problem_agree_with_pot() -> None:
    """Relaxations are numbers or one per problem, in units of the cost; 0 leaves a marginal free."""
    reg, rows = 0.1, torch.tensor([0.05, 0.7, 20.0], dtype=torch.float64)
    problems = [problem(seed, 6, 5) for seed in range(3)]
    cost, a, b = (torch.as_tensor(np.stack(arrays)) for arrays in zip(*problems, strict=True))
    potentials = sinkhorn(cost, a, b, reg, reg_m=(rows, 0.3))
    result = potentials.to_result()
    assert torch.equal(result.plan, potentials.plan())
    assert torch.equal(result.reg_m[0], rows)
    assert float(result.marginal_error.max()) <= 1e-6
    for k, arrays in enumerate(problems):
        expected = pot_plan(*arrays, reg, (float(rows[k]), 0.3), "kl")
        assert np.abs(potentials.plan()[k].numpy() - expected).max() <= 1e-6
        alone = solve(cost=arrays[0], a=arrays[1], b=arrays[2], reg=reg, reg_m=(float(rows[k]), 0.3))
        for name in ("value", "cost", "mass", "marginal_error"):
            assert float(getattr(result[k], name)) == pytest.approx(float(getattr(alone, name)), abs=1e-9)
            assert float(getattr(result, name)[k]) == pytest.approx(float(getattr(alone, name)), abs=1e-9)
    free = sinkhorn(cost, a, b, reg, reg_m=(math.inf, 0.0)).plan()
    assert torch.allclose(free, torch.softmax(b.log()[:, None, :] - cost / reg, dim=2) * a[:, :, None], atol=1e-10)


def test_relaxations_are_those_of_tau() -> None:
    cost, a, b = (torch.as_tensor(array)[None] for array in problem(4, 9, 7))
    by_tau = sinkhorn(cost, a, b, 0.1, 0.5 / 0.6, 2.0 / 2.1)
    by_lambda = sinkhorn(cost, a, b, 0.1, reg_m=(0.5, 2.0))
    assert torch.allclose(by_tau.plan(), by_lambda.plan(), atol=1e-8)
    assert [float(lam) for lam in by_lambda.reg_m] == [0.5, 2.0]
    assert [float(lam) for lam in by_tau.reg_m] == pytest.approx([0.5, 2.0])
    hard = sinkhorn(cost, a, b, 0.1, reg_m=(math.inf, math.inf))
    assert torch.equal(hard.f, sinkhorn(cost, a, b, 0.1).f)
    for taus in ((0.5,), (1.0, 0.5), (1.0, torch.ones(1))):
        with pytest.raises(ValueError, match="either reg_m or tau"):
            sinkhorn(cost, a, b, 0.1, *taus, reg_m=(0.5, 2.0))


def test_warm_start_from_the_solution_needs_one_look() -> None:
    cost, a, b = problem(6, 15, 12)
    cold = solve(cost=cost, a=a, b=b, reg=0.02, reg_m=(math.inf, 0.2))
    assert cold.f is not None
    assert cold.g is not None
    warm = solve(cost=cost, a=a, b=b, reg=0.02, reg_m=(math.inf, 0.2), init=(cold.f, cold.g))
    assert int(warm.n_iter) < int(cold.n_iter)
    assert int(warm.n_iter) <= 10
    assert float((warm.plan - cold.plan).abs().max()) <= 1e-8


def test_kernel_underflow_falls_back_to_the_log_domain() -> None:
    """Costs of 10^5 eps without eps scaling: every entry of exp(-C / eps) is zero."""
    cost = torch.tensor([[[1e3, 2e3], [2e3, 1e3]]], dtype=torch.float64)
    a = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    dual = sinkhorn(cost, a, a, 0.01)
    plan = 0.25 * torch.exp((dual.f[:, :, None] + dual.g[:, None, :] - cost) / 0.01)
    assert torch.allclose(plan, torch.tensor([[[0.5, 0.0], [0.0, 0.5]]], dtype=torch.float64), atol=1e-9)


def test_forbidden_pairs_stay_empty() -> None:
    cost, a, b = problem(9, 6, 6)
    mask = np.zeros((6, 6), bool)
    mask[0, :3] = True
    result = solve(cost=cost, a=a, b=b, reg=0.1, penalty=mask)
    assert float(result.plan[0, :3].max()) == 0
    assert float(result.marginal_error) <= 1e-6
    dear = solve(cost=cost + 50.0 * mask, a=a, b=b, reg=0.1)
    assert float((result.plan - dear.plan).abs().max()) <= 1e-9
    mask[0] = True
    relaxed = solve(cost=cost, a=a, b=b, reg=0.1, reg_m=0.5, penalty=mask)
    assert float(relaxed.plan[0].sum()) == 0
    assert bool(relaxed.plan.isfinite().all())
    with pytest.raises(ValueError, match="Every pair of entry"):
        solve(cost=cost, a=a, b=b, reg=0.1, penalty=mask)


def test_one_warning_with_advice_when_not_converged() -> None:
    problems = [problem(seed, 20, 20) for seed in range(3)]
    with pytest.warns(RuntimeWarning, match="raise reg") as caught:
        result = solve(cost=[p[0] for p in problems], reg=1e-3, max_iter=20)
    assert len(caught) == 1
    assert "3 of 3" in str(caught[0].message)
    assert not bool(result.converged.any())


_SEEDS = st.integers(0, 10_000)
_REGS = st.sampled_from([0.03, 0.1, 1.0])
_RELAX = st.sampled_from([None, 0.1, 2.0])
_FAST = settings(max_examples=25, deadline=None)


def _solve(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, reg: float, reg_m: float | None, kind: str = "kl"
) -> OTResult:
    return solve(cost=cost, a=a, b=b, reg=reg, reg_m=reg_m, reg_type=kind)


@_FAST
@given(_SEEDS, _REGS, _RELAX, st.sampled_from(["kl", "entropy"]))
def test_transposed_problem_has_the_transposed_plan(seed: int, reg: float, reg_m: float | None, kind: str) -> None:
    cost, a, b = problem(seed)
    plan, back = _solve(cost, a, b, reg, reg_m, kind).plan, _solve(cost.T, b, a, reg, reg_m, kind).plan
    assert float((plan - back.mT).abs().max()) <= 1e-7


@_FAST
@given(_SEEDS, _REGS, _RELAX)
def test_permuted_rows_permute_the_plan(seed: int, reg: float, reg_m: float | None) -> None:
    cost, a, b = problem(seed)
    order = np.random.default_rng(seed).permutation(len(a))
    plan, moved = _solve(cost, a, b, reg, reg_m).plan, _solve(cost[order], a[order], b, reg, reg_m).plan
    assert float((plan[order] - moved).abs().max()) <= 1e-8


@_FAST
@given(_SEEDS, _REGS, _RELAX)
def test_plan_is_a_measure_of_at_most_the_given_mass(seed: int, reg: float, reg_m: float | None) -> None:
    """With a cost >= 0 and the "kl" reference, destroying mass is never beaten by creating it."""
    cost, a, b = problem(seed)
    result = _solve(cost, a, b, reg, reg_m)
    assert bool((result.plan >= 0).all())
    assert float(result.mass) <= 1 + 1e-9
    assert float(result.marginal_error) <= 1e-6


@_FAST
@given(_SEEDS, _REGS)
def test_more_relaxation_moves_less_mass(seed: int, reg: float) -> None:
    cost, a, b = problem(seed)
    masses = [float(_solve(cost, a, b, reg, reg_m).mass) for reg_m in (0.05, 0.5, 5.0, None)]
    assert masses == sorted(masses)


@_FAST
@given(_SEEDS, st.floats(0.1, 10.0))
def test_scaling_cost_and_reg_together_changes_nothing(seed: int, by: float) -> None:
    cost, a, b = problem(seed)
    plain, scaled = _solve(cost, a, b, 0.1, 0.5).plan, _solve(by * cost, a, b, by * 0.1, by * 0.5).plan
    assert float((plain - scaled).abs().max()) <= 1e-8
