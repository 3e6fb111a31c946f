"""Trajectories and flows as functions of an AnnData or MuData, under the names of VelOT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from muport._keys import UNLABELED_CATEGORY
from muport.data import accept_data_names
from muport.velocity.dynamics._manifold import interpolate_field
from muport.velocity.dynamics._start_cells import ClusteredCells, FlowSource, StartCells
from muport.velocity.dynamics._trajectories import FlowOptions, TrajectoryOptions, flow_particles, trace_trajectories
from muport.velocity.velot._stored_results import (
    VelotKeys,
    find_result,
    in_modality,
    pack_trajectories,
    read_cells,
    read_fit,
    read_matrix,
    unpack_fit,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from muport.velocity.dynamics._paths import VectorField
    from muport.velocity.velot._stored_results import Data

__all__ = ["compute_trajectories", "simulate_flow"]


@accept_data_names
def compute_trajectories(
    adata: Data,
    start_cells: Any = None,
    start_cluster: str | None = None,
    target_cluster: str | None = None,
    start_pseudotime: float | None = None,
    end_pseudotime: float | None = None,
    n_trajectories: int = 20,
    n_steps: int = 200,
    step_size: float = 0.05,
    direction: Literal["forward", "backward", "both"] = "forward",
    velocity_key: str = "velot_velocity_pca",
    basis: str = "X_pca",
    cluster_key: str = "clusters",
    k_velocity: int = 15,
    use_network: bool = True,
    evolve_pseudotime: bool = True,
    max_attempts_factor: int = 10,
    random_state: int = 42,
    *,
    stop_pseudotime: float | None = None,
    time_key: str = "pseudotime",
    modality: str | None = None,
) -> Data:
    """Follow the velocity from cells: :meth:`muport.Velocity.compute_trajectories` as a function.

    Parameters
    ----------
    adata
        Cells with velocities.
    start_cells, start_cluster, target_cluster, start_pseudotime, end_pseudotime, stop_pseudotime
        Where paths start and end, as for the method.
    n_trajectories, n_steps, step_size, direction, evolve_pseudotime, max_attempts_factor, random_state
        As for the method.
    basis
        Key of ``obsm`` with the space in which cells move.
    use_network
        Follow the network, if there is one in that basis. Otherwise velocities of cells are interpolated.
    velocity_key, k_velocity
        Key of ``obsm`` with the velocities to interpolate, and number of cells over which they are interpolated.
    cluster_key
        Column with the clusters; needed only where a cluster is named.
    time_key, modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, in which ``uns["velot_trajectories"]`` is written: ``paths_pca`` (n, points, d), their ``time`` and nearest
    ``cell`` (its row, and ``cell_name``), and ``metadata``, a table with ``id``, start, direction, clusters and the
    reason of each path's end.

    Raises
    ------
    KeyError
        If a key or cluster does not exist.
    ValueError
        If no cell satisfies the conditions, the target was never reached, or a number is out of range.
    """
    settings, options = _plain_values(locals()), TrajectoryOptions.from_arguments(locals())
    data = in_modality(adata, modality)
    cells = read_cells(data, basis, time_key)
    labels = _labels(data, cluster_key, required=start_cluster is not None or target_cluster is not None)
    field = _network(data, basis, time_key) if use_network else None
    if field is None:
        v = read_matrix(data, velocity_key, "velocity_key", "call muport.velocity.velocity first")
        field = interpolate_field(cells.x, v, k_velocity)
    start = StartCells(rows=start_cells, cluster=start_cluster, time_min=start_pseudotime, time_max=end_pseudotime)
    clustered = ClusteredCells.create(cells.x, cells.time, labels, data.obs_names)
    trajectories = trace_trajectories(field, clustered, start, options)
    data.uns[VelotKeys.TRAJECTORIES] = pack_trajectories(trajectories, data.obs_names, basis, settings)
    return adata


@accept_data_names
def simulate_flow(
    adata: Data,
    n_particles: int = 200,
    source_cluster: str | None = None,
    source_pseudotime_min: float = 0.0,
    source_pseudotime_max: float = 0.1,
    source_x_lim: tuple[float, float] = (-np.inf, np.inf),
    source_y_lim: tuple[float, float] = (-np.inf, np.inf),
    n_steps: int = 300,
    step_size: float = 0.05,
    diffusion: float = 0.5,
    basis: str = "X_pca",
    cluster_key: str = "clusters",
    noise_scale: float = 0.0,
    random_state: int = 42,
    *,
    basis_embedding: str = "X_umap",
    modality: str | None = None,
) -> Data:
    """Simulate particles that follow the field with noise: :meth:`muport.Velocity.simulate_flow` as a function.

    Parameters
    ----------
    adata
        Cells with the network of :func:`smooth_velocity`.
    n_particles, source_cluster, source_pseudotime_min, source_pseudotime_max
        Number of particles and where they start, as for the method.
    source_x_lim, source_y_lim
        Bounds of the source in the embedding `basis_embedding`.
    n_steps, step_size, diffusion, noise_scale, random_state
        As for the method.
    basis, basis_embedding
        Keys of ``obsm`` with the space of the network, and with the embedding of those bounds.
    cluster_key
        Column with the clusters; needed only with `source_cluster`.
    modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, in which ``uns["velot_flow"]`` is written, as by :func:`compute_trajectories`.

    Raises
    ------
    KeyError
        If a key or cluster does not exist, or there is no network in the basis.
    ValueError
        If no cell satisfies the conditions, or a number is out of range.
    """
    settings, options = _plain_values(locals()), FlowOptions.from_arguments(locals())
    data = in_modality(adata, modality)
    fit, cells, basis_of_fit = read_fit(data)
    if basis_of_fit != basis:
        raise KeyError(f"basis={basis!r}: the network is of {basis_of_fit!r}; call smooth_velocity in the other basis.")
    labels = _labels(data, cluster_key, required=source_cluster is not None)
    source = FlowSource(
        cluster=source_cluster,
        time_min=source_pseudotime_min,
        time_max=source_pseudotime_max,
        embedding=read_matrix(data, basis_embedding, "basis_embedding") if basis_embedding in data.obsm else None,
        x_lim=source_x_lim,
        y_lim=source_y_lim,
    )
    trajectories = flow_particles(fit.field(), ClusteredCells.create(cells.x, cells.time, labels), source, options)
    data.uns[VelotKeys.FLOW] = pack_trajectories(trajectories, data.obs_names, basis, settings)
    return adata


def _plain_values(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are text or a number, which a file can hold."""
    return {name: value for name, value in arguments.items() if isinstance(value, str | int | float | bool)}


def _labels(data: Data, cluster_key: str, *, required: bool) -> NDArray[np.str_] | None:
    if cluster_key in data.obs:
        column: pd.Series = data.obs[cluster_key]
        clusters = column.astype(object).where(column.notna(), UNLABELED_CATEGORY)
        return np.asarray(clusters).astype(str)
    if required:
        raise KeyError(
            f"cluster_key={cluster_key!r} is not in obs; the columns are {sorted(map(str, data.obs.columns))}."
        )
    return None


def _network(data: Data, basis: str, time_key: str) -> VectorField | None:
    """The network, if there is one in this basis; ValueError if it is a function of another time."""
    stored = find_result(data, VelotKeys.NETWORK)
    if stored is None or str(stored["basis"]) != basis:
        return None
    if str(stored["time_key"]) != time_key:
        raise ValueError(
            f"time_key={time_key!r}, but the network was fitted with time_key={str(stored['time_key'])!r}: pass that "
            "one, or use_network=False."
        )
    return unpack_fit(stored).field()
