"""What a fitted velocity model keeps: a network, and a sample of the cells it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport._tables import rows_in_one_order
from muport.neighbors import as_points, knn
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._field_training import FieldFit  # noqa: TC001 - the saved state is read by its annotations

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.velocity.estimation._field import Field

__all__ = [
    "Landmarks", "VelocityState", "check_query", "estimate_time", "sample_landmarks", "speed_and_uncertainty",
]  # fmt: skip

_MAX_LANDMARKS = 10_000  # cells kept: paths use their tangent spaces and labels


@dataclass(frozen=True)
class Landmarks:
    """A sample of the fitted cells.

    - `x`: (n, d) float32 coordinates.
    - `time`: (n,) float64 times.
    - `label`: (n,) int64 codes into `labels`, -1 for a cell without a label.
    - `labels`: Names of the labels.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    label: NDArray[np.int64]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VelocityState:
    """Everything that `save` writes: its size does not grow with the cells beyond 10,000.

    - `fit`: The network and its training history.
    - `landmarks`: A sample of the cells.
    - `speed`: Mean length of the velocity at the landmarks, in units of the representation per unit time.
    """

    fit: FieldFit
    landmarks: Landmarks
    speed: float


def sample_landmarks(
    x: NDArray[np.float32],
    time: NDArray[np.float64],
    label: NDArray[np.int64],
    labels: tuple[str, ...],
    random_state: int = 0,
) -> Landmarks:
    """Sample at most 10,000 cells, in their order."""
    n = len(x)
    rows = np.arange(n)
    if n > _MAX_LANDMARKS:
        rows = np.sort(np.random.default_rng(random_state).choice(n, _MAX_LANDMARKS, replace=False))
    return Landmarks(np.ascontiguousarray(x[rows]), time[rows], label[rows], labels)


def estimate_time(x: NDArray[np.float32], landmarks: Landmarks, k: int = 15) -> NDArray[np.float64]:
    """(n,) median time of the k nearest landmarks, for cells without a time of their own."""
    neighbors = knn(landmarks.x, min(k, len(landmarks.x)), query=x).indices
    time: NDArray[np.float64] = np.median(landmarks.time[neighbors], axis=1)
    return time


def speed_and_uncertainty(
    field: Field, x: NDArray[np.float32], time: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n,) length of the velocity, and (n,) its standard deviation over all dimensions, from members and misfit."""
    if len(field.member_weight) < 2:
        raise ValueError("there are no members to compare: train with n_bootstrap of at least 2.")

    def both(points: Tensor, times: Tensor) -> Tensor:
        variance = field.members(points, times).var(dim=0).sum(dim=1) + field.misfit.square()
        return torch.stack([field(points, times).norm(dim=1), variance.sqrt()], dim=1)

    speed, uncertainty = evaluate(field, x, time, both).T
    return speed, uncertainty


def check_query(
    positions: Any, pseudotime_values: Any, width: int, median_time: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(n, d) positions and (n,) times at which a field of `width` coordinates is evaluated; by default the median time.

    If both are tables, rows are matched by name.
    """
    positions, pseudotime_values = rows_in_one_order(
        "position", positions=positions, pseudotime_values=pseudotime_values
    )
    x = as_points(positions, "positions")
    if x.shape[1] != width:
        raise ValueError(f"positions have {x.shape[1]} coordinates, but the field has {width}.")
    time = np.asarray(median_time if pseudotime_values is None else pseudotime_values, dtype=np.float64)
    if time.shape not in ((), (len(x),)) or not np.isfinite(time).all():
        raise ValueError(
            f"pseudotime_values has shape {time.shape} or NaN: give one time, or one for each of {len(x)}."
        )
    return x, np.broadcast_to(time, len(x))
