"""Deterministic paths along a velocity field: an ordinary differential equation, many paths at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from muport._checks import check_option
from muport.velocity.dynamics._paths import InitialValueProblem, Paths, StopRule, VectorField, solve_paths
from muport.velocity.dynamics._runge_kutta import dopri5, rk4

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["integrate"]


def integrate(
    field: VectorField,
    x0: ArrayLike | Tensor,
    t0: float | ArrayLike | Tensor,
    t1: float | ArrayLike | Tensor,
    *,
    n_steps: int = 200,
    method: Literal["rk4", "dopri5"] = "rk4",
    rtol: float = 1e-4,
    atol: float = 1e-6,
    evolve_time: bool = True,
    stop: StopRule | None = None,
) -> Paths:
    """Solve dx/dt = v(x, t) from x(t0) = x0 to t1, for all paths together.

    ``"rk4"`` takes ``n_steps`` equal steps of the classical Runge-Kutta method of order 4. ``"dopri5"`` is the
    Dormand-Prince pair of orders 5(4) with a step size of its own for every path; the ``n_steps + 1`` points are
    interpolated by Shampine's formula of order 4. No point of a path is NaN: where the field is not finite or diverges
    (a million times the largest start), the path ends with that reason.

    Parameters
    ----------
    field
        Velocity (n, d) at positions (n, d) and times (n,), which are tensors, in data units per unit of time: a tensor
        or an array. ``query_velocity`` of a trained :class:`muport.Velocity` is such a function.
    x0
        (n_paths, d) starts. NumPy arrays are integrated in float32, a tensor in its own type and on its own device.
    t0
        Start time, or (n_paths,) one for each path.
    t1
        End time, or (n_paths,) one for each path; before ``t0`` the flow is followed backward.
    n_steps
        Intervals between the points of a path, of equal length (t1 - t0) / n_steps.
    method
        ``"rk4"`` or ``"dopri5"``.
    rtol, atol
        Tolerances of ``"dopri5"``: the root mean square over coordinates of ``error / (atol + rtol |x|)`` is at most 1
        in every step.
    evolve_time
        If False the field is evaluated at ``t0`` all along.
    stop
        Rule (positions (m, d), times (m,)) -> (m,) :class:`StopReason`, 0 to continue. It is evaluated at the points of
        the paths, not at the starts.

    Returns
    -------
    Paths
        Positions (n_paths, n_steps + 1, d), times, lengths and reasons.

    Raises
    ------
    ValueError
        For an unknown method, tolerances that are not positive, shapes that do not fit, or starts that are not finite.

    References
    ----------
    Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.1 and II.5; Shampine, Math. Comp. 46 (1986).

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity import integrate
    >>> paths = integrate(lambda x, t: -x, np.ones((1, 1)), 0.0, 1.0, n_steps=10)
    >>> paths.x.shape, round(float(paths.ends[0, 0]), 4)
    ((1, 11, 1), 0.3679)
    """
    check_option("method", method, ["rk4", "dopri5"])
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol={rtol} and atol={atol} must both be above 0.")
    problem = InitialValueProblem.create(field, x0, t0, t1, n_steps, evolve_time=evolve_time)
    return solve_paths(problem, stop, rk4 if method == "rk4" else partial(dopri5, rtol=rtol, atol=atol))
