"""One panel of cells for each color, and what is drawn over the cells."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_flags, check_integers, check_positive
from muport.pl.drawing._axes import (
    add_legend,
    check_legend_loc,
    default_size,
    draw_dots,
    get_axes,
    hide_frame,
    widen_by_legends,
)
from muport.pl.drawing._colors import MISSING, CategoryColors, color_categories
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._names_beside_dots import separate_names
from muport.pl.drawing._palettes import check_cmap, choose_shades
from muport.pl.drawing._values import get_coordinates, get_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from muport.pl.drawing._finished_figure import Output
    from muport.pl.drawing._values import Column, Data

__all__ = ["CellStyle", "Positions", "draw_panels", "split_options"]

#: Axis titles of the keys of ``obsm`` that begin so, as scanpy names them; other keys are titled by themselves.
_AXIS_NAMES = {"umap": "UMAP", "tsne": "tSNE", "pca": "PC", "diffmap": "DC"}
_WIDTH, _HEIGHT = 4.2, 4.0  # inches of a panel
_MAX_NAMES_ON_DATA = 20  # categories with names of normal size; those of more are smaller


@dataclass(frozen=True, kw_only=True)
class CellStyle:
    """How cells are drawn; the options of :func:`muport.pl.embedding`, which describes them."""

    layer: str | None = None
    modality: str | None = None
    palette: Any = None
    cmap: Any = "viridis"
    vmin: float | str | None = None
    vmax: float | str | None = None
    sort_order: bool = True
    size: float | None = None
    legend_loc: str | None = "right margin"
    title: str | Sequence[str] | None = None
    ncols: int = 4
    no_color: Any = None  # color of the cells if there is nothing to color them by

    def __post_init__(self) -> None:
        check_flags(sort_order=self.sort_order)
        check_integers(ncols=self.ncols)
        check_legend_loc(self.legend_loc, on_data=True)
        if self.size is not None:
            check_positive(size=self.size)
        check_cmap(self.cmap)
        for name in ("vmin", "vmax"):
            _check_limit(name, getattr(self, name))

    def titles(self, colors: Sequence[str | None]) -> list[str]:
        """Title of each panel: that of the user, or the color."""
        if self.title is None:
            return ["" if color is None else color for color in colors]
        titles = [self.title] if isinstance(self.title, str) else list(self.title)
        if len(titles) != len(colors):
            raise ValueError(f"title has {len(titles)} entries for {len(colors)} panels: pass one for each.")
        return titles


def split_options(options: Mapping[str, Any], **defaults: Any) -> CellStyle:
    """Return the style that a function's further arguments give. TypeError names an unknown one."""
    known = [field.name for field in fields(CellStyle) if field.name != "no_color"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]}={options[unknown[0]]!r} is not an option of this plot; there are {known}.")
    return CellStyle(**{**defaults, **options})


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions `xy` (n, 2) of `cells` that are not in ``obsm``."""

    xy: NDArray[np.float64]
    cells: pd.Index


def draw_panels(
    data: Data,
    basis: str | Positions,
    color: str | Sequence[str] | None,
    ax: Axes | None,
    output: Output,
    style: CellStyle,
    overlay: Callable[[Axes], None] | None = None,
) -> Any:
    """Draw the cells once for each color, with the overlay above them; return the axes, or a list of them."""
    colors: list[str | None] = [color] if color is None or isinstance(color, str) else list(color)
    if not colors:
        raise ValueError("color=[] names nothing: pass a column of obs or a gene, or None.")
    if ax is not None and len(colors) > 1:
        raise ValueError(f"ax is one panel, but color has {len(colors)} entries: pass one color for each axes.")
    if isinstance(basis, Positions):
        xy, cells = basis.xy, basis.cells
    else:
        xy, cells = get_coordinates(data, basis, style.modality)
    # everything is read before a figure is made, so that a wrong name leaves none behind
    columns = [
        None if name is None else get_values(data, name, cells, layer=style.layer, modality=style.modality)
        for name in colors
    ]
    titles = style.titles(colors)
    shades = [choose_shades(column, style.palette) if column and not column.is_numeric else None for column in columns]
    rows, panels = _make_panels(ax, len(colors), style.ncols)
    for panel, column, shade, title in zip(panels, columns, shades, titles, strict=True):
        _draw_cells(panel, xy, column, shade, style)
        if overlay is not None:
            overlay(panel)
        panel.set(xticks=[], yticks=[], title=title)
        if isinstance(basis, str):
            _name_axes(panel, basis)
    if ax is None:
        widen_by_legends(panels[0].figure, rows)  # type: ignore[arg-type]
    return output.finish(panels[0] if len(panels) == 1 else panels)


def _make_panels(ax: Axes | None, n: int, ncols: int) -> tuple[list[list[Axes]], list[Axes]]:
    if n == 1:
        axes = get_axes(ax, _WIDTH, _HEIGHT)
        return [[axes]], [axes]
    from matplotlib import pyplot as plt

    width = min(n, ncols)
    height = -(-n // width)
    figure, grid = plt.subplots(
        height, width, figsize=(_WIDTH * width, _HEIGHT * height), layout="constrained", squeeze=False
    )
    for empty in grid.flat[n:]:
        empty.set_axis_off()
    return grid.tolist(), list(grid.flat[:n])


def _name_axes(ax: Axes, basis: str) -> None:
    name = basis.rpartition(":")[2].removeprefix("X_")
    name = _AXIS_NAMES.get(name.partition("_")[0], name)
    ax.set_xlabel(f"{name}1", loc="left", fontsize="small")
    ax.set_ylabel(f"{name}2", loc="bottom", fontsize="small")
    hide_frame(ax)


def _draw_cells(
    ax: Axes, xy: NDArray[np.float64], column: Column | None, shades: list[Any] | None, style: CellStyle
) -> None:
    size = default_size(len(xy)) if style.size is None else style.size
    if column is None:
        draw_dots(ax, xy, default_palette(1)[0] if style.no_color is None else style.no_color, size)
    elif shades is None:
        _draw_numbers(ax, xy, column.values, size, style)
    else:
        _draw_categories(ax, xy, color_categories(column.values, shades), column.values, size, style)


def _draw_numbers(ax: Axes, xy: NDArray[np.float64], column: pd.Series, size: float, style: CellStyle) -> None:
    values = column.to_numpy(dtype=float, na_value=np.nan)
    known = np.isfinite(values)
    draw_dots(ax, xy[~known], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    if style.sort_order:
        order = order[np.argsort(values[order], kind="stable")]
    vmin, vmax = (_resolve_limit(limit, values[known]) for limit in (style.vmin, style.vmax))
    dots = ax.scatter(
        xy[order, 0], xy[order, 1], c=values[order], s=size, cmap=style.cmap, vmin=vmin, vmax=vmax, linewidths=0,
        rasterized=True,
    )  # fmt: skip
    if style.legend_loc not in {None, "none"} and known.any():
        bar = ax.figure.colorbar(dots, ax=ax, shrink=0.6, aspect=15)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize="small")


def _draw_categories(
    ax: Axes,
    xy: NDArray[np.float64],
    categories: CategoryColors,
    values: pd.Series,
    size: float,
    style: CellStyle,
) -> None:
    draw_dots(ax, xy[categories.missing], MISSING, size)
    order = np.random.default_rng(0).permutation(np.flatnonzero(~categories.missing))
    draw_dots(ax, xy[order], categories.colors[order], size)
    if style.legend_loc == "on data":
        _write_names(ax, xy, values)
    else:
        add_legend(ax, categories.legend, style.legend_loc)


def _write_names(ax: Axes, xy: NDArray[np.float64], values: pd.Series) -> None:
    """Write the name of each category at the median position of its cells."""
    from matplotlib.patheffects import withStroke

    text = values.astype(object).map(str, na_action="ignore").to_numpy()
    finite = np.isfinite(xy).all(axis=1)
    names = values.astype(object)[finite].dropna().map(str).unique()
    fontsize = "x-small" if len(names) <= _MAX_NAMES_ON_DATA else "xx-small"
    centers = np.array([np.median(xy[finite & (text == name)], axis=0) for name in names])
    texts = [
        ax.annotate(
            name, center, (0, 0), textcoords="offset pixels", ha="center", va="center", fontsize=fontsize,
            weight="bold", zorder=6, path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        for name, center in zip(names, centers, strict=True)
    ]  # fmt: skip
    separate_names(ax, texts)


def _check_limit(name: str, limit: float | str | None) -> None:
    if limit is None or (isinstance(limit, int | float) and not isinstance(limit, bool) and np.isfinite(limit)):
        return
    text = str(limit).removeprefix("p")
    try:
        valid = isinstance(limit, str) and limit.startswith("p") and 0 <= float(text) <= 100
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{name}={limit!r} must be a number, or a percentile such as 'p99'.")


def _resolve_limit(limit: float | str | None, values: NDArray[np.float64]) -> float | None:
    if isinstance(limit, str):
        return float(np.percentile(values, float(limit[1:]))) if len(values) else None
    return limit
