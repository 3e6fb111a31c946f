"""Results in an AnnData or MuData: the keys of VelOT, what is written under them, and how it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import row_codes
from muport._schema_version import SCHEMA_VERSION, check_schema_version
from muport.data import Representation, Setup, read_rows
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
    "VelotKeys", "find_result", "in_modality", "pack_fit", "pack_raw_velocity", "pack_trajectories", "pack_windows",
    "read_cells", "read_fit", "read_matrix", "require_result", "unpack_fit", "unpack_raw_velocity", "unpack_windows",
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
    if not hasattr(data, "obsm"):
        raise TypeError(f"adata is {type(data).__name__}: pass an AnnData or a MuData.")
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
    """Coordinates, times, batches and regions of the cells, in the order of ``obs``."""
    rows = read_rows(data, Setup(basis, batch_key, spatial_key=spatial_key, time_key=time_key))
    cells = InputCells.from_rows(rows)
    in_order = np.array_equal(rows.cell, np.arange(rows.n_cells))
    return cells if in_order else cells.take(np.argsort(rows.cell, kind="stable"))


def read_matrix(data: Data, key: str, argument: str, advice: str = "compute it first") -> NDArray[np.float32]:
    """The float32 rows of ``obsm[key]``, in whatever format; a KeyError names the argument and ends with `advice`."""
    if key not in data.obsm:
        raise KeyError(f"{argument}={key!r} is not in obsm, which has {sorted(data.obsm.keys())}: {advice}.")
    values = Representation(data.obsm[key], f"obsm[{key!r}]", data.obs_names, new_cells=True)
    values.check_rows()
    return values.read()


def require_result(data: Data, key: str, function: str) -> dict[str, Any]:
    """The result ``uns[key]`` that another function wrote.

    Raises KeyError that names the function if there is none, TypeError if it is no dict, ValueError if a newer version
    of muport wrote it.
    """
    stored = find_result(data, key)
    if stored is None:
        raise KeyError(f"uns[{key!r}] does not exist: call muport.velocity.{function} first.")
    return stored


def find_result(data: Data, key: str) -> dict[str, Any] | None:
    """As :func:`require_result`; None if there is none."""
    if key not in data.uns:
        return None
    stored: dict[str, Any] = data.uns[key]
    if not isinstance(stored, Mapping):
        raise TypeError(f"uns[{key!r}] is a {type(stored).__name__}, expected the dict that muport.velocity writes.")
    # version 0.1.0 wrote no number; what its results lack is refused where it is needed
    check_schema_version(stored.get("schema_version", 1), f"uns[{key!r}]")
    return stored


def pack_windows(windows: Windows, names: pd.Index, cells: InputCells, settings: dict[str, Any]) -> dict[str, Any]:
    """Windows of cells with these names, as a dict that every file format of AnnData can write."""
    arrays = {name: getattr(windows, name) for name in _WINDOW_ARRAYS}
    settings = _without_none(settings)
    return {
        "schema_version": SCHEMA_VERSION,
        **arrays,
        **_pack_cells(names, cells),
        "kind": windows.kind,
        "n_pairs": windows.n_pairs,
        "settings": settings,
    }


def unpack_windows(
    stored: dict[str, Any], names: pd.Index, cells: InputCells | None = None
) -> tuple[Windows, dict[str, Any]]:
    """The windows of the cells `names`, in whatever order, and the settings they were built with.

    - `cells`: Times and coordinates of the cells in the basis of the windows; None: these are not compared.

    Raises ValueError if the cells, their times or coordinates, are not those of the windows.
    """
    if absent_keys := [key for key in (*_WINDOW_ARRAYS, "kind", "settings") if key not in stored]:
        raise ValueError(
            f"uns[{VelotKeys.WINDOWS!r}] has no {absent_keys[0]!r}: it was changed or damaged; call "
            "muport.velocity.build_windows again."
        )
    settings = dict(stored["settings"])
    row = _rows_of_cells(stored, names, cells, VelotKeys.WINDOWS, "build_windows", settings)
    n_stored = len(stored["cells"])
    if n_stored > len(row):
        absent = np.asarray(stored["cells"])[np.setdiff1d(np.arange(n_stored), row)]
        raise ValueError(
            f"uns[{VelotKeys.WINDOWS!r}] has {n_stored} cells, of which {len(absent)} are not in the data, for "
            f"example {absent[0]!r}: call muport.velocity.build_windows for these cells."
        )
    arrays = {name: np.asarray(stored[name]) for name in _WINDOW_ARRAYS}
    if not np.array_equal(row, np.arange(n_stored)):
        # the last entry is what the padding -1 points at
        position = np.append(np.argsort(row), -1)
        arrays |= {name: position[arrays[name]] for name in ("source", "target")}
        arrays |= {name: arrays[name][row] for name in ("cluster", "block")}
    return Windows(**arrays, kind=str(stored["kind"])), settings


def pack_raw_velocity(raw: RawVelocity, names: pd.Index, cells: InputCells, settings: dict[str, Any]) -> dict[str, Any]:
    """All of the raw velocities but the array of ``obsm``: weights, windows, growth."""
    arrays = {name: getattr(raw, name) for name in _RAW_FIELDS}
    settings = _without_none(settings)
    return {"schema_version": SCHEMA_VERSION, **arrays, **_pack_cells(names, cells), "settings": settings}


def unpack_raw_velocity(
    velocity: NDArray[np.float32], stored: dict[str, Any] | None, names: pd.Index, cells: InputCells
) -> RawVelocity:
    """Raw velocities of the cells `names`, with what :func:`pack_raw_velocity` wrote for them.

    Those of another source get equal weights. Raises ValueError if a cell, its time or its coordinates, is not that of
    the transport.
    """
    if stored is not None:
        row = _rows_of_cells(stored, names, cells, VelotKeys.TRANSPORT, "compute_ot_velocity", stored["settings"])
        arrays: dict[str, Any] = {name: np.asarray(stored[name]) for name in _RAW_FIELDS}
        if not np.array_equal(row, np.arange(len(stored["cells"]))):
            arrays = {name: values[row] if values.ndim else values for name, values in arrays.items()}
        return RawVelocity(velocity, **{**arrays, "converged": float(arrays["converged"])})
    n, zeros = len(velocity), np.zeros(len(velocity), np.float32)
    return RawVelocity(velocity, np.any(velocity != 0, axis=1).astype(np.float32), zeros, zeros, np.arange(n), 1.0)


def _pack_cells(names: pd.Index, cells: InputCells) -> dict[str, Any]:
    """Names of the cells to which positions in a result refer, their times, and hashes of their coordinates."""
    return {"cells": names.to_numpy(dtype=object), "time": cells.time, "coordinates": row_codes(cells.x)}


def _rows_of_cells(
    stored: dict[str, Any],
    names: pd.Index,
    cells: InputCells | None,
    key: str,
    function: str,
    settings: Mapping[str, Any],
) -> NDArray[np.int64]:
    """(n,) row of each cell in a result; ValueError if it is of other cells, or times or coordinates have changed."""
    if "cells" not in stored:
        raise ValueError(f"uns[{key!r}] has no cell names (an earlier version wrote it): call {function} again.")
    row: NDArray[np.int64] = pd.Index(np.asarray(stored["cells"], dtype=object)).get_indexer(names).astype(np.int64)
    absent = names[row < 0]
    if len(absent):
        raise ValueError(
            f"uns[{key!r}] is of other cells: {len(absent)} of the {len(names)} cells are not in it, for example "
            f"{absent[0]!r}: call muport.velocity.{function} for these cells."
        )
    if cells is None:
        return row
    before, time = np.asarray(stored["time"])[row], cells.time
    changed = np.flatnonzero(before != time)
    if len(changed):
        first = changed[0]
        raise ValueError(
            f"obs[{settings['time_key']!r}] of {len(changed)} cells is not the time with which uns[{key!r}] was "
            f"computed, for example {time[first]:g} in place of {before[first]:g} for {names[first]!r}: "
            f"call muport.velocity.{function} again."
        )
    # an earlier version wrote no coordinates
    if "coordinates" in stored:
        n_moved = int((np.asarray(stored["coordinates"], np.uint64)[row] != row_codes(cells.x)).sum())
        if n_moved:
            raise ValueError(
                f"obsm[{settings['basis']!r}] of {n_moved} cells is not that with which uns[{key!r}] was computed: "
                f"call muport.velocity.{function} again."
            )
    return row


def pack_fit(fit: FieldFit, basis: str, time_key: str, median_time: float) -> dict[str, Any]:
    """The network as arrays, with the losses of its training and the median time of its cells."""
    shape = {"hidden_dim": fit.hidden_dim, "n_latent": fit.n_latent, "use_time": fit.use_time}
    times = {"time_key": time_key, "median_time": median_time}
    state = {"state": fit.state, "history": fit.history, "basis": basis}
    return {"schema_version": SCHEMA_VERSION, **state, **shape, **times}


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


def pack_trajectories(
    trajectories: Trajectories, names: pd.Index, basis: str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Paths among the cells `names`, and a table with one row for each, whose ``id`` is the row of the path."""
    paths, cells = trajectories.paths, names.to_numpy(dtype=object)
    table = pd.DataFrame(
        {
            "id": np.arange(len(trajectories.direction)),
            "start_cell": trajectories.start_cell,
            "start_name": cells[trajectories.start_cell],
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
        "schema_version": SCHEMA_VERSION,
        f"paths_{basis.removeprefix('X_')}": paths.x,
        "time": paths.time,
        "cell": trajectories.cell,
        "cell_name": cells[trajectories.cell],
        "metadata": table,
        "basis": basis,
        "settings": _without_none(settings),
    }


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    # h5ad files cannot hold None
    return {name: value for name, value in settings.items() if value is not None}
