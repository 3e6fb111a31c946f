"""Scatter plots of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from muport.pl._axes import add_legend, default_size, draw_dots, get_axes, hide_frame
from muport.pl._colors import MISSING, color_categories, palette
from muport.pl._obs_and_obsm import get_column, get_coordinates

if TYPE_CHECKING:
    import anndata
    import mudata
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


#: Axis titles of the keys of ``obsm`` that scanpy names in the same way; other keys are titled by themselves.
_AXIS_NAMES = {"umap": "UMAP", "tsne": "tSNE", "pca": "PC", "diffmap": "DC"}


def embedding(
    data: anndata.AnnData | mudata.MuData,
    basis: str,
    color: str | None = None,
    ax: Axes | None = None,
    *,
    size: float | None = None,
    title: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draw cells in two dimensions.

    Parameters
    ----------
    data
        The cells.
    basis
        Key of ``data.obsm``; ``"rna:X_umap"`` is that of a modality. The first two columns are drawn.
    color
        Column of ``data.obs``; ``"rna:cell_type"`` is that of a modality, and a name without prefix that only
        modalities have is gathered from them. Cells are matched by name, and gray where the column has no value.
        Numbers are drawn on a color scale, everything else (booleans too) as categories.
    ax
        Axes to draw on; new ones by default.
    size
        Area of a dot in square points; by default it decreases with the number of cells.
    title
        Title; `color` by default.
    legend
        Whether to draw a legend or color bar beside the axes.

    Returns
    -------
    The axes. Cells are drawn in a random order with a fixed seed, so that no category hides another.

    Raises
    ------
    KeyError
        If a key does not exist; the message lists those that do.
    ValueError
        If the basis has fewer than two columns.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> muport.pl.embedding(adata, "X_umap", "cell_type").get_title()
    'cell_type'
    """
    xy, cells = get_coordinates(data, basis)
    values = None if color is None else get_column(data, color, cells)
    axes = get_axes(ax, 5, 4)
    dot = default_size(len(xy)) if size is None else size
    if values is None:
        draw_dots(axes, xy, palette(1)[0], dot)
    elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        _draw_numbers(axes, xy, values.to_numpy(dtype=float, na_value=np.nan), dot, legend)
    else:
        _draw_categories(axes, xy, values, dot, legend)
    axes.set(xticks=[], yticks=[], title=title if title is not None else color or "")
    name = basis.rpartition(":")[2].removeprefix("X_")
    name = _AXIS_NAMES.get(name, name)
    axes.set_xlabel(f"{name}1", loc="left", fontsize="small")
    axes.set_ylabel(f"{name}2", loc="bottom", fontsize="small")
    hide_frame(axes)
    return axes


def _draw_numbers(ax: Axes, xy: NDArray[np.float64], values: NDArray[np.float64], size: float, legend: bool) -> None:
    known = np.isfinite(values)
    draw_dots(ax, xy[~known], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    dots = ax.scatter(
        xy[order, 0], xy[order, 1], c=values[order], s=size, cmap="viridis", linewidths=0, rasterized=True
    )
    if legend and known.any():
        ax.figure.colorbar(dots, ax=ax, shrink=0.6, aspect=15)


def _draw_categories(ax: Axes, xy: NDArray[np.float64], values: pd.Series, size: float, legend: bool) -> None:
    categories = color_categories(values)
    draw_dots(ax, xy[categories.missing], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(~categories.missing))
    draw_dots(ax, xy[order], categories.colors[order], size)
    if legend:
        add_legend(ax, categories.legend)
