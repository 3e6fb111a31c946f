"""Simulated cells that move along known curves: positions, times, branches and true velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import anndata
import numpy as np
import pandas as pd

from muport._checks import check_integers, check_not_negative, check_option, check_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Dynamics = Literal["linear", "bifurcation", "trifurcation", "cycle", "converging"]

_LENGTH = 12.0  # length of a path
_BEND = 2.0  # largest deviation of its common part from a line
_SPREAD = 5.0  # distance of the ends of branches from their mean
_RADIUS = 2.5  # radius of the cycle
_UNEVEN = 0.3  # speed along a path is 1 + _UNEVEN cos(2 pi t)
#: Time at which one path becomes several, or several become one.
_SPLIT = {"bifurcation": 0.4, "trifurcation": 0.4, "converging": 0.6}
_N_BRANCHES = {"bifurcation": 2, "trifurcation": 3, "converging": 2}
_CURVE_DIMS = 4  # dimensions of the curves
#: Parameters of the Beta distribution of time.
_DENSITY = {"uniform": (1.0, 1.0), "early": (1.0, 3.0), "late": (3.0, 1.0)}


@dataclass(frozen=True)
class _Curve:
    """Points (n, _CURVE_DIMS), their derivatives by t in [0, 1], and the branch (n,), -1 on the common part."""

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

    A path advances by 12 units in unit time, 30 % faster at its ends and 30 % slower in its middle, and bends sideways
    by 2 units. Branches leave it at t = 0.4 in its direction and end 5 units from their mean, so that their tangents
    turn by up to 47 degrees. In ``"converging"`` two branches join at t = 0.6 (the bifurcation with time reversed).
    ``"cycle"`` is a closed curve of radius 2.5, passed once. The curves lie in 4 dimensions and are mapped into
    `n_dims` by a random orthogonal map. With c_b(t) the curve of branch b, a cell is

    .. math:: x = c_b(t) + \text{noise} \cdot \eta,\quad \eta \sim N(0, I), \qquad v = \mathrm{d} c_b / \mathrm{d} t .

    Parameters
    ----------
    kind
        Shape of the paths.
    n_cells
        Number of cells.
    n_dims
        Number of dimensions, at least 4.
    noise
        Standard deviation of the noise in *every* dimension, in the units above. 0.1 is little; with 0.5, a cell of 50
        dimensions is 3.5 units away from its curve.
    density
        Distribution of the cells over time: ``"uniform"``, three times that density at the start (``"early"``,
        Beta(1, 3)) or at the end (``"late"``, Beta(3, 1)), or the two parameters of a Beta distribution.
    growth
        In [0, 1): the fraction of cells on branch ``"A"`` of m branches grows linearly in time from (1 - growth)/m at
        the split to (1 - growth)/m + growth at the end. With 0.94 and two branches it is 3 % to 97 %; with 0 all
        branches have equal fractions.
    days
        Increasing times of sampling, for example ``(2, 4, 6)``: each cell is assigned to the nearest, and velocities
        are in units per day. None: continuous time in [0, 1].
    n_batches
        If given, number of batches in a column ``batch``; batches do not differ.
    random_state
        Seed.

    Returns
    -------
    AnnData with ``X`` and ``obsm["X_pca"]`` (n_cells, `n_dims`) noisy positions, ``obsm["X_true"]`` positions on the
    curve, ``obsm["velocity"]`` the velocity on the curve in units per unit of ``obs["time"]``. ``obs["branch"]`` is
    ``"A"``, ``"B"``, ``"C"`` or ``"trunk"``; ``uns["simulation"]`` keeps the arguments and ``split``, the time at which
    branches split or join (absent without branches). All arrays but the time are float32.

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
    check_option("kind", kind, get_args(Dynamics))
    check_integers(10, n_cells=n_cells)
    check_integers(_CURVE_DIMS, n_dims=n_dims)
    check_integers(1, n_batches=1 if n_batches is None else n_batches)
    check_not_negative(noise=noise)
    _check_growth(growth, kind)
    sampling_times = None if days is None else _sampling_times(days)
    check_seed(random_state)
    rng = np.random.default_rng(random_state)
    t = rng.beta(*_beta_parameters(density), size=n_cells)
    start, span = 0.0, 1.0
    if sampling_times is not None:
        start, span = sampling_times[0], sampling_times[-1] - sampling_times[0]
        nearest = np.abs(t[:, None] * span + start - sampling_times).argmin(axis=1)
        t = (sampling_times[nearest] - start) / span
    curve = _cycle(t) if kind == "cycle" else _paths(kind, t, _draw_branches(rng, kind, t, growth))
    rotation = np.linalg.qr(rng.normal(size=(n_dims, n_dims)))[0][:_CURVE_DIMS]
    x = curve.x @ rotation
    noisy = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    adata = anndata.AnnData(noisy, obs=_obs(t * span + start, kind, curve.branch))
    adata.var_names = [f"dim{j}" for j in range(n_dims)]
    adata.obsm["X_pca"], adata.obsm["X_true"] = noisy.copy(), x.astype(np.float32)
    adata.obsm["velocity"] = (curve.velocity @ rotation / span).astype(np.float32)
    if n_batches is not None:
        adata.obs["batch"] = pd.Categorical([f"batch{b}" for b in rng.integers(n_batches, size=n_cells)])
    adata.uns["simulation"] = {"kind": kind, "noise": float(noise), "growth": float(growth), "seed": random_state}
    if kind in _SPLIT:
        adata.uns["simulation"]["split"] = start + span * _SPLIT[kind]
    return adata


def _check_growth(growth: float, kind: str) -> None:
    if not 0 <= growth < 1:
        raise ValueError(f"growth={growth} must be a number of at least 0 and below 1.")
    if growth and kind not in _SPLIT:
        raise ValueError(f"growth={growth} needs branches, but kind={kind!r} has none: use 0.")


def _beta_parameters(density: str | tuple[float, float]) -> tuple[float, float]:
    if isinstance(density, str) and density in _DENSITY:
        return _DENSITY[density]
    if isinstance(density, str) or len(density) != 2 or not min(density) > 0:
        raise ValueError(f"density={density!r} must be one of {', '.join(_DENSITY)}, or two numbers above 0.")
    return density


def _sampling_times(days: Sequence[float]) -> NDArray[np.float64]:
    times = np.asarray(days, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(f"days={days!r} must be at least two increasing numbers.")
    return times


def _obs(time: NDArray[np.float64], kind: str, branch: NDArray[np.int64]) -> pd.DataFrame:
    names = np.array([*"ABC"[: _N_BRANCHES.get(kind, 0)], "trunk"])
    index = [f"cell{i}" for i in range(len(time))]
    return pd.DataFrame({"time": time, "branch": pd.Categorical(names[branch], categories=names)}, index=index)


def _draw_branches(rng: np.random.Generator, kind: str, t: NDArray[np.float64], growth: float) -> NDArray[np.int64]:
    """Draw the branch (n,) of each cell by the fractions at its time; 0 without branches."""
    m = _N_BRANCHES.get(kind, 1)
    split = _SPLIT.get(kind, 0.0)
    progress = t / split if kind == "converging" else (t - split) / (1 - split)
    fraction_of_first = (1 - growth) / m + growth * progress.clip(0, 1) if m > 1 else np.ones(len(t))
    later_branch = rng.integers(1, max(m, 2), size=len(t))
    return np.where(rng.uniform(size=len(t)) < fraction_of_first, 0, later_branch)


def _paths(kind: str, t: NDArray[np.float64], branch: NDArray[np.int64]) -> _Curve:
    if kind == "converging":
        reverse = _branching(1 - t, branch, 1 - _SPLIT[kind], 2)
        # The reflection puts the trunk at the end; it and the reversal of time both change the sign of the velocity.
        return _Curve(-reverse.x, reverse.velocity, reverse.branch)
    return _branching(t, branch, _SPLIT.get(kind, 1.0), _N_BRANCHES.get(kind, 1))


def _branching(t: NDArray[np.float64], branch: NDArray[np.int64], split: float, m: int) -> _Curve:
    """Curve with m branches from `split` on, each in its own direction of a plane.

    A branch leaves the trunk by the square of the time since the split, so that the tangent is continuous.
    """
    wave = 2 * np.pi * t
    x, velocity = np.zeros((2, len(t), _CURVE_DIMS))
    x[:, 0] = _LENGTH * (t + _UNEVEN * np.sin(wave) / (2 * np.pi))
    velocity[:, 0] = _LENGTH * (1 + _UNEVEN * np.cos(wave))
    x[:, 1] = _BEND * np.sin(np.pi * t)
    velocity[:, 1] = _BEND * np.pi * np.cos(np.pi * t)
    if m == 1:
        return _Curve(x, velocity, np.full(len(t), -1))
    s = (t - split).clip(0) / (1 - split)
    angle = 2 * np.pi * branch / m
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[:, 2:4] = _SPREAD * (s**2)[:, None] * direction
    velocity[:, 2:4] = _SPREAD * (2 * s / (1 - split))[:, None] * direction
    return _Curve(x, velocity, np.where(t > split, branch, -1))


def _cycle(t: NDArray[np.float64]) -> _Curve:
    """Circle whose third coordinate rises and falls twice in one turn."""
    angle = 2 * np.pi * t
    zero = np.zeros_like(t)
    x = np.stack([np.cos(angle), np.sin(angle), 0.4 * np.sin(2 * angle), zero], axis=1)
    derivative = np.stack([-np.sin(angle), np.cos(angle), 0.8 * np.cos(2 * angle), zero], axis=1)
    return _Curve(_RADIUS * x, 2 * np.pi * _RADIUS * derivative, np.full(len(t), -1))
