"""Where the data are: their spacing, the nearest cell, a rule for paths that leave them, and a field from cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from muport.neighbors import as_points, knn
from muport.velocity.dynamics._paths import StopReason, StopRule, VectorField

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Manifold", "knn_field", "manifold", "stop_rule"]

_MOST = 100_000  # cells that are searched
_SAMPLE = 2_000  # cells whose distance to the nearest other gives the spacing
_VOTES = 5  # nearest cells whose majority names the cluster of a place


@dataclass(frozen=True)
class Manifold:
    """Cells that stand for the data.

    Attributes
    ----------
    points
        (m, d) float32 positions.
    cell
        (m,) int64 rows of the data: all of them, or a seeded choice of 100,000.
    spacing
        Median distance of a cell to its nearest other, in data units.
    """

    points: NDArray[np.float32]
    cell: NDArray[np.int64]
    spacing: float

    def nearest(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distance (n,) to, and row (n,) of, the nearest cell of each position (n, d)."""
        found = knn(self.points, 1, query=x, method="exact")
        return found.distances[:, 0], self.cell[found.indices[:, 0]]

    def vote(
        self, x: NDArray[np.float32], codes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Distance (n,) to, and row (n,) of, the nearest cell, and the code (n,) most frequent among the five nearest.

        Of codes that are equally frequent, that of the nearer cell. `codes` has one entry for each row of the data.
        """
        found = knn(self.points, min(_VOTES, len(self.points)), query=x, method="exact")
        rows = self.cell[found.indices]
        votes = codes[rows]
        chosen = (votes[:, :, None] == votes[:, None, :]).sum(axis=2).argmax(axis=1)
        return found.distances[:, 0], rows[:, 0], votes[np.arange(len(votes)), chosen]


def manifold(x: ArrayLike, *, random_state: int = 0) -> Manifold:
    """Measure the spacing of data (n, d). ValueError for fewer than two cells or cells that all coincide."""
    points = as_points(x, "x")
    if len(points) < 2:
        raise ValueError(f"x has {len(points)} cell: at least two are needed to know how far apart cells are.")
    rng = np.random.default_rng(random_state)
    cell = np.arange(len(points))
    if len(points) > _MOST:
        cell = np.sort(rng.choice(len(points), _MOST, replace=False))
        points = points[cell]
    sample = np.sort(rng.permutation(len(points))[:_SAMPLE])
    distance = knn(points, 2, query=points[sample], method="exact").distances[:, 1]
    if not (distance > 0).any():
        raise ValueError("Every cell coincides with another one: the data have no spacing. Remove duplicate rows of x.")
    return Manifold(points, cell, float(np.median(distance[distance > 0])))


def stop_rule(data: Manifold, *, most: float = 10.0, reached: NDArray[np.bool_] | None = None) -> StopRule:
    """A rule for :func:`integrate`: off the manifold, or at a target.

    Parameters
    ----------
    data
        The cells.
    most
        Distance to the nearest cell, in spacings, beyond which a path has left the data.
    reached
        (n,) whether a cell is a target: a point has arrived where most of the five nearest cells are targets.
    """

    def stop(x: Tensor, t: Tensor) -> Tensor:
        points = x.float().cpu().numpy()
        if reached is None:
            distance, arrived = data.nearest(points)[0], np.zeros(len(points), bool)
        else:
            distance, _, vote = data.vote(points, reached.astype(np.int64))
            arrived = vote == 1
        codes = np.where(distance > most * data.spacing, StopReason.OFF_MANIFOLD, 0).astype(np.int8)
        codes[(codes == 0) & arrived] = StopReason.TARGET
        return torch.from_numpy(codes).to(x.device)

    return stop


def knn_field(x: ArrayLike, velocity: ArrayLike, k: int = 15) -> VectorField:
    """A field from the velocities of cells: the Gaussian mean of the k nearest, whatever the time.

    v(x) = sum_j w_j v_j / sum_j w_j with w_j = exp(-|x - x_j|^2 / (2 s^2)), and s the mean distance to the k cells.

    Parameters
    ----------
    x
        (n, d) cells.
    velocity
        (n, d) their velocities.
    k
        Neighbours, 1 to n.

    Raises
    ------
    ValueError
        If shapes differ or ``k`` is out of range.
    """
    points, arrows = as_points(x, "x"), as_points(velocity, "velocity")
    if points.shape != arrows.shape:
        raise ValueError(f"velocity has shape {arrows.shape}, but x has {points.shape}: pass one per cell.")
    if not 1 <= k <= len(points):
        raise ValueError(f"k_velocity={k} is out of range: use 1 to {len(points)}, the number of cells.")

    def field(position: Tensor, t: Tensor) -> Tensor:
        found = knn(points, k, query=position, method="exact")
        width = np.maximum(found.distances.mean(axis=1, keepdims=True), 1e-12)
        weight = np.exp(-0.5 * np.square(found.distances / width))
        weight /= weight.sum(axis=1, keepdims=True)
        return torch.from_numpy(np.einsum("nk,nkd->nd", weight, arrows[found.indices])).to(position)

    return field
