"""One EM iteration for a block of problems: cells to moments (E step), moments to parameters (M step)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from muport.gmm.mixtures._mixtures import joint_log_density

__all__ = [
    "EStep", "FeatureEStep", "Moments", "OffsetEStep", "BlockParameters", "PriorTerms", "maximize", "select_problems",
]  # fmt: skip

_MIN_LOG_RESPONSIBILITY = -60.0  # smaller ones are raised to this: denormal numbers are a hundred times slower
_EMPTY = 1e-10  # fraction of a patient's weight below which a component is empty
_SINGULAR = 1e-10  # smallest pivot over the largest below which a covariance is singular
_MIN_PIVOT = 1e-14  # smallest pivot of a Cholesky factor, relative to the patient's mean variance
_ROBUST_JITTER = 1e-2  # added to a singular covariance by "robust", as a fraction of the patient's mean variance


@dataclass(frozen=True)
class BlockParameters:
    """Parameters of a block: weights (B, K), means (B, K, d), covariances and their Cholesky factors (B, K, d, d).

    Diagonal covariances are variances (B, K, d), and their factors are standard deviations.
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
    """Pooled weights (1, K), means about the center of each problem (B, K, d), covariances (1, K, ..), and ``nu``."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    nu: float


def select_problems[Arrays: (BlockParameters, Moments)](arrays: Arrays, rows: Tensor) -> Arrays:
    """Return the arrays of some problems of a block."""
    values: dict[str, Any] = {name: v[rows] for name, v in vars(arrays).items()}
    return type(arrays)(**values)


class EStep(Protocol):
    """The E step: parameters to log-likelihoods and moments, for cells x (B, m, d) of weights (B, m)."""

    x: Tensor
    weight: Tensor

    def expectation(self, parameters: BlockParameters) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments under the responsibilities."""
        ...

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments under weighted memberships (B, K, m); ``centers`` (B, K, d) may serve as their origin."""
        ...

    def keep(self, order: Tensor) -> None:
        """Keep only the problems at these positions (C,): those below C stay in place, others fill the gaps."""
        ...


class OffsetEStep:
    """E step from the offsets of cells from the means: twice the work of `FeatureEStep`, but without cancellation."""

    def __init__(self, x: Tensor, weight: Tensor, full: bool, budget: int) -> None:
        self.x, self.weight, self.full, self.budget = x, weight, full, budget

    def expectation(self, parameters: BlockParameters) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments about the means of ``parameters``."""
        step = max(1, self.budget // parameters.means.numel())
        chunks = zip(torch.split(self.x, step, 1), torch.split(self.weight, step, 1), strict=True)
        sums = [self._chunk(x, weight, parameters) for x, weight in chunks]
        likelihood, mass, first, second = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
        return likelihood / self.weight.sum(1), Moments(mass, first, second, parameters.means)

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments about given centers (B, K, d) under weighted memberships (B, K, m)."""
        step = max(1, self.budget // centers.numel())
        chunks = zip(torch.split(self.x, step, 1), torch.split(r, step, 2), strict=True)
        sums = [_weighted_moments(part, x[:, None] - centers[:, :, None], self.full) for x, part in chunks]
        mass, first, second = (torch.stack(part).sum(0) for part in zip(*sums, strict=True))
        return Moments(mass, first, second, centers)

    def _chunk(self, x: Tensor, weight: Tensor, parameters: BlockParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        joint, offset = joint_log_density(x, parameters.weights, parameters.means, parameters.factor)
        likelihood, r = _posterior(joint, weight)
        return likelihood, *_weighted_moments(r, offset, self.full)

    def keep(self, order: Tensor) -> None:
        """Keep only the problems at these positions."""
        self.x, self.weight = self.x[order], self.weight[order]


class FeatureEStep:
    """E step as a product with the features (1, x, x x'), in which log-densities and moments are linear.

    Cells are padded to tiles of ``tile`` cells; each tile is a product of its own.
    """

    def __init__(self, x: Tensor, weight: Tensor, full: bool, tile: int, budget: int) -> None:
        padding = -x.shape[1] % tile
        self.x, self.weight = pad(x, (0, 0, 0, padding)), pad(weight, (0, padding))
        self.full, self.tile, self.budget = full, tile, budget
        d = x.shape[2]
        pairs = torch.triu_indices(d, d) if full else torch.arange(d).expand(2, d)
        self.pairs = pairs.to(x.device)
        square = torch.empty((d, d), dtype=torch.int64)
        square[pairs[0], pairs[1]] = square[pairs[1], pairs[0]] = torch.arange(pairs.shape[1])
        self.square = square.ravel().to(x.device)
        self.upper = self.pairs[0] * d + self.pairs[1]
        # an entry above the diagonal stands for two
        self.quadratic_factor = -0.5 - 0.5 * (self.pairs[0] != self.pairs[1]).to(x)
        self.features = self._make_features()

    def expectation(self, parameters: BlockParameters) -> tuple[Tensor, Moments]:
        """Mean log-likelihood per cell (B,), and moments about 0."""
        natural = self._natural_parameters(parameters)
        likelihood, total = self._zero_sums(parameters.weights)
        weight = self.weight.reshape(len(self.weight), -1, self.tile)
        for rows, tiles in self._chunks():
            features = self.features[rows, tiles]
            part, r = _posterior(_product(natural[rows, None], features), weight[rows, tiles])
            likelihood[rows] += part
            total[rows] += _product(features, r.mT.contiguous()).sum(1)
        return likelihood / self.weight.sum(1), self._to_moments(total.mT)

    def moments(self, r: Tensor, centers: Tensor) -> Moments:
        """Moments about 0 under weighted memberships (B, K, m)."""
        _, total = self._zero_sums(r[..., 0])
        member = r.reshape(*r.shape[:2], -1, self.tile).permute(0, 2, 3, 1)
        for rows, tiles in self._chunks():
            total[rows] += _product(self.features[rows, tiles], member[rows, tiles].contiguous()).sum(1)
        return self._to_moments(total.mT)

    def _zero_sums(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros (B,) and (B, F, K), for a block of which ``like`` is (B, K)."""
        return like.new_zeros(len(like)), like.new_zeros(len(like), self.features.shape[2], like.shape[1])

    def _chunks(self) -> list[tuple[slice, slice]]:
        """Problems and tiles whose features stay in the cache from the first product to the second."""
        n_problems, n_tiles, width, cells = self.features.shape
        step = max(1, self.budget // (width * cells))
        rows, columns = max(1, step // n_tiles), min(step, n_tiles)
        return [
            (slice(i, i + rows), slice(j, j + columns))
            for i in range(0, n_problems, rows)
            for j in range(0, n_tiles, columns)
        ]

    def _to_moments(self, total: Tensor) -> Moments:
        """Moments from sums of features (B, K, F)."""
        d = self.x.shape[2]
        first, second = total[..., 1 : 1 + d].contiguous(), total[..., 1 + d :]
        if self.full:
            second = second.index_select(2, self.square).view(*second.shape[:2], d, d)
        return Moments(total[..., 0], first, second, torch.zeros_like(first))

    def keep(self, order: Tensor) -> None:
        """Keep only the problems at these positions (C,): those below C stay in place, others fill the gaps."""
        self.x, self.weight = self.x[order], self.weight[order]
        # in place: copying the features of all remaining problems takes longer than an iteration
        gaps = (order >= len(order)).nonzero().squeeze(1)
        self.features[gaps] = self.features[order[gaps]]
        self.features = self.features[: len(order)]

    def _make_features(self) -> Tensor:
        """(B, tiles, F, cells) features of the cells."""
        flat = self.x.reshape(len(self.x), -1, self.tile, self.x.shape[2]).mT.contiguous()
        n_problems, n_tiles, d, m = flat.shape
        out = flat.new_empty(n_problems, n_tiles, 1 + d + self.pairs.shape[1], m)
        out[:, :, 0], out[:, :, 1 : 1 + d] = 1.0, flat
        if not self.full:
            torch.mul(flat, flat, out=out[:, :, 1 + d :])
            return out
        low = 1 + d
        for row in range(d):
            torch.mul(flat[:, :, row : row + 1], flat[:, :, row:], out=out[:, :, low : low + d - row])
            low += d - row
        return out

    def _natural_parameters(self, parameters: BlockParameters) -> Tensor:
        """(B, K, F) coefficients of the joint log-density: its constant, S^-1 m, and -S^-1 / 2."""
        if self.full:
            inverse = torch.cholesky_inverse(parameters.factor)
            linear = (inverse @ parameters.means[..., None]).squeeze(-1)
            quadratic = inverse.flatten(2).index_select(2, self.upper).mul_(self.quadratic_factor)
            log_det = parameters.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            inverse = parameters.factor.square().reciprocal()
            linear, quadratic = inverse * parameters.means, -0.5 * inverse
            log_det = parameters.factor.log().sum(-1)
        d = parameters.means.shape[2]
        normalizer = parameters.weights.log() - log_det - 0.5 * d * math.log(2 * math.pi)
        constant = normalizer - 0.5 * (linear * parameters.means).sum(-1)
        return torch.cat([constant.clamp(min=-1e300)[..., None], linear, quadratic], dim=-1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched product; on a CPU by NumPy, which is up to twice as fast as torch for these shapes."""
    if a.device.type != "cpu":
        return a @ b
    return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


def _posterior(joint: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over cells of weight x log p(x), (B,), and weighted responsibilities (B, .., K, m); overwrites ``joint``."""
    top = joint.amax(dim=-2, keepdim=True)
    r = joint.sub_(top).clamp_(min=_MIN_LOG_RESPONSIBILITY).exp_()
    total = r.sum(dim=-2, keepdim=True)
    likelihood = ((total.log() + top).squeeze(-2) * weight).flatten(1).sum(dim=1)
    return likelihood, r.mul_(weight[..., None, :] / total)


def _weighted_moments(r: Tensor, offset: Tensor, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, first and second moments of offsets (B, K, m, d) under weighted responsibilities (B, K, m)."""
    weighted = r[..., None] * offset
    second = weighted.mT @ offset if full else (weighted * offset).sum(2)
    return r.sum(-1), weighted.sum(2), second


def maximize(
    moments: Moments, prior: PriorTerms | None, mean_variance: Tensor, eps: float, handling: str
) -> tuple[BlockParameters, Tensor]:
    r"""M step: weights, means and covariances from moments.

    With a prior of pooled weights w_0, means m_0 and covariances S_0 that count as :math:`\nu` cells, the maximum a
    posteriori is

    .. math:: w = (n_k + \nu w_0) / (n + \nu), \quad m = (\sum r x + \nu m_0) / (n_k + \nu), \quad
        S = (\sum r (x - m)(x - m)' + \nu (m - m_0)(m - m_0)' + \nu S_0) / (n_k + \nu) + \epsilon I

    - `moments`: Moments of the E step; the second moments are overwritten.
    - `prior`: Pooled mixture; None for maximum likelihood.
    - `mean_variance`: (B,) mean variance of the cells of each problem.
    - `eps`: Added to the diagonal of every covariance.
    - `handling`: ``"guarded"``, ``"robust"`` or ``"strict"``.

    Returns the new parameters, and (B, K) which covariances were singular before ``eps``; all False for ``"guarded"``,
    which does not check.
    """
    mass, total = moments.mass, moments.mass.sum(1, keepdim=True)
    full = moments.second.ndim == 4
    nu = prior.nu if prior else 0.0
    occupied = mass > _EMPTY * total
    weights, first, second = torch.where(occupied, mass, 0.0), moments.first, moments.second
    divisor = torch.where(occupied | (nu > 0), mass + nu, 1.0)
    if prior is not None:
        weights = weights + nu * prior.weights
        offset = prior.means - moments.origin
        first = first + nu * offset
        second.add_(prior.covariances, alpha=nu).addcmul_(*_outer_factors(offset, full), value=nu)
    shift = first / divisor[..., None]
    # moments about the new mean, with the pooled cells; in place, since new memory takes longer than the sums
    covariance = second.div_(_add_axes(divisor, second)).addcmul_(*_outer_factors(shift, full), value=-1)
    if nu == 0:
        covariance = torch.where(_add_axes(occupied, second), covariance, _unit(second))
    covariance, factor, singular = _stabilize(covariance, mean_variance, eps, handling)
    parameters = BlockParameters(weights / weights.sum(1, keepdim=True), moments.origin + shift, covariance, factor)
    return parameters, singular & occupied


def _outer_factors(a: Tensor, full: bool) -> tuple[Tensor, Tensor]:
    """Factors whose broadcast product is a a', or its diagonal."""
    return (a[..., :, None], a[..., None, :]) if full else (a, a)


def _add_axes(a: Tensor, like: Tensor) -> Tensor:
    """Values (B, K) with further axes of length one, as many as ``like`` has."""
    return a.reshape(a.shape + (1,) * (like.ndim - 2))


def _unit(covariance: Tensor) -> Tensor:
    """The identity in the form of the covariances."""
    d = covariance.shape[-1]
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    return identity if covariance.ndim == 4 else identity.diagonal()


def _stabilize(
    covariance: Tensor, mean_variance: Tensor, eps: float, handling: str
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Covariances with eps, or more if needed, on the diagonal; their factors; and which ones were singular."""
    unit = _unit(covariance)
    singular = torch.zeros(covariance.shape[:2], dtype=torch.bool, device=covariance.device)
    if handling != "guarded":
        singular = _is_singular(covariance)
    if handling == "robust":
        covariance = covariance + _add_axes(singular * _ROBUST_JITTER * mean_variance[:, None], covariance) * unit
    variance = covariance if covariance.ndim == 3 else covariance.diagonal(dim1=-2, dim2=-1)
    variance += eps
    factor, failed = _factorize(covariance, mean_variance)
    jitter = 1e-8 * mean_variance.clamp(min=1e-12)[:, None]
    while bool(failed.any()):
        covariance = covariance + _add_axes(failed * jitter, covariance) * unit
        factor, failed = _factorize(covariance, mean_variance)
        jitter = 10 * jitter
    return covariance, factor, singular


def _factorize(covariance: Tensor, mean_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors (standard deviations), and which covariances (B, K) are not safely positive definite."""
    smallest = _MIN_PIVOT * mean_variance.clamp(min=1e-12)[:, None]
    if covariance.ndim == 3:
        return covariance.clamp(min=1e-300).sqrt(), ~(covariance.amin(-1) > smallest)
    factor, info = torch.linalg.cholesky_ex(covariance)
    pivot = factor.diagonal(dim1=-2, dim2=-1).amin(-1)
    return factor, (info > 0) | ~(pivot.square() > smallest)


def _is_singular(covariance: Tensor) -> Tensor:
    """Which covariances (B, K) do not have full rank, by the pivots of their Cholesky factors."""
    variance = covariance if covariance.ndim == 3 else covariance.diagonal(dim1=-2, dim2=-1)
    largest = variance.amax(-1)
    pivot, failed = variance.amin(-1), torch.zeros_like(largest, dtype=torch.bool)
    if covariance.ndim == 4:
        factor, info = torch.linalg.cholesky_ex(covariance)
        pivot, failed = factor.diagonal(dim1=-2, dim2=-1).amin(-1).square(), info > 0
    return failed | ~(pivot > _SINGULAR * largest)
