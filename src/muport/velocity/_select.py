"""Choose bin width, regularisation and relaxation by held-out transport, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from muport.neighbors import as_points
from muport.ot import cost_matrix, sinkhorn
from muport.velocity._flow import integrate
from muport.velocity._paths import one_thread
from muport.velocity._train import fit_field
from muport.velocity._transport import ot_velocity
from muport.velocity._windows import check_time, deal, pair_blocks, time_bins, time_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from muport.velocity._module import Field

__all__ = ["WindowChoice", "choose_windows", "push_scores"]

_EVALUATION = 0.1  # share of the held-out cells in a bin between which they are pushed
_WIDTH = 256  # held-out cells compared at once
_SHARPNESS = 0.05  # regularisation of the divergence, of the mean cost
_FLOW_STEPS = 10


@dataclass(frozen=True, eq=False)
class WindowChoice:
    """Settings compared by held-out transport.

    Attributes
    ----------
    table
        One row per setting: ``fraction``, ``reg_scale``, ``tau``, ``score`` (mean divergence relative to that of cells
        which stay where they are: 0 is perfect, 1 no better than no flow) and ``error`` (its standard error).
    best
        The setting of the lowest score, as arguments for `time_windows` and `ot_velocity`.
    """

    table: pd.DataFrame
    best: dict[str, float]


def choose_windows(
    x: Any,
    time: Any,
    batch: Any | None = None,
    *,
    fraction: Sequence[float] = (0.03, 0.05, 0.08),
    reg_scale: Sequence[float] = (0.25, 0.5, 1.0),
    tau: Sequence[float] = (0.9, 1.0),
    width: int = 128,
    n_steps: int = 200,
    random_state: int = 0,
) -> WindowChoice:
    """Compare windows and plans by how well the flow they lead to carries unseen cells forward.

    Half of the cells are set aside. For every setting a field is fitted to the others; then the cells set aside are
    pushed along it from each tenth of time over the next to the one after, and compared with those found there by the
    Sinkhorn divergence (Genevay, Peyre and Cuturi 2018; Feydy et al. 2019) ::

        S(a, b) = OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 .

    Parameters
    ----------
    x
        (n, d) coordinates.
    time
        (n,) times.
    batch
        (n,) batch of each cell.
    fraction, reg_scale, tau
        Values to try, in all combinations.
    width
        Cells of a block.
    n_steps
        Steps of each fit.
    random_state
        Seed of the halves and of the fits.

    Returns
    -------
    WindowChoice
        Scores and the best setting.

    Raises
    ------
    ValueError
        For arrays that do not fit, or an empty list of values.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity._select import choose_windows
    >>> rng = np.random.default_rng(0)
    >>> time = rng.random(400)
    >>> x = np.stack([3 * time, 0 * time], axis=1) + 0.1 * rng.normal(size=(400, 2))
    >>> choice = choose_windows(x, time, fraction=(0.1,), reg_scale=(0.5,), tau=(0.9, 1.0), n_steps=50)
    >>> len(choice.table)
    2
    """
    points, when = as_points(x), check_time(time, len(x))
    for name, values in (("fraction", fraction), ("reg_scale", reg_scale), ("tau", tau)):
        if len(values) == 0:
            raise ValueError(f"{name} is empty: give at least one value to try.")
    codes = None if batch is None else np.asarray(batch)
    train = np.zeros(len(when), bool)
    train[np.random.default_rng(random_state).permutation(len(when))[: -(-len(when) // 2)]] = True
    rows = []
    for one in fraction:
        windows = time_windows(
            when[train], None if codes is None else codes[train], fraction=one, width=width, random_state=random_state
        )
        for scale, relaxation in product(reg_scale, tau):
            raw = ot_velocity(points[train], when[train], windows, reg_scale=scale, tau=relaxation)
            fit = fit_field(points[train], when[train], raw, n_steps=n_steps, n_bootstrap=0, random_state=random_state)
            scores = push_scores(fit.field(), points[~train], when[~train])
            error = scores.std() / max(len(scores) - 1, 1) ** 0.5
            rows.append((float(one), float(scale), float(relaxation), float(scores.mean()), float(error)))
    table = pd.DataFrame(rows, columns=["fraction", "reg_scale", "tau", "score", "error"])
    best = table.loc[table["score"].idxmin()]
    return WindowChoice(table, {name: float(best[name]) for name in ("fraction", "reg_scale", "tau")})


def push_scores(field: Field, x: NDArray[np.float32], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divergence (p,) between pushed and found cells of pairs of windows, relative to that of cells left in place.

    Parameters
    ----------
    field
        Velocity field.
    x, time
        (n, d) and (n,) cells that the field has not seen.
    """
    order = np.argsort(time, kind="stable")
    bins = time_bins(time[order], _EVALUATION)
    table, first, count = deal(order, bins, int(bins[-1]) + 1, _WIDTH)
    # Over the bin between, where there is one: what lies there is not what the cells are compared with.
    stride = 2 if bins[-1] > 1 else 1
    left = np.arange(bins[-1] + 1 - stride)
    source, target, link = pair_blocks(left, left + stride, first, count)
    center = np.bincount(bins, weights=time[order]) / np.bincount(bins)
    start, goal = table[source], table[target]
    gap = np.repeat((center[left + stride] - center[left])[link][:, None], start.shape[1], axis=1)
    cells = start[start >= 0]
    with one_thread():
        begin = time[cells]
        paths = integrate(field, x[cells], begin, begin + gap[start >= 0], n_steps=_FLOW_STEPS)
    moved, stay = np.zeros((2, *start.shape, x.shape[1]), np.float32)
    moved[start >= 0], stay[start >= 0] = paths.x[:, -1], x[cells]
    there = np.where((goal >= 0)[..., None], x[goal], np.float32(0))
    masks = start >= 0, goal >= 0
    after, before = (_divergence(one, there, *masks) for one in (moved, stay))
    return np.asarray(after / np.maximum(before, 1e-12 * max(float(before.max()), 1e-300)))


def _divergence(
    x: NDArray[np.float32], y: NDArray[np.float32], in_x: NDArray[np.bool_], in_y: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Sinkhorn divergence (p,) of padded clouds (p, w, d); one regularisation for all, from the cost between them."""
    clouds = [torch.from_numpy(one).double() for one in (x, y)]
    masses = [torch.from_numpy(one / one.sum(1, keepdims=True)) for one in (in_x, in_y)]
    valid = masses[1] > 0
    own = cost_matrix(clouds[1], clouds[1])
    pairs = valid[:, :, None] & valid[:, None, :]
    reg = _SHARPNESS * torch.where(pairs, own, 0).sum((1, 2)) / pairs.sum((1, 2))
    reg = reg.clamp(min=1e-12)

    def value(i: int, j: int) -> torch.Tensor:
        found = sinkhorn(cost_matrix(clouds[i], clouds[j]), masses[i], masses[j], reg, max_iter=500, tol=1e-4)
        return (masses[i] * found.f).sum(1) + (masses[j] * found.g).sum(1)

    out: NDArray[np.float64] = (value(0, 1) - value(0, 0) / 2 - value(1, 1) / 2).clamp(min=0).numpy()
    return out
