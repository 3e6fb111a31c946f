"""What the functions on AnnData and MuData write, under the names of VelOT, and how they read it back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.velocity.estimation._field_training import FieldFit
from muport.velocity.estimation._raw_velocity import RawVelocity
from muport.velocity.estimation._windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from muport.velocity.dynamics._trajectories import Trajectories

__all__ = [
    "CLUSTER", "CONFIDENCE", "FLOW", "GROWTH", "NETWORK", "RAW", "TRAJECTORIES", "TRANSPORT", "VELOCITY", "WINDOWS",
    "fit_from", "fit_to", "paths_to", "raw_from", "raw_to", "windows_from", "windows_to",
]  # fmt: skip

CLUSTER = "velot_spatial_cluster"
WINDOWS = "velot_windows"
TRANSPORT = "velot_transport"
RAW = "velot_velocity_raw"
VELOCITY = "velot_velocity"
CONFIDENCE = "velot_confidence"
GROWTH = "velot_growth"
NETWORK = "velot_smoothing"
TRAJECTORIES = "velot_trajectories"
FLOW = "velot_flow"

_WINDOW_ARRAYS = ("source", "target", "direction", "mutual", "cluster", "block")


def windows_to(windows: Windows, settings: dict[str, Any]) -> dict[str, Any]:
    """As a dict that every file format of AnnData takes."""
    arrays = {name: getattr(windows, name) for name in _WINDOW_ARRAYS}
    return {**arrays, "kind": windows.kind, "n_pairs": windows.n_pairs, "settings": _written(settings)}


def windows_from(stored: dict[str, Any]) -> tuple[Windows, dict[str, Any]]:
    """The windows, and the settings they were built with."""
    arrays = {name: np.asarray(stored[name]) for name in _WINDOW_ARRAYS}
    return Windows(**arrays, kind=str(stored["kind"])), dict(stored["settings"])


def raw_to(raw: RawVelocity, settings: dict[str, Any]) -> dict[str, Any]:
    """What the transport told of the velocities, which stand in ``obsm``."""
    told = {f.name: getattr(raw, f.name) for f in fields(raw) if f.name != "velocity"}
    return {**told, "settings": _written(settings)}


def raw_from(velocity: NDArray[np.float32], stored: dict[str, Any] | None) -> RawVelocity:
    """Raw velocities with what the transport told of them; those of another source all weigh the same."""
    if stored is not None:
        told: dict[str, Any] = {f.name: np.asarray(stored[f.name]) for f in fields(RawVelocity) if f.name != "velocity"}
        return RawVelocity(velocity, **{**told, "converged": float(told["converged"])})
    n, zeros = len(velocity), np.zeros(len(velocity), np.float32)
    return RawVelocity(velocity, np.any(velocity != 0, axis=1).astype(np.float32), zeros, zeros, np.arange(n), 1.0)


def fit_to(fit: FieldFit, basis: str) -> dict[str, Any]:
    """The network as arrays, with the losses of its training."""
    shape = {"hidden_dim": fit.hidden_dim, "n_latent": fit.n_latent, "use_time": fit.use_time}
    return {"state": fit.state, "history": fit.history, "basis": basis, **shape}


def fit_from(stored: dict[str, Any]) -> FieldFit:
    """The network that :func:`fit_to` wrote."""
    state = {str(name): np.asarray(value) for name, value in stored["state"].items()}
    history = {str(name): np.asarray(value) for name, value in stored["history"].items()}
    return FieldFit(state, history, int(stored["hidden_dim"]), int(stored["n_latent"]), bool(stored["use_time"]))


def paths_to(found: Trajectories, basis: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Paths with a table of them: one row for each, whose ``id`` is its row."""
    paths = found.paths
    table = pd.DataFrame(
        {
            "id": np.arange(len(found.direction)),
            "start_cell": found.start_cell,
            "direction": np.where(found.direction > 0, "forward", "backward"),
            "length": paths.length,
            "stopped": paths.stopped.astype(np.int64),
        }
    )
    if found.visited is not None:
        table["origin_cluster"], table["terminal_cluster"] = found.origin, found.terminal
        table["clusters_visited"] = [" > ".join(names) for names in found.visited]
    table.index = table.index.astype(str)
    return {
        f"paths_{basis.removeprefix('X_')}": paths.x,
        "time": paths.time,
        "cell": found.cell,
        "metadata": table,
        "basis": basis,
        "settings": _written(settings),
    }


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    # None has no place in a file
    return {name: value for name, value in settings.items() if value is not None}
