"""Gaussian mixtures of many patients in one padded set of arrays, and the densities of cells under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from muport.gmm.mixtures._patient_cells import as_codes, blocks, make_clouds, single_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["CovarianceType", "Mixtures", "log_density", "mean_log_likelihood", "responsibilities"]

type CovarianceType = Literal["full", "diag"]

_BUDGET = 2**21  # float64 numbers of a block: 16 MiB


@dataclass(frozen=True, eq=False)
class Mixtures:
    """One Gaussian mixture for each of P patients, padded to K components.

    Attributes
    ----------
    weights
        (P, K) float64, rows sum to 1; 0 for padded components, whose mean is 0 and whose covariance is the identity.
    means
        (P, K, d) float64.
    covariances
        (P, K, d, d) float64, or (P, K, d) variances for ``covariance_type="diag"``.
    covariance_type
        ``"full"`` or ``"diag"``.
    eps
        What was added to the diagonal of every covariance in fitting.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._mixtures import Mixtures
    >>> one = Mixtures(np.array([[0.5, 0.5]]), np.zeros((1, 2, 3)), np.ones((1, 2, 3)), "diag")
    >>> one.n_components, one.full().shape
    (array([2]), (1, 2, 3, 3))
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    covariance_type: CovarianceType = "full"
    eps: float = 1e-4

    def __post_init__(self) -> None:
        p, k, d = self.means.shape
        shape = (p, k, d, d) if self.covariance_type == "full" else (p, k, d)
        if self.weights.shape != (p, k) or self.covariances.shape != shape:
            raise ValueError(
                f"means {self.means.shape} need weights {(p, k)} and {self.covariance_type} covariances {shape}, "
                f"not {self.weights.shape} and {self.covariances.shape}."
            )

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def n_components(self) -> NDArray[np.int64]:
        """(P,) components of each patient that are not padding."""
        return (self.weights > 0).sum(axis=1).astype(np.int64)

    def full(self) -> NDArray[np.float64]:
        """Covariances as (P, K, d, d) matrices, whatever the type."""
        if self.covariance_type == "full":
            return self.covariances
        return self.covariances[..., None] * np.eye(self.means.shape[2])

    def subset(self, index: ArrayLike) -> Mixtures:
        """Mixtures of some patients: their positions, a mask or one number."""
        rows = np.arange(len(self))[np.atleast_1d(np.asarray(index))]
        return Mixtures(
            self.weights[rows], self.means[rows], self.covariances[rows], self.covariance_type, self.eps
        )  # fmt: skip

    @staticmethod
    def stack(parts: Sequence[Mixtures]) -> Mixtures:
        """Mixtures of several sets of patients, one after another, padded to the most components.

        Raises
        ------
        ValueError
            If the parts differ in their dimensions or type of covariance, or there are none.
        """
        if not parts or len({(part.means.shape[2], part.covariance_type) for part in parts}) != 1:
            raise ValueError("mixtures to stack must be of the same dimensions and covariance type, at least one.")
        wide = [part.padded(max(part.means.shape[1] for part in parts)) for part in parts]
        weights, means, covariances = (
            np.concatenate([getattr(part, name) for part in wide]) for name in ("weights", "means", "covariances")
        )
        return Mixtures(weights, means, covariances, parts[0].covariance_type, parts[0].eps)

    def padded(self, k: int) -> Mixtures:
        """The same mixtures with arrays for k components, at least as many as now."""
        p, now, d = self.means.shape
        if k == now:
            return self
        unit = np.eye(d) if self.covariance_type == "full" else np.ones(d)
        more = (p, k - now)
        return Mixtures(
            np.concatenate([self.weights, np.zeros(more)], axis=1),
            np.concatenate([self.means, np.zeros((*more, d))], axis=1),
            np.concatenate([self.covariances, np.broadcast_to(unit, (*more, *unit.shape))], axis=1),
            self.covariance_type, self.eps,
        )  # fmt: skip

    def n_parameters(self) -> NDArray[np.int64]:
        """(P,) free parameters: K d + K d (d + 1) / 2 (or K d) + K - 1, of the components that are not padding."""
        d = self.means.shape[2]
        each = d + (d * (d + 1) // 2 if self.covariance_type == "full" else d)
        number: NDArray[np.int64] = self.n_components * (each + 1) - 1
        return number


def log_density(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """Joint log-density log w_k + log N(x | m_k, S_k) of every cell and component of its patient.

    Parameters
    ----------
    x
        (n, d) cells.
    mixtures
        Fitted mixtures; with a single one it serves every cell.
    sample
        (n,) row of ``mixtures`` of each cell; may be left out where there is only one.
    device
        Where to compute.

    Returns
    -------
    numpy.ndarray
        (n, K) float64, in nats; minus infinity for padded components.

    Raises
    ------
    ValueError
        If the dimensions differ, or ``sample`` names a patient without mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._mixtures import Mixtures, log_density
    >>> unit = Mixtures(np.ones((1, 1)), np.zeros((1, 1, 2)), np.ones((1, 1, 2)), "diag")
    >>> log_density([[0.0, 0.0]], unit).round(3)
    array([[-1.838]])
    """
    cells = np.asarray(x)
    present, codes = _patients(cells, mixtures, sample)
    clouds = make_clouds(cells, codes, device=device)
    parts = mixtures.subset(present)
    k, d = parts.means.shape[1:]
    out = np.empty((len(cells), k))
    scale = _factors(parts)
    with single_thread(int(clouds.size.max()) * k * d):
        for chosen in blocks(clouds.size, np.zeros_like(present), np.full(len(present), k * d), _BUDGET):
            rows, real = clouds.rows(chosen)
            found = _blockwise(clouds.x[rows], parts.subset(chosen), scale[chosen], device)
            out[clouds.order[rows[real].cpu().numpy()]] = found[real].cpu().numpy()
    return out


def responsibilities(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, device: str = "cpu"
) -> NDArray[np.float64]:
    """Posterior probability of every component of a cell's patient, computed in the log domain.

    Parameters
    ----------
    x, mixtures, sample, device
        As for `log_density`.

    Returns
    -------
    numpy.ndarray
        (n, K) float64; rows sum to 1, padded components have 0; never NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.gmm.mixtures._mixtures import Mixtures, responsibilities
    >>> two = Mixtures(np.full((1, 2), 0.5), np.array([[[0.0], [1e6]]]), np.ones((1, 2, 1)), "diag")
    >>> responsibilities([[3.0], [1e9]], two).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    joint = log_density(x, mixtures, sample, device=device)
    joint -= joint.max(axis=1, keepdims=True)
    np.exp(joint, out=joint)
    joint /= joint.sum(axis=1, keepdims=True)
    return joint


def mean_log_likelihood(
    x: ArrayLike, mixtures: Mixtures, sample: ArrayLike | None = None, *, weight: ArrayLike | None = None,
    device: str = "cpu",
) -> NDArray[np.float64]:  # fmt: skip
    """Weighted mean over each patient's cells of log p(x), in nats per cell: (P,), 0 for patients without cells."""
    joint = log_density(x, mixtures, sample, device=device)
    top = joint.max(axis=1)
    each = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
    codes = np.zeros(len(each), np.int64) if sample is None else np.asarray(sample)
    mass = np.ones(len(each)) if weight is None else np.asarray(weight, dtype=np.float64)
    total = np.bincount(codes, mass, minlength=len(mixtures))
    mean: NDArray[np.float64] = np.bincount(codes, mass * each, minlength=len(mixtures)) / np.where(total > 0, total, 1)
    return mean


def _patients(
    x: NDArray[np.generic], mixtures: Mixtures, sample: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mixtures that have cells, and the position among them of each cell's."""
    if x.ndim == 2 and x.shape[1] != mixtures.means.shape[2]:
        raise ValueError(f"x has {x.shape[1]} dimensions, but the mixtures have {mixtures.means.shape[2]}.")
    if sample is None and len(mixtures) > 1:
        raise ValueError(f"sample is missing: name for each cell one of the {len(mixtures)} mixtures.")
    if sample is None or len(mixtures) == 1:
        return np.zeros(1, np.int64), np.zeros(len(x), np.int64)
    codes = np.asarray(sample)
    present, inverse = np.unique(codes, return_inverse=True)
    as_codes(inverse, len(x))
    if codes.dtype.kind not in "iu" or present[0] < 0 or present[-1] >= len(mixtures):
        raise ValueError(f"sample must hold integers 0 to {len(mixtures) - 1}, one for each mixture.")
    return present.astype(np.int64), inverse.astype(np.int64)


def _factors(mixtures: Mixtures) -> NDArray[np.float64]:
    """Lower Cholesky factors, or standard deviations."""
    if mixtures.covariance_type == "diag":
        return np.sqrt(mixtures.covariances)
    return np.linalg.cholesky(mixtures.covariances)


def _blockwise(x: Tensor, mixtures: Mixtures, scale: NDArray[np.float64], device: str) -> Tensor:
    """(B, m, K) joint log-densities, a piece of the cells at a time."""
    weights, means, factor = (torch.from_numpy(part).to(device) for part in (mixtures.weights, mixtures.means, scale))
    step = max(1, _BUDGET // (means.numel()))
    pieces = [joint_log_density(piece, weights, means, factor)[0] for piece in torch.split(x, step, 1)]
    return torch.cat(pieces, dim=2).mT


def joint_log_density(x: Tensor, weights: Tensor, means: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Log w_k + log N(x | m_k, L_k L_k'), (B, K, m), and the offsets x - m_k, (B, K, m, d).

    Parameters
    ----------
    x
        (B, m, d) cells.
    weights, means
        (B, K) and (B, K, d).
    factor
        (B, K, d, d) lower Cholesky factors, or (B, K, d) standard deviations.
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
