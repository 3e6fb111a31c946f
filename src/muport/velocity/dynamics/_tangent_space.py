"""Local tangent spaces of data: random displacements within them, and projection of positions back to the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import Neighbors, as_points, knn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["TangentSpaces", "fit_tangent_spaces"]

_MAX_ANCHORS = 4_096  # cells with a tangent space of their own; a position has that of its nearest anchor
_BLOCK = 2**24  # distances or coordinates held at once
_N_ISOTROPIC = 200  # random isotropic neighborhoods, with whose spectra that of the data is compared


@dataclass(frozen=True)
class TangentSpaces:
    """Tangent spaces at A anchors, which are cells of the data.

    - `center`: (A, d) means of the neighborhoods of the anchors.
    - `basis`: (A, d, r) orthonormal bases of their leading r principal components.
    - `anchor`: (A, d) positions of the anchors.
    - `along`, `across`: (A,) extent of a neighborhood within its tangent space (largest distance from the mean), and
      orthogonal to it (root mean square distance).
    - `spacing`: Median distance, within the tangent space, between an anchor and the nearest other cell. Noise of the
      measurement, which fills all dimensions, hardly adds to it.
    """

    center: Tensor
    basis: Tensor
    anchor: Tensor
    along: Tensor
    across: Tensor
    spacing: float

    @property
    def rank(self) -> int:
        """Dimension r of the tangent spaces."""
        return int(self.basis.shape[2])

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        """Vectors (n, d), projected onto the tangent spaces at positions (n, d): B B' v."""
        return _project(self.basis.to(x)[self._nearest(x)], v)

    def retract(self, x: Tensor, direction: Tensor) -> Tensor:
        """Positions (n, d) that move in a direction (n, d), brought back to the data without being held back.

        The offset from a local mean is split into its tangent and its normal part. A part that is longer than the
        extent of the data is shortened to it, so that a position among the data hardly changes. The local mean and
        the extent are those ahead of the position, one neighborhood along its direction. Those at the position would
        undo its motion wherever it leads out of a neighborhood: at turns, and where few cells lead to the next ones. A
        position is brought backward only beyond the end of the data, and forward only before their beginning.
        """
        unit = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-30)
        here = self._nearest(x)
        ahead = self._nearest(x + self.along.to(x)[here, None] * unit)
        change, change_here = (self._retracted(x, anchor) - x for anchor in (ahead, here))
        along, along_here = ((step * unit).sum(dim=1, keepdim=True) for step in (change, change_here))
        retracted: Tensor = x + change + (along.clamp(max=0) + along_here.clamp(min=0) - along) * unit
        return retracted

    def _retracted(self, x: Tensor, anchor: Tensor) -> Tensor:
        """Positions (n, d) within the extent of the neighborhoods of given anchors (n,)."""
        center, basis = self.center.to(x)[anchor], self.basis.to(x)[anchor]
        tangent = _project(basis, x - center)
        normal = x - center - tangent
        return center + _shorten(tangent, self.along.to(x)[anchor]) + _shorten(normal, self.across.to(x)[anchor])

    def _nearest(self, x: Tensor) -> Tensor:
        anchor = self.anchor.to(x)
        offset = anchor.square().sum(dim=1)
        blocks = torch.split(x, max(1, _BLOCK // len(anchor)))
        return torch.cat([torch.addmm(offset[None], block, anchor.T, alpha=-2).argmin(dim=1) for block in blocks])


def fit_tangent_spaces(x: ArrayLike, k: int = 30, rank: int | None = None, *, random_state: int = 0) -> TangentSpaces:
    """Fit local tangent spaces by principal components of neighborhoods.

    Isotropic noise moves cells off data that lie near a low-dimensional surface; noise in the tangent space does not.
    Up to 4,096 cells (all, or a random sample) are anchors, and a position has the tangent space of its nearest anchor.

    All tangent spaces have one dimension r, which parallel analysis chooses from the mean of the normalized local
    spectra: r is the number of leading eigenvalues above those of isotropic neighborhoods of the same size and
    dimension. If there are none, the data fill the space at that scale, and r is the intrinsic dimension: the maximum
    likelihood estimate from the distances to the neighbors, rounded.

    - `x`: (n, d) data.
    - `k`: Neighbors of an anchor; at most n - 1 are used.
    - `rank`: Dimension r, from 1 to d; chosen by the rule above if not given.
    - `random_state`: Seed of the sample of anchors and of the isotropic neighborhoods.

    Returns means, bases and extents at the anchors. Raises ValueError for fewer than three cells, or ``k`` or ``rank``
    out of range.

    References
    ----------
    Horn, Psychometrika 30 (1965), parallel analysis; Levina & Bickel, NeurIPS 17 (2004), intrinsic dimension.

    Examples
    --------
    >>> line = np.linspace(0, 1, 100)[:, None] * np.array([[3.0, 4.0]])
    >>> spaces = fit_tangent_spaces(line)
    >>> spaces.rank, spaces.basis[0, :, 0].abs().round(decimals=3).tolist()
    (1, [0.6000000238418579, 0.800000011920929])
    """
    points = as_points(x, "x")
    n, d = points.shape
    if n < 3 or k < 2:
        raise ValueError(f"{n} cells and k={k}: tangent spaces need at least three cells and two neighbors.")
    if rank is not None and not 1 <= rank <= d:
        raise ValueError(f"rank={rank} is out of range: use 1 to {d}, the dimension of the data.")
    rng = np.random.default_rng(random_state)
    anchor = np.sort(rng.permutation(n)[:_MAX_ANCHORS])
    k = min(k, n - 1)
    neighbors = knn(points, k + 1, query=points[anchor])
    center, directions, spectrum = _local_components(points, neighbors.indices)
    r = rank or _choose_rank(spectrum.mean(dim=0), neighbors.distances[:, 1:], k + 1, d, rng)
    basis = directions[:, :, : min(r, directions.shape[2])]
    along, across = _measure_extent(points, neighbors.indices, center, basis)
    spacing = _spacing_within(points, anchor, neighbors, basis)
    return TangentSpaces(center, basis.contiguous(), torch.tensor(points[anchor]), along, across, spacing)


def _project(basis: Tensor, v: Tensor) -> Tensor:
    """B B' v for every row."""
    return torch.einsum("ndr,nr->nd", basis, torch.einsum("ndr,nd->nr", basis, v))


def _shorten(v: Tensor, max_length: Tensor) -> Tensor:
    factor: Tensor = (max_length / v.norm(dim=1).clamp(min=1e-30)).clamp(max=1.0)
    return v * factor[:, None]


def _local_components(points: NDArray[np.float32], indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """Means (A, d), principal directions (A, d, q) and normalized spectra (A, q) of neighborhoods, q = min(k, d)."""
    k, d = indices.shape[1], points.shape[1]
    data = torch.tensor(points)
    parts = []
    for block in torch.split(torch.from_numpy(indices), max(1, _BLOCK // (k * d))):
        neighborhood = data[block]
        center = neighborhood.mean(dim=1)
        _, singular, directions = torch.linalg.svd(neighborhood - center[:, None], full_matrices=False)
        variance = singular.square()
        parts.append((center, directions.mT, variance / variance.sum(dim=1, keepdim=True).clamp(min=1e-30)))
    centers, bases, spectra = (torch.cat(column) for column in zip(*parts, strict=True))
    return centers, bases, spectra


def _choose_rank(spectrum: Tensor, distances: NDArray[np.float32], k: int, d: int, rng: np.random.Generator) -> int:
    """Number of eigenvalues above those of uniform balls; the intrinsic dimension if there are none (Horn, 1965)."""
    ball = rng.normal(size=(_N_ISOTROPIC, k, d))
    ball *= (rng.random((_N_ISOTROPIC, k, 1)) ** (1 / d)) / np.linalg.norm(ball, axis=2, keepdims=True)
    variance = np.linalg.svd(ball - ball.mean(axis=1, keepdims=True), compute_uv=False) ** 2
    isotropic = np.quantile(variance / variance.sum(axis=1, keepdims=True), 0.95, axis=0)
    above = spectrum.numpy() > isotropic
    leading = int(np.argmin(above)) if not above.all() else len(above)
    return leading or min(d, _intrinsic_dimension(distances))


def _intrinsic_dimension(distances: NDArray[np.float32]) -> int:
    """Levina & Bickel's estimate, averaged over cells as by MacKay & Ghahramani: 1 / mean log(r_k / r_j), rounded."""
    radius = np.maximum(distances.astype(np.float64), 1e-30)
    log_ratio = np.log(radius[:, -1:] / radius[:, :-1])
    usable = distances[:, :-1] > 0
    mean = log_ratio[usable].mean() if usable.any() else 0.0
    return max(1, round(1 / mean)) if mean > 0 else 1


def _spacing_within(
    points: NDArray[np.float32], anchor: NDArray[np.int64], neighbors: Neighbors, basis: Tensor
) -> float:
    """Median length, within the tangent spaces, of the way from an anchor to the nearest cell at another position."""
    nearest = (neighbors.distances > 0).argmax(axis=1)
    cell = neighbors.indices[np.arange(len(anchor)), nearest]
    offset = torch.from_numpy(points[cell] - points[anchor])
    length = _project(basis, offset).norm(dim=1)
    return float(length[length > 0].median()) if bool((length > 0).any()) else 0.0


def _measure_extent(
    points: NDArray[np.float32], indices: NDArray[np.int64], center: Tensor, basis: Tensor
) -> tuple[Tensor, Tensor]:
    """Largest distance (A,) of neighbors within, and root mean square distance (A,) orthogonal to, a tangent space."""
    data = torch.tensor(points)
    along, across = [], []
    for rows in torch.split(torch.arange(len(indices)), max(1, _BLOCK // (indices.shape[1] * points.shape[1]))):
        offset = data[torch.from_numpy(indices)[rows]] - center[rows, None]
        score = offset @ basis[rows]
        along.append(score.norm(dim=2).amax(dim=1))
        normal = offset.square().sum(dim=2) - score.square().sum(dim=2)
        across.append(normal.clamp(min=0).mean(dim=1).sqrt())
    return torch.cat(along), torch.cat(across)
