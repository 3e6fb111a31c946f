"""Trajectories and flows over a fork whose field is known."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from muport.neighbors import knn
from muport.velocity.dynamics._manifold import fit_manifold, interpolate_field
from muport.velocity.dynamics._path_clusters import Trajectories
from muport.velocity.dynamics._paths import StopReason, VectorField
from muport.velocity.dynamics._start_cells import ClusteredCells, FlowSource, StartCells
from muport.velocity.dynamics._trajectories import FlowOptions, TrajectoryOptions, flow_particles, trace_trajectories

LIFT = torch.from_numpy(np.linalg.qr(np.random.default_rng(5).normal(size=(30, 3)))[0]).float()


@cache
def fork(n: int = 2000, noise: float = 0.25) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells (30 dimensions, noise in all) of a stem that forks at time .4, their times, clusters and velocities."""
    rng = np.random.default_rng(0)
    t, side = rng.random(n), rng.choice([-1.0, 1.0], n)
    late = np.maximum(t - 0.4, 0)
    z = np.stack([10 * t, side * 12 * late**2, 1.5 * np.sin(5 * t)], axis=1)
    x = z @ LIFT.numpy().T + noise * rng.normal(size=(n, 30))
    labels = np.where(t < 0.5, "stem", np.where(side > 0, "up", "down"))
    dz = np.stack([np.full(n, 10.0), side * 24 * late, 7.5 * np.cos(5 * t)], axis=1)
    return x, t, labels, dz @ LIFT.numpy().T


def flow(x: Tensor, t: Tensor) -> Tensor:
    """The fork's field: which branch is the sign of the second coordinate, softly."""
    side = torch.tanh(x @ LIFT[:, 1] / 0.3)
    v = torch.stack([torch.full_like(t, 10.0), side * 24 * (t - 0.4).clamp(min=0), 7.5 * torch.cos(5 * t)], dim=1)
    return v @ LIFT.T


START = {"start_cells": "rows", "start_cluster": "cluster", "start_time": "time_min", "end_time": "time_max"}
SOURCE = {
    "source_cluster": "cluster", "source_time_min": "time_min", "source_time_max": "time_max",
    "embedding": "embedding", "source_x_lim": "x_lim", "source_y_lim": "y_lim",
}  # fmt: skip


def trace_among(
    x: np.ndarray, time: np.ndarray, labels: Any = None, field: VectorField | None = None, **options: Any
) -> Trajectories:
    start = StartCells(**{name: options.pop(key) for key, name in START.items() if key in options})
    cells = ClusteredCells.create(x, time, labels)
    return trace_trajectories(field or flow, cells, start, TrajectoryOptions(**options))


def trace(**options: Any) -> Trajectories:
    return trace_among(*fork()[:3], **options)


def off(result: Trajectories) -> np.ndarray:
    """Distance of each end to the nearest cell, in spacings."""
    return np.asarray(knn(fork()[0], 1, query=result.paths.ends).distances[:, 0] / result.spacing)


def test_spacing_is_the_median_distance_to_the_nearest_other_cell() -> None:
    x = fork()[0]
    gaps = cdist(x, x)
    np.fill_diagonal(gaps, np.inf)
    assert fit_manifold(x).spacing == pytest.approx(np.median(gaps.min(axis=0)), rel=1e-4)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_paths_from_the_root_divide_as_the_data_and_end_among_them(method: Any) -> None:
    result = trace(start_time=0.0, end_time=0.1, n_trajectories=200, method=method)
    t, labels = fork()[1:3]
    assert len(result.start_cell) == len(set(result.start_cell)) == len(result.paths.x)
    assert t[result.start_cell].max() <= 0.1
    late = labels[t > 0.8]
    for branch in ("up", "down"):
        assert abs((result.terminal == branch).mean() - (late == branch).mean()) < 0.08
    assert (result.origin == "stem").all()
    assert np.median(off(result)) < 1.3
    assert np.quantile(off(result), 0.9) < 1.5
    assert (result.paths.stopped == StopReason.TIME).all()
    assert np.allclose(result.paths.time[:, -1], t.max())
    assert [(v[0], v[-1]) for v in result.visited or ()] == [("stem", str(end)) for end in result.terminal]


@pytest.mark.parametrize("branch", ["up", "down"])
def test_a_branch_is_kept(branch: str) -> None:
    result = trace(start_cluster=branch, start_time=0.6, end_time=0.8, n_trajectories=300)
    assert (result.terminal == branch).mean() >= 0.99
    backward = trace(start_cluster=branch, n_trajectories=100, direction="backward")
    assert (backward.origin == "stem").mean() >= 0.99
    assert (backward.terminal == branch).all()


def test_forward_then_backward_is_the_way_back() -> None:
    x, t = fork()[:2]
    start = int(np.argmin(t))
    there = trace(start_cells=[start], step_size=0.01)
    end = there.paths.ends
    ended = np.concatenate([x, end])
    back = trace_among(
        ended, np.r_[t, there.paths.time[0, -1]], start_cells=[len(x)], direction="backward", step_size=0.01
    )
    assert np.abs(back.paths.ends - x[start]).max() < 1e-2


def majority(points: np.ndarray, x: np.ndarray, labels: np.ndarray) -> list[str]:
    """Most frequent label of the five nearest cells, of equally frequent ones that of the nearer cell."""
    near = np.linalg.norm(points[:, None] - x[None], axis=2).argsort(axis=1, kind="stable")[:, :5]
    # Counter keeps the order in which names came, and most_common that of equal counts
    return [Counter(labels[row].tolist()).most_common(1)[0][0] for row in near]


def test_paths_to_a_target_end_in_it() -> None:
    result = trace(start_cluster="stem", target_cluster="up", n_trajectories=15)
    x, _, labels, _ = fork()
    assert len(result.start_cell) == 15
    assert result.n_attempts > 15
    assert (result.terminal == "up").all()
    assert (result.paths.stopped == StopReason.TARGET).all()
    for path, n in zip(result.paths.x, result.paths.length, strict=True):
        names = majority(path[:n], x, labels)
        assert names[-1] == "up"
        assert "up" not in names[1:-1]
    back = trace(start_cluster="up", target_cluster="stem", direction="backward", n_trajectories=5)
    assert (back.origin == "stem").all()
    assert (back.terminal == "up").all()


def test_nearest_cells_and_visited_clusters_are_those_of_the_points() -> None:
    x, _, labels, _ = fork()
    result = trace(n_trajectories=3, start_time=0.0, end_time=0.2)
    for path, cell, start, visited in zip(
        result.paths.x, result.cell, result.start_cell, result.visited or (), strict=True
    ):
        nearest = np.linalg.norm(path[:, None] - x[None], axis=2).argmin(axis=1)
        assert np.array_equal(cell, nearest)
        assert cell[0] == start
        names = majority(path, x, labels)
        names[0] = labels[start]
        assert visited == tuple(name for i, name in enumerate(names) if i == 0 or name != names[i - 1])


def test_both_directions() -> None:
    result = trace(start_time=0.45, end_time=0.5, n_trajectories=7, direction="both")
    assert result.direction.tolist() == [1] * 7 + [-1] * 7
    assert result.start_cell[:7].tolist() == result.start_cell[7:].tolist()
    assert (np.diff(result.paths.time[:7], axis=1) >= 0).all()
    assert (np.diff(result.paths.time[7:], axis=1) <= 0).all()
    assert result.n_attempts == 14


@pytest.mark.parametrize(("scale", "shift"), [(24.0, 100.0), (0.1, -3.0)])
def test_paths_do_not_depend_on_the_unit_of_time(scale: float, shift: float) -> None:
    x, t, _, _ = fork()
    cells = np.flatnonzero(t < 0.3)[:10]
    one = trace(start_cells=cells)
    other = trace_among(
        x, scale * t + shift, field=lambda x, t: flow(x, (t - shift) / scale) / scale, start_cells=cells
    )
    assert np.allclose(one.paths.x, other.paths.x, atol=1e-3)
    assert np.allclose(scale * one.paths.time + shift, other.paths.time, atol=1e-3)


def test_a_step_is_the_fraction_of_the_mean_velocity() -> None:
    """In the field 1 and a range of 4 units of time a step of .05 is .2 long; the last one ends with the data."""
    t = np.linspace(0, 4, 401)
    result = trace_among(t[:, None], t, field=lambda x, t: torch.ones_like(x), start_cells=[0, 200], n_steps=8)
    assert result.paths.x.shape == (2, 9, 1)
    assert np.allclose(np.diff(result.paths.x[:, :, 0]), 0.2, atol=1e-5)
    assert result.paths.stopped.tolist() == [StopReason.END, StopReason.END]
    longer = trace_among(t[:, None], t, field=lambda x, t: torch.ones_like(x), start_cells=[0, 200])
    assert np.allclose(longer.paths.ends[:, 0], 4, atol=1e-5)
    assert longer.paths.stopped.tolist() == [StopReason.TIME, StopReason.TIME]


def test_frozen_time_goes_on_to_the_last_step() -> None:
    x = np.linspace(0, 10, 500)[:, None]
    t = x[:, 0] / 10
    result = trace_among(
        x, t, field=lambda x, t: (1 + t)[:, None], start_cells=[0, 100], n_steps=50, step_size=0.1, evolve_time=False
    )
    assert np.allclose(result.paths.ends[:, 0], [5, x[100, 0] + 5 * (1 + t[100])], atol=1e-3)
    assert (result.paths.stopped == StopReason.END).all()


def test_a_path_ends_before_it_leaves_the_data() -> None:
    away = torch.zeros(30)
    away[:] = torch.from_numpy(np.linalg.svd(LIFT.numpy().T)[2][-1])
    result = trace(field=lambda x, t: 100 * away.expand_as(x), n_trajectories=10, start_time=0.0, end_time=0.1)
    assert (result.paths.stopped == StopReason.OFF_MANIFOLD).all()
    assert off(result).max() <= 10
    assert np.isfinite(result.paths.x).all()


def test_a_field_without_a_network_follows_the_branches() -> None:
    x, t, labels, v = fork()
    result = trace_among(
        x, t, labels, interpolate_field(x, v, 15), start_cluster="up", start_time=0.65, end_time=0.75, n_trajectories=50
    )
    assert (result.terminal == "up").mean() >= 0.98
    assert np.median(off(result)) < 1.5


def test_interpolated_field_is_the_kernel_mean() -> None:
    x, _, _, v = fork()
    query = torch.randn(5, 30) + torch.from_numpy(x[:5]).float()
    distance = np.linalg.norm(query.numpy()[:, None] - x[None], axis=2)
    near = np.argsort(distance, axis=1)[:, :7]
    d = np.take_along_axis(distance, near, 1)
    w = np.exp(-(d**2) / (2 * d.mean(axis=1, keepdims=True) ** 2))
    expected = (w[:, :, None] * v[near]).sum(axis=1) / w.sum(axis=1, keepdims=True)
    assert np.allclose(interpolate_field(x, v, 7)(query, torch.zeros(5)).numpy(), expected, atol=1e-3)
    cells = interpolate_field(x, v, 1)(torch.from_numpy(x[:9]), torch.zeros(9)).numpy()
    assert np.allclose(cells, v[:9], atol=1e-5)


def drift(**options: Any) -> Trajectories:
    source = FlowSource(**{name: options.pop(key) for key, name in SOURCE.items() if key in options})
    return flow_particles(flow, ClusteredCells.create(*fork()[:3]), source, FlowOptions(**options))


@pytest.mark.parametrize("diffusion", [0.1, 0.5])
def test_particles_stay_with_the_data_and_find_both_branches(diffusion: float) -> None:
    result = drift(diffusion=diffusion)
    assert result.paths.x.shape[0] == 200
    assert fork()[1][result.start_cell].max() <= 0.1 + 1e-3
    assert np.quantile(off(result), 0.9) < 2
    assert np.median(off(result)) < 1.5
    for branch in ("up", "down"):
        assert 0.35 < (result.terminal == branch).mean() < 0.65
    one = drift(diffusion=diffusion, source_time_min=0.0, source_time_max=0.0)
    assert len(set(one.start_cell)) == 1
    assert 0.05 < (one.terminal == "up").mean() < 0.95


def test_isotropic_noise_leaves_the_data() -> None:
    assert np.median(off(drift(diffusion=0.1, noise="isotropic"))) > 3


def test_no_diffusion_is_the_deterministic_flow() -> None:
    result = drift(diffusion=0.0, n_particles=20, step_size=0.005)
    same = trace(start_cells=result.start_cell, step_size=0.005)
    assert np.abs(result.paths.ends - same.paths.ends).max() < 0.15  # Euler against Runge-Kutta


def test_sources() -> None:
    x, t, labels, _ = fork()
    picture = np.stack([t, x[:, 0]], axis=1)
    chosen = drift(diffusion=0.0, source_cluster="up", n_particles=50).start_cell
    assert (labels[chosen] == "up").all()
    chosen = drift(diffusion=0.0, source_time_max=0.19, n_particles=50).start_cell
    assert (t[chosen] <= 0.2).all()
    chosen = drift(
        diffusion=0.0, embedding=picture, source_x_lim=(0.02, 0.08), source_y_lim=(0, np.inf), n_particles=20
    ).start_cell
    assert ((t[chosen] >= 0.02) & (t[chosen] <= 0.08) & (x[chosen, 0] >= 0)).all()
    many = drift(diffusion=0.0, n_particles=600, step_size=0.2)
    assert len(many.paths.x) == 600
    assert len(set(many.start_cell)) < 600
    noisy = drift(diffusion=0.0, noise_scale=0.2, n_particles=100, step_size=0.2)
    moved = noisy.paths.x[:, 0] - x[noisy.start_cell]
    assert moved.std() == pytest.approx(0.2, rel=0.1)


def test_same_seed_same_paths_and_no_global_seed() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr] # noqa: NPY002
    first = drift(n_particles=30)
    again = drift(n_particles=30)
    assert np.array_equal(first.paths.x, again.paths.x)
    assert not np.array_equal(first.paths.x, drift(n_particles=30, random_state=1).paths.x)
    assert np.array_equal(trace().paths.x, trace().paths.x)
    assert trace().start_cell.tolist() != trace(random_state=0).start_cell.tolist()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index] # noqa: NPY002


def test_more_cells_than_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    from muport.velocity.dynamics import _manifold

    monkeypatch.setattr(_manifold, "_MAX_CELLS", 500)
    data = fit_manifold(fork()[0], random_state=42)
    assert len(data.points) == len(data.cell) == 500
    assert np.array_equal(data.points, fork()[0][data.cell].astype(np.float32))
    result = trace(n_trajectories=5, start_time=0.0, end_time=0.1)
    assert set(result.cell[:, 1:].ravel()) <= set(data.cell)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"start_cluster": "left"}, KeyError, "'down', 'stem', 'up'"),
        ({"target_cluster": "left"}, KeyError, "target_cluster='left'"),
        ({"start_cells": [2000]}, ValueError, "row 2000"),
        ({"start_cells": [0.5]}, ValueError, "float64"),
        ({"start_cells": []}, ValueError, "at least one"),
        ({"start_time": 2.0}, ValueError, "runs from"),
        ({"start_time": 0.5, "end_time": 0.1}, ValueError, "is empty"),
        ({"direction": "up"}, ValueError, "'forward'"),
        ({"n_trajectories": 0}, ValueError, "n_trajectories=0"),
        ({"step_size": -1.0}, ValueError, "step_size"),
        ({"n_steps": 0}, ValueError, "n_steps=0"),
        ({"end_time": 0.2, "target_cluster": "up", "direction": "backward"}, ValueError, "never reached by 200 paths"),
        ({"labels": None, "start_cluster": "up"}, ValueError, "needs clusters"),
        ({"time": np.ones(2000)}, ValueError, "time is 1 in all cells"),
        ({"time": np.full(2000, np.nan)}, ValueError, "finite time"),
        ({"labels": np.ones(3)}, ValueError, "labels has shape"),
        ({"x": np.zeros((2000, 30))}, ValueError, "coincides"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    x, t, labels, _ = fork()
    given = {"x": x, "time": t, "labels": labels, **change}
    with pytest.raises(error, match=message):
        trace_among(**given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source_cluster": "left"}, KeyError, "source_cluster='left'"),
        ({"source_time_min": 3.0, "source_time_max": 4.0}, ValueError, "runs from"),
        ({"source_x_lim": (0.0, 1.0)}, ValueError, "source_x_lim needs an embedding"),
        ({"source_x_lim": (0.0, 1.0), "embedding": np.ones((3, 2))}, ValueError, "embedding has shape"),
        ({"n_particles": 0}, ValueError, "n_particles"),
        ({"diffusion": -0.1}, ValueError, "diffusion"),
        ({"noise": "none"}, ValueError, "'tangent'"),
        ({"noise_scale": -1.0}, ValueError, "noise_scale"),
    ],
)
def test_bad_input_of_flows(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drift(**change)


def test_bad_input_of_the_field_without_a_network() -> None:
    x, _, _, v = fork()
    with pytest.raises(ValueError, match="velocity has shape"):
        interpolate_field(x, v[:5])
    with pytest.raises(ValueError, match="k_velocity=0"):
        interpolate_field(x, v, 0)
