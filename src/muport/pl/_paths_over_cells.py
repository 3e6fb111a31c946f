"""Trajectories, flows and windows of the transport, drawn over the cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from muport.pl.drawing._axes import add_legend, check_legend_loc
from muport.pl.drawing._colors import color_categories
from muport.pl.drawing._embedded_paths import embed_paths
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import parse_palette, stored_colors
from muport.pl.drawing._panels import draw_panels, split_options
from muport.pl.drawing._places_with_cells import PlacesWithCells
from muport.pl.drawing._smooth_lines import smooth_line
from muport.pl.drawing._values import as_numbers, get_coordinates, get_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data
    from muport.velocity import Trajectories

__all__ = ["flow", "trajectories", "windows"]

_CELL_GRAY = "0.85"  # of cells behind paths
_N_GRID = 60  # a gap between cells is wider than the range of the embedding divided by this
_MAX_LINES = 50  # of a flow: more cover each other
_END_COLOR = "#d1495b"
_WINDOW = "velot_spatial_cluster"  # column with the time bin or region of each cell


def trajectories(
    data: Data,
    paths: Trajectories | str = "velot_trajectories",
    basis: str = "X_umap",
    use_rep: str = "X_pca",
    color: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    trajectory_ids: Sequence[int] | None = None,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw paths over the cells.

    A point of a path is drawn at the mean position of cells near it in the representation. Where these lie in several
    places of the embedding, those near the rest of the path are taken. A line is interrupted where it would cross a gap
    between the cells.

    Parameters
    ----------
    data
        Cells with an embedding and the representation in which the paths were computed.
    paths
        What ``model.compute_trajectories`` returned, or the key of ``data.uns`` that
        :func:`muport.velocity.compute_trajectories` wrote.
    basis
        Key of ``data.obsm`` with the embedding, as in :func:`muport.pl.embedding`.
    use_rep
        Key of ``data.obsm`` with the representation.
    color
        Column or gene that colors the cells, or a list of these; gray by default.
    ax
        Axes to draw on; new ones by default.
    trajectory_ids
        Paths to draw; all by default.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.
    kwargs
        Other options of :func:`muport.pl.embedding`: `layer`, `modality`, `palette`, `cmap`, `vmin`, `vmax`,
        `sort_order`, `size`, `legend_loc`, `title` and `ncols`.

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
    output, style = Output(show, save, return_fig), split_options(kwargs, no_color=_CELL_GRAY)
    drawn = _get_paths(data, paths, use_rep)
    ids = np.arange(len(drawn.x)) if trajectory_ids is None else np.asarray(trajectory_ids)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= len(drawn.x):
        raise ValueError(f"trajectory_ids={trajectory_ids!r} must be one or more ids between 0 and {len(drawn.x) - 1}.")
    lines = _draw_lines(data, drawn.select(ids), basis, use_rep, style.modality)
    starts, ends = (np.array([line[i] for line in lines]).reshape(-1, 2) for i in (0, -1))

    def draw_paths(axes: Axes) -> None:
        for line in lines:
            axes.plot(*line.T, color="0.1", lw=1.2, alpha=0.8, zorder=3)
        axes.scatter(starts[:, 0], starts[:, 1], color="white", edgecolor="0.1", s=25, zorder=4)
        axes.scatter(ends[:, 0], ends[:, 1], color=_END_COLOR, marker="*", s=60, linewidths=0, zorder=5)

    return draw_panels(data, basis, color, ax, output, style, draw_paths)


def flow(
    data: Data,
    paths: Trajectories | str = "velot_flow",
    basis: str = "X_umap",
    use_rep: str = "X_pca",
    ax: Axes | None = None,
    *,
    palette: Any = None,
    legend_loc: str | None = "right margin",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the particles of a flow, colored by the cluster in which they end, with the fraction of each cluster.

    At most 50 lines are drawn, of each cluster in its fraction; dots and fractions are those of all particles.

    Parameters
    ----------
    data, basis, use_rep, ax, show, save, return_fig, kwargs
        As for :func:`trajectories`.
    paths
        What ``model.simulate_flow`` returned, or the key of ``data.uns`` that :func:`muport.velocity.simulate_flow`
        wrote.
    palette
        Colors of the clusters: a list, a dict from cluster to color, or the name of a colormap. By default those of the
        categories with the names of the clusters in ``uns["<column>_colors"]``.
    legend_loc
        Where the legend with the clusters and their fractions of the particles is, as for :func:`muport.pl.embedding`;
        None: no legend.

    Returns
    -------
    The axes, with lines, and a dot where each particle ends.

    Raises
    ------
    KeyError
        If a key does not exist.
    """
    output, style = Output(show, save, return_fig), split_options(kwargs, no_color=_CELL_GRAY)
    check_legend_loc(legend_loc)
    drawn = _get_paths(data, paths, use_rep)
    lines = _draw_lines(data, drawn, basis, use_rep, style.modality)
    names = np.unique(drawn.terminal)
    palette = stored_colors(data, names.tolist()) if palette is None else palette
    shades = None if palette is None else parse_palette(palette, names.tolist(), "terminal cluster")
    categories = color_categories(drawn.terminal, shades)
    ends = np.array([line[-1] for line in lines]).reshape(-1, 2)

    def draw_particles(axes: Axes) -> None:
        for i in _choose_lines(drawn.terminal):
            axes.plot(*lines[i].T, color=categories.colors[i], lw=0.8, alpha=0.5, zorder=3)
        axes.scatter(ends[:, 0], ends[:, 1], c=categories.colors, s=9, linewidths=0, zorder=4)
        fractions = [
            (f"{name} {_percent(np.mean(drawn.terminal == name))}", color) for name, color in categories.legend
        ]
        add_legend(axes, fractions, legend_loc)

    return draw_panels(data, basis, None, ax, output, style, draw_particles)


def windows(
    data: Data,
    basis: str = "X_umap",
    key: str = "velot_windows",
    ax: Axes | None = None,
    *,
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the windows between which cells were transported, with an arrow for each pair of windows.

    Parameters
    ----------
    data
        Cells with the windows of :func:`muport.velocity.build_windows`.
    basis, ax, show, save, return_fig, kwargs
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

    output, style = Output(show, save, return_fig), split_options(kwargs, legend_loc=None, title="windows")
    windows = require_result(data, key, "build_windows")
    xy, cells = get_coordinates(data, basis, style.modality)
    stored, _ = unpack_windows(windows, cells)
    later = stored.direction > 0
    start, end = (_mean_positions(xy, of_windows[later]) for of_windows in (stored.source, stored.target))

    def draw_arrows(axes: Axes) -> None:
        axes.quiver(
            *start.T, *(end - start).T, angles="xy", scale_units="xy", scale=1, width=0.005, color=_END_COLOR, zorder=3
        )

    if style.palette is None and f"{_WINDOW}_colors" not in data.uns:  # windows of time have an order
        style = replace(style, palette="viridis")
    return draw_panels(data, basis, _WINDOW, ax, output, style, draw_arrows)


@dataclass(frozen=True)
class _DrawnPaths:
    """Points (n, points, d), number of points (n,) and terminal cluster (n,) of paths, of a model or of ``uns``."""

    x: NDArray[Any]
    length: NDArray[Any]
    terminal: NDArray[Any]

    def select(self, ids: NDArray[np.int64]) -> _DrawnPaths:
        return _DrawnPaths(self.x[ids], self.length[ids], self.terminal[ids])


def _get_paths(data: Data, paths: Trajectories | str, use_rep: str) -> _DrawnPaths:
    if not isinstance(paths, str):
        if not hasattr(paths, "terminal"):
            raise TypeError(
                f"paths is {type(paths).__name__}: pass a key of uns, or what compute_trajectories returned."
            )
        terminal = np.full(len(paths.direction), "end") if paths.terminal is None else paths.terminal
        return _DrawnPaths(paths.paths.x, paths.paths.length, terminal)
    from muport.velocity.velot._stored_results import require_result

    stored = require_result(data, paths, "compute_trajectories or simulate_flow")
    table = stored["metadata"]
    name = "terminal_cluster"
    terminal = table[name].to_numpy().astype(str) if name in table else np.full(len(table), "end")
    return _DrawnPaths(np.asarray(stored[f"paths_{use_rep.removeprefix('X_')}"]), table["length"].to_numpy(), terminal)


def _draw_lines(
    data: Data, paths: _DrawnPaths, basis: str, use_rep: str, modality: str | None
) -> list[NDArray[np.float64]]:
    """(m, 2) positions in the embedding along each path, with NaN where it would cross a gap between the cells."""
    xy, cells = get_coordinates(data, basis, modality)
    values, cells_of_rep = get_matrix(data, use_rep, modality, "use_rep")
    if not cells_of_rep.equals(cells):
        raise ValueError(f"use_rep={use_rep!r} is of other cells than basis={basis!r}.")
    x = as_numbers(values, f"use_rep={use_rep!r}")
    if x.shape[1] != paths.x.shape[2]:
        raise ValueError(f"the paths have {paths.x.shape[2]} coordinates, but use_rep={use_rep!r} has {x.shape[1]}.")
    finite = np.isfinite(xy).all(axis=1) & np.isfinite(x).all(axis=1)
    if not finite.any():
        raise ValueError(f"basis={basis!r}: no cell has a finite position, nothing can be drawn.")
    xy, x = xy[finite], x[finite]
    places = PlacesWithCells.of(xy, float(np.ptp(xy, axis=0).mean()) / _N_GRID)
    positions = embed_paths(x, xy, paths.x, paths.length, places.limit)
    return [smooth_line(places.interrupt(line[:n])) for line, n in zip(positions, paths.length, strict=True)]


def _choose_lines(terminal: NDArray[Any]) -> list[int]:
    """Return the paths of a flow that are drawn, of each terminal cluster in its fraction and of rare ones last."""
    keep = min(1.0, _MAX_LINES / max(len(terminal), 1))
    names, counts = np.unique(terminal, return_counts=True)
    chosen: list[int] = []
    for name, count in sorted(zip(names, counts, strict=True), key=lambda pair: -pair[1]):
        members = np.flatnonzero(terminal == name)
        chosen += members[: max(1, round(keep * count))].tolist()
    return chosen


def _percent(fraction: float) -> str:
    return "<1%" if 0 < fraction < 0.01 else f"{fraction:.0%}"


def _mean_positions(xy: NDArray[np.float64], windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(w, 2) mean position of the cells of each window (w, k); -1 is no cell, NaN where no position is finite."""
    finite = np.isfinite(xy).all(axis=1)
    valid = ((windows >= 0) & finite[windows])[:, :, None]
    total = (np.where(finite[:, None], xy, 0)[windows] * valid).sum(axis=1)
    count = valid.sum(axis=1)
    mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
