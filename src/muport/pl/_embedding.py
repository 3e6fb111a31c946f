"""Scatter pictures of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport.pl._axes import explain, new_axes
from muport.pl._colors import MISSING, palette
from muport.pl._lookup import column, coordinates

if TYPE_CHECKING:
    import anndata
    import mudata
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


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
        Column of ``data.obs``; ``"rna:cell_type"`` is that of a modality, and a plain name that only modalities have is
        gathered from them. Cells are matched by name, and grey where the column has no value. Numbers are drawn on a
        scale, everything else (booleans too) as categories.
    ax
        Axes to draw on; new ones by default.
    size
        Area of a dot in square points; chosen by the number of cells by default.
    title
        Title; `color` by default.
    legend
        Whether to explain the colours, beside the axes.

    Returns
    -------
    The axes. Cells are drawn in a random but always equal order, so that no category hides another.

    Raises
    ------
    KeyError
        If a key is not there; lists those that are.
    ValueError
        If the basis has fewer than two columns.

    Examples
    --------
    >>> import muport
    >>> adata = muport.datasets.pbmc68k_reduced()
    >>> muport.pl.embedding(adata, "X_umap", "cell_type").get_title()
    'cell_type'
    """
    xy, cells = coordinates(data, basis)
    values = None if color is None else column(data, color, cells)
    axes = ax if ax is not None else new_axes(5, 4)
    dot = float(np.clip(8_000 / max(len(xy), 1), 1, 20)) if size is None else size
    if values is not None and pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        _draw_numbers(axes, xy, values, dot, legend)
    else:
        _draw_categories(axes, xy, values, dot, legend)
    axes.set(xticks=[], yticks=[], title=title if title is not None else color or "")
    name = basis.rpartition(":")[2].removeprefix("X_")
    axes.set_xlabel(f"{name} 1", loc="left", fontsize="small")
    axes.set_ylabel(f"{name} 2", loc="bottom", fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw_numbers(ax: Axes, xy: NDArray[np.float64], values: pd.Series, size: float, legend: bool) -> None:
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(numbers)
    _dots(ax, xy[~known], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    dots = ax.scatter(
        xy[order, 0], xy[order, 1], c=numbers[order], s=size, cmap="viridis", linewidths=0, rasterized=True
    )
    if legend and known.any():
        ax.figure.colorbar(dots, ax=ax, shrink=0.6, aspect=15)


def _draw_categories(ax: Axes, xy: NDArray[np.float64], values: pd.Series | None, size: float, legend: bool) -> None:
    if values is None:
        _dots(ax, xy, palette(1)[0], size)
        return
    coded = values.cat.remove_unused_categories() if hasattr(values, "cat") else values.astype("category")
    names, codes = [str(name) for name in coded.cat.categories], coded.cat.codes.to_numpy()
    colors = np.array(palette(len(names))).reshape(-1, 3)
    known = codes >= 0
    _dots(ax, xy[~known], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    _dots(ax, xy[order], colors[codes[order]], size)
    entries: list[tuple[str, Any]] = [*zip(names, colors, strict=True)]
    if not known.all():
        entries.append(("no value", MISSING))
    if legend:
        explain(ax, entries)


def _dots(ax: Axes, xy: NDArray[np.float64], color: Any, size: float) -> None:
    ax.scatter(xy[:, 0], xy[:, 1], color=color, s=size, linewidths=0, rasterized=True)
