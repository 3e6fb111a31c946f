"""Axes, dots and legends in one style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["add_legend", "default_size", "draw_dots", "get_axes", "hide_frame"]

_ROWS_PER_COLUMN = 16  # of a legend
_TOTAL_AREA = 8_000  # square points of all dots together
_MIN_AREA, _MAX_AREA = 1, 20  # square points of one dot


def get_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure of this size in inches."""
    if ax is not None:
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


def add_legend(ax: Axes, entries: Sequence[tuple[str, Any]], left: float = 1.01) -> None:
    """Add a legend of (name, color) beside the axes, `left` of their widths from the left edge."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", ls="", ms=6, color=color, label=name) for name, color in entries]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(left, 0.5), frameon=False, fontsize="small",
        ncols=1 + (len(handles) - 1) // _ROWS_PER_COLUMN, handletextpad=0.2, borderaxespad=0.2,
    )  # fmt: skip
