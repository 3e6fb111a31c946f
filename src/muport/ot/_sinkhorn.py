"""Batched entropic optimal transport in the log domain, with absorbed kernels.

Every problem of a batch minimizes, over plans T >= 0 (Eq. 3 of scBIOT, with a free reference measure R),

    <C, T> + eps KL(T | R) + lam_a KL(T 1 | a) + lam_b KL(T' 1 | b),

where R = a b' ("kl") or R = 1 ("entropy"). With w the weights of R (the masses, or the indicator of positive mass),
the optimum is T_ij = w_i w_j exp(phi_i + psi_j - C_ij / eps) and the update of one side (Eq. 4, in logarithms) is

    phi_i <- alpha_i - tau log sum_j w_j exp(psi_j - C_ij / eps),      tau = lam / (lam + eps),

with alpha = 0 ("kl") or tau log a ("entropy"). phi = f / eps and psi = g / eps have no unit; f and g have that of C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from muport._parallel import single_threaded_torch
from muport.ot._result import OTResult, log_plan_rows

__all__ = ["Potentials", "sinkhorn"]

_BLOCK = 10  # sweeps between two checks of convergence
_LOG_SWEEPS = 2  # log-domain sweeps after a kernel under- or overflowed
_MAX_SHIFT = 20.0  # largest log-scaling kept outside the kernel: beyond it, it is absorbed
_MAX_LOG = 40.0  # largest |log| of a kernel sum: far inside float32, so that underflowed terms are negligible
#: Cost entries solved together: two float32 kernels fit into a last-level cache, or into the memory of a GPU.
_CHUNK = {"cpu": 2**20, "cuda": 2**28}
#: Cost entries up to which one thread is used: a sweep is shorter than the wait of several threads for each other.
_ONE_THREAD_UP_TO = 2**18


@dataclass(frozen=True)
class Potentials:
    """Dual potentials of a batch of entropic transport problems, with the problems they solve.

    Attributes
    ----------
    f
        (B, n) row potentials in units of the cost; 0 where the mass is 0.
    g
        (B, m) column potentials.
    n_iter
        (B,) number of sweeps.
    converged
        (B,) whether the last plain update would change no potential by more than ``tol * reg``.
    residual
        (B,) that largest change, divided by ``reg``.
    cost
        (B, n, m) costs.
    a
        (B, n) row masses.
    b
        (B, m) column masses.
    reg
        (B,) entropic regularization.
    reg_m
        Relaxations of the row and of the column marginal, (B,) each, in units of the cost; ``inf`` is a hard marginal.
    reg_type
        ``"kl"`` or ``"entropy"``: the reference measure of the regularization.
    """

    f: Tensor
    g: Tensor
    n_iter: Tensor
    converged: Tensor
    residual: Tensor
    cost: Tensor
    a: Tensor
    b: Tensor
    reg: Tensor
    reg_m: tuple[Tensor, Tensor]
    reg_type: str

    def log_plan(self) -> Tensor:
        """Logarithm of the plan, (B, n, m); rows and columns of zero mass are ``-inf``, whatever their cost."""
        return log_plan_rows(self.to_result(), slice(None))

    def plan(self) -> Tensor:
        """Transport plan, (B, n, m); rows and columns of zero mass are 0."""
        return self.log_plan().exp_()

    def to_result(self) -> OTResult:
        """Result with the cost, the objective and barycentric projections of the plan."""
        return OTResult(
            self.a, self.b, self.cost, self.n_iter, self.converged, self.f, self.g, self.reg, self.reg_m, self.reg_type
        )


class _Side:
    """One marginal: its masses, their weight in the reference measure, its relaxation and its potential."""

    def __init__(self, mass: Tensor, lam: Tensor, entropy: bool) -> None:
        self.log_mass = mass.log()
        self.alive = (mass > 0).to(mass.dtype)
        self.weight = self.alive if entropy else mass
        self.lam, self.entropy = lam, entropy
        self.ref = torch.zeros_like(mass)
        self.delta = torch.zeros_like(mass)

    def set_eps(self, eps: Tensor) -> None:
        """Set the rates of this side at regularization ``eps`` (B, 1)."""
        self.inv_rho = eps / self.lam
        self.tau = 1 / (1 + self.inv_rho)
        log_mass = self.log_mass.clamp(min=torch.finfo(self.weight.dtype).min)
        self.alpha = self.tau * log_mass * self.alive if self.entropy else torch.zeros_like(log_mass)

    def absorb(self, potential: Tensor) -> None:
        """Make ``potential`` the part that is inside the kernel; the part outside, ``delta``, starts at 0."""
        self.ref = potential * self.alive
        self.delta = torch.zeros_like(self.ref)
        self.const = self.alpha - (1 - self.tau) * self.ref

    def scaled_weight(self) -> Tensor:
        return self.weight * self.delta.exp()

    def residual(self, log_sum: Tensor) -> Tensor:
        """Plain update minus current value, from the log of the sums of the absorbed kernel."""
        return (self.const - self.tau * log_sum - self.delta) * self.alive

    def update(self, log_sum: Tensor) -> Tensor:
        """Plain log-domain update; a row whose pairs are all forbidden has an empty sum and gets ``alpha``."""
        log_sum = torch.where(log_sum.isinf(), torch.zeros_like(log_sum), log_sum)
        return (self.alpha - self.tau * log_sum) * self.alive

    def dual_mass(self, potential: Tensor) -> Tensor:
        """Log of sum_i mass_i exp(-potential_i / lam): the total mass at the optimum of this side, (B, 1)."""
        scale = self.inv_rho.nan_to_num(posinf=0.0)
        return torch.logsumexp(self.log_mass - potential * scale, dim=-1, keepdim=True)

    def keep(self, index: Tensor) -> None:
        """Drop all problems but those of ``index``."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[index])


class _Chunk:
    """Sweeps over one chunk of problems; problems leave it as they converge."""

    def __init__(self, cost: Tensor, a: _Side, b: _Side, eps: Tensor) -> None:
        self.cost, self.a, self.b = cost, a, b
        self.set_eps(eps)

    def set_eps(self, eps: Tensor) -> None:
        self.eps = eps
        # Over-relaxation, the residual at the start of its window, sweeps in the window, and windows without decay.
        self.omega, self.window_start = torch.ones_like(eps), torch.full_like(eps, math.inf)
        self.window_sweeps, self.failures = torch.zeros_like(eps), torch.zeros_like(eps)
        self.a.set_eps(eps)
        self.b.set_eps(eps)
        rate = self.a.inv_rho + self.b.inv_rho
        # A constant added to f and subtracted from g decays at rate tau_a tau_b only: set it to its optimum instead.
        self.translation = torch.where((rate > 0) & rate.isfinite(), 1 / rate, torch.zeros_like(rate))
        self.translates = bool((self.translation > 2).any())

    def absorb(self, phi: Tensor, psi: Tensor) -> None:
        self.a.absorb(phi)
        self.b.absorb(psi)
        log_max = 0.9 * math.log(torch.finfo(phi.dtype).max)
        kernel = self.cost / -self.eps[:, :, None]
        kernel += self.a.ref[:, :, None]
        kernel += self.b.ref[:, None, :]
        self.kernel = kernel.clamp_(max=log_max).exp_()
        # (1, n) @ (n, m) is the fast batched product on a CPU, for which the transpose must be stored as well.
        self.kernel_t = kernel.mT if len(kernel) == 1 else kernel.mT.contiguous()

    def _update_side(self, side: _Side, opposite: _Side, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Over-relaxed update of one side; return the plain change and the log of the kernel sums, (B, n) each."""
        tiny, huge = torch.finfo(kernel.dtype).tiny, torch.finfo(kernel.dtype).max
        log_sum = torch.bmm(opposite.scaled_weight()[:, None, :], kernel)[:, 0].clamp_(tiny, huge).log_()
        change = side.residual(log_sum)
        side.delta = side.delta + self.omega * change
        return change, log_sum

    def _translate(self) -> None:
        a, b = self.a, self.b
        shift = self.translation * (a.dual_mass(a.ref + a.delta) - b.dual_mass(b.ref + b.delta))
        self.a.delta = self.a.delta + shift * self.a.alive
        self.b.delta = self.b.delta - shift * self.b.alive

    def sweeps(self, steps: int) -> Tensor:
        """Make ``steps`` sweeps; return the residual (B,) at the last one."""
        start = self.a.delta, self.b.delta
        for _ in range(steps):
            change_a, sum_a = self._update_side(self.a, self.b, self.kernel_t)
            change_b, sum_b = self._update_side(self.b, self.a, self.kernel)
            if self.translates:
                self._translate()
        residual = torch.maximum(_largest(change_a), _largest(change_b))
        in_range = self._in_range(sum_a, sum_b)
        unsafe = torch.nonzero(~in_range)[:, 0]
        if len(unsafe):
            residual = residual.index_put((unsafe,), self._sweep_in_log_domain(unsafe, start))
        self._set_relaxation(residual, steps, in_range)
        return residual

    def _in_range(self, sum_a: Tensor, sum_b: Tensor) -> Tensor:
        """Problems (B,) whose kernel sums stayed well inside the range of the dtype."""
        a, b = self.a, self.b
        shift = torch.maximum(_largest(a.delta), _largest(b.delta))
        size = torch.maximum(_largest(sum_a * a.alive), _largest(sum_b * b.alive))
        return (shift <= _MAX_SHIFT) & (size <= _MAX_LOG)

    def _sweep_in_log_domain(self, index: Tensor, start: tuple[Tensor, Tensor]) -> Tensor:
        """Redo the last sweeps of some problems in the log domain; absorb; return their residuals."""
        phi, psi = (self.a.ref + start[0])[index], (self.b.ref + start[1])[index]
        cost = self.cost[index] / self.eps[index][:, :, None]
        log_a, log_b = self.a.weight[index].log(), self.b.weight[index].log()
        side_a, side_b = _subset(self.a, index), _subset(self.b, index)
        for _ in range(_LOG_SWEEPS):
            old = phi, psi
            phi = side_a.update(torch.logsumexp((psi + log_b)[:, None, :] - cost, dim=2))
            psi = side_b.update(torch.logsumexp((phi + log_a)[:, :, None] - cost, dim=1))
            shift = self.translation[index] * (side_a.dual_mass(phi) - side_b.dual_mass(psi))
            phi, psi = phi + shift * side_a.alive, psi - shift * side_b.alive
        new_phi, new_psi = self.a.ref + self.a.delta, self.b.ref + self.b.delta
        new_phi[index], new_psi[index] = phi, psi
        self.absorb(new_phi, new_psi)
        return torch.maximum(_largest(phi - old[0]), _largest(psi - old[1]))

    def _set_relaxation(self, residual: Tensor, steps: int, in_range: Tensor) -> None:
        """Set omega from the observed decay (Young's relation for two-block successive over-relaxation).

        A large omega first makes residuals grow and saves sweeps only after 1 / (2 - omega) of them: the decay is
        measured over such a window.
        """
        self.window_sweeps = self.window_sweeps + steps
        residual, omega = residual[:, None], self.omega
        decay = (residual / self.window_start.clamp(min=torch.finfo(residual.dtype).tiny)) ** (1 / self.window_sweeps)
        due = (self.window_sweeps * (2 - omega) >= 1) & self.window_start.isfinite()
        failed = due & (decay >= 1) & (omega > 1)
        decay = decay.clamp(max=1)
        eta = ((decay + omega - 1) ** 2 / (decay * omega**2).clamp(min=1e-12)).clamp(max=0.9999)
        best = 2 / (1 + (1 - eta).sqrt())
        # At or beyond the optimum the decay is omega - 1 whatever eta is: step back to where it depends on eta.
        wanted = torch.where(decay > omega - 1 + 1e-3, best, 1 + 0.9 * (omega - 1))
        zero = torch.zeros_like(omega)
        self.failures = torch.where(due, torch.where(failed, self.failures + 1, zero), self.failures)
        reset = ~in_range[:, None] | (residual > 1) | (self.failures > 1)
        self.omega = torch.where(reset, torch.ones_like(omega), torch.where(due, wanted, omega))
        new_window = due | reset | self.window_start.isinf()
        self.failures = torch.where(reset, zero, self.failures)
        self.window_start = torch.where(new_window, residual, self.window_start)
        self.window_sweeps = torch.where(new_window, zero, self.window_sweeps)

    def drifted(self) -> bool:
        """Whether a potential outside the kernel has become large, so that it should be absorbed."""
        return bool(torch.maximum(_largest(self.a.delta), _largest(self.b.delta)).amax() > _MAX_SHIFT / 4)

    def potentials(self) -> tuple[Tensor, Tensor]:
        return (self.a.ref + self.a.delta) * self.eps, (self.b.ref + self.b.delta) * self.eps

    def keep(self, index: Tensor) -> None:
        """Drop all problems but those of ``index``."""
        for name in ("cost", "eps", "omega", "window_start", "window_sweeps", "failures", "translation", "kernel"):
            setattr(self, name, getattr(self, name)[index])
        self.kernel_t = self.kernel.mT if len(index) == 1 else self.kernel_t[index]
        self.a.keep(index)
        self.b.keep(index)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(dim=-1)


def _subset(side: _Side, index: Tensor) -> _Side:
    subset = object.__new__(_Side)
    vars(subset).update(vars(side))
    subset.keep(index)
    return subset


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """Expand a scalar or (B,) tensor to a (B, 1) tensor of the type and device of ``like`` (B, n, m)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value.reshape(-1, 1).expand(len(like), 1).contiguous()


def _anneal(
    chunk: _Chunk, eps: Tensor, factor: float, f: Tensor, g: Tensor, max_iter: int
) -> tuple[Tensor, Tensor, int]:
    """Solve roughly at decreasing eps, from a tenth of the range of the cost; return potentials and sweeps."""
    finite = chunk.cost.masked_fill(chunk.cost.isinf(), 0)
    current = (finite.amax(dim=(1, 2)) - finite.amin(dim=(1, 2)))[:, None] / 10
    n_sweeps = 0
    while bool((current > eps).any()) and n_sweeps + _BLOCK <= max_iter // 2:
        stage = torch.maximum(current, eps)
        chunk.set_eps(stage)
        chunk.absorb(f / stage, g / stage)
        chunk.sweeps(_BLOCK)
        f, g = chunk.potentials()
        current, n_sweeps = current * factor, n_sweeps + _BLOCK
    chunk.set_eps(eps)
    return f, g, n_sweeps


def _solve_chunk(
    chunk: _Chunk, init: tuple[Tensor, Tensor], eps_scaling: float | None, max_iter: int, tol: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Potentials f (B, n) and g (B, m), number of sweeps (B,) and residuals (B,)."""
    f, g, eps = init[0].clone(), init[1].clone(), chunk.eps
    active = torch.arange(len(f), device=f.device)
    n_iter = torch.zeros_like(active)
    residual = torch.full_like(eps[:, 0], math.inf)
    n_sweeps = 0
    if eps_scaling is not None:
        f, g, n_sweeps = _anneal(chunk, eps, eps_scaling, f, g, max_iter)
    chunk.absorb(f / eps, g / eps)
    while n_sweeps < max_iter and len(active):
        steps = min(_BLOCK, max_iter - n_sweeps)
        active_residual = chunk.sweeps(steps)
        n_sweeps += steps
        f[active], g[active] = chunk.potentials()
        n_iter[active], residual[active] = n_sweeps, active_residual
        unfinished = torch.nonzero(active_residual > tol)[:, 0]
        if len(unfinished) < len(active):
            active = active[unfinished]
            chunk.keep(unfinished)
        if len(active) and chunk.drifted():
            chunk.absorb(chunk.a.ref + chunk.a.delta, chunk.b.ref + chunk.b.delta)
    return f, g, n_iter, residual


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float | Tensor,
    tau_a: float | Tensor = 1.0,
    tau_b: float | Tensor = 1.0,
    *,
    reg_m: tuple[float | Tensor, float | Tensor] | None = None,
    reg_type: str = "kl",
    init: tuple[Tensor, Tensor] | None = None,
    eps_scaling: float | None = None,
    max_iter: int = 2000,
    tol: float | None = None,
    chunk_size: int | None = None,
) -> Potentials:
    """Solve a batch of balanced or unbalanced entropic transport problems; the inputs are not checked.

    Implements Eqs 3-4 of the scBIOT paper in the log domain. Problems of different sizes are padded with zero mass,
    at any finite cost or at ``inf``. Kernels are absorbed into the potentials and applied as batched products; the
    sweeps of a problem whose kernel leaves the range of its dtype are repeated with log-sum-exp. Adaptive
    over-relaxation speeds up convergence, and for unbalanced problems also the translation step of Sejourne, Vialard
    and Peyre (2022).

    Parameters
    ----------
    cost
        (B, n, m) costs; ``inf`` forbids a pair.
    a
        (B, n) row masses, zeros allowed.
    b
        (B, m) column masses, or (1, m) shared by the batch.
    reg
        Entropic regularization eps, in units of the cost; a number or (B,).
    tau_a
        Relaxation of the row marginal as lam / (lam + eps); 1 is a hard constraint, 0 none.
    tau_b
        The same for the column marginal.
    reg_m
        Relaxations (lam_a, lam_b) in units of the cost, instead of ``tau_a`` and ``tau_b``: each a number or (B,);
        ``inf`` is a hard constraint, 0 none.
    reg_type
        ``"kl"`` (reference measure a b') or ``"entropy"`` (reference measure 1).
    init
        Potentials (f, g) to start from, in units of the cost.
    eps_scaling
        Factor in (0, 1) by which eps decreases from the scale of the cost to ``reg``; ``None`` starts at ``reg``.
    max_iter
        Largest number of sweeps.
    tol
        Largest change of a potential, divided by eps, at convergence; by default 1e-5 in float32 and 1e-9 in float64.
    chunk_size
        Number of problems solved together: fewer take less memory and more time. By default as many as have 2**20
        costs (2**28 on a GPU).

    Returns
    -------
    Potentials
        Dual potentials and the convergence of every problem.

    Raises
    ------
    ValueError
        If both ``reg_m`` and ``tau_a`` or ``tau_b`` are given; or if a cost is NaN, or so large beside ``reg`` that the
        digits of its type do not suffice.

    Examples
    --------
    >>> import torch
    >>> from muport.ot import sinkhorn
    >>> cost = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> mass = torch.full((1, 2), 0.5)
    >>> bool(sinkhorn(cost, mass, mass, reg=0.1).converged)
    True
    """
    batch, n, m = cost.shape
    eps = _column(reg, cost)
    lam = _relaxations(reg_m, (tau_a, tau_b), eps, cost)
    tol = tol if tol is not None else (1e-9 if cost.dtype == torch.float64 else 1e-5)
    a, b = a.expand(batch, n), b.expand(batch, m)
    solved_cost = _check_digits(cost, a, b, eps[:, 0])
    start = init if init is not None else (torch.zeros_like(a), torch.zeros_like(b))
    size = chunk_size or max(1, _CHUNK.get(cost.device.type, _CHUNK["cpu"]) // max(n * m, 1))
    solved = []
    for low in range(0, batch, size):
        rows = slice(low, low + size)
        side_a, side_b = (_Side(mass[rows], x[rows], reg_type == "entropy") for mass, x in ((a, lam[0]), (b, lam[1])))
        chunk = _Chunk(solved_cost[rows], side_a, side_b, eps[rows])
        with single_threaded_torch(chunk.cost.numel() <= _ONE_THREAD_UP_TO):
            solved.append(_solve_chunk(chunk, (start[0][rows], start[1][rows]), eps_scaling, max_iter, tol))
    f, g, n_iter, residual = (torch.cat(tensors) for tensors in zip(*solved, strict=True))
    reg_m = lam[0][:, 0], lam[1][:, 0]
    return Potentials(f, g, n_iter, residual <= tol, residual, cost, a, b, eps[:, 0], reg_m, reg_type)


def _check_digits(cost: Tensor, a: Tensor, b: Tensor, eps: Tensor) -> Tensor:
    """Refuse costs with a rounding error above eps: the plan would be noise or NaN.

    Return the cost; if it is so large in pairs without mass, with zeros there.
    """
    largest, rounding = _largest_cost(cost), torch.finfo(cost.dtype).eps
    if not bool((largest * rounding <= eps).all()):
        has_mass = (a > 0)[:, :, None] & (b > 0)[:, None, :]
        cost = torch.where(has_mass, cost, torch.zeros_like(cost))
        largest = _largest_cost(cost.masked_fill(cost.isposinf(), 0))
        if not bool((largest * rounding <= eps).all()):
            problem = int((largest * rounding <= eps).int().argmin())
            raise ValueError(
                f"The largest cost, {float(largest[problem]):g}, has more digits above reg={float(eps[problem]):g} "
                f"than {cost.dtype} holds: divide the cost by its scale (scale='std'), raise reg, or forbid the pair "
                "by a cost of inf."
            )
    return cost


def _largest_cost(cost: Tensor) -> Tensor:
    """Largest absolute cost of each problem, (B,), without a copy of the costs."""
    return torch.maximum(cost.amax((1, 2)), -cost.amin((1, 2)))


def _relaxations(
    reg_m: tuple[float | Tensor, float | Tensor] | None,
    taus: tuple[float | Tensor, float | Tensor],
    eps: Tensor,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """Relaxations lam of rows and columns, (B, 1) each, from lam itself or from tau = lam / (lam + eps)."""
    if reg_m is not None:
        if any(isinstance(tau, Tensor) or tau != 1 for tau in taus):
            raise ValueError("Give either reg_m or tau_a and tau_b, not both.")
        return _column(reg_m[0], like), _column(reg_m[1], like)
    tau_a, tau_b = (_column(tau, like) for tau in taus)
    return eps * tau_a / (1 - tau_a), eps * tau_b / (1 - tau_b)
