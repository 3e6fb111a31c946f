"""One step of EM for a block of problems: cells to moments (E), moments to parameters (M)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from muport.gmm.mixtures._mixtures import joint_log_density

__all__ = ["Direct", "Engine", "Features", "Moments", "PriorTerms", "State", "maximise", "pick"]

_FAINT = -60.0  # log-responsibilities below are raised to this: no denormal numbers, which are a hundred times slower
_DEAD = 1e-10  # share of a patient's weight below which a component holds nothing
_SINGULAR = 1e-10  # smallest pivot, relative to the largest, of a covariance that has full rank
_FLOOR = 1e-14  # smallest pivot, relative to the patient's mean variance, that a factor may have
_ROBUST = 1e-2  # what "robust" adds to a singular covariance, as a share of the patient's mean variance


@dataclass(frozen=True)
class State:
    """Parameters of a block: weights (B, K), means (B, K, d), covariances and their Cholesky factors (B, K, d, d).

    Diagonal covariances are variances (B, K, d), with standard deviations as factors.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Moments:
    """Weighted moments of the cells about an origin: mass (B, K), first (B, K, d), second (B, K, d, d) or (B, K, d)."""

    mass: Tensor
    first: Tensor
    second: Tensor
    origin: Tensor


@dataclass(frozen=True)
class PriorTerms:
    """Pooled weights (1, K), means about each problem's centre (B, K, d), covariances (1, K, ..), and their cells."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    nu: float


def pick[Part: (State, Moments)](part: Part, rows: Tensor) -> Part:
    """Return some problems of a block."""
    values: dict[str, Any] = {name: v[rows] for name, v in vars(part).items()}
    return type(part)(**values)


class Engine(Protocol):
    """What turns parameters into log-likelihoods and moments: cells x (B, m, d) and their weights (B, m)."""

    x: Tensor
    weight: Tensor

    def expectation(self, state: State) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments under the responsibilities."""
        ...

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments under weighted memberships (B, K, m); ``centers`` (B, K, d) may serve as their origin."""
        ...

    def keep(self, order: Tensor) -> None:
        """Keep the problems at these positions (C,) only: those below C at their own, others where one has gone."""
        ...


class Direct:
    """E step from the offsets of cells to the means: twice the work of `Features`, but no cancellation."""

    def __init__(self, x: Tensor, weight: Tensor, full: bool, budget: int) -> None:
        self.x, self.weight, self.full, self.budget = x, weight, full, budget

    def expectation(self, state: State) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments about the means of ``state``."""
        step = max(1, self.budget // state.means.numel())
        pieces = zip(torch.split(self.x, step, 1), torch.split(self.weight, step, 1), strict=True)
        parts = [self._piece(x, weight, state) for x, weight in pieces]
        likelihood, mass, first, second = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        return likelihood / self.weight.sum(1), Moments(mass, first, second, state.means)

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments about given centres (B, K, d) under weighted memberships (B, K, m)."""
        step = max(1, self.budget // centers.numel())
        full = self.full
        pieces = zip(torch.split(self.x, step, 1), torch.split(r, step, 2), strict=True)
        parts = [_moments(part, x[:, None] - centers[:, :, None], full) for x, part in pieces]
        mass, first, second = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        return Moments(mass, first, second, centers)

    def _piece(self, x: Tensor, weight: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        joint, offset = joint_log_density(x, state.weights, state.means, state.factor)
        likelihood, r = _posterior(joint, weight)
        return likelihood, *_moments(r, offset, self.full)

    def keep(self, order: Tensor) -> None:
        """Keep the problems at these positions only."""
        self.x, self.weight = self.x[order], self.weight[order]


class Features:
    """E step as a product with the features (1, x, x x'), in which both log-densities and moments are linear.

    Cells are padded to tiles of ``cells``, each a product of its own.
    """

    def __init__(self, x: Tensor, weight: Tensor, full: bool, cells: int, budget: int) -> None:
        more = -x.shape[1] % cells
        self.x, self.weight = pad(x, (0, 0, 0, more)), pad(weight, (0, more))
        self.full, self.cells, self.budget = full, cells, budget
        d = x.shape[2]
        pairs = torch.triu_indices(d, d) if full else torch.arange(d).expand(2, d)
        self.pairs = pairs.to(x.device)
        square = torch.empty((d, d), dtype=torch.int64)
        square[pairs[0], pairs[1]] = square[pairs[1], pairs[0]] = torch.arange(pairs.shape[1])
        self.square = square.ravel().to(x.device)
        self.upper = self.pairs[0] * d + self.pairs[1]
        # An entry off the diagonal stands for two.
        self.share = -0.5 - 0.5 * (self.pairs[0] != self.pairs[1]).to(x)
        self.features = self._features()

    def expectation(self, state: State) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments about 0."""
        natural = self._natural(state)
        likelihood, total = self._sums(state.weights)
        weight = self.weight.reshape(len(self.weight), -1, self.cells)
        for rows, tiles in self._pieces():
            features = self.features[rows, tiles]
            part, r = _posterior(_product(natural[rows, None], features), weight[rows, tiles])
            likelihood[rows] += part
            total[rows] += _product(features, r.mT.contiguous()).sum(1)
        return likelihood / self.weight.sum(1), self._unpack(total.mT)

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments about 0 under weighted memberships (B, K, m)."""
        _, total = self._sums(r[..., 0])
        member = r.reshape(*r.shape[:2], -1, self.cells).permute(0, 2, 3, 1)
        for rows, tiles in self._pieces():
            total[rows] += _product(self.features[rows, tiles], member[rows, tiles].contiguous()).sum(1)
        return self._unpack(total.mT)

    def _sums(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros (B,) and (B, F, K), for a block of which ``like`` is (B, K)."""
        return like.new_zeros(len(like)), like.new_zeros(len(like), self.features.shape[2], like.shape[1])

    def _pieces(self) -> list[tuple[slice, slice]]:
        """Problems and tiles whose features a core's cache holds from the first product to the second."""
        many, tiles, width, cells = self.features.shape
        step = max(1, self.budget // (width * cells))
        rows, columns = max(1, step // tiles), min(step, tiles)
        return [
            (slice(i, i + rows), slice(j, j + columns)) for i in range(0, many, rows) for j in range(0, tiles, columns)
        ]  # fmt: skip

    def _unpack(self, total: Tensor) -> Moments:
        """Moments from sums of features (B, K, F)."""
        d = self.x.shape[2]
        first, second = total[..., 1 : 1 + d].contiguous(), total[..., 1 + d :]
        if self.full:
            second = second.index_select(2, self.square).view(*second.shape[:2], d, d)
        return Moments(total[..., 0], first, second, torch.zeros_like(first))

    def keep(self, order: Tensor) -> None:
        """Keep the problems at these positions (C,) only: those below C at their own, others where one has gone."""
        self.x, self.weight = self.x[order], self.weight[order]
        # In place: to copy the features of all that stay takes longer than an iteration.
        gone = (order >= len(order)).nonzero().squeeze(1)
        self.features[gone] = self.features[order[gone]]
        self.features = self.features[: len(order)]

    def _features(self) -> Tensor:
        """(B, tiles, F, cells) features of the cells."""
        flat = self.x.reshape(len(self.x), -1, self.cells, self.x.shape[2]).mT.contiguous()
        many, tiles, d, m = flat.shape
        out = flat.new_empty(many, tiles, 1 + d + self.pairs.shape[1], m)
        out[:, :, 0], out[:, :, 1 : 1 + d] = 1.0, flat
        if not self.full:
            torch.mul(flat, flat, out=out[:, :, 1 + d :])
            return out
        low = 1 + d
        for row in range(d):
            torch.mul(flat[:, :, row : row + 1], flat[:, :, row:], out=out[:, :, low : low + d - row])
            low += d - row
        return out

    def _natural(self, state: State) -> Tensor:
        """(B, K, F) coefficients of the joint log-density: its constant, S^-1 m, and -S^-1 / 2."""
        if self.full:
            inverse = torch.cholesky_inverse(state.factor)
            slope = (inverse @ state.means[..., None]).squeeze(-1)
            quadratic = inverse.flatten(2).index_select(2, self.upper).mul_(self.share)
            log_det = state.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            inverse = state.factor.square().reciprocal()
            slope, quadratic, log_det = inverse * state.means, -0.5 * inverse, state.factor.log().sum(-1)
        d = state.means.shape[2]
        constant = state.weights.log() - log_det - 0.5 * d * math.log(2 * math.pi) - 0.5 * (slope * state.means).sum(-1)
        return torch.cat([constant.clamp(min=-1e300)[..., None], slope, quadratic], dim=-1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product; on a processor by NumPy's library, which for these shapes is up to twice as fast as torch's."""
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def _posterior(joint: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over cells of weight x log p(x), (B,), and weighted responsibilities (B, .., K, m); overwrites ``joint``."""
    top = joint.amax(dim=-2, keepdim=True)
    r = joint.sub_(top).clamp_(min=_FAINT).exp_()
    total = r.sum(dim=-2, keepdim=True)
    likelihood = ((total.log() + top).squeeze(-2) * weight).flatten(1).sum(dim=1)
    return likelihood, r.mul_(weight[..., None, :] / total)


def _moments(r: Tensor, offset: Tensor, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, first and second moments of offsets (B, K, m, d) under weighted responsibilities (B, K, m)."""
    weighted = r[..., None] * offset
    second = weighted.mT @ offset if full else (weighted * offset).sum(2)
    return r.sum(-1), weighted.sum(2), second


def maximise(
    moments: Moments, prior: PriorTerms | None, spread: Tensor, eps: float, handling: str
) -> tuple[State, Tensor]:
    r"""M step: weights, means and covariances from moments.

    With a prior of pooled weights w_0, means m_0 and covariances S_0 that count as :math:`\nu` cells, the maximum a
    posteriori is

    .. math:: w = (n_k + \nu w_0) / (n + \nu), \quad m = (\sum r x + \nu m_0) / (n_k + \nu), \quad
        S = (\sum r (x - m)(x - m)' + \nu (m - m_0)(m - m_0)' + \nu S_0) / (n_k + \nu) + \epsilon I

    Parameters
    ----------
    moments
        Of the E step; the second are overwritten.
    prior
        Pooled mixture; maximum likelihood without.
    spread
        (B,) mean variance of each problem's cells.
    eps
        Added to the diagonal of every covariance.
    handling
        ``"guarded"``, ``"robust"`` or ``"strict"``.

    Returns
    -------
    State
        New parameters.
    Tensor
        (B, K) which covariances were singular before ``eps``; all False for ``"guarded"``, which does not look.
    """
    mass, total = moments.mass, moments.mass.sum(1, keepdim=True)
    full = moments.second.ndim == 4
    nu = prior.nu if prior else 0.0
    held = mass > _DEAD * total
    weights, first, second = torch.where(held, mass, 0.0), moments.first, moments.second
    divisor = torch.where(held | (nu > 0), mass + nu, 1.0)
    if prior is not None:
        weights = weights + nu * prior.weights
        offset = prior.means - moments.origin
        first = first + nu * offset
        second.add_(prior.covariances, alpha=nu).addcmul_(*_outer(offset, full), value=nu)
    shift = first / divisor[..., None]
    # The moments about the new mean, pooled cells among the others; in place, since new memory takes longer than sums.
    covariance = second.div_(_raised(divisor, second)).addcmul_(*_outer(shift, full), value=-1)
    if nu == 0:
        covariance = torch.where(_raised(held, second), covariance, _unit(second))
    covariance, factor, singular = _stabilise(covariance, spread, eps, handling)
    state = State(weights / weights.sum(1, keepdim=True), moments.origin + shift, covariance, factor)
    return state, singular & held


def _outer(a: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Factors of the products a a', or of their diagonals."""
    return (a[..., :, None], a[..., None, :]) if full else (a, a)


def _raised(a: Tensor, like: Tensor) -> Tensor:
    """Values (B, K) with axes of length one for those of ``like`` beyond."""
    return a.reshape(a.shape + (1,) * (like.ndim - 2))


def _unit(covariance: Tensor) -> Tensor:
    d = covariance.shape[-1]
    one = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return one if covariance.ndim == 4 else one.diagonal()


def _stabilise(covariance: Tensor, spread: Tensor, eps: float, handling: str) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances with eps (and more where they need it) on the diagonal, their factors, and which were singular."""
    unit = _unit(covariance)
    singular = torch.zeros(covariance.shape[:2], dtype=torch.bool, device=covariance.device)
    if handling != "guarded":
        singular = _is_singular(covariance)
    if handling == "robust":
        covariance = covariance + _raised(singular * _ROBUST * spread[:, None], covariance) * unit
    variance = covariance if covariance.ndim == 3 else covariance.diagonal(dim1=-2, dim2=-1)
    variance += eps
    factor, broken = _factorise(covariance, spread)
    jitter = 1e-8 * spread.clamp(min=1e-12)[:, None]
    while bool(broken.any()):
        covariance = covariance + _raised(broken * jitter, covariance) * unit
        factor, broken = _factorise(covariance, spread)
        jitter = 10 * jitter
    return covariance, factor, singular


def _factorise(covariance: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors (standard deviations), and which covariances (B, K) are not safely positive definite."""
    floor = _FLOOR * spread.clamp(min=1e-12)[:, None]
    if covariance.ndim == 3:
        return covariance.clamp(min=1e-300).sqrt(), ~(covariance.amin(-1) > floor)
    factor, info = torch.linalg.cholesky_ex(covariance)
    pivot = factor.diagonal(dim1=-2, dim2=-1).amin(-1)
    return factor, (info > 0) | ~(pivot.square() > floor)


def _is_singular(covariance: Tensor) -> Tensor:
    """Which covariances (B, K) lack full rank, judged by the pivots of their Cholesky factors."""
    variance = covariance if covariance.ndim == 3 else covariance.diagonal(dim1=-2, dim2=-1)
    largest = variance.amax(-1)
    pivot, failed = variance.amin(-1), torch.zeros_like(largest, dtype=torch.bool)
    if covariance.ndim == 4:
        factor, info = torch.linalg.cholesky_ex(covariance)
        pivot, failed = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square(), info > 0
    return failed | ~(pivot > _SINGULAR * largest)
