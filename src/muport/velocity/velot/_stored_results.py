"""Results in an AnnData or MuData: the keys of VelOT, what is written under them, and how it is read back."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.data import Setup, read_rows
from muport.velocity.estimation._field_training import FieldFit
from muport.velocity.estimation._pipeline import InputCells
from muport.velocity.estimation._raw_velocity import RawVelocity
from muport.velocity.estimation._windows import Windows

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.velocity.dynamics._path_clusters import Trajectories

    type Data = anndata.AnnData | mudata.MuData

__all__ = [
    "VelotKeys", "in_modality", "pack_fit", "pack_raw_velocity", "pack_trajectories", "pack_windows", "read_cells",
    "read_fit", "require_result", "unpack_fit", "unpack_raw_velocity", "unpack_windows",
]  # fmt: skip

_WINDOW_ARRAYS = ("source", "target", "direction", "mutual", "cluster", "block")
_RAW_FIELDS = tuple(f.name for f in fields(RawVelocity) if f.name != "velocity")


class VelotKeys:
    """Keys under which results are written; those of ``obs`` and ``obsm`` have one row per cell."""

    # obs
    CLUSTER = "velot_spatial_cluster"
    CONFIDENCE = "velot_confidence"
    GROWTH = "velot_growth"
    # obsm: the raw velocity, and the last one computed; "velot_velocity_<basis>" is the smooth one in a basis
    RAW = "velot_velocity_raw"
    VELOCITY = "velot_velocity"
    # uns
    WINDOWS = "velot_windows"
    TRANSPORT = "velot_transport"
    NETWORK = "velot_smoothing"
    TRAJECTORIES = "velot_trajectories"
    FLOW = "velot_flow"


def in_modality(data: Data, modality: str | None) -> Data:
    """The object whose ``obsm`` has the cells: `data`, or one of its modalities."""
    if modality is None:
        return data
    mods = getattr(data, "mod", {})
    if modality not in mods:
        raise KeyError(f"modality={modality!r} does not exist; there are {list(mods)}.")
    part: anndata.AnnData = mods[modality]
    return part


def read_cells(
    data: Data, basis: str, time_key: str, batch_key: str | None = None, spatial_key: str | None = None
) -> InputCells:
    """Coordinates, times, batches and regions of the cells."""
    return InputCells.from_rows(read_rows(data, Setup(basis, batch_key, spatial_key=spatial_key, time_key=time_key)))


def require_result(data: Data, key: str, function: str) -> dict[str, Any]:
    """The result ``uns[key]`` that another function wrote; KeyError that names the function if there is none."""
    if key not in data.uns:
        raise KeyError(f"uns[{key!r}] does not exist: call muport.velocity.{function} first.")
    stored: dict[str, Any] = data.uns[key]
    return stored


def pack_windows(windows: Windows, settings: dict[str, Any]) -> dict[str, Any]:
    """Windows as a dict that every file format of AnnData can write."""
    arrays = {name: getattr(windows, name) for name in _WINDOW_ARRAYS}
    return {**arrays, "kind": windows.kind, "n_pairs": windows.n_pairs, "settings": _without_none(settings)}


def unpack_windows(stored: dict[str, Any]) -> tuple[Windows, dict[str, Any]]:
    """The windows, and the settings they were built with."""
    arrays = {name: np.asarray(stored[name]) for name in _WINDOW_ARRAYS}
    return Windows(**arrays, kind=str(stored["kind"])), dict(stored["settings"])


def pack_raw_velocity(raw: RawVelocity, settings: dict[str, Any]) -> dict[str, Any]:
    """All of the raw velocities but the array of ``obsm``: weights, windows, growth."""
    return {**{name: getattr(raw, name) for name in _RAW_FIELDS}, "settings": _without_none(settings)}


def unpack_raw_velocity(velocity: NDArray[np.float32], stored: dict[str, Any] | None) -> RawVelocity:
    """Raw velocities with what :func:`pack_raw_velocity` wrote; those of another source get equal weights."""
    if stored is not None:
        arrays: dict[str, Any] = {name: np.asarray(stored[name]) for name in _RAW_FIELDS}
        return RawVelocity(velocity, **{**arrays, "converged": float(arrays["converged"])})
    n, zeros = len(velocity), np.zeros(len(velocity), np.float32)
    return RawVelocity(velocity, np.any(velocity != 0, axis=1).astype(np.float32), zeros, zeros, np.arange(n), 1.0)


def pack_fit(fit: FieldFit, basis: str, time_key: str) -> dict[str, Any]:
    """The network as arrays, with the losses of its training."""
    shape = {"hidden_dim": fit.hidden_dim, "n_latent": fit.n_latent, "use_time": fit.use_time}
    return {"state": fit.state, "history": fit.history, "basis": basis, **shape, "time_key": time_key}


def unpack_fit(stored: dict[str, Any]) -> FieldFit:
    """The network that :func:`pack_fit` wrote."""
    state = {str(name): np.asarray(value) for name, value in stored["state"].items()}
    history = {str(name): np.asarray(value) for name, value in stored["history"].items()}
    return FieldFit(state, history, int(stored["hidden_dim"]), int(stored["n_latent"]), bool(stored["use_time"]))


def read_fit(data: Data) -> tuple[FieldFit, InputCells, str]:
    """The fitted network, the cells in its basis, and the basis."""
    stored = require_result(data, VelotKeys.NETWORK, "smooth_velocity")
    basis = str(stored["basis"])
    return unpack_fit(stored), read_cells(data, basis, str(stored["time_key"])), basis


def pack_trajectories(trajectories: Trajectories, basis: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Paths, and a table with one row for each, whose ``id`` is the row of the path."""
    paths = trajectories.paths
    table = pd.DataFrame(
        {
            "id": np.arange(len(trajectories.direction)),
            "start_cell": trajectories.start_cell,
            "direction": np.where(trajectories.direction > 0, "forward", "backward"),
            "length": paths.length,
            "stopped": paths.stopped.astype(np.int64),
        }
    )
    if trajectories.visited is not None:
        table["origin_cluster"], table["terminal_cluster"] = trajectories.origin, trajectories.terminal
        table["clusters_visited"] = [" > ".join(names) for names in trajectories.visited]
    table.index = table.index.astype(str)
    return {
        f"paths_{basis.removeprefix('X_')}": paths.x,
        "time": paths.time,
        "cell": trajectories.cell,
        "metadata": table,
        "basis": basis,
        "settings": _without_none(settings),
    }


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    # h5ad files cannot hold None
    return {name: value for name, value in settings.items() if value is not None}
