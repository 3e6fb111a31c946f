"""The data manifold, represented by cells: nearest cells, a rule for paths that leave it, an interpolated field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport._arrays import normalize_rows
from muport.neighbors import as_points, knn
from muport.velocity.dynamics._paths import StopReason, StopRule, VectorField

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Manifold", "fit_manifold", "interpolate_field", "make_stop_rule"]

_MAX_CELLS = 100_000  # cells that are searched for neighbors
_SPACING_CELLS = 2_000  # cells whose distances to the nearest other cell give the spacing
_N_VOTES = 5  # nearest cells whose majority decides the cluster of a position


@dataclass(frozen=True)
class Manifold:
    """Cells that represent the data.

    - `points`: (m, d) float32 positions.
    - `cell`: (m,) int64 rows of the data: all of them, or a random sample of 100,000.
    - `spacing`: Median distance of a cell to the nearest other cell, in data units.
    """

    points: NDArray[np.float32]
    cell: NDArray[np.int64]
    spacing: float

    def nearest(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distance (n,) to, and row (n,) of, the nearest cell of each position (n, d)."""
        neighbors = knn(self.points, 1, query=x, method="exact")
        return neighbors.distances[:, 0], self.cell[neighbors.indices[:, 0]]

    def vote(
        self, x: NDArray[np.float32], codes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Distance (n,) to, and row (n,) of, the nearest cell, and the most frequent code (n,) among the five nearest.

        A tie is decided by the nearer cell. `codes` has one entry for each row of the data.
        """
        neighbors = knn(self.points, min(_N_VOTES, len(self.points)), query=x, method="exact")
        rows = self.cell[neighbors.indices]
        votes = codes[rows]
        winner = (votes[:, :, None] == votes[:, None, :]).sum(axis=2).argmax(axis=1)
        return neighbors.distances[:, 0], rows[:, 0], votes[np.arange(len(votes)), winner]


def fit_manifold(x: ArrayLike, *, random_state: int = 0) -> Manifold:
    """Sample cells (n, d) and measure their spacing. ValueError for fewer than two cells, or if all cells coincide."""
    points = as_points(x, "x")
    if len(points) < 2:
        raise ValueError(f"x has {len(points)} cell: at least two are needed to measure the spacing of the cells.")
    rng = np.random.default_rng(random_state)
    cell = np.arange(len(points))
    if len(points) > _MAX_CELLS:
        cell = np.sort(rng.choice(len(points), _MAX_CELLS, replace=False))
        points = points[cell]
    sample = np.sort(rng.permutation(len(points))[:_SPACING_CELLS])
    distance = knn(points, 2, query=points[sample], method="exact").distances[:, 1]
    if not (distance > 0).any():
        raise ValueError("Every cell coincides with another one: the data have no spacing. Remove duplicate rows of x.")
    return Manifold(points, cell, float(np.median(distance[distance > 0])))


def make_stop_rule(data: Manifold, *, max_distance: float = 10.0, target: NDArray[np.bool_] | None = None) -> StopRule:
    """Make a rule for :func:`integrate` that ends paths off the manifold or at a target.

    - `max_distance`: Distance to the nearest cell, in spacings, beyond which a path has left the data.
    - `target`: (n,) whether a cell is a target: a path ends where most of the five nearest cells are targets.
    """

    def stop(x: Tensor, t: Tensor) -> Tensor:
        points = x.float().cpu().numpy()
        if target is None:
            distance, at_target = data.nearest(points)[0], np.zeros(len(points), bool)
        else:
            distance, _, vote = data.vote(points, target.astype(np.int64))
            at_target = vote == 1
        codes = np.where(distance > max_distance * data.spacing, StopReason.OFF_MANIFOLD, 0).astype(np.int8)
        codes[(codes == 0) & at_target] = StopReason.TARGET
        return torch.from_numpy(codes).to(x.device)

    return stop


def interpolate_field(x: ArrayLike, velocity: ArrayLike, k: int = 15) -> VectorField:
    """Interpolate the velocities of cells: a Gaussian-weighted mean of the k nearest, the same at every time.

    v(x) = sum_j w_j v_j / sum_j w_j with w_j = exp(-|x - x_j|^2 / (2 s^2)), and s the mean distance to the k cells.

    - `x`: (n, d) cells.
    - `velocity`: (n, d) their velocities.
    - `k`: Neighbors, 1 to n.

    Raises ValueError if shapes differ or ``k`` is out of range.
    """
    points, arrows = as_points(x, "x"), as_points(velocity, "velocity")
    if points.shape != arrows.shape:
        raise ValueError(f"velocity has shape {arrows.shape}, but x has {points.shape}: pass one per cell.")
    if not 1 <= k <= len(points):
        raise ValueError(f"k_velocity={k} is out of range: use 1 to {len(points)}, the number of cells.")

    def field(position: Tensor, t: Tensor) -> Tensor:
        neighbors = knn(points, k, query=position, method="exact")
        width = np.maximum(neighbors.distances.mean(axis=1, keepdims=True), 1e-12)
        weight = normalize_rows(np.exp(-0.5 * np.square(neighbors.distances / width)))
        return torch.from_numpy(np.einsum("nk,nkd->nd", weight, arrows[neighbors.indices])).to(position)

    return field
