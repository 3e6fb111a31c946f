"""Fit the velocity field to raw velocities, and refit its last layer under a block bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from muport._parallel import single_threaded_torch
from muport.neighbors import as_points
from muport.velocity._hyperparameters import DEFAULTS
from muport.velocity.estimation._field import Field, jacobian
from muport.velocity.estimation._windows import as_times

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from muport.velocity._hyperparameters import VelocityHyperparameters
    from muport.velocity.estimation._raw_velocity import RawVelocity

__all__ = ["FieldFit", "fit_field"]

_MAX_LR = 1.2e-2  # largest learning rate, unless lr is given
_WEIGHT_DECAY = 1e-2
_SPAN = 2.0  # largest standard deviation of the coordinates in one input unit: dimensions of noise barely enter
_TIME_SPAN = 0.5  # standard deviation of time in one input unit
_DERIVATIVE_CELLS = 64  # cells of a batch in which curl and divergence are computed
_RIDGE = 1e-3  # of the mean latent variance: pulls a refit toward the trained layer
_LATENT_ENTRIES = 2**22  # latent entries of windows in memory at once


@dataclass(frozen=True, eq=False)
class FieldFit:
    """A fitted field as arrays.

    - `state`: Every tensor of the :class:`Field`, by name.
    - `history`: Loss of every step, by name: ``"loss"``, and its parts without their weights.
    - `hidden_dim`, `n_latent`, `use_time`: Shape of the network.
    """

    state: dict[str, NDArray[np.float32]]
    history: dict[str, Annotated[NDArray[np.float32], "*", "any"]]
    hidden_dim: Annotated[int, "1.."]
    n_latent: Annotated[int, "1.."]
    use_time: bool

    def field(self) -> Field:
        """Build the network, ready for queries."""
        n_members, d, _ = self.state["member_weight"].shape
        field = Field(d, self.hidden_dim, self.n_latent, self.use_time, n_members)
        field.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.state.items()})
        return field.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class _TrainingCells:
    """The m covered cells as the network sees them.

    ``inputs`` (m, 2, d + 1) are the two points of each cell at which its velocity is evaluated, ``target`` (m, d) the
    velocity to fit, ``raw`` (m, d) the raw velocity, ``weight`` (m,) has mean 1. ``own`` (m, d + 1) and ``all_cells``
    (n, d + 1) are the inputs of the covered and of all cells at their own place and time. ``neighbors`` (m, k) are
    positions among all cells.
    """

    inputs: Tensor
    target: Tensor
    raw: Tensor
    weight: Tensor
    own: Tensor
    all_cells: Tensor
    neighbors: Tensor | None


def fit_field(
    x: Any,
    time: Any,
    raw: RawVelocity,
    hyperparameters: VelocityHyperparameters = DEFAULTS,
    *,
    target: NDArray[np.float32] | None = None,
    neighbors: Any | None = None,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> FieldFit:
    """Fit v(x, t) to raw velocities by weighted least squares on random batches.

    A raw velocity is the mean of the true one over the gap between its two transports, which on a curve is less than
    the velocity in the middle. The fit compares it with the same mean of the field, by Gauss's two-point rule: with c
    the middle of the gap g, s = c -+ g / (2 sqrt 3) and places x_i + (s - t_i) v_i, ::

        u_i = (v(x_i+, s+) + v(x_i-, s-)) / 2
        mean_i w_i |u_i - v_i|^2 / d  +  lambda_smooth mean_ij |v(x_i) - v(x_j)|^2 / d
            + lambda_curl mean_{i, a<b} (dv_b/dx_a - dv_a/dx_b)^2  +  lambda_divergence mean_i (sum_a dv_a/dx_a)^2 / d

    with w the gaps scaled to mean 1, j a random neighbor of i at each step, and v, x in units of their own spread.
    Then the last, affine layer is refitted in closed form (unless there are penalties), and once more for each
    bootstrap member, on windows drawn with replacement: the spread of the members is the uncertainty of the field,
    without another training.

    - `x`: (n, d) coordinates.
    - `time`: (n,) times.
    - `raw`: Raw velocities; cells of weight 0 are left out.
    - `hyperparameters`: Those of the network and its fit. ``n_steps`` are steps of AdamW under one cycle of the
      learning rate; curl and divergence, over all dimensions, are computed in 64 cells of each batch.
    - `target`: (n, d) velocities to fit in place of the raw ones, such as their means over neighbors. The members still
      differ by the raw ones, since means over neighbors have errors that windows share.
    - `neighbors`: (n, k) nearest neighbors, for ``lambda_smooth``.
    - `progress`: Called with the number of steps done, after each.

    Returns weights, members and losses. Raises ValueError for arrays that do not fit, no covered cell or a loss that is
    not finite.

    Examples
    --------
    >>> from muport.velocity._hyperparameters import VelocityHyperparameters
    >>> from muport.velocity.estimation._raw_velocity import estimate_raw_velocity
    >>> from muport.velocity.estimation._windows import pair_time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.stack([3 * time, 0 * time], axis=1)
    >>> raw = estimate_raw_velocity(x, time, pair_time_windows(time))
    >>> fit_field(x, time, raw, VelocityHyperparameters(n_steps=50)).history["loss"].shape
    (50,)
    """
    points, times = as_points(x), as_times(time, len(x))
    if raw.velocity.shape != points.shape:
        raise ValueError(f"raw.velocity has shape {raw.velocity.shape}, but x has {points.shape}.")
    if not (raw.weight > 0).any():
        raise ValueError("raw covers no cell: the windows pair none; use larger windows or lower lambda_knn.")
    indices = _check_neighbors(neighbors, len(points)) if hyperparameters.lambda_smooth > 0 else None
    fitted = raw if target is None else replace(raw, velocity=target)
    generator = torch.Generator().manual_seed(hyperparameters.random_state)
    shape = (hyperparameters.hidden_dim, hyperparameters.n_latent, hyperparameters.use_time)
    field = Field(points.shape[1], *shape, hyperparameters.n_bootstrap)
    field.reset(generator)
    _set_scales(field, points, times, fitted)
    # Not for speed alone: the number of threads would change the order of sums, and with it the last bits.
    with single_threaded_torch():
        cells = _scale_cells(field.to(device), points, times, fitted, raw.velocity, indices)
        history = _descend(field, cells, hyperparameters, generator, progress)
        _refit(field, cells, raw.block[raw.weight > 0], generator, keep=any(_penalties(hyperparameters).values()))
    state = {name: value.detach().cpu().numpy() for name, value in field.state_dict().items()}
    return FieldFit(state, history, *shape)


def _penalties(hyperparameters: VelocityHyperparameters) -> dict[str, float]:
    """Weights of the parts of the loss beside the fit."""
    return {name: getattr(hyperparameters, f"lambda_{name}") for name in ("smooth", "curl", "divergence")}


def _check_neighbors(neighbors: Any | None, n: int) -> NDArray[np.int64]:
    if neighbors is None:
        raise ValueError("lambda_smooth needs neighbors: the (n, k) nearest neighbors of each cell.")
    indices = np.asarray(neighbors, np.int64)
    if indices.ndim != 2 or len(indices) != n:
        raise ValueError(f"neighbors has shape {indices.shape}: it needs k indices of cells for each of {n} cells.")
    return indices


def _set_scales(field: Field, x: NDArray[np.float32], times: NDArray[np.float64], raw: RawVelocity) -> None:
    """Set the centers, and one scale each for x, t and v: that of x does not change when coordinates are rotated."""
    center = x.mean(axis=0, dtype=np.float64)
    variance = float(np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False)))[-1])
    weight = raw.weight.astype(np.float64)
    power = float((weight @ raw.velocity.astype(np.float64) ** 2).mean() / weight.sum())
    scales = {
        "x_scale": _SPAN * math.sqrt(max(variance, 0)),
        "t_scale": _TIME_SPAN * times.std(),
        "v_scale": math.sqrt(power),
    }
    field.x_center.copy_(torch.from_numpy(center))
    field.t_center.fill_(float(times.mean()))
    for name, value in scales.items():
        getattr(field, name).fill_(value if value > 0 else 1.0)


def _scale_cells(
    field: Field,
    x: NDArray[np.float32],
    times: NDArray[np.float64],
    fitted: RawVelocity,
    raw_velocity: NDArray[np.float32],
    neighbors: NDArray[np.int64] | None,
) -> _TrainingCells:
    """The covered cells in the units of the network, on its device."""
    device = field.x_center.device
    covered = np.flatnonzero(fitted.weight > 0)

    def scale(points: NDArray[np.float32], when: NDArray[np.float64]) -> Tensor:
        return field.scale(torch.tensor(points).to(device), torch.from_numpy(when.astype(np.float32)).to(device))

    own = times[covered]
    half_gap = fitted.weight[covered] / (2 * math.sqrt(3)) * (fitted.midpoint is not None)
    middle = own if fitted.midpoint is None else fitted.midpoint[covered]
    gauss_points = []
    for sign in (-1, 1):
        when = middle + sign * half_gap
        step = (when - own).astype(np.float32)[:, None]
        gauss_points.append(scale(x[covered] + step * fitted.velocity[covered], when))
    all_cells = scale(np.array(x), times)
    rows = torch.from_numpy(covered).to(device)
    weight = torch.from_numpy(fitted.weight[covered]).to(device)
    return _TrainingCells(
        inputs=torch.stack(gauss_points, dim=1),
        target=torch.from_numpy(fitted.velocity[covered]).to(device) / field.v_scale,
        raw=torch.from_numpy(raw_velocity[covered]).to(device) / field.v_scale,
        weight=weight / weight.mean(),
        own=all_cells[rows],
        all_cells=all_cells,
        neighbors=None if neighbors is None else torch.from_numpy(neighbors).to(device)[rows],
    )


def _descend(
    field: Field,
    cells: _TrainingCells,
    hyperparameters: VelocityHyperparameters,
    generator: torch.Generator,
    progress: Callable[[int], None] | None,
) -> dict[str, NDArray[np.float32]]:
    """Train in place; return the loss and its parts at every step."""
    device, n = cells.inputs.device, len(cells.inputs)
    n_steps, lr = hyperparameters.n_steps, hyperparameters.lr or _MAX_LR
    optimizer = _AdamW(list(field.parameters()), lr, n_steps)
    size = min(hyperparameters.batch_size, n)
    weights = _penalties(hyperparameters)
    parts: list[Tensor] = []
    for step in range(n_steps):
        rows = torch.randint(n, (size,), generator=generator).to(device)
        losses = _losses(field, cells, weights, rows, generator)
        step_losses = torch.stack(list(losses.values()))
        optimizer.step(torch.autograd.grad(step_losses.sum(), optimizer.parameters))
        parts.append(step_losses.detach())
        if progress is not None:
            progress(step + 1)
    table = torch.stack(parts).cpu().numpy()
    if not np.isfinite(table).all():
        raise ValueError(f"the loss is not finite after {n_steps} steps: lower lr={lr:g} or the lambdas.")
    history = {name: table[:, i] / weights.get(name, 1.0) for i, name in enumerate(losses)}
    return {"loss": table.sum(axis=1)} | history


class _AdamW:
    """AdamW (Loshchilov & Hutter 2019) under one cycle of learning rate and momentum (Smith 2018).

    The rate rises from a 25th of ``lr`` to ``lr`` over 30 % of the steps and falls to a 10,000th of its start, both as
    half a cosine; the momentum goes from .95 to .85 and back. These are the defaults of torch's ``OneCycleLR``.

    The functional form of torch is used because an optimizer object checks for accelerators at every step, which took
    a fifth of the time of the fit.
    """

    def __init__(self, parameters: list[Tensor], lr: float, n_steps: int) -> None:
        self.parameters = parameters
        self._first_moments = [torch.zeros_like(parameter) for parameter in parameters]
        self._second_moments = [torch.zeros_like(parameter) for parameter in parameters]
        self._step_counts = [torch.zeros((), dtype=torch.float32, device=p.device) for p in parameters]
        rise = 0.3 * n_steps - 1
        step = np.arange(n_steps)
        up = (1 - np.cos(np.pi * step / max(rise, 1))) / 2
        down = (1 + np.cos(np.pi * (step - rise) / (n_steps - 1 - rise))) / 2
        height = np.where(step <= rise, up, down)
        floor = lr / 25 * np.where(step <= rise, 1, 1e-4)
        self._schedule = iter(
            zip((floor + (lr - floor) * height).tolist(), (0.95 - 0.1 * height).tolist(), strict=True)
        )

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters, in place."""
        lr, beta1 = next(self._schedule)
        with torch.no_grad():
            adamw(
                self.parameters,
                list(gradients),
                self._first_moments,
                self._second_moments,
                [],  # the largest second moments, which amsgrad alone needs
                self._step_counts,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=0.999,
                lr=lr,
                weight_decay=_WEIGHT_DECAY,
                eps=1e-8,
                maximize=False,
            )


def _losses(
    field: Field, cells: _TrainingCells, weights: dict[str, float], rows: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Weighted parts of the loss in some covered cells."""
    mean = _velocity(field, cells.inputs[rows]).mean(dim=1)
    losses = {"fit": (cells.weight[rows] * (mean - cells.target[rows]).square().mean(dim=1)).mean()}
    if cells.neighbors is not None:
        drawn = torch.randint(cells.neighbors.shape[1], (len(rows),), generator=generator).to(rows.device)
        pair = torch.stack([cells.own[rows], cells.all_cells[cells.neighbors[rows, drawn]]])
        losses["smooth"] = weights["smooth"] * _velocity(field, pair).diff(dim=0).square().mean()
    if weights["curl"] > 0 or weights["divergence"] > 0:
        jac = _scaled_jacobian(field, cells.own[rows[:_DERIVATIVE_CELLS]])
        d = jac.shape[1]
        if weights["curl"] > 0:
            # Each pair of dimensions is twice in the square, and once in the number of pairs d (d - 1) / 2.
            losses["curl"] = weights["curl"] * (jac - jac.mT).square().sum((1, 2)).mean() / max(d * (d - 1), 1)
        if weights["divergence"] > 0:
            trace = jac.diagonal(dim1=1, dim2=2).sum(1)
            losses["divergence"] = weights["divergence"] * trace.square().mean() / d
    return losses


def _velocity(field: Field, inputs: Tensor) -> Tensor:
    """Velocity in units of its scale, at scaled inputs (..., d + 1)."""
    velocity: Tensor = field.last(field.encode(inputs))
    return velocity


class _ScaledField(torch.nn.Module):
    """The field in scaled coordinates, in which the penalties have no unit."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return _velocity(self.field, torch.cat([x, t], dim=-1))


def _scaled_jacobian(field: Field, inputs: Tensor) -> Tensor:
    return jacobian(_ScaledField(field), inputs[:, : field.d], inputs[:, field.d :]) / _SPAN


@torch.no_grad()
def _refit(
    field: Field, cells: _TrainingCells, block: NDArray[np.int64], generator: torch.Generator, *, keep: bool
) -> None:
    """Weighted least squares for the last layer: on all windows, and on windows drawn with replacement by each member.

    With ``keep`` the layer stays as trained, since a refit would undo the penalties; the members differ from it by as
    much as their refits differ from that on all windows.

    Only the moments of each window are kept, so that the cost of a member does not grow with the number of cells.
    """
    gram, cross, raw_cross = _moments(field, cells, block)
    last, n_windows = field.last, len(gram)
    start = torch.cat([last.weight.T, last.bias[None]]).double()
    ridge = _RIDGE * gram.sum(0).diagonal().mean() * torch.eye(len(start), dtype=torch.float64, device=start.device)

    def solve(count: Tensor, right: Tensor) -> Tensor:
        left = torch.einsum("mb,bij->mij", count, gram) + ridge
        layer: Tensor = torch.linalg.solve(left, torch.einsum("mb,bij->mij", count, right) + ridge @ start)
        return layer

    once = torch.ones(1, n_windows, dtype=torch.float64, device=start.device)
    center = start if keep else solve(once, cross)[0]
    last.weight.copy_(center[:-1].T)
    last.bias.copy_(center[-1])
    n_members = len(field.member_weight)
    if n_members == 0:
        return
    drawn = torch.randint(n_windows, (n_members, n_windows), generator=generator)
    count = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
    members = solve(count.to(start.device), raw_cross) - solve(once, raw_cross) + center
    field.member_weight.copy_(members[:, :-1].mT)
    field.member_bias.copy_(members[:, -1])


def _moments(field: Field, cells: _TrainingCells, block: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted moments z z' (b, L + 1, L + 1) and z v' (b, L + 1, d) of each window, z the latent vector and a one.

    The latter for the velocities that are fitted, and for the raw ones.
    """
    order = np.argsort(block, kind="stable")
    _, first, size = np.unique(block[order], return_index=True, return_counts=True)
    slot = np.arange(size.max())
    table = np.where(slot < size[:, None], order[(first[:, None] + slot).clip(max=len(order) - 1)], -1)
    windows = torch.from_numpy(table).to(cells.inputs.device)
    step = max(1, _LATENT_ENTRIES // (windows.shape[1] * (field.n_latent + field.hidden)))
    moments = []
    for part in torch.split(windows, step):
        rows = part.clamp(min=0)
        latent = field.encode(cells.inputs[rows]).mean(dim=2)
        latent = torch.cat([latent, torch.ones_like(latent[..., :1])], dim=-1)
        weighted = latent * (cells.weight[rows] * (part >= 0))[..., None]
        moments.append([(weighted.mT @ right).double() for right in (latent, cells.target[rows], cells.raw[rows])])
    gram, cross, raw_cross = (torch.cat(parts) for parts in zip(*moments, strict=True))
    return gram, cross, raw_cross
