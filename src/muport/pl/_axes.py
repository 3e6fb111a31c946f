"""Axes and legends in the style of the house."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def new_axes(width: float, height: float) -> Axes:
    """Axes of a figure of their own, in inches."""
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def explain(ax: Axes, entries: Sequence[tuple[str, Any]], left: float = 1.01) -> None:
    """Write what the colours mean, beside the axes."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", ls="", ms=6, color=color, label=name) for name, color in entries]
    ax.legend(
        handles=handles, loc="center left", bbox_to_anchor=(left, 0.5), frameon=False, fontsize="small",
        ncols=1 + (len(handles) - 1) // 16, handletextpad=0.2, borderaxespad=0.2,
    )  # fmt: skip
