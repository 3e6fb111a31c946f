"""The velocity field: a small network v(x, t), affine in its bottleneck, with bootstrap members and derivatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from muport._parallel import single_threaded_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Field", "evaluate", "jacobian"]

_CELLS_PER_BLOCK = 2**14  # cells evaluated at once
_FIRST_GAIN = 2.0  # factor of the first layer's weights at the start


def _linear(n_in: int, n_out: int) -> nn.Linear:
    # created without memory first, as the constructor would draw the weights from the global generator
    return nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")


class Field(nn.Module):
    """Velocity v(x, t) = A z(x, t) + b, with the bottleneck z the output of two SiLU layers and a linear one.

    Coordinates, times and velocities are in the units of the data: the scales are buffers of the module. The members
    share z and differ in A and b; ``misfit`` is the root mean square error that all of them have in common.

    - `d`: Number of coordinates.
    - `hidden`: Width of both hidden layers.
    - `n_latent`: Width of the bottleneck.
    - `with_time`: Whether the field depends on time; otherwise ``t`` is ignored.
    - `n_members`: Number of bootstrap members.

    Examples
    --------
    >>> field = Field(3)
    >>> field(torch.zeros(2, 3), torch.zeros(2)).shape
    torch.Size([2, 3])
    """

    x_center: Tensor
    x_scale: Tensor
    t_center: Tensor
    t_scale: Tensor
    v_scale: Tensor
    member_weight: Tensor
    member_bias: Tensor
    misfit: Tensor

    def __init__(
        self, d: int, hidden: int = 128, n_latent: int = 32, with_time: bool = True, n_members: int = 0
    ) -> None:
        super().__init__()
        self.d, self.hidden, self.n_latent, self.with_time = d, hidden, n_latent, with_time
        self.first, self.second = _linear(d + with_time, hidden), _linear(hidden, hidden)
        self.narrow, self.last = _linear(hidden, n_latent), _linear(n_latent, d)
        for name, shape in (("x_center", (d,)), ("x_scale", ()), ("t_center", ()), ("t_scale", ()), ("v_scale", ())):
            self.register_buffer(name, torch.zeros(shape) if "center" in name else torch.ones(shape))
        self.register_buffer("member_weight", torch.zeros(n_members, d, n_latent))
        self.register_buffer("member_bias", torch.zeros(n_members, d))
        self.register_buffer("misfit", torch.zeros(()))
        self.reset(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the weights again: uniform of variance 1 / (3 inputs), four times that in the first layer.

        The biases of the hidden layers are uniform in (-1, 1): units that all bend at the origin need many steps to
        learn where branches separate.
        """
        for layer in (self.first, self.second, self.narrow, self.last):
            bound = (_FIRST_GAIN if layer is self.first else 1.0) / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
        for layer in (self.first, self.second):
            layer.bias.uniform_(-1, 1, generator=generator)

    def scale(self, x: Tensor, t: Tensor) -> Tensor:
        """Input (n, d + 1) of the network, without units."""
        inputs = (x - self.x_center) / self.x_scale
        if not self.with_time:
            return inputs
        return torch.cat([inputs, ((t - self.t_center) / self.t_scale)[..., None]], dim=-1)

    def encode(self, inputs: Tensor) -> Tensor:
        """Bottleneck (n, n_latent) of scaled inputs."""
        silu = nn.functional.silu
        bottleneck: Tensor = self.narrow(silu(self.second(silu(self.first(inputs)))))
        return bottleneck

    def latent(self, x: Tensor, t: Tensor) -> Tensor:
        """Bottleneck (n, n_latent): the coordinates of which the velocity is an affine function."""
        return self.encode(self.scale(x, t))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (n, d) at coordinates (n, d) and times (n,)."""
        velocity: Tensor = self.last(self.latent(x, t)) * self.v_scale
        return velocity

    def members(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, n, d) of the bootstrap members; their spread is the uncertainty of the field."""
        latent = self.latent(x, t)
        return (latent @ self.member_weight.mT + self.member_bias[:, None, :]) * self.v_scale


def jacobian(field: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Jacobian (n, d, d) of a field at points (n, d) and times (n,): entry (a, b) is dv_a / dx_b."""

    def at_point(point: Tensor, time: Tensor) -> Tensor:
        velocity: Tensor = field(point[None], time[None])[0]
        return velocity

    matrices: Tensor = vmap(jacrev(at_point))(x, t)
    return matrices


def evaluate(
    field: Field,
    x: NDArray[np.float32],
    time: NDArray[np.float64],
    function: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """(n, ...) values of `function`, by default the velocity, at each cell, in blocks on the device of `field`."""
    function, device = function or field, field.x_center.device
    values: list[NDArray[Any]] = []
    with torch.no_grad(), single_threaded_torch():
        for low in range(0, len(x), _CELLS_PER_BLOCK):
            block = slice(low, low + _CELLS_PER_BLOCK)
            points = torch.tensor(x[block], device=device)
            times = torch.tensor(time[block], dtype=torch.float32, device=device)
            values.append(function(points, times).cpu().numpy())
    return np.concatenate(values)
