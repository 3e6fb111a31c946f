"""Curl and divergence against formulas; the bottleneck; no draw from the global generator."""

from __future__ import annotations

import pytest
import torch

from muport.velocity.estimation._field import Field, curl, divergence, jacobian


class Linear(torch.nn.Module):
    """v = M x, with the Jacobian M everywhere."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T


def rotation(d: int) -> torch.Tensor:
    """Turn every plane of two successive dimensions: d - 1 pairs that differ by 2."""
    out = torch.zeros(d, d)
    out[range(1, d), range(d - 1)] = 1.0
    return out - out.T


@pytest.mark.parametrize("d", [2, 30, 50])
def test_rotation_turns_and_source_spreads(d):
    x, t = torch.randn(7, d, generator=torch.Generator().manual_seed(0)), torch.zeros(7)
    turn, source = Linear(rotation(d)), Linear(torch.eye(d))
    torch.testing.assert_close(curl(turn, x, t), torch.full((7,), 4.0 * (d - 1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(divergence(turn, x, t), torch.zeros(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(curl(source, x, t), torch.zeros(7), atol=1e-4, rtol=0)
    torch.testing.assert_close(divergence(source, x, t), torch.full((7,), float(d)), atol=1e-4, rtol=0)


def test_estimates_above_fifty_dimensions():
    d = 80
    x, t = torch.zeros(5, d), torch.zeros(5)
    turn, source = Linear(rotation(d)), Linear(torch.eye(d))
    torch.testing.assert_close(divergence(source, x, t), torch.full((5,), float(d)), atol=1e-3, rtol=0)
    torch.testing.assert_close(divergence(turn, x, t), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(curl(source, x, t), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(curl(turn, x, t), torch.full((5,), 4.0 * (d - 1)), atol=0, rtol=0.1)


def test_any_matrix_and_the_field_itself_by_differences():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(6, 6, generator=generator)
    x, t = torch.randn(4, 6, generator=generator), torch.rand(4, generator=generator)
    torch.testing.assert_close(jacobian(Linear(matrix), x, t)[0], matrix)
    torch.testing.assert_close(curl(Linear(matrix), x, t)[0], (matrix - matrix.T).square().sum() / 2)
    field = Field(6).double()
    x, t, step = x.double(), t.double(), 1e-5
    moved = [(field(x + step * e, t) - field(x - step * e, t)) / (2 * step) for e in torch.eye(6).double()]
    torch.testing.assert_close(jacobian(field, x, t), torch.stack(moved, dim=2), atol=1e-7, rtol=0)


def test_velocity_is_affine_in_the_bottleneck_and_scaled():
    field = Field(3, hidden=16, n_latent=4, n_members=2)
    field.v_scale.fill_(10)
    field.x_scale.fill_(5)
    x, t = torch.ones(2, 3), torch.zeros(2)
    wanted = 10 * (field.latent(x, t) @ field.last.weight.T + field.last.bias)
    torch.testing.assert_close(field(x, t), wanted)
    assert field.members(x, t).shape == (2, 2, 3)
    assert not field.members(x, t).any()


def test_time_is_an_input_only_if_asked_for():
    x, early, late = torch.ones(2, 3), torch.zeros(2), torch.ones(2)
    for with_time in (True, False):
        field = Field(3, with_time=with_time)
        assert torch.equal(field(x, early), field(x, late)) != with_time


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second = Field(4), Field(4)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), atol=0, rtol=0)
    assert torch.equal(before, torch.get_rng_state())
