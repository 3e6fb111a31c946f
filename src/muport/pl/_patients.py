"""Pictures of patients: where they lie, and how far apart they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from muport.pl._axes import explain, new_axes
from muport.pl._colors import MISSING, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MOST_NAMES = 40  # patients whose names are still readable


def patient_embedding(
    embedding: Any,
    condition: Any | None = None,
    ax: Axes | None = None,
    *,
    names: bool = False,
    title: str = "",
    legend: bool = True,
) -> Axes:
    """Draw patients in two dimensions, a dot each.

    Parameters
    ----------
    embedding
        (P, at least 2) coordinates, such as ``model.get_sample_embedding()``; the first two columns are drawn.
    condition
        (P,) condition of each patient; a Series is matched by name where `embedding` is a DataFrame. Patients without
        one are grey.
    ax
        Axes to draw on; new ones by default.
    names
        Whether to write the names of the patients (the rows of a DataFrame, or their numbers).
    title
        Title of the picture.
    legend
        Whether to explain the colours, beside the axes.

    Returns
    -------
    The axes. Both have one scale, so that distances can be compared.

    Raises
    ------
    ValueError
        If the embedding has fewer than two columns, or there is not a condition for each patient.
    KeyError
        If a patient is not in the Series of conditions.

    Examples
    --------
    >>> patient_embedding([[0.0, 0.0], [1.0, 2.0]], ["control", "case"]).get_legend().texts[0].get_text()
    'case'
    """
    xy = np.asarray(embedding, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"embedding has shape {xy.shape}: two columns are needed for a picture.")
    index = embedding.index if isinstance(embedding, pd.DataFrame) else pd.RangeIndex(len(xy))
    axes = ax if ax is not None else new_axes(5, 4)
    colors, entries = _colors(condition, index)
    axes.scatter(xy[:, 0], xy[:, 1], color=colors, s=60, edgecolors="white", linewidths=0.8)
    if names:
        for name, point in zip(index, xy, strict=True):
            axes.annotate(str(name), point[:2], (4, 4), textcoords="offset points", fontsize="x-small")
    axes.set(title=title, xlabel="dimension 1", ylabel="dimension 2", xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    if legend and entries:
        explain(axes, entries)
    return axes


def distance_map(
    distances: Any,
    condition: Any | None = None,
    ax: Axes | None = None,
    *,
    method: str = "average",
    title: str = "",
    legend: bool = True,
) -> Axes:
    """Draw the distances between patients, similar ones side by side, with the tree and a colour for each condition.

    Parameters
    ----------
    distances
        (P, P) symmetric distances, such as ``model.get_sample_distances()``.
    condition
        (P,) condition of each patient; a Series is matched by name where `distances` is a DataFrame.
    ax
        Axes to draw on; new ones by default. The tree and the colours stand above them.
    method
        Linkage of :func:`scipy.cluster.hierarchy.linkage`.
    title
        Title of the picture.
    legend
        Whether to explain the colours, beside the axes.

    Returns
    -------
    The axes. Columns and rows are in the order of the tree's leaves, which puts similar patients together; its tick
    labels are the patients' names, up to 40 of them.

    Raises
    ------
    ValueError
        If the matrix is not square, not symmetric or not finite, there are fewer than two patients, or not a condition
        for each.
    KeyError
        If a patient is not in the Series of conditions.

    Examples
    --------
    >>> axes = distance_map([[0.0, 1.0, 9.0], [1.0, 0.0, 8.0], [9.0, 8.0, 0.0]])
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['2', '1', '0']
    """
    matrix = _checked(distances)
    index = distances.index if isinstance(distances, pd.DataFrame) else pd.RangeIndex(len(matrix))
    colors, entries = _colors(condition, index)
    condensed = squareform(matrix, checks=False)
    tree = optimal_leaf_ordering(linkage(condensed, method), condensed)
    order = np.array(dendrogram(tree, no_plot=True)["leaves"])
    axes = ax if ax is not None else new_axes(5.5, 5)
    image = axes.imshow(matrix[np.ix_(order, order)], cmap="viridis_r", interpolation="nearest", aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="distance", shrink=0.6, location="left", pad=0.12)
    _name_patients(axes, index[order])
    top = 1.01
    if entries:
        strip = axes.inset_axes((0, 1.01, 1, 0.035))
        strip.imshow(np.asarray(colors)[None, order], aspect="auto", interpolation="nearest")
        strip.set_axis_off()
        top = 1.05
    _draw_tree(axes, tree, top)
    axes.set_title(title, pad=70)
    if legend and entries:
        explain(axes, entries, 1.03 if len(matrix) > _MOST_NAMES else 1.05 + 0.015 * max(len(str(i)) for i in index))
    return axes


def _checked(distances: Any) -> NDArray[np.float64]:
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"distances has shape {matrix.shape}: a square matrix of two or more patients is needed.")
    if not np.isfinite(matrix).all():
        raise ValueError("distances are not all finite.")
    if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-8 * np.abs(matrix).max()):
        raise ValueError("distances are not symmetric.")
    half: NDArray[np.float64] = (matrix + matrix.T) / 2
    np.fill_diagonal(half, 0)
    return half


def _colors(condition: Any | None, index: pd.Index) -> tuple[list[Any], list[tuple[str, Any]]]:
    """A colour for each patient, and what the colours mean."""
    from matplotlib.colors import to_rgb

    if condition is None:
        return [palette(1)[0]] * len(index), []
    if isinstance(condition, pd.Series) and not isinstance(index, pd.RangeIndex):
        absent = index.difference(condition.index)
        if len(absent):
            raise KeyError(f"condition: patient {absent[0]!r} (and {len(absent) - 1} more) is not in the Series.")
        condition = condition.loc[index]
    coded = pd.Categorical(condition).remove_unused_categories()
    if len(coded) != len(index):
        raise ValueError(f"condition has {len(coded)} entries for {len(index)} patients.")
    shades = palette(len(coded.categories))
    entries: list[tuple[str, Any]] = [(str(name), c) for name, c in zip(coded.categories, shades, strict=True)]
    if (coded.codes < 0).any():
        entries.append(("no value", to_rgb(MISSING)))
    return [to_rgb(MISSING) if code < 0 else shades[code] for code in coded.codes], entries


def _name_patients(ax: Axes, names: pd.Index) -> None:
    if len(names) > _MOST_NAMES:
        ax.set(xticks=[], yticks=[], xlabel=f"{len(names)} patients")
        return
    ax.set_xticks([])
    ax.set_yticks(range(len(names)), [str(name) for name in names], fontsize="x-small")
    ax.yaxis.tick_right()
    ax.tick_params(axis="y", length=0)


def _draw_tree(ax: Axes, tree: NDArray[np.float64], bottom: float) -> None:
    panel = ax.inset_axes((0, bottom, 1, 0.15))
    drawn = dendrogram(tree, no_plot=True)
    # SciPy puts leaf i at 10 i + 5; the columns of the map lie at i
    for x, y in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        panel.plot((np.array(x) - 5) / 10, y, color="0.3", lw=0.8)
    panel.set_xlim(-0.5, len(tree) + 0.5)
    panel.set_ylim(0, None)
    panel.set_axis_off()
