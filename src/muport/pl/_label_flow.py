"""Sankey diagram of labels, such as transferred ones, and of transitions between days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from muport._checks import check_numbers
from muport._keys import UNLABELED_CATEGORY
from muport._tables import rows_in_one_order
from muport.metrics._label_transfer_scores import matched_labels
from muport.pl.drawing._axes import get_axes
from muport.pl.drawing._colors import color_categories
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._palettes import parse_palette

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

__all__ = ["sankey"]

_GAP = 0.015  # between two labels, as a fraction of the height
_BAR = 0.03  # width of a bar, as a fraction of the distance between the two sides
_TOP = 1.08  # of the axes, where bars end at 1: the titles of the sides are above
_LINE_HEIGHT = 0.13  # inches of a name
_FEWEST = 0.5  # cells of a label in a table of transitions
_NO_VALUE = "no value"
_NOT_KNOWN = "0.6"  # gray of labels that are not known


def sankey(
    source: Any,
    target: Any = None,
    ax: Axes | None = None,
    *,
    palette: Any = None,
    least: float = 0.0,
    names: tuple[str, str] | None = None,
    title: str = "",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw which labels cells have on the left and on the right, with a band for each pair as wide as its cells.

    Also draws the transitions between two measured days, from the table of ``model.get_transition_table``.

    Parameters
    ----------
    source, target
        (n,) labels on the left and on the right, such as true and predicted types; two Series are matched by cell
        name. A missing label is ``"no value"``. Or, without `target`, a DataFrame of transitions with the columns
        ``"source"``, ``"target"``, ``"n_source"`` (cells of the source) and ``"fraction"`` (of these that reach the
        target). Targets of less than half a cell are not drawn.
    ax
        Axes to draw on; new ones by default.
    palette
        Colors of the labels: a list, a dict from label to color, or the name of a colormap. A label has the same color
        on both sides.
    least
        Fraction of the cells of a label on the left below which no band is drawn.
    names
        Titles of the two sides; by default true and predicted type, or earlier and later type of transitions.
    title
        Title of the plot.
    show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes. Labels on the right are in the order that crosses fewest bands: that of the mean height of their cells on
    the left.

    Raises
    ------
    KeyError
        If a table of transitions lacks a column.
    ValueError
        If there are no cells, or the lengths differ.

    Examples
    --------
    >>> from muport.pl import sankey
    >>> axes = sankey(["B", "B", "T"], ["B", "T", "T"])
    >>> sorted({text.get_text() for text in axes.texts})
    ['B (1)', 'B (2)', 'T (1)', 'T (2)', 'predicted type', 'true type']
    """
    output = Output(show, save, return_fig)
    check_numbers(0, 1, least=least)
    if names is not None and (isinstance(names, str) or len(names) != 2):
        raise ValueError(f"names={names!r} must be two names, of the source and of the target.")
    if target is None:
        counts, default_names = _count_transitions(source), ("earlier type", "later type")
    else:
        counts, default_names = _count_labels(source, target), ("true type", "predicted type")
    names = default_names if names is None else names
    heights = np.arange(len(counts))
    mean = (counts.to_numpy() * heights[:, None]).sum(axis=0) / counts.to_numpy().sum(axis=0)
    counts = counts.iloc[:, np.argsort(mean, kind="stable")]
    labels = sorted({*counts.index, *counts.columns})
    colors = _choose_colors(labels, palette)
    axes = get_axes(ax, 6, 1.5 + 0.3 * max(counts.shape))
    tops = [_stack(counts.sum(axis=i).to_numpy()) for i in (1, 0)]
    _draw_bands(axes, counts, tops, colors, least)
    for side, (top, sizes) in enumerate(zip(tops, (counts.sum(axis=1), counts.sum(axis=0)), strict=True)):
        _draw_bars(axes, side, top, sizes, colors)
        axes.text(side, 1.02, names[side], ha=("left", "right")[side], va="bottom", transform=axes.transData)
    axes.set(xlim=(-0.45, 1.45), ylim=(0, _TOP), title=title)
    axes.set_axis_off()
    return output.finish(axes)


def _count_labels(source: Any, target: Any) -> pd.DataFrame:
    """Number of cells with each pair of labels."""
    source, target = (np.asarray(values, dtype=object) for values in rows_in_one_order(source=source, target=target))
    if not len(source) or len(source) != len(target):
        raise ValueError(f"source has {len(source)} labels and target {len(target)}: pass one of each for every cell.")
    left, right = matched_labels(source, target, _NO_VALUE, names=("source", "target"))
    return pd.crosstab(left, right)


def _count_transitions(table: Any) -> pd.DataFrame:
    """Number of cells of each source that reach each target; sources and targets of less than half a cell are not."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            "target is missing: pass the labels on the right, or a table of get_transition_table as source."
        )
    absent = [name for name in ("source", "target", "n_source", "fraction") if name not in table]
    if absent:
        raise KeyError(f"source has no column {absent[0]!r}: pass the table of model.get_transition_table().")
    cells = table.assign(cells=table["n_source"] * table["fraction"])
    counts = cells.pivot_table(values="cells", index="source", columns="target", aggfunc="sum", observed=True)
    counts = counts.fillna(0.0).rename(index=str, columns=str)
    counts = counts.loc[counts.sum(axis=1) >= _FEWEST, counts.sum(axis=0) >= _FEWEST]
    if counts.empty:
        raise ValueError("source has no transition of half a cell or more: nothing can be drawn.")
    return counts


def _choose_colors(labels: list[str], palette: Any) -> dict[str, Any]:
    """Color each label; without a palette, labels that mean "not known" are gray."""
    if palette is not None:
        return dict(color_categories(labels, parse_palette(palette, labels, "source, target")).legend)
    known = [label for label in labels if label not in (UNLABELED_CATEGORY, _NO_VALUE)]
    return dict.fromkeys(labels, _NOT_KNOWN) | dict(color_categories(known).legend)


def _stack(sizes: Any) -> Any:
    """Top of each bar: bars from 1 down, in proportion to their sizes, with gaps."""
    room = 1 - _GAP * (len(sizes) - 1)
    height = room * sizes / sizes.sum()
    return 1 - np.concatenate([[0], np.cumsum(height + _GAP)[:-1]])


def _height(sizes: Any, total: float) -> Any:
    return sizes / total * (1 - _GAP * (len(sizes) - 1))


def _draw_bars(ax: Axes, side: int, top: Any, sizes: pd.Series, colors: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    height = _height(sizes.to_numpy(), float(sizes.sum()))
    inches = ax.get_window_extent().height / ax.figure.dpi
    text = _spread(top - height / 2, _LINE_HEIGHT * _TOP / inches)
    for name, y, h, n, middle in zip(sizes.index, top, height, sizes, text, strict=True):
        ax.add_patch(Rectangle((side - _BAR * (side == 0), y - h), _BAR, h, color=colors[name], linewidth=0))
        outward, alignment = ((-1, "right"), (1, "left"))[side]
        ax.plot(side + outward * _BAR * np.array([1.2, 2.4]), [y - h / 2, middle], color="0.6", lw=0.5)
        ax.text(side + 2.8 * outward * _BAR, middle, f"{name} ({n:.0f})", ha=alignment, va="center", fontsize="small")


def _spread(y: Any, least: float) -> Any:
    """Move falling heights apart by at least `least`, groups of close ones around their mean; they keep their order."""
    groups = [[float(value)] for value in y]
    merged = True
    while merged:
        merged = False
        for i in range(len(groups) - 1):
            above, below = groups[i], groups[i + 1]
            bottom = np.mean(above) - least * (len(above) - 1) / 2
            top = np.mean(below) + least * (len(below) - 1) / 2
            if bottom - top < least * (1 - 1e-9):
                groups[i : i + 2] = [above + below]
                merged = True
                break
    offsets = [np.mean(group) + least * ((len(group) - 1) / 2 - np.arange(len(group))) for group in groups]
    return np.concatenate(offsets)


def _draw_bands(ax: Axes, counts: pd.DataFrame, tops: Sequence[Any], colors: dict[str, Any], least: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    values, total = counts.to_numpy(), float(counts.to_numpy().sum())
    start, end = tops[0].copy(), tops[1].copy()
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
    for (i, j), n in np.ndenumerate(values):
        a = n / total * (1 - _GAP * (len(values) - 1))
        b = n / total * (1 - _GAP * (values.shape[1] - 1))
        if n and n >= least * values[i].sum():
            y, z = start[i], end[j]
            points = [(0, y), (0.5, y), (0.5, z), (1, z), (1, z - b), (0.5, z - b), (0.5, y - a), (0, y - a), (0, y)]
            ax.add_patch(PathPatch(Curve(points, codes), facecolor=colors[counts.index[i]], alpha=0.45, linewidth=0))
        start[i] -= a
        end[j] -= b
