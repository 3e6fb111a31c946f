"""The one result type of every transport solver."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["OTResult"]

_BUDGET = 2**22  # plan entries made at once when the whole plan is not kept


@dataclass(frozen=True)
class OTResult:
    """A transport plan, held as potentials (entropic) or as a matrix (exact, Gromov), for one problem or a batch.

    One problem has the shapes below; a batch has a leading axis B everywhere, and a list of problems of any sizes is a
    batch padded with zero mass.  ``result[i]`` is the i-th problem of a batch, without its padding.

    Attributes
    ----------
    a
        (n,) row masses.
    b
        (m,) column masses.
    cost_matrix
        (n, m) costs C, scaled, clipped and penalised; for a Gromov problem, its linear part (zero without features).
    n_iter
        Iterations made.
    converged
        Whether the potentials stopped changing (entropic), or the solver reported success.
    f
        (n,) row potentials in units of the cost, 0 where the mass is 0; ``None`` for Gromov.
    g
        (m,) column potentials.
    reg
        Entropic regularisation eps, a 0-d or (B,) tensor; 0 for an exact plan.
    reg_m
        Marginal relaxations (lam_a, lam_b); ``inf`` is a hard marginal.
    reg_type
        ``"kl"`` or ``"entropy"``: the reference measure of the regularisation.
    sizes
        Unpadded (n, m) of each problem of a list; ``None`` otherwise.
    coupling
        (n, m) plan of the solvers that make one.
    objective
        Value reported by the solvers that make a plan.

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
    reg_m: tuple[float, float] = (float("inf"), float("inf"))
    reg_type: str = "kl"
    sizes: tuple[tuple[int, int], ...] | None = None
    coupling: Tensor | None = None
    objective: Tensor | None = None

    def __len__(self) -> int:
        if self.a.ndim == 1:
            raise TypeError("This OTResult holds one problem, not a batch: it has no length.")
        return len(self.a)

    def __getitem__(self, index: int) -> OTResult:
        index = range(len(self))[index]
        n, m = self.sizes[index] if self.sizes is not None else self.cost_matrix.shape[1:]
        cut = {"a": (n,), "f": (n,), "b": (m,), "g": (m,), "cost_matrix": (n, m), "coupling": (n, m)}
        values: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                values[field.name] = value[index][tuple(slice(k) for k in cut.get(field.name, ()))]
        return replace(self, **values, sizes=None)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[OTResult]:
        return (self[i] for i in range(len(self)))

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of rows of the plan."""
        return ((rows, self._block(rows)) for rows in self._slices())

    def _slices(self) -> Iterator[slice]:
        n = self.cost_matrix.shape[-2]
        step = max(1, _BUDGET // max(1, self.cost_matrix.numel() // n))
        return (slice(low, min(low + step, n)) for low in range(0, n, step))

    def _block(self, rows: slice) -> Tensor:
        """T_ij = w_i w_j exp((f_i + g_j - C_ij) / eps) for some rows, with w the weights of the reference measure."""
        if self.coupling is not None:
            return self.coupling[..., rows, :]
        f, g, eps = self._potentials()
        log_plan = (f[..., rows, None] + g[..., None, :] - self.cost_matrix[..., rows, :]) / eps[..., None, None]
        # Masses enter as logarithms: exp alone may overflow where a tiny mass would bring it back.
        log_plan += _weight(self.a, self.reg_type).log()[..., rows, None]
        log_plan += _weight(self.b, self.reg_type).log()[..., None, :]
        return log_plan.exp_()

    def _potentials(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.f is None or self.g is None or self.reg is None:
            raise ValueError("This result has no potentials: its solver made a plan (`plan`).")
        return self.f, self.g, self.reg

    @cached_property
    def plan(self) -> Tensor:
        """Transport plan (n, m), made when first asked for; rows and columns without mass are zero."""
        return torch.cat([block for _, block in self._rows()], dim=-2)

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row sums, column sums and <C, T>, without holding the plan."""
        rows, column, cost = [], torch.zeros_like(self.b), torch.zeros_like(self.a[..., 0])
        for part, block in self._rows():
            rows.append(block.sum(-1))
            column = column + block.sum(-2)
            spent = block * self.cost_matrix[..., part, :]
            cost = cost + torch.where(block > 0, spent, torch.zeros_like(spent)).sum((-2, -1))
        return torch.cat(rows, dim=-1), column, cost

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
        """Largest of the two L1 distances between the plan's marginals and those its potentials ask for, per problem.

        A hard marginal asks for ``a``; a relaxed one for ``a exp(-f / lam)`` (its optimality condition).
        """
        errors = []
        for mass, total, f, lam in zip((self.a, self.b), self._sums[:2], (self.f, self.g), self.reg_m, strict=True):
            wanted = mass if f is None or lam == float("inf") else _asked(mass, total, f, lam)
            errors.append((total - wanted).abs().sum(-1))
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
        reference = _weight(self.a, self.reg_type).sum(-1) * _weight(self.b, self.reg_type).sum(-1)
        value = (rows * f).sum(-1) + (columns * g).sum(-1) + eps * (reference - rows.sum(-1))
        for mass, total, lam in zip((self.a, self.b), (rows, columns), self.reg_m, strict=True):
            if 0 < lam < float("inf"):
                value = value + lam * _kl(total, mass)
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
        vector = v.ndim == self.a.ndim
        v = (v[..., None] if vector else v).to(self.a)
        if transpose:
            parts = [block.mT @ v[..., rows, :] for rows, block in self._rows()]
            out = torch.stack(parts).sum(0)
        else:
            out = torch.cat([block @ v for _, block in self._rows()], dim=-2)
        return out[..., 0] if vector else out

    def barycentric_projection(self, y: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Plan-weighted mean of ``y`` for every row (Eq. 5 of scBIOT).

        An entropic plan gives it for every row, also one of zero mass (the limit of a vanishing mass), as a softmax
        that cannot underflow.  Where no weight is defined (a row of zero mass in an exact plan, a row whose pairs are
        all forbidden) it is the ``b``-weighted mean of ``y``.

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
            return [one.barycentric_projection(points) for one, points in zip(self, y, strict=True)]  # type: ignore[misc]
        points = torch.as_tensor(y).to(self.a)
        parts = [self._conditional(rows) @ points for rows in self._slices()]
        return torch.cat(parts, dim=-2)

    def _conditional(self, rows: slice) -> Tensor:
        """Rows of the plan divided by their sums."""
        if self.coupling is None:
            _, g, eps = self._potentials()
            logits = (g[..., None, :] - self.cost_matrix[..., rows, :]) / eps[..., None, None]
            weights = torch.softmax(logits + _weight(self.b, self.reg_type).log()[..., None, :], dim=-1)
        else:
            weights = self.coupling[..., rows, :]
            weights = weights / weights.sum(-1, keepdim=True)
        prior = (self.b / self.b.sum(-1, keepdim=True))[..., None, :]
        return torch.where(weights.isnan(), prior, weights)


def _weight(mass: Tensor, reg_type: str) -> Tensor:
    return mass if reg_type == "kl" else (mass > 0).to(mass.dtype)


def _asked(mass: Tensor, total: Tensor, f: Tensor, lam: float) -> Tensor:
    return total if lam == 0 else mass * torch.exp(-f / lam)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    inside = torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p))
    return (inside - p + q).sum(-1)
