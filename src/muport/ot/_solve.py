"""The facade of all transport solvers: checks, cost, solver and result."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from muport._checks import check_integers, check_not_negative, check_option
from muport.ot._cost import METRICS, SCALES, add_penalty, clip_cost, cost_matrix, scale_cost
from muport.ot._exact import solve_exact
from muport.ot._gromov import GromovSettings, solve_gromov
from muport.ot._inputs import Array, Arrays, Batch, make_batch, to_tensor
from muport.ot._sinkhorn import sinkhorn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muport.ot._result import OTResult

__all__ = ["solve"]

_METHODS = ("sinkhorn", "exact", "gromov", "fused_gromov")
_MAX_ITER = {"sinkhorn": 5000, "exact": 1_000_000, "gromov": 1000, "fused_gromov": 1000}
_ANNEAL_ABOVE = 100.0  # range of the cost over eps beyond which eps is decreased in steps
_HARD = (math.inf, math.inf)  # relaxations of hard marginals
#: Arguments that are None by default, and the methods that use them.
_USED_BY = {
    "cost": ("sinkhorn", "exact", "fused_gromov"),
    "penalty": ("sinkhorn", "exact", "fused_gromov"),
    "init": ("sinkhorn",),
    "cx": ("gromov", "fused_gromov"),
    "cy": ("gromov", "fused_gromov"),
}


def solve(
    x: Arrays | None = None,
    y: Arrays | None = None,
    *,
    cost: Arrays | None = None,
    a: Arrays | None = None,
    b: Arrays | None = None,
    method: Literal["sinkhorn", "exact", "gromov", "fused_gromov"] = "sinkhorn",
    reg: float | Tensor = 0.05,
    reg_m: float | tuple[float, float] | None = None,
    reg_type: Literal["kl", "entropy"] = "kl",
    metric: Literal["sqeuclidean", "cosine"] = "sqeuclidean",
    scale: Literal["std", "median"] | None = None,
    clip_quantile: float | None = None,
    penalty: Arrays | None = None,
    init: tuple[Tensor, Tensor] | None = None,
    eps_scaling: float | Literal["auto"] | None = "auto",
    max_iter: int | None = None,
    tol: float | None = None,
    cx: Array | None = None,
    cy: Array | None = None,
    alpha: float = 0.5,
    n_restarts: int = 1,
    random_state: int = 0,
) -> OTResult:
    """Transport mass between two sets of points, or over a given cost.

    The entropic problem is Eq. 3 of the scBIOT paper, min over T >= 0 of
    <C, T> + reg KL(T | R) + lam_a KL(T1 | a) + lam_b KL(T'1 | b), with R = a b' (``reg_type="kl"``) or R = 1
    (``"entropy"``, as in the paper). One problem, a batch of equal shapes (a leading axis), or a list of problems of
    any sizes is solved at once.

    Parameters
    ----------
    x
        (n, d) points, (B, n, d) for a batch, or a list of arrays of points.
    y
        (m, d), (B, m, d) or a list.
    cost
        (n, m), (B, n, m) or a list of costs, instead of ``x`` and ``y`` (for ``"fused_gromov"``: the linear part). May
        be negative; ``inf`` forbids a pair.
    a
        (n,) or (B, n) row masses, zeros allowed, or a list; uniform with sum 1 by default.
    b
        (m,) or (B, m) column masses, or a list.
    method
        ``"sinkhorn"`` (entropic), ``"exact"`` (network simplex, balanced), ``"gromov"`` or ``"fused_gromov"``
        (structures).
    reg
        Entropic regularization eps, in units of the scaled cost; a number, or (B,) for a batch. For Gromov methods 0
        means no entropy; ``"exact"`` ignores it.
    reg_m
        Marginal relaxation lam, in units of the scaled cost: ``None`` or ``inf`` is a hard marginal; a pair holds the
        values of the row and of the column marginal. Entropic problems only.
    reg_type
        Reference measure of the regularization, see above. The plans differ only where a marginal is relaxed.
    metric
        ``"sqeuclidean"`` or ``"cosine"``.
    scale
        Divide each cost by its ``"std"`` (Eq. 2) or ``"median"``.
    clip_quantile
        Quantile in (0, 1] of the scaled cost; larger costs are set to it.
    penalty
        Matrix added to the scaled cost, ``inf`` for forbidden pairs, or boolean mask of these.
    init
        Potentials (f, g) to start from, as in the result.
    eps_scaling
        Factor in (0, 1) by which eps decreases to ``reg``, ``None`` for a constant eps, ``"auto"`` for .5 where ``reg``
        is small.
    max_iter
        Most iterations (5,000 Sinkhorn sweeps, 1,000 Gromov steps by default).
    tol
        Convergence tolerance: largest change of the potentials over eps (default 1e-5 in float32, 1e-9 in float64).
    cx
        (n, n) structure of the rows for Gromov methods; by default the scaled cost of ``x`` with itself.
    cy
        (m, m) structure of the columns.
    alpha
        Weight of the structures against the linear cost in ``"fused_gromov"``, in [0, 1].
    n_restarts
        Number of starts of the (non-convex) Gromov methods, the best of which is kept.
    random_state
        Seed of the restarts.

    Returns
    -------
    OTResult
        Potentials or plan, in the type and on the device of ``x`` or ``cost``.

    Raises
    ------
    ValueError
        For NaN, infinite points or masses, negative masses, shapes that do not fit, unequal sums of hard masses,
        unknown options, arguments that the method does not use, or costs so large beside `reg` that the digits of their
        type do not suffice.
    TypeError
        If an array is not one of real numbers.

    Warns
    -----
    RuntimeWarning
        Once per call, when a problem did not converge.

    Examples
    --------
    >>> import torch
    >>> from muport.ot import solve
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> result = solve(x, x + 1, reg=0.1, scale="std", reg_m=1.0)
    >>> result.plan.shape, bool(result.converged), bool(result.mass < 1)
    (torch.Size([20, 20]), True, True)
    """
    for name, value, options in (
        ("method", method, _METHODS),
        ("metric", metric, METRICS),
        ("scale", scale, (*SCALES, None)),
        ("reg_type", reg_type, ("kl", "entropy")),
    ):
        check_option(name, value, options)
    if clip_quantile is not None and not 0 < clip_quantile <= 1:
        raise ValueError(f"clip_quantile={clip_quantile!r} is outside (0, 1].")
    make_cost = _cost_maker(metric, scale, clip_quantile)
    limit = _MAX_ITER[method] if max_iter is None else max_iter
    check_integers(max_iter=limit)
    if tol is not None:
        check_not_negative(tol=tol)
    lam = _relaxations(reg_m)
    if method != "sinkhorn" and lam != _HARD:
        raise ValueError(f"reg_m={reg_m!r} needs method='sinkhorn': {method!r} has hard marginals.")
    arrays = {"x": x, "y": y, "cost": cost, "penalty": penalty}
    _check_used(method, arrays | {"init": init, "cx": cx, "cy": cy})
    if method in ("gromov", "fused_gromov"):
        settings = GromovSettings(alpha, float(reg), n_restarts, random_state, limit, 1e-9 if tol is None else tol)
        result = _solve_structures(make_cost, arrays | {"cx": cx, "cy": cy}, (a, b), method == "fused_gromov", settings)
    else:
        batch = _balanced(make_batch(make_cost, arrays, a, b), lam)
        if method == "exact":
            result = solve_exact(batch, limit)
        else:
            result = _solve_entropic(batch, _epsilon(reg, batch), lam, reg_type, init, eps_scaling, limit, tol)
        result = result[0] if batch.single else result
    _warn(result, method, limit)
    return result


def _check_used(method: str, given: dict[str, Any]) -> None:
    """Refuse an argument that the method would ignore."""
    for name, methods in _USED_BY.items():
        if given[name] is not None and method not in methods:
            raise ValueError(f"{name}= is not used by method={method!r}: leave it out, or use one of {list(methods)}.")


def _cost_maker(metric: str, scale: str | None, clip_quantile: float | None) -> Callable[..., Tensor]:
    """Make the function from the named arrays of one problem to its cost."""

    def make_cost(x: Array | None, y: Array | None, cost: Array | None, penalty: Array | None) -> Tensor:
        if cost is not None:
            if x is not None or y is not None:
                raise ValueError("Give either the points x and y or their cost, not both.")
            raw = to_tensor(cost, "cost", (2, 3), forbids=True)
            scaled = clip_cost(scale_cost(raw, scale), clip_quantile)
        else:
            scaled = cost_matrix(*_points(x, y), metric=metric, scale=scale, clip_quantile=clip_quantile)
        return add_penalty(scaled, _penalty(penalty, scaled))

    return make_cost


def _points(x: Array | None, y: Array | None) -> tuple[Tensor, Tensor]:
    if x is None or y is None:
        raise ValueError("Two sets of points x and y, or a cost, are needed.")
    x = to_tensor(x, "x", (2, 3))
    y = to_tensor(y, "y", (2, 3), like=x)
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"x {tuple(x.shape)} and y {tuple(y.shape)} must agree in batch and in the number of coordinates."
        )
    _check_squares(x, y)
    return x, y


def _check_squares(x: Tensor, y: Tensor) -> None:
    """Refuse coordinates whose squares are infinite, or zero, in the type of the points."""
    largest = float(torch.maximum(x.abs().amax(), y.abs().amax()))
    info = torch.finfo(x.dtype)
    if largest > math.sqrt(info.max / (16 * x.shape[-1])) or 0 < largest < math.sqrt(info.tiny):
        raise ValueError(
            f"The largest coordinate of x and y is {largest:g}, and {x.dtype} cannot hold its square: divide the "
            "points by their scale, or pass float64."
        )


def _penalty(penalty: Array | None, cost: Tensor) -> Tensor | None:
    if penalty is None:
        return None
    is_mask = getattr(penalty, "dtype", None) in (np.dtype(bool), torch.bool)
    added = to_tensor(penalty, "penalty", (2, 3), like=cost, forbids=True)
    added = added.bool() if is_mask else added
    if added.shape not in (cost.shape, cost.shape[-2:]):
        raise ValueError(f"penalty has shape {tuple(added.shape)}, but the cost {tuple(cost.shape)}.")
    return added


def _relaxations(reg_m: float | tuple[float, float] | None) -> tuple[float, float]:
    pair = reg_m if isinstance(reg_m, (tuple, list)) else (reg_m, reg_m)
    lam = tuple(math.inf if relaxation is None else float(relaxation) for relaxation in pair)
    if len(lam) != 2 or not all(relaxation >= 0 for relaxation in lam):
        raise ValueError(f"reg_m={reg_m!r} must be a number >= 0, None or inf (hard marginal), or a pair of them.")
    return lam


def _balanced(batch: Batch, lam: tuple[float, float]) -> Batch:
    """Check the conditions of hard marginals: equal sums, and an allowed pair for every row and column with mass."""
    allowed = batch.cost.isfinite() & (batch.a > 0)[:, :, None] & (batch.b > 0)[:, None, :]
    for name, mass, axis, relaxation in (("a", batch.a, 2, lam[0]), ("b", batch.b, 1, lam[1])):
        isolated = (mass > 0) & ~allowed.any(axis)
        if relaxation == math.inf and bool(isolated.any()):
            position = tuple(torch.nonzero(isolated)[0].tolist())
            raise ValueError(f"Every pair of entry {position} of {name} is forbidden: allow one, or give reg_m.")
    if lam != _HARD:
        return batch
    ratio = (batch.a.sum(-1) / batch.b.sum(-1))[:, None]
    if bool(((ratio - 1).abs() > 1e-4).any()):
        sums = f"{float(batch.a.sum(-1)[0]):g} and {float(batch.b.sum(-1)[0]):g}"
        raise ValueError(
            f"a and b need equal sums for hard marginals (first problem: {sums}): normalize them or give reg_m."
        )
    return Batch(batch.cost, batch.a, batch.b * ratio, batch.single, batch.sizes)


def _epsilon(reg: float | Tensor, batch: Batch) -> Tensor:
    try:
        eps = torch.as_tensor(reg, dtype=batch.cost.dtype, device=batch.cost.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"reg={reg!r} must be a number, or an array of numbers, one per problem.") from error
    if eps.ndim > 1 or eps.ndim == 1 and len(eps) != len(batch.cost):
        raise ValueError(f"reg has shape {tuple(eps.shape)}: give a number, or one per problem ({len(batch.cost)}).")
    if not bool(((eps > 0) & eps.isfinite()).all()):
        raise ValueError(
            f"reg={reg!r} must be positive and finite; for a plan without regularization use method='exact'."
        )
    return eps.expand(len(batch.cost)).contiguous()


def _solve_entropic(
    batch: Batch,
    eps: Tensor,
    lam: tuple[float, float],
    reg_type: str,
    init: tuple[Tensor, Tensor] | None,
    eps_scaling: float | str | None,
    max_iter: int,
    tol: float | None,
) -> OTResult:
    start = None if init is None else _start(init, batch)
    factor = _annealing_factor(eps_scaling, batch.cost, eps) if start is None else None
    potentials = sinkhorn(
        batch.cost,
        batch.a,
        batch.b,
        eps,
        reg_m=lam,
        reg_type=reg_type,
        init=start,
        eps_scaling=factor,
        max_iter=max_iter,
        tol=tol,
    )
    return replace(potentials.to_result(), reg_m=lam, sizes=batch.sizes)


def _start(init: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    f, g = (torch.as_tensor(potential).to(batch.cost) for potential in init)
    f, g = (potential[None] if batch.single else potential for potential in (f, g))
    if f.shape != batch.a.shape or g.shape != batch.b.shape:
        expected = (tuple(batch.a.shape[batch.single :]), tuple(batch.b.shape[batch.single :]))
        raise ValueError(f"init has shapes {tuple(init[0].shape)} and {tuple(init[1].shape)} instead of {expected}.")
    if not bool(f.isfinite().all() & g.isfinite().all()):
        raise ValueError("init has a NaN or infinite entry: start from finite potentials, or without init.")
    return f, g


def _annealing_factor(eps_scaling: float | str | None, cost: Tensor, eps: Tensor) -> float | None:
    if eps_scaling is None:
        return None
    if eps_scaling == "auto":
        finite = cost.masked_fill(cost.isinf(), 0)
        span = finite.amax((1, 2)) - finite.amin((1, 2))
        return 0.5 if bool((span > _ANNEAL_ABOVE * eps).any()) else None
    if isinstance(eps_scaling, str) or not 0 < eps_scaling < 1:
        raise ValueError(f"eps_scaling={eps_scaling!r} must be 'auto', None, or a factor in (0, 1).")
    return float(eps_scaling)


def _solve_structures(
    make_cost: Callable[..., Tensor],
    arrays: dict[str, Arrays | None],
    masses: tuple[Arrays | None, Arrays | None],
    fused: bool,
    settings: GromovSettings,
) -> OTResult:
    """Solve a Gromov problem between two structures, fused with the cost between the points or without it."""
    if any(isinstance(value, (list, tuple)) for value in (*arrays.values(), *masses)):
        raise ValueError("Gromov methods take one problem of arrays, not a list.")
    cx, cy = (_structure(make_cost, arrays, axis) for axis in ("x", "y"))
    cy = cy.to(cx)
    linear = {name: arrays[name] for name in ("x", "y", "cost", "penalty")}
    if not fused:
        settings = replace(settings, alpha=1.0)
        linear = dict.fromkeys(linear) | {"cost": cx.new_zeros(len(cx), len(cy))}
    elif linear["cost"] is not None:
        # here the points serve for the structures only
        linear |= {"x": None, "y": None}
    batch = _balanced(make_batch(make_cost, linear, *masses), _HARD)
    if batch.cost.shape[1:] != (len(cx), len(cy)):
        raise ValueError(f"The linear cost {tuple(batch.cost.shape[1:])} does not fit cx {len(cx)} and cy {len(cy)}.")
    if bool(batch.cost.isinf().any()):
        raise ValueError("Pairs cannot be forbidden in 'fused_gromov': use a large finite cost.")
    return solve_gromov(cx, cy, batch, settings)[0]


def _structure(make_cost: Callable[..., Tensor], arrays: dict[str, Arrays | None], axis: str) -> Tensor:
    """Return the square structure of one axis: the given one, or the cost of its points with themselves."""
    structure, points = arrays[f"c{axis}"], arrays[axis]
    if structure is None and points is None:
        raise ValueError(f"Gromov methods need the structure c{axis} or the points {axis}.")
    if structure is None:
        return make_cost(x=points, y=points, cost=None, penalty=None)
    square = to_tensor(structure, f"c{axis}", (2,))  # type: ignore[arg-type]
    if square.shape[0] != square.shape[1]:
        raise ValueError(f"c{axis} has shape {tuple(square.shape)}: a structure is square.")
    return square


def _warn(result: OTResult, method: str, max_iter: int) -> None:
    failed = int((~result.converged).sum())
    if failed:
        advice = (
            "forbid fewer pairs, as their masses have nowhere else to go, or raise max_iter."
            if method == "exact"
            else "raise reg (more entropy), raise max_iter, or pass float64 arrays."
        )
        warnings.warn(
            f"{failed} of {result.converged.numel()} transport problems did not converge in max_iter={max_iter} "
            f"iterations: {advice}",
            RuntimeWarning,
            stacklevel=3,
        )
