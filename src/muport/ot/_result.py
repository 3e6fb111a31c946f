"""The result type of every transport solver."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from muport._arrays import describe_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["OTResult", "log_plan_rows"]

_PLAN_ENTRIES = 2**22  # plan entries computed together where the plan itself is not kept: 16 MiB in float32


@dataclass(frozen=True)
class OTResult:
    """A transport plan, stored as potentials (entropic) or as a matrix (exact, Gromov), for one problem or a batch.

    The shapes below are those of one problem; a batch has a leading axis B everywhere. A list of problems of any sizes
    is a batch padded with zero mass. ``result[i]`` is problem i of a batch, without its padding.

    Attributes
    ----------
    a
        (n,) row masses.
    b
        (m,) column masses.
    cost_matrix
        (n, m) costs C, scaled, clipped and penalized; for a Gromov problem, its linear part (zero without features).
    n_iter
        Number of iterations.
    converged
        Whether the potentials stopped changing (entropic), or the solver reported success.
    f
        (n,) row potentials in units of the cost, 0 where the mass is 0; ``None`` for Gromov.
    g
        (m,) column potentials.
    reg
        Entropic regularization eps, a 0-d or (B,) tensor; 0 for an exact plan.
    reg_m
        Marginal relaxations (lam_a, lam_b) in units of the cost, each a number or one per problem (B,); ``inf`` is a
        hard marginal.
    reg_type
        ``"kl"`` or ``"entropy"``: the reference measure of the regularization.
    sizes
        Unpadded (n, m) of each problem of a list; ``None`` otherwise.
    coupling
        (n, m) plan of the solvers that return a plan.
    objective
        Value reported by the solvers that return a plan.

    Examples
    --------
    >>> import torch
    >>> from muport.ot import solve
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> result = solve(x, x + 2, reg=0.01)
    >>> result.barycentric_projection(x + 2).round().flatten().tolist()
    [2.0, 3.0]
    """

    a: Tensor
    b: Tensor
    cost_matrix: Tensor
    n_iter: Tensor
    converged: Tensor
    f: Tensor | None = None
    g: Tensor | None = None
    reg: Tensor | None = None
    reg_m: tuple[float | Tensor, float | Tensor] = (float("inf"), float("inf"))
    reg_type: str = "kl"
    sizes: tuple[tuple[int, int], ...] | None = None
    coupling: Tensor | None = None
    objective: Tensor | None = None

    __repr__ = describe_fields

    def __len__(self) -> int:
        if self.a.ndim == 1:
            raise TypeError("This OTResult holds one problem, not a batch: it has no length.")
        return len(self.a)

    def __getitem__(self, index: int) -> OTResult:
        index = range(len(self))[index]
        n, m = self.sizes[index] if self.sizes is not None else self.cost_matrix.shape[1:]
        unpadded = {"a": (n,), "f": (n,), "b": (m,), "g": (m,), "cost_matrix": (n, m), "coupling": (n, m)}
        values: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                values[field.name] = value[index][tuple(slice(k) for k in unpadded.get(field.name, ()))]
        reg_m = tuple(lam[index] if isinstance(lam, Tensor) and lam.ndim else lam for lam in self.reg_m)
        return replace(self, **values, reg_m=reg_m, sizes=None)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[OTResult]:
        return (self[i] for i in range(len(self)))

    def _row_blocks(self) -> Iterator[slice]:
        n = self.cost_matrix.shape[-2]
        step = max(1, _PLAN_ENTRIES // (self.cost_matrix.numel() // n))
        return (slice(low, low + step) for low in range(0, n, step))

    def _plan_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of rows of the plan, with their positions."""
        for rows in self._row_blocks():
            yield rows, self.coupling[..., rows, :] if self.coupling is not None else log_plan_rows(self, rows).exp_()

    def _potentials(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.f is None or self.g is None or self.reg is None:
            raise ValueError("This result has no potentials: its solver returns a plan (`plan`).")
        return self.f, self.g, self.reg

    def _relaxations(self) -> list[Tensor]:
        """Relaxations of rows and columns, one per problem."""
        return [
            torch.as_tensor(lam, dtype=self.a.dtype, device=self.a.device).expand(self.a.shape[:-1])
            for lam in self.reg_m
        ]

    @cached_property
    def plan(self) -> Tensor:
        """Transport plan (n, m), computed when first used; rows and columns without mass are zero."""
        return torch.cat([block for _, block in self._plan_blocks()], dim=-2)

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row sums, column sums and <C, T>, without keeping the plan."""
        row_sums, column_sums, cost = [], torch.zeros_like(self.b), torch.zeros_like(self.a[..., 0])
        for rows, block in self._plan_blocks():
            row_sums.append(block.sum(-1))
            column_sums = column_sums + block.sum(-2)
            costs = block * self.cost_matrix[..., rows, :]
            # 0 * inf is NaN: a forbidden pair costs nothing
            cost = cost + torch.where(block > 0, costs, torch.zeros_like(costs)).sum((-2, -1))
        return torch.cat(row_sums, dim=-1), column_sums, cost

    @property
    def cost(self) -> Tensor:
        """Transport cost <C, T>, per problem."""
        return self._sums[2]

    @property
    def mass(self) -> Tensor:
        """Transported mass, the sum of the plan, per problem."""
        return self._sums[1].sum(-1)

    @property
    def marginal_error(self) -> Tensor:
        """Largest of the two L1 distances between the plan's marginals and those its potentials imply, per problem.

        A hard marginal is ``a``; a relaxed one is ``a exp(-f / lam)`` (its optimality condition).
        """
        errors = []
        sides = zip((self.a, self.b), self._sums[:2], (self.f, self.g), self._relaxations(), strict=True)
        for mass, total, potential, lam in sides:
            expected = mass if potential is None else _implied_marginal(mass, total, potential, lam[..., None])
            errors.append((total - expected).abs().sum(-1))
        return torch.maximum(*errors)

    @property
    def value(self) -> Tensor:
        """Objective: <C, T> + eps KL(T | R) + lam_a KL(T1 | a) + lam_b KL(T'1 | b), per problem (Eq. 3 of scBIOT).

        R is a b' (``"kl"``) or 1 on the pairs of positive masses (``"entropy"``); KL(p | q) = sum p log(p / q) - p + q.
        """
        if self.objective is not None:
            return self.objective
        f, g, eps = self._potentials()
        rows, columns, _ = self._sums
        reference = _reference_weight(self.a, self.reg_type).sum(-1) * _reference_weight(self.b, self.reg_type).sum(-1)
        value = (rows * f).sum(-1) + (columns * g).sum(-1) + eps * (reference - rows.sum(-1))
        for mass, total, lam in zip((self.a, self.b), (rows, columns), self._relaxations(), strict=True):
            value = value + torch.where((lam > 0) & lam.isfinite(), lam * _kl(total, mass), torch.zeros_like(lam))
        return value

    def apply(self, v: Tensor, transpose: bool = False) -> Tensor:
        """Multiply the plan with a vector or a matrix, without keeping the plan.

        Parameters
        ----------
        v
            (m,) or (m, k); (n,) or (n, k) with ``transpose``; a leading axis B for a batch.
        transpose
            Multiply with the transpose of the plan.

        Returns
        -------
        torch.Tensor
            T v or T' v, (n,) or (n, k), or (m,) or (m, k).
        """
        is_vector = v.ndim == self.a.ndim
        v = (v[..., None] if is_vector else v).to(self.a)
        if transpose:
            products = [block.mT @ v[..., rows, :] for rows, block in self._plan_blocks()]
            out = torch.stack(products).sum(0)
        else:
            out = torch.cat([block @ v for _, block in self._plan_blocks()], dim=-2)
        return out[..., 0] if is_vector else out

    def barycentric_projection(self, y: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Plan-weighted mean of ``y`` for every row (Eq. 5 of scBIOT).

        An entropic plan defines it for every row, also for one of zero mass (the limit of a vanishing mass), by a
        softmax that cannot underflow. Where the weights are not defined (a row of zero mass in an exact plan, a row
        whose pairs are all forbidden), the projection is the ``b``-weighted mean of ``y``.

        Parameters
        ----------
        y
            (m, d) target points, (B, m, d) for a batch, or a list of them for a list of problems.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            (n, d) projections, (B, n, d) for a batch, a list for a list.
        """
        if isinstance(y, (list, tuple)):
            return [problem.barycentric_projection(points) for problem, points in zip(self, y, strict=True)]  # type: ignore[misc]
        points = torch.as_tensor(y).to(self.a)
        projections = [self._conditional(rows) @ points for rows in self._row_blocks()]
        return torch.cat(projections, dim=-2)

    def _conditional(self, rows: slice) -> Tensor:
        """Rows of the plan divided by their sums."""
        if self.coupling is None:
            _, g, eps = self._potentials()
            logits = (g[..., None, :] - self.cost_matrix[..., rows, :]) / eps[..., None, None]
            weights = torch.softmax(logits + _reference_weight(self.b, self.reg_type).log()[..., None, :], dim=-1)
        else:
            weights = self.coupling[..., rows, :]
            weights = weights / weights.sum(-1, keepdim=True)
        prior = (self.b / self.b.sum(-1, keepdim=True))[..., None, :]
        return torch.where(weights.isnan(), prior, weights)


def log_plan_rows(result: OTResult, rows: slice) -> Tensor:
    """Logarithm of some rows of an entropic plan, T_ij = w_i w_j exp((f_i + g_j - C_ij) / eps).

    w are the weights of the reference measure. Rows and columns of zero mass are ``-inf``, whatever their cost.
    """
    f, g, eps = result._potentials()
    log_plan = (f[..., rows, None] + g[..., None, :] - result.cost_matrix[..., rows, :]) / eps[..., None, None]
    # Masses are added as logarithms: exp(f + g - C) alone may overflow where the mass is tiny.
    log_plan += _reference_weight(result.a, result.reg_type).log()[..., rows, None]
    log_plan += _reference_weight(result.b, result.reg_type).log()[..., None, :]
    # The cost of padding is arbitrary: inf - inf would be NaN.
    log_plan.masked_fill_((result.a == 0)[..., rows, None], -torch.inf)
    log_plan.masked_fill_((result.b == 0)[..., None, :], -torch.inf)
    return log_plan


def _reference_weight(mass: Tensor, reg_type: str) -> Tensor:
    return mass if reg_type == "kl" else (mass > 0).to(mass.dtype)


def _implied_marginal(mass: Tensor, total: Tensor, potential: Tensor, lam: Tensor) -> Tensor:
    """Marginal at the optimum: the mass where it is hard (lam = inf), any where it is free (lam = 0)."""
    return torch.where(lam == 0, total, mass * torch.exp(-potential / lam))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    terms = torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p))
    return (terms - p + q).sum(-1)
