"""The steps of the method as functions of an AnnData or MuData, under the names of VelOT.

They are thin over the steps of the model: what they add is where things are read and written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from muport.data import Setup, read_rows
from muport.velocity._fitted_state import Landmarks, query
from muport.velocity.estimation._field import evaluate
from muport.velocity.estimation._pipeline import Cells, Settings, fit_network, raw_velocity, windows_of
from muport.velocity.velot import _stored_results as store
from muport.velocity.velot._projection_functions import holder, project_to_embedding

if TYPE_CHECKING:
    import anndata
    import mudata
    from numpy.typing import NDArray

    type Data = anndata.AnnData | mudata.MuData

__all__ = [
    "build_windows", "compute_ot_velocity", "field_of", "query_velocity", "smooth_velocity", "velocity",
]  # fmt: skip

_EPOCH = 1_024  # cells seen in an epoch, at most
_PEAK = 12.0  # of the learning rate's cycle, in mean rates
_RULE = 10.0  # reg in units of the rule of time windows: the default of .05 is half a squared distance
_WINDOW_SETTINGS = (
    "windows", "window_fraction", "n_clusters", "window_size", "overlap_fraction", "min_window_size", "tail_handling",
    "tail_threshold", "random_state",
)  # fmt: skip
_CHECKED = (
    "n_clusters", "window_size", "overlap_fraction", "min_window_size", "tail_handling", "tail_threshold", "reg",
    "lambda_time", "lambda_knn", "hidden_dim", "lambda_smooth", "lambda_curl", "lambda_divergence", "k_smooth",
    "random_state", "windows", "difference", "tau",
)  # fmt: skip


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
        Regions of ``"spatial"`` windows; chosen by the number of cells by default.
    window_size
        Cells of a window.
    overlap_fraction, min_window_size, tail_handling, tail_threshold
        Of ``"spatial"`` windows: overlap of successive ones, their least size, and what becomes of a tail:
        ``"force"`` ends a full window at the last cell, ``"drop"`` leaves the tail out, ``"split"`` makes it a window
        of its own unless it has fewer than `tail_threshold` cells.
    spatial_key
        Column of any type with regions, in place of k-means; ``windows="spatial"`` is then understood.
    random_state
        Seed of k-means and of the order among equal times.
    windows
        ``"time"``: blocks of time bins, which see moves between regions. ``"spatial"``: VelOT's windows.
    window_fraction
        Share of the cells in a time bin.
    time_key
        Column with the pseudotime or real time.
    batch_key
        Column with batches: windows stay within a batch where it spans both times.
    modality
        For a MuData: the modality that holds the cells; its own ``obsm`` by default.

    Returns
    -------
    `adata`, in which ``obs["velot_spatial_cluster"]`` (region or time bin) and ``uns["velot_windows"]`` are written.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If time is missing, not finite or constant, or an option is out of range.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=400, random_state=0)
    >>> adata = muport.velocity.build_windows(adata, time_key="time")
    >>> adata.uns["velot_windows"]["kind"]
    'time'
    """
    given = dict(locals())
    at = holder(adata, modality)
    if spatial_key is not None:
        given["windows"] = "spatial"
    settings = Settings(**{name: given[name] for name in _WINDOW_SETTINGS})
    rows = read_rows(at, Setup(basis, batch_key, spatial_key=spatial_key, time_key=time_key))
    found = windows_of(Cells.of(rows), settings)
    at.obs[store.CLUSTER] = pd.Categorical(found.cluster.astype(str), [str(i) for i in np.unique(found.cluster)])
    kept = {name: given[name] for name in _WINDOW_SETTINGS}
    at.uns[store.WINDOWS] = store.windows_to(found, {**kept, "basis": basis, "time_key": time_key})
    return adata


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
    """Transport the windows and read the velocity of each cell from the plans.

    Parameters
    ----------
    adata
        Cells with the windows of :func:`build_windows`.
    basis
        Key of ``obsm`` with the space in which cells move.
    reg
        Entropic regularisation: smaller plans are sharper. In ``"spatial"`` windows a fraction of the window's largest
        cost, as in VelOT; in ``"time"`` windows a fraction of ten times the median squared distance of a cell to its
        fifth neighbour inside the window, so that it does not depend on the farthest cells.
    lambda_time
        Cost of a move backward in time, as a share of the largest. Between time windows there is none.
    lambda_knn
        Cost of a move between cells that are not among each other's 30 neighbours. It acts in ``"spatial"`` windows:
        the blocks of time windows are thinned out, and hold few neighbours.
    difference
        ``"central"``, or ``"forward"`` as in VelOT, which pulls cells toward the mean of their neighbours.
    tau
        Relaxation of the masses in (0, 1]. 1 is balanced, as in VelOT; below 1 branches may grow, and
        ``obs["velot_growth"]`` is written.
    modality
        For a MuData: the modality that holds the cells.

    Returns
    -------
    `adata`, in which ``obsm["velot_velocity"]`` and ``obsm["velot_velocity_raw"]`` (units of the basis per unit of
    time), ``obs["velot_confidence"]`` and ``uns["velot_transport"]`` are written.

    Raises
    ------
    KeyError
        If there are no windows yet, or a key does not exist.
    ValueError
        If an option is out of range, or the cells are not those of the windows.
    """
    at = holder(adata, modality)
    windows, built = store.windows_from(_need(at, store.WINDOWS, "build_windows"))
    timed = windows.kind == "time"
    if not 0 < reg < np.inf:
        raise ValueError(f"reg={reg!r} must be a positive number.")
    settings = Settings(
        **{name: built[name] for name in _WINDOW_SETTINGS if name in built},
        difference=difference,
        reg=None if timed else reg,
        reg_scale=_RULE * reg,
        tau=tau,
        lambda_time=lambda_time,
        lambda_knn=0.0 if timed else lambda_knn,
    )
    cells = Cells.of(read_rows(at, Setup(basis, None, time_key=built["time_key"])))
    if len(windows.cluster) != len(cells.x):
        raise ValueError(f"the windows are of {len(windows.cluster)} cells, not {len(cells.x)}: call build_windows.")
    raw = raw_velocity(cells, windows, settings)
    at.obsm[store.RAW], at.obsm[store.VELOCITY] = raw.velocity, raw.velocity.copy()
    at.obs[store.CONFIDENCE] = raw.confidence
    if tau < 1:
        at.obs[store.GROWTH] = raw.growth
    kept = {"reg": reg, "difference": difference, "tau": tau, "basis": basis, "time_key": built["time_key"]}
    at.uns[store.TRANSPORT] = store.raw_to(raw, kept)
    return adata


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
    """Fit a network to the raw velocities: a field that answers anywhere.

    Parameters
    ----------
    adata
        Cells with raw velocities.
    basis
        Space of the velocities, with or without ``"X_"``.
    velocity_key
        Key of ``obsm`` with the raw velocities.
    n_epochs
        Most epochs; one shows the network as many cells as there are, at most 1,024. Fewer where velocities are noisy.
    hidden_dim
        Width of the hidden layers.
    lr
        Mean learning rate; its one cycle peaks at twelve times that.
    batch_size
        Cells of a step.
    lambda_smooth, lambda_curl, lambda_divergence
        Weights of the penalties on differences between neighbours, on curl and on divergence, these over all
        dimensions.
    k_smooth
        Neighbours in place and time over which raw velocities are averaged, and for `lambda_smooth`.
    use_pseudotime
        Whether the field depends on time.
    random_state
        Seed.
    verbose
        Show a progress bar.
    time_key
        Column with the time.
    modality
        For a MuData: the modality that holds the cells.

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
    at, key, name = holder(adata, modality), f"X_{basis.removeprefix('X_')}", basis.removeprefix("X_")
    if velocity_key not in at.obsm:
        raise KeyError(f"velocity_key={velocity_key!r} is not in obsm: call compute_ot_velocity first.")
    cells = Cells.of(read_rows(at, Setup(key, None, time_key=time_key)))
    velocities = np.asarray(at.obsm[velocity_key], dtype=np.float32)
    if velocities.shape != cells.x.shape:
        raise ValueError(f"obsm[{velocity_key!r}] has shape {velocities.shape}, but obsm[{key!r}] {cells.x.shape}.")
    transport = at.uns.get(store.TRANSPORT) if velocity_key == store.RAW else None
    steps = -(-min(len(cells.x), _EPOCH) // batch_size) if batch_size > 0 else 1
    settings = Settings(
        n_steps=max(2, _whole(n_epochs) * steps), batch_size=batch_size, lr=_PEAK * lr, hidden_dim=hidden_dim,
        lambda_smooth=lambda_smooth, lambda_curl=lambda_curl, lambda_divergence=lambda_divergence, k_smooth=k_smooth,
        use_time=use_pseudotime, random_state=random_state,
    )  # fmt: skip
    columns = (TextColumn("network"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not verbose, transient=True) as bar:
        task = bar.add_task("network", total=settings.n_steps)
        fit = fit_network(
            cells,
            store.raw_from(velocities, transport),
            settings,
            progress=lambda _: bar.update(task, advance=1),
        )
    smooth = evaluate(fit.field(), cells.x, cells.time)
    at.obsm[f"{store.VELOCITY}_{name}"], at.obsm[store.VELOCITY] = smooth, smooth.copy()
    at.uns[store.NETWORK] = {**store.fit_to(fit, key), "time_key": time_key}
    return adata


def query_velocity(
    adata: Data, positions: Any, pseudotime_values: Any = None, *, modality: str | None = None
) -> NDArray[np.float32]:
    """Ask the fitted field at any place and time.

    Parameters
    ----------
    adata
        Cells with the network of :func:`smooth_velocity`.
    positions
        (n, d) places in the basis.
    pseudotime_values
        (n,) times, or one for all; the median time of the cells by default.
    modality
        For a MuData: the modality that holds the cells.

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
    at = holder(adata, modality)
    fit, cells, _ = field_of(at)
    known = Landmarks(cells.x, cells.time, np.full(len(cells.x), -1), ())
    found = query(fit.field(), known, positions, pseudotime_values)
    assert isinstance(found, np.ndarray)
    return found


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
    """Do the whole: windows, transport, network, picture.

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
        Whether to carry the velocities into a picture, and its key of ``obsm``.
    random_state
        Seed.
    time_key, batch_key, modality
        As for :func:`build_windows`.

    Returns
    -------
    `adata`, in which all that these functions write is written. The velocities in the picture are
    ``obsm["velot_velocity_umap"]`` for ``"X_umap"``.

    Raises
    ------
    KeyError, ValueError
        As these functions; the picture is looked for first.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.simulated_dynamics("linear", n_cells=400, random_state=0)
    >>> adata = muport.velocity.velocity(adata, time_key="time", n_epochs=20, project_umap=False, verbose=False)
    >>> adata.obsm["velot_velocity_pca"].shape == adata.obsm["X_pca"].shape
    True
    """
    at = holder(adata, modality)
    if project_umap and project_basis not in at.obsm:
        raise KeyError(
            f"project_basis={project_basis!r} is not in obsm, which has {sorted(at.obsm.keys())}: compute it, or pass "
            "project_umap=False."
        )
    # all of it is checked before anything is written
    given = dict(locals())
    Settings(**{name: given[name] for name in _CHECKED}, n_steps=1 + _whole(n_epochs), use_time=use_pseudotime)
    build_windows(
        adata, basis, n_clusters, window_size, overlap_fraction, min_window_size, spatial_key, tail_handling,
        tail_threshold, random_state, windows=windows, time_key=time_key, batch_key=batch_key, modality=modality,
    )  # fmt: skip
    compute_ot_velocity(adata, basis, reg, lambda_time, lambda_knn, difference=difference, tau=tau, modality=modality)
    if smooth:
        smooth_velocity(
            adata, basis, store.RAW, n_epochs, hidden_dim, lambda_smooth=lambda_smooth, lambda_curl=lambda_curl,
            lambda_divergence=lambda_divergence, k_smooth=k_smooth, use_pseudotime=use_pseudotime,
            random_state=random_state, verbose=verbose, time_key=time_key, modality=modality,
        )  # fmt: skip
    if project_umap:
        drawn = f"{store.VELOCITY}_{project_basis.removeprefix('X_')}"
        project_to_embedding(adata, store.VELOCITY, drawn, basis, project_basis, modality=modality)
    return adata


def _whole(n_epochs: int) -> int:
    if isinstance(n_epochs, bool) or not isinstance(n_epochs, int | np.integer) or n_epochs < 1:
        raise ValueError(f"n_epochs={n_epochs!r} must be an integer of at least 1.")
    return int(n_epochs)


def field_of(at: Data) -> tuple[Any, Cells, str]:
    """The fitted network, the cells in its basis, and the basis."""
    stored = _need(at, store.NETWORK, "smooth_velocity")
    basis = str(stored["basis"])
    return store.fit_from(stored), Cells.of(read_rows(at, Setup(basis, None, time_key=str(stored["time_key"])))), basis


def _need(at: Data, key: str, function: str) -> dict[str, Any]:
    if key not in at.uns:
        raise KeyError(f"uns[{key!r}] is not there: call muport.velocity.{function} first.")
    found: dict[str, Any] = at.uns[key]
    return found
