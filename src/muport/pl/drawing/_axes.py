"""Axes, dots and legends in one style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muport._checks import check_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["add_legend", "check_legend_loc", "default_size", "draw_dots", "get_axes", "hide_frame", "widen_by_legends"]

_ROWS_PER_COLUMN = 16  # of a legend
_TOTAL_AREA = 8_000  # square points of all dots together
_MIN_AREA, _MAX_AREA = 1, 20  # square points of one dot
_BESIDE = ("right margin", "best", "upper right", "upper left", "lower left", "lower right", "right", "center left",
           "center right", "lower center", "upper center", "center")  # fmt: skip


def get_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of this size in inches."""
    if ax is not None:
        if not hasattr(ax, "scatter"):
            raise TypeError(f"ax is {type(ax).__name__}: pass the axes of matplotlib, or None for new ones.")
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def hide_frame(ax: Axes) -> None:
    """Hide the upper and the right edge of the frame."""
    ax.spines[["top", "right"]].set_visible(False)


def draw_dots(ax: Axes, xy: NDArray[np.float64], color: Any, size: float | None = None) -> None:
    """Draw points (n, 2) as dots of `size` square points; by default the size decreases with the number of points."""
    size = default_size(len(xy)) if size is None else size
    ax.scatter(xy[:, 0], xy[:, 1], color=color, s=size, linewidths=0, rasterized=True)


def default_size(n: int) -> float:
    """Area of each of n dots, in square points."""
    return float(np.clip(_TOTAL_AREA / max(n, 1), _MIN_AREA, _MAX_AREA))


def check_legend_loc(legend_loc: str | None, *, on_data: bool = False) -> None:
    """ValueError if a legend cannot be there; ``None`` and ``"none"`` are no legend."""
    names = (*_BESIDE, "none", *(("on data",) if on_data else ()))
    if legend_loc is not None:
        check_option("legend_loc", legend_loc, names)


def add_legend(
    ax: Axes, entries: Sequence[tuple[str, Any]], legend_loc: str | None = "right margin", *, left: float = 1.01
) -> None:
    """Add a legend of (name, color): beside the axes, `left` of their widths from the left edge, or within them."""
    if legend_loc in {None, "none"} or not entries:
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", ls="", ms=6, color=color, label=name) for name, color in entries]
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (left, 0.5)}
    ax.legend(
        handles=handles, **(beside if legend_loc == "right margin" else {"loc": legend_loc}), frameon=False,
        fontsize="small", ncols=1 + (len(handles) - 1) // _ROWS_PER_COLUMN, handletextpad=0.2, borderaxespad=0.2,
        columnspacing=1.0,
    )  # fmt: skip


def widen_by_legends(figure: Figure, rows: Sequence[Sequence[Axes]]) -> None:
    """Widen a new figure by the legends beside its axes, so that they neither narrow the axes nor are cut off."""
    extra = 0.0
    for column in zip(*rows, strict=True):
        widths = [0.0]
        for ax in column:
            legend = ax.get_legend()
            if legend is not None:
                box = legend.get_window_extent()
                widths.append(max(0.0, box.x1 - ax.get_window_extent().x1) if box.x0 >= ax.bbox.x1 - 1 else 0.0)
        extra += max(widths)
    if extra:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width + extra / figure.dpi, height)
