"""Noise along the data: local tangent spaces by local principal components, and the way back to the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points, knn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["TangentNoise", "tangent_noise"]

_ANCHORS = 4_096  # cells that have a tangent space of their own; a point takes that of the nearest
_BLOCK = 2**24  # distances or coordinates held at once
_REPLICATES = 200  # isotropic neighbourhoods that the spectrum is compared with


@dataclass(frozen=True)
class TangentNoise:
    """Tangent spaces of data: call it as ``noise(x, eta)``, and use ``retract`` to bring points back.

    Attributes
    ----------
    center
        (A, d) means of the neighbourhoods of the anchors.
    basis
        (A, d, r) orthonormal bases of their leading r principal components.
    anchor
        (A, d) anchors: cells of the data.
    along, across
        (A,) reach of the neighbourhood in its tangent space (the largest distance from its mean) and out of it (root
        mean square).
    """

    center: Tensor
    basis: Tensor
    anchor: Tensor
    along: Tensor
    across: Tensor

    @property
    def rank(self) -> int:
        """Dimension r of the tangent spaces."""
        return int(self.basis.shape[2])

    def __call__(self, x: Tensor, eta: Tensor) -> Tensor:
        """Standard normal numbers (n, d), projected to the tangent spaces (n, d) at the positions: B B' eta."""
        basis = self.basis.to(x)[self._nearest(x)]
        return _span(basis, eta)

    def retract(self, x: Tensor) -> Tensor:
        """Positions (n, d) brought back to the data.

        The offset from the local mean is split into its tangent and its normal part. A part that is longer than the
        data's own reach there is shortened to that reach, so that a point among the data stays where it is.
        """
        near = self._nearest(x)
        center, basis = self.center.to(x)[near], self.basis.to(x)[near]
        tangent = _span(basis, x - center)
        normal = x - center - tangent
        return center + _shorten(tangent, self.along.to(x)[near]) + _shorten(normal, self.across.to(x)[near])

    def _nearest(self, x: Tensor) -> Tensor:
        anchor = self.anchor.to(x)
        offset = anchor.square().sum(dim=1)
        blocks = torch.split(x, max(1, _BLOCK // len(anchor)))
        return torch.cat([torch.addmm(offset[None], block, anchor.T, alpha=-2).argmin(dim=1) for block in blocks])


def tangent_noise(x: ArrayLike, k: int = 30, rank: int | None = None, *, random_state: int = 0) -> TangentNoise:
    """Find the local tangent spaces of data by principal components of neighbourhoods, all at once.

    Isotropic noise leaves data that lie near a low-dimensional surface; noise in its tangent space does not. Up to
    4,096 cells (all, or a seeded choice) are anchors, and a point has the tangent space of its nearest anchor.

    The dimension r, one for all, is read from the mean of the normalised local spectra by parallel analysis: r is the
    number of leading eigenvalues above those of isotropic neighbourhoods of the same size and dimension. Where none is,
    the data fill space at that scale, no direction leads out of them, and r is the intrinsic dimension: the maximum
    likelihood estimate from the distances to the neighbours, rounded.

    Parameters
    ----------
    x
        (n, d) data.
    k
        Neighbours of an anchor; at most n - 1 are used.
    rank
        Dimension r instead, from 1 to d.
    random_state
        Seed of the choice of anchors and of the isotropic neighbourhoods.

    Returns
    -------
    TangentNoise
        Means, bases and reaches of the anchors.

    Raises
    ------
    ValueError
        For fewer than three cells, or ``k`` or ``rank`` out of range.

    References
    ----------
    Horn, Psychometrika 30 (1965), parallel analysis; Levina & Bickel, NeurIPS 17 (2004), intrinsic dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from muport.velocity.dynamics._integrate import tangent_noise
    >>> line = np.linspace(0, 1, 100)[:, None] * np.array([[3.0, 4.0]])
    >>> noise = tangent_noise(line)
    >>> noise.rank, noise.basis[0, :, 0].abs().round(decimals=3).tolist()
    (1, [0.6000000238418579, 0.800000011920929])
    """
    points = as_points(x, "x")
    n, d = points.shape
    if n < 3 or k < 2:
        raise ValueError(f"{n} cells and k={k}: tangent spaces need at least three cells and two neighbours.")
    if rank is not None and not 1 <= rank <= d:
        raise ValueError(f"rank={rank} is out of range: use 1 to {d}, the dimension of the data.")
    rng = np.random.default_rng(random_state)
    anchor = np.sort(rng.permutation(n)[:_ANCHORS])
    k = min(k, n - 1)
    found = knn(points, k + 1, query=points[anchor])
    center, directions, spectrum = _components(points, found.indices)
    r = rank or _rank(spectrum.mean(dim=0), found.distances[:, 1:], k + 1, d, rng)
    basis = directions[:, :, : min(r, directions.shape[2])]
    along, across = _reach(points, found.indices, center, basis)
    return TangentNoise(center, basis.contiguous(), torch.tensor(points[anchor]), along, across)


def _span(basis: Tensor, v: Tensor) -> Tensor:
    """B B' v of every row."""
    return torch.einsum("ndr,nr->nd", basis, torch.einsum("ndr,nd->nr", basis, v))


def _shorten(v: Tensor, most: Tensor) -> Tensor:
    share: Tensor = (most / v.norm(dim=1).clamp(min=1e-30)).clamp(max=1.0)
    return v * share[:, None]


def _components(points: NDArray[np.float32], near: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Means (A, d), principal directions (A, d, q) and normalised spectra (A, q) of neighbourhoods, q = min(k, d)."""
    k, d = near.shape[1], points.shape[1]
    data = torch.tensor(points)
    parts = []
    for block in torch.split(torch.from_numpy(near), max(1, _BLOCK // (k * d))):
        cloud = data[block]
        center = cloud.mean(dim=1)
        _, singular, directions = torch.linalg.svd(cloud - center[:, None], full_matrices=False)
        variance = singular.square()
        parts.append((center, directions.mT, variance / variance.sum(dim=1, keepdim=True).clamp(min=1e-30)))
    centers, bases, spectra = (torch.cat(column) for column in zip(*parts, strict=True))
    return centers, bases, spectra


def _rank(spectrum: Tensor, distances: NDArray[np.float32], k: int, d: int, rng: np.random.Generator) -> int:
    """Eigenvalues above those of balls of the same size and dimension; the intrinsic dimension if there are none."""
    ball = rng.normal(size=(_REPLICATES, k, d))
    ball *= (rng.random((_REPLICATES, k, 1)) ** (1 / d)) / np.linalg.norm(ball, axis=2, keepdims=True)
    variance = np.linalg.svd(ball - ball.mean(axis=1, keepdims=True), compute_uv=False) ** 2
    isotropic = np.quantile(variance / variance.sum(axis=1, keepdims=True), 0.95, axis=0)
    above = spectrum.numpy() > isotropic
    leading = int(np.argmin(above)) if not above.all() else len(above)
    return leading or min(d, _intrinsic_dimension(distances))


def _intrinsic_dimension(distances: NDArray[np.float32]) -> int:
    """Levina & Bickel's estimate with MacKay & Ghahramani's average over cells: 1 / mean log(r_k / r_j), rounded."""
    radius = np.maximum(distances.astype(np.float64), 1e-30)
    log_ratio = np.log(radius[:, -1:] / radius[:, :-1])
    usable = distances[:, :-1] > 0
    mean = log_ratio[usable].mean() if usable.any() else 0.0
    return max(1, round(1 / mean)) if mean > 0 else 1


def _reach(
    points: NDArray[np.float32], near: NDArray[np.int64], center: Tensor, basis: Tensor
) -> tuple[Tensor, Tensor]:
    """Largest distance along (A,) and root mean square distance across (A,) the tangent spaces, of the neighbours."""
    data = torch.tensor(points)
    along, across = [], []
    for rows in torch.split(torch.arange(len(near)), max(1, _BLOCK // (near.shape[1] * points.shape[1]))):
        offset = data[torch.from_numpy(near)[rows]] - center[rows, None]
        score = offset @ basis[rows]
        along.append(score.norm(dim=2).amax(dim=1))
        rest = offset.square().sum(dim=2) - score.square().sum(dim=2)
        across.append(rest.clamp(min=0).mean(dim=1).sqrt())
    return torch.cat(along), torch.cat(across)
