"""Fit the velocity field to raw velocities, and refit its last layer under a block bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from muport._parallel import single_threaded_torch
from muport.neighbors import as_points
from muport.velocity.estimation._field import Field, jacobian
from muport.velocity.estimation._windows import check_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.velocity.estimation._raw_velocity import RawVelocity

__all__ = ["FieldFit", "fit_field"]

_LR = 1.2e-2
_DECAY = 1e-2
_SPAN = 2.0  # largest standard deviation of the coordinates in one input unit: noise dimensions barely enter
_TIMES = 0.5  # standard deviation of time in one input unit
_DERIVATIVE_CELLS = 64  # cells of a batch at which curl and divergence are taken
_RIDGE = 1e-3  # of the mean latent variance: pulls a refit to the trained layer
_CHUNK = 2**22  # latent entries of windows held at once


@dataclass(frozen=True, eq=False)
class FieldFit:
    """A fitted field as arrays.

    Attributes
    ----------
    state
        Every tensor of the :class:`Field`, by name.
    history
        Loss of every step, by name: ``"loss"``, and its parts before they are weighted.
    hidden_dim, n_latent, use_time
        Shape of the network.
    """

    state: dict[str, NDArray[Any]]
    history: dict[str, NDArray[np.float32]]
    hidden_dim: int
    n_latent: int
    use_time: bool

    def field(self) -> Field:
        """Build the network, ready for queries."""
        n_members, d, _ = self.state["member_weight"].shape
        out = Field(d, self.hidden_dim, self.n_latent, self.use_time, n_members)
        out.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.state.items()})
        return out.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _Data:
    """Covered cells as the network sees them.

    ``inputs`` (m, 2, d + 1) are the two places of a cell at which its velocity is taken, ``target`` (m, d) the velocity
    to fit, ``raw`` (m, d) its raw one, ``weight`` (m,) has mean 1, ``own`` (m, d + 1) and ``other`` (n, d + 1) are the
    inputs of the covered and of all cells, ``near`` (m, k) the neighbours among all.
    """

    inputs: Tensor
    target: Tensor
    raw: Tensor
    weight: Tensor
    own: Tensor
    other: Tensor
    near: Tensor | None


@dataclass(frozen=True)
class _Penalties:
    smooth: float
    curl: float
    divergence: float


def fit_field(
    x: Any,
    time: Any,
    raw: RawVelocity,
    *,
    target: NDArray[np.float32] | None = None,
    n_steps: int = 400,
    batch_size: int = 256,
    hidden_dim: int = 128,
    n_latent: int = 32,
    lr: float | None = None,
    lambda_smooth: float = 0.0,
    lambda_curl: float = 0.0,
    lambda_divergence: float = 0.0,
    neighbors: Any | None = None,
    use_time: bool = True,
    n_bootstrap: int = 20,
    random_state: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> FieldFit:
    """Fit v(x, t) to raw velocities by weighted least squares on random batches.

    A raw velocity is the mean of the true one over the gap between its two transports, which on a curve is less than
    the velocity in the middle. The fit makes the same mean of the field match it, by Gauss's two-point rule: with c the
    middle of the gap g, s = c -+ g / (2 sqrt 3) and places x_i + (s - t_i) v_i, ::

        u_i = (v(x_i+, s+) + v(x_i-, s-)) / 2
        mean_i w_i |u_i - v_i|^2 / d  +  lambda_smooth mean_ij |v(x_i) - v(x_j)|^2 / d
            + lambda_curl mean_{i, a<b} (dv_b/dx_a - dv_a/dx_b)^2  +  lambda_divergence mean_i (sum_a dv_a/dx_a)^2 / d

    with w the gaps scaled to mean 1, j a random neighbour of i at each step, and v, x in units of their own spread.
    Then the last, affine layer is refitted in closed form (unless there are penalties), and once more for each
    bootstrap member, on windows drawn with replacement: the members' spread is the uncertainty of the field, without
    another training.

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) times.
    raw
        Raw velocities; cells of weight 0 are left out.
    target
        (n, d) velocities to fit in place of the raw ones, such as their means over neighbours. The members still differ
        by what the raw ones tell, since means over neighbours have errors that windows share.
    n_steps
        Steps of AdamW, under one cycle of the learning rate.
    batch_size
        Cells of a step.
    hidden_dim
        Width of the two hidden layers.
    n_latent
        Width of the bottleneck.
    lr
        Largest learning rate; .012 by default.
    lambda_smooth
        Weight of the differences between neighbours.
    lambda_curl, lambda_divergence
        Weights of the derivatives, over all dimensions, at 64 cells of each batch.
    neighbors
        (n, k) nearest neighbours, for ``lambda_smooth``.
    use_time
        Whether the field depends on time.
    n_bootstrap
        Members, each a refit of the last layer.
    random_state
        Seed of weights, batches and the bootstrap.
    device
        Torch device.
    progress
        Called with the number of steps done, after each.

    Returns
    -------
    FieldFit
        Weights, members and losses.

    Raises
    ------
    ValueError
        For arrays that do not fit, options out of range, no covered cell or a loss that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.estimation._field_training import fit_field
    >>> from muport.velocity.estimation._raw_velocity import ot_velocity
    >>> from muport.velocity.estimation._windows import time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.stack([3 * time, 0 * time], axis=1)
    >>> fit = fit_field(x, time, ot_velocity(x, time, time_windows(time)), n_steps=50)
    >>> fit.history["loss"].shape
    (50,)
    """
    points, when = as_points(x), check_time(time, len(x))
    _check(raw, points, n_steps, batch_size, hidden_dim, n_latent, lr, n_bootstrap)
    fitted = raw if target is None else replace(raw, velocity=target)
    penalties = _Penalties(lambda_smooth, lambda_curl, lambda_divergence)
    near = _check_penalties(penalties, neighbors, len(points))
    generator = torch.Generator().manual_seed(random_state)
    field = Field(points.shape[1], hidden_dim, n_latent, use_time, n_bootstrap)
    field.reset(generator)
    _set_scales(field, points, when, fitted)
    with single_threaded_torch():
        data = _prepare(field.to(device), points, when, fitted, raw, near)
        history = _descend(field, data, penalties, n_steps, batch_size, lr or _LR, generator, progress)
        penalised = any(value > 0 for value in vars(penalties).values())
        _refit(field, data, raw.block[raw.weight > 0], n_bootstrap, generator, keep=penalised)
    state = {name: value.detach().cpu().numpy() for name, value in field.state_dict().items()}
    return FieldFit(state, history, hidden_dim, n_latent, use_time)


def _check(
    raw: RawVelocity,
    x: NDArray[np.float32],
    n_steps: int,
    batch_size: int,
    hidden_dim: int,
    n_latent: int,
    lr: float | None,
    n_bootstrap: int,
) -> None:
    if raw.velocity.shape != x.shape:
        raise ValueError(f"raw.velocity has shape {raw.velocity.shape}, but x has {x.shape}.")
    if not (raw.weight > 0).any():
        raise ValueError("raw covers no cell: the windows pair none; use larger windows or lower lambda_knn.")
    for name, value, least in (
        ("n_steps", n_steps, 2),
        ("batch_size", batch_size, 1),
        ("hidden_dim", hidden_dim, 1),
        ("n_latent", n_latent, 1),
        ("n_bootstrap", n_bootstrap, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}.")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr={lr} must be above 0.")


def _check_penalties(penalties: _Penalties, neighbors: Any | None, n: int) -> NDArray[np.int64] | None:
    for name, value in vars(penalties).items():
        if not value >= 0:
            raise ValueError(f"lambda_{name}={value} must not be negative.")
    if penalties.smooth == 0:
        return None
    if neighbors is None:
        raise ValueError("lambda_smooth needs neighbors: the (n, k) nearest neighbours of each cell.")
    near = np.asarray(neighbors, np.int64)
    if near.ndim != 2 or len(near) != n:
        raise ValueError(f"neighbors has shape {near.shape}: it needs k positions of cells for each of {n} cells.")
    return near


def _set_scales(field: Field, x: NDArray[np.float32], when: NDArray[np.float64], raw: RawVelocity) -> None:
    """Centres, and one scale each for x, t and v: that of x is free of how the coordinates are turned."""
    center = x.mean(axis=0, dtype=np.float64)
    spread = float(np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False)))[-1])
    weight = raw.weight.astype(np.float64)
    speed = float((weight @ raw.velocity.astype(np.float64) ** 2).mean() / weight.sum())
    scales = {"x_scale": _SPAN * math.sqrt(max(spread, 0)), "t_scale": _TIMES * when.std(), "v_scale": math.sqrt(speed)}
    field.x_center.copy_(torch.from_numpy(center))
    field.t_center.fill_(float(when.mean()))
    for name, value in scales.items():
        getattr(field, name).fill_(value if value > 0 else 1.0)


def _prepare(
    field: Field,
    x: NDArray[np.float32],
    when: NDArray[np.float64],
    fitted: RawVelocity,
    raw: RawVelocity,
    near: NDArray[np.int64] | None,
) -> _Data:
    device = field.x_center.device
    covered = np.flatnonzero(raw.weight > 0)

    def scaled(points: NDArray[np.float32], times: NDArray[np.float64]) -> Tensor:
        return field.scale(torch.tensor(points).to(device), torch.from_numpy(times.astype(np.float32)).to(device))

    own = when[covered]
    half = raw.weight[covered] / (2 * math.sqrt(3)) * (raw.midpoint is not None)
    middle = own if raw.midpoint is None else raw.midpoint[covered]
    places = []
    for sign in (-1, 1):
        then = middle + sign * half
        step = (then - own).astype(np.float32)[:, None]
        places.append(scaled(x[covered] + step * fitted.velocity[covered], then))
    everyone = scaled(np.array(x), when)
    rows = torch.from_numpy(covered).to(device)
    weight = torch.from_numpy(raw.weight[covered]).to(device)
    return _Data(
        torch.stack(places, dim=1),
        torch.from_numpy(fitted.velocity[covered]).to(device) / field.v_scale,
        torch.from_numpy(raw.velocity[covered]).to(device) / field.v_scale,
        weight / weight.mean(),
        everyone[rows],
        everyone,
        None if near is None else torch.from_numpy(near).to(device)[rows],
    )


def _descend(
    field: Field,
    data: _Data,
    penalties: _Penalties,
    n_steps: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
    progress: Callable[[int], None] | None,
) -> dict[str, NDArray[np.float32]]:
    """Train in place; return the loss and its parts of every step."""
    device = data.inputs.device
    optimizer = _AdamW(list(field.parameters()), lr, n_steps)
    size = min(batch_size, len(data.inputs))
    parts: list[Tensor] = []
    for step in range(n_steps):
        rows = torch.randint(len(data.inputs), (size,), generator=generator).to(device)
        losses = _losses(field, data, penalties, rows, generator)
        table = torch.stack(list(losses.values()))
        optimizer.step(torch.autograd.grad(table.sum(), optimizer.parameters))
        parts.append(table.detach())
        if progress is not None:
            progress(step + 1)
    found = torch.stack(parts).cpu().numpy()
    if not np.isfinite(found).all():
        raise ValueError(f"the loss is not finite after {n_steps} steps: lower lr={lr:g} or the lambdas.")
    weights = {"fit": 1.0} | vars(penalties)
    history = {name: found[:, i] / weights[name] for i, name in enumerate(losses)}
    return {"loss": found.sum(axis=1)} | history


class _AdamW:
    """Steps of AdamW (Loshchilov & Hutter 2019) under one cycle of learning rate and momentum (Smith 2018).

    By the functional form: torch's optimizer looks for accelerators at each step, a fifth of the time of this network.
    The rate rises from a 25th of ``lr`` to ``lr`` over 30 % of the steps and falls to a 10,000th of its start, both by
    half a cosine; the momentum goes from .95 to .85 and back.
    """

    def __init__(self, parameters: list[Tensor], lr: float, n_steps: int) -> None:
        self.parameters = parameters
        self._first = [torch.zeros_like(one) for one in parameters]
        self._second = [torch.zeros_like(one) for one in parameters]
        self._count = [torch.zeros((), dtype=torch.float32, device=one.device) for one in parameters]
        rise = 0.3 * n_steps - 1
        step = np.arange(n_steps)
        up = (1 - np.cos(np.pi * step / max(rise, 1))) / 2
        down = (1 + np.cos(np.pi * (step - rise) / (n_steps - 1 - rise))) / 2
        height = np.where(step <= rise, up, down)
        floor = lr / 25 * np.where(step <= rise, 1, 1e-4)
        self._plan = iter(zip((floor + (lr - floor) * height).tolist(), (0.95 - 0.1 * height).tolist(), strict=True))

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters, in place."""
        lr, beta1 = next(self._plan)
        with torch.no_grad():
            adamw(
                self.parameters,
                list(gradients),
                self._first,
                self._second,
                [],
                self._count,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=0.999,
                lr=lr,
                weight_decay=_DECAY,
                eps=1e-8,
                maximize=False,
            )


def _losses(
    field: Field, data: _Data, penalties: _Penalties, rows: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted parts of the loss on some covered cells."""
    mean = _velocity(field, data.inputs[rows]).mean(dim=1)
    out = {"fit": (data.weight[rows] * (mean - data.target[rows]).square().mean(dim=1)).mean()}
    if penalties.smooth > 0 and data.near is not None:
        pick = torch.randint(data.near.shape[1], (len(rows),), generator=generator).to(rows.device)
        pair = torch.stack([data.own[rows], data.other[data.near[rows, pick]]])
        out["smooth"] = penalties.smooth * _velocity(field, pair).diff(dim=0).square().mean()
    if penalties.curl > 0 or penalties.divergence > 0:
        jac = _scaled_jacobian(field, data.own[rows[:_DERIVATIVE_CELLS]])
        d = jac.shape[1]
        if penalties.curl > 0:
            # Each pair of dimensions stands twice in the square, and once in the number of pairs d (d - 1) / 2.
            out["curl"] = penalties.curl * (jac - jac.mT).square().sum((1, 2)).mean() / max(d * (d - 1), 1)
        if penalties.divergence > 0:
            out["divergence"] = penalties.divergence * jac.diagonal(dim1=1, dim2=2).sum(1).square().mean() / d
    return out


def _velocity(field: Field, inputs: Tensor) -> Tensor:
    """Velocity in units of its scale, at scaled inputs (..., d + 1)."""
    out: Tensor = field.last(field.encode(inputs))
    return out


class _Scaled(torch.nn.Module):
    """The field in scaled coordinates, in which the penalties have no unit."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return _velocity(self.field, torch.cat([x, t], dim=-1))


def _scaled_jacobian(field: Field, inputs: Tensor) -> Tensor:
    return jacobian(_Scaled(field), inputs[:, : field.d], inputs[:, field.d :]) / _SPAN


@torch.no_grad()
def _refit(
    field: Field, data: _Data, block: NDArray[np.int64], n_members: int, generator: torch.Generator, *, keep: bool
) -> None:
    """Weighted least squares for the last layer: on all windows, and on windows drawn with replacement by each member.

    With ``keep`` the layer stays as trained, since a refit would undo the penalties; the members differ from it by as
    much as their refits differ from that on all windows.

    Per window only the moments of its cells are kept, so a draw costs nothing that grows with the cells.
    """
    gram, cross, noisy = _moments(field, data, block)
    last = field.last
    start = torch.cat([last.weight.T, last.bias[None]]).double()
    ridge = _RIDGE * gram.sum(0).diagonal().mean() * torch.eye(len(start), dtype=torch.float64, device=start.device)

    def solve(count: Tensor, right: Tensor) -> Tensor:
        left = torch.einsum("mb,bij->mij", count, gram) + ridge
        out: Tensor = torch.linalg.solve(left, torch.einsum("mb,bij->mij", count, right) + ridge @ start)
        return out

    once = torch.ones(1, len(gram), dtype=torch.float64, device=start.device)
    center = start if keep else solve(once, cross)[0]
    last.weight.copy_(center[:-1].T)
    last.bias.copy_(center[-1])
    if n_members == 0:
        return
    draw = torch.randint(len(gram), (n_members, len(gram)), generator=generator)
    count = torch.zeros(draw.shape, dtype=torch.float64).scatter_add_(1, draw, torch.ones(draw.shape).double())
    member = solve(count.to(start.device), noisy) - solve(once, noisy) + center
    field.member_weight.copy_(member[:, :-1].mT)
    field.member_bias.copy_(member[:, -1])


def _moments(field: Field, data: _Data, block: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted moments z z' (b, L + 1, L + 1) and z v' (b, L + 1, d) of each window, z the latent and a one.

    The latter for the velocities that are fitted, and for the raw ones.
    """
    order = np.argsort(block, kind="stable")
    _, first, size = np.unique(block[order], return_index=True, return_counts=True)
    slot = np.arange(size.max())
    table = np.where(slot < size[:, None], order[(first[:, None] + slot).clip(max=len(order) - 1)], -1)
    rows = torch.from_numpy(table).to(data.inputs.device)
    step = max(1, _CHUNK // (rows.shape[1] * (field.n_latent + field.hidden)))
    found = []
    for part in torch.split(rows, step):
        cells = part.clamp(min=0)
        latent = field.encode(data.inputs[cells]).mean(dim=2)
        latent = torch.cat([latent, torch.ones_like(latent[..., :1])], dim=-1)
        weighted = latent * (data.weight[cells] * (part >= 0))[..., None]
        found.append([(weighted.mT @ one).double() for one in (latent, data.target[cells], data.raw[cells])])
    gram, cross, noisy = (torch.cat(part) for part in zip(*found, strict=True))
    return gram, cross, noisy
