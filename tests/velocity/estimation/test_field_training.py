"""The fit: truth on simulated data, units, penalties, calibrated members, determinism, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from muport.datasets import simulated_dynamics
from muport.neighbors import knn
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._field import jacobian
from muport.velocity.estimation._field_training import FieldFit, _AdamW, fit_field
from muport.velocity.estimation._raw_velocity import RawVelocity, estimate_raw_velocity
from muport.velocity.estimation._windows import pair_time_windows


def simulated(kind: str = "bifurcation", n: int = 2_000, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    adata = simulated_dynamics(kind, n, **options)
    return adata.obsm["X_pca"], adata.obs["time"].to_numpy(), adata.obsm["velocity"]


def raw_of(x: np.ndarray, time: np.ndarray) -> RawVelocity:
    return estimate_raw_velocity(x, time, pair_time_windows(time))


def at(fit: FieldFit, x: np.ndarray, time: np.ndarray) -> np.ndarray:
    return fit.field()(torch.from_numpy(np.array(x)), torch.from_numpy(time.astype(np.float32))).numpy()


@pytest.mark.parametrize("kind", ["linear", "bifurcation", "trifurcation", "cycle"])
def test_field_is_the_truth_in_direction_and_magnitude(kind):
    x, time, truth = simulated(kind)
    velocity = at(fit_field(x, time, raw_of(x, time)), x, time)
    norm, true_norm = np.linalg.norm(velocity, axis=1), np.linalg.norm(truth, axis=1)
    cosine = (velocity * truth).sum(1) / (norm * true_norm)
    assert cosine.mean() > 0.98
    assert np.quantile(cosine, 0.05) > 0.9
    assert np.median(np.abs(norm / true_norm - 1)) < 0.08


def test_the_mean_over_the_gap_is_fitted_not_the_middle():
    """On a closed curve a difference over a gap is short; the field fitted to its mean is less so."""
    x, time, truth = simulated("cycle")
    raw = raw_of(x, time)
    true_norm, settings = np.linalg.norm(truth, axis=1), VelocityHyperparameters(n_bootstrap=0)
    known, unknown = (
        np.median(np.linalg.norm(at(fit_field(x, time, given, settings), x, time), axis=1) / true_norm)
        for given in (raw, replace(raw, midpoint=None))
    )
    assert unknown + 0.01 < known < 1.02
    assert known > 0.965


def test_members_cover_the_truth():
    """Share of the velocity's coordinates within two standard deviations of the members: .95 if all error is noise."""
    shares = []
    for seed in (0, 1):
        x, time, truth = simulated("linear", 1_000, n_dims=20, noise=0.5, random_state=seed)
        fit = fit_field(x, time, raw_of(x, time), VelocityHyperparameters(random_state=seed))
        members = fit.field().members(torch.from_numpy(x.copy()), torch.from_numpy(time.astype(np.float32))).numpy()
        shares.append((np.abs(at(fit, x, time) - truth) <= 2 * members.std(axis=0)).mean())
    assert 0.85 < np.mean(shares) < 0.99


@pytest.mark.parametrize("name", ["smooth", "curl", "divergence"])
def test_a_penalty_lowers_its_quantity(name):
    x, time, _ = simulated("cycle", 400, n_dims=5)
    raw, near = raw_of(x, time), knn(x, 10).indices
    points, when = torch.from_numpy(x.copy()), torch.from_numpy(time.astype(np.float32))

    def quantity(weight: float) -> float:
        settings = VelocityHyperparameters(n_steps=60, n_bootstrap=0, **{f"lambda_{name}": weight})
        fit = fit_field(x, time, raw, settings, neighbors=near)
        assert (name in fit.history) == (weight > 0)
        field = fit.field()
        if name == "smooth":
            v = field(points, when)
            return float((v[:, None] - v[near]).square().mean())
        jac = jacobian(field, points, when)
        if name == "curl":
            return float((jac - jac.mT).square().sum((1, 2)).mean())
        return float(jac.diagonal(dim1=1, dim2=2).sum(1).square().mean())

    none, some, more = (quantity(weight) for weight in (0.0, 0.3, 10.0))
    assert none > some > more


def test_same_seed_same_bits_and_global_state_untouched():
    x, time, _ = simulated(n=400, n_dims=5)
    raw = raw_of(x, time)
    before, threads, calls = torch.get_rng_state(), torch.get_num_threads(), []
    one, two, other = (
        fit_field(x, time, raw, VelocityHyperparameters(n_steps=30, random_state=seed), progress=calls.append)
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert calls == list(range(1, 31)) * 3
    for name, value in one.state.items():
        np.testing.assert_array_equal(value, two.state[name])
    assert (one.state["last.weight"] != other.state["last.weight"]).any()


def test_field_turns_with_the_coordinates():
    """The input scale does not see how coordinates are turned: the fit is as good in any frame."""
    x, time, truth = simulated(n=1_000, n_dims=8)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    scales = [
        fit_field(y, time, raw_of(y, time), VelocityHyperparameters(n_steps=2)).state["x_scale"] for y in (x, x @ turn)
    ]
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)


def test_cells_without_velocity_are_left_out():
    x, time, _ = simulated(n=400, n_dims=5)
    raw = raw_of(x, time)
    weight = np.where(np.arange(400) < 200, raw.weight, 0).astype(np.float32)
    spoilt = np.where(weight[:, None] > 0, raw.velocity, 1e6).astype(np.float32)
    one, two = (
        fit_field(x, time, replace(raw, velocity=v, weight=weight), VelocityHyperparameters(n_steps=20))
        for v in (raw.velocity, spoilt)
    )
    np.testing.assert_array_equal(one.state["last.weight"], two.state["last.weight"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lambda_smooth": 1.0}, "lambda_smooth needs neighbors"),
        ({"lr": 1e30, "n_steps": 20}, "loss is not finite"),
    ],
)
def test_bad_input(options, match):
    x, time, _ = simulated(n=200, n_dims=5)
    with pytest.raises(ValueError, match=match):
        fit_field(x, time, raw_of(x, time), VelocityHyperparameters(**options))
    nothing = RawVelocity(*(np.zeros_like(x), *np.zeros((3, 200), np.float32)), np.zeros(200, np.int64), 1.0)
    with pytest.raises(ValueError, match="covers no cell"):
        fit_field(x, time, nothing)


@pytest.mark.parametrize("n_steps", [2, 7, 40])
def test_steps_are_those_of_torch_under_its_one_cycle(n_steps):
    def parameters() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4, 3), (4,))]

    ours, theirs = parameters(), parameters()
    optimizer = torch.optim.AdamW(theirs, lr=0.05, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=n_steps)
    own = _AdamW(ours, 0.05, n_steps)
    for step in range(n_steps):
        own.step(torch.autograd.grad(sum((one - step).square().sum() for one in ours), ours))
        optimizer.zero_grad()
        sum((one - step).square().sum() for one in theirs).backward()
        optimizer.step()
        if step + 1 < n_steps:
            schedule.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
