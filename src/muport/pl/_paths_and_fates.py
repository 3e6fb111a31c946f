"""Trajectories, flows, fates, windows of the transport, and the graph of macrostates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._arrays import normalize_rows
from muport._tables import rows_by_name
from muport.neighbors import knn
from muport.pl._axes import add_legend, get_axes, hide_frame
from muport.pl._colors import color_categories, palette
from muport.pl._embedding import embedding
from muport.pl._obs_and_obsm import get_column, get_coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl._obs_and_obsm import Data
    from muport.velocity import MetaStates, Trajectories

__all__ = ["coarse_graph", "fate_summary", "flow", "trajectories", "windows"]

_CELL_GRAY = "0.85"  # of cells behind paths
_N_NEIGHBORS = 15  # cells whose positions in the embedding are averaged for a point of a path
_END_COLOR = "#d1495b"
_ROLE_COLORS = {
    "initial": "#2a9d8f", "transient": "#bbbbbb", "branching": "#e9c46a", "cycling": "#457b9d", "terminal": _END_COLOR,
}  # fmt: skip


def trajectories(
    data: Data,
    paths: Trajectories | str = "velot_trajectories",
    basis: str = "X_umap",
    use_rep: str = "X_pca",
    color: str | None = None,
    ax: Axes | None = None,
    *,
    trajectory_ids: Sequence[int] | None = None,
    **kwargs: Any,
) -> Axes:
    """Draw paths over the cells.

    A point of a path is drawn at the weighted mean position of the cells nearest to it in the representation.

    Parameters
    ----------
    data
        Cells with an embedding and the representation in which the paths were computed.
    paths
        What ``model.compute_trajectories`` returned, or the key of ``data.uns`` that
        :func:`muport.velocity.compute_trajectories` wrote.
    basis
        Key of ``data.obsm`` with the embedding.
    use_rep
        Key of ``data.obsm`` with the representation.
    color
        Column that colors the cells.
    ax
        Axes to draw on; new ones by default.
    trajectory_ids
        Paths to draw; all by default.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes; a dot marks the start of a path, a star its end.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If an id is not that of a path.
    """
    drawn = _get_paths(data, paths, use_rep)
    ids = np.arange(len(drawn.x)) if trajectory_ids is None else np.asarray(trajectory_ids)
    if len(ids) and (ids.min() < 0 or ids.max() >= len(drawn.x)):
        raise ValueError(f"trajectory_ids={list(ids)} must be ids between 0 and {len(drawn.x) - 1}.")
    lines, length = _embed_points(data, drawn.x[ids], basis, use_rep), drawn.length[ids]
    axes = _draw_cells_behind(data, basis, color, ax, **kwargs)
    for line, n in zip(lines, length, strict=True):
        axes.plot(*line[:n].T, color="0.1", lw=1.2, alpha=0.8, zorder=3)
    ends = lines[np.arange(len(lines)), length - 1]
    axes.scatter(lines[:, 0, 0], lines[:, 0, 1], color="white", edgecolor="0.1", s=25, zorder=4)
    axes.scatter(ends[:, 0], ends[:, 1], color=_END_COLOR, marker="*", s=60, linewidths=0, zorder=5)
    return axes


def flow(
    data: Data,
    paths: Trajectories | str = "velot_flow",
    basis: str = "X_umap",
    use_rep: str = "X_pca",
    ax: Axes | None = None,
    *,
    legend: bool = True,
    **kwargs: Any,
) -> Axes:
    """Draw the particles of a flow, colored by the cluster in which they end, with the fraction of each cluster.

    Parameters
    ----------
    data, basis, use_rep, ax, kwargs
        As for :func:`trajectories`.
    paths
        What ``model.simulate_flow`` returned, or the key of ``data.uns`` that :func:`muport.velocity.simulate_flow`
        wrote.
    legend
        Whether to draw a legend with the clusters and their fractions of the particles.

    Returns
    -------
    The axes, with one line for each particle.

    Raises
    ------
    KeyError
        If a key does not exist.
    """
    drawn = _get_paths(data, paths, use_rep)
    lines = _embed_points(data, drawn.x, basis, use_rep)
    axes = _draw_cells_behind(data, basis, None, ax, **kwargs)
    categories = color_categories(drawn.terminal)
    for line, n, color in zip(lines, drawn.length, categories.colors, strict=True):
        axes.plot(*line[:n].T, color=color, lw=0.7, alpha=0.5, zorder=3)
    if legend and categories.legend:
        add_legend(
            axes, [(f"{name} {np.mean(drawn.terminal == name):.0%}", color) for name, color in categories.legend]
        )
    return axes


def fate_summary(
    fates: pd.DataFrame, data: Data | None = None, groupby: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the mean fate probabilities of groups of cells as stacked bars.

    Parameters
    ----------
    fates
        Cells by terminal states, from ``model.get_fates``.
    data
        Cells with the groups.
    groupby
        Column of the groups; without it all cells are one group.
    ax
        Axes to draw on; new ones by default.

    Returns
    -------
    The axes, with one bar for each group of cells.

    Raises
    ------
    KeyError
        If the column does not exist.
    ValueError
        If `groupby` is given without `data`, or a cell of `fates` is not in `data`; cells are matched by name.

    Examples
    --------
    >>> import muport, pandas as pd
    >>> ax = muport.pl.fate_summary(pd.DataFrame({"A": [0.2, 0.4], "B": [0.8, 0.6]}))
    >>> [round(float(bar.get_width()), 1) for bar in ax.patches]
    [0.3, 0.7]
    """
    if groupby is not None and data is None:
        raise ValueError(f"groupby={groupby!r} needs data: pass the cells that have this column.")
    if groupby is None or data is None:
        group = pd.Series("all cells", index=fates.index)
    else:
        absent = fates.index.difference(data.obs_names)
        if len(absent):
            raise ValueError(f"fates: {len(absent)} cells are not in data, for example {absent[0]!r}: pass their data.")
        values = get_column(data, groupby, fates.index)
        group = values.astype(object).where(values.notna(), "no value").astype(str)
    means = fates.groupby(group.to_numpy(), sort=True).mean()
    axes = get_axes(ax, 5, 1 + 0.3 * len(means))
    colors = palette(means.shape[1])
    left = np.zeros(len(means))
    for color, name in zip(colors, means.columns, strict=True):
        axes.barh(means.index, means[name], left=left, color=color)
        left += means[name].to_numpy()
    axes.set(xlabel="mean fate probability", xlim=(0, 1))
    axes.invert_yaxis()
    add_legend(axes, list(zip(map(str, means.columns), colors, strict=True)))
    hide_frame(axes)
    return axes


def windows(
    data: Data, basis: str = "X_umap", key: str = "velot_windows", ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw the windows between which cells were transported, with an arrow for each pair of windows.

    Parameters
    ----------
    data
        Cells with the windows of :func:`muport.velocity.build_windows`.
    basis, ax, kwargs
        As for :func:`trajectories`.
    key
        Key of ``data.uns`` with the windows.

    Returns
    -------
    The axes. Colors are the time bins or regions; an arrow leads from the mean position of the cells of a window to
    that of the later window.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If the windows are of other cells; cells are matched by name.
    """
    from muport.velocity.velot._stored_results import require_result, unpack_windows

    windows = require_result(data, key, "build_windows")
    xy, cells = get_coordinates(data, basis)
    stored, _ = unpack_windows(windows, cells)
    later = stored.direction > 0
    start, end = (_mean_positions(xy, of_windows[later]) for of_windows in (stored.source, stored.target))
    axes = embedding(data, basis, "velot_spatial_cluster", ax, **{"legend": False, "title": "windows", **kwargs})
    axes.quiver(*start.T, *(end - start).T, angles="xy", scale_units="xy", scale=1, width=0.004, color="0.1", zorder=3)
    return axes


def coarse_graph(
    states: MetaStates,
    data: Data | None = None,
    basis: str = "X_umap",
    ax: Axes | None = None,
    *,
    least: float = 0.05,
    **kwargs: Any,
) -> Axes:
    """Draw the directed graph of macrostates: size by number of cells, color by role, arrows by net flux.

    Parameters
    ----------
    states
        From ``model.get_states``.
    data
        Cells with an embedding, in which a macrostate is at the mean position of its cells. Without it, the macrostates
        are on a circle.
    basis, ax, kwargs
        As for :func:`trajectories`.
    least
        Fraction of the largest flux below which no arrow is drawn.

    Returns
    -------
    The axes, with one circle for each macrostate.

    Raises
    ------
    KeyError
        If the basis does not exist.
    ValueError
        If `data` and the macrostates are not of the same cells. Those of ``model.get_states`` are matched by name.
    """
    m = len(states.mass)
    if data is None:
        angle = 2 * np.pi * np.arange(m) / m
        position = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        axes = get_axes(ax, 5, 4)
        axes.set(xticks=[], yticks=[], xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    else:
        xy, cells = get_coordinates(data, basis)
        xy = _rows_of_states(states, xy, cells, basis)
        finite = np.isfinite(xy).all(axis=1)
        membership = states.membership[finite]
        position = membership.T @ xy[finite] / membership.sum(axis=0)[:, None]
        axes = embedding(data, basis, None, ax, **kwargs)
    top = max(float(states.flux.max()), np.finfo(float).tiny)
    for a, b in zip(*np.nonzero(states.flux > least * top), strict=True):
        style = {
            "arrowstyle": "-|>",
            "lw": 0.5 + 3 * states.flux[a, b] / top,
            "color": "0.2",
            "shrinkA": 9,
            "shrinkB": 9,
        }
        axes.annotate("", position[b], position[a], arrowprops=style, zorder=3)
    size = 80 + 600 * states.mass / states.mass.max()
    axes.scatter(
        position[:, 0],
        position[:, 1],
        s=size,
        c=[_ROLE_COLORS[role] for role in states.roles],
        edgecolor="0.1",
        zorder=4,
    )
    for i, (x, y) in enumerate(position):
        axes.annotate(str(i), (x, y), ha="center", va="center", fontsize="small", zorder=5)
    add_legend(axes, [(role, _ROLE_COLORS[role]) for role in dict.fromkeys(states.roles)])
    return axes


def _rows_of_states(states: MetaStates, xy: NDArray[np.float64], cells: pd.Index, basis: str) -> NDArray[np.float64]:
    """(n, 2) positions of the cells of the states, matched by name where the states have names."""
    n = len(states.membership)
    if states.names is not None:
        table = rows_by_name(pd.DataFrame(xy, index=cells), pd.Index(states.names), f"basis={basis!r}")
        return np.asarray(table)
    if len(xy) != n:
        raise ValueError(f"the states are of {n} cells, but basis={basis!r} has {len(xy)}.")
    return xy


def _draw_cells_behind(data: Data, basis: str, color: str | None, ax: Axes | None, **kwargs: Any) -> Axes:
    """Draw the cells; all light gray if there is no color, so that the paths are visible."""
    axes = embedding(data, basis, color, ax, **kwargs)
    if color is None:
        axes.collections[-1].set_facecolor(_CELL_GRAY)
    return axes


@dataclass(frozen=True)
class _DrawnPaths:
    """Points (n, points, d), number of points (n,) and terminal cluster (n,) of paths, of a model or of ``uns``."""

    x: NDArray[Any]
    length: NDArray[Any]
    terminal: NDArray[Any]


def _get_paths(data: Data, paths: Trajectories | str, use_rep: str) -> _DrawnPaths:
    if not isinstance(paths, str):
        terminal = np.full(len(paths.direction), "end") if paths.terminal is None else paths.terminal
        return _DrawnPaths(paths.paths.x, paths.paths.length, terminal)
    from muport.velocity.velot._stored_results import require_result

    stored = require_result(data, paths, "compute_trajectories or simulate_flow")
    table = stored["metadata"]
    name = "terminal_cluster"
    terminal = table[name].to_numpy().astype(str) if name in table else np.full(len(table), "end")
    return _DrawnPaths(np.asarray(stored[f"paths_{use_rep.removeprefix('X_')}"]), table["length"].to_numpy(), terminal)


def _embed_points(data: Data, points: NDArray[Any], basis: str, use_rep: str) -> NDArray[np.float64]:
    """(n, points, 2) positions in the embedding of points (n, points, d) of the representation."""
    xy, _ = get_coordinates(data, basis)
    if use_rep not in data.obsm:
        raise KeyError(f"use_rep={use_rep!r} is not in obsm, which has {sorted(data.obsm.keys())}.")
    x = np.asarray(data.obsm[use_rep])
    if x.shape[1] != points.shape[2]:
        raise ValueError(f"the paths have {points.shape[2]} coordinates, but use_rep={use_rep!r} has {x.shape[1]}.")
    finite = np.isfinite(xy).all(axis=1) & np.isfinite(x).all(axis=1)
    if not finite.any():
        raise ValueError(f"basis={basis!r}: no cell has a finite position, nothing can be drawn.")
    xy, x = xy[finite], x[finite]
    neighbors = knn(x, min(_N_NEIGHBORS, len(x)), query=points.reshape(-1, points.shape[2]))
    width = np.maximum(neighbors.distances.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    weight = normalize_rows(np.exp(-0.5 * np.square(neighbors.distances / width)))
    embedded: NDArray[np.float64] = np.einsum("nk,nkc->nc", weight, xy[neighbors.indices])
    return embedded.reshape(*points.shape[:2], 2)


def _mean_positions(xy: NDArray[np.float64], windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(w, 2) mean position of the cells of each window (w, k); -1 is no cell, NaN where no position is finite."""
    finite = np.isfinite(xy).all(axis=1)
    valid = ((windows >= 0) & finite[windows])[:, :, None]
    total = (np.where(finite[:, None], xy, 0)[windows] * valid).sum(axis=1)
    count = valid.sum(axis=1)
    mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
