"""Trajectories and flows as functions of an AnnData or MuData, under the names of VelOT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from muport.data import Setup, read_rows
from muport.velocity.dynamics._manifold import knn_field
from muport.velocity.dynamics._start_cells import source_range
from muport.velocity.dynamics._trajectories import flow_particles, trace_trajectories
from muport.velocity.estimation._pipeline import Cells
from muport.velocity.velot import _stored_results as store
from muport.velocity.velot._projection_functions import holder
from muport.velocity.velot._stored_results import FLOW, TRAJECTORIES
from muport.velocity.velot._velocity_steps import field_of

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    from muport.velocity.dynamics._paths import VectorField

    type Data = anndata.AnnData | mudata.MuData

__all__ = ["compute_trajectories", "simulate_flow"]


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
    time_key: str = "pseudotime",
    modality: str | None = None,
) -> Data:
    """Follow the velocity from cells, forward or backward in time, by a Runge-Kutta solver of order 4.

    A path ends after `n_steps`, at either end of the data's time, at the target, or before it is more than ten
    nearest-neighbour distances from any cell.

    Parameters
    ----------
    adata
        Cells with velocities.
    start_cells
        Rows to start from; the other conditions are then ignored.
    start_cluster
        Cluster to start from.
    target_cluster
        Keep only paths that come to this cluster.
    start_pseudotime, end_pseudotime
        Bounds of the start cells' time.
    n_trajectories
        Paths in each direction; with a target, paths that reach it.
    n_steps
        Most steps.
    step_size
        Step as a fraction of the range of time: its mean length is that fraction of the mean velocity.
    direction
        ``"forward"``, ``"backward"`` or ``"both"``.
    velocity_key
        Key of ``obsm`` with the velocities that are interpolated where the network is not used.
    basis
        Key of ``obsm`` with the space in which cells move.
    cluster_key
        Column with the clusters; needed only where a cluster is named.
    k_velocity
        Cells whose velocities are interpolated.
    use_network
        Follow the network, if there is one in that basis.
    evolve_pseudotime
        Whether time goes on along the path.
    max_attempts_factor
        With a target: most starts tried, as a multiple of `n_trajectories`.
    random_state
        Seed of the choice of start cells.
    time_key
        Column with the time.
    modality
        For a MuData: the modality that holds the cells.

    Returns
    -------
    `adata`, in which ``uns["velot_trajectories"]`` is written: ``paths_pca`` (n, points, d), their ``time`` and nearest
    ``cell``, and ``metadata``, a table with ``id``, start, direction, clusters and the reason of each path's end.

    Raises
    ------
    KeyError
        If a key or cluster does not exist.
    ValueError
        If no cell fulfils the conditions, the target was never reached, or a number is out of range.
    """
    settings = {k: v for k, v in locals().items() if isinstance(v, str | int | float | bool) or v is None}
    at = holder(adata, modality)
    named = start_cluster is not None or target_cluster is not None
    cells, labels = _population(at, basis, time_key, cluster_key, required=named)
    found = trace_trajectories(
        _field(at, cells, basis, velocity_key, k_velocity, use_network),
        cells.x,
        cells.time,
        labels=labels,
        start_cells=start_cells,
        start_cluster=start_cluster,
        target_cluster=target_cluster,
        start_time=start_pseudotime,
        end_time=end_pseudotime,
        n_trajectories=n_trajectories,
        n_steps=n_steps,
        step_size=step_size,
        direction=direction,
        evolve_time=evolve_pseudotime,
        max_attempts_factor=max_attempts_factor,
        random_state=random_state,
    )
    at.uns[TRAJECTORIES] = store.paths_to(found, basis, settings)
    return adata


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
    """Let particles flow through the field: x_{n+1} = x_n + dt v(x_n, t_n) + sqrt(2 D dt) eta.

    D is `diffusion` times the local speed and the median nearest-neighbour distance, and the noise lies in the tangent
    space of the data. A step and the ends are those of :func:`compute_trajectories`.

    Parameters
    ----------
    adata
        Cells with the network of :func:`smooth_velocity`.
    n_particles
        Particles.
    source_cluster
        Cluster they start from.
    source_pseudotime_min, source_pseudotime_max
        Without a cluster: bounds of the source's time, as shares of the range of time; for a pseudotime in [0, 1] these
        are its values.
    source_x_lim, source_y_lim
        Bounds of the source in the picture `basis_embedding`.
    n_steps
        Most steps.
    step_size
        Step as a fraction of the range of time.
    diffusion
        Strength of the noise: 0 for none, .1 to .5 is mild, 1 strong.
    basis
        Key of ``obsm`` with the space of the network.
    cluster_key
        Column with the clusters; needed only with `source_cluster`.
    noise_scale
        Standard deviation of noise added to the starts, in units of the basis.
    random_state
        Seed of starts and noise.
    basis_embedding
        Key of ``obsm`` with the picture in which the bounds are taken.
    modality
        For a MuData: the modality that holds the cells.

    Returns
    -------
    `adata`, in which ``uns["velot_flow"]`` is written, as by :func:`compute_trajectories`.

    Raises
    ------
    KeyError
        If a key or cluster does not exist, or there is no network in the basis.
    ValueError
        If no cell fulfils the conditions, or a number is out of range.
    """
    settings = {k: v for k, v in locals().items() if isinstance(v, str | int | float | bool) or v is None}
    at = holder(adata, modality)
    fit, cells, fitted = field_of(at)
    if fitted != basis:
        raise KeyError(f"basis={basis!r}: the network is of {fitted!r}; call smooth_velocity in the other basis.")
    labels = _labels(at, cluster_key, required=source_cluster is not None)
    low, high = source_range(cells.time, source_cluster, source_pseudotime_min, source_pseudotime_max)
    found = flow_particles(
        fit.field(),
        cells.x,
        cells.time,
        labels=labels,
        n_particles=n_particles,
        source_cluster=source_cluster,
        source_time_min=low,
        source_time_max=high,
        embedding=np.asarray(at.obsm[basis_embedding]) if basis_embedding in at.obsm else None,
        source_x_lim=source_x_lim,
        source_y_lim=source_y_lim,
        n_steps=n_steps,
        step_size=step_size,
        diffusion=diffusion,
        noise_scale=noise_scale,
        random_state=random_state,
    )
    at.uns[FLOW] = store.paths_to(found, basis, settings)
    return adata


def _population(
    at: Data, basis: str, time_key: str, cluster_key: str, *, required: bool
) -> tuple[Cells, NDArray[np.str_] | None]:
    cells = Cells.of(read_rows(at, Setup(basis, None, time_key=time_key)))
    return cells, _labels(at, cluster_key, required=required)


def _labels(at: Data, cluster_key: str, *, required: bool) -> NDArray[np.str_] | None:
    if cluster_key in at.obs:
        return at.obs[cluster_key].astype(str).to_numpy()
    if required:
        raise KeyError(
            f"cluster_key={cluster_key!r} is not in obs; the columns are {sorted(map(str, at.obs.columns))}."
        )
    return None


def _field(at: Data, cells: Cells, basis: str, velocity_key: str, k: int, use_network: bool) -> VectorField:
    if use_network and store.NETWORK in at.uns and str(at.uns[store.NETWORK]["basis"]) == basis:
        return store.fit_from(at.uns[store.NETWORK]).field()
    if velocity_key not in at.obsm:
        raise KeyError(f"velocity_key={velocity_key!r} is not in obsm: call muport.velocity.velocity first.")
    return knn_field(cells.x, np.asarray(at.obsm[velocity_key]), k)
