"""Expression along a pseudotime or measured days: curves of genes, and a heatmap of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_flags, check_integers, check_numbers
from muport._tables import check_fates
from muport.pl.drawing._axes import add_legend, check_legend_loc, get_axes, hide_frame, widen_by_legends
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import check_cmap, parse_palette, stored_colors
from muport.pl.drawing._values import get_values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._values import Data

__all__ = ["driver_heatmap", "gene_trends"]

_N_POINTS = 100  # of a curve
_MAX_DAYS = 12  # distinct times: more are a pseudotime, over which means are smoothed
_MIN_CELLS = 10  # effective number at a point of a curve: with fewer, no mean is drawn
_PANEL_WIDTH, _PANEL_HEIGHT = 3.0, 2.3  # inches


def gene_trends(
    data: Data,
    genes: str | Sequence[str],
    pseudotime: str = "pseudotime",
    fates: pd.DataFrame | None = None,
    *,
    layer: str | None = None,
    modality: str | None = None,
    bandwidth: float = 0.06,
    palette: Any = None,
    ncols: int = 4,
    legend_loc: str | None = "right margin",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> list[Axes] | Any:
    r"""Draw the mean expression of genes along a pseudotime, with a curve for each fate.

    The mean at time t is :math:`\sum_i w_i(t) x_i / \sum_i w_i(t)` with :math:`w_i(t) = p_i \exp(-(t_i - t)^2 / 2 h^2)`
    (Nadaraya and Watson, 1964), where p is the probability of the fate and h the bandwidth. The band is the standard
    error of this mean. If the cells have 12 different times or fewer, such as measured days, there is a mean of the
    cells of each time, and lines connect the means.

    Parameters
    ----------
    data
        Cells with the pseudotime and the genes.
    genes
        Genes, with one panel each.
    pseudotime
        Column with the time of the cells.
    fates
        Cells by terminal states, from ``model.get_fates``, matched by name; without them all cells count the same.
    layer, modality, palette, ncols, legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`; `palette` has the colors of the fates. By default these are the colors in
        ``uns["<column>_colors"]`` of the categories with the names of the fates.
    bandwidth
        Standard deviation h of the weights, as a fraction of the range of the pseudotime. Not used for measured days.

    Returns
    -------
    A list of axes, one for each gene. A curve ends where fewer than 10 cells count.

    Raises
    ------
    KeyError
        If a gene or the column does not exist.
    ValueError
        If the pseudotime has no range, or `fates` lacks a cell.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> adata.obs["pseudotime"] = range(adata.n_obs)
    >>> [ax.get_title() for ax in muport.pl.gene_trends(adata, ["LYZ", "CD3D"])]
    ['LYZ', 'CD3D']
    """
    output = Output(show, save, return_fig)
    check_numbers(1e-4, 1, bandwidth=bandwidth)
    check_integers(ncols=ncols)
    check_legend_loc(legend_loc)
    names = _list_genes(genes)
    time, values = _read_genes(data, names, pseudotime, layer, modality)
    weights = _fate_weights(data, fates)
    colors = default_palette(len(weights.columns))
    palette = stored_colors(data, list(weights.columns)) if palette is None else palette
    if palette is not None:
        colors = parse_palette(palette, list(weights.columns), "fates")
    days = find_days(time)
    marker = None if days is None else "o"
    figure, panels, grid = _make_panels(len(names), ncols)
    for ax, name, x in zip(panels, names, values.T, strict=True):
        for color, fate in zip(colors, weights.columns, strict=True):
            t, mean, error = average(time, x, weights[fate].to_numpy(dtype=np.float64), bandwidth, days)
            ax.fill_between(t, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
            ax.plot(t, mean, color=color, lw=1.6, marker=marker, ms=4, label=str(fate))
        ax.set(title=name, xlabel=pseudotime, ylabel="expression")
        if days is not None:
            ax.set_xticks(days)
        hide_frame(ax)
    if fates is not None:
        last = panels[min(ncols, len(panels)) - 1]
        add_legend(last, list(zip(map(str, weights.columns), colors, strict=True)), legend_loc)
        widen_by_legends(figure, grid)
    return output.finish(panels)


def driver_heatmap(
    data: Data,
    genes: Sequence[str],
    pseudotime: str = "pseudotime",
    fate: pd.Series | None = None,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    modality: str | None = None,
    bandwidth: float = 0.06,
    cmap: Any = "viridis",
    sort: bool = True,
    title: str = "",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw the mean expression of many genes along a pseudotime, scaled to 0 to 1 for each gene.

    The means are those of :func:`gene_trends`; measured days have a column each.

    Parameters
    ----------
    data, pseudotime, layer, modality, bandwidth
        As for :func:`gene_trends`.
    genes
        Names of genes, such as the first of the column ``"feature"`` of ``model.get_drivers(fates)``.
    fate
        Probability of the fate whose cells count, a column of ``model.get_fates``; by default all cells count the same.
    ax
        Axes to draw on; new ones by default.
    cmap
        Colormap of the scaled expression.
    sort
        Whether genes are sorted by the time of their highest expression, earliest on top.
    title
        Title of the plot; the name of the fate by default.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes, with one row for each gene. White are times near which fewer than 10 cells count.

    Raises
    ------
    KeyError, ValueError
        As :func:`gene_trends`.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> adata.obs["pseudotime"] = range(adata.n_obs)
    >>> muport.pl.driver_heatmap(adata, ["LYZ", "CD3D"]).get_xlabel()
    'pseudotime'
    """
    output = Output(show, save, return_fig)
    check_numbers(1e-4, 1, bandwidth=bandwidth)
    check_flags(sort=sort)
    check_cmap(cmap)
    names = _list_genes(genes)
    time, values = _read_genes(data, names, pseudotime, layer, modality)
    if fate is not None and not isinstance(fate, pd.Series):
        raise TypeError(f"fate is {type(fate).__name__}: pass a column of the DataFrame of get_fates.")
    weight = _fate_weights(data, None if fate is None else fate.to_frame()).iloc[:, 0].to_numpy(dtype=np.float64)
    days = find_days(time)
    means = np.array([average(time, x, weight, bandwidth, days)[1] for x in values.T])
    if np.isnan(means).all(axis=1).any():
        empty = names[int(np.flatnonzero(np.isnan(means).all(axis=1))[0])]
        raise ValueError(f"genes={empty!r}: fewer than {_MIN_CELLS} cells count at any time: pass a larger bandwidth.")
    low, high = np.nanmin(means, axis=1, keepdims=True), np.nanmax(means, axis=1, keepdims=True)
    scaled = (means - low) / np.maximum(high - low, np.finfo(float).tiny)
    order = np.argsort(np.nanargmax(scaled, axis=1), kind="stable") if sort else np.arange(len(names))
    axes = get_axes(ax, 4.5, 1.2 + 0.2 * len(names))
    left, right = (np.nanmin(time), np.nanmax(time)) if days is None else (-0.5, len(days) - 0.5)
    if days is None:
        # times at either end that no cell of the fate reaches
        reached = np.flatnonzero(~np.isnan(scaled).all(axis=0))
        step = (right - left) / scaled.shape[1]
        left, right = left + step * reached[0], left + step * (reached[-1] + 1)
        scaled = scaled[:, reached[0] : reached[-1] + 1]
    image = axes.imshow(
        scaled[order], aspect="auto", cmap=cmap, vmin=0, vmax=1, interpolation="nearest",
        extent=(float(left), float(right), len(names) - 0.5, -0.5),
    )  # fmt: skip
    if days is not None:
        axes.set_xticks(range(len(days)), [f"{day:g}" for day in days])
    axes.set_yticks(range(len(names)), [names[i] for i in order], fontsize="small")
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=pseudotime, title=title or ("" if fate is None else str(fate.name)))
    axes.figure.colorbar(image, ax=axes, shrink=min(1.0, 0.3 + 4 / len(names)), label="expression, scaled", aspect=15)
    return output.finish(axes)


def find_days(time: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the distinct times of a time course of few days, in order; None for a pseudotime."""
    days = np.unique(time[np.isfinite(time)])
    return days if len(days) <= _MAX_DAYS else None


def average(
    time: NDArray[np.float64],
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    bandwidth: float,
    days: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Times (t,), weighted means of x (n,) there, and their standard errors; NaN where too few cells count.

    - `days`: The times, at each of which only its own cells are averaged; None: 100 times, between which means are
      smoothed.
    """
    known = np.isfinite(time) & np.isfinite(x) & np.isfinite(weight)
    if days is None:
        grid = np.linspace(np.nanmin(time), np.nanmax(time), _N_POINTS)
        h = bandwidth * (grid[-1] - grid[0])
        kernel = np.exp(-0.5 * np.square((grid[:, None] - time[known]) / h))
    else:
        grid, kernel = days, (days[:, None] == time[known]).astype(np.float64)
    w = weight[known] * kernel
    total = np.maximum(w.sum(axis=1), np.finfo(float).tiny)
    effective = np.square(total) / np.maximum(np.square(w).sum(axis=1), np.finfo(float).tiny)
    mean = w @ x[known] / total
    variance = np.maximum(w @ np.square(x[known]) / total - np.square(mean), 0)
    # also cells far away count a little: the weight at the point itself decides
    few = (effective < _MIN_CELLS) | (total < _MIN_CELLS / 4)
    mean[few] = np.nan
    error: NDArray[np.float64] = np.sqrt(variance / np.maximum(effective, 1))
    return grid, mean, np.where(few, np.nan, error)


def _list_genes(genes: str | Sequence[str]) -> list[str]:
    if not isinstance(genes, Iterable):
        raise TypeError(f"genes={genes!r} must be the name of a gene, or a list of names.")
    if isinstance(genes, pd.DataFrame):
        raise TypeError('genes is a table: pass its names of genes, such as table["feature"].head(20).')
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        raise ValueError("genes=[] names nothing: pass the names of one or more genes.")
    return names


def _read_genes(
    data: Data, genes: list[str], pseudotime: str, layer: str | None, modality: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time (n,) of the cells, and their values (n, g) of the genes."""
    cells = data.obs_names
    column = get_values(data, pseudotime, cells, modality=modality, argument="pseudotime")
    if not column.is_numeric:
        raise ValueError(f"pseudotime={pseudotime!r} must be numbers, not {column.values.dtype}.")
    time = column.values.to_numpy(dtype=float, na_value=np.nan)
    time = np.where(np.isfinite(time), time, np.nan)
    if not np.isfinite(time).any() or np.nanmin(time) == np.nanmax(time):
        raise ValueError(f"pseudotime={pseudotime!r} has no range: pass a column in which cells have different times.")
    columns = [get_values(data, gene, cells, layer=layer, modality=modality, argument="genes") for gene in genes]
    text = [column.key for column in columns if not column.is_numeric]
    if text:
        raise ValueError(f"genes={text[0]!r} is a column of categories: pass genes or columns of numbers.")
    return time, np.stack([column.values.to_numpy(dtype=float, na_value=np.nan) for column in columns], axis=1)


def _fate_weights(data: Data, fates: pd.DataFrame | None) -> pd.DataFrame:
    if fates is None:
        return pd.DataFrame({"all cells": np.ones(data.n_obs)}, index=data.obs_names)
    return check_fates(fates, data.obs_names)


def _make_panels(n: int, ncols: int) -> tuple[Any, list[Axes], list[list[Axes]]]:
    from matplotlib import pyplot as plt

    columns = min(n, ncols)
    rows = -(-n // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(_PANEL_WIDTH * columns, _PANEL_HEIGHT * rows), layout="constrained", squeeze=False
    )
    for empty in grid.flat[n:]:
        empty.set_axis_off()
    return figure, list(grid.flat[:n]), grid.tolist()
