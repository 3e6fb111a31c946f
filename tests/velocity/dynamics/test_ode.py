"""Deterministic paths along analytic fields against SciPy and closed forms."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

from muport.velocity.dynamics._ode import integrate
from muport.velocity.dynamics._paths import StopReason
from muport.velocity.dynamics._sde import simulate

SPIRAL = torch.tensor([[-0.5, 2.0], [-2.0, -0.3]], dtype=torch.float64)
STARTS = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def driven(x: Tensor, t: Tensor) -> Tensor:
    """A spiral pushed by a force that depends on time."""
    return x @ SPIRAL.T.to(x) + torch.sin(3 * t)[:, None] * x.new_tensor([1.0, 0.0])


@cache
def truth(t0: float, t1: float, n_points: int) -> np.ndarray:
    def one(t: float, x: np.ndarray) -> np.ndarray:
        return SPIRAL.numpy() @ x + np.array([np.sin(3 * t), 0.0])

    grid = np.linspace(t0, t1, n_points)
    return np.stack([solve_ivp(one, (t0, t1), x, t_eval=grid, rtol=1e-10, atol=1e-12).y.T for x in STARTS.numpy()])


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 4.0), (1.0, -1.0)])
@pytest.mark.parametrize(
    ("method", "tolerance", "error"), [("rk4", {}, 1e-5), ("dopri5", {}, 1e-3), ("dopri5", {"rtol": 1e-8}, 2e-5)]
)
def test_every_point_is_that_of_scipy(t0: float, t1: float, method: Any, tolerance: Any, error: float) -> None:
    paths = integrate(driven, STARTS, t0, t1, n_steps=100, method=method, **tolerance)
    assert np.abs(paths.x - truth(t0, t1, 101)).max() < error
    assert np.allclose(paths.time[0], np.linspace(t0, t1, 101), atol=1e-6)
    assert (paths.length == 101).all()
    assert (paths.stopped == StopReason.END).all()
    assert paths.x.dtype == np.float32


def test_order_of_rk4_is_four() -> None:
    end = truth(0.0, 4.0, 2)[:, -1]
    errors = [np.abs(integrate(driven, STARTS, 0.0, 4.0, n_steps=n).ends - end).mean() for n in (20, 40, 80)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.abs(orders - 4).max() < 0.25


def test_error_of_dopri5_follows_its_tolerance_and_each_path_has_its_own_step() -> None:
    rates = torch.tensor([[0.1], [1.0], [30.0]], dtype=torch.float64)
    calls: list[int] = []

    def decay(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return -rates[-len(x) :] * x if len(x) < 3 else -rates * x

    paths = integrate(decay, torch.ones_like(rates), 0.0, 1.0, n_steps=4, method="dopri5")
    exact = np.exp(-rates.numpy() * np.linspace(0, 1, 5))
    assert np.abs(paths.x[..., 0] - exact).max() < 1e-3
    assert min(calls) == 1  # the slow ones were done before the fast one
    assert sum(calls) < 3 * len(calls)
    end = truth(0.0, 4.0, 2)[:, -1]
    errors = [
        np.abs(integrate(driven, STARTS, 0.0, 4.0, method="dopri5", rtol=r, atol=r).ends - end).max()
        for r in (1e-3, 1e-5)
    ]
    assert 20 < errors[0] / errors[1] < 2000


def test_dense_output_is_of_order_four() -> None:
    """A long step over a polynomial of degree 4 in time is exact at every point in between."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return (4 * t**3 - 3 * t**2 + 2 * t - 1)[:, None].expand_as(x)

    paths = integrate(field, torch.zeros(1, 1, dtype=torch.float64), 0.0, 2.0, n_steps=50, method="dopri5", rtol=1e3)
    t = np.linspace(0, 2, 51)
    assert np.abs(paths.x[0, :, 0] - (t**4 - t**3 + t**2 - t)).max() < 1e-5


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_forward_then_backward_returns(method: Any) -> None:
    start = STARTS.float().numpy()
    end = integrate(driven, start, 0.0, 3.0, method=method).ends
    assert np.abs(integrate(driven, end, 3.0, 0.0, method=method).ends - start).max() < 1e-3


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_each_path_has_its_own_span(method: Any) -> None:
    """x(t1) = t1 - t0 in the field 1; a path of no span is its start; time frozen at t0 is what the field sees."""
    t0, t1 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    paths = integrate(lambda x, t: torch.ones_like(x), np.zeros((3, 1)), t0, t1, n_steps=20, method=method)
    assert np.allclose(paths.ends[:, 0], t1 - t0, atol=1e-5)
    assert paths.length.tolist() == [21, 1, 21]
    frozen = integrate(
        lambda x, t: t[:, None], np.zeros((3, 1)), t0, t0 + 1, n_steps=20, method=method, evolve_time=False
    )
    assert np.allclose(frozen.ends[:, 0], t0, atol=1e-5)
    evolving = integrate(lambda x, t: t[:, None], np.zeros((3, 1)), t0, t0 + 1, n_steps=20, method=method)
    assert np.allclose(evolving.ends[:, 0], t0 + 0.5, atol=1e-5)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_rule_ends_a_path_at_the_first_point_it_names(method: Any) -> None:
    def stop(x: Tensor, t: Tensor) -> Tensor:
        beyond = x[:, 0] > 0.549
        return torch.where(beyond, torch.where(x[:, 1] > 0, StopReason.TARGET, StopReason.OFF_MANIFOLD), 0)

    field = torch.tensor([1.0, 0.0])
    starts = np.array([[0.0, 1.0], [0.0, -1.0], [-9.0, 0.0]])
    paths = integrate(lambda x, t: field.expand_as(x), starts, 0.0, 1.0, n_steps=100, method=method, stop=stop)
    assert paths.length.tolist() == [56, 55, 101]
    assert paths.stopped.tolist() == [StopReason.TARGET, StopReason.OFF_MANIFOLD, StopReason.END]
    assert np.allclose(paths.ends[:, 0], [0.55, 0.54, -8.0], atol=1e-5)
    assert (paths.x[0, 56:] == paths.x[0, 55]).all()
    assert np.allclose(paths.time[0, 55:], 0.55)


@pytest.mark.parametrize("run", ["rk4", "dopri5", "sde"])
@pytest.mark.parametrize("kind", ["square", "hole", "nan", "start"])
def test_a_field_that_blows_up_ends_its_path_and_no_other(run: str, kind: str) -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        assert bool(x.isfinite().all())
        bad = {"square": x**2, "hole": torch.sqrt(1.5 - x) + 1, "nan": torch.where(x > 1.2, torch.nan, 1.0)}
        v = bad.get(kind, torch.full_like(x, torch.inf))
        return torch.where(x > 0, v, -x)

    starts = np.array([[1.0], [-1.0]])
    if run == "sde":
        paths = simulate(field, starts, 0.0, 4.0, n_steps=200, diffusion=1e-8)
    else:
        paths = integrate(field, starts, 0.0, 4.0, method=run)  # type: ignore[arg-type]
    assert np.isfinite(paths.x).all()
    assert np.isfinite(paths.time).all()
    assert paths.stopped[0] in {StopReason.NOT_FINITE, StopReason.STEP_LIMIT}
    assert paths.length[0] < 201
    assert paths.stopped[1] == StopReason.END
    assert paths.ends[1, 0] == pytest.approx(-np.exp(-4), abs=2e-3)


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        integrate(lambda x, t: x / (1 // 0), np.ones((1, 1)), 0.0, 1.0)
    assert torch.get_num_threads() == before


@settings(max_examples=25, deadline=None)
@given(
    t0=st.floats(-5, 5),
    span=st.floats(-3, 3),
    rate=st.floats(-2, 2),
    n_steps=st.integers(20, 60),
    method=st.sampled_from(["rk4", "dopri5"]),
)
def test_exponentials(t0: float, span: float, rate: float, n_steps: int, method: Any) -> None:
    start = np.array([[1.0], [-3.0]])
    end = integrate(lambda x, t: rate * x, start, t0, t0 + span, n_steps=n_steps, method=method).ends
    assert np.allclose(end, start * np.exp(rate * span), rtol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": np.ones(3)}, "x0 has shape"),
        ({"x0": np.array([[np.nan]])}, "NaN"),
        ({"t1": np.ones(2)}, "t1 has shape"),
        ({"t0": np.inf}, "t0 has a NaN"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"method": "euler"}, "'dopri5'"),
        ({"rtol": 0.0}, "rtol"),
        ({"field": lambda x, t: x[:, :1].repeat(1, 3)}, "returned shape"),
    ],
)
def test_bad_input_of_integrate(change: dict[str, Any], message: str) -> None:
    given = {"field": lambda x, t: x, "x0": np.ones((1, 1)), "t0": 0.0, "t1": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        integrate(given.pop("field"), given.pop("x0"), given.pop("t0"), given.pop("t1"), **given)
