"""Velocities in a picture against the exact push-forward of known maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muport.neighbors import knn
from muport.velocity.dynamics import _embedding_projection
from muport.velocity.dynamics._embedding_projection import project_velocity


def curve(n: int = 2000, d: int = 30, noise: float = 0.25, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Cells around a plane curve that forks, in d dimensions: position, velocity, plane coordinates, plane velocity."""
    rng = np.random.default_rng(seed)
    t, side = rng.random(n), rng.choice([-1.0, 1.0], n)
    late = np.maximum(t - 0.4, 0)
    z = np.stack([10 * t, side * 12 * late**2], axis=1)
    dz = np.stack([np.full(n, 10.0), side * 24 * late], axis=1)
    lift = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    return z @ lift + noise * rng.normal(size=(n, d)), dz @ lift, z, dz


def bent(z: np.ndarray) -> np.ndarray:
    return np.stack([z[:, 0] + 0.1 * z[:, 1] ** 2, 2 * np.sin(0.4 * z[:, 0]) + z[:, 1]], axis=1)


def pushed(z: np.ndarray, dz: np.ndarray) -> np.ndarray:
    """The Jacobian of `bent` times the velocity, in closed form."""
    return np.stack([dz[:, 0] + 0.2 * z[:, 1] * dz[:, 1], 0.8 * np.cos(0.4 * z[:, 0]) * dz[:, 0] + dz[:, 1]], axis=1)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("method", ["kernel", "linear"])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_a_linear_picture_is_exact(method: Any, noise: float) -> None:
    x, v, _, _ = curve(noise=noise)
    matrix = np.random.default_rng(1).normal(size=(30, 2))
    truth = v @ matrix
    result = project_velocity(x, v, x @ matrix, method=method)
    assert cosine(result, truth).min() > 0.995
    assert cosine(result, truth).mean() > 0.9995
    assert np.median(np.linalg.norm(result - truth, axis=1) / np.linalg.norm(truth, axis=1)) < 0.02


@pytest.mark.parametrize("method", ["kernel", "linear"])
@pytest.mark.parametrize(("noise", "least", "percentile"), [(0.1, 0.99, 0.98), (0.25, 0.99, 0.97), (0.5, 0.97, 0.95)])
def test_a_curved_picture(method: Any, noise: float, least: float, percentile: float) -> None:
    x, v, z, dz = curve(noise=noise)
    truth = pushed(z, dz)
    result = project_velocity(x, v, bent(z), method=method)
    assert cosine(result, truth).mean() > least
    assert np.quantile(cosine(result, truth), 0.05) > percentile
    ratio = np.linalg.norm(result, axis=1) / np.linalg.norm(truth, axis=1)
    assert 0.9 < np.median(ratio) < 1.05


def test_fewer_neighbours_than_dimensions_still_give_the_direction() -> None:
    x, v, z, dz = curve()
    assert cosine(project_velocity(x, v, bent(z), n_neighbors=20), pushed(z, dz)).mean() > 0.97


@settings(max_examples=20, deadline=None)
@given(speed=st.floats(1e-3, 1e3), size=st.floats(1e-2, 1e2), units=st.floats(1e-2, 1e2), shift=st.floats(-50, 50))
def test_units_carry_over(speed: float, size: float, units: float, shift: float) -> None:
    """Faster time, a larger picture, and other units or another origin of the space."""
    x, v, z, _ = curve(n=300, d=5)
    one = project_velocity(x, v, z)
    other = project_velocity(units * x + shift, units * speed * v, size * z - shift)
    assert np.allclose(other, size * speed * one, rtol=0.05, atol=0.02 * size * speed * np.abs(one).max())


def test_backward_is_minus_forward_and_rest_is_rest() -> None:
    x, v, z, _ = curve(n=300, d=5)
    v[:50] = 0
    result = project_velocity(x, v, z)
    assert (result[:50] == 0).all()
    assert np.allclose(project_velocity(x, -v, z), -result, atol=1e-4)


def test_duplicates_and_few_cells_are_finite() -> None:
    for x in (np.zeros((40, 3)), np.repeat(np.eye(3), 30, axis=0), np.eye(3)):
        result = project_velocity(x, np.ones_like(x), x[:, :2], n_neighbors=20)
        assert result.shape == (len(x), 2)
        assert np.isfinite(result).all()


def test_given_neighbours_are_used_and_the_result_repeats() -> None:
    x, v, z, _ = curve(n=300, d=5)
    near = knn(x, 40).indices
    assert np.array_equal(project_velocity(x, v, z, neighbors=near), project_velocity(x, v, z, n_neighbors=40))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, v, z, _ = curve(n=300, d=5)
    whole = project_velocity(x, v, z)
    monkeypatch.setattr(_embedding_projection, "_BLOCK", 5000)
    assert np.allclose(project_velocity(x, v, z), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"velocity": np.ones((10, 3))}, "velocity has shape"),
        ({"embedding": np.ones((9, 2))}, "embedding"),
        ({"embedding": np.full((10, 2), np.nan)}, "embedding has a NaN"),
        ({"method": "umap"}, "'kernel', 'linear'"),
        ({"n_neighbors": 1}, "n_neighbors=1"),
        ({"neighbors": np.full((10, 4), 10)}, "neighbors has shape"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {"x": np.eye(10, 2), "velocity": np.eye(10, 2), "embedding": np.eye(10, 2), **change}
    with pytest.raises(ValueError, match=message):
        project_velocity(**given)


def test_many_cells_have_neighbours_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among a sample of the cells, itself left out, the arrows of a smooth picture stay what they were."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(3_000, 2)).astype(np.float32)
    flow = np.stack([np.ones(3_000), x[:, 0]], axis=1).astype(np.float32)
    picture = x @ np.array([[1.0, 0.5], [0.0, 2.0]])
    whole = project_velocity(x, flow, picture, n_neighbors=30)
    monkeypatch.setattr(_embedding_projection, "_MAX_REFERENCE", 1_000)
    near = _embedding_projection._nearest(x, 30)
    assert len(np.unique(near)) <= 1_000
    assert not (near == np.arange(3_000)[:, None]).any()
    part = project_velocity(x, flow, picture, n_neighbors=30)
    cosine = (whole * part).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(part, axis=1)
    assert not np.array_equal(whole, part)
    assert np.quantile(cosine, 0.05) > 0.99
