"""Pictures of where cells go: trajectories, flows, fates, windows and the graph of meta-states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.neighbors import knn
from muport.pl._axes import explain, new_axes
from muport.pl._colors import palette
from muport.pl._embedding import embedding
from muport.pl._lookup import column, coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    import mudata
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.velocity import MetaStates, Trajectories

    type Data = anndata.AnnData | mudata.MuData

__all__ = ["coarse_graph", "fate_summary", "flow", "trajectories", "windows"]

_GROUND = "0.85"
_NEAR = 15  # cells whose places in the picture a point of a path averages
_ROLES = {
    "initial": "#2a9d8f", "transient": "#bbbbbb", "branching": "#e9c46a", "cycling": "#457b9d", "terminal": "#d1495b",
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

    A point of a path is drawn at the mean place of the cells nearest to it in the representation.

    Parameters
    ----------
    data
        Cells with a picture and the representation in which the paths were computed.
    paths
        What ``model.compute_trajectories`` returned, or the key of ``data.uns`` that
        :func:`muport.velocity.compute_trajectories` wrote.
    basis
        Key of ``data.obsm`` with the picture.
    use_rep
        Key of ``data.obsm`` with the representation.
    color
        Column of the cells' colours.
    ax
        Axes to draw on; new ones by default.
    trajectory_ids
        Paths to draw; all by default.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes; a dot marks where a path starts, a star where it ends.

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If an id names no path.
    """
    found = _paths(data, paths, use_rep)
    chosen = np.arange(len(found.x)) if trajectory_ids is None else np.asarray(trajectory_ids)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(found.x)):
        raise ValueError(f"trajectory_ids={list(chosen)} must be ids between 0 and {len(found.x) - 1}.")
    drawn = _placed(data, found.x[chosen], basis, use_rep)
    axes = _ground(data, basis, color, ax, **kwargs)
    for line, n in zip(drawn, found.length[chosen], strict=True):
        axes.plot(*line[:n].T, color="0.1", lw=1.2, alpha=0.8, zorder=3)
    ends = drawn[np.arange(len(drawn)), found.length[chosen] - 1]
    axes.scatter(drawn[:, 0, 0], drawn[:, 0, 1], color="white", edgecolor="0.1", s=25, zorder=4)
    axes.scatter(ends[:, 0], ends[:, 1], color="#d1495b", marker="*", s=60, linewidths=0, zorder=5)
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
    """Draw the particles of a flow, coloured by the cluster they end in, with each cluster's share.

    Parameters
    ----------
    data, basis, use_rep, ax, kwargs
        As for :func:`trajectories`.
    paths
        What ``model.simulate_flow`` returned, or the key of ``data.uns`` that :func:`muport.velocity.simulate_flow`
        wrote.
    legend
        Whether to name the clusters and their shares of the particles.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If a key is not there.
    """
    found = _paths(data, paths, use_rep)
    drawn = _placed(data, found.x, basis, use_rep)
    axes = _ground(data, basis, None, ax, **kwargs)
    names, code = np.unique(found.terminal, return_inverse=True)
    colors = np.array(palette(len(names))).reshape(-1, 3)
    for line, n, c in zip(drawn, found.length, code, strict=True):
        axes.plot(*line[:n].T, color=colors[c], lw=0.7, alpha=0.5, zorder=3)
    if legend and len(names) > 0:
        share = np.bincount(code) / len(code)
        explain(axes, [(f"{name} {part:.0%}", color) for name, color, part in zip(names, colors, share, strict=True)])
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
    The axes.

    Raises
    ------
    KeyError
        If the column is not there.
    ValueError
        If `groupby` is given without `data`.

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
        group = column(data, groupby, fates.index).astype(str)
    means = fates.groupby(group.to_numpy(), sort=True).mean()
    axes = ax if ax is not None else new_axes(5, 1 + 0.3 * len(means))
    left = np.zeros(len(means))
    for color, name in zip(palette(means.shape[1]), means.columns, strict=True):
        axes.barh(means.index, means[name], left=left, color=color)
        left += means[name].to_numpy()
    axes.set(xlabel="mean fate probability", xlim=(0, 1))
    axes.invert_yaxis()
    explain(axes, list(zip(map(str, means.columns), palette(means.shape[1]), strict=True)))
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def windows(
    data: Data, basis: str = "X_umap", key: str = "velot_windows", ax: Axes | None = None, **kwargs: Any
) -> Axes:
    """Draw the windows between which cells were transported: their cells, and an arrow for each pair.

    Parameters
    ----------
    data
        Cells with the windows of :func:`muport.velocity.build_windows`.
    basis
        Key of ``data.obsm`` with the picture.
    key
        Key of ``data.uns`` with the windows.
    ax
        Axes to draw on; new ones by default.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes. Colours are the time bins or regions; an arrow leads from the mean place of a window's cells to that of
    the later one's.

    Raises
    ------
    KeyError
        If a key is not there.
    """
    if key not in data.uns:
        raise KeyError(f"key={key!r} is not in uns: call muport.velocity.build_windows first.")
    stored = data.uns[key]
    xy, _ = coordinates(data, basis)
    later = np.asarray(stored["direction"]) > 0
    start, end = (_centres(xy, np.asarray(stored[name])[later]) for name in ("source", "target"))
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
    """Draw the directed graph of meta-states: size by cells, colour by role, arrows by net flux.

    Parameters
    ----------
    states
        From ``model.get_states``.
    data
        Cells with a picture: states lie at the mean place of their cells. Without it, they lie on a circle.
    basis
        Key of ``data.obsm`` with the picture.
    ax
        Axes to draw on; new ones by default.
    least
        Share of the largest flux below which no arrow is drawn.
    kwargs
        Passed to :func:`muport.pl.embedding`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        If the basis is not there.
    ValueError
        If `data` are other cells than those of the states.
    """
    m = len(states.mass)
    if data is None:
        angle = 2 * np.pi * np.arange(m) / m
        place = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        axes = ax if ax is not None else new_axes(5, 4)
        axes.set(xticks=[], yticks=[], xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
    else:
        xy, _ = coordinates(data, basis)
        if len(xy) != len(states.membership):
            raise ValueError(f"the states are of {len(states.membership)} cells, but basis={basis!r} has {len(xy)}.")
        place = states.membership.T @ xy / states.membership.sum(axis=0)[:, None]
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
        axes.annotate("", place[b], place[a], arrowprops=style, zorder=3)
    size = 80 + 600 * states.mass / states.mass.max()
    axes.scatter(place[:, 0], place[:, 1], s=size, c=[_ROLES[role] for role in states.roles], edgecolor="0.1", zorder=4)
    for i, (x, y) in enumerate(place):
        axes.annotate(str(i), (x, y), ha="center", va="center", fontsize="small", zorder=5)
    explain(axes, [(role, _ROLES[role]) for role in dict.fromkeys(states.roles)])
    return axes


def _ground(data: Data, basis: str, color: str | None, ax: Axes | None, **kwargs: Any) -> Axes:
    """The cells, grey where they have no colour, so that the paths are seen."""
    axes = embedding(data, basis, color, ax, **kwargs)
    if color is None:
        axes.collections[-1].set_facecolor(_GROUND)
    return axes


class _Drawable:
    """Points, lengths and ends of paths, whichever way they came."""

    def __init__(self, x: NDArray[Any], length: NDArray[Any], terminal: NDArray[Any]) -> None:
        self.x, self.length, self.terminal = x, length, terminal


def _paths(data: Data, paths: Trajectories | str, use_rep: str) -> _Drawable:
    if not isinstance(paths, str):
        none = np.full(len(paths.direction), "end")
        return _Drawable(paths.paths.x, paths.paths.length, none if paths.terminal is None else paths.terminal)
    if paths not in data.uns:
        raise KeyError(
            f"uns[{paths!r}] is not there: call muport.velocity.compute_trajectories or simulate_flow first."
        )
    stored = data.uns[paths]
    table = stored["metadata"]
    name = "terminal_cluster"
    terminal = table[name].to_numpy().astype(str) if name in table else np.full(len(table), "end")
    return _Drawable(np.asarray(stored[f"paths_{use_rep.removeprefix('X_')}"]), table["length"].to_numpy(), terminal)


def _placed(data: Data, points: NDArray[Any], basis: str, use_rep: str) -> NDArray[np.float64]:
    """(n, points, 2) places in the picture of points (n, points, d) of the representation."""
    xy, _ = coordinates(data, basis)
    if use_rep not in data.obsm:
        raise KeyError(f"use_rep={use_rep!r} is not in obsm, which has {sorted(data.obsm.keys())}.")
    known = np.asarray(data.obsm[use_rep])
    if known.shape[1] != points.shape[2]:
        raise ValueError(f"the paths have {points.shape[2]} coordinates, but use_rep={use_rep!r} has {known.shape[1]}.")
    found = knn(known, min(_NEAR, len(known)), query=points.reshape(-1, points.shape[2]))
    width = np.maximum(found.distances.mean(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    weight = np.exp(-0.5 * np.square(found.distances / width))
    weight /= weight.sum(axis=1, keepdims=True)
    placed: NDArray[np.float64] = np.einsum("nk,nkc->nc", weight, xy[found.indices])
    return placed.reshape(*points.shape[:2], 2)


def _centres(xy: NDArray[np.float64], table: NDArray[np.int64]) -> NDArray[np.float64]:
    valid = (table >= 0)[:, :, None]
    centres: NDArray[np.float64] = (xy[table] * valid).sum(axis=1) / valid.sum(axis=1)
    return centres
