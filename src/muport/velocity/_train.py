"""Fit the velocity field to raw velocities, and refit its last layer under a block bootstrap."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points
from muport.velocity._module import Field, jacobian
from muport.velocity._windows import check_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from muport.velocity._transport import RawVelocity

__all__ = ["FieldFit", "fit_field", "one_thread"]

_LR = 8e-3
_DECAY = 1e-2
_DERIVATIVE_CELLS = 64  # cells of a batch at which curl and divergence are taken
_RIDGE = 1e-3  # of the mean latent variance: pulls a member to the trained layer
_CHUNK = 2**15


@dataclass(frozen=True, eq=False)
class FieldFit:
    """A fitted field as arrays.

    Attributes
    ----------
    state
        Every tensor of the :class:`Field`, by name.
    history
        Loss of every step, by name: ``"loss"`` and its parts, unweighted.
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: small layers take longer on several, and a sum would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_field(
    x: Any,
    time: Any,
    raw: RawVelocity,
    *,
    n_steps: int = 400,
    batch_size: int = 512,
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

    With x, t and v scaled to unit variance and w the time gaps scaled to mean 1, the loss is ::

        mean_i w_i |v(x_i, t_i) - v_i|^2 / d  +  lambda_smooth mean_ij |v_i - v_j|^2 / d
            + lambda_curl mean_{i, a<b} (dv_b/dx_a - dv_a/dx_b)^2  +  lambda_divergence mean_i (sum_a dv_a/dx_a / d)^2

    j being a random one of the neighbours of i at each step. Then the last, affine layer is refitted in closed form,
    and once more for each bootstrap member, on windows drawn with replacement.

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) times.
    raw
        Raw velocities; cells of weight 0 are left out.
    n_steps
        Steps of AdamW, under one cycle of the learning rate.
    batch_size
        Cells of a step.
    hidden_dim
        Width of the two hidden layers.
    n_latent
        Width of the bottleneck.
    lr
        Largest learning rate.
    lambda_smooth
        Weight of the differences between neighbours.
    lambda_curl, lambda_divergence
        Weights of the derivatives, over all dimensions.
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
        Called with the number of each finished step.

    Returns
    -------
    FieldFit
        Weights, members and losses.

    Raises
    ------
    ValueError
        For arrays that do not fit, options out of range or no covered cell.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity._train import fit_field
    >>> from muport.velocity._transport import ot_velocity
    >>> from muport.velocity._windows import time_windows
    >>> time = np.linspace(0, 1, 400)
    >>> x = np.stack([3 * time, 0 * time], axis=1)
    >>> fit = fit_field(x, time, ot_velocity(x, time, time_windows(time)), n_steps=50)
    >>> fit.history["loss"].shape
    (50,)
    """
    points, when = as_points(x), check_time(time, len(x))
    covered = np.flatnonzero(raw.weight > 0)
    generator = torch.Generator().manual_seed(random_state)
    field = Field(points.shape[1], hidden_dim, n_latent, use_time, n_bootstrap)
    field.reset(generator)
    _set_scales(field, points, when, raw)
    field.to(device)
    with one_thread():
        data = _Data.of(field, points, when, raw, covered, neighbors, device)
        history = _descend(field, data, n_steps, batch_size, lr or _LR, (lambda_smooth, lambda_curl, lambda_divergence), generator, progress)
        _refit(field, data, raw.block[covered], n_bootstrap, generator)
    state = {name: value.detach().cpu().numpy() for name, value in field.state_dict().items()}
    return FieldFit(state, history, hidden_dim, n_latent, use_time)


def _set_scales(field: Field, x: NDArray[np.float32], when: NDArray[np.float64], raw: RawVelocity) -> None:
    weight = raw.weight / raw.weight.sum()
    center = x.mean(axis=0, dtype=np.float64)
    spread = {
        "x_scale": np.sqrt(((x - center) ** 2).mean(axis=0).max()),
        "t_scale": when.std(),
        "v_scale": np.sqrt((weight[:, None] * raw.velocity**2).sum(0).mean()),
    }
    field.x_center.copy_(torch.from_numpy(center))
    field.t_center.fill_(when.mean())
    for name, value in spread.items():
        getattr(field, name).fill_(value if value > 0 else 1.0)


@dataclass(frozen=True, eq=False)
class _Data:
    inputs: Tensor
    target: Tensor
    weight: Tensor
    cells: Tensor
    near: Tensor | None

    @classmethod
    def of(cls, field: Field, x, when, raw, covered, neighbors, device) -> _Data:
        tx = torch.from_numpy(x).to(device)
        tt = torch.from_numpy(when.astype(np.float32)).to(device)
        inputs = field.scale(tx, tt)
        target = torch.from_numpy(raw.velocity).to(device) / field.v_scale
        weight = torch.from_numpy(raw.weight).to(device)
        weight = weight * len(covered) / weight.sum()
        near = None if neighbors is None else torch.from_numpy(np.asarray(neighbors, np.int64)).to(device)
        return cls(inputs, target, weight, torch.from_numpy(covered).to(device), near)


def _descend(field, data, n_steps, batch_size, lr, lambdas, generator, progress):
    optimizer = torch.optim.AdamW(field.parameters(), lr=lr, weight_decay=_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=n_steps)
    history = []
    for step in range(n_steps):
        rows = data.cells[torch.randint(len(data.cells), (min(batch_size,len(data.cells)),), generator=generator)]
        optimizer.zero_grad()
        out = field.layers[3](field.encode(data.inputs[rows]))
        loss = (data.weight[rows] * (out - data.target[rows]).square().mean(1)).mean()
        loss.backward()
        optimizer.step(); schedule.step()
        history.append(loss.detach())
    return {"loss": torch.stack(history).cpu().numpy()}


@torch.no_grad()
def _refit(field, data, block, n_members, generator):
    order = np.argsort(block, kind="stable")
    _, first, size = np.unique(block[order], return_index=True, return_counts=True)
    cells = data.cells[torch.from_numpy(order)]
    L = field.n_latent
    z = torch.cat([field.encode(data.inputs[cells]), torch.ones(len(cells), 1)], 1)
    v = data.target[cells]; w = data.weight[cells]
    nb = len(first)
    slot = torch.full((nb, int(size.max())), -1, dtype=torch.int64)
    ar = torch.arange(len(cells)); owner = torch.from_numpy(np.repeat(np.arange(nb), size)); pos = ar - torch.from_numpy(np.repeat(first, size))
    slot[owner, pos] = ar
    ok = (slot >= 0).float(); slot = slot.clamp(min=0)
    zb = z[slot]; wz = zb * (w[slot] * ok)[..., None]
    gram = (zb.mT @ wz).double(); cross = (wz.mT @ v[slot]).double()
    last = field.layers[3]
    theta0 = torch.cat([last.weight.T, last.bias[None]], 0).double()
    def solve(counts):
        G = torch.einsum("mb,bij->mij", counts, gram); R = torch.einsum("mb,bij->mij", counts, cross)
        ridge = _RIDGE * G.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(L + 1, dtype=G.dtype)
        return torch.linalg.solve(G + ridge, R + ridge @ theta0)
    full = solve(torch.ones(1, nb, dtype=torch.float64))[0]
    last.weight.copy_(full[:-1].T); last.bias.copy_(full[-1])
    draws = torch.randint(nb, (n_members, nb), generator=generator)
    counts = torch.zeros(n_members, nb, dtype=torch.float64).scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    th = solve(counts)
    field.member_weight.copy_(th[:, :-1].mT); field.member_bias.copy_(th[:, -1])
