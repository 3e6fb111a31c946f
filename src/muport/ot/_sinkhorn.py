"""Batched entropic optimal transport in the log domain, with absorbed kernels.

Every problem of a batch minimises, over plans T >= 0 (Eq. 3 of scBIOT, with a free reference measure R),

    <C, T> + eps KL(T | R) + lam_a KL(T 1 | a) + lam_b KL(T' 1 | b),

where R = a b' ("kl") or R = 1 ("entropy").  With w the weights of R (the masses, or the indicator of positive mass),
the optimum is T_ij = w_i w_j exp(phi_i + psi_j - C_ij / eps) and the update of one side (Eq. 4, in logarithms) is

    phi_i <- alpha_i - tau log sum_j w_j exp(psi_j - C_ij / eps),      tau = lam / (lam + eps),

with alpha = 0 ("kl") or tau log a ("entropy").  phi = f / eps and psi = g / eps have no unit; f and g have that of C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Potentials", "sinkhorn"]

_BLOCK = 10  # sweeps between two looks at convergence
_RESCUE = 2  # log-domain sweeps when a kernel under- or overflowed
_MAX_SHIFT = 20.0  # largest log-scaling kept outside the kernel: beyond it, absorb
_MAX_LOG = 40.0  # largest |log| of a kernel sum: far inside float32, so what underflowed cannot matter
_CHUNK = {
    "cpu": 2**20,
    "cuda": 2**28,
}  # cost entries solved together: two float32 kernels in a last-level cache, or a GPU


@dataclass(frozen=True)
class Potentials:
    """Dual potentials of a batch of entropic transport problems.

    Attributes
    ----------
    f
        (B, n) row potentials in units of the cost; 0 where the mass is 0.
    g
        (B, m) column potentials.
    n_iter
        (B,) sweeps made.
    converged
        (B,) whether the last plain update would move no potential by more than ``tol * reg``.
    residual
        (B,) that largest move, divided by ``reg``.
    """

    f: Tensor
    g: Tensor
    n_iter: Tensor
    converged: Tensor
    residual: Tensor


class _Side:
    """One marginal: its masses, their role in the reference measure and its relaxation."""

    def __init__(self, mass: Tensor, lam: Tensor, entropy: bool) -> None:
        self.log_mass = mass.log()
        self.alive = (mass > 0).to(mass.dtype)
        self.weight = self.alive if entropy else mass
        self.lam, self.entropy = lam, entropy
        self.ref = torch.zeros_like(mass)
        self.delta = torch.zeros_like(mass)

    def set_eps(self, eps: Tensor) -> None:
        """Rates of this side at regularisation ``eps`` (B, 1)."""
        self.inv_rho = eps / self.lam
        self.tau = 1 / (1 + self.inv_rho)
        log_mass = self.log_mass.clamp(min=torch.finfo(self.weight.dtype).min)
        self.alpha = self.tau * log_mass * self.alive if self.entropy else torch.zeros_like(log_mass)

    def absorb(self, potential: Tensor) -> None:
        self.ref = potential * self.alive
        self.delta = torch.zeros_like(self.ref)
        self.const = self.alpha - (1 - self.tau) * self.ref

    def scaled(self) -> Tensor:
        return self.weight * self.delta.exp()

    def residual(self, log_sum: Tensor) -> Tensor:
        """Plain update minus current value, from the log of the absorbed kernel's sums."""
        return (self.const - self.tau * log_sum - self.delta) * self.alive

    def update(self, log_lse: Tensor) -> Tensor:
        """Plain log-domain update; rows that can reach nothing keep their offset."""
        lse = torch.where(log_lse.isinf(), torch.zeros_like(log_lse), log_lse)
        return (self.alpha - self.tau * lse) * self.alive

    def dual_mass(self, potential: Tensor) -> Tensor:
        """Log of sum_i mass_i exp(-potential_i / lam): the mass this side asks for, (B, 1)."""
        scale = self.inv_rho.nan_to_num(posinf=0.0)
        return torch.logsumexp(self.log_mass - potential * scale, dim=-1, keepdim=True)

    def keep(self, index: Tensor) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[index])


class _Chunk:
    """The sweeps of one chunk of problems; the state shrinks as problems converge."""

    def __init__(self, cost: Tensor, a: _Side, b: _Side, eps: Tensor) -> None:
        self.cost, self.a, self.b = cost, a, b
        self.set_eps(eps)

    def set_eps(self, eps: Tensor) -> None:
        self.eps = eps
        self.omega, self.mark = torch.ones_like(eps), torch.full_like(eps, math.inf)
        self.age, self.strikes = torch.zeros_like(eps), torch.zeros_like(eps)
        self.a.set_eps(eps)
        self.b.set_eps(eps)
        rate = self.a.inv_rho + self.b.inv_rho
        # A constant added to f and removed from g decays at rate tau_a tau_b only: jump to its optimum.
        self.jump = torch.where((rate > 0) & rate.isfinite(), 1 / rate, torch.zeros_like(rate))
        self.jumps = bool((self.jump > 2).any())

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

    def _half(self, to: _Side, other: _Side, kernel: Tensor) -> tuple[Tensor, Tensor]:
        tiny, huge = torch.finfo(kernel.dtype).tiny, torch.finfo(kernel.dtype).max
        log_sum = torch.bmm(other.scaled()[:, None, :], kernel)[:, 0].clamp_(tiny, huge).log_()
        move = to.residual(log_sum)
        to.delta = to.delta + self.omega * move
        return move, log_sum

    def _translate(self) -> None:
        a, b = self.a, self.b
        shift = self.jump * (a.dual_mass(a.ref + a.delta) - b.dual_mass(b.ref + b.delta))
        self.a.delta = self.a.delta + shift * self.a.alive
        self.b.delta = self.b.delta - shift * self.b.alive

    def sweeps(self, steps: int) -> Tensor:
        """Make ``steps`` sweeps; return the residual (B,) at the last one."""
        start = self.a.delta, self.b.delta
        for _ in range(steps):
            move_a, sum_a = self._half(self.a, self.b, self.kernel_t)
            move_b, sum_b = self._half(self.b, self.a, self.kernel)
            if self.jumps:
                self._translate()
        late = torch.maximum(_largest(move_a), _largest(move_b))
        safe = self._safe(sum_a, sum_b)
        rescued = torch.nonzero(~safe)[:, 0]
        if len(rescued):
            late = late.index_put((rescued,), self._rescue(rescued, start))
        self._relax(late, steps, safe)
        return late

    def _safe(self, sum_a: Tensor, sum_b: Tensor) -> Tensor:
        """Problems (B,) whose kernel sums stayed well inside the range of the dtype."""
        a, b = self.a, self.b
        shift = torch.maximum(_largest(a.delta), _largest(b.delta))
        size = torch.maximum(_largest(sum_a * a.alive), _largest(sum_b * b.alive))
        return (shift <= _MAX_SHIFT) & (size <= _MAX_LOG)

    def _rescue(self, index: Tensor, start: tuple[Tensor, Tensor]) -> Tensor:
        """Redo the block of some problems in the log domain, from its start; absorb; return their residuals."""
        phi, psi = (self.a.ref + start[0])[index], (self.b.ref + start[1])[index]
        cost = self.cost[index] / self.eps[index][:, :, None]
        log_a, log_b = self.a.weight[index].log(), self.b.weight[index].log()
        side_a, side_b = _subset(self.a, index), _subset(self.b, index)
        for _ in range(_RESCUE):
            old = phi, psi
            phi = side_a.update(torch.logsumexp((psi + log_b)[:, None, :] - cost, dim=2))
            psi = side_b.update(torch.logsumexp((phi + log_a)[:, :, None] - cost, dim=1))
            shift = self.jump[index] * (side_a.dual_mass(phi) - side_b.dual_mass(psi))
            phi, psi = phi + shift * side_a.alive, psi - shift * side_b.alive
        new_phi, new_psi = self.a.ref + self.a.delta, self.b.ref + self.b.delta
        new_phi[index], new_psi[index] = phi, psi
        self.absorb(new_phi, new_psi)
        return torch.maximum(_largest(phi - old[0]), _largest(psi - old[1]))

    def _relax(self, late: Tensor, steps: int, safe: Tensor) -> None:
        """Over-relaxation from the observed decay (Young's relation for two-block successive over-relaxation).

        A large omega first makes residuals grow and pays off over 1 / (2 - omega) sweeps: it is judged
        over such a window.
        """
        self.age = self.age + steps
        late, omega = late[:, None], self.omega
        rate = (late / self.mark.clamp(min=torch.finfo(late.dtype).tiny)) ** (1 / self.age)
        due = (self.age * (2 - omega) >= 1) & self.mark.isfinite()
        failed = due & (rate >= 1) & (omega > 1)
        rate = rate.clamp(0, 1)
        eta = ((rate + omega - 1) ** 2 / (rate * omega**2).clamp(min=1e-12)).clamp(0, 0.9999)
        best = 2 / (1 + (1 - eta).sqrt())
        # At or beyond the optimum the decay is omega - 1 whatever eta is: step back to where it can be read again.
        wanted = torch.where(rate > omega - 1 + 1e-3, best, 1 + 0.9 * (omega - 1))
        self.strikes = torch.where(
            due, torch.where(failed, self.strikes + 1, torch.zeros_like(self.strikes)), self.strikes
        )
        reset = ~safe[:, None] | (late > 1) | (self.strikes > 1)
        self.omega = torch.where(reset, torch.ones_like(omega), torch.where(due, wanted, omega))
        renew = due | reset | self.mark.isinf()
        self.strikes = torch.where(reset, torch.zeros_like(self.strikes), self.strikes)
        self.mark = torch.where(renew, late, self.mark)
        self.age = torch.where(renew, torch.zeros_like(self.age), self.age)

    def drifted(self) -> bool:
        return bool(torch.maximum(_largest(self.a.delta), _largest(self.b.delta)).amax() > _MAX_SHIFT / 4)

    def potentials(self) -> tuple[Tensor, Tensor]:
        return (self.a.ref + self.a.delta) * self.eps, (self.b.ref + self.b.delta) * self.eps

    def keep(self, index: Tensor) -> None:
        for name in ("cost", "eps", "omega", "mark", "age", "strikes", "jump", "kernel"):
            setattr(self, name, getattr(self, name)[index])
        self.kernel_t = self.kernel.mT if len(index) == 1 else self.kernel_t[index]
        self.a.keep(index)
        self.b.keep(index)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax(dim=-1)


def _subset(side: _Side, index: Tensor) -> _Side:
    part = object.__new__(_Side)
    vars(part).update(vars(side))
    part.keep(index)
    return part


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """Give a scalar or (B,) tensor as a (B, 1) tensor of the type and device of ``like`` (B, n, m)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value.reshape(-1, 1).expand(len(like), 1).contiguous()


def _anneal(
    chunk: _Chunk, eps: Tensor, factor: float, phi: Tensor, psi: Tensor, max_iter: int
) -> tuple[Tensor, Tensor, int]:
    """Solve roughly at decreasing eps, from a tenth of the cost's range; return potentials and sweeps made."""
    finite = chunk.cost.masked_fill(chunk.cost.isinf(), 0)
    current = (finite.amax(dim=(1, 2)) - finite.amin(dim=(1, 2)))[:, None] / 10
    done = 0
    while bool((current > eps).any()) and done < max_iter // 2:
        stage = torch.maximum(current, eps)
        chunk.set_eps(stage)
        chunk.absorb(phi / stage, psi / stage)
        chunk.sweeps(_BLOCK)
        phi, psi = chunk.potentials()
        current, done = current * factor, done + _BLOCK
    chunk.set_eps(eps)
    return phi, psi, done


def _solve_chunk(
    chunk: _Chunk, init: tuple[Tensor, Tensor], eps_scaling: float | None, max_iter: int, tol: float
) -> Potentials:
    f, g, eps = init[0].clone(), init[1].clone(), chunk.eps
    active = torch.arange(len(f), device=f.device)
    n_iter = torch.zeros_like(active)
    residual = torch.full_like(eps[:, 0], math.inf)
    done = 0
    if eps_scaling is not None:
        f, g, done = _anneal(chunk, eps, eps_scaling, f, g, max_iter)
    chunk.absorb(f / eps, g / eps)
    while done < max_iter and len(active):
        steps = min(_BLOCK, max_iter - done)
        late = chunk.sweeps(steps)
        done += steps
        f[active], g[active] = chunk.potentials()
        n_iter[active], residual[active] = done, late
        left = torch.nonzero(late > tol)[:, 0]
        if len(left) < len(active):
            active = active[left]
            chunk.keep(left)
        if len(active) and chunk.drifted():
            chunk.absorb(chunk.a.ref + chunk.a.delta, chunk.b.ref + chunk.b.delta)
    return Potentials(f, g, n_iter, residual <= tol, residual)


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float | Tensor,
    tau_a: float | Tensor = 1.0,
    tau_b: float | Tensor = 1.0,
    *,
    reg_type: str = "kl",
    init: tuple[Tensor, Tensor] | None = None,
    eps_scaling: float | None = None,
    max_iter: int = 2000,
    tol: float | None = None,
) -> Potentials:
    """Solve a batch of balanced or unbalanced entropic transport problems; the inputs are not checked.

    Implements Eqs 3-4 of the scBIOT paper in the log domain.  Problems of different sizes are padded with zero mass,
    whose cost may be any finite number.  Kernels are absorbed into the potentials and applied as batched products; a
    problem whose kernel leaves the range of its dtype is redone with log-sum-exp.  Convergence is sped up by adaptive
    over-relaxation and, for unbalanced problems, by the translation step of Sejourne, Vialard and Peyre (2022).

    Parameters
    ----------
    cost
        (B, n, m) costs; ``inf`` forbids a pair.
    a
        (B, n) row masses, zeros allowed.
    b
        (B, m) column masses, or (1, m) shared by the batch.
    reg
        Entropic regularisation eps, in units of the cost; a number or (B,).
    tau_a
        lam / (lam + eps) of the row marginal; 1 is a hard constraint, 0 none.
    tau_b
        The same for the column marginal.
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

    Returns
    -------
    Potentials
        Dual potentials and the convergence of every problem.

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
    lam = [eps * tau / (1 - tau) for tau in (_column(tau_a, cost), _column(tau_b, cost))]
    tol = tol if tol is not None else (1e-9 if cost.dtype == torch.float64 else 1e-5)
    a, b = a.expand(batch, n), b.expand(batch, m)
    start = init if init is not None else (torch.zeros_like(a), torch.zeros_like(b))
    size = max(1, _CHUNK.get(cost.device.type, _CHUNK["cpu"]) // max(n * m, 1))
    parts = []
    for low in range(0, batch, size):
        rows = slice(low, low + size)
        sides = [_Side(x[rows], y[rows], reg_type == "entropy") for x, y in zip((a, b), lam, strict=True)]
        chunk = _Chunk(cost[rows], sides[0], sides[1], eps[rows])
        parts.append(_solve_chunk(chunk, (start[0][rows], start[1][rows]), eps_scaling, max_iter, tol))
    return Potentials(*(torch.cat([getattr(p, k) for p in parts]) for k in Potentials.__dataclass_fields__))
