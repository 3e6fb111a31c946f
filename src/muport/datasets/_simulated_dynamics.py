"""Simulated cells that move along known curves: positions, times, branches and true velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import anndata
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Dynamics = Literal["linear", "bifurcation", "trifurcation", "cycle", "converging"]

#: How far a path advances in unit time, the bend of its common part, how far branches end from their mean, radius.
_LENGTH, _BEND, _SPREAD, _RADIUS = 12.0, 2.0, 5.0, 2.5
#: Uneven speed: d(progress)/dt = 1 + _UNEVEN cos(2 pi t).
_UNEVEN = 0.3
#: When one path becomes several, or several one.
_SPLIT = {"bifurcation": 0.4, "trifurcation": 0.4, "converging": 0.6}
_N_BRANCHES = {"bifurcation": 2, "trifurcation": 3, "converging": 2}
#: The curves need this many dimensions.
_LEADING = 4
_DENSITY = {"uniform": (1.0, 1.0), "early": (1.0, 3.0), "late": (3.0, 1.0)}


@dataclass(frozen=True)
class _Curve:
    """Points (n, _LEADING), their derivatives by t in [0, 1], and the branch (n,), -1 on the common part."""

    x: NDArray[np.float64]
    velocity: NDArray[np.float64]
    branch: NDArray[np.int64]


def simulated_dynamics(
    kind: Dynamics = "bifurcation",
    n_cells: int = 2000,
    n_dims: int = 30,
    noise: float = 0.25,
    density: Literal["uniform", "early", "late"] | tuple[float, float] = "uniform",
    growth: float = 0.0,
    days: Sequence[float] | None = None,
    n_batches: int | None = None,
    random_state: int = 0,
) -> anndata.AnnData:
    r"""Simulate cells on smooth curved paths with a known velocity.

    A path advances by 12 units in unit time, 30 % faster than that at its ends and slower in its middle, and bends
    sideways by 2 units. Branches leave it at t = .4 with its direction and end 5 units from their mean, so that
    their tangents turn by up to 47 degrees; ``"converging"`` runs two branches into one at t = .6 (the bifurcation
    with time reversed); ``"cycle"`` is a closed curve of radius 2.5 passed once. The curves lie in 4 dimensions and are
    turned into `n_dims` by a random orthogonal map. With c_b(t) the curve of branch b, a cell is

    .. math:: x = c_b(t) + \text{noise} \cdot \eta,\quad \eta \sim N(0, I), \qquad v = \mathrm{d} c_b / \mathrm{d} t .

    Parameters
    ----------
    kind
        What the paths do.
    n_cells
        Number of cells.
    n_dims
        Number of dimensions, at least 4.
    noise
        Standard deviation of the noise in *every* dimension, in the units above . .1 is little, .5
        puts a cell of 50 dimensions 3.5 units off its curve.
    density
        How cells are spread over time: evenly, three times as many as that at the start (``"early"``, a Beta(1, 3) law)
        or at the end (``"late"``, Beta(3, 1)), or the two parameters of a Beta law.
    growth
        In [0, 1): the share of branch ``"A"`` among m branches goes from (1 - growth)/m where they part to
        (1 - growth)/m + growth at the end, linearly in time. .94 with two branches: from 3 % to 97 %. 0: equal shares.
    days
        Real times at which cells are taken, increasing, for example ``(2, 4, 6)``: the column ``time`` holds those
        days only (each cell goes to the nearest), and velocities are in units per day. None: continuous time in [0, 1].
    n_batches
        If given, a column ``batch`` of this many batches that differ in nothing.
    random_state
        Seed.

    Returns
    -------
    AnnData with ``X`` and ``obsm["X_pca"]`` (n_cells, `n_dims`) noisy positions, ``obsm["X_true"]`` positions on the
    curve, ``obsm["velocity"]`` the velocity there in units per unit of ``obs["time"]``; ``obs["branch"]`` is ``"A"``,
    ``"B"``, ``"C"`` or ``"trunk"``; ``uns["simulation"]`` keeps the arguments and ``split``, the time where branches
    part or meet (absent without branches). All float32 but the time.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> adata = simulated_dynamics("bifurcation", n_cells=300, n_dims=10)
    >>> adata.obsm["velocity"].shape, sorted(adata.obs["branch"].unique())
    ((300, 10), ['A', 'B', 'trunk'])
    """
    _check(kind, n_cells, n_dims, noise, density, growth, n_batches)
    clock = None if days is None else _days(days)
    rng = np.random.default_rng(random_state)
    t = rng.beta(*(_DENSITY[density] if isinstance(density, str) else density), size=n_cells)
    start, span = 0.0, 1.0
    if clock is not None:
        start, span = clock[0], clock[-1] - clock[0]
        t = (clock[np.abs(t[:, None] * span + start - clock).argmin(axis=1)] - start) / span
    curve = _cycle(t) if kind == "cycle" else _paths(kind, t, _draw_branches(rng, kind, t, growth))
    turn = np.linalg.qr(rng.normal(size=(n_dims, n_dims)))[0][:_LEADING]
    x = curve.x @ turn
    noisy = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    adata = anndata.AnnData(noisy, obs=_obs(t * span + start, kind, curve.branch))
    adata.var_names = [f"dim{j}" for j in range(n_dims)]
    adata.obsm["X_pca"], adata.obsm["X_true"] = noisy.copy(), x.astype(np.float32)
    adata.obsm["velocity"] = (curve.velocity @ turn / span).astype(np.float32)
    if n_batches is not None:
        adata.obs["batch"] = pd.Categorical([f"batch{b}" for b in rng.integers(n_batches, size=n_cells)])
    told = {"kind": kind, "noise": float(noise), "growth": float(growth), "seed": random_state}
    adata.uns["simulation"] = told | {"split": start + span * _SPLIT[kind]} if kind in _SPLIT else told
    return adata


def _check(
    kind: str,
    n_cells: int,
    n_dims: int,
    noise: float,
    density: str | tuple[float, float],
    growth: float,
    n_batches: int | None,
) -> None:
    if kind not in get_args(Dynamics):
        raise ValueError(f"kind={kind!r} must be one of {', '.join(get_args(Dynamics))}.")
    for name, value, low in (("n_cells", n_cells, 10), ("n_dims", n_dims, _LEADING), ("n_batches", n_batches, 1)):
        if value is not None and value < low:
            raise ValueError(f"{name}={value} must be at least {low}.")
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise={noise} must be a number of at least 0.")
    if isinstance(density, str) and density not in _DENSITY:
        raise ValueError(f"density={density!r} must be one of {', '.join(_DENSITY)}, or the two numbers of a Beta law.")
    if not isinstance(density, str) and not (len(density) == 2 and min(density) > 0):
        raise ValueError(f"density={density!r} must be two positive numbers (a Beta law) or a name.")
    if not 0 <= growth < 1:
        raise ValueError(f"growth={growth} must lie in [0, 1).")
    if growth and kind not in _SPLIT:
        raise ValueError(f"growth={growth} needs branches, and kind={kind!r} has none: leave it 0.")


def _days(days: Sequence[float]) -> NDArray[np.float64]:
    clock = np.asarray(days, dtype=np.float64)
    if clock.ndim != 1 or len(clock) < 2 or not np.isfinite(clock).all() or (np.diff(clock) <= 0).any():
        raise ValueError(f"days={days!r} must be at least two increasing numbers.")
    return clock


def _obs(time: NDArray[np.float64], kind: str, branch: NDArray[np.int64]) -> pd.DataFrame:
    names = np.array([*"ABC"[: _N_BRANCHES.get(kind, 0)], "trunk"])
    index = [f"cell{i}" for i in range(len(time))]
    return pd.DataFrame({"time": time, "branch": pd.Categorical(names[branch], categories=names)}, index=index)


def _draw_branches(rng: np.random.Generator, kind: str, t: NDArray[np.float64], growth: float) -> NDArray[np.int64]:
    """(n,) the branch of each cell, drawn by the shares at its time; 0 where there are no branches."""
    m = _N_BRANCHES.get(kind, 1)
    split = _SPLIT.get(kind, 0.0)
    along = t / split if kind == "converging" else (t - split) / (1 - split)
    first = (1 - growth) / m + growth * along.clip(0, 1) if m > 1 else np.ones(len(t))
    other = rng.integers(1, max(m, 2), size=len(t))
    return np.where(rng.uniform(size=len(t)) < first, 0, other)


def _paths(kind: str, t: NDArray[np.float64], drawn: NDArray[np.int64]) -> _Curve:
    if kind == "converging":
        back = _forked(1 - t, drawn, 1 - _SPLIT[kind], 2)
        # seen in reversed time: the trunk lies ahead, and every derivative changes its sign
        return _Curve(-back.x, back.velocity, back.branch)
    return _forked(t, drawn, _SPLIT.get(kind, 1.0), _N_BRANCHES.get(kind, 1))


def _forked(t: NDArray[np.float64], drawn: NDArray[np.int64], split: float, m: int) -> _Curve:
    """Progress, bend, and from `split` on s^2 (so the tangent is continuous) in one of m directions of a plane."""
    wave = 2 * np.pi * t
    x, velocity = np.zeros((2, len(t), _LEADING))
    x[:, 0] = _LENGTH * (t + _UNEVEN * np.sin(wave) / (2 * np.pi))
    velocity[:, 0] = _LENGTH * (1 + _UNEVEN * np.cos(wave))
    x[:, 1] = _BEND * np.sin(np.pi * t)
    velocity[:, 1] = _BEND * np.pi * np.cos(np.pi * t)
    if m == 1:
        return _Curve(x, velocity, np.full(len(t), -1))
    s = (t - split).clip(0) / (1 - split)
    angle = 2 * np.pi * drawn / m
    away = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[:, 2:4] = _SPREAD * (s**2)[:, None] * away
    velocity[:, 2:4] = _SPREAD * (2 * s / (1 - split))[:, None] * away
    return _Curve(x, velocity, np.where(t > split, drawn, -1))


def _cycle(t: NDArray[np.float64]) -> _Curve:
    """A circle whose plane is bent once up and down on the way round."""
    angle = 2 * np.pi * t
    zero = np.zeros_like(t)
    x = np.stack([np.cos(angle), np.sin(angle), 0.4 * np.sin(2 * angle), zero], axis=1)
    slope = np.stack([-np.sin(angle), np.cos(angle), 0.8 * np.cos(2 * angle), zero], axis=1)
    return _Curve(_RADIUS * x, 2 * np.pi * _RADIUS * slope, np.full(len(t), -1))
