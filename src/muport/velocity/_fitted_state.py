"""What a velocity model keeps: a network, and a sample of the cells it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from muport.neighbors import as_points, knn
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._field_training import FieldFit  # noqa: TC001 - the saved state is read by its annotations

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.velocity.estimation._field import Field

__all__ = ["Landmarks", "VelocityState", "landmarks", "nearest_time", "query", "signal_and_noise"]

_LANDMARKS = 10_000  # cells kept: their tangent planes and clusters serve the paths


@dataclass(frozen=True)
class Landmarks:
    """A sample of the fitted cells.

    Attributes
    ----------
    x
        (n, d) float32 coordinates.
    time
        (n,) float64 times.
    label
        (n,) int64 codes into `labels`, -1 for a cell without a label.
    labels
        Names of the labels.
    """

    x: NDArray[np.float32]
    time: NDArray[np.float64]
    label: NDArray[np.int64]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VelocityState:
    """Everything that `save` writes: its size does not grow with the cells beyond 10,000.

    Attributes
    ----------
    fit
        The network and its training history.
    landmarks
        A sample of the cells.
    speed
        Mean length of the velocity at the landmarks, in units of the representation per unit time.
    """

    fit: FieldFit
    landmarks: Landmarks
    speed: float


def landmarks(
    x: NDArray[np.float32],
    time: NDArray[np.float64],
    label: NDArray[np.int64],
    labels: tuple[str, ...],
    random_state: int = 0,
) -> Landmarks:
    """Sample at most 10,000 cells, in their order."""
    n = len(x)
    chosen = np.arange(n)
    if n > _LANDMARKS:
        chosen = np.sort(np.random.default_rng(random_state).choice(n, _LANDMARKS, replace=False))
    return Landmarks(np.ascontiguousarray(x[chosen]), time[chosen], label[chosen], labels)


def nearest_time(x: NDArray[np.float32], known: Landmarks, k: int = 15) -> NDArray[np.float64]:
    """(n,) median time of the nearest landmarks: the time of cells whose own is not known."""
    near = knn(known.x, min(k, len(known.x)), query=x).indices
    found: NDArray[np.float64] = np.median(known.time[near], axis=1)
    return found


def signal_and_noise(
    field: Field, x: NDArray[np.float32], time: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n,) length of the velocity, and (n,) its standard deviation, all dimensions together: members and misfit."""
    if len(field.member_weight) < 2:
        raise ValueError("there are no members to compare: train with n_bootstrap of at least 2.")

    def both(points: Tensor, when: Tensor) -> Tensor:
        spread = (field.members(points, when).var(dim=0).sum(dim=1) + field.misfit.square()).sqrt()
        return torch.stack([field(points, when).norm(dim=1), spread], dim=1)

    length, spread = evaluate(field, x, time, both).T
    return length, spread


def query(
    field: Field, known: Landmarks, positions: Any, time: Any = None, return_std: bool = False
) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, d) velocity at any place and time, and, if asked, (n,) its standard deviation."""
    x = as_points(positions, "positions")
    if x.shape[1] != known.x.shape[1]:
        raise ValueError(f"positions have {x.shape[1]} coordinates, but the field has {known.x.shape[1]}.")
    when = np.asarray(np.median(known.time) if time is None else time, dtype=np.float64)
    if when.shape not in ((), (len(x),)) or not np.isfinite(when).all():
        raise ValueError(
            f"pseudotime_values has shape {when.shape} or NaN: give one time, or one for each of {len(x)}."
        )
    when = np.broadcast_to(when, len(x))
    velocity = evaluate(field, x, when)
    return (velocity, signal_and_noise(field, x, when)[1]) if return_std else velocity
