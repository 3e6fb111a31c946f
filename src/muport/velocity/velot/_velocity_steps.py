"""The steps of the method as functions of an AnnData or MuData, under the names of VelOT.

They read and write the object, and otherwise call the same functions as the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport._checks import check_integers, check_positive
from muport.data import accept_data_names
from muport.velocity._course_columns import check_several_times
from muport.velocity._fitted_state import check_query
from muport.velocity._hyperparameters import VelocityHyperparameters
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import fit_network, pair_windows, transport_cells, warn_of_outliers
from muport.velocity.velot._projection_functions import project_to_embedding
from muport.velocity.velot._stored_results import (
    VelotKeys,
    find_result,
    in_modality,
    pack_fit,
    pack_raw_velocity,
    pack_windows,
    read_cells,
    read_matrix,
    require_result,
    unpack_fit,
    unpack_raw_velocity,
    unpack_windows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from muport.velocity.velot._stored_results import Data

__all__ = ["build_windows", "compute_ot_velocity", "query_velocity", "smooth_velocity", "velocity"]

_CELLS_PER_EPOCH = 1_024  # at most
_PEAK_LR = 12.0  # largest learning rate of the cycle, as a multiple of lr
_REG_FACTOR = 10.0  # reg_scale of time windows, as a multiple of reg: the default of .05 is half a squared distance


@accept_data_names
def build_windows(
    adata: Data,
    basis: str = "X_pca",
    n_clusters: int | None = None,
    window_size: int | None = None,
    overlap_fraction: float = 0.5,
    min_window_size: int = 20,
    spatial_key: str | None = None,
    tail_handling: Literal["force", "drop", "split"] = "force",
    tail_threshold: int = 10,
    random_state: int = 42,
    *,
    windows: Literal["time", "spatial"] = "time",
    window_fraction: float = 0.05,
    time_key: str = "pseudotime",
    batch_key: str | None = None,
    modality: str | None = None,
) -> Data:
    """Pair the windows between which cells will be transported.

    Parameters
    ----------
    adata
        Cells with ``obsm[basis]`` and ``obs[time_key]``.
    basis
        Key of ``obsm`` with the space in which cells move.
    n_clusters
        Number of regions of ``"spatial"`` windows; by default a hundredth of the cells, between 5 and 30.
    window_size
        Number of cells in a window.
    overlap_fraction, min_window_size, tail_handling, tail_threshold
        Of ``"spatial"`` windows: overlap of successive ones, their smallest size, and the treatment of the last cells
        of a region, which may be too few for a window: ``"force"`` adds a full window that ends at the last cell,
        ``"drop"`` leaves them out, ``"split"`` makes them a window unless they are fewer than `tail_threshold`.
    spatial_key
        Column of any type with regions, in place of k-means; implies ``windows="spatial"``.
    random_state
        Seed of k-means and of the order among equal times.
    windows
        ``"time"``: blocks of time bins, between which cells can move from region to region. ``"spatial"``: VelOT's
        windows.
    window_fraction
        Fraction of the cells in a time bin.
    time_key
        Column with the pseudotime or real time.
    batch_key
        Column with batches: windows stay within a batch where it has cells at both times.
    modality
        For a MuData: the modality with the cells; by default the MuData itself.

    Returns
    -------
    `adata`, in which ``obs["velot_spatial_cluster"]`` (region or time bin) and ``uns["velot_windows"]`` are written.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If time is missing, not finite or constant, a window has fewer than ten cells, or an option is out of range.

    Warns
    -----
    UserWarning
        If some cells are far from all others: they are in no window, and the field is fitted without them.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=400, random_state=0)
    >>> adata = muport.velocity.build_windows(adata, time_key="time")
    >>> adata.uns["velot_windows"]["kind"]
    'time'
    """
    settings = VelocityHyperparameters.among(locals())
    if spatial_key is not None:
        settings["windows"] = "spatial"
    hyperparameters = VelocityHyperparameters(**settings)
    data = in_modality(adata, modality)
    cells = read_cells(data, basis, time_key, batch_key, spatial_key)
    check_several_times(cells.time, time_key)
    paired = pair_windows(cells, hyperparameters)
    warn_of_outliers(cells, data.obs_names)
    names = [str(code) for code in np.unique(paired.cluster)]
    data.obs[VelotKeys.CLUSTER] = pd.Categorical(paired.cluster.astype(str), names)
    settings |= {"basis": basis, "time_key": time_key}
    data.uns[VelotKeys.WINDOWS] = pack_windows(paired, data.obs_names, cells, settings)
    return adata


@accept_data_names
def compute_ot_velocity(
    adata: Data,
    basis: str = "X_pca",
    reg: float = 0.05,
    lambda_time: float = 1.0,
    lambda_knn: float = 1.0,
    *,
    difference: Literal["central", "forward"] = "central",
    tau: float = 0.98,
    modality: str | None = None,
) -> Data:
    """Transport cells between paired windows, and compute the velocity of each cell from the plans.

    Parameters
    ----------
    adata
        Cells with the windows of :func:`build_windows`.
    basis
        Key of ``obsm`` with the space in which cells move.
    reg
        Entropic regularization; with less, plans are sharper. In ``"spatial"`` windows a fraction of the window's
        largest cost, as in VelOT; in ``"time"`` windows a fraction of ten times the median squared distance of a cell
        to its fifth neighbor in the window, so that it does not depend on the farthest cells.
    lambda_time
        Additional cost of a transport backward in time, as a fraction of the largest. Time windows have no such pairs.
    lambda_knn
        Additional cost of a transport between cells that are not among each other's 30 neighbors. It is used in
        ``"spatial"`` windows only: the blocks of time windows are samples, and contain few neighbors.
    difference
        ``"central"``, or ``"forward"`` as in VelOT, which pulls cells toward the mean of their neighbors.
    tau
        Relaxation of the masses in (0, 1]. 1 is balanced, as in VelOT; below 1 branches may grow, and
        ``obs["velot_growth"]`` is written.
    modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, in which ``obsm["velot_velocity"]`` and ``obsm["velot_velocity_raw"]`` (units of the basis per unit of
    time), ``obs["velot_confidence"]`` and ``uns["velot_transport"]`` are written.

    Raises
    ------
    KeyError
        If there are no windows yet, or a key does not exist.
    ValueError
        If an option is out of range, or the cells or their times are not those of the windows. Cells are matched by
        name, so they may be in another order.
    """
    data = in_modality(adata, modality)
    stored = require_result(data, VelotKeys.WINDOWS, "build_windows")
    time_key = str(stored["settings"]["time_key"])
    cells = read_cells(data, basis, time_key)
    basis_of_windows = str(stored["settings"]["basis"])
    of_windows = cells if basis_of_windows == basis else read_cells(data, basis_of_windows, time_key)
    windows, built = unpack_windows(stored, data.obs_names, of_windows)
    by_time = windows.kind == "time"
    check_positive(reg=reg)
    hyperparameters = VelocityHyperparameters.from_arguments(
        built,
        difference=difference,
        reg=None if by_time else reg,
        reg_scale=_REG_FACTOR * reg,
        tau=tau,
        lambda_time=lambda_time,
        lambda_knn=0.0 if by_time else lambda_knn,
    )
    raw = transport_cells(cells, windows, hyperparameters)
    data.obsm[VelotKeys.RAW], data.obsm[VelotKeys.VELOCITY] = raw.velocity, raw.velocity.copy()
    data.obs[VelotKeys.CONFIDENCE] = raw.confidence
    if tau < 1:
        data.obs[VelotKeys.GROWTH] = raw.growth
    settings = {"reg": reg, "difference": difference, "tau": tau, "basis": basis, "time_key": time_key}
    data.uns[VelotKeys.TRANSPORT] = pack_raw_velocity(raw, data.obs_names, cells, settings)
    return adata


@accept_data_names
def smooth_velocity(
    adata: Data,
    basis: str = "pca",
    velocity_key: str = "velot_velocity_raw",
    n_epochs: int = 200,
    hidden_dim: int = 128,
    lr: float = 0.001,
    batch_size: int = 256,
    lambda_smooth: float = 0.5,
    lambda_curl: float = 0.5,
    lambda_divergence: float = 0.0,
    k_smooth: int = 15,
    use_pseudotime: bool = True,
    random_state: int = 42,
    verbose: bool = True,
    *,
    time_key: str = "pseudotime",
    modality: str | None = None,
) -> Data:
    """Fit a network to the raw velocities: a field that can be evaluated anywhere.

    Parameters
    ----------
    adata
        Cells with raw velocities.
    basis
        Space of the velocities, with or without ``"X_"``.
    velocity_key
        Key of ``obsm`` with the raw velocities.
    n_epochs
        Largest number of epochs of at most 1,024 cells; fewer are run where velocities are noisy.
    hidden_dim
        Width of the hidden layers.
    lr
        Learning rate; the largest of its one cycle is twelve times that.
    batch_size
        Cells per step.
    lambda_smooth, lambda_curl, lambda_divergence, k_smooth
        As for :meth:`muport.Velocity.train`.
    use_pseudotime
        Whether the field depends on time.
    random_state
        Seed.
    verbose
        Show a progress bar.
    time_key, modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, in which ``obsm["velot_velocity_<basis>"]`` and ``obsm["velot_velocity"]`` (units of the basis per unit of
    time) and ``uns["velot_smoothing"]`` (the network as arrays, and its losses) are written.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If an option is out of range.
    """
    data, name = in_modality(adata, modality), basis.removeprefix("X_")
    key = f"X_{name}"
    velocities = read_matrix(data, velocity_key, "velocity_key", "call compute_ot_velocity first")
    cells = read_cells(data, key, time_key)
    if velocities.shape != cells.x.shape:
        raise ValueError(f"obsm[{velocity_key!r}] has shape {velocities.shape}, but obsm[{key!r}] {cells.x.shape}.")
    transport = find_result(data, VelotKeys.TRANSPORT) if velocity_key == VelotKeys.RAW else None
    if transport is not None:
        _check_same_space(transport["settings"], basis=key, time_key=time_key)
    raw = unpack_raw_velocity(velocities, transport, data.obs_names, cells)
    check_integers(1, n_epochs=n_epochs, batch_size=batch_size)
    steps_per_epoch = -(-min(len(cells.x), _CELLS_PER_EPOCH) // batch_size)
    n_steps = max(2, int(n_epochs) * steps_per_epoch)
    hyperparameters = VelocityHyperparameters.from_arguments(
        locals(), n_steps=n_steps, lr=_PEAK_LR * lr, use_time=use_pseudotime
    )
    with Progress(TextColumn("network"), BarColumn(), TimeElapsedColumn(), disable=not verbose, transient=True) as bar:
        task = bar.add_task("network", total=n_steps)
        fit = fit_network(cells, raw, hyperparameters, progress=lambda _: bar.update(task, advance=1))
    smooth = evaluate(fit.field(), cells.x, cells.time)
    data.obsm[f"{VelotKeys.VELOCITY}_{name}"], data.obsm[VelotKeys.VELOCITY] = smooth, smooth.copy()
    data.uns[VelotKeys.NETWORK] = pack_fit(fit, key, time_key, float(np.median(cells.time)))
    return adata


def _check_same_space(settings: Mapping[str, Any], **arguments: str) -> None:
    """ValueError unless raw velocities were computed in this basis, with this time."""
    for name, value in arguments.items():
        if str(settings[name]) != value:
            raise ValueError(
                f"{name}={value!r}, but compute_ot_velocity was called with {name}={str(settings[name])!r}: pass that "
                "one, or call build_windows and compute_ot_velocity again."
            )


@accept_data_names
def query_velocity(
    adata: Data, positions: Any, pseudotime_values: Any = None, *, modality: str | None = None
) -> NDArray[np.float32]:
    """Evaluate the fitted field at any positions and times.

    Parameters
    ----------
    adata
        Cells with the network of :func:`smooth_velocity`.
    positions
        (n, d) coordinates in the basis.
    pseudotime_values
        (n,) times, or one for all; by default the median time of the cells of :func:`smooth_velocity`.
    modality
        As for :func:`build_windows`.

    Returns
    -------
    (n, d) float32 velocity, in units of the basis per unit of time.

    Raises
    ------
    KeyError
        If there is no network yet.
    ValueError
        If the shapes do not fit.
    """
    data = in_modality(adata, modality)
    stored = require_result(data, VelotKeys.NETWORK, "smooth_velocity")
    field = unpack_fit(stored).field()
    if "median_time" not in stored:
        raise ValueError(f"uns[{VelotKeys.NETWORK!r}] is of an earlier version: call smooth_velocity again.")
    return evaluate(field, *check_query(positions, pseudotime_values, field.d, float(stored["median_time"])))


@accept_data_names
def velocity(
    adata: Data,
    basis: str = "X_pca",
    smooth: bool = True,
    n_clusters: int | None = None,
    window_size: int | None = None,
    overlap_fraction: float = 0.5,
    min_window_size: int = 20,
    spatial_key: str | None = None,
    tail_handling: Literal["force", "drop", "split"] = "force",
    tail_threshold: int = 10,
    reg: float = 0.05,
    lambda_time: float = 1.0,
    lambda_knn: float = 1.0,
    n_epochs: int = 200,
    hidden_dim: int = 128,
    lambda_smooth: float = 0.5,
    lambda_curl: float = 0.0,
    lambda_divergence: float = 0.0,
    k_smooth: int = 15,
    use_pseudotime: bool = True,
    project_umap: bool = True,
    project_basis: str = "X_umap",
    random_state: int = 42,
    verbose: bool = True,
    *,
    windows: Literal["time", "spatial"] = "time",
    difference: Literal["central", "forward"] = "central",
    tau: float = 0.98,
    time_key: str = "pseudotime",
    batch_key: str | None = None,
    modality: str | None = None,
) -> Data:
    """Run all steps: windows, transport, network, projection.

    Parameters
    ----------
    adata
        Cells with a representation and a time; :func:`muport.pp.prepare` makes both.
    basis
        Key of ``obsm`` with the space in which cells move.
    smooth
        Whether to fit the network.
    n_clusters, window_size, overlap_fraction, min_window_size, spatial_key, tail_handling, tail_threshold, windows
        As for :func:`build_windows`; so are `time_key` and `batch_key`.
    reg, lambda_time, lambda_knn, difference, tau
        As for :func:`compute_ot_velocity`.
    n_epochs, hidden_dim, lambda_smooth, lambda_curl, lambda_divergence, k_smooth, use_pseudotime, verbose
        As for :func:`smooth_velocity`.
    project_umap, project_basis
        Whether to project the velocities into an embedding, and its key of ``obsm``.
    random_state
        Seed.
    time_key, batch_key, modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, with everything that these functions write. The velocities in the embedding are
    ``obsm["velot_velocity_umap"]`` for ``"X_umap"``.

    Raises
    ------
    KeyError, ValueError
        As these functions; arguments are checked before anything is written.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=400, random_state=0)
    >>> adata = muport.velocity.velocity(adata, time_key="time", n_epochs=20, project_umap=False, verbose=False)
    >>> adata.obsm["velot_velocity_pca"].shape == adata.obsm["X_pca"].shape
    True
    """
    data = in_modality(adata, modality)
    # everything is checked before anything is written
    if project_umap:
        read_matrix(data, project_basis, "project_basis", "compute it, or pass project_umap=False")
    VelocityHyperparameters.from_arguments(locals(), use_time=use_pseudotime)
    check_integers(1, n_epochs=n_epochs)
    build_windows(
        adata, basis, n_clusters, window_size, overlap_fraction, min_window_size, spatial_key, tail_handling,
        tail_threshold, random_state, windows=windows, time_key=time_key, batch_key=batch_key, modality=modality,
    )  # fmt: skip
    compute_ot_velocity(adata, basis, reg, lambda_time, lambda_knn, difference=difference, tau=tau, modality=modality)
    if smooth:
        smooth_velocity(
            adata, basis, VelotKeys.RAW, n_epochs, hidden_dim, lambda_smooth=lambda_smooth, lambda_curl=lambda_curl,
            lambda_divergence=lambda_divergence, k_smooth=k_smooth, use_pseudotime=use_pseudotime,
            random_state=random_state, verbose=verbose, time_key=time_key, modality=modality,
        )  # fmt: skip
    if project_umap:
        embedded = f"{VelotKeys.VELOCITY}_{project_basis.removeprefix('X_')}"
        project_to_embedding(adata, VelotKeys.VELOCITY, embedded, basis, project_basis, modality=modality)
    return adata
