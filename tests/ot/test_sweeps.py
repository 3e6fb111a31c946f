"""The sweeps of the Sinkhorn core: optimality, residual, number, and kernels that leave the range of their type."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from muport.ot import Potentials, _sinkhorn, sinkhorn

RELAXATIONS = [(math.inf, math.inf), (0.5, math.inf), (math.inf, 0.5), (0.3, 2.0), (20.0, 20.0), (0.0, math.inf)]
REG_TYPES = ["kl", "entropy"]


def batch(seed: int, count: int, n: int, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squared distances between random points, and random masses of sum 1."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, n, 1, 2)), rng.normal(size=(count, 1, m, 2)) + 0.5
    a, b = rng.random((count, n)) + 0.1, rng.random((count, m)) + 0.1
    cost, a, b = ((x - y) ** 2).sum(-1), a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
    return torch.as_tensor(cost), torch.as_tensor(a), torch.as_tensor(b)


def padded(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Add a row and a column without mass, which are forbidden, at the start of every problem."""
    pad = torch.nn.functional.pad
    return pad(cost, (1, 0, 1, 0), value=math.inf), pad(a, (1, 0)), pad(b, (1, 0))


def plain_update(solved: Potentials, k: int, f: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Update the potentials f and then g of problem `k` by Eq. 4 of scBIOT in the log domain."""
    cost, a, b, reg = (value[k].double().numpy() for value in (solved.cost, solved.a, solved.b, solved.reg))
    lam_a, lam_b = (float(lam[k]) for lam in solved.reg_m)
    tau_a, tau_b = (1.0 if math.isinf(lam) else lam / (lam + reg) for lam in (lam_a, lam_b))
    log_a, log_b = np.log(a), np.log(b)
    if solved.reg_type == "entropy":
        f = reg * tau_a * (log_a - logsumexp((g - cost) / reg, axis=1))
        return f, reg * tau_b * (log_b - logsumexp((f[:, None] - cost) / reg, axis=0))
    f = -reg * tau_a * logsumexp((g - cost) / reg + log_b, axis=1)
    return f, -reg * tau_b * logsumexp((f[:, None] - cost) / reg + log_a[:, None], axis=0)


def change(solved: Potentials, k: int) -> float:
    """Largest change of a potential of problem `k` by one plain update of both, divided by eps."""
    f, g = solved.f[k].double().numpy(), solved.g[k].double().numpy()
    new_f, new_g = plain_update(solved, k, f, g)
    return float(max(np.abs(new_f - f).max(), np.abs(new_g - g).max()) / float(solved.reg[k]))


@pytest.mark.parametrize("reg_type", REG_TYPES)
@pytest.mark.parametrize("reg_m", RELAXATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_easy_and_hard_problems_of_one_batch_are_solved(
    dtype: torch.dtype, reg_m: tuple[float, float], reg_type: str
) -> None:
    """Costs of 1 to 3,000 eps: the kernels of the hard problems underflow, those of the others do not."""
    cost, a, b = (value.to(dtype) for value in batch(1, 5, 4, 6))
    sizes = torch.tensor([3e3, 1.0, 300.0, 20.0, 1e3], dtype=dtype)[:, None, None]
    problems = cost / cost.amax((1, 2), keepdim=True) * sizes, a, b
    solved = sinkhorn(*problems, 1.0, reg_m=reg_m, reg_type=reg_type, max_iter=20_000)
    assert bool(solved.converged.all())
    # the same problems in another order, with a row and a column without mass
    moved = sinkhorn(
        *padded(*(value.flip(0) for value in problems)), 1.0, reg_m=reg_m, reg_type=reg_type, max_iter=20_000
    )
    assert bool(moved.f.isfinite().all() & moved.g.isfinite().all())
    for k in range(5):
        precision = 10 * torch.finfo(dtype).eps * float(sizes[k]) + (1e-8 if dtype == torch.float64 else 1e-4)
        assert change(solved, k) <= precision
        assert torch.allclose(moved.plan()[4 - k, 1:, 1:], solved.plan()[k], atol=5 * precision)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(RELAXATIONS),
    st.sampled_from(REG_TYPES),
    st.sampled_from([0.02, 0.1, 1.0]),
    st.sampled_from([1e-2, 1e-5, 1e-9]),
)
def test_a_converged_problem_is_changed_by_no_more_than_the_tolerance(
    seed: int, reg_m: tuple[float, float], reg_type: str, reg: float, tol: float
) -> None:
    solved = sinkhorn(*batch(seed, 3, 5, 7), reg, reg_m=reg_m, reg_type=reg_type, tol=tol, max_iter=10_000)
    assert torch.equal(solved.converged, solved.residual <= tol)
    assert bool(solved.converged.all())
    for k in range(3):
        assert change(solved, k) <= 2 * tol


@pytest.mark.parametrize("eps_scaling", [None, 0.5, 0.2])
@pytest.mark.parametrize("max_iter", [1, 7, 25, 40])
def test_no_problem_gets_more_sweeps_than_allowed(eps_scaling: float | None, max_iter: int) -> None:
    cost, a, b = batch(4, 3, 20, 20)
    solved = sinkhorn(cost, a, b, 0.01, eps_scaling=eps_scaling, max_iter=max_iter)
    assert solved.n_iter.tolist() == [max_iter] * 3
    assert not bool(solved.converged.any())
    assert bool((solved.residual > 1e-9).all())
    assert bool(solved.residual.isfinite().all())


def test_the_first_sweep_is_the_plain_update() -> None:
    # two large relaxations are left out: there the core adds a constant to one side and subtracts it from the other
    for reg_m in RELAXATIONS:
        if reg_m == (20.0, 20.0):
            continue
        for reg_type in REG_TYPES:
            cost, a, b = batch(5, 2, 6, 4)
            solved = sinkhorn(cost, a, b, 1.0, reg_m=reg_m, reg_type=reg_type, max_iter=1)
            for k in range(2):
                f, g = plain_update(solved, k, np.zeros(6), np.zeros(4))
                assert np.allclose(solved.f[k], f)
                assert np.allclose(solved.g[k], g)
                assert float(solved.residual[k]) == pytest.approx(max(np.abs(f).max(), np.abs(g).max()))


@pytest.mark.parametrize("reg_m", RELAXATIONS)
def test_a_problem_of_a_batch_gets_the_sweeps_it_needs(reg_m: tuple[float, float]) -> None:
    cost, a, b = batch(6, 7, 9, 8)
    cost = cost * torch.tensor([1, 0.2, 1.5, 0.1, 3, 2, 1], dtype=torch.float64)[:, None, None]
    together = sinkhorn(cost, a, b, 0.2, reg_m=reg_m, tol=1e-6)
    in_chunks = sinkhorn(cost, a, b, 0.2, reg_m=reg_m, tol=1e-6, chunk_size=2)
    for k in range(7):
        alone = sinkhorn(cost[k : k + 1], a[k : k + 1], b[k : k + 1], 0.2, reg_m=reg_m, tol=1e-6)
        for solved in (together, in_chunks):
            assert abs(int(solved.n_iter[k]) - int(alone.n_iter)) <= 10
            assert torch.allclose(solved.f[k], alone.f[0], atol=1e-4)
            assert torch.allclose(solved.g[k], alone.g[0], atol=1e-4)


@pytest.mark.parametrize(
    ("reg_m", "reg_type", "eps_scaling", "dtype", "measured"),
    [
        ((math.inf, math.inf), "kl", None, torch.float64, 7270),
        ((math.inf, math.inf), "kl", 0.5, torch.float64, 6700),
        ((math.inf, math.inf), "kl", None, torch.float32, 5020),
        ((0.5, math.inf), "kl", None, torch.float64, 1440),
        ((20.0, 20.0), "kl", None, torch.float64, 5080),
        ((20.0, 20.0), "entropy", None, torch.float64, 5200),
        ((20.0, 5.0), "kl", 0.5, torch.float32, 4940),
    ],
)
def test_number_of_sweeps(
    reg_m: tuple[float, float], reg_type: str, eps_scaling: float | None, dtype: torch.dtype, measured: int
) -> None:
    """Over-relaxation and the translation of both potentials save sweeps: plain updates need 4 to 14 times as many."""
    cost, a, b = (value.to(dtype) for value in batch(8, 20, 15, 12))
    solved = sinkhorn(cost, a, b, 0.05, reg_m=reg_m, reg_type=reg_type, eps_scaling=eps_scaling)
    assert bool(solved.converged.all())
    # rounding on another machine moves the end of some problems by a block of 10 sweeps
    assert int(solved.n_iter.sum()) <= measured * (1.03 if dtype == torch.float64 else 1.1)


def test_a_cost_is_large_or_small_beside_the_reg_of_its_own_problem() -> None:
    cost, a, b = (value.float() for value in batch(9, 2, 4, 5))
    sizes, reg = torch.tensor([1e7, 1.0]), torch.tensor([1e7, 1.0])
    solved = sinkhorn(cost * sizes[:, None, None], a, b, reg)
    assert torch.allclose(solved.plan(), sinkhorn(cost, a, b, 1.0).plan(), atol=1e-5)
    with pytest.raises(ValueError, match=r"The largest cost, .*e\+0[78], .*reg=1 "):
        sinkhorn(cost * sizes[:, None, None], a, b, 1.0)
    # the cost of pairs without mass does not count, that of a pair of masses does
    cost[1, :, 0] = 1e9
    b[1, 0] = 0
    b[1] /= b[1].sum()
    assert float(sinkhorn(cost, a, b, 1.0).plan()[1, :, 0].max()) == 0
    cost[1, 0, 1] = torch.inf
    assert bool(sinkhorn(cost, a, b, 1.0).converged.all())
    cost[1, 1, 1] = 1e9
    with pytest.raises(ValueError, match="The largest cost"):
        sinkhorn(cost, a, b, 1.0)


@pytest.mark.parametrize(("n", "threads"), [(20, 1), (600, 2)])
def test_problems_with_short_sweeps_use_one_thread(monkeypatch: pytest.MonkeyPatch, n: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    def logged(*args: object) -> tuple[torch.Tensor, ...]:
        seen.append(torch.get_num_threads())
        return solve_chunk(*args)

    solve_chunk = _sinkhorn._solve_chunk
    monkeypatch.setattr(_sinkhorn, "_solve_chunk", logged)
    try:
        cost, a, b = batch(0, 1, n, n)
        sinkhorn(cost, a, b, reg=1.0, max_iter=10)
        assert (seen, torch.get_num_threads()) == ([threads], 2)
    finally:
        torch.set_num_threads(before)
