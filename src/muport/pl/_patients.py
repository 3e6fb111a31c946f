"""Patients in two dimensions, and the distances between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from muport._checks import check_flags
from muport._tables import same_row_and_column_order
from muport.pl.drawing._axes import add_legend, check_legend_loc, get_axes, hide_frame, widen_by_legends
from muport.pl.drawing._colors import CategoryColors, color_categories
from muport.pl.drawing._colors import palette as default_palette
from muport.pl.drawing._finished_figure import Output
from muport.pl.drawing._names_beside_dots import write_names_beside
from muport.pl.drawing._palettes import check_cmap, parse_palette
from muport.pl.drawing._values import as_numbers

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MAX_NAMES = 40  # patients; more names than that are not readable


def patient_embedding(
    embedding: Any,
    condition: Any | None = None,
    ax: Axes | None = None,
    *,
    names: bool = False,
    palette: Any = None,
    title: str = "",
    legend_loc: str | None = "right margin",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw patients in two dimensions, a dot each.

    Parameters
    ----------
    embedding
        (P, at least 2) coordinates, such as ``model.get_sample_embedding()``; the first two columns are drawn.
    condition
        (P,) condition of each patient; a Series is matched by name where `embedding` is a DataFrame. Patients without
        one are gray.
    ax
        Axes to draw on; new ones by default.
    names
        Whether to write the names of the patients (the rows of a DataFrame, or their numbers).
    palette
        Colors of the conditions: a list, a dict from condition to color, or the name of a colormap.
    title
        Title of the plot.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes, with equal scales, so that distances can be compared.

    Raises
    ------
    ValueError
        If the embedding has fewer than two columns or is not finite, names repeat, or there is not a condition for each
        patient.
    KeyError
        If a patient is not in the Series of conditions.

    Examples
    --------
    >>> patient_embedding([[0.0, 0.0], [1.0, 2.0]], ["control", "case"]).get_legend().texts[0].get_text()
    'case'
    """
    output = Output(show, save, return_fig)
    check_legend_loc(legend_loc)
    check_flags(names=names)
    xy = as_numbers(embedding, "embedding")
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"embedding has shape {xy.shape}: two columns are needed for a plot.")
    index = embedding.index if isinstance(embedding, pd.DataFrame) else pd.RangeIndex(len(xy))
    bad = index[~np.isfinite(xy[:, :2]).all(axis=1)]
    if len(bad):
        raise ValueError(f"embedding: patient {bad[0]!r} has coordinates that are not finite: leave it out.")
    categories = _color_patients(condition, index, palette)
    axes = get_axes(ax, 5, 4)
    axes.scatter(xy[:, 0], xy[:, 1], color=categories.colors, s=60, edgecolors="white", linewidths=0.8)
    axes.set(title=title, xlabel="dimension 1", ylabel="dimension 2", xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    hide_frame(axes)
    add_legend(axes, categories.legend, legend_loc)
    if ax is None:
        widen_by_legends(axes.figure, [[axes]])  # type: ignore[arg-type]
    if names:
        write_names_beside(axes, xy[:, :2], [str(name) for name in index])
    return output.finish(axes)


def distance_map(
    distances: Any,
    condition: Any | None = None,
    ax: Axes | None = None,
    *,
    method: str = "average",
    palette: Any = None,
    cmap: Any = "viridis_r",
    title: str = "",
    legend_loc: str | None = "right margin",
    show: bool = False,
    save: str | Path | None = None,
    return_fig: bool = False,
) -> Axes | Any:
    """Draw the distances between patients, similar ones side by side, with the tree and a color for each condition.

    Parameters
    ----------
    distances
        (P, P) symmetric distances, such as ``model.get_sample_distances()``.
    condition
        (P,) condition of each patient; a Series is matched by name where `distances` is a DataFrame.
    ax
        Axes to draw on; new ones by default. The tree and the colors are above them.
    method
        Linkage of :func:`scipy.cluster.hierarchy.linkage`.
    palette
        Colors of the conditions: a list, a dict from condition to color, or the name of a colormap.
    cmap
        Colormap of the distances.
    title
        Title of the plot.
    legend_loc, show, save, return_fig
        As for :func:`muport.pl.embedding`.

    Returns
    -------
    The axes. Columns and rows are in the order of the tree's leaves, which puts similar patients together; its tick
    labels are the patients' names, up to 40 of them.

    Raises
    ------
    ValueError
        If the matrix is not square, not symmetric, not finite or no distances, there are fewer than two patients, or
        not a condition for each.
    KeyError
        If a patient is not in the Series of conditions.

    Examples
    --------
    >>> axes = distance_map([[0.0, 1.0, 9.0], [1.0, 0.0, 8.0], [9.0, 8.0, 0.0]])
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['2', '1', '0']
    """
    output = Output(show, save, return_fig)
    check_legend_loc(legend_loc)
    check_cmap(cmap)
    matrix = _check_distances(distances)
    index = distances.index if isinstance(distances, pd.DataFrame) else pd.RangeIndex(len(matrix))
    categories = _color_patients(condition, index, palette)
    condensed = squareform(matrix, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, method), condensed)
    order = np.array(dendrogram(tree, no_plot=True)["leaves"])
    axes = get_axes(ax, 5.5, 5)
    image = axes.imshow(matrix[np.ix_(order, order)], cmap=cmap, interpolation="nearest", aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="distance", shrink=0.6, location="left", pad=0.12)
    _name_patients(axes, index[order])
    top = 1.01
    if categories.legend:
        strip = axes.inset_axes((0, 1.01, 1, 0.035))
        strip.imshow(categories.colors[None, order], aspect="auto", interpolation="nearest")
        strip.set_axis_off()
        top = 1.05
    _draw_tree(axes, tree, top)
    axes.set_title(title, pad=70)
    add_legend(axes, categories.legend, legend_loc, left=_right_of_names(axes))
    if ax is None:
        widen_by_legends(axes.figure, [[axes]])  # type: ignore[arg-type]
    return output.finish(axes)


def _check_distances(distances: Any) -> NDArray[np.float64]:
    matrix = as_numbers(same_row_and_column_order(distances, "distances", "patient"), "distances")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"distances has shape {matrix.shape}: a square matrix of two or more patients is needed.")
    if not np.isfinite(matrix).all():
        raise ValueError("distances are not all finite.")
    if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-8 * np.abs(matrix).max()):
        raise ValueError("distances are not symmetric.")
    least = 1e-4 * np.abs(matrix).max()
    if matrix.min() < -least or np.abs(np.diagonal(matrix)).max() > least:
        raise ValueError("distances must be at least 0, and 0 of each patient from itself.")
    symmetric: NDArray[np.float64] = (matrix + matrix.T) / 2
    np.fill_diagonal(symmetric, 0)
    return symmetric


def _right_of_names(ax: Axes) -> float:
    """Where the names of the patients end, in widths of the axes."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
    edge = max([ax.bbox.x1, *(box.x1 for box in boxes)])
    return float((edge - ax.bbox.x0) / ax.bbox.width) + 0.02


def _color_patients(condition: Any | None, index: pd.Index, palette: Any) -> CategoryColors:
    """Color patients by their conditions; all in one color, without a legend, if there are none."""
    n = len(index)
    if not index.is_unique:
        raise ValueError(f"several patients have the name {index[index.duplicated()][0]!r}: make the names unique.")
    if condition is None:
        return CategoryColors(np.tile(default_palette(1), (n, 1)), np.zeros(n, bool), [])
    condition = pd.Series(condition) if isinstance(condition, Mapping) else condition
    if isinstance(condition, pd.Series) and not isinstance(index, pd.RangeIndex):
        absent = index.difference(condition.index)
        if len(absent):
            raise KeyError(f"condition: patient {absent[0]!r} (and {len(absent) - 1} more) is not in the Series.")
        if not condition.index.is_unique:
            repeated = condition.index[condition.index.duplicated()][0]
            raise ValueError(f"condition has several entries for patient {repeated!r}: keep one.")
        condition = condition.loc[index]
    names = pd.Categorical(condition).categories
    unused = set(names) - set(pd.Categorical(condition).unique())
    shades = None if palette is None else parse_palette(palette, list(names), "condition", unused)
    categories = color_categories(condition, shades)
    if len(categories.colors) != n:
        raise ValueError(f"condition has {len(categories.colors)} entries for {n} patients.")
    return categories


def _name_patients(ax: Axes, names: pd.Index) -> None:
    if len(names) > _MAX_NAMES:
        ax.set(xticks=[], yticks=[], xlabel=f"{len(names)} patients")
        return
    ax.set_xticks([])
    ax.set_yticks(range(len(names)), [str(name) for name in names], fontsize="x-small")
    ax.yaxis.tick_right()
    ax.tick_params(axis="y", length=0)


def _draw_tree(ax: Axes, tree: NDArray[np.float64], bottom: float) -> None:
    panel = ax.inset_axes((0, bottom, 1, 0.15))
    branches = dendrogram(tree, no_plot=True)
    # leaf i is at 10 i + 5 in the dendrogram of SciPy, and at i in the map
    for x, y in zip(branches["icoord"], branches["dcoord"], strict=True):
        panel.plot((np.array(x) - 5) / 10, y, color="0.3", lw=0.8)
    panel.set_xlim(-0.5, len(tree) + 0.5)
    panel.set_ylim(0, None)
    panel.set_axis_off()
