"""Gaussian mixtures of many patients in one padded set of arrays, and the densities of cells under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from muport.gmm.mixtures._patient_cells import check_codes, iterate_blocks, single_thread_if_small, sort_by_patient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CovarianceType", "Mixtures", "joint_log_density", "log_density", "mean_log_likelihood", "responsibilities",
]  # fmt: skip

type CovarianceType = Literal["full", "diag"]

_BUDGET = 2**21  # float64 numbers of a block, 16 MiB


@dataclass(frozen=True, eq=False)
class Mixtures:
    """One Gaussian mixture per patient, padded to K components.

    - `weights`: (P, K) float64, rows sum to 1; 0 for padded components, whose mean is 0 and whose covariance is the
      identity.
    - `means`: (P, K, d) float64.
    - `covariances`: (P, K, d, d) float64, or (P, K, d) variances for ``covariance_type="diag"``.
    - `covariance_type`: ``"full"`` or ``"diag"``.
    - `eps`: Added to the diagonal of every covariance by the fit.
    - `offsets`: (P, d) shift of all components of each patient, which states common to all patients do not have; None
      where offsets were not estimated.

    Examples
    --------
    >>> mixtures = Mixtures(np.array([[0.5, 0.5]]), np.zeros((1, 2, 3)), np.ones((1, 2, 3)), "diag")
    >>> mixtures.n_components, mixtures.full().shape
    (array([2]), (1, 2, 3, 3))
    """

    weights: Annotated[NDArray[np.float64], "P K", "0.."]
    means: Annotated[NDArray[np.float64], "P K d"]
    covariances: Annotated[NDArray[np.float64], "P K d d"] | Annotated[NDArray[np.float64], "P K d"]
    covariance_type: CovarianceType = "full"
    eps: Annotated[float, "0.."] = 1e-4
    offsets: Annotated[NDArray[np.float64], "P d"] | None = None

    def __post_init__(self) -> None:
        p, k, d = self.means.shape
        shape = (p, k, d, d) if self.covariance_type == "full" else (p, k, d)
        if self.weights.shape != (p, k) or self.covariances.shape != shape:
            raise ValueError(
                f"means {self.means.shape} need weights {(p, k)} and {self.covariance_type} covariances {shape}, "
                f"not {self.weights.shape} and {self.covariances.shape}."
            )
        if self.offsets is not None and self.offsets.shape != (p, d):
            raise ValueError(f"means {self.means.shape} need offsets {(p, d)}, not {self.offsets.shape}.")

    def check_consistency(self) -> None:
        """Raise a ValueError unless the weights sum to 1 and the covariances are positive definite."""
        if not np.allclose(self.weights.sum(axis=1), 1, atol=1e-6):
            raise ValueError("the weights of a patient do not sum to 1.")
        if self.covariance_type == "diag" and not (self.covariances > 0).all():
            raise ValueError("a variance is not positive.")
        _factorize(self)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def n_components(self) -> NDArray[np.int64]:
        """(P,) number of components of each patient, without padding."""
        return (self.weights > 0).sum(axis=1).astype(np.int64)

    def full(self) -> NDArray[np.float64]:
        """Covariances as (P, K, d, d) matrices, for both types."""
        if self.covariance_type == "full":
            return self.covariances
        return self.covariances[..., None] * np.eye(self.means.shape[2])

    def subset(self, index: ArrayLike) -> Mixtures:
        """Mixtures of some patients, by their positions, a mask or a single position."""
        rows = np.arange(len(self))[np.atleast_1d(np.asarray(index))]
        return Mixtures(
            self.weights[rows], self.means[rows], self.covariances[rows], self.covariance_type, self.eps,
            None if self.offsets is None else self.offsets[rows],
        )  # fmt: skip

    def aligned_means(self) -> NDArray[np.float64]:
        """Means (P, K, d) without the offsets of the patients."""
        return self.means if self.offsets is None else self.means - self.offsets[:, None]

    @staticmethod
    def stack(parts: Sequence[Mixtures]) -> Mixtures:
        """Concatenate the mixtures of several sets of patients, padded to the largest number of components.

        Raises ValueError if the parts differ in dimensions or covariance type, or there are none.
        """
        if not parts or len({(part.means.shape[2], part.covariance_type) for part in parts}) != 1:
            raise ValueError(
                "mixtures to stack must have the same dimensions and covariance type, and there must be at least one."
            )
        wide = [part.padded(max(part.means.shape[1] for part in parts)) for part in parts]
        weights, means, covariances = (
            np.concatenate([getattr(part, name) for part in wide]) for name in ("weights", "means", "covariances")
        )
        offsets = [np.zeros(part.means[:, 0].shape) if part.offsets is None else part.offsets for part in parts]
        known = any(part.offsets is not None for part in parts)
        return Mixtures(
            weights, means, covariances, parts[0].covariance_type, parts[0].eps,
            np.concatenate(offsets) if known else None,
        )  # fmt: skip

    def padded(self, k: int) -> Mixtures:
        """The same mixtures in arrays of k components, at least as many as now."""
        p, current, d = self.means.shape
        if k == current:
            return self
        unit = np.eye(d) if self.covariance_type == "full" else np.ones(d)
        added = (p, k - current)
        return Mixtures(
            np.concatenate([self.weights, np.zeros(added)], axis=1),
            np.concatenate([self.means, np.zeros((*added, d))], axis=1),
            np.concatenate([self.covariances, np.broadcast_to(unit, (*added, *unit.shape))], axis=1),
            self.covariance_type, self.eps, self.offsets,
        )  # fmt: skip

    def n_parameters(self) -> NDArray[np.int64]:
        """(P,) number of free parameters, K d + K d (d + 1) / 2 + K - 1 (diagonal: 2 K d + K - 1), without padding."""
        d = self.means.shape[2]
        per_component = d + (d * (d + 1) // 2 if self.covariance_type == "full" else d)
        total: NDArray[np.int64] = self.n_components * (per_component + 1) - 1
        return total


def log_density(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """Joint log-density log w_k + log N(x | m_k, S_k) of every cell and each component of its patient.

    - `x`: (n, d) cells.
    - `mixtures`: Fitted mixtures; a single one is used for every cell.
    - `sample`: (n,) row of ``mixtures`` for each cell; not needed if there is only one.

    Returns (n, K) float64, in nats; minus infinity for padded components. Raises ValueError if the dimensions differ,
    or ``sample`` has a code without a mixture.

    Examples
    --------
    >>> unit = Mixtures(np.ones((1, 1)), np.zeros((1, 1, 2)), np.ones((1, 1, 2)), "diag")
    >>> log_density([[0.0, 0.0]], unit).round(3)
    array([[-1.838]])
    """
    array = np.asarray(x)
    present, codes = _match_mixtures(array, mixtures, sample)
    cells = sort_by_patient(array, codes, device=device)
    selected = mixtures.subset(present)
    k, d = selected.means.shape[1:]
    out = np.empty((len(array), k))
    factors = _factorize(selected)
    with single_thread_if_small(int(cells.size.max()) * k * d):
        for patients in iterate_blocks(cells.size, np.zeros_like(present), np.full(len(present), k * d), _BUDGET):
            rows, real = cells.rows(patients)
            joint = _block_log_density(cells.x[rows], selected.subset(patients), factors[patients], device)
            out[cells.order[rows[real].cpu().numpy()]] = joint[real].cpu().numpy()
    return out


def responsibilities(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """Posterior probability of each component of the cell's patient, computed in the log domain.

    - `x`, `mixtures`, `sample`, `device`: As for `log_density`.

    Returns (n, K) float64; rows sum to 1, padded components are 0.

    Examples
    --------
    >>> two = Mixtures(np.full((1, 2), 0.5), np.array([[[0.0], [1e6]]]), np.ones((1, 2, 1)), "diag")
    >>> responsibilities([[3.0], [1e9]], two).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    posterior: NDArray[np.float64] = softmax(log_density(x, mixtures, sample, device=device), axis=1)
    return posterior


def mean_log_likelihood(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, weight: ArrayLike | None = None,
    device: str = "cpu",
) -> NDArray[np.float64]:  # fmt: skip
    """Weighted mean of log p(x) over each patient's cells, (P,), in nats per cell; 0 for a patient without cells."""
    joint = log_density(x, mixtures, sample, device=device)
    top = joint.max(axis=1)
    log_likelihood = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
    codes = np.zeros(len(joint), np.int64) if sample is None else np.asarray(sample)
    weights = np.ones(len(joint)) if weight is None else np.asarray(weight, dtype=np.float64)
    total = np.bincount(codes, weights, minlength=len(mixtures))
    summed = np.bincount(codes, weights * log_likelihood, minlength=len(mixtures))
    mean: NDArray[np.float64] = summed / np.where(total > 0, total, 1)
    return mean


def _match_mixtures(
    x: NDArray[np.generic], mixtures: Mixtures, sample: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the mixtures which have cells, and the position among these for each cell."""
    if x.ndim == 2 and x.shape[1] != mixtures.means.shape[2]:
        raise ValueError(f"x has {x.shape[1]} dimensions, but the mixtures have {mixtures.means.shape[2]}.")
    if sample is None and len(mixtures) > 1:
        raise ValueError(f"sample is missing: give each cell one of the {len(mixtures)} mixtures.")
    if sample is None or len(mixtures) == 1:
        return np.zeros(1, np.int64), np.zeros(len(x), np.int64)
    codes = np.asarray(sample)
    present, inverse = np.unique(codes, return_inverse=True)
    check_codes(inverse, len(x))
    if codes.dtype.kind not in "iu" or present[0] < 0 or present[-1] >= len(mixtures):
        raise ValueError(f"sample must be integers 0 to {len(mixtures) - 1}, one for each mixture.")
    return present.astype(np.int64), inverse.astype(np.int64)


def _factorize(mixtures: Mixtures) -> NDArray[np.float64]:
    """Lower Cholesky factors; standard deviations if diagonal."""
    if mixtures.covariance_type == "diag":
        return np.sqrt(mixtures.covariances)
    return np.linalg.cholesky(mixtures.covariances)


def _block_log_density(x: Tensor, mixtures: Mixtures, factors: NDArray[np.float64], device: str) -> Tensor:
    """(B, m, K) joint log-densities, computed for a chunk of the cells at a time."""
    weights, means, factor = (
        torch.from_numpy(array).to(device) for array in (mixtures.weights, mixtures.means, factors)
    )  # fmt: skip
    step = max(1, _BUDGET // (means.numel()))
    chunks = [joint_log_density(chunk, weights, means, factor)[0] for chunk in torch.split(x, step, 1)]
    return torch.cat(chunks, dim=2).mT


def joint_log_density(x: Tensor, weights: Tensor, means: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Compute log w_k + log N(x | m_k, L_k L_k'), (B, K, m), and the offsets x - m_k, (B, K, m, d).

    - `x`: (B, m, d) cells.
    - `weights`, `means`: (B, K) and (B, K, d).
    - `factor`: (B, K, d, d) lower Cholesky factors, or (B, K, d) standard deviations.
    """
    offset = x[:, None] - means[:, :, None]
    if factor.ndim == 3:
        scaled = offset / factor[:, :, None]
        log_det = factor.log().sum(-1)
    else:
        scaled = torch.linalg.solve_triangular(factor, offset.mT, upper=False).mT
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = weights.log() - log_det - 0.5 * x.shape[-1] * math.log(2 * math.pi)
    return constant[..., None] - 0.5 * scaled.square().sum(-1).clamp(max=1e300), offset
