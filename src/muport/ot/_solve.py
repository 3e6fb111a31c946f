"""The facade: checks, a cost, a solver, one result."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from muport._checks import check_option
from muport.ot._cost import METRICS, SCALES, add_penalty, clip_cost, cost_matrix, scale_cost
from muport.ot._exact import solve_exact
from muport.ot._gromov import solve_gromov
from muport.ot._inputs import Array, Arrays, Batch, make_batch, to_tensor
from muport.ot._result import OTResult
from muport.ot._sinkhorn import sinkhorn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["solve"]

_METHODS = ("sinkhorn", "exact", "gromov", "fused_gromov")
_MAX_ITER = {"sinkhorn": 5000, "exact": 1_000_000, "gromov": 1000, "fused_gromov": 1000}
_ANNEAL_ABOVE = 100.0  # range of the cost over eps beyond which eps is decreased in steps


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
    """Transport mass between two point clouds, or over a given cost.

    The entropic problem is Eq. 3 of the scBIOT paper, min over T >= 0 of
    <C, T> + reg KL(T | R) + lam_a KL(T1 | a) + lam_b KL(T'1 | b), with R = a b' (``reg_type="kl"``) or R = 1
    (``"entropy"``, the paper's).  One problem, a batch of equal shapes (a leading axis), or a list of problems of any
    sizes is solved at once.

    Parameters
    ----------
    x
        (n, d) points, (B, n, d) batch, or a list of point clouds.
    y
        (m, d), (B, m, d) or a list.
    cost
        (n, m), (B, n, m) or a list of costs, instead of ``x`` and ``y`` (for ``"fused_gromov"``: the linear part).
    a
        (n,) or (B, n) row masses, zeros allowed, or a list; uniform with sum 1 by default.
    b
        (m,) or (B, m) column masses, or a list.
    method
        ``"sinkhorn"`` (entropic), ``"exact"`` (network simplex, balanced), ``"gromov"`` or ``"fused_gromov"``
        (structures).
    reg
        Entropic regularisation eps, in units of the scaled cost; a number, or (B,) for a batch. For Gromov methods 0
        turns the entropy off; ``"exact"`` ignores it.
    reg_m
        Marginal relaxation lam, in units of the scaled cost: ``None`` or ``inf`` is a hard marginal, a pair gives the
        row and the column marginal their own. Entropic problems only.
    reg_type
        Reference measure of the regularisation, see above. The plans differ only where a marginal is relaxed.
    metric
        ``"sqeuclidean"`` or ``"cosine"``.
    scale
        Divide each cost by its ``"std"`` (Eq. 2) or ``"median"``.
    clip_quantile
        Flatten the scaled cost above this quantile, in (0, 1].
    penalty
        Added to the scaled cost: a matrix, or a boolean mask of forbidden pairs.
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
        Starts of the (non-convex) Gromov methods, the best of which is kept.
    random_state
        Seed of the restarts.

    Returns
    -------
    OTResult
        Potentials or plan, in the type and on the device of ``x`` or ``cost``.

    Raises
    ------
    ValueError
        For NaN, infinite or negative entries, shapes that do not fit, unequal sums of hard masses, unknown options.

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
    _check_range("clip_quantile", clip_quantile, 0, 1)
    make = _cost_maker(metric, scale, clip_quantile)
    limit = _MAX_ITER[method] if max_iter is None else max_iter
    lam = _relaxation(reg_m)
    if method != "sinkhorn" and lam != (math.inf, math.inf):
        raise ValueError(f"reg_m={reg_m!r} needs method='sinkhorn': {method!r} has hard marginals.")
    if method in ("gromov", "fused_gromov"):
        result = _structured(
            make,
            {"x": x, "y": y, "cost": cost, "penalty": penalty, "cx": cx, "cy": cy},
            (a, b),
            fused=method != "gromov",
            alpha=alpha,
            reg=float(reg),
            n_restarts=n_restarts,
            random_state=random_state,
            max_iter=limit,
            tol=1e-9 if tol is None else tol,
        )
    else:
        batch = _balanced(make_batch(make, {"x": x, "y": y, "cost": cost, "penalty": penalty}, a, b), lam)
        if method == "exact":
            result = solve_exact(batch, limit)
        else:
            result = _entropic(batch, _epsilon(reg, batch), lam, reg_type, init, eps_scaling, limit, tol)
        result = result if not batch.single else _squeeze(result)
    _warn(result, limit)
    return result


def _cost_maker(metric: str, scale: str | None, clip_quantile: float | None) -> Callable[..., Tensor]:
    """Make the function from the named arrays of one problem to its finished cost."""

    def make(x: Array | None, y: Array | None, cost: Array | None, penalty: Array | None) -> Tensor:
        if cost is not None:
            if x is not None or y is not None:
                raise ValueError("Give either the points x and y or their cost, not both.")
            raw = to_tensor(cost, "cost", (2, 3))
            finished = clip_cost(scale_cost(raw, scale), clip_quantile)
        else:
            px, py = _points(x, y)
            finished = cost_matrix(px, py, metric=metric, scale=scale, clip_quantile=clip_quantile)
        return add_penalty(finished, _penalty(penalty, finished))

    return make


def _points(x: Array | None, y: Array | None) -> tuple[Tensor, Tensor]:
    if x is None or y is None:
        raise ValueError("Two point clouds x and y, or a cost, are needed.")
    px = to_tensor(x, "x", (2, 3))
    py = to_tensor(y, "y", (2, 3), like=px)
    if px.shape[-1] != py.shape[-1] or px.shape[:-2] != py.shape[:-2]:
        raise ValueError(
            f"x {tuple(px.shape)} and y {tuple(py.shape)} must agree in batch and in the number of coordinates."
        )
    return px, py


def _penalty(penalty: Array | None, cost: Tensor) -> Tensor | None:
    if penalty is None:
        return None
    mask = torch.as_tensor(penalty).to(cost.device)
    added = mask if mask.dtype == torch.bool else to_tensor(penalty, "penalty", (2, 3), like=cost)
    if added.shape not in (cost.shape, cost.shape[-2:]):
        raise ValueError(f"penalty has shape {tuple(added.shape)}, but the cost {tuple(cost.shape)}.")
    return added


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low < value <= high:
        raise ValueError(f"{name}={value!r} is outside ({low}, {high}].")


def _relaxation(reg_m: float | tuple[float, float] | None) -> tuple[float, float]:
    pair = reg_m if isinstance(reg_m, (tuple, list)) else (reg_m, reg_m)
    lam = tuple(math.inf if one is None else float(one) for one in pair)
    if len(lam) != 2 or not all(one >= 0 for one in lam):
        raise ValueError(f"reg_m={reg_m!r} must be a number >= 0, None or inf (hard marginal), or a pair of them.")
    return lam


def _balanced(batch: Batch, lam: tuple[float, float]) -> Batch:
    """Check what hard marginals ask for: equal sums, and a partner for every row and column with mass."""
    reach = batch.cost.isfinite() & (batch.a > 0)[:, :, None] & (batch.b > 0)[:, None, :]
    for name, mass, axis, one in (("a", batch.a, 2, lam[0]), ("b", batch.b, 1, lam[1])):
        lost = (mass > 0) & ~reach.any(axis)
        if one == math.inf and bool(lost.any()):
            where = tuple(torch.nonzero(lost)[0].tolist())
            raise ValueError(f"penalty forbids every partner of entry {where} of {name}: relax it, or give reg_m.")
    if lam != (math.inf, math.inf):
        return batch
    ratio = (batch.a.sum(-1) / batch.b.sum(-1))[:, None]
    if bool(((ratio - 1).abs() > 1e-4).any()):
        sums = f"{float(batch.a.sum(-1)[0]):g} and {float(batch.b.sum(-1)[0]):g}"
        raise ValueError(
            f"a and b need equal sums for hard marginals (first problem: {sums}): normalise them or give reg_m."
        )
    return Batch(batch.cost, batch.a, batch.b * ratio, batch.single, batch.sizes)


def _epsilon(reg: float | Tensor, batch: Batch) -> Tensor:
    eps = torch.as_tensor(reg, dtype=batch.cost.dtype, device=batch.cost.device)
    if eps.ndim > 1 or eps.ndim == 1 and len(eps) != len(batch.cost):
        raise ValueError(f"reg has shape {tuple(eps.shape)}: give a number, or one per problem ({len(batch.cost)}).")
    if not bool(((eps > 0) & eps.isfinite()).all()):
        raise ValueError(f"reg={reg!r} must be positive and finite; for an unregularised plan use method='exact'.")
    return eps.expand(len(batch.cost)).contiguous()


def _entropic(
    batch: Batch,
    eps: Tensor,
    lam: tuple[float, float],
    reg_type: str,
    init: tuple[Tensor, Tensor] | None,
    eps_scaling: float | str | None,
    max_iter: int,
    tol: float | None,
) -> OTResult:
    taus = [torch.ones_like(eps) if one == math.inf else one / (one + eps) for one in lam]
    start = None if init is None else _start(init, batch)
    factor = _annealing(eps_scaling, batch.cost, eps) if start is None else None
    found = sinkhorn(
        batch.cost,
        batch.a,
        batch.b,
        eps,
        *taus,
        reg_type=reg_type,
        init=start,
        eps_scaling=factor,
        max_iter=max_iter,
        tol=tol,
    )
    return OTResult(
        a=batch.a,
        b=batch.b,
        cost_matrix=batch.cost,
        n_iter=found.n_iter,
        converged=found.converged,
        f=found.f,
        g=found.g,
        reg=eps,
        reg_m=lam,
        reg_type=reg_type,
        sizes=batch.sizes,
    )


def _start(init: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    f, g = (torch.as_tensor(one).to(batch.cost) for one in init)
    f, g = (one[None] if batch.single else one for one in (f, g))
    if f.shape != batch.a.shape or g.shape != batch.b.shape:
        wanted = (tuple(batch.a.shape[batch.single :]), tuple(batch.b.shape[batch.single :]))
        raise ValueError(f"init has shapes {tuple(init[0].shape)} and {tuple(init[1].shape)} instead of {wanted}.")
    if not bool(f.isfinite().all() & g.isfinite().all()):
        raise ValueError("init has a NaN or infinite entry: start from finite potentials, or without init.")
    return f, g


def _annealing(eps_scaling: float | str | None, cost: Tensor, eps: Tensor) -> float | None:
    if eps_scaling is None:
        return None
    if eps_scaling == "auto":
        finite = cost.masked_fill(cost.isinf(), 0)
        span = finite.amax((1, 2)) - finite.amin((1, 2))
        return 0.5 if bool((span > _ANNEAL_ABOVE * eps).any()) else None
    if isinstance(eps_scaling, str) or not 0 < eps_scaling < 1:
        raise ValueError(f"eps_scaling={eps_scaling!r} must be 'auto', None, or a factor in (0, 1).")
    return float(eps_scaling)


def _structured(
    make: Callable[..., Tensor],
    arrays: dict[str, Arrays | None],
    masses: tuple[Arrays | None, Arrays | None],
    *,
    fused: bool,
    alpha: float,
    reg: float,
    n_restarts: int,
    random_state: int,
    max_iter: int,
    tol: float,
) -> OTResult:
    if any(isinstance(value, (list, tuple)) for value in (*arrays.values(), *masses)):
        raise ValueError("Gromov methods take one problem of arrays, not a list.")
    if reg < 0 or n_restarts < 1 or not 0 <= alpha <= 1:
        raise ValueError(f"reg={reg} must be >= 0, n_restarts={n_restarts} >= 1 and alpha={alpha} in [0, 1].")
    cx, cy = (_structure(make, arrays, axis) for axis in ("x", "y"))
    cy = cy.to(cx)
    linear = {"x": arrays["x"], "y": arrays["y"], "cost": arrays["cost"], "penalty": arrays["penalty"]}
    if not fused or linear["cost"] is not None:
        linear |= {"x": None, "y": None}
    if not fused:
        linear |= {"cost": cx.new_zeros(len(cx), len(cy)), "penalty": None}
    batch = _balanced(make_batch(make, linear, *masses), (math.inf, math.inf))
    if batch.cost.shape[1:] != (len(cx), len(cy)):
        raise ValueError(f"The linear cost {tuple(batch.cost.shape[1:])} does not fit cx {len(cx)} and cy {len(cy)}.")
    if bool(batch.cost.isinf().any()):
        raise ValueError("penalty cannot forbid pairs in 'fused_gromov': add a large finite matrix.")
    weight = alpha if fused else 1.0
    found = solve_gromov(
        cx,
        cy,
        batch,
        alpha=weight,
        reg=reg,
        n_restarts=n_restarts,
        random_state=random_state,
        max_iter=max_iter,
        tol=tol,
    )
    return _squeeze(found)


def _structure(make: Callable[..., Tensor], arrays: dict[str, Arrays | None], axis: str) -> Tensor:
    """Return the square structure of one side: given, or the cost of its points with themselves."""
    given, points = arrays[f"c{axis}"], arrays[axis]
    if given is None and points is None:
        raise ValueError(f"Gromov methods need the structure c{axis} or the points {axis}.")
    if given is None:
        return make(x=points, y=points, cost=None, penalty=None)
    square = to_tensor(given, f"c{axis}", (2,))  # type: ignore[arg-type]
    if square.shape[0] != square.shape[1]:
        raise ValueError(f"c{axis} has shape {tuple(square.shape)}: a structure is square.")
    return square


def _squeeze(result: OTResult) -> OTResult:
    """Turn the result of a batch of one into that of a single problem."""
    return result[0]


def _warn(result: OTResult, max_iter: int) -> None:
    failed = int((~result.converged).sum())
    if failed:
        warnings.warn(
            f"{failed} of {result.converged.numel()} transport problems did not converge in max_iter={max_iter} "
            "iterations: raise reg (more entropy), raise max_iter, or pass float64 arrays.",
            RuntimeWarning,
            stacklevel=3,
        )
