"""What a fitted velocity model keeps: a network, and a sample of the cells it was fitted to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from muport._arrays import row_codes
from muport._tables import rows_in_one_order
from muport.neighbors import as_points, knn
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._field_training import FieldFit  # noqa: TC001 - the saved state is read by its annotations
from muport.velocity.timecourse._growth import GrowthField  # noqa: TC001 - as above

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from muport.data import Rows
    from muport.velocity.estimation._field import Field
    from muport.velocity.estimation._raw_velocity import RawVelocity

__all__ = [
    "FittedRawVelocity", "Landmarks", "VelocityState", "check_landmarks", "check_query", "estimate_time",
    "sample_landmarks", "speed_and_uncertainty",
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

    x: Annotated[NDArray[np.float32], "N d"]
    time: Annotated[NDArray[np.float64], "N"]
    label: Annotated[NDArray[np.int64], "N", "-1..<labels"]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VelocityState:
    """Everything that `save` writes: its size does not grow with the cells beyond 10,000.

    - `fit`: The network and its training history.
    - `landmarks`: A sample of the cells.
    - `speed`: Mean length of the velocity at the landmarks, in units of the representation per unit time.
    - `growth`: Growth rates of a time course, if the fit was asked for them.
    """

    fit: FieldFit
    landmarks: Landmarks
    speed: Annotated[float, "0.."]
    growth: GrowthField | None = None

    def check_consistency(self) -> None:
        """Raise an error unless the tensors are those of the network, and the landmarks have its coordinates."""
        width = self.fit.field().d
        if self.landmarks.x.shape[1] != width:
            raise ValueError(f"the landmarks have {self.landmarks.x.shape[1]} coordinates, the network {width}.")
        if self.growth is not None and (self.growth.x.shape[1] != width or len(np.unique(self.growth.time)) < 2):
            raise ValueError(f"the growth rates are not of {width} coordinates and at least two times.")


@dataclass(frozen=True, eq=False)
class FittedRawVelocity:
    """Raw velocities of a fit, and what they were estimated from. They follow from the data, so they are not saved.

    - `raw`: Raw velocities of the rows of the data.
    - `names`: Names of the cells of these rows.
    - `digests`: Argument of the set-up -> digest of the values that it named.
    """

    raw: RawVelocity
    names: pd.Index
    digests: dict[str, bytes]

    @classmethod
    def create(cls, rows: Rows, raw: RawVelocity) -> FittedRawVelocity:
        """Take the raw velocities that were estimated from these rows."""
        return cls(raw, rows.obs_names[rows.cell], _digest_inputs(rows, np.arange(len(rows.x))))

    def rows_of_cells(self, rows: Rows) -> NDArray[np.int64]:
        """(n_cells,) row of each cell, in whatever order the cells are now.

        Raises ValueError if the cells, or one of their values, have changed since the fit.
        """
        position: NDArray[np.int64] = self.names.get_indexer(rows.obs_names).astype(np.int64)
        if len(position) != len(self.names) or (position < 0).any():
            raise ValueError(
                f"the data have {rows.n_cells} cells, of which {int((position >= 0).sum())} are among the "
                f"{len(self.names)} cells of the fit: call train() again, or use kind='smooth'."
            )
        order = np.argsort(rows.cell, kind="stable")[np.argsort(position)]
        for argument, digest in _digest_inputs(rows, order).items():
            if digest != self.digests[argument]:
                raise ValueError(
                    f"the values of {argument} have changed since train(): call train() again, or use kind='smooth'."
                )
        return position


def _digest_inputs(rows: Rows, order: NDArray[np.int64]) -> dict[str, bytes]:
    """Argument of the set-up -> digest of the values of the rows, in this order."""
    values = {"use_rep": rows.x, "time_key": rows.time, "batch_key": rows.batch, "spatial_key": rows.spatial}
    per_cell, in_order = ("time_key", "spatial_key"), np.array_equal(order, np.arange(len(order)))
    digests = {}
    for argument, value in values.items():
        if value is None:
            continue
        taken = value[rows.cell] if argument in per_cell else value
        taken = taken if in_order else taken[order]
        digests[argument] = hashlib.blake2b(np.ascontiguousarray(taken).data, digest_size=16).digest()
    return digests


def check_landmarks(rows: Rows, landmarks: Landmarks) -> None:
    """Raise a ValueError if these are not the cells of a fit, of which the landmarks are a sample."""
    advice = "give the model the cells and values that it was trained on, or call train() again."
    pairs: dict[str, tuple[Any, Any]] = {
        "use_rep": (row_codes(landmarks.x), row_codes(rows.x)),
        "time_key": (landmarks.time, rows.time),
    }
    for argument, (sample, values) in pairs.items():
        n_absent = int((~np.isin(sample, values)).sum())
        if n_absent:
            raise ValueError(
                f"{n_absent} of {len(sample)} cells of the fit have a value of {argument} that the data lack: {advice}"
            )
    if rows.time is None:
        return
    fitted = row_codes(landmarks.x, landmarks.time)
    present = row_codes(rows.x, rows.time[rows.cell])
    if n_absent := int((~np.isin(fitted, present)).sum()):
        raise ValueError(
            f"{n_absent} of {len(fitted)} cells of the fit have other coordinates at their time: use_rep or time_key "
            f"have changed, or are in another order: {advice}"
        )


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
