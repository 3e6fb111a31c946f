"""The velocity field: a small network v(x, t), affine in its bottleneck, with bootstrap members and derivatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, jvp, vjp, vmap

from muport._parallel import single_threaded_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Field", "curl", "divergence", "evaluate", "jacobian"]

_EXACT_UP_TO = 50  # dimensions whose Jacobian is written out; above, its invariants are estimated
_BLOCK = 2**22  # entries of what is pulled back for the Jacobians, held at once
_CELLS = 2**14  # cells evaluated at once
_WIDTH = 128  # of the layers through which it is pulled
_PROBES = 64  # random directions of the estimates
_GAIN = 2.0  # of the first layer's weights at the start


def _linear(n_in: int, n_out: int) -> nn.Linear:
    # Made without memory first: the constructor would draw the weights from the global generator.
    return nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")


class Field(nn.Module):
    """Velocity v(x, t) = A z(x, t) + b, with the bottleneck z the output of two SiLU layers and a linear one.

    Coordinates, times and velocities are in the units of the data: the scales stand in buffers of the module. The
    members share z and differ in A and b; ``misfit`` is the root mean square length of what none of them expresses.

    Parameters
    ----------
    d
        Coordinates.
    hidden
        Width of both hidden layers.
    n_latent
        Width of the bottleneck.
    with_time
        Whether the field depends on time; otherwise ``t`` is ignored.
    n_members
        Bootstrap members.

    Examples
    --------
    >>> import torch
    >>> from muport.velocity.estimation._field import Field
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
        """Draw the weights anew: uniform of variance 1 / (3 inputs), four times that in the first layer.

        The biases of the hidden layers are uniform in (-1, 1): units that all bend at the origin take many steps to
        learn where branches part.
        """
        for layer in (self.first, self.second, self.narrow, self.last):
            bound = (_GAIN if layer is self.first else 1.0) / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()
        for layer in (self.first, self.second):
            layer.bias.uniform_(-1, 1, generator=generator)

    def scale(self, x: Tensor, t: Tensor) -> Tensor:
        """Input (n, d + 1) of the network, without unit."""
        inputs = (x - self.x_center) / self.x_scale
        if not self.with_time:
            return inputs
        return torch.cat([inputs, ((t - self.t_center) / self.t_scale)[..., None]], dim=-1)

    def encode(self, inputs: Tensor) -> Tensor:
        """Bottleneck (n, n_latent) of scaled inputs."""
        silu = nn.functional.silu
        out: Tensor = self.narrow(silu(self.second(silu(self.first(inputs)))))
        return out

    def latent(self, x: Tensor, t: Tensor) -> Tensor:
        """Bottleneck (n, n_latent): the coordinates of which the velocity is an affine function."""
        return self.encode(self.scale(x, t))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (n, d) at coordinates (n, d) and times (n,)."""
        out: Tensor = self.last(self.latent(x, t)) * self.v_scale
        return out

    def members(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, n, d) of the bootstrap members; their spread is the uncertainty of the field."""
        latent = self.latent(x, t)
        return (latent @ self.member_weight.mT + self.member_bias[:, None, :]) * self.v_scale


def jacobian(field: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """Jacobian (n, d, d) of a field at points (n, d) and times (n,): entry (a, b) is dv_a / dx_b."""

    def one(point: Tensor, when: Tensor) -> Tensor:
        out: Tensor = field(point[None], when[None])[0]
        return out

    out: Tensor = vmap(jacrev(one))(x, t)
    return out


def divergence(field: nn.Module, x: Tensor, t: Tensor, *, random_state: int = 0) -> Tensor:
    """Divergence (n,) of a field over all dimensions, sum_a dv_a / dx_a.

    Exact up to 50 dimensions; above, Hutchinson's estimate, the mean of e' J e over random signs e.

    Parameters
    ----------
    field
        Module of x (n, d) and t (n,).
    x, t
        Points (n, d) and times (n,).
    random_state
        Seed of the signs.
    """
    if x.shape[1] <= _EXACT_UP_TO:
        return _in_blocks(field, x, t, lambda jac: jac.diagonal(dim1=1, dim2=2).sum(1))
    total = torch.zeros_like(t, dtype=x.dtype)
    for signs in _signs(x, random_state):
        total = total + (jvp(lambda point: field(point, t), (x,), (signs,))[1] * signs).sum(1)
    return total / _PROBES


def curl(field: nn.Module, x: Tensor, t: Tensor, *, random_state: int = 0) -> Tensor:
    """Squared curl (n,) of a field over all pairs of dimensions, sum_{a<b} (dv_b / dx_a - dv_a / dx_b)^2.

    Exact up to 50 dimensions; above, half the mean of |(J - J') e|^2 over random signs e, by Hutchinson's identity.

    Parameters
    ----------
    field
        Module of x (n, d) and t (n,).
    x, t
        Points (n, d) and times (n,).
    random_state
        Seed of the signs.
    """
    if x.shape[1] <= _EXACT_UP_TO:
        return _in_blocks(field, x, t, lambda jac: (jac - jac.mT).square().sum((1, 2)) / 2)
    total = torch.zeros_like(t, dtype=x.dtype)
    pull = vjp(lambda point: field(point, t), x)[1]
    for signs in _signs(x, random_state):
        turn = jvp(lambda point: field(point, t), (x,), (signs,))[1] - pull(signs)[0]
        total = total + turn.square().sum(1) / 2
    return total / _PROBES


def _in_blocks(field: nn.Module, x: Tensor, t: Tensor, invariant: Callable[[Tensor], Tensor]) -> Tensor:
    """An invariant (n,) of the Jacobians, of which a block is held at once."""
    step = max(1, _BLOCK // (x.shape[1] * max(x.shape[1], _WIDTH)))
    blocks = zip(torch.split(x, step), torch.split(t, step), strict=True)
    return torch.cat([invariant(jacobian(field, *block)) for block in blocks])


def _signs(x: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x) for _ in range(_PROBES)]


def evaluate(
    field: Field,
    x: NDArray[np.float32],
    time: NDArray[np.float64],
    of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """(n, ...) what `of` says of each cell, the velocity by default, block by block on the device of `field`."""
    function, device = of or field, field.x_center.device
    out: list[NDArray[Any]] = []
    with torch.no_grad(), single_threaded_torch():
        for low in range(0, len(x), _CELLS):
            chosen = slice(low, low + _CELLS)
            points = torch.tensor(x[chosen], device=device)
            when = torch.tensor(time[chosen], dtype=torch.float32, device=device)
            out.append(function(points, when).cpu().numpy())
    return np.concatenate(out)
