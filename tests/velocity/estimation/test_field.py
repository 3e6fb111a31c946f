"""The Jacobian against formulas; the bottleneck; blocks of cells; no draw from the global generator."""

from __future__ import annotations

import numpy as np
import torch

from muport.velocity.estimation import _field
from muport.velocity.estimation._field import Field, evaluate, jacobian


class Linear(torch.nn.Module):
    """v = M x, with the Jacobian M everywhere."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T


def test_any_matrix_and_the_field_itself_by_differences():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(6, 6, generator=generator)
    x, t = torch.randn(4, 6, generator=generator), torch.rand(4, generator=generator)
    torch.testing.assert_close(jacobian(Linear(matrix), x, t)[0], matrix)
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


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, time, field = rng.normal(size=(60, 4)).astype(np.float32), rng.random(60), Field(4, 8, 3)
    velocity, latent = evaluate(field, x, time), evaluate(field, x, time, field.latent)
    assert velocity.any()
    monkeypatch.setattr(_field, "_CELLS_PER_BLOCK", 7)
    assert np.allclose(evaluate(field, x, time), velocity, atol=1e-6)
    assert np.allclose(evaluate(field, x, time, field.latent), latent, atol=1e-6)
    assert latent.shape == (60, 3)
