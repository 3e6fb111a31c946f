"""Fates of groups of cells, and the graph of macrostates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_not_negative
from muport._tables import check_fates, rows_by_name
from muport.data import check_cells
from muport.pl.drawing._axes import add_legend, check_legend_loc, get_axes, hide_frame, widen_by_legends
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import parse_palette, stored_colors
from muport.pl.drawing._panels import draw_panels, split_options
from muport.pl.drawing._values import get_coordinates, get_values

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data
    from muport.velocity import MetaStates

__all__ = ["coarse_graph", "fate_summary"]

_ROLE_COLORS = {
    "initial": "#2a9d8f", "transient": "#bbbbbb", "branching": "#e9c46a", "cycling": "#457b9d", "terminal": "#d1495b",
}  # fmt: skip
_CELL_GRAY = "0.88"  # of cells behind the graph


def fate_summary(
    fates: pd.DataFrame,
    data: Data | None = None,
    groupby: str | None = None,
    ax: Axes | None = None,
    *,
    palette: Any = None,
    legend_loc: str | None = "right margin",
    title: str = "",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
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
    palette
        Colors of the fates: a list, a dict from fate to color, or the name of a colormap. By default those of the
        categories with the names of the fates, such as in ``uns["<groupby>_colors"]``.
    title
        Title of the plot.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes, with one bar for each group of cells.

    Raises
    ------
    KeyError
        If the column does not exist.
    TypeError
        If `fates` is not a DataFrame, or `data` no AnnData or MuData.
    ValueError
        If a column does not hold probabilities, `groupby` is given without `data`, or a cell of `fates` is not in
        `data`; cells are matched by name.

    Examples
    --------
    >>> import muport, pandas as pd
    >>> ax = muport.pl.fate_summary(pd.DataFrame({"A": [0.2, 0.4], "B": [0.8, 0.6]}))
    >>> [round(float(bar.get_width()), 1) for bar in ax.patches]
    [0.3, 0.7]
    """
    output = Output(show, save, return_fig)
    check_legend_loc(legend_loc)
    fates = check_fates(fates, fates.index if isinstance(fates, pd.DataFrame) else pd.Index([]))
    if not fates.index.is_unique:
        raise ValueError(f"fates has several rows for {fates.index[fates.index.duplicated()][0]!r}: keep one of each.")
    if groupby is not None and data is None:
        raise ValueError(f"groupby={groupby!r} needs data: pass the cells that have this column.")
    if data is not None:
        check_cells(data)
    if groupby is None or data is None:
        group = pd.Series("all cells", index=fates.index)
    else:
        absent = fates.index.difference(data.obs_names)
        if len(absent):
            raise ValueError(f"fates: {len(absent)} cells are not in data, for example {absent[0]!r}: pass their data.")
        column = get_values(data, groupby, fates.index, argument="groupby")
        values = column.values
        palette = stored_colors(data, list(fates.columns), column.key) if palette is None else palette
        group = values.astype(object).where(values.notna(), "no value").astype(str)
    means = fates.groupby(group.to_numpy(), sort=True).mean()
    axes = get_axes(ax, 5, 1 + 0.3 * len(means))
    names = list(map(str, means.columns))
    colors = default_palette(len(names)) if palette is None else parse_palette(palette, names, "fates")
    left = np.zeros(len(means))
    for color, name in zip(colors, means.columns, strict=True):
        axes.barh(means.index, means[name], left=left, color=color)
        left += means[name].to_numpy()
    axes.set(title=title, xlabel="mean fate probability", xlim=(0, 1))
    axes.invert_yaxis()
    add_legend(axes, list(zip(names, colors, strict=True)), legend_loc)
    hide_frame(axes)
    if ax is None:
        widen_by_legends(axes.figure, [[axes]])  # type: ignore[arg-type]
    return output.finish(axes)


def coarse_graph(
    states: MetaStates,
    data: Data | None = None,
    basis: str = "X_umap",
    ax: Axes | None = None,
    *,
    groupby: str | None = None,
    least: float = 0.05,
    color: str | None = None,
    legend_loc: str | None = "right margin",
    title: str = "",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
    **kwargs: Any,
) -> Axes | Any:
    """Draw the directed graph of macrostates: size by number of cells, color by role, arrows by net flux.

    Parameters
    ----------
    states
        From ``model.get_states``.
    data
        Cells with an embedding, in which a macrostate is at the mean position of its cells. Without it, the macrostates
        are on a circle.
    basis, ax, show, save, return_fig, kwargs
        As for :func:`trajectories`.
    groupby
        Column of ``data.obs`` after which macrostates are named: the most frequent value of the cells of each. By
        default they have numbers.
    least
        Fraction of the largest flux below which no arrow is drawn.
    color
        Column or gene that colors the cells; gray by default.
    legend_loc
        Where the legend of the roles is, as for :func:`muport.pl.embedding`; None: no legend.
    title
        Title of the plot.

    Returns
    -------
    The axes, with one circle for each macrostate.

    Raises
    ------
    KeyError
        If the basis does not exist.
    ValueError
        If `groupby` is given without `data`, or `data` and the macrostates are not of the same cells. Those of
        ``model.get_states`` are matched by name.
    """
    output = Output(show, save, return_fig)
    check_legend_loc(legend_loc)
    check_not_negative(least=least)
    if not hasattr(states, "flux"):
        raise TypeError(f"states is {type(states).__name__}: pass what model.get_states returned.")
    m = len(states.mass)
    if data is None:
        if groupby is not None:
            raise ValueError(f"groupby={groupby!r} needs data: pass the cells that have this column.")
        angle = 2 * np.pi * np.arange(m) / m
        axes = get_axes(ax, 5, 4)
        axes.set(xticks=[], yticks=[], xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", title=title)
        _draw_graph(axes, states, np.stack([np.cos(angle), np.sin(angle)], axis=1), list(map(str, range(m))), least)
        _explain_roles(axes, states, legend_loc)
        return output.finish(axes)
    style = split_options(kwargs, no_color=_CELL_GRAY, legend_loc=None, title=title)
    xy, cells = get_coordinates(data, basis, style.modality)
    names = list(map(str, range(m))) if groupby is None else _name_states(states, data, groupby, cells)
    xy = _rows_of_states(states, xy, cells, f"basis={basis!r}")
    finite = np.isfinite(xy).all(axis=1)
    membership = states.membership[finite]
    position = membership.T @ xy[finite] / membership.sum(axis=0)[:, None]

    def draw_states(axes: Axes) -> None:
        _draw_graph(axes, states, position, names, least)
        _explain_roles(axes, states, legend_loc)

    return draw_panels(data, basis, color, ax, output, style, draw_states)


def _explain_roles(ax: Axes, states: MetaStates, legend_loc: str | None) -> None:
    add_legend(ax, [(role, _ROLE_COLORS[role]) for role in dict.fromkeys(states.roles)], legend_loc)


def _draw_graph(ax: Axes, states: MetaStates, position: NDArray[np.float64], names: list[str], least: float) -> None:
    """Draw arrows and circles; numbers are written in the circles, names below them."""
    from matplotlib.patheffects import withStroke

    top = max(float(states.flux.max()), np.finfo(float).tiny)
    size = 80 + 600 * states.mass / states.mass.max()
    radius = np.sqrt(size / np.pi) + 1  # points
    for a, b in zip(*np.nonzero(states.flux > least * top), strict=True):
        style = {
            "arrowstyle": "-|>", "lw": 0.5 + 3 * states.flux[a, b] / top, "color": "0.2", "shrinkA": radius[a],
            "shrinkB": radius[b], "mutation_scale": 12, "connectionstyle": "arc3,rad=0.1",
        }  # fmt: skip
        ax.annotate("", position[b], position[a], arrowprops=style, zorder=3)
    colors = [_ROLE_COLORS[role] for role in states.roles]
    ax.scatter(position[:, 0], position[:, 1], s=size, c=colors, edgecolor="0.1", zorder=4)
    for name, point, r in zip(names, position, radius, strict=True):
        below = 0 if name.isdecimal() else -(r + 6)
        ax.annotate(
            name, point, (0, below), textcoords="offset points", ha="center", va="center", fontsize="small", zorder=5,
            path_effects=[] if name.isdecimal() else [withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _name_states(states: MetaStates, data: Data, groupby: str, cells: pd.Index) -> list[str]:
    """Most frequent value of the cells of each macrostate; a number follows where two have the same."""
    column = get_values(data, groupby, cells, argument="groupby").values.astype(object)
    values = pd.Series(_rows_of_states(states, column.to_numpy(), cells, f"groupby={groupby!r}"))
    main = states.membership.argmax(axis=1)
    counts = [values[main == i].dropna().astype(str).value_counts() for i in range(len(states.mass))]
    names = [str(count.index[0]) if len(count) else str(i) for i, count in enumerate(counts)]
    return [f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _rows_of_states(states: MetaStates, values: NDArray[Any], cells: pd.Index, what: str) -> NDArray[Any]:
    """Rows of `values` of the cells of the states, matched by name where the states have names."""
    n = len(states.membership)
    if states.names is not None:
        table = rows_by_name(pd.DataFrame(values, index=cells), pd.Index(states.names), what)
        rows: NDArray[Any] = np.asarray(table)
        return rows[:, 0] if values.ndim == 1 else rows
    if len(values) != n:
        raise ValueError(f"the states are of {n} cells, but {what} has {len(values)}.")
    return values
